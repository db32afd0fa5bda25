"""Figures and terminal tables of a study of Statement 1: reports in, Axes or tables out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from noiseshift.analysis.after import spared
from noiseshift.analysis.checks import kept, print_failures
from noiseshift.analysis.drawing import ON_DARK, ON_LIGHT, UNREAD, Figure, axes, save_all, shades_of
from noiseshift.analysis.names import plain
from noiseshift.analysis.terminal import numbers_table, print_heading, screen, signed

from noiseshift.approximation import ApproximationReport, PathReport
from noiseshift.studies.approximate import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from rich.table import Table

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")


def plot_injected(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Shift over σ_e/σ_t, both in units of σ_t/σ̇_t so that Statement 1 is one curve at every t (black): measured with
    its 95 % band, and the `snr` root of each t dashed. `table` of one `ApproximationReport`."""
    ax = axes(ax)
    for colour, (t, part) in zip(COLOURS, table.groupby("t", sort=False), strict=False):
        unit = part.first_order / (np.sqrt(1 + part.ratio**2) - 1)  # σ_t/σ̇_t, by Statement 1 itself
        ax.fill_between(part.ratio, part.low / unit, part.high / unit, color=colour, alpha=0.18, linewidth=0)
        ax.plot(part.ratio, part.measured / unit, marker="o", color=colour, label=f"t = {t:.2g}")
        ax.plot(part.ratio, part.snr / unit, linestyle="--", linewidth=0.9, color=colour)
    ratio = np.linspace(0, table.ratio.max(), 100)
    ax.plot(ratio, np.sqrt(1 + ratio**2) - 1, color="black", linewidth=1.4, label="Statement 1")
    ax.plot([], [], linestyle="--", linewidth=0.9, color="#555555", label="snr root")
    ax.set(xlabel="injected noise over the state's, σ_e / σ_t", ylabel="relative shift, δ · σ̇_t / σ_t")
    ax.legend(loc="upper left", ncols=2)
    return ax


def plot_predicted(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Measured shift over the one that Statement 1 predicts, a colour a t; the diagonal is agreement."""
    ax = axes(ax)
    shown = table[table.resolved]
    ends = [float(shown.first_order.min()) * 0.7, float(shown.first_order.max()) * 1.4]
    ax.plot(ends, ends, color="black", linewidth=0.8)
    for colour, (t, part) in zip(COLOURS, shown.groupby("t", sort=False), strict=False):
        spread = np.abs(np.stack([part.measured - part.low, part.high - part.measured]))
        ax.errorbar(part.first_order, part.measured, spread, fmt="o", markersize=4, color=colour, label=f"t = {t:.2g}")
    ax.set(xscale="log", yscale="log", xlabel="δ by Statement 1 (in t)", ylabel="measured δ (in t)")
    for axis in (ax.xaxis, ax.yaxis):
        _plain_ticks(axis)
    ax.legend()
    return ax


def _plain_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of each decade, as plain numbers: those of a short logarithmic axis run into each other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def plot_error_map(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """First order against measured shift, in per cent, over (t, σ_e/σ_t); a dot where the difference is not resolved."""
    import matplotlib.pyplot as plt

    ax = axes(ax)
    times = table.t.unique()
    rows, columns = len(times), len(table) // len(times)
    error = 100 * table.error.to_numpy().reshape(rows, columns)
    unsure = ((table.error_low <= 0) & (table.error_high >= 0)).to_numpy().reshape(rows, columns)
    limit = max(10.0, float(np.nanquantile(np.abs(error), 0.9)))
    colours = plt.get_cmap("RdBu_r").with_extremes(bad=UNREAD)
    image = ax.imshow(error, cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label="first order / measured − 1 (%)", extend="both")
    for k, j in np.ndindex(error.shape):
        words = "n.r." if np.isnan(error[k, j]) else f"{error[k, j]:+.0f}{'·' if unsure[k, j] else ''}"
        ax.text(
            j,
            k,
            words,
            ha="center",
            va="center",
            fontsize=6,
            color=ON_DARK if abs(error[k, j]) > 0.7 * limit else ON_LIGHT,
            gid="on-cell",
        )
    ratios = table.ratio.to_numpy().reshape(rows, columns)
    ax.set_xticks(range(columns), [f"{r:.2g}" for r in ratios[-1]])
    ax.set_yticks(range(rows), [f"{t:.2g}" for t in times])
    ax.set(xlabel="injected noise over the state's, σ_e / σ_t", ylabel="conditioning time t")
    ax.grid(False)
    return ax


def plot_path(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """A real run: the shift measured against the fine run, and what first order predicts with and without the cross term.
    `table` of one `PathReport`."""
    ax = axes(ax)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.fill_between(table.t, table.low, table.high, color="#0072B2", alpha=0.18, linewidth=0)
    ax.plot(table.t, table.measured, marker="o", color="#0072B2", label="measured, coarse − fine")
    ax.plot(table.t, table.first_order, linestyle="--", color="#D55E00", label="Statement 1 from σ_e")
    ax.plot(table.t, table.with_cross, linestyle="-.", color="#009E73", label="… with the cross term")
    ax.set(xlabel="conditioning time t: noise 1 → 0 data", ylabel="shift δ (in t)", xlim=(1, 0))
    ax.legend()
    return ax


def plot_spectrum(times: np.ndarray, spectrum: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Radial power (K, F) of the run's error at each of `times` (K,); 1 everywhere if it were white."""
    ax = axes(ax)
    ax.axhline(1, color="black", linewidth=0.8)
    shades = shades_of()(np.linspace(0, 1, len(times)))
    for shade, t, power in zip(shades, times, spectrum, strict=True):
        ax.plot(np.arange(len(power)), power, color=shade, label=f"t = {t:.2g}")
    ax.set(yscale="log", xlabel="radial frequency (cycles per picture)", ylabel="power of the error e, 1 = white")
    ax.legend(ncols=2)
    return ax


def figures(injected: pd.DataFrame, paths: pd.DataFrame, spectra: Mapping[str, np.ndarray]) -> Iterator[Figure]:
    """Every figure of a study, from the tables that `Study.save` writes."""
    for name, part in injected.groupby("estimator", sort=False):
        if not part.resolved.any():
            continue
        yield (
            f"injected-{name}",
            partial(plot_injected, part),
            f"Known errors added to real states: the shift that they make, by {name}, against Statement 1.",
        )
        yield (
            f"predicted-{name}",
            partial(plot_predicted, part),
            f"Measured shift, by {name}, against the one predicted; where it is resolved, with 95 % bars.",
        )
        yield (
            f"error-{name}",
            partial(plot_error_map, part),
            f"How far first order is from the shift, by {name}; a dot: not resolved; n.r.: nothing to compare with.",
        )
    seen = set()
    for (sampler, model, name), part in (
        paths.groupby(["sampler", "model", "estimator"], sort=False) if len(paths) else ()
    ):
        run = f"{sampler.replace(':', '-')}-{model}"
        what = f"{sampler} with the {model} model"
        yield (
            f"path-{run}-{name}",
            partial(plot_path, part),
            f"{what}: its shift against a fine run, by {name}, and what Statement 1 makes of its error.",
        )
        spectrum = spectra[f"{sampler} {model} {name}"]
        if spectrum.shape[1] and run not in seen:
            seen.add(run)  # all estimators follow the same error
            yield (
                f"spectrum-{run}",
                partial(plot_spectrum, part.t.to_numpy(), spectrum),
                f"{what}: power of its error against frequency; white noise is 1 everywhere.",
            )


def save_figures(study: Study, folder: str | Path) -> list[Path]:
    """Every figure of a study as PNG and PDF; returns the files. In a study's own folder they become part of it."""
    return save_all(figures(study.injection_table(), study.path_table(), study.spectra()), folder)


@spared("the table on the terminal")
def print_study(study: Study) -> None:
    """What a study found, for people: tables on the terminal, then the answer in words."""
    console = screen()
    about = study.manifest
    print_failures(console, kept(about))
    print_heading(
        console,
        about["checkpoint"]["name"],
        f"Statement 1: {about['rows']} real states, {', '.join(about['samplers'])} with {about['samples']} paths, seed "
        f"{about['seed']}, {about['seconds']} s",
    )
    for name, report in study.injected.items():
        console.print(injection_table(report, name))
    for (sampler, model, name), path in study.paths.items():
        console.print(path_table(path, f"{sampler}, {model} model, read by {name}"))
    console.print(
        "δ: measured. sigma, snr, post.: exact roots; 1st: Statement 1; + cross: with 2σ⟨ε, e⟩/d; ~x0, ~ε: correlation of "
        "e with data and noise; kurt: excess; low f: power in the lower half of the frequencies (white: 27 %)",
        style="dim",
    )
    for line in conclusions(study):
        console.print(plain(line))


def injection_table(report: ApproximationReport, title: str) -> Table:
    """One row a (t, σ_e): measured, the exact roots, first order and its error."""
    table = numbers_table(
        f"{title}: known errors injected",
        ("t", "σ_e/σ", "δ", "95 % interval", "sigma", "snr", "post.", "1st", "error"),
    )
    for row in report.table().itertuples():
        table.add_row(
            f"{row.t:.3f}",
            f"{row.ratio:.2f}",
            signed(row.measured),
            f"{signed(row.low)} {signed(row.high)}",
            signed(row.sigma),
            signed(row.snr),
            signed(row.posterior),
            signed(row.first_order),
            "n.r." if not row.resolved else f"{100 * row.error:+.0f} %",
            style=None if row.resolved else "dim",
        )
    return table


def path_table(report: PathReport, title: str) -> Table:
    """One row a time of a real run."""
    table = numbers_table(
        title,
        ("t", "σ_e/σ", "1st", "+ cross", "δ", "95 % interval", "~x0", "~ε", "kurt", "low f"),
    )
    for row in report.table().itertuples():
        table.add_row(
            f"{row.t:.3f}",
            f"{row.ratio:.2f}",
            signed(row.first_order),
            signed(row.with_cross),
            signed(row.measured),
            f"{signed(row.low)} {signed(row.high)}",
            f"{row.along_x0:+.2f}",
            f"{row.along_eps:+.2f}",
            f"{row.excess_kurtosis:+.1f}",
            "·" if pd.isna(row.low_half) else f"{100 * row.low_half:.0f} %",
            style=None if row.resolved else "dim",
        )
    return table


ROOTS = {
    "sigma": "the exact root in σ",
    "snr": "the exact root in signal-to-noise ratio",
    "posterior": "the posterior root, from the data's spectrum",
    "first_order": "first order itself",
}


def answer(injected: pd.DataFrame) -> tuple[str, str, str]:
    """What first order is worth, which root is nearest, and both in few words; of a table of injected errors."""
    seen = injected[injected.resolved]
    if seen.empty:
        none = f"None of {len(injected)} injected errors makes a shift that is resolved."
        return none, "No prediction can be judged.", "none resolved"
    nearest = min(ROOTS, key=lambda root: median_error(seen, root))
    return (
        f"Of {len(injected)} injected errors {len(seen)} make a shift that is resolved; Statement 1's first order misses it by "
        f"{off(seen, 'first_order')}.",
        f"The nearest prediction is {ROOTS[nearest]}, off by {off(seen, nearest)}. "
        "Predictions were not tested against each other.",
        f"first order off by {off(seen, 'first_order')}",
    )


def conclusions(study: Study) -> list[str]:
    """The answer in words: a line per estimator, and one per run and estimator."""
    lines = [f"{name}: {' '.join(answer(report.table())[:2])}" for name, report in study.injected.items()]
    for (sampler, model, name), path in study.paths.items():
        table = path.table()
        seen = table[table.resolved]
        if seen.empty:
            lines.append(f"{sampler}, {model} model, {name}: the run's own error makes no shift that is resolved.")
            continue
        plain, crossed = (float(np.median(np.abs(seen[c] - seen.measured))) for c in ("first_order", "with_cross"))
        lines.append(
            f"{sampler}, {model} model, {name}: Statement 1 misses the measured shift by {plain:.4f} (median over "
            f"{len(seen)} resolved steps), with the cross term by {crossed:.4f}."
        )
    return lines


def median_error(table: pd.DataFrame, column: str) -> float:
    """Median relative distance from the measured shift."""
    return float((table[column] / table.measured - 1).abs().median())


def off(table: pd.DataFrame, column: str) -> str:
    """Relative distances from the measured shift in percent: their median, and where the middle half of them lies."""
    errors = 100 * (table[column] / table.measured - 1).abs()
    low, high = errors.quantile(0.25), errors.quantile(0.75)
    return f"{errors.median():.0f} % (median; half of them between {low:.0f} and {high:.0f} %)"
