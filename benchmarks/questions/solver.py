"""How much of the shift is the solver's, by its order and number of steps?

    python benchmarks/questions/solver.py             # both parts, two minutes on one core
    python benchmarks/questions/solver.py exact       # a perfect network alone, under a minute

*exact*: Gaussian data of 784 dimensions (variance 20 k^-1.5) and a network without error; solvers are linear there, so
δ has no sampling error. δ at t = 0.6 and 0.2 by solver and network calls. *network*: both bundled models, 64 samples,
200 held-out images; δ at eight levels by the network estimator, with 95 % intervals.

Writes docs/data/question-solver-exact.csv, question-solver.csv and docs/figures/question-solver.png.
"""

from __future__ import annotations

import sys
from itertools import pairwise

import matplotlib.pyplot as plt
import pandas as pd
import torch
from common import COLOURS, LINES, MARKERS, SPECTRUM, keep, reports, save, style

import noiseshift as ns
from noiseshift.diffusion.samplers import Scheduled

DPM = (
    "diffusers/DPMSolverMultistepScheduler:{},use_flow_sigmas=True,prediction_type=flow_prediction,"
    "lower_order_final=False,solver_order="
)
EXACT = {
    "Euler (order 1)": ("euler:{}", 1),
    "Heun (order 2)": ("heun:{}", 2),
    "DPM++ (order 2)": (DPM + "2", 1),
    "DPM++ (order 3)": (DPM + "3", 1),
    "Euler–Maruyama (SDE)": ("em:{}", 1),
    "Flow-SDE (a = 0.7)": ("flow-sde:{},a=0.7", 1),
    "CPS": ("cps:{}", 1),
    "Precise": ("precise:{}", 1),
}
CALLS = (6, 10, 20, 40, 80)
NETWORK = {
    "fashion-sit": ("euler:20", "heun:10", "em:10", "em:20"),
    "fashion-ddpm": ("ddim:20", "ddpm:20"),
}


def states(word: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(K,) times and (K, d) variances of a perfect network's states."""
    model = ns.targets.Gaussian(torch.zeros(784).double(), SPECTRUM).model(ns.Linear())
    solver = ns.solver(word)
    update = solver.update()
    one, zero = torch.ones(1, 784).double(), torch.zeros(1, 784).double()
    if isinstance(
        update, Scheduled
    ):  # its steps remember earlier ones: follow a whole run, which is linear in its start
        run = [step for step in ns.sample(model, one, None, update=update) if not step.internal]
        scale = run[0].x  # 1 where the initial noise is not scaled
        return torch.stack([torch.as_tensor(s.t).double() for s in run[:-1]]), torch.stack(
            [(s.x / scale)[0] ** 2 for s in run[:-1]]
        )
    times = torch.linspace(1, 0, solver.steps + 1, dtype=torch.float64)
    held = [torch.ones(784).double()]
    for pair in pairwise(times):
        *_, gain = ns.sample(model, one, torch.stack(pair), update=update, noise=torch.zeros_like)
        *_, drawn = ns.sample(model, zero, torch.stack(pair), update=update, noise=torch.ones_like)
        held.append(gain.x[0] ** 2 * held[-1] + drawn.x[0] ** 2)
    return times, torch.stack(held)


def shift_at(times: torch.Tensor, held: torch.Tensor, at: float) -> float:
    """δ between the two nearest steps, on a straight line; NaN where a run has no step on either side."""
    found = torch.tensor([nearest_level(h) - float(t) for t, h in zip(times, held, strict=True)]).double()
    below, above = (times <= at).nonzero().flatten(), (times >= at).nonzero().flatten()
    inside = (times > 0.01) & (times < 0.99)
    if not len(below) or not inside[below[0]]:
        return float("nan")
    i, j = int(above[-1]), int(below[0])
    share = 0.0 if i == j else float((times[i] - at) / (times[i] - times[j]))
    return float((1 - share) * found[i] + share * found[j])


def nearest_level(held: torch.Tensor) -> float:
    """The level whose Gaussian is nearest to these variances, in KL."""
    low, high = 1e-4, 1.0
    for _ in range(4):
        levels = torch.linspace(low, high, 101, dtype=torch.float64)
        total = (1 - levels[:, None]) ** 2 * SPECTRUM + levels[:, None] ** 2
        least, cell = float(levels[(total.log() + held / total).sum(1).argmin()]), (high - low) / 100
        low, high = max(least - 2 * cell, 1e-4), min(least + 2 * cell, 1.0)
    return least


def exact() -> pd.DataFrame:
    rows = []
    for name, (word, calls) in EXACT.items():
        for nfe in CALLS:
            times, held = states(word.format(nfe // calls))
            rows.append((name, nfe, *(shift_at(times, held, t) for t in (0.6, 0.2))))
    table = pd.DataFrame(rows, columns=["solver", "network calls", "δ at t = 0.6", "δ at t = 0.2"])
    keep(table, "solver-exact", 5)
    return table


def network() -> pd.DataFrame:
    rows = []
    for name, words in NETWORK.items():
        checkpoint = ns.load(name)
        reader = {"network": checkpoint.level_estimator()}
        for word in words:
            found, _ = reports(checkpoint, word, reader, samples=64, real=200)
            table = found["network"].table()
            for row in table.itertuples():
                rows.append((name, word, row.t, row.shift, row.low, row.high, row.resolved))
            print(name, word, flush=True)
    table = pd.DataFrame(rows, columns=["checkpoint", "solver", "t", "δ", "low", "high", "resolved"])
    keep(table, "solver")
    return table


def draw(alone: pd.DataFrame, measured: pd.DataFrame) -> None:
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(5.5, 3.1))
        for k, (name, part) in enumerate(alone.groupby("solver", sort=False)):
            left.plot(
                part["network calls"],
                part["δ at t = 0.2"].abs(),
                LINES[k % 4],
                marker=MARKERS[k],
                color=COLOURS[k],
                label=name,
                markersize=3.5,
            )
        left.set(
            xscale="log",
            yscale="log",
            xlabel="network calls a sample",
            ylabel="size of the shift |δ| at t = 0.2",
            title="perfect network",
        )
        left.set_xticks([6, 10, 20, 40, 80], ["6", "10", "20", "40", "80"])
        left.minorticks_off()
        for k, word in enumerate(("euler:20", "heun:10", "em:10", "em:20")):
            part = measured[measured.solver == word]
            right.fill_between(part.t, part.low, part.high, color=COLOURS[k], alpha=0.2, linewidth=0)
            right.plot(part.t, part["δ"], LINES[k % 4], marker=MARKERS[k], color=COLOURS[k], label=word, markersize=3.5)
        right.axhline(0, color="black", linewidth=0.8)
        right.set(xlim=(1, 0), xlabel="conditioning time t", ylabel="noise shift δ", title="the bundled flow model")
        right.legend(fontsize=7)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
        save(figure, "solver")


if __name__ == "__main__":
    torch.set_num_threads(1)
    alone = exact()
    if sys.argv[1:] != ["exact"]:
        draw(alone, network())
