"""Do corrections harm a model whose marginals are already right?

    python benchmarks/questions/harm.py          # two minutes on one core

Gaussian data of 256 dimensions (k-th variance 1/k), an exact network with an exact noise-unconditional branch, 40 Heun
steps at times u², u even: the marginals are right to 1 %, and a correction should not move them. Printed for each
method, over 512 paths: the samples' variance over the data's, in the 16 strongest and the 128 weakest directions, and
its change against no correction along the same paths, with 95 % intervals (Student's t over paths). Writes
docs/data/question-harm.csv and docs/figures/question-harm.png.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import torch
from common import COLOURS, interval, keep, save, style

import noiseshift as ns
from noiseshift.correction.alternatives import EstimatedLevel
from noiseshift.correction.methods import (
    MethodContext,
    epsilon_scaling,
    guided_method,
    level_nag,
    noise_level_correction,
    projection,
    score_rescaling,
    time_shift,
    time_step_guidance,
    unguided,
)
from noiseshift.diffusion.noise import INITIAL, SAMPLING, generators, normal
from noiseshift.diffusion.samplers import per_sample_noise
from noiseshift.studies.correct_exact import power_law

METHODS = (
    unguided(),
    guided_method(nag=0.5, name="nag=0.5"),
    guided_method(nag=1.0, name="nag=1"),
    guided_method(nag=2.0, name="nag=2"),
    guided_method(nag=0.5, space="score", name="nag-score=0.5"),
    level_nag(0.5),
    projection(),
    noise_level_correction(),
    epsilon_scaling(1.005),
    time_shift(0.05),
    time_step_guidance(0.5),
    score_rescaling(1.05),
)
PATHS = 512
TIMES = torch.linspace(1, 0, 41, dtype=torch.float64) ** 2


def final(method) -> torch.Tensor:
    case, schedule = power_law(), ns.Linear()
    model = case.target.model(schedule, blind="velocity")
    built = method.make(MethodContext(model, None, EstimatedLevel(case.target.estimator(schedule))))
    update = built.update(ns.heun) if built.update else ns.heun
    start = normal(generators(range(PATHS), seed=0, stream=INITIAL), (256,)).double()
    noise = per_sample_noise(generators(range(PATHS), seed=0, stream=SAMPLING))
    *_, last = ns.sample(built.model, start, TIMES, update=update, noise=noise)
    return last.x


def main() -> None:
    variances = torch.arange(1, 257, dtype=torch.float64) ** -1.0
    plain, rows = None, []
    for method in METHODS:
        ratio = final(method) ** 2 / variances
        plain = ratio if plain is None else plain
        for name, part in (("16 strongest", slice(0, 16)), ("128 weakest", slice(128, 256))):
            held, change = ratio[:, part].mean(1), (ratio - plain)[:, part].mean(1)
            rows.append((method.name, name, *interval(held), *interval(change)))
        print(method.name, flush=True)
    columns = ["method", "directions", "variance over the data's", "low", "high", "change", "change low", "change high"]
    table = pd.DataFrame(rows, columns=columns)
    keep(table, "harm")
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(5.5, 2.9), sharey=True)
        for ax, (name, part) in zip(panels, table.groupby("directions", sort=False), strict=True):
            places = range(len(part))[::-1]
            ax.axvline(0, color="black", linewidth=0.8)
            ax.hlines(places, 100 * part["change low"], 100 * part["change high"], color=COLOURS[0], linewidth=2)
            ax.plot(100 * part.change, places, "o", color=COLOURS[0])
            ax.set(yticks=list(places), yticklabels=part.method, title=f"{name} directions")
            ax.set_xlabel("change of the samples'\nvariance (%)")
        save(figure, "harm")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
