"""What every test starts from."""

import logging
import os

import pytest

# Several processes share the cores: one thread each, also in what they start. Read when torch is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


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
