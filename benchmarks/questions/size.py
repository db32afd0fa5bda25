"""How does the shift change with the network's size and training?

    python benchmarks/questions/small.py --out runs/small      # the trainings
    python benchmarks/questions/size.py runs/small             # five minutes on one core
    python benchmarks/questions/size.py figure                 # the figure alone, from the table

Networks of widths 32, 64 and 128 after 2 … 100 % of their training, on a distribution that is known exactly. 2,000 samples
by 20 steps of Euler–Maruyama and of Euler; δ by the exact posterior. *The network's share* is δ minus that of a perfect
network along the same noise. The error of the network is its mean squared difference from the exact velocity. Each is the
mean of three trainings, each with sampling noise of its own, and the interval is Student's t over the three. Writes
docs/data/question-size.csv and docs/figures/question-size.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from common import COLOURS, DOCS, LINES, MARKERS, keep, save, style
from exact_reading import LEVELS, error, perfect, run
from small import SEEDS, SHARES, Cell, trained

from noiseshift.evaluation import student

SOLVERS = ("em:20", "euler:20")
WIDTHS = (32, 64, 128)
SAMPLES = 2000


def seeds_of(folder: Path, width: int, share: float, plain: dict) -> pd.DataFrame:
    """A row per training, solver and level."""
    rows = []
    for seed in SEEDS:
        model = trained(folder, Cell("velocity", width, seed), share)
        off = error(model, "velocity").value
        for solver in SOLVERS:
            found, without = run(model, solver, "velocity", SAMPLES, seed), plain[solver, seed]
            distance, more = found.distance.change().value, found.distance.minus(without.distance).value
            for k, t in enumerate(LEVELS):
                delta, alone = found.shifts[:, k].mean(), without.shifts[:, k].mean()
                rows.append((solver, t, off, delta, alone, delta - alone, distance, more))
    return pd.DataFrame(rows, columns=["solver", "t", *COLUMNS])


COLUMNS = ("error", "δ", "δ, perfect network", "network's share of δ", "FD", "FD over the perfect network's")


def summarised(parts: pd.DataFrame) -> dict:
    found = {}
    for name in COLUMNS:
        change = student(parts[name].to_numpy())
        found |= {name: change.value, f"{name} low": change.low, f"{name} high": change.high}
    return found


def main(folder: Path) -> None:
    plain = {(s, seed): run(perfect("velocity"), s, "velocity", SAMPLES, seed) for s in SOLVERS for seed in SEEDS}
    rows = []
    for width in WIDTHS:
        for share in SHARES:
            for (solver, t), parts in seeds_of(folder, width, share, plain).groupby(["solver", "t"], sort=False):
                rows.append({"width": width, "trained (%)": 100 * share, "solver": solver, "t": t, **summarised(parts)})
            print(width, share, flush=True)
    table = pd.DataFrame(rows)
    keep(table, "size", 5)
    draw(table)


def draw(table: pd.DataFrame) -> None:
    shown = (
        ("em:20", "network's share of δ", "network's share of δ at t = 0.2", "Euler–Maruyama"),
        ("euler:20", "network's share of δ", "", "Euler"),
        ("em:20", "error", "squared error of the velocity", "the network alone"),
    )
    with style():
        figure, panels = plt.subplots(1, 3, figsize=(5.5, 2.8))
        for ax, (solver, column, label, title) in zip(panels, shown, strict=True):
            part = table[(table.solver == solver) & (table.t == 0.2)]
            for k, (width, line) in enumerate(part.groupby("width")):
                x = line["trained (%)"] * (1 + 0.06 * (k - 1))
                ax.vlines(x, line[f"{column} low"], line[f"{column} high"], color=COLOURS[k], linewidth=1)
                named = f"width {width}"
                ax.plot(x, line[column], LINES[k], marker=MARKERS[k], color=COLOURS[k], markersize=3.5, label=named)
            ax.set(xscale="log", yscale="log", xlabel="training (%)", ylabel=label, title=title)
            ax.set_xticks([2, 10, 100], ["2", "10", "100"])
            ax.xaxis.minorticks_off()
        panels[1].set_ylim(panels[0].get_ylim())
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
        save(figure, "size")


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.seterr(all="raise", under="ignore")
    if sys.argv[1:] == ["figure"]:
        draw(pd.read_csv(DOCS / "data" / "question-size.csv"))
    else:
        main(Path(sys.argv[1]))
