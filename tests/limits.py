"""Limits of time for what would otherwise be waited for without end."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class TooLong(BaseException):
    """No Exception: code that reads a stranger's file catches those."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TooLong where the block takes longer."""

    def late(*_: object) -> None:
        raise TooLong(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
