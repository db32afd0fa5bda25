"""Around code that reads a file: whatever a library raises over it becomes a line that names the file and the remedy."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from noiseshift.reading.remedies import NO_FAULT_OF_THE_FILE, REMEDIES

Name = str | os.PathLike[str]
MB = 1 << 20
SMALL = 64 * MB
"""What is read without asking for room: there are thousands of such parts in a file."""


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


@contextmanager
def named_while_open(file: BinaryIO, path: Name) -> Iterator[str]:
    """A name, in text, of an open file for libraries that open it once more: on Linux and macOS the file's own, whatever has taken
    the name `path` since.

    Args:
        file: Open for reading; it stays so as long as the block.
        path: The name that it was opened by.
    """
    own = f"/dev/fd/{file.fileno()}"
    if os.path.exists(own):
        yield own
    else:
        with named_in_text(path) as name:
            yield name


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
    if found.errno in NO_FAULT_OF_THE_FILE:
        remedy = REMEDIES[found.errno]
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
    if (kind := _other_kind(status)) is not None:
        raise error(f"{path} is {kind}, no file: {remedy}")
    if not status.st_size:
        raise error(f"{path} is empty: {remedy}")
    return Path(path)


@contextmanager
def opened(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> Iterator[BinaryIO]:
    """The file, when it is as `regular` wants it, open for reading bytes, inside `reading`.

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, empty or no ordinary file, or for what the block raises over it.
    """
    regular(path, what, remedy, error)  # opening a device may already do something
    with reading(path, what, remedy, error):
        with open_ordinary(path) as file:
            yield file


def open_ordinary(path: Name) -> BinaryIO:
    """Open a file for reading bytes, and see that it is an ordinary one once it is open: something else may have taken its name
    since it was looked at. A pipe is not waited for.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be opened, or is none.
    """
    file = open(path, "rb", opener=_without_waiting)
    if (kind := _other_kind(os.fstat(file.fileno()))) is not None:
        file.close()
        raise OSError(errno.EINVAL, f"it is {kind}, no file", os.fspath(path))
    return file


@contextmanager
def folder_while_open(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> Iterator[str]:
    """A folder, its name in text, with the files of `path` for libraries that open them by name: each is opened here, seen to be an
    ordinary file, and stays so as long as the block, whatever takes its name. Folders, and links to nothing, are left out.

    Args:
        path: The folder.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it cannot be read, or something in it is a pipe or a device.
    """
    with ExitStack() as held:
        place = held.enter_context(tempfile.TemporaryDirectory())
        with reading(path, what, remedy, error):
            found = [each for each in sorted(Path(path).iterdir()) if each.exists() and not each.is_dir()]
        for each in found:
            with reading(each, what, remedy, error):
                file = held.enter_context(open_ordinary(each))
            name = held.enter_context(named_while_open(file, each))
            os.symlink(os.path.abspath(name), os.path.join(place, each.name))
        yield place


def size_of(file: BinaryIO) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def require_room(size: int) -> None:
    """Raise MemoryError where `size` bytes, which are about to be read, are more than this machine has free: many systems give them
    all the same, and end the process that fills them. A file without contents may have any size."""
    if size > SMALL:
        from noiseshift.diffusion.memory import free_memory, memory_of

        if size > min(free_memory(), memory_of("cpu")):
            raise MemoryError


def _without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def _other_kind(status: os.stat_result) -> str | None:
    """What it is, in words; None for an ordinary file."""
    return next((kind for test, kind in _KINDS.items() if test(status.st_mode)), None)


_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
