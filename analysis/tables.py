"""Tables of a measurement for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from noiseshift.analysis.after import spared
from noiseshift.analysis.answer import answer, content_of
from noiseshift.analysis.baseline import against, delta_of
from noiseshift.analysis.checks import print_failures
from noiseshift.analysis.final_noise import residual_line
from noiseshift.analysis.names import plain
from noiseshift.analysis.terminal import numbers_table, print_heading, screen, signed

from noiseshift.estimators.instrument import DATA
from noiseshift.shift.report import ShiftReport
from noiseshift.studies.folders import Run

if TYPE_CHECKING:
    from rich.table import Table


@spared("the table on the terminal")
def print_run(run: Run) -> None:
    """What a run found, for people: a line on what ran, a table per estimator, the controls, and the answer in words."""
    from noiseshift.analysis import parts
    from rich.text import Text

    console = screen()
    about = run.manifest
    print_failures(console, run.preflight)
    print_heading(
        console,
        about["checkpoint"]["name"],
        f"{about['sampler']}, {about['samples']} samples, seed {about['seed']}, "
        f"{'unguided' if not about['guidance'] else about['guidance']}, {about['seconds']} s",
    )
    if run.baseline != DATA:
        console.print(f"δ own{against(run.baseline)}")
    for name, report in run.reports.items():
        console.print(shift_table(report, name))
    for each in parts.tables(run):
        console.print(each)
    content = f"; content δ: against {content_of(run)}, re-noised" if run.baseline == DATA else ""
    console.print(f"● resolved, at this level alone; · not readable{content}", style="dim")
    if run.controls is not None:
        for check in run.controls.checks:
            mark = {True: ("pass", "green"), False: ("FAIL", "red"), None: ("note", "dim")}[check.passed]
            console.print(Text.assemble(mark, f"  {plain(check.name)}: {plain(check.sentence)}"))
    for line in (*answer(run).lines, *parts.lines(run), residual_line(run)):
        console.print(plain(line)) if line else None


def shift_table(report: ShiftReport, title: str) -> Table:
    """One row per step read, 80 columns wide; a dim row is not resolved, a dot stands where nothing can be read."""
    own = "" if report.baseline == DATA else " of its own, not data"
    title = f"{title}: {len(report.sampled)} samples, calibrated on {len(report.calibration.real)}{own}{_share(report)}"
    table = numbers_table(
        title, ("step", "t", delta_of(report.baseline), "95 % interval", "floor", "content δ", "Δλ", "slope", "")
    )
    for row in report.table().itertuples():
        table.add_row(
            f"{row.step}",
            f"{row.t:.3f}",
            signed(row.shift),
            f"{signed(row.low)} {signed(row.high)}",
            _plain(row.floor),
            signed(getattr(row, "content_shift", float("nan"))),
            signed(row.shift_log_snr, 3),
            f"{row.slope:.2f}",
            "●" if row.resolved else "",
            style=None if row.resolved else "dim",
        )
    return table


def _share(report: ShiftReport) -> str:
    """How much of the shift's variance more samples would leave."""
    share = report.calibration_share()[report.readable]
    return f" ({100 * np.median(share):.0f} % of the variance)" if len(share) else ""


def _plain(value: float) -> str:
    return "·" if pd.isna(value) else f"{value:.4f}".replace("0.", ".", 1)
