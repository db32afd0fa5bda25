"""The table and the figure of the study on emoji, from its run folders.

    noiseshift train emoji/train.npz --out runs/emoji --width 64 --depth 4 --heads 2 --batch 32 --steps 2500
    noiseshift train-estimator runs/emoji/model.safetensors --data emoji/train.npz --steps 800 --batch 64
    noiseshift measure runs/emoji/model.safetensors --data emoji/heldout.npz --sampler em:20 --samples 192 \
      --estimator network,residual --controls --out runs/emoji-em
    noiseshift measure runs/emoji/model.safetensors --data emoji/heldout.npz --sampler euler:20 --samples 192 \
      --estimator network,residual --controls --out runs/emoji-euler
    python benchmarks/emoji/tables.py runs/emoji-em runs/emoji-euler

`prepare.py` makes the data; the estimator's file is named in the checkpoint's card, as train-estimator says. Eleven minutes
of one core for the trainings, three for the measurements. Writes docs/data/question-emoji.csv and
docs/figures/question-emoji.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from noiseshift.studies.folders import Run

sys.path.insert(0, str(Path(__file__).parent.parent / "questions"))
from common import COLOURS, LINES, MARKERS, keep, save, style

COLUMNS = ("solver", "solver_low", "solver_high", "network", "network_low", "network_high", "exact_solver", "whose")


def read(folder: str) -> pd.DataFrame:
    """A row per level and estimator."""
    run = Run.load(folder)
    frames = []
    for name, report in run.reports.items():
        frame = report.table()[["t", "shift", "low", "high", "band_low", "band_high", "slope", "resolved"]]
        shares = run.controls.shares[run.controls.shares.estimator == name]
        for column in COLUMNS:
            frame[column] = shares[column].to_numpy()
        frames.append(frame.assign(sampler=run.manifest["sampler"], estimator=name))
    table = pd.concat(frames)
    return table[["sampler", "estimator", *table.columns[:-2]]].rename(columns={"shift": "δ"})


def draw(table: pd.DataFrame) -> None:
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(5.5, 2.9), sharey=True)
        for ax, (sampler, run) in zip(panels, table.groupby("sampler", sort=False), strict=True):
            ax.axhline(0, color="black", linewidth=0.8)
            for k, (name, part) in enumerate(run.groupby("estimator", sort=False)):
                ax.fill_between(part.t, part.band_low, part.band_high, color=COLOURS[k], alpha=0.18, linewidth=0)
                ax.plot(part.t, part["δ"], LINES[k], marker=MARKERS[k], color=COLOURS[k], label=f"δ by the {name}")
            first = run[run.estimator == run.estimator.iloc[0]]
            ax.plot(
                first.t, first.solver, LINES[2], marker=MARKERS[2], color=COLOURS[2], label="taken away by finer steps"
            )
            ax.set(xlim=(1, 0), xlabel="conditioning time t", title=sampler)
        panels[0].set_ylabel("noise shift δ")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
        save(figure, "emoji")


if __name__ == "__main__":
    found = pd.concat([read(folder) for folder in sys.argv[1:]])
    keep(found, "emoji")
    draw(found)
