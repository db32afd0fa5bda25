"""The shift by parts and groups: a sentence a kind, a table for the terminal, columns for the page, a figure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from noiseshift.analysis.baseline import against
from noiseshift.analysis.drawing import UNREAD, Figure, axes, signs
from noiseshift.analysis.names import in_figure, plain
from noiseshift.analysis.page_parts import Column
from noiseshift.analysis.phrases import NOT_READABLE, at, chance, delta
from noiseshift.analysis.terminal import numbers_table, signed

from noiseshift.studies.folders import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

COLUMNS: tuple[Column, ...] = (
    (
        "part",
        "part",
        "Haar band (first letter along the width, second along the height), region, frame or group of samples",
    ),
    ("estimator", "estimator", "what read the level"),
    ("t", "conditioning t", "the time that the network is conditioned on: 1 is noise, 0 is data"),
    ("shift", "δ", "noise shift in t; above 0 the part is noisier than the conditioning level"),
    ("low", "95 % from", "lower end of δ's interval of this part and level alone, in t"),
    ("high", "to", "its upper end, in t"),
    (
        "joint_low",
        "jointly from",
        "lower end of the interval that holds at all parts and levels at once, at 95 %, in t",
    ),
    ("joint_high", "to", "its upper end, in t"),
    ("floor", "floor", "the least |δ| whose own interval leaves out 0, in t"),
    ("slope", "slope", "how far the reading moves when the level does; outside 0.5 … 2 it is not read"),
    ("significant", "significant", "whether the joint interval leaves out 0"),
    ("n", "n", "sampling states read"),
    ("against", "against", "the real states that they are compared with"),
)

MOST = 8
"""Parts that a row of the terminal's table has room for."""


def kinds(run: Run) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each kind of parts, as the first estimator that read it does."""
    if run.parts is None or run.parts.empty:
        return
    for kind, rows in run.parts.groupby("kind", sort=False):
        yield str(kind), rows[rows.estimator == rows.estimator.iloc[0]]


def lines(run: Run) -> list[str]:
    """A sentence a kind."""
    return [_sentence(kind, rows) for kind, rows in kinds(run)]


def _sentence(kind: str, rows: pd.DataFrame) -> str:
    read = rows[rows["shift"].notna()]
    found = rows[rows.significant]
    count = f"{rows.part.nunique()} {kind}s" if not kind.endswith("s") else f"{rows.part.nunique()} {kind}es"
    if read.empty:
        return f"By {kind}: no part can be read ({NOT_READABLE})."
    over = f"{chance(rows.p.iloc[0])} over {count} and {read.t.nunique()} levels together, by {rows.estimator.iloc[0]}"
    if found.empty:
        bound = float(read[["joint_low", "joint_high"]].abs().to_numpy().max())
        return (
            f"By {kind}: no shift is significant at 95 % ({over}); |δ| is below {bound:.4f} in t wherever it is read."
        )
    top = found.loc[found["shift"].abs().idxmax()]
    where = f"{len(found)} of {len(read)} readings, in {', '.join(_some(list(dict.fromkeys(found.part))))}"
    return (
        f"By {kind}: significant at {where} ({over}); the largest is {delta(top['shift'])} (jointly {delta(top.joint_low)} … "
        f"{delta(top.joint_high)}) in {top.part} at {at(top.t)}."
    )


def _some(names: list[str], most: int = 8) -> list[str]:
    return names if len(names) <= most else [*names[:most], f"{len(names) - most} more"]


def tables(run: Run) -> Iterator[Table]:
    """A table a kind for the terminal: a row a level, a column a part; those furthest from 0 where there are many."""
    for kind, rows in kinds(run):
        shown = _furthest(rows)
        left = rows.part.nunique() - len(shown)
        more = f", the {len(shown)} furthest from 0 (all: parts.parquet)" if left else ""
        found = numbers_table(
            f"δ by {kind}, {rows.estimator.iloc[0]}{more}", ("t", *(plain(name)[:8] for name in shown))
        )
        cells = rows.set_index(["t", "part"])
        for t in dict.fromkeys(rows.t):
            found.add_row(f"{t:.3f}", *(_cell(cells.loc[(t, name)]) for name in shown))
        yield found


def _cell(row: pd.Series) -> str:
    return signed(row["shift"]) + ("●" if row.significant else " ")


def _furthest(rows: pd.DataFrame) -> list[str]:
    """Names of the parts to show, in their order: those of the largest significant shifts, then those nearest to be significant."""
    names = list(dict.fromkeys(rows.part))
    if len(names) <= MOST:
        return names
    size = rows["shift"].abs()
    ranks = pd.DataFrame({"significant": size.where(rows.significant.astype(bool), 0), "reach": size / rows.floor})
    furthest = ranks.fillna(0).groupby(rows.part).max().sort_values(["significant", "reach"], ascending=False)
    chosen = set(furthest.index[:MOST])
    return [name for name in names if name in chosen]


def plot_parts(rows: pd.DataFrame, *, baseline: str = "", ax: Axes | None = None) -> Axes:
    """δ by part and conditioning level; its sign where it is significant at all of them at once, grey where it is not read.

    Args:
        rows: of one kind and estimator, of `Run.parts`.
        baseline: words on what the shift is against, for the label.
        ax: drawn on; new ones by default.
    """
    import matplotlib.pyplot as plt

    ax = axes(ax)
    names = list(dict.fromkeys(rows.part))
    times = list(dict.fromkeys(rows.t))
    values, significant = (
        rows[column].to_numpy().reshape(len(names), len(times)) for column in ("shift", "significant")
    )
    seen = np.abs(values[np.isfinite(values)])
    limit = max(1e-4, float(seen.max())) if len(seen) else 1e-4
    colours = plt.get_cmap("RdBu_r").with_extremes(bad=UNREAD)
    image = ax.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    signs(ax, values, significant.astype(bool), limit)
    ax.set_xticks(range(len(times)), [f"{t:.2f}".lstrip("0") for t in times])
    every = max(1, len(names) // 25)
    ax.set_yticks(range(0, len(names), every), [in_figure(name) for name in names[::every]])
    ax.set_xlabel("conditioning time t: noise → data")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label=f"δ (in t), by {rows.estimator.iloc[0]}{baseline}")
    return ax


def figures(run: Run) -> Iterator[Figure]:
    """A figure a kind."""
    for kind, rows in kinds(run):
        stem = "by-" + "".join(letter if letter.isalnum() else "-" for letter in kind)
        yield (
            stem,
            partial(plot_parts, rows, baseline=against(run.baseline)),
            f"The shift δ by {kind} and conditioning level; + and −: significant at all of them at once, at 95 %; grey: not read.",
        )
