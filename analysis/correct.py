"""Figures and terminal tables of `noiseshift correct`: outcomes in, Axes and tables out."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from noiseshift.analysis.after import spared
from noiseshift.analysis.checks import kept, print_failures
from noiseshift.analysis.drawing import Figure, axes, save_all, say_unread
from noiseshift.analysis.names import in_figure, plain
from noiseshift.analysis.samples import ends_of, plot_samples, plot_states
from noiseshift.analysis.terminal import names_table, print_heading, screen

from noiseshift.studies.outcomes import Correction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")


def plot_shifts(shifts: pd.DataFrame, estimator: str, *, ax: Axes | None = None) -> Axes:
    """δ(t) of every method, with 95 % bands; black is unguided. `shifts` as `Correction.shifts(estimator)` gives it."""
    ax = axes(ax)
    ax.axhline(0, color="black", linewidth=0.8)
    for k, (method, table) in enumerate(shifts.groupby("method", sort=False)):
        colour = COLOURS[k % len(COLOURS)]
        ax.fill_between(table.t, table.low, table.high, color=colour, alpha=0.12, linewidth=0)
        ax.plot(
            table.t,
            table["shift"],
            marker="o",
            markersize=3,
            color=colour,
            label=in_figure(method),
            linestyle="-" if k < len(COLOURS) else "--",
        )
    ax.set(xlabel="conditioning time t: noise 1 → 0 data", ylabel=f"noise shift δ (in t), by {estimator}", xlim=(1, 0))
    if shifts["shift"].isna().all():
        say_unread(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def plot_scales(
    table: pd.DataFrame, *, distance: str, estimator: str, pair: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Distance and shift reduction against the scale, a line a kind of method; scale 0 is unguided. `table` as
    `Correction.table()` gives it; a curve needs two scales."""
    import matplotlib.pyplot as plt

    pair = plt.subplots(1, 2, figsize=(7, 2.8))[1] if pair is None else pair
    reduced = tuple(f"reduction {end}{estimator}" for end in ("", "low ", "high "))
    columns = ((distance, f"{distance} low", f"{distance} high"), reduced)
    kinds = [kind for kind, part in table[1:].groupby("kind", sort=False) if len(part) > 1]
    for ax, (value, low, high), label in zip(
        pair, columns, (distance, f"reduction of rms δ (%), by {estimator}"), strict=True
    ):
        for colour, kind in zip(COLOURS[1:], kinds, strict=False):
            part = pd.concat([table[:1], table[1:][table[1:].kind == kind]]).sort_values("scale")
            ax.fill_between(part.scale, part[low], part[high], color=colour, alpha=0.15, linewidth=0)
            ax.plot(part.scale, part[value], marker="o", color=colour, label=kind)
        ax.set(xlabel="guidance scale (0 = unguided)", ylabel=label)
        if table[value].isna().all():
            say_unread(ax, "no significant shift to reduce")
    pair[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return pair


def plot_trade(table: pd.DataFrame, *, distance: str, estimator: str, ax: Axes | None = None) -> Axes:
    """Distance against the rms shift that is left, a point per method: is the least shift the best image? Bars: the 95 %
    interval, where there are enough samples for one.

    `table` as `Correction.table()` gives it, or as `methods.csv` holds it.
    """
    ax = axes(ax)
    for k, row in enumerate(table.to_dict("records")):
        colour = COLOURS[k % len(COLOURS)]
        shift = row[f"rms {estimator}"]
        ax.vlines(shift, row[f"{distance} low"], row[f"{distance} high"], color=colour, linewidth=0.8)
        marker = "osD^vP"[k // len(COLOURS) % 6]
        ax.plot(shift, row[distance], marker, markersize=5, color=colour, label=in_figure(row["method"]))
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    ax.set(xlabel=f"rms δ (in t), by {estimator}", ylabel=in_figure(distance))
    if table[f"rms {estimator}"].isna().all():
        say_unread(ax)
    return ax


def plot_grids(found: Correction, *, pictures: int = 30) -> np.ndarray:
    """The first samples of every method side by side: the same seeds and classes."""
    import matplotlib.pyplot as plt

    states = found.outcomes[0].pictures.is_floating_point()
    width, height = (3.2, 2.6) if states else (2.4, 1.1)
    shown = [outcome.pictures[:pictures] for outcome in found.outcomes]
    draw = partial(plot_states, ends=ends_of(*shown)) if states else plot_samples
    n = len(found.outcomes)
    columns = min(4, n)
    rows = -(-n // columns)
    size = (width * columns, height * rows)
    # One scale: corrections change how far samples spread.
    _, every = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=states, sharey=states)
    for ax in every.flat[n:]:
        ax.set_axis_off()
    for ax, outcome, samples in zip(every.flat, found.outcomes, shown, strict=False):
        draw(samples, ax=ax).set_title(in_figure(outcome.method.name), fontsize=7)
    return every


def figures(table: pd.DataFrame, shifts: pd.DataFrame, *, distance: str, estimator: str) -> Iterator[Figure]:
    """The figures of a correction, from the tables that are saved with it."""
    yield (
        "shift",
        partial(plot_shifts, shifts, estimator),
        f"δ against the conditioning level under every method, by {estimator}, with 95 % bands.",
    )
    yield (
        "trade",
        partial(plot_trade, table, distance=distance, estimator=estimator),
        "Distance against the shift that is left: has the least shift the best samples? Bars are the distance's 95 % intervals.",
    )
    if "kind" in table and table.kind[1:].duplicated().any():
        yield (
            "scales",
            lambda: plot_scales(table, distance=distance, estimator=estimator)[0],
            "Distance and reduction of the shift against the scale; 0 is unguided.",
        )


def save_figures(found: Correction, folder: str | Path) -> list[Path]:
    """Every figure of a correction as PNG and PDF; returns the files. In a correction's own folder they become part of it."""
    distance = found.outcomes[0].quality.metric.iloc[0]
    name = next(iter(found.outcomes[0].reports))
    drawn = figures(found.table(), found.shifts(name), distance=distance, estimator=name)
    samples = ("samples", lambda: plot_grids(found)[0, 0], "")
    return save_all([*drawn, samples], folder)


@spared("the table on the terminal")
def print_correction(found: Correction) -> None:
    """What the methods did, for people, and which one to choose."""
    console = screen()
    about = found.manifest
    print_failures(console, kept(about))
    print_heading(
        console,
        about["checkpoint"]["name"],
        f"{about['sampler']}, {about['samples']} samples, seed {about['seed']}, {about['seconds']} s",
    )
    console.print(correction_table(found))
    console.print(
        "δ: rms over steps, its own error taken out; reduction: against none, with its paired interval; change: "
        "paired, 95 %; ● resolved; NFE: calls of the denoiser + of the level estimator. Scale 0 = unguided.",
        style="dim",
    )
    console.print(plain(choice(about, *found.chosen())))


def choice(about: Mapping[str, Any], method: str, reason: str) -> str:
    """Which method to choose, and why: the first line of the page, and the last on the terminal.

    Args:
        about: the study's manifest.
        method: its name.
        reason: what `Correction.chosen` says.
    """
    return f"On {about['checkpoint']['name']} under {about['sampler']} the method to choose is {method}: {reason}."


def correction_table(found: Correction) -> Table:
    """One row per method, by the first estimator."""
    frame = found.table()
    distance = found.outcomes[0].quality.metric.iloc[0]
    name = next(iter(found.outcomes[0].reports))
    table = names_table(
        f"shift read by {name}", "method", ("NFE", "δ", "reduction", "95 %", distance, "change", "95 %")
    )
    for row in frame.to_dict("records"):
        resolved = row["change high"] < 0 or row["change low"] > 0
        table.add_row(
            plain(row["method"]),
            _calls(row),
            _size(row, name),
            _percent(row[f"reduction {name}"]),
            f"{_whole(row[f'reduction low {name}'])} {_whole(row[f'reduction high {name}'])}",
            f"{row[distance]:.2f}",
            f"{row['change']:+.2f} {'●' if resolved else ' '}",
            "·" if pd.isna(row["change low"]) else f"{row['change low']:+.2f} {row['change high']:+.2f}",
        )
    return table


def _size(row: dict[Hashable, Any], name: str) -> str:
    """The rms shift; where 0 is not ruled out, only what it is below, and a dot where no level can be read."""
    if pd.isna(row[f"rms {name}"]):
        return "·"
    return f"< {row[f'rms high {name}']:.4f}" if row[f"rms low {name}"] == 0 else f"{row[f'rms {name}']:.4f}"


def _calls(row: dict[Hashable, Any]) -> str:
    """The denoiser's calls per sample, and the level estimator's behind a +."""
    if pd.isna(row["nfe"]):
        return "·"
    return f"{row['nfe']:.0f}" + (f"+{row['level calls']:.0f}" if row["level calls"] else "")


def _percent(value: float) -> str:
    return "·" if pd.isna(value) else f"{value:+.0f} %"


def _whole(value: float) -> str:
    return "·" if pd.isna(value) else f"{value:+.0f}"
