"""How diffusers and transformers read a folder's weights: as a whole where they are small, without progress bars of their own."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from noiseshift.reading import read_at_once


def without_mapping(kind: type, folder: str) -> dict[str, bool]:
    """The option of `from_pretrained` that keeps small weights from being mapped into memory: a file that is cut off while it is
    mapped would end the process. Empty for a version of the library that has none.

    Args:
        kind: A class of diffusers or transformers.
        folder: Its files.
    """
    load: Any = kind.from_pretrained  # type: ignore[attr-defined]
    known = inspect.signature(load).parameters.values()
    # diffusers takes it among other options, and leaves out those that it does not know.
    takes = any(each.name == "disable_mmap" for each in known) or kind.__module__.startswith("diffusers.")
    return {"disable_mmap": True} if takes and read_at_once(Path(folder)) else {}


@contextmanager
def quietly(library: Any) -> Iterator[None]:
    """No progress bars of diffusers or transformers on standard error inside, where the command has its own, and no warning of a
    file that they leave to the collector to close.

    Args:
        library: The module.
    """
    log = library.utils.logging
    shown = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        if shown:
            log.enable_progress_bar()
