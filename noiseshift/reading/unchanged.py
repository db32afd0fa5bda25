"""Files that another program writes to while they are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from noiseshift.reading.boundary import ReadingError, as_text


@contextmanager
def unchanged(paths: Iterable[Path], error: type[ReadingError] = ReadingError) -> Iterator[None]:
    """Around code that reads files more than once, for what they hold and for their hash: a training that saves meanwhile would
    give the one of another file than the other.

    Args:
        paths: The files; what is missing may stay so.
        error: What to raise when one was written to, replaced or removed meanwhile.
    """
    before = {path: _stamp(path) for path in paths}
    yield
    for path, stamp in before.items():
        if _stamp(path) != stamp:
            raise error(f"{as_text(path)} was changed while it was read: try again when nothing writes to it")


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
