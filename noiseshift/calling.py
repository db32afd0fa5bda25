"""One boundary where the user's own code is called: whose code failed, and at which line, in one line."""

from __future__ import annotations

import dis
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any

from noiseshift.reading import ReadingError


class CodeError(ReadingError, RuntimeError):
    """The user's own code failed; the message is one line that says where."""


@contextmanager
def calling(name: str) -> Iterator[None]:
    """Around a call of the user's own code, `name` for people. What it raises becomes a CodeError, a SystemExit too; our own
    errors, an interruption and a full memory pass. What it prints goes to stderr: stdout holds our own answer."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (ReadingError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise CodeError(f"{name} failed{_where(error)}: {error_in_words(error)}") from error


@contextmanager
def evaluating(name: str) -> Iterator[None]:
    """Around a network that was built by a file's settings, `name` for people: what torch or diffusers raises over settings that
    cannot be evaluated becomes a CodeError. Our own errors and a full memory pass."""
    try:
        with calling(name):
            yield
    except CodeError as error:
        cause = error.__cause__
        if isinstance(cause, ValueError) and by_statement(cause) and _is_ours(cause):
            raise cause from None
        raise CodeError(f"{error}: its settings do not fit its weights or its inputs") from cause


def _is_ours(error: BaseException) -> bool:
    place = last_place(error)
    return place is not None and str(place.tb_frame.f_globals.get("__name__", "")).startswith("noiseshift.")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Around the user's code that makes a model: the working directory, torch's default type and whether it keeps gradients are
    afterwards what they were."""
    import torch

    here = os.getcwd()
    dtype = torch.get_default_dtype()
    gradients = torch.is_grad_enabled()
    try:
        yield
    finally:
        os.chdir(here)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of the user's returns. Raises CodeError when it fails.

    Args:
        function: of the user's.
        *arguments: what it is given.
    """
    with calling(name_of(function)):
        return function(*arguments)


def error_in_words(error: BaseException) -> str:
    """An exception in one line of at most 200 letters."""
    words = " ".join(str(error).split())[:200]
    if isinstance(error, SystemExit):
        return f"it called sys.exit({words})"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def by_statement(error: BaseException) -> bool:
    """Whether a `raise` statement raised it, not Python, numpy or torch themselves."""
    place = last_place(error)
    return place is not None and place.tb_frame.f_code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def last_place(error: BaseException) -> TracebackType | None:
    """Where an error was raised."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place


def _where(error: BaseException) -> str:
    """The last line of the user's on the way to an exception; nothing where all were a library's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _theirs(frame.filename)]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _theirs(file: str) -> bool:
    parts = Path(file).parts
    return not file.startswith("<") and Path(__file__).parent not in Path(file).parents and "site-packages" not in parts


def name_of(function: Callable[..., Any]) -> str:
    """What a callable is called, for people: `denoise (model.py:12)`."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    name = getattr(function, "__qualname__", type(function).__name__)
    return name if code is None else f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})"
