"""Figures of a comparison, in a paper's column; its folder's tables and figures are written here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from noiseshift.analysis.after import spared
from noiseshift.analysis.compare_tables import latex_table, markdown_table
from noiseshift.analysis.drawing import UNREAD, Figure, axes, save_each, shades_of, signs, style
from noiseshift.analysis.names import in_figure
from noiseshift.analysis.plots import REAL

from noiseshift.estimators.instrument import DATA
from noiseshift.shift.report import ShiftReport
from noiseshift.studies.compare import Comparison
from noiseshift.writing import adopt, replaced_file
from noiseshift.writing.signatures import SIGNATURE, signed_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")
MARKERS = "osD^vP*X"


def figure_labels(found: Comparison) -> dict[str, str]:
    """The same for figures: no letter starts a formula."""
    return {name: in_figure(label) for name, label in labels(found).items()}


def labels(found: Comparison) -> dict[str, str]:
    """Names of the runs for sentences: without the checkpoint's where all share it."""
    checkpoint = found.table.checkpoint.iloc[0]
    same = (found.table.checkpoint == checkpoint).all() and all(
        name.startswith(f"{checkpoint}-") for name in found.runs
    )
    return {name: name.removeprefix(f"{checkpoint}-") if same else name for name in found.runs}


def plot_shift_nfe(found: Comparison, *, ax: Axes | None = None) -> Axes:
    """rms δ against NFE with its 95 % interval, a line per checkpoint, sampler and guidance."""
    ax = axes(ax)
    for (label, part), colour, marker in _families(found.table):
        ax.vlines(part.nfe, part["rms low"], part["rms high"], color=colour, linewidth=0.8)
        ax.plot(part.nfe, part.rms, marker=marker, color=colour, label=label)
    ax.set(ylabel=f"rms δ (in t), by {found.estimator}{_against(found)}")
    _calls(ax, found)
    ax.legend()
    return ax


def plot_distance_nfe(found: Comparison, *, ax: Axes | None = None) -> Axes:
    """The distance to real images against NFE with its 95 % interval, coloured by rms δ. Raises ValueError without features."""
    table = found.table
    distance = _distance(found)
    ax = axes(ax)
    for (label, part), _, marker in _families(table):
        ax.plot(part.nfe, part[distance], color="#bbbbbb", zorder=1)
        ax.vlines(part.nfe, part[f"{distance} low"], part[f"{distance} high"], color=REAL, linewidth=0.8, zorder=1)
        points = ax.scatter(
            part.nfe,
            part[distance],
            c=part.rms,
            cmap=shades_of(),
            vmin=0,
            vmax=table.rms.max(),
            marker=marker,
            edgecolors=REAL,
            linewidths=0.5,
            label=label,
        )
    ax.set(ylabel=in_figure(distance))
    _calls(ax, found)
    ax.figure.colorbar(points, ax=ax, label=f"rms δ (in t){_against(found)}")
    ax.legend()
    return ax


def plot_pareto(found: Comparison, *, ax: Axes | None = None) -> Axes:
    """Distance against rms δ with their 95 % intervals, a colour an NFE and a marker a sampler; a line joins the runs of one
    NFE that no other of it beats in both. Points have no labels: the good ones lie in one corner, on top of each other."""
    from matplotlib.ticker import LogLocator

    table = found.table
    distance = _distance(found)
    ax = axes(ax)
    markers = {run: marker for (_, part), _, marker in _families(table) for run in part.run}
    for (nfe, part), colour in zip(table.groupby("nfe"), _cycle(COLOURS), strict=False):
        front = part.sort_values("rms")
        front = front[front[distance] <= front[distance].cummin()]
        ax.plot(front.rms, front[distance], color=colour, linewidth=0.8)
        for row in part.to_dict("records"):
            ax.hlines(row[distance], row["rms low"], row["rms high"], color=colour, linewidth=0.8, alpha=0.8)
            ax.vlines(
                row["rms"], row[f"{distance} low"], row[f"{distance} high"], color=colour, linewidth=0.8, alpha=0.8
            )
            ax.plot(row["rms"], row[distance], markers[row["run"]], color=colour, markersize=5, alpha=0.8)
        ax.plot([], [], color=colour, linewidth=4, label=f"NFE {nfe:.0f}")
    for (label, _), _, marker in _families(table):
        ax.plot([], [], marker, color="#777777", label=label)
    ax.set(xlabel=f"rms δ (in t), by {found.estimator}{_against(found)}", ylabel=in_figure(distance), yscale="log")
    # An interval that reaches down to 0 leaves the picture, on axes that have none.
    ax.set_ylim(bottom=0.7 * table[distance][table[distance] > 0].min())
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.legend(loc="best", ncols=2)
    return ax


def plot_heat(found: Comparison, *, ax: Axes | None = None, cells: int = 8) -> Axes:
    """δ by run and conditioning time; white is no shift, + and − cells that are resolved, grey what cannot be read."""
    import matplotlib.pyplot as plt

    ax = axes(ax)
    grid = np.linspace(1, 0, cells + 1)
    values = np.full((len(found.runs), cells), np.nan)
    resolved = np.zeros(values.shape, bool)
    for k, name in enumerate(found.runs):
        table = found.report(name).table()
        place = np.clip(np.digitize(table.t, grid) - 1, 0, cells - 1)
        for cell in np.unique(place):
            part = table[place == cell]
            values[k, cell], resolved[k, cell] = part["shift"].mean(), part.resolved.any()
    limit = max(1e-4, float(np.nanmax(np.abs(values))))
    colours = plt.get_cmap("RdBu_r").with_extremes(bad=UNREAD)
    image = ax.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    signs(ax, values, resolved & np.isfinite(values), limit)
    ax.set_yticks(range(len(found.runs)), list(figure_labels(found).values()))
    ticks = np.arange(cells)
    ax.set_xticks(ticks, [f"{(grid[k] + grid[k + 1]) / 2:.2f}".lstrip("0") for k in ticks])
    ax.set_xlabel("conditioning time t: noise → data")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label=f"δ (in t), by {found.estimator}{_against(found)}")
    return ax


def plot_ridge(found: Comparison, *, at: float = 0.1, ax: Axes | None = None) -> Axes:
    """Where the states' readings lie, a ridge per run, at the conditioning time nearest to `at` of those that all were read at
    (grey: real states).

    Raises:
        ValueError: the runs share no level: states of unlike levels are not compared.
    """
    from scipy import stats

    if not len(found.shared):
        raise ValueError("these runs were read at no common level: measure them with steps that share some")
    ax = axes(ax)
    level = float(found.shared[np.abs(found.shared - at).argmin()])
    ridges = [_ridge(found.report(name), level) for name in found.runs]
    ends = np.array([np.quantile(states, [0.005, 0.995]) for _, _, states in ridges])
    low, high = max(-20.0, min(-4.0, ends.min())), min(20.0, max(4.0, ends.max()))
    grid = np.linspace(low, high, 600)
    for k, ((t, real, states), colour) in enumerate(zip(ridges, _cycle(COLOURS), strict=False)):
        height = len(ridges) - 1 - k
        for rows, shade, alpha in ((real, REAL, 0.35), (states, colour, 0.55)):
            density = stats.gaussian_kde(rows)(grid) if rows.std() > 0 else 0 * grid
            ax.fill_between(
                grid, height, height + 1.6 * density, color=shade, alpha=alpha, linewidth=0.6, zorder=-height
            )
        ax.text(1.01, height + 0.08, f"t = {t:.2f}", fontsize=6.5, transform=ax.get_yaxis_transform())
    ax.set_yticks(range(len(ridges)), list(figure_labels(found).values())[::-1])
    ax.axvline(0, color="black", linewidth=0.6, linestyle=":")
    kind = "real states" if found.baseline == DATA else "own final samples, re-noised"
    ax.set(
        xlabel=f"level read from a state, minus the mean of {kind}\n(in standard deviations of those)", xlim=(low, high)
    )
    ax.grid(False)
    return ax


def _ridge(report: ShiftReport, at: float) -> tuple[float, np.ndarray, np.ndarray]:
    """The conditioning time nearest to `at`; readings of real and of sampled states there, standardised by the real ones."""
    step = int(np.abs(report.times - at).argmin())
    real = report.calibration.real.t[:, step]
    states = report.sampled.t[:, step]
    spread = max(float(real.std()), 1e-12)
    return float(report.times[step]), (real - real.mean()) / spread, (states - real.mean()) / spread


def plot_phase(found: Comparison, *, ax: Axes | None = None) -> Axes:
    """Effective against conditioning level, (t + δ) / t against t: 1 where there is no shift.

    Between the levels that all runs were read between, with the 95 % band that holds at all levels at once.
    """
    ax = axes(ax)
    ax.axhline(1, color="black", linewidth=0.8)
    for name, colour, marker in zip(found.runs, _cycle(COLOURS), _cycle(MARKERS), strict=False):
        table = found.report(name).table()
        table = table[(table.t >= found.span[0]) & (table.t <= found.span[1])]  # where all were read
        ends = 1 + table.band_low / table.t, 1 + table.band_high / table.t
        ax.fill_between(table.t, *ends, color=colour, alpha=0.15, linewidth=0)
        ax.plot(table.t, 1 + table["shift"] / table.t, marker=marker, color=colour, label=figure_labels(found)[name])
    ax.set(
        xlabel="conditioning time t: noise 1 → 0 data",
        ylabel=f"effective / conditioning level,\n(t + δ) / t{_against(found)}",
        xlim=(1, 0),
    )
    ax.figure.legend(loc="outside lower center", ncols=2 if max(map(len, figure_labels(found).values())) > 12 else 3)
    return ax


def plot_variants(found: Comparison, *, ax: Axes | None = None) -> Axes:
    """What every variant changes against the first: paired differences with their 95 % intervals, filled where Holm's p is under
    5 %, crosses where there is no interval; on the right what it costs.

    Args:
        found: a comparison of variants.
        ax: the axes of the first panel; new ones by default.

    Returns:
        The axes of the first panel.
    """
    import matplotlib.pyplot as plt

    names = list(found.runs)
    quantities = list(dict.fromkeys(found.pairs.quantity))
    costs = [column for column in ("skipped", "sampling seconds", "weights MB") if column in found.table]
    panels = len(quantities) + len(costs)
    size = (2.2 * panels, 0.6 + 0.34 * len(names))
    every = list(plt.subplots(1, panels, figsize=size, sharey=True, squeeze=False)[1][0]) if ax is None else [ax]
    rows = found.pairs[found.pairs["first"] == names[0]]
    for panel, quantity in zip(every, quantities, strict=False):
        _plot_changes(panel, rows[rows.quantity == quantity], names)
    for panel, column in zip(every[len(quantities) :], costs, strict=False):
        panel.barh(range(len(names)), found.table[column], color="#bbbbbb", height=0.5)
        panel.set_xlabel("share of attentions\nskipped" if column == "skipped" else column)
    every[0].set_yticks(range(len(names)), [in_figure(word) for word in _variants(found)])
    every[0].set_ylim(len(names) - 0.5, -0.5)
    return every[0]


def _plot_changes(panel: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    """The changes of one quantity, in a power of ten that the label says: matplotlib's own would lie over it."""
    largest = np.nanmax(rows[["difference", "low", "high"]].abs().to_numpy(), initial=0)
    power = int(np.floor(np.log10(largest))) if 0 < largest < 1e-2 else 0
    panel.axvline(0, color="black", linewidth=0.8)
    for row in rows.to_dict("records"):
        y = names.index(row["second"])
        low, value, high = (-row[key] / 10.0**power for key in ("high", "difference", "low"))
        face = COLOURS[0] if row["resolved"] else "white"
        if np.isnan(low):
            panel.scatter(value, y, s=20, marker="x", color="#888888")
        else:
            panel.plot([low, high], [y, y], color=COLOURS[0], linewidth=1.2)
            panel.scatter(value, y, s=20, zorder=3, edgecolors=COLOURS[0], facecolors=face)
    unit = f" / $10^{{{power}}}$" if power else ""
    panel.set_xlabel(f"change of\n{in_figure(rows.quantity.iloc[0])}{unit}")
    panel.locator_params(axis="x", nbins=3)


def _variants(found: Comparison) -> list[str]:
    """Words of the variants, with the rest of the run's name where that differs."""
    alike = found.table.groupby("variant").size().max() == 1
    return list(found.table.variant if alike else found.table.run)


def _against(found: Comparison) -> str:
    """A second line of an axis' label, where shifts are not against data."""
    return "" if found.baseline == DATA else f"\nagainst {found.baseline}"


def figures(found: Comparison) -> Iterator[Figure]:
    """Every figure of a comparison that its runs allow."""
    if "variant" in found.table and len(found.runs) > 1:
        yield (
            "variants",
            partial(plot_variants, found),
            "What each variant changes against the first: paired differences with 95 % intervals, filled where Holm's p is under "
            "5 %, crosses without one, and what it costs.",
        )
    if found.table.nfe.notna().any():
        yield "shift-nfe", partial(plot_shift_nfe, found), "rms δ against network calls, with 95 % intervals."
        if found.distance() is not None:
            yield (
                "distance-nfe",
                partial(plot_distance_nfe, found),
                "Distance to real data against network calls, with 95 % intervals, coloured by the shift.",
            )
            yield (
                "pareto",
                partial(plot_pareto, found),
                "Distance against shift, with 95 % intervals; a line joins the runs of one NFE that no other of it beats in both.",
            )
    yield (
        "heat",
        partial(plot_heat, found),
        "δ by run and conditioning level; + and −: resolved; grey: not read.",
    )
    if len(found.shared):
        yield (
            "ridge",
            partial(plot_ridge, found),
            "Readings of sampling states against those of real ones (grey), at the level nearest to t = 0.1 that all were read at.",
        )
    yield (
        "phase",
        partial(plot_phase, found),
        "Effective against conditioning level: 1 where there is no shift.",
    )


def save_comparison(found: Comparison, folder: str | Path, *, paper: str | None = None) -> list[Path]:
    """Write table.tex and .md, and every figure as PNG and PDF, in the width of a `paper`; returns the figures."""
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    tables = [folder / "table.tex", folder / "table.md"]
    signed = (f"% {SIGNATURE} compare\n{{}}", f"<!-- {SIGNATURE} compare -->\n\n{{}}")
    for path, words, text in zip(tables, (latex_table, markdown_table), signed, strict=True):
        with spared(path.name), replaced_file(path, signed_table) as fresh:
            fresh.write_text(text.format(words(found)), encoding="utf-8")
    with style(paper):
        drawn = save_each(figures(found), folder / "figures")
    adopt(folder, [path for path in (*tables, *drawn) if path.exists()])
    return drawn


def _distance(found: Comparison) -> str:
    distance = found.distance()
    if distance is None:
        raise ValueError("these runs kept no features: compare with --extractor")
    return distance


def _families(table: pd.DataFrame) -> list[tuple[tuple[str, pd.DataFrame], str, str]]:
    """Rows that differ in their steps alone, by increasing NFE, with a colour and a marker."""
    table = table[table.nfe.notna()]
    solver = table.sampler.str.rpartition(":")[0]
    several = len(set(table.checkpoint)) > 1
    label = (
        (table.checkpoint + " " if several else "")
        + solver
        + np.where(table.guidance == "none", "", " " + table.guidance)
    )
    groups = [(in_figure(name), part.sort_values("nfe")) for name, part in table.groupby(label, sort=False)]
    return list(zip(groups, _cycle(COLOURS), _cycle(MARKERS), strict=False))


def _calls(ax: Axes, found: Comparison) -> None:
    """A logarithmic axis of NFE whose ticks are the runs' own numbers."""
    ax.set(xscale="log", xlabel="network calls per sample (NFE)")
    ticks: list[int] = []
    for nfe in sorted({int(nfe) for nfe in found.table.nfe.dropna()}):
        if not ticks or nfe > 1.2 * ticks[-1]:  # closer ones would run into each other
            ticks.append(nfe)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xticks([], minor=True)


def _cycle(values: Sequence[str]) -> list[str]:
    return list(values) * 8
