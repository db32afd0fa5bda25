"""What all rows share: two pieces of work in turns, and the ratio of their processor times."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: was measured.
        values: of each repeat; or one, where it is counted.
        bound: that the median is held against.
        least: whether the bound is the least that is wanted, not the most.
        unit: of the values; a ratio has none.
        note: what else a reader must know.
    """

    what: str
    values: Sequence[float]
    bound: float
    least: bool = False
    unit: str = "×"
    note: str = ""

    @property
    def met(self) -> bool:
        median = float(np.median(self.values))
        return median >= self.bound if self.least else median <= self.bound

    def cells(self) -> dict[str, str]:
        """Of a table: what, median, quartiles where there are several values, bound, whether it is met, note."""
        low, median, high = np.quantile(self.values, (0.25, 0.5, 0.75))
        spread = (f"{low:.3g}", f"{high:.3g}") if len(self.values) > 1 else ("", "")
        bound = f"{'≥' if self.least else '≤'} {self.bound:g}{self.unit}"
        ends = dict(zip(("low", "high"), spread, strict=True))
        return {
            "what": self.what,
            "median": f"{median:.3g}",
            **ends,
            "bound": bound,
            "met": str(self.met),
            "note": self.note,
        }

    def __str__(self) -> str:
        low, median, high = np.quantile(self.values, (0.25, 0.5, 0.75))
        spread = f"{low:.3g} … {high:.3g}" if len(self.values) > 1 else ""
        sign, verdict = "≥" if self.least else "≤", "met" if self.met else "MISSED"
        bound = f"{sign} {self.bound:g}{self.unit}"
        return f"{self.what:58s} {median:8.3g}{self.unit:2s} {spread:16s} {bound:11s} {verdict:7s} {self.note}"


def seconds(work: Work) -> float:
    """Processor seconds of this process and its children: what else the machine does is left out."""
    before = _used()
    work()
    return _used() - before


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ratios(first: Work, second: Work, repeats: int) -> list[float]:
    """The first's time over the second's, in turns, so that a machine that slows down slows both."""
    first()
    second()
    found = []
    for k in range(repeats):
        if k % 2:
            below, above = seconds(second), seconds(first)
        else:
            above, below = seconds(first), seconds(second)
        found.append(above / below)
    return found


def started(code: str, repeats: int) -> list[float]:
    """Processor seconds of new processes that run `code`, each without those of a bare interpreter."""
    bare = min(seconds(lambda: _python("pass")) for _ in range(repeats))
    return [seconds(lambda: _python(code)) - bare for _ in range(repeats)]


def _python(code: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, stdout=subprocess.DEVNULL)
