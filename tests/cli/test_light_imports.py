"""What a command that should take no longer than its imports does about them."""

import gc

import torch  # noqa: F401 -- imported before, as the name says
from noiseshift.cli.light_imports import without_garbage


def test_where_torch_was_imported_before_nothing_is_frozen():
    before = gc.get_freeze_count()
    with without_garbage():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
