"""One process at a time holds a place: a lock file beside it says which, since when, and with which command.

The system's own lock on that file (flock) goes when its process goes, whatever ended it. Where a file system has none, and
for a process on another machine, the file's words decide: a process is known by its number and the time it started.
"""

from __future__ import annotations

import datetime
import errno
import importlib
import importlib.util
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from noiseshift.writing.places import PlaceError
from noiseshift.writing.whole import named_where_full

# Not on Windows: there the file's words decide.
fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None


class BusyError(ValueError):
    """Another process holds the place."""


_held: dict[str, tuple[int, int]] = {}
"""Places that this process holds: by which process (a fork inherits this table, not the lock) and which thread."""


_FIRST = b'{"pid"'
"""How every lock begins."""


def lock_of(place: Path) -> Path:
    """The lock file of a place."""
    return place.parent / f".{place.name}.lock"


@contextmanager
def locked(place: Path) -> Iterator[bool]:
    """Hold `place` (a real path) while the block runs; yields whether this took the lock, which this thread may hold already.

    Raises BusyError naming the other process, PlaceError where something else lies in the place of the lock file.
    """
    me = (os.getpid(), threading.get_ident())
    if _held.get(os.fspath(place)) == me:
        yield False
        return
    file = _acquire(lock_of(place), place)
    _held[os.fspath(place)] = me
    try:
        yield True
    finally:
        del _held[os.fspath(place)]
        with suppress(OSError):
            # Where it was removed, another process may hold a lock of its own by now.
            if os.getpid() == me[0] and _is_at(file, lock_of(place)):
                lock_of(place).unlink()
        os.close(file)


def _acquire(lock: Path, place: Path) -> int:
    while True:
        file = _open(lock, place)
        try:
            free = _flock(file)
            if not free:
                raise BusyError(_busy(place, lock, _read(file)))
            if not _is_at(file, lock):  # its holder ended, and removed it, between the two calls
                os.close(file)
                continue
            _refuse_foreign(file, lock, place)
            holder = _read(file)
            if _lives(holder):
                raise BusyError(_busy(place, lock, holder))
            _say_taken_over(place, holder)
            _write_or_remove(file, lock)
        except BaseException:
            with suppress(OSError):
                os.close(file)
            raise
        return file


def _open(lock: Path, place: Path) -> int:
    """The lock file, made where nothing is. A link is not followed, and a pipe not waited for: another file would be written."""
    kind = os.lstat(lock).st_mode if os.path.lexists(lock) else stat.S_IFREG
    if not stat.S_ISREG(kind):
        raise PlaceError(_foreign(lock, place))
    ways = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(lock, os.O_RDWR | os.O_CREAT | ways, 0o666)


def _refuse_foreign(file: int, lock: Path, place: Path) -> None:
    """Refuse a file that noiseshift did not write. A lock may have been cut off anywhere, or be all zeros after a power cut; in two
    bytes nothing can be lost."""
    words = os.pread(file, len(_FIRST) + 4096, 0).strip(b"\0 \r\n")
    if len(words) > 2 and not (words.startswith(_FIRST) or _FIRST.startswith(words)):
        raise PlaceError(_foreign(lock, place))


def _foreign(lock: Path, place: Path) -> str:
    return f"{lock} is where the lock of {place.name} goes, and noiseshift did not make it: move it away, or give another place"


def _flock(file: int) -> bool:
    """Take the system's lock; False where another has it, True also where there is no such thing."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
            raise
    return True


def _is_at(file: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(lock))
    except FileNotFoundError:
        return False


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    # The local time has no name where a time zone is set to a day or more from it.
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    words = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500]
    return {"pid": pid, "host": socket.gethostname(), "started": _started(pid), "since": now, "command": words}


def _read(file: int) -> dict[str, Any]:
    """The holder as the file says; empty where it says nothing readable."""
    try:
        about = json.loads(os.pread(file, 10_000, 0))
    except (ValueError, OSError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _write_or_remove(file: int, lock: Path) -> None:
    """Say in the lock who holds it. Where there is no room for that, as on a full disk, no empty one is left."""
    try:
        with named_where_full(lock):
            _write(file, _myself())
    except OSError:
        with suppress(OSError):
            lock.unlink()
        raise


def _write(file: int, about: dict[str, Any]) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, (json.dumps(about) + "\n").encode(), 0)


def _lives(holder: dict[str, Any]) -> bool:
    """Whether who the file names still runs, as far as can be known; on another host it is taken to."""
    pid, host = holder.get("pid"), holder.get("host")
    if not isinstance(pid, int) or not isinstance(host, str) or pid <= 0:
        return False
    if host != socket.gethostname():
        return True
    if pid == os.getpid():  # a lock of this very process is in `_held`; another of its number is gone
        return False
    started = _started(pid)
    return started is not None and started == holder.get("started")


def _started(pid: int) -> str | None:
    """When a process of this host started, in words that only compare; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            ticks = file.read().rpartition(")")[2].split()[19]
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{ticks} of {file.read().strip()}"
    except (OSError, IndexError):
        pass
    if os.path.exists("/proc/self/stat"):
        return None
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _busy(place: Path, lock: Path, holder: dict[str, Any]) -> str:
    if not holder:
        return f"another process writes to {place}: wait for it, or give another place (--out)"
    who = f"process {holder.get('pid')} on {holder.get('host')} ({holder.get('command')}, since {holder.get('since')})"
    gone = "" if holder.get("host") == socket.gethostname() else f"; if that process is gone, remove {lock}"
    return f"{place} is being written by {who}: wait for it, or give another place (--out){gone}"


def _say_taken_over(place: Path, holder: dict[str, Any]) -> None:
    if holder:
        logging.getLogger("noiseshift").warning(
            "%s: process %s (since %s) ended without finishing; its work goes on from here",
            place,
            holder.get("pid"),
            holder.get("since"),
        )
