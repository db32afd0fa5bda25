"""What every test starts from."""

import atexit
import logging
import os
import shutil
import signal
import tempfile

import pytest

# Several processes share the cores: one thread each, also in what they start. Read when torch is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job starts with Ctrl-C ignored, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What runs keep for each other lies apart from the user's own. Processes that this one starts use the same folder.
if "NOISESHIFT_CACHE" not in os.environ:
    os.environ["NOISESHIFT_CACHE"] = tempfile.mkdtemp(prefix="noiseshift-tests-")
    atexit.register(shutil.rmtree, os.environ["NOISESHIFT_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    """An untrained network for the bundled images: for what is to run and need not be right, in a hundredth of the time."""
    import torch

    import noiseshift as ns
    from noiseshift.checkpoints.saving import save
    from noiseshift.networks.transformer import Transformer, TransformerConfig

    folder = tmp_path_factory.mktemp("tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Transformer(TransformerConfig(28, 1, 14, 16, 1, 2, classes=10)).state_dict()
    save(folder / "tiny", state, ns.Card.from_dict({"family": "sit", "heads": 2}))
    return folder / "tiny.safetensors"


@pytest.fixture
def nothing_kept(monkeypatch):
    """As on a machine where noiseshift never ran."""
    monkeypatch.setenv("NOISESHIFT_CACHE", "off")


@pytest.fixture(autouse=True)
def _library_log():
    """The library's logger as an import leaves it: a command that ran before gives it handlers of its own."""
    logger = logging.getLogger("noiseshift")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)
