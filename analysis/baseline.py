"""What a shift is against, in headings, labels and sentences: held-out data unless something else is said."""

from __future__ import annotations

from collections.abc import Sequence

from noiseshift.analysis.page_parts import Column

from noiseshift.estimators.instrument import DATA

SHIFTS = frozenset(
    (
        *("shift", "low", "high", "band_low", "band_high", "floor", "shift_log_snr", "solver", "network", "rms"),
        *("terminal", "difference", "content_shift"),
    )
)
"""Columns that hold a shift or an end of its interval."""


def delta_of(baseline: str) -> str:
    """The letter of a shift in headings."""
    return "δ" if baseline == DATA else "δ own"


def against(baseline: str) -> str:
    """Behind a caption, a title or a sentence's subject; nothing where the baseline is data."""
    return "" if baseline == DATA else f", against {baseline}"


def opened(baseline: str, sentence: str) -> str:
    """A sentence that says what its shifts are against."""
    return sentence if baseline == DATA else f"Against {baseline}: {sentence[:1].lower()}{sentence[1:]}"


def columns_against(baseline: str, columns: Sequence[Column]) -> list[Column]:
    """The columns, those of shifts with what they are against."""
    if baseline == DATA:
        return list(columns)
    return [
        (name, f"{heading} own", f"{meaning}{against(baseline)}") if name in SHIFTS else (name, heading, meaning)
        for name, heading, meaning in columns
    ]
