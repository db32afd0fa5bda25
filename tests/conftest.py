"""What every test starts from."""

import logging

import pytest


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
