"""stdout and stderr that no terminal can make fail: letters it lacks are spelled, and a reader that has gone is no fault."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any, TextIO, cast

import click
from noiseshift.analysis.names import plain

OUTPUT = "standard output"
"""What an error of writing names in the place of a file."""

_SPELLING = dict(
    pair.split()
    for pair in (
        "δ delta|Δ Delta|σ sigma|ε eps|λ lambda|α alpha|√ sqrt|∞ inf|∈ in|± +-|− -|– -|— -|× x|· .|… ...|→ ->|≤ <=|≥ >=|"
        "● *|½ 1/2|² ^2|³ ^3|⟨ <|⟩ >|′ '|’ '|“ \"|” \"|─ -|━ -|╸ -|╺ -|≈ ~|← <-|§ section|Λ Lambda|Σ Sigma|γ gamma|π pi|"
        "ρ rho|φ phi|∂ d|∇ grad|∫ int|‖ norm"
    ).split("|")
)


def spelled(text: str, encoding: str) -> str:
    """`text` with every letter that `encoding` lacks spelled out: δ is delta. Spaces before a word make room for it, so that
    columns stay under each other."""
    if _fits(text, encoding):
        return text
    return re.sub(r"( *)([^ \n]+)", lambda match: _in_place(match[1], match[2], encoding), text)


def _in_place(spaces: str, word: str, encoding: str) -> str:
    new = "".join(letter if _fits(letter, encoding) else _letter(letter, encoding) for letter in word)
    room = max(min(len(spaces), 1), len(spaces) - len(new) + len(word)) if len(new) > len(word) else len(spaces)
    return " " * room + new


def _letter(letter: str, encoding: str) -> str:
    """Our own spelling, the letter without its accent, or its code; an accent alone is nothing."""
    if unicodedata.combining(letter):
        return ""
    bare = "".join(part for part in unicodedata.normalize("NFKD", letter) if _fits(part, encoding))
    return _SPELLING.get(letter) or bare or letter.encode("ascii", "backslashreplace").decode("ascii")


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


class Stream:
    """A text stream of this process. Writers see one that takes any letter. A pipe without a reader, or a stream that was
    closed, takes everything and keeps nothing; so does a `lenient` one (stderr) whatever is wrong with it. Any other that
    failed once fails at every write: what follows would have a gap before it."""

    encoding = "utf-8"

    def __init__(self, inner: TextIO, *, lenient: bool):
        self.inner = inner
        self.lenient = lenient
        self.failed: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def write(self, text: str) -> int:
        words = spelled(text, self.inner.encoding or "ascii")
        if words:  # click asks with an empty string what kind of stream this is
            if self.failed is not None:
                raise self.failed
            with self._forgiving():
                self.inner.write(words)
        return len(text)

    def flush(self) -> None:
        with self._forgiving():
            self.inner.flush()

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: the file object is closed
            self._drain()
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError) and not self.lenient:
                self.failed = OSError(error.errno, error.strerror, OUTPUT)
                raise self.failed from error

    def _drain(self) -> None:
        """From here on what is written goes nowhere: what is buffered must not fail once more when Python leaves."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.inner.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """stdout and stderr as such streams; a warning of any library is one line on stderr."""
    _occupy()
    waiting = _wait_for_readers()
    real = (sys.stdout, sys.stderr)
    shown = warnings.showwarning
    handler = _Lines()
    logger = logging.getLogger("noiseshift")
    sys.stdout = cast("TextIO", Stream(real[0] or _nowhere(), lenient=False))
    sys.stderr = cast("TextIO", Stream(real[1] or _nowhere(), lenient=True))
    warnings.showwarning = lambda message, *where, **rest: warn(message)
    logger.addHandler(handler)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it keeps its cache is nobody's concern
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = real
        for number in waiting:
            os.set_blocking(number, False)
        warnings.showwarning = shown
        logger.removeHandler(handler)


def written(place: object, what: str = "") -> None:
    """`written: PLACE WHAT` on stdout, in one line whatever the place is called. It is written, whatever stdout takes."""
    try:
        click.echo(f"written: {plain(place)}{what}")
    except OSError as error:
        warn(f"{OUTPUT} takes nothing ({error.strerror}); written: {plain(place)}{what}")


def answered(answer: str, place: object | None) -> None:
    """JSON on stdout, of what is saved at `place`, if anywhere. Whoever asked for it must know where it did not come whole, and
    where all is kept."""
    try:
        click.echo(answer)
    except OSError as error:
        if place is None:
            raise
        raise OSError(error.errno, f"{error.strerror}; everything is saved in {plain(place)}", OUTPUT) from error


def warn(message: object) -> None:
    """`warning: …` on stderr, in one line."""
    click.echo(f"warning: {plain(message)}", err=True)


class _Lines(logging.Handler):
    """What the library logs, a line per record."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


def _occupy() -> None:
    """Closed standard streams are opened on nothing, or the next file that is opened would take their place and their text."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _wait_for_readers() -> list[int]:
    """A slow reader is waited for: a pipe that another program set not to wait would lose what it has no room for. Returns
    the descriptors that are so again afterwards."""
    numbers = []
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(
            AttributeError, OSError, ValueError
        ):  # none at all, closed, no file of the system's, Windows
            if not os.get_blocking(stream.fileno()):
                os.set_blocking(stream.fileno(), True)
                numbers.append(stream.fileno())
    return numbers


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
