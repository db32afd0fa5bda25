"""Arrays, tables and tensors: numbers and words, never objects, and no more of them than the file can hold."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from noiseshift.reading.archives import check_zip
from noiseshift.reading.boundary import MB, Name, ReadingError, named_while_open, opened, require_room, size_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes: ...


AT_ONCE = 512 * MB
"""Largest .safetensors file that is read as a whole. A larger one is mapped, or its weights would be in memory twice."""

ROWS = 10_000_000
"""Numbers that any table may have; beyond it, no more than 64 a byte."""


def read_arrays(
    path: Name,
    what: str,
    remedy: str,
    error: type[ReadingError] = ReadingError,
    *,
    only: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name: numbers, truth values and words, never objects.

    Args:
        path: The .npz.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing or damaged, or an array is not as large as it claims.
        only: The names to read, those that are in it; None for all.
    """
    with opened(path, what, remedy, error) as file, zipfile.ZipFile(file) as archive:
        check_zip(archive, size_of(file))
        found = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name != member.filename and (only is None or name in only):
                with archive.open(member) as stream:
                    found[name] = _array(stream, member.file_size)
        return found


def read_array(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> np.ndarray:
    """The array of an .npy, by the rules of `read_arrays`.

    Args:
        path: The .npy.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing or damaged, holds objects, or is not as large as it claims.
    """
    with opened(path, what, remedy, error) as file:
        return _array(file, size_of(file))


def names_in_arrays(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> list[str]:
    """The names of an .npz's arrays, none of which is read.

    Args:
        path: The .npz.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing or no zip.
    """
    with opened(path, what, remedy, error) as file, zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _array(stream: IO[bytes], size: int) -> np.ndarray:
    """One .npy of `size` bytes."""
    import math

    import numpy as np

    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = read(stream)
    if dtype.kind not in "biufcUS" or dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"{dtype} is no number")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or stream.tell() + count * dtype.itemsize != size:
        raise ValueError("it claims another size than it has")
    require_room(count * dtype.itemsize)
    data = bytearray(count * dtype.itemsize)
    fill(stream, memoryview(data))
    array: np.ndarray = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array


def fill(stream: Stream, view: memoryview) -> None:
    """Read exactly as many bytes as `view` holds.

    Args:
        stream: Read from where it stands, at most 16 MB at a time.
        view: Where the bytes go.

    Raises:
        EOFError: The stream ends earlier.
    """
    place = 0
    while place < len(view):
        part = stream.read(min(len(view) - place, 16 * MB))
        if not part:
            raise EOFError
        view[place : place + len(part)] = part
        place += len(part)


def read_table(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> pd.DataFrame:
    """A parquet file.

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing or damaged, holds other cells than numbers and words, or claims far more numbers
            than its bytes can hold.
    """
    import pyarrow.parquet as parquet
    from pyarrow.types import is_nested as nested

    with opened(path, what, remedy, error) as file:  # pyarrow opens no name that is not text
        table = parquet.ParquetFile(file)
        about = table.metadata
        if any(nested(field.type) for field in about.schema.to_arrow_schema()):
            raise ReadingError(f"{path} holds lists where numbers or words are due: {remedy}")
        if about.num_rows * about.num_columns > ROWS + 64 * size_of(file):
            raise ReadingError(f"{path} claims {about.num_rows:,} rows, too many for its size: {remedy}")
        # Where it can start no threads, under a limit of processes or of memory, it waits for them for ever.
        found: pd.DataFrame = table.read(use_threads=False, use_pandas_metadata=True).to_pandas(use_threads=False)
        return found


def read_safetensors(
    path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError
) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a .safetensors file by name, on the CPU, and the words in its header (empty where it has none).

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing or damaged.
    """
    from safetensors import safe_open
    from safetensors.torch import load

    with opened(path, what, remedy, error) as file:
        if size_of(file) <= AT_ONCE:
            # A file that is cut off while it is mapped into memory would end the process.
            content = file.read()
            return load(content), _words_of(content)
        with named_while_open(file, path) as name, safe_open(name, "pt") as mapped:
            return {name: mapped.get_tensor(name) for name in mapped.keys()}, dict(mapped.metadata() or {})


def read_at_once(folder: Path) -> bool:
    """Whether a library shall read a folder's .safetensors files as a whole, as `read_safetensors` does, where it would map them.

    Args:
        folder: Its files.
    """
    return sum(each.stat().st_size for each in folder.glob("*.safetensors")) <= AT_ONCE


def _words_of(content: bytes) -> dict[str, str]:
    """The words in the header of a .safetensors file that the library has read."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__") or {})
