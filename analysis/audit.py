"""The figure and the terminal's tables of an audit. Nothing here computes; every number comes from `audit.table()`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd
from noiseshift.analysis.names import in_figure, plain

from noiseshift.audit import Audit, Finding
from noiseshift.audit.report import TOLERANCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

LONGEST = 24
"""Rows of a table on the terminal; a longer one is printed by its ends."""


def plot_audit(audit: Audit, *, ax: Axes | None = None) -> Axes:
    """By step, in log-SNR: the state less the conditioning level (dots), and where the step lands less the next conditioning level
    (crosses); 0 where they agree. One colour a step count; below zero is noisier than conditioned on."""
    import matplotlib.pyplot as plt

    if ax is None:
        ax = plt.subplots(figsize=(5.6, 3.2), layout="constrained")[1]
    ax.axhline(0, color="black", linewidth=0.8)
    for number, (steps, rows) in enumerate(audit.table().groupby("steps", sort=False)):
        rows = rows[~rows.internal]
        colour = f"C{number}"
        place = rows.step / max(rows.step.max(), 1)
        ax.plot(place, rows.off_log_snr, "o", markersize=3.5, color=colour, label=f"{steps} steps")
        ax.plot(place, rows.lands_off_log_snr, "x", markersize=4.5, color=colour)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, -TOLERANCE), max(high, TOLERANCE))  # or rounding of 1e-7 would fill the figure as a shift does
    ax.set(xlabel="share of the run (noise to data)", ylabel="difference in log-SNR")
    ax.set_title(f"{in_figure(audit.name)}\n● state − label   × landing − next label", fontsize=9)
    ax.legend(frameon=False, fontsize=8)
    return ax


def print_audit(audit: Audit) -> None:
    """What was found, for people: a table of the first step count, then the findings with their remedies."""
    from noiseshift.analysis.terminal import print_heading, screen

    console = screen()
    print_heading(console, audit.name, f"steps {', '.join(str(one.steps) for one in audit.levels)}")
    _print_rows(console, audit.levels[0].frame)
    for finding in audit.findings:
        _print_finding(console, finding)
    if not any(not finding.note for finding in audit.findings):
        console.print("nothing was found: conditioning and effective levels agree")


def _print_rows(console: Console, rows: pd.DataFrame) -> None:
    from noiseshift.analysis.terminal import numbers_table, signed

    head = ("step", "label", "label λ", "state λ", "off", "lands λ", "off next", "sigma")
    table = numbers_table(f"{rows.steps.iloc[0]} steps: log-SNR λ of label, state and landing", head)
    shown = rows if len(rows) <= LONGEST else pd.concat([rows.head(LONGEST // 2), rows.tail(LONGEST // 2)])
    for row in shown.itertuples():
        table.add_row(
            f"{row.step}{'·' if row.internal else ''}",
            f"{row.handed:.5g}",
            _level(row.handed_log_snr),
            _level(row.state_log_snr),
            signed(row.off_log_snr, 3),
            _level(row.reached_log_snr),
            signed(row.lands_off_log_snr, 3),
            "·" if pd.isna(row.state_sigma) else f"{row.state_sigma:.4g}",
            style="dim" if row.internal else None,
        )
    console.print(table)
    if len(shown) < len(rows):
        console.print(f"{len(rows) - len(shown)} rows between are in --json and --out", style="dim")


def _level(value: float) -> str:
    if pd.isna(value):
        return "·"
    return f"{value:.2f}" if abs(value) < 38 else "data" if value > 0 else "noise"


def _print_finding(console: Console, finding: Finding) -> None:
    from rich.text import Text

    size = "" if finding.note else f" (Δλ {'∞' if math.isinf(finding.size) else f'{finding.size:.3f}'})"
    mark = ("note", "dim") if finding.note else ("FOUND", "red")
    steps = f" [{', '.join(map(str, finding.steps))} steps]" if finding.steps else ""
    console.print(Text.assemble(mark, f"  {finding.name}{size}{steps}: {plain(finding.sentence)}"))
    console.print(f"       {plain(finding.remedy)}")
