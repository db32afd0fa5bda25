"""Files that are whole or absent: written beside their place under a temporary name, then renamed into it.

A temporary name is `.NAME.new-` and eight hexadecimal digits. It ends as NAME does, since some writers go by the suffix.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.new-[0-9a-f]{8}(\.[A-Za-z0-9]+)?")


def temporary(place: Path) -> Path:
    """A name beside `place` for what will take its name."""
    return place.parent / f".{place.name}.new-{uuid.uuid4().hex[:8]}{place.suffix}"


def is_temporary(path: Path, name: str | None = None) -> bool:
    """Whether this is the name of something that was not finished. Nothing is opened.

    Args:
        path: Only its last part is read.
        name: The final name that it must be meant for; None allows any.
    """
    match = _TEMPORARY.fullmatch(path.name)
    return match is not None and name in (None, match["name"])


def temporaries(place: Path) -> list[Path]:
    """What earlier processes began beside `place`, for its name, and did not finish."""
    if not place.parent.is_dir():
        return []
    return [path for path in place.parent.iterdir() if is_temporary(path, place.name)]


def remove_temporaries(place: Path) -> None:
    """Remove what `temporaries` finds. Only who holds the place may: another could still be writing."""
    for path in temporaries(place):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Errors of a disk that is written to: the system says them of no file."""


@contextmanager
def named_where_full(place: Path) -> Iterator[None]:
    """Around what writes to `place`: an error of its disk gets the name of the place, where it has none."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = os.fspath(place)
        raise


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A file to write to, of the same suffix; it takes the name `path` once all is written, or is removed on an error."""
    path = Path(path)
    fresh = temporary(path)
    try:
        with named_where_full(path):
            yield fresh
        _like_new(fresh)
        os.replace(fresh, path)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all.

    Args:
        path: The file, which is replaced without a question.
        text: Everything that it will hold.
    """
    with whole_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> None:
    """Write a .safetensors file; the library itself opens no name that is not text.

    Args:
        path: Where to write. It is written in place: give a fresh file of `whole_file`.
        tensors: The tensors by name.
        words: The header's own words.
    """
    from safetensors.torch import save

    path.write_bytes(save(dict(tensors), dict(words)))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, whole or not at all, wherever it lies: pyarrow itself opens no name that is not text.

    Args:
        path: The file, which is replaced without a question.
        table: Its columns and index are kept.
    """
    with whole_file(path) as fresh, fresh.open("wb") as file:
        table.to_parquet(file)


def _like_new(path: Path) -> None:
    """The permissions of any new file: some writers (safetensors) make files that only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
