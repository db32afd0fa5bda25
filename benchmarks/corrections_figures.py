"""The two figures of docs/reports/corrections.md, from its own tables.

    python benchmarks/corrections_figures.py          # seconds

Reads docs/data/corrections-training.csv and corrections-stage-2.csv; writes docs/figures/correction-training.png (the share of the
unguided distance that each method removes, along a training) and correction-early.png (distance against the reduction of the
shift, as two estimators read it).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from noiseshift.analysis import drawing

DOCS = Path(__file__).parent.parent / "docs"
METHODS = {
    "NAG 1": ("NAG, scale 1", "o-", "#0072B2"),
    "projection": ("level projection", "s--", "#E69F00"),
    "NAG as scores, 0.5": ("NAG as scores, scale 0.5", "D:", "#009E73"),
    "CFG 1": ("CFG, scale 1", "^-.", "#D55E00"),
    "CFG 1 and NAG 1": ("CFG 1 and NAG 1", "v-", "#CC79A7"),
}
SHOWN = {
    "none": ("none", "*"),
    "nag = 1": ("NAG 1", "o"),
    "cfg = 1": ("CFG 1", "^"),
    "cfg = 1, nag = 1": ("CFG 1 and NAG 1", "v"),
    "projection": ("level projection", "s"),
    "nag-score = 0.5": ("NAG as scores", "D"),
    "level-nag = 0.5": ("level-nag", "P"),
    "classifier-nag = 0.5": ("classifier-based NAG", "X"),
    "epsilon-scaling = 1.005": ("epsilon scaling", "<"),
}
COLOURS = ("#000000", "#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#009E73", "#56B4E9", "#777777", "#882255")


def training(table: pd.DataFrame) -> None:
    trained, plain = table.trained.str.rstrip(" %").astype(float), table.unguided
    with drawing.style("iclr"):
        figure, ax = plt.subplots(figsize=(5.5, 3.2))
        for column, (label, line, colour) in METHODS.items():
            kept = table[column].notna()
            change, low, high = (-100 * table[f"{column}{end}"][kept] / plain[kept] for end in ("", " low", " high"))
            errors = np.abs([change - high, low - change])
            ax.errorbar(trained[kept], change, errors, fmt=line, color=colour, capsize=2, markersize=4, label=label)
        ax.set(xscale="log", ylim=(0, None), xlabel="share of the training that the network has had (%)")
        ax.set_ylabel("distance to real images that is\nremoved (% of the unguided one)")
        ax.set_xticks(trained, [f"{value:g}" for value in trained])
        ax.minorticks_off()
        figure.legend(loc="outside lower center", ncols=3)
        figure.savefig(DOCS / "figures" / "correction-training.png", dpi=200)
        plt.close(figure)


def early(table: pd.DataFrame) -> None:
    table = table.set_index("method")
    with drawing.style("iclr"):
        figure, panels = plt.subplots(1, 2, figsize=(5.5, 3.4), sharey=True)
        for ax, column, name in zip(
            panels, ("reduction (%)", "reduction (%), constant pixels"), ("network", "constant-pixel"), strict=True
        ):
            for colour, (method, (label, mark)) in zip(COLOURS, SHOWN.items(), strict=True):
                row = table.loc[method]
                reduced = 0.0 if method == "none" else float(row[column])
                ax.plot(reduced, float(row["FD-fashion"]), mark, color=colour, markersize=6, label=label)
            ax.set(xlabel=f"reduction of the shift (%)\nby the {name} estimator")
        panels[0].set_ylabel("distance to real images (FD-fashion)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
        figure.savefig(DOCS / "figures" / "correction-early.png", dpi=200)
        plt.close(figure)


if __name__ == "__main__":
    training(pd.read_csv(DOCS / "data" / "corrections-training.csv"))
    early(pd.read_csv(DOCS / "data" / "corrections-stage-2.csv"))
