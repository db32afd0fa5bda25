"""One boundary where files are read: whatever a library raises over one becomes a line that names the file and the remedy.

Also the limits that keep a small file from taking all memory or time: sizes are checked where they are claimed, before
anything is unpacked.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


Name = str | os.PathLike[str]


def as_text(name: Name) -> str:
    """A file's name as text: bytes that are no UTF-8 are written as `\\xff`."""
    return os.fspath(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def named_in_text(path: Name) -> Iterator[str]:
    """The path or, where it is no text, another name of the same file or folder, which holds as long as the block: some
    libraries take text alone."""
    words = os.fspath(path)
    try:
        words.encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as place:
            link = os.path.join(place, f"noiseshift{Path(os.fsencode(path).decode(errors='ignore')).suffix}")
            os.symlink(os.path.abspath(path), link)
            try:
                yield link
            except OSError as error:
                error.filename = path if error.filename == link else error.filename
                raise
    else:
        yield words


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes: ...


MB = 1 << 20
LARGE = 512 * MB
"""What a compressed file may always unpack to; beyond it, to no more than RATIO times its own size."""
RATIO = 200
TEXT = 64 * MB
"""Largest JSON file."""
CARD = 4 * MB
"""Largest YAML file: its parser takes seconds a megabyte."""
NODES = 1_000_000
"""Most values of a JSON file."""
WORDS = 250_000
"""Most values of a YAML file, aliases counted as often as they are used."""
ROWS = 10_000_000
"""Numbers that any table may have; beyond it, no more than 64 a byte."""
DEEP = 100
"""Most levels of lists within lists."""


class ReadingError(ValueError):
    """A file that cannot be used; the message is one line, names the file and says what to do."""


class MissingFile(ReadingError, FileNotFoundError):
    """There is no such file."""


@contextmanager
def reading(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> Iterator[None]:
    """Around code that reads `path`: what any library raises becomes one line, an `error`; our own lines pass. What is no fault
    of the file is not said to be one: a missing library stays an ImportError, and another file is named.

    Args:
        path: The file or folder, for the message.
        what: What it should be, without an article: "level estimator", "YAML".
        remedy: What to do, as an order: "train it again".
        error: What to raise; `checkpoints.CheckpointError` for checkpoints.
    """
    try:
        yield
    except ReadingError as own:
        if isinstance(own, error):
            raise
        raise error(str(own)) from None
    except OSError as found:
        missing = MissingFile if isinstance(found, FileNotFoundError) and error is ReadingError else error
        raise missing(_unread(path, what, remedy, found)) from found
    except ImportError:
        raise
    except MemoryError as found:
        raise error(f"reading {path} takes more memory than is free here: free some, or {remedy}") from found
    except RecursionError:
        raise error(f"{path} is nested too deeply: {remedy}") from None
    except Exception as found:
        # zip, zlib, struct, numpy, pickle, yaml, json, safetensors, pyarrow and torch: a damaged file makes them raise anything.
        raise error(_damaged(path, what, remedy, found)) from found


def _unread(path: Name, what: str, remedy: str, found: OSError) -> str:
    """What the system says, of the file that it says it of."""
    reason = (found.strerror or "").lower()
    if found.filename is not None and not _belongs(found.filename, path):
        return f"{path} was not read, since {as_text(found.filename)} was not ({reason}): see to that file first"
    if isinstance(found, FileNotFoundError):
        return f"no {what} at {found.filename or path}: {remedy}"
    return f"{path} cannot be read ({reason}): {remedy}" if reason else _damaged(path, what, remedy, found)


def _belongs(name: Any, path: Name) -> bool:
    """Whether a file is the path itself, in it, or one of those beside it that it names."""
    if not isinstance(name, str | bytes | os.PathLike):
        return True
    whole, part = (os.path.realpath(os.fsencode(each)) for each in (path, name))
    return os.path.commonpath([os.path.dirname(whole), part]) == os.path.dirname(whole)


def _damaged(path: Name, what: str, remedy: str, found: Exception) -> str:
    """With what the library said: a fault of the machine may look like one of the file."""
    said = "".join(c if c.isprintable() else " " for c in next(iter(str(found).splitlines()), ""))[:100].strip()
    cause = f"{type(found).__name__}: {said}" if said else type(found).__name__
    return f"{path} is damaged or no {what}: {remedy} ({cause})"


def regular(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> Path:
    """The path, when an ordinary file with something in it lies there: opening a pipe or a device may wait for ever, and a
    file of /proc has no size.

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, empty or no ordinary file.
    """
    with reading(path, what, remedy, error):
        status = os.stat(path)
    for test, kind in _KINDS.items():
        if test(status.st_mode):
            raise error(f"{path} is {kind}, no file: {remedy}")
    if not status.st_size:
        raise error(f"{path} is empty: {remedy}")
    return Path(path)


_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def read_text(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError, *, most: int = TEXT) -> str:
    """A UTF-8 file of limited size.

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, too large or no UTF-8.
        most: The largest size, in bytes.
    """
    file = regular(path, what, remedy, error)
    size = file.stat().st_size
    if size > most:
        raise error(f"{path} is {size / MB:,.0f} MB, too large for a {what}: {remedy}")
    with reading(path, what, remedy, error):
        return file.read_text(encoding="utf-8")


def read_json(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> Any:
    """What a JSON file holds: at most 64 MB and a million values, no more than 100 levels deep.

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, damaged, too large or nested too deeply.
    """
    text = read_text(path, what, remedy, error)
    with reading(path, what, remedy, error):
        return bounded(json.loads(text))


def read_yaml(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> Any:
    """What a YAML file of plain values holds; aliases are followed as far as the whole stays small. None for an empty document.

    Args:
        path: The file, at most 4 MB.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, damaged, too large or nested too deeply.
    """
    import yaml

    text = read_text(path, what, remedy, error, most=CARD)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    with reading(path, what, remedy, error):
        _count_events(yaml.parse(text, loader))
        root = yaml.compose(text, loader)
        if root is None:
            return None
        bounded(root, parts=_yaml_parts, most=WORDS)
        # The nodes are few enough now, whatever their aliases and merges refer to.
        return yaml.load(text, loader)


def _count_events(events: Iterator[Any]) -> None:
    """Raise ValueError before anything is built of a text that is too long or too deep."""
    import yaml

    depth = 0
    for number, event in enumerate(events):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEP or number > WORDS:
            raise ValueError("too much of it")


def _yaml_parts(node: Any) -> Collection[Any]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def bounded(root: Any, *, parts: Any = _parts, most: int = NODES, deep: int = DEEP) -> Any:
    """`root`, when it is a tree that can be walked. Otherwise printing or comparing it could take for ever.

    Args:
        root: A value of nested lists and mappings, or anything else that `parts` takes apart.
        parts: Gives the values inside a value, none for a leaf.
        most: Largest number of values, counted as often as they are referred to.
        deep: Largest number of levels.

    Raises:
        ValueError: It is larger or deeper, or holds itself.
    """
    known: dict[int, tuple[int, int]] = {}  # id -> values in all, levels
    open_: set[int] = set()
    stack = [root]
    while stack:
        value = stack[-1]
        inside = parts(value)
        if id(value) in known or not inside:
            stack.pop()
            continue
        if id(value) in open_:
            counted = [known.get(id(part), (1, 0)) for part in inside]
            size = 1 + sum(n for n, _ in counted)
            depth = 1 + max(d for _, d in counted)
            if size > most or depth > deep:
                raise ValueError(f"{size} values, {depth} levels deep")
            known[id(value)] = size, depth
            open_.discard(id(value))
            stack.pop()
            continue
        open_.add(id(value))
        waiting = [part for part in inside if id(part) not in known and parts(part)]
        if any(id(part) in open_ for part in waiting):
            raise ValueError("it holds itself")
        if len(open_) > deep:
            raise ValueError(f"more than {deep} levels deep")
        stack.extend(waiting)
    return root


def check_zip(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive that unpacks to far more than its size, names a member twice, or packs in an odd way.

    Reading a member never gives more than it declares, so what is declared is what is checked.

    Args:
        archive: The open archive.
        size: Bytes of its file. It may unpack to 512 MB, or to 200 times its size where that is more.

    Raises:
        ReadingError: The archive is refused; says why.
    """
    members = archive.infolist()
    if len({member.filename for member in members}) < len(members):
        raise ReadingError(f"{archive.filename} names a part of it twice: fetch it again")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ReadingError(f"{archive.filename} is packed by another method than zip's usual ones: pack it again")
    whole = sum(member.file_size for member in members)
    if whole > max(LARGE, RATIO * size):
        raise ReadingError(
            f"{archive.filename} unpacks to {whole / MB:,.0f} MB from {size / MB:,.1f}: refused as a bomb"
        )
    if any(member.compress_type == zipfile.ZIP_STORED and member.file_size > size for member in members):
        raise ReadingError(f"{archive.filename} claims parts larger than itself: fetch it again")


def gunzip(path: Name, what: str, remedy: str, *, most: int | None = None) -> bytes:
    """What a gzip file unpacks to.

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        most: Largest unpacked size in bytes; None for 512 MB, or 200 times the file's size where that is more.

    Raises:
        ReadingError: The file is missing, damaged, or unpacks to more.
    """
    file = regular(path, what, remedy)
    size = file.stat().st_size
    most = max(LARGE, RATIO * size) if most is None else most
    with reading(path, what, remedy):
        found = bytearray()
        packed = file.read_bytes()
        while packed:  # a gzip file may be several in a row
            unpacker = zlib.decompressobj(wbits=31)
            found += unpacker.decompress(packed, most + 1 - len(found))
            if len(found) > most:
                raise ReadingError(f"{path} unpacks to more than {most / MB:,.0f} MB: {remedy}")
            if not unpacker.eof:
                raise ValueError("it ends early")
            packed = unpacker.unused_data.lstrip(b"\0")
        return bytes(found)


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
    file = regular(path, what, remedy, error)
    with reading(path, what, remedy, error), zipfile.ZipFile(file) as archive:
        check_zip(archive, file.stat().st_size)
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
    file = regular(path, what, remedy, error)
    with reading(path, what, remedy, error), file.open("rb") as stream:
        return _array(stream, file.stat().st_size)


def read_csv(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError, **how: Any) -> pd.DataFrame:
    """A CSV file of at most 64 MB.

    Args:
        path: The file, in UTF-8.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, damaged or too large.
        **how: Keywords of `pandas.read_csv`.
    """
    import io

    import pandas as pd

    text = read_text(path, what, remedy, error)
    with reading(path, what, remedy, error):
        return pd.read_csv(io.StringIO(text), **how)


def names_in_arrays(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> list[str]:
    """The names of an .npz's arrays, none of which is read.

    Args:
        path: The .npz.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing or no zip.
    """
    file = regular(path, what, remedy, error)
    with reading(path, what, remedy, error), zipfile.ZipFile(file) as archive:
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
    import pandas as pd
    import pyarrow.parquet as parquet
    from pyarrow.types import is_nested as nested

    file = regular(path, what, remedy, error)
    with reading(path, what, remedy, error), file.open("rb") as opened:  # pyarrow opens no name that is not text
        about = parquet.read_metadata(opened)
        opened.seek(0)
        if any(nested(field.type) for field in about.schema.to_arrow_schema()):
            raise ReadingError(f"{path} holds lists where numbers or words are due: {remedy}")
        if about.num_rows * about.num_columns > ROWS + 64 * file.stat().st_size:
            raise ReadingError(f"{path} claims {about.num_rows:,} rows, too many for its size: {remedy}")
        return pd.read_parquet(opened)


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

    file = regular(path, what, remedy, error)
    with reading(path, what, remedy, error), named_in_text(file) as name, safe_open(name, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})


def read_words(
    text: str | None, path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError
) -> dict[str, Any]:
    """The mapping that a header's JSON text describes.

    Args:
        text: The JSON; None where the header has no such entry.
        path: The file whose header it is, for the message.
        what: What the file should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when the text is no mapping, or too large or deep.
    """
    with reading(path, what, remedy, error):
        values = bounded(json.loads(text or ""))
        if not isinstance(values, dict):
            raise TypeError
        return values
