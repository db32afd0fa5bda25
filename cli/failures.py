"""Whatever a command fails of becomes one line that names the remedy, and an exit code: this is the only place.

1: the command failed. 2: bad usage. 130: Ctrl-C; 143: it was sent SIGTERM; 129: its terminal was closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import click
from noiseshift.analysis.names import plain, shortened

from noiseshift.calling import by_statement, last_place
from noiseshift.reading.remedies import REMEDIES

NO_CONNECTION = "check the connection, or fetch the file on another machine and name it here"
_NETWORK = ("urllib", "http", "socket", "ssl", "requests", "urllib3", "httpx", "httpcore", "huggingface_hub")
_REFUSED = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH}

MEMORY = "memory is full: take a smaller --batch, fewer --samples, or end other programs"
ACCELERATOR = "the accelerator's memory is full: take a smaller --batch"

_EXTRAS = {"torch_fidelity": "fid", "torchvision": "fid", "transformers": "text", "accelerate": "text"}

PATIENCE = 2.0
"""Seconds after a signal in which another one is the same wish: what is put in order then is not cut short."""


class Stopped(KeyboardInterrupt):
    """A signal that ends the command as Ctrl-C does. `code` is the exit code that shells expect of it."""

    def __init__(self, number: int):
        super().__init__()
        self.code = 128 + number
        self.word = {signal.SIGINT: "interrupted"}.get(signal.Signals(number), "terminated")
        self.when = time.monotonic()


_stops: list[Stopped] = []
"""The signals that this command was sent."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and a closed terminal stop a command as Ctrl-C does, so that locks and temporary folders are left in order.

    A signal that is ignored (nohup), or that other code handles, stays so.
    """
    _stops.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = {number: old for number, old in before.items() if old in (signal.SIG_DFL, signal.default_int_handler)}
    for number in taken:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)


def _stop(number: int, frame: FrameType | None) -> None:
    stop = Stopped(number)
    if not _stops or stop.when - _stops[-1].when > PATIENCE:
        _stops.append(stop)
        raise stop


def guard(action: Callable[[], Any], words: Sequence[str] = ()) -> int:
    """Run `action`, the command line `words`; what it raises becomes a line on stderr. Returns the exit code.
    `NOISESHIFT_DEBUG=1` shows tracebacks."""
    from noiseshift.writing.unfinished import forget

    forget()
    try:
        action()
    except (click.exceptions.Exit, click.ClickException, click.Abort):
        if not _stops:
            raise
        return stopped(words=words)
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        if os.environ.get("NOISESHIFT_DEBUG"):
            traceback.print_exception(error)
        # What runs between a signal and here (an import, torch's writer) may have made another error of it.
        if isinstance(error, KeyboardInterrupt) or _stops:
            return stopped(error, words)
        click.echo(f"error: {QUIT if isinstance(error, SystemExit) else in_one_line(error)}", err=True)
        return 1
    return 0


QUIT = "code that was loaded ended the program: make it return instead"


def stopped(error: BaseException | None = None, words: Sequence[str] = ()) -> int:
    """Say in one line that a signal stopped the command line `words`, and what is there to go on from. Returns the exit code."""
    from noiseshift.writing.unfinished import kept

    first = next((stop for stop in (*_stops, error) if isinstance(stop, Stopped)), Stopped(signal.SIGINT))
    same = "the same command without --restart" if "--restart" in words else "the same command"
    left = f"{', '.join(kept())}, {same} goes on from there"
    click.echo(
        f"{first.word}: {left if kept() else 'nothing unfinished is kept, the same command begins anew'}", err=True
    )
    return first.code


def usage(error: click.ClickException) -> int:
    """Bad usage, in one line that names the help; the help itself where nothing was asked. Returns the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    context = getattr(error, "ctx", None)
    words = shortened(error.format_message(), 600).rstrip(".")
    if words.endswith("is not readable"):  # in click's own words, which name no remedy
        words += f": {REMEDIES[errno.EACCES]}"
    help_page = f" (see {context.command_path} --help)" if context is not None else ""
    click.echo(f"error: {words[:1].lower()}{words[1:]}{help_page}", err=True)
    return error.exit_code


def in_one_line(error: BaseException) -> str:
    """What went wrong and what to do, in one line. What nobody foresaw is called a bug of ours."""
    for kind in (_memory, _ours, _system, _network, _import, _by_words):
        if words := kind(error):
            return words
    return _bug(error)


def _memory(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return plain(error) if raised_here(error) else MEMORY
    if "torch" not in sys.modules:
        return None
    from noiseshift.diffusion.memory import is_out_of_memory

    if not is_out_of_memory(error):
        return None
    accelerator = type(error).__name__ == "OutOfMemoryError" or any(word in str(error) for word in ("CUDA", "MPS"))
    return ACCELERATOR if accelerator else MEMORY


def _ours(error: BaseException) -> str | None:
    """An error that our own code raised on purpose: its text is written for the user."""
    on_purpose = isinstance(error, ValueError | OSError | ImportError) and raised_here(error)
    return plain(error) if on_purpose and str(error) and getattr(error, "errno", None) is None else None


def _system(error: BaseException) -> str | None:
    if not isinstance(error, OSError) or error.errno is None or error.errno in _REFUSED or error.errno < 0:
        return None
    if type(error).__module__.partition(".")[0] in _NETWORK:
        return None
    if error.errno == errno.ENOENT and _without_directory():
        return "the working directory was deleted: change to one that is there, and run the command again"
    place = f"{shortened(_path(error.filename))}: " if error.filename is not None else ""
    reason = error.strerror or os.strerror(error.errno)
    return f"{place}{plain(reason)}: {REMEDIES.get(error.errno, 'check the path and the disk')}"


def _without_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _path(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes) else str(name)


def _network(error: BaseException) -> str | None:
    """Errors of fetching a file, by the module that their class is of: none of those is imported here."""
    kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    if not kinds & set(_NETWORK) and getattr(error, "errno", None) not in _REFUSED:
        return None
    return f"a file could not be fetched ({shortened(error, 160)}): {NO_CONNECTION}"


def _import(error: BaseException) -> str | None:
    if not isinstance(error, ImportError):
        return None
    missing = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(missing)
    remedy = f"pip install 'noiseshift[{extra}]'" if extra else "install it, or install noiseshift again"
    return f"{shortened(error)}: {remedy}"


def _by_words(error: BaseException) -> str | None:
    """torch, safetensors and others wrap an error of the system in one of their own: it is known by its words."""
    words = str(error)
    number = next((number for number in REMEDIES if os.strerror(number) in words), None)
    if number is not None and not isinstance(error, AssertionError | LookupError | TypeError):
        return f"{shortened(words, 160)}: {REMEDIES[number]}"
    if "CUDA error" in words or "CUDNN" in words or "NCCL" in words:
        return f"the accelerator failed ({shortened(words, 160)}): run it again, or with --device cpu"
    return None


def _bug(error: BaseException) -> str:
    """Nobody foresaw this one."""
    where = ""
    if place := _last_of_ours(error.__traceback__):
        where = f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
    return (
        f"this is a bug of noiseshift {metadata.version('noiseshift')}: {type(error).__name__}{where} "
        f"({shortened(error, 160)}). Set NOISESHIFT_DEBUG=1 to see the traceback, and report it with your command line as "
        "CONTRIBUTING.md says"
    )


def raised_here(error: BaseException) -> bool:
    """Whether a `raise` of our own code raised it: not Python, numpy or torch while our code ran."""
    place = last_place(error)
    return place is not None and _is_ours(place) and by_statement(error)


def _is_ours(place: TracebackType) -> bool:
    return str(place.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == "noiseshift"


def _last_of_ours(place: TracebackType | None) -> TracebackType | None:
    found = None
    while place is not None:
        found = place if _is_ours(place) else found
        place = place.tb_next
    return found
