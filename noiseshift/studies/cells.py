"""Texts in a table's cells that no spreadsheet takes for formulas."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes a cell's first letter for a formula by."""


def as_text(name: str) -> str:
    """A name as a cell that no spreadsheet computes: with an apostrophe before what looks like a formula."""
    return f"'{name}" if name.startswith(FORMULA) else name


def from_text(cell: str) -> str:
    """The name that `as_text` made a cell of."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def with_texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """A table with every text in it changed.

    Args:
        table: of any columns.
        change: from a text to another.
    """
    texts = [column for column in table if table[column].map(lambda cell: isinstance(cell, str)).any()]
    changed = {c: table[c].map(lambda cell: change(cell) if isinstance(cell, str) else cell) for c in texts}
    return table.assign(**changed)
