"""What every table on the terminal shares. It imports no study: `noiseshift audit` prints without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from noiseshift.analysis.names import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 80
"""Columns that every table fits. A narrower terminal wraps lines, which loses no digit; cutting cells would."""


def screen() -> Console:
    """stdout without markup or emoji: `[red]` and `:100:` in a name are letters."""
    from rich.console import Console

    return Console(markup=False, emoji=False, width=max(WIDTH, Console().width))


def print_heading(console: Console, name: str, rest: str) -> None:
    """`name` in bold, and what else is to be known of a run."""
    from rich.text import Text

    console.print(Text.assemble((plain(name), "bold"), "  ", plain(rest)))


def numbers_table(title: str, headings: tuple[str, ...]) -> Table:
    """An empty table of right-aligned numbers that fits 80 columns."""
    from rich import box
    from rich.table import Table

    table = Table(title=plain(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(plain(heading), justify="right", no_wrap=True)
    return table


def names_table(title: str, name: str, headings: tuple[str, ...]) -> Table:
    """An empty table of numbers by name: a name that finds no room takes more lines, since names that are cut may be one.

    Args:
        title: above it.
        name: the first column's heading.
        headings: of the columns of numbers.
    """
    table = numbers_table(title, (name, *headings))
    first = table.columns[0]
    first.justify = "left"
    first.no_wrap = False
    first.overflow = "fold"
    return table


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign and without its leading 0; a dot for none."""
    return "·" if pd.isna(value) else f"{value:+.{digits}f}".replace("0.", ".", 1)
