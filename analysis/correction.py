"""Figures and terminal tables of `noiseshift correct`: outcomes in, Axes, tables and files out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from noiseshift.analysis.plots import axes, plot_samples, style

from noiseshift.correction import Correction
from noiseshift.runs import whole_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")


def plot_shifts(found: Correction, *, ax: Axes | None = None) -> Axes:
    """δ(t) of every method as the first estimator reads it, with 95 % bands; black is unguided."""
    ax = axes(ax)
    ax.axhline(0, color="black", linewidth=0.8)
    name = next(iter(found.outcomes[0].reports))
    for k, outcome in enumerate(found.outcomes):
        table, colour = outcome.reports[name].table(), COLOURS[k % len(COLOURS)]
        ax.fill_between(table.t, table.low, table.high, color=colour, alpha=0.12, linewidth=0)
        ax.plot(
            table.t,
            table["shift"],
            marker="o",
            markersize=3,
            color=colour,
            label=outcome.method.name,
            linestyle="-" if k < len(COLOURS) else "--",
        )
    ax.set(xlabel="told time t: noise 1 → 0 data", ylabel=f"noise shift δ (in t), by {name}", xlim=(1, 0))
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


def plot_scales(found: Correction, *, kinds: tuple[str, ...] = ("nag",), pair: np.ndarray | None = None) -> np.ndarray:
    """Distance and shift reduction against the scale, a line a kind of method; scale 0 is unguided."""
    import matplotlib.pyplot as plt

    table = found.table()
    distance, name = found.outcomes[0].quality.metric.iloc[0], next(iter(found.outcomes[0].reports))
    pair = plt.subplots(1, 2, figsize=(7, 2.8))[1] if pair is None else pair
    columns = (
        (distance, f"{distance} low", f"{distance} high"),
        *[(f"reduction {name}", f"reduction low {name}", f"reduction high {name}")],
    )
    for ax, (value, low, high), label in zip(
        pair, columns, (distance, f"reduction of rms δ (%), by {name}"), strict=True
    ):
        for colour, kind in zip(COLOURS[1:], kinds, strict=False):
            rows = [k for k, o in enumerate(found.outcomes) if o.method.kind == kind or k == 0]
            scales = np.array([found.outcomes[k].method.scale for k in rows])
            order = np.argsort(scales)
            part = table.iloc[np.array(rows)[order]]
            ax.fill_between(scales[order], part[low], part[high], color=colour, alpha=0.15, linewidth=0)
            ax.plot(scales[order], part[value], marker="o", color=colour, label=kind)
        ax.set(xlabel="guidance scale (0 = unguided)", ylabel=label)
    pair[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return pair


def plot_trade(table: pd.DataFrame, *, distance: str, estimator: str, ax: Axes | None = None) -> Axes:
    """Distance against the rms shift that is left, a point a method: is the least shift the best image?

    `table` as `Correction.table()` gives it, or as `methods.csv` holds it.
    """
    ax = axes(ax)
    spread = np.abs(np.stack([table[distance] - table[f"{distance} low"], table[f"{distance} high"] - table[distance]]))
    for k, row in enumerate(table.to_dict("records")):
        ax.errorbar(
            row[f"rms {estimator}"],
            row[distance],
            spread[:, k : k + 1],
            fmt="osD^vP"[k // len(COLOURS) % 6],
            markersize=5,
            color=COLOURS[k % len(COLOURS)],
            elinewidth=0.8,
            label=row["method"],
        )
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    ax.set(xlabel=f"rms δ (in t), by {estimator}", ylabel=distance)
    return ax


def plot_grids(found: Correction, *, pictures: int = 30) -> Figure:
    """The first pictures of every method side by side: the same seeds and classes."""
    import matplotlib.pyplot as plt

    n = len(found.outcomes)
    columns = min(4, n)
    rows = -(-n // columns)
    figure, every = plt.subplots(rows, columns, figsize=(2.4 * columns, 1.0 * rows * 1.1), squeeze=False)
    for ax in every.flat:
        ax.set_axis_off()
    for ax, outcome in zip(every.flat, found.outcomes, strict=False):
        plot_samples(outcome.pictures[:pictures], ax=ax).set_title(outcome.method.name, fontsize=7)
    return figure


def save_correction(found: Correction, folder: str | Path) -> list[str]:
    """`run.json`, `methods.csv`, `shift-<estimator>.csv` and the figures as PNG and PDF, whole or not at all."""
    import matplotlib.pyplot as plt

    written = []
    with whole_folder(folder) as fresh, style():
        about = found.manifest | {"chosen": found.chosen()}
        (fresh / "run.json").write_text(json.dumps(about, indent=2, default=str) + "\n")
        found.table().to_csv(fresh / "methods.csv", index=False)
        for each in found.outcomes[0].reports:
            tables = [o.reports[each].table().assign(method=o.method.name) for o in found.outcomes]
            pd.concat(tables).to_csv(fresh / f"shift-{each}.csv", index=False)
        distance, name = found.outcomes[0].quality.metric.iloc[0], next(iter(found.outcomes[0].reports))
        counts = Counter(o.method.kind for o in found.outcomes[1:])
        kinds = tuple(kind for kind, count in counts.items() if count > 1)  # a curve needs two scales
        (fresh / "figures").mkdir()
        figures: dict[str, Callable[[], Any]] = {
            "shift": lambda: plot_shifts(found).figure,
            "trade": lambda: plot_trade(found.table(), distance=distance, estimator=name).figure,
            "samples": lambda: plot_grids(found),
        }
        if kinds:
            figures["scales"] = lambda: plot_scales(found, kinds=kinds)[0].figure
        for stem, draw in figures.items():
            figure = draw()
            for suffix in ("png", "pdf"):
                written.append(f"{stem}.{suffix}")
                figure.savefig(fresh / "figures" / written[-1])
            plt.close(figure)
    return written


def print_correction(found: Correction) -> None:
    """What the methods did, for people, and which one to choose."""
    from rich.console import Console

    console = Console()
    about = found.manifest
    console.print(
        f"[bold]{about['checkpoint']['name']}[/bold]  {about['sampler']}, {about['samples']} samples, seed "
        f"{about['seed']}, {about['seconds']} s"
    )
    console.print(correction_table(found))
    console.print(
        "δ: rms over steps, its own error taken out; less: reduction against none, with its paired interval; change: "
        "paired, 95 %; ● resolved; NFE: calls of the denoiser + of the level estimator. Scale 0 = unguided.",
        style="dim",
    )
    name, reason = found.chosen()
    console.print(f"choose: [bold]{name}[/bold]: {reason}")


def correction_table(found: Correction) -> Table:
    """One row a method, by the first estimator."""
    from rich import box
    from rich.table import Table

    frame = found.table()
    distance, name = found.outcomes[0].quality.metric.iloc[0], next(iter(found.outcomes[0].reports))
    table = Table(
        title=f"shift read by {name}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for heading in ("method", "NFE", "δ", "less %", "95 %", distance, "change", "95 %", ""):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=heading != "method")
    for row in frame.to_dict("records"):
        resolved = row["change high"] < 0 or row["change low"] > 0
        table.add_row(
            row["method"],
            _calls(row),
            f"{row[f'rms {name}']:.4f}",
            _whole(row[f"reduction {name}"]),
            f"{_whole(row[f'reduction low {name}'])} {_whole(row[f'reduction high {name}'])}",
            f"{row[distance]:.2f}",
            f"{row['change']:+.2f}",
            f"{row['change low']:+.2f} {row['change high']:+.2f}",
            "●" if resolved else "",
        )
    return table


def _calls(row: dict[Hashable, Any]) -> str:
    """The denoiser's calls a sample, and the level estimator's behind a +."""
    if pd.isna(row["nfe"]):
        return "·"
    return f"{row['nfe']:.0f}" + (f"+{row['level calls']:.0f}" if row["level calls"] else "")


def _whole(value: float) -> str:
    return "·" if pd.isna(value) else f"{value:+.0f}"
