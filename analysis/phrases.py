"""How a level, a shift, a p-value, a count and a list stand in a sentence: one way, on the terminal and on pages."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

NOT_READABLE = "slope not within ½ … 2 or not significant, or t + δ beyond the schedule's ends"
"""Why a shift is not read: see `Ratio.readable`."""


def at(value: float) -> str:
    """A conditioning level, in as few digits as tell it from others."""
    return f"t = {value:.3g}" if value < 0.995 else f"t = {value:.4f}"


def delta(value: float) -> str:
    """A signed shift in t."""
    return f"{value:+.4f}".replace("-", "−")


def estimated(row: pd.Series, value: str = "shift") -> str:
    """A shift with its 95 % interval.

    Args:
        row: of a table, with `low` and `high`.
        value: the column of the shift.
    """
    return f"{delta(row[value])} (95 % {delta(row.low)} … {delta(row.high)})"


def plural(count: int, word: str = "level") -> str:
    """`1 level`, `2 levels`.

    Args:
        count: at least 0.
        word: in the singular; its plural ends in s.
    """
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def chance(p: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


SMOOTHER = "smoother"
"""In place of a residual noise whose whole interval lies below 0: the samples are smoother than real data."""


def below(low: float, high: float) -> str:
    """What a size, which is never below 0, is below where its interval holds 0; empty where it does not, or is NaN.

    Args:
        low: lower end of its interval, cut at 0.
        high: upper end.
    """
    if low != 0:
        return ""
    return f"< {high:.4f}" if high else SMOOTHER


def listed_names(names: Sequence[str]) -> str:
    """`a, b and c`; at least one name."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
