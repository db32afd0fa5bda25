"""Figures of a measurement: a report in, Axes out. Nothing here computes; every number comes from `report.table()`.

Time runs from noise (t = 1) on the left to data (t = 0) on the right, as sampling does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from noiseshift.analysis.drawing import axes, save_all
from noiseshift.analysis.names import in_figure

from noiseshift.estimators.instrument import DATA
from noiseshift.shift.report import ShiftReport
from noiseshift.studies.folders import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Reports = ShiftReport | Mapping[str, ShiftReport]


# Okabe–Ito, safe for colour-blind readers; one colour per estimator, in every figure.
COLOURS = {
    "network": "#0072B2",
    "residual": "#D55E00",
    "constant-pixel": "#009E73",
    "fokker-planck": "#CC79A7",
    "score-mixture": "#E69F00",
}
# Lines and marks differ as well: figures are printed in grey, too.
LINES = {
    "network": "-",
    "residual": "--",
    "constant-pixel": ":",
    "fokker-planck": "-.",
    "score-mixture": (0, (5, 1, 1, 1, 1, 1)),
}
MARKERS = {"network": "o", "residual": "s", "constant-pixel": "D", "fokker-planck": "^", "score-mixture": "v"}
REAL, SAMPLED, CONTENT = "#777777", "#0072B2", "#56B4E9"


def plot_shift(reports: Reports, *, ax: Axes | None = None) -> Axes:
    """delta(t) of each estimator with its 95 % band; grey: the first one's detection floor; hollow: not resolved."""
    return _curves(reports, ("shift", "low", "high"), f"noise shift δ (in t){_against(reports)}", ax)


def plot_content_shift(reports: Reports, *, ax: Axes | None = None) -> Axes:
    """The same against final samples, re-noised: another baseline, which has generated content at the right level."""
    columns = ("content_shift", "content_low", "content_high")
    return _curves(reports, columns, "content-controlled δ (in t)", ax, floor=False)


def plot_shift_log_snr(reports: Reports, *, ax: Axes | None = None) -> Axes:
    """The shift in log-SNR: below zero means noisier than the conditioning level."""
    columns = ("shift_log_snr", "log_snr_low", "log_snr_high")
    return _curves(reports, columns, f"noise shift Δλ (in log-SNR){_against(reports)}", ax, floor=False)


def plot_effective_level(reports: Reports, *, ax: Axes | None = None) -> Axes:
    """Effective against conditioning level: (t + delta) / t, 1 where there is no shift."""
    ax = axes(ax)
    ax.axhline(1, color="black", linewidth=0.8)
    for name, report in _named(reports).items():
        table = report.table()
        colour = COLOURS.get(name, "black")
        ax.fill_between(
            table.t, 1 + table.low / table.t, 1 + table.high / table.t, color=colour, alpha=0.18, linewidth=0
        )
        ax.plot(table.t, 1 + table["shift"] / table.t, marker="o", color=colour, label=in_figure(name))
    ax.set_ylabel(f"effective / conditioning level, (t + δ) / t{_against(reports)}")
    _finish(ax)
    return ax


def plot_posteriors(report: ShiftReport, *, panels: int = 4) -> np.ndarray:
    """Where the readings of single states lie, sampled ones against real ones at the same conditioning level.

    Args:
        report: of one estimator.
        panels: how many of the steps are shown.

    Returns:
        The axes, one per panel.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    chosen = np.unique(np.linspace(0, len(report.times) - 1, panels).round().astype(int))
    _figure, axes = plt.subplots(1, len(chosen), figsize=(1.9 * len(chosen), 2.3), squeeze=False, layout="constrained")
    for ax, k in zip(axes[0], chosen, strict=True):
        for states, colour, label in _states(report):
            sns.kdeplot(x=states[:, k], ax=ax, color=colour, fill=True, alpha=0.25, linewidth=1.2, label=label)
        ax.axvline(report.times[k], color="black", linewidth=0.8, linestyle=":")
        ax.set_title(f"conditioning time t = {report.times[k]:.2f}")
        ax.set(xlabel="level read, in t", ylabel="", yticks=[])
        ax.spines["left"].set_visible(False)
    axes[0, 0].set_ylabel("density of states")
    axes[0, 0].figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return axes[0]


def plot_solver(run: Run, estimator: str | None = None, *, ax: Axes | None = None) -> Axes:
    """The whole shift, its solver's and network's parts by step refinement, and an exact model's shift, as one estimator reads
    them.

    Args:
        run: measured with controls.
        estimator: which one; the first by default.
        ax: drawn on; new ones by default.

    Returns:
        The axes.

    Raises:
        ValueError: for a run without that control.
    """
    if run.controls is None or run.controls.shares.empty:
        raise ValueError("whose the shift is was not measured in this run: measure with --controls")
    rows = run.controls.shares
    rows = rows[rows.estimator == (estimator or rows.estimator.iloc[0])]
    ax = axes(ax)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.plot(rows.t, rows.total, marker="o", color="#0072B2", label="whole shift")
    for part, colour, line, label in (
        ("solver", "#E69F00", "s--", "taken away by finer steps (solver)"),
        ("network", "#009E73", "D:", "left by finer steps (network)"),
        ("exact_solver", "#CC79A7", "^-.", "exact model, same solver"),
    ):
        if rows[part].notna().any():
            ax.fill_between(rows.t, rows[f"{part}_low"], rows[f"{part}_high"], color=colour, alpha=0.18, linewidth=0)
            ax.plot(rows.t, rows[part], line, markersize=4, color=colour, label=label)
    ax.set_ylabel(f"noise shift δ (in t), by {rows.estimator.iloc[0]}{_against(run.reports)}")
    _finish(ax)
    return ax


def save_figures(run: Run, folder: str | Path) -> list[Path]:
    """Write every figure of a run as PNG and PDF; returns the files. In a run's own folder they become part of it."""
    from noiseshift.analysis import parts
    from noiseshift.analysis.samples import plot_states

    first = next(iter(run.reports.values()))
    figures: dict[str, Callable[[], Any]] = {
        "shift": lambda: plot_shift(run.reports),
        "shift-log-snr": lambda: plot_shift_log_snr(run.reports),
        "effective": lambda: plot_effective_level(run.reports),
        "posteriors": lambda: plot_posteriors(first)[0],
        "samples": lambda: plot_states(run.pictures),
    }
    if any(report.content is not None for report in run.reports.values()):
        figures["shift-content"] = lambda: plot_content_shift(run.reports)
    if run.controls is not None and not run.controls.shares.empty:
        figures["solver"] = lambda: plot_solver(run)
    figures |= {name: draw for name, draw, _ in parts.figures(run)}
    return save_all([(name, draw, "") for name, draw in figures.items()], folder)


def _look(name: str, index: int) -> tuple[str, Any, str]:
    """The colour, dashes and mark of an estimator; of another curve, such as a solver's, those of its place among the curves."""
    if name not in COLOURS:
        name = list(COLOURS)[index % len(COLOURS)]
    return COLOURS[name], LINES[name], MARKERS[name]


def _curves(
    reports: Reports, columns: tuple[str, str, str], label: str, ax: Axes | None, *, floor: bool = True
) -> Axes:
    ax = axes(ax)
    low_end = 0.0
    high_end = 0.0
    ax.axhline(0, color="black", linewidth=0.8)
    for index, (name, report) in enumerate(_named(reports).items()):
        table = report.table()
        colour, line, mark = _look(name, index)
        if columns[0] not in table:
            continue
        if floor and index == 0:
            ax.fill_between(
                table.t, -table.floor, table.floor, color="#dddddd", alpha=0.6, linewidth=0, label="under the floor"
            )
        value, low, high = (table[column] for column in columns)
        ax.fill_between(table.t, low, high, color=colour, alpha=0.18, linewidth=0)
        ax.plot(table.t, value, linestyle=line, color=colour, label=in_figure(name))
        low_end, high_end = min(low_end, float(value.min())), max(high_end, float(value.max()))
        resolved = table.resolved if floor else (low > 0) | (high < 0)
        ax.scatter(
            table.t,
            value,
            s=18,
            marker=mark,
            zorder=3,
            edgecolors=colour,
            facecolors=np.where(resolved, colour, "white"),
        )
    # The values decide the scale: a wide band may leave the frame, a narrow one must stay readable.
    room = 0.4 * (high_end - low_end) + 1e-4
    ax.set_ylim(low_end - room, high_end + room)
    ax.set_ylabel(label)
    _finish(ax)
    return ax


def _states(report: ShiftReport) -> list[tuple[np.ndarray, str, str]]:
    states = [
        (
            report.calibration.real.t,
            REAL,
            "real, forward-noised" if report.baseline == DATA else "own final samples, re-noised",
        ),
        (report.sampled.t, SAMPLED, "sampling"),
    ]
    return states + ([(report.content.t, CONTENT, "final samples, re-noised")] if report.content is not None else [])


def _against(reports: Reports) -> str:
    """A second line of an axis' label, where shifts are not against data."""
    baselines = {report.baseline for report in _named(reports).values()} - {DATA}
    return "".join(f"\nagainst {baseline}" for baseline in baselines)


def _named(reports: Reports) -> Mapping[str, ShiftReport]:
    return {reports.estimator: reports} if isinstance(reports, ShiftReport) else reports


def _finish(ax: Axes) -> None:
    ax.set_xlabel("conditioning time t: noise 1 → 0 data")
    ax.set_xlim(1, 0)
    lines = [line for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    if lines and not any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in lines):
        # Empty axes with a scale look like a shift of zero.
        ax.set_yticks([])
        ax.text(0.5, 0.55, "no state could be read", ha="center", transform=ax.transAxes)
    ax.legend(loc="best")
