"""What do δ and quality do in a network that was trained without any noise condition?

    python benchmarks/questions/small.py --out runs/small      # the trainings
    python benchmarks/questions/unconditional.py runs/small            # five minutes on one core
    python benchmarks/questions/unconditional.py figure                # the figure alone, from the table

A network that is given the state alone (*noise-unconditional*) and one that is also given the time, trained alike, on a
distribution that is known exactly; beside them the two predictions of least error, computed. 2,000 samples by
Euler–Maruyama, Euler and the ancestral sampler at 10, 20 and 50 steps for velocities, 20 for epsilons; δ by the exact
posterior, distance to the exact moments. A trained model's numbers are the mean over its trainings (three, two for
epsilons), each with sampling noise of its own, and their interval is Student's t over them; those of the computed
predictions are over samples of one seed. Differences (noise-unconditional minus conditional) are paired in the noise.
Writes docs/data/question-unconditional.csv, question-unconditional-errors.csv and
docs/figures/question-unconditional.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from common import COLOURS, DOCS, LINES, MARKERS, keep, save, style
from exact_reading import LEVELS, PerfectUnconditional, Run, error, perfect, run
from small import SEEDS, Cell, trained

from noiseshift.evaluation import Change, student

WORDS = {
    "velocity": [f"{name}:{steps}" for name in ("em", "euler", "ddpm") for steps in (10, 20, 50)],
    "epsilon": ["em:20", "ddim:20", "ddpm:20"],
}
TRAINED = {"velocity": SEEDS, "epsilon": SEEDS[:2]}
SAMPLES = 2000


def ends(name: str, change: Change) -> dict:
    return {name: change.value, f"{name} low": change.low, f"{name} high": change.high}


def over_trainings(known: list[Run], without: list[Run], k: int) -> dict:
    """One level: δ and FD of both and their difference, over trainings."""
    given, lacking = (np.array([run.shifts[:, k].mean() for run in runs]) for runs in (known, without))
    far = [np.array([run.distance.change().value for run in runs]) for runs in (known, without)]
    apart = np.array([b.distance.minus(a.distance).value for a, b in zip(known, without, strict=True)])
    parts = (given, lacking, lacking - given, *far, apart)
    return {name: each for n, part in zip(NAMES, parts, strict=True) for name, each in ends(n, student(part)).items()}


def over_samples(known: Run, without: Run, k: int) -> dict:
    given, lacking = known.shifts[:, k], without.shifts[:, k]
    parts = (
        *(student(part) for part in (given, lacking, lacking - given)),
        *(run.distance.change() for run in (known, without)),
        without.distance.minus(known.distance),
    )
    return {name: each for n, part in zip(NAMES, parts, strict=True) for name, each in ends(n, part).items()}


NAMES = (
    "δ, conditional",
    "δ, noise-unconditional",
    "δ, difference",
    "FD, conditional",
    "FD, noise-unconditional",
    "FD, difference",
)


def main(folder: Path) -> None:
    rows, errors = [], []
    for kind, words in WORDS.items():
        exact = perfect(kind), PerfectUnconditional(kind)
        networks = [
            [trained(folder, Cell(kind, 64, seed, without)) for seed in TRAINED[kind]] for without in (False, True)
        ]
        errors.append(
            {
                "predicts": kind,
                "model": "noise-unconditional, no error",
                "seed": "",
                **ends("error", error(exact[1], kind)),
            }
        )
        for name, models in zip(("conditional", "noise-unconditional"), networks, strict=True):
            errors += [
                {"predicts": kind, "model": name, "seed": seed, **ends("error", error(model, kind))}
                for seed, model in zip(TRAINED[kind], models, strict=True)
            ]
        for word in words:
            computed = [run(model, word, kind, SAMPLES, 0) for model in exact]
            found = [[run(model, word, kind, SAMPLES, s) for s, model in enumerate(models)] for models in networks]
            for k, t in enumerate(LEVELS):
                at = {"predicts": kind, "solver": word, "t": t}
                rows.append(at | {"model": "no error"} | over_samples(*computed, k))
                rows.append(at | {"model": "trained"} | over_trainings(*found, k))
            print(kind, word, flush=True)
    keep(pd.DataFrame(errors), "unconditional-errors", 5)
    table = pd.DataFrame(rows)
    keep(table, "unconditional", 5)
    draw(table)


def draw(table: pd.DataFrame) -> None:
    table = table[table.predicts == "velocity"]
    shown = (
        ("no error", "conditional"),
        ("no error", "noise-unconditional"),
        ("trained", "conditional"),
        ("trained", "noise-unconditional"),
    )
    with style():
        figure, panels = plt.subplots(2, 3, figsize=(5.5, 3.9), sharex="row")
        for column, (solver, title) in enumerate((("em", "Euler–Maruyama"), ("euler", "Euler"), ("ddpm", "ancestral"))):
            for k, (model, condition) in enumerate(shown):
                part = table[(table.model == model) & (table.solver == f"{solver}:20")]
                line(panels[0, column], part.t, part, f"δ, {condition}", k, f"{condition}, {model}")
                part = table[(table.model == model) & (table.t == 0.2) & table.solver.str.startswith(f"{solver}:")]
                line(panels[1, column], part.solver.str.split(":").str[1].astype(int), part, f"FD, {condition}", k, "")
            panels[0, column].set(xlim=(0.9, 0), title=title, xlabel="time t of the sampler")
            panels[0, column].axhline(0, color="black", linewidth=0.8)
            panels[1, column].set(xscale="log", yscale="log", xlabel="steps")
            panels[1, column].set_xticks([10, 20, 50], ["10", "20", "50"])
            panels[1, column].minorticks_off()
        panels[0, 0].set_ylabel("noise shift δ, 20 steps")
        panels[1, 0].set_ylabel("distance to the\ndistribution (FD)")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
        save(figure, "unconditional")


def line(ax, x, part: pd.DataFrame, column: str, k: int, label: str) -> None:
    ax.fill_between(x, part[f"{column} low"], part[f"{column} high"], color=COLOURS[k], alpha=0.18, linewidth=0)
    ax.plot(x, part[column], LINES[k], marker=MARKERS[k], color=COLOURS[k], markersize=3, label=label)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["figure"]:
        draw(pd.read_csv(DOCS / "data" / "question-unconditional.csv"))
    else:
        main(Path(sys.argv[1]))
