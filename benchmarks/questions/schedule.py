"""What happens when the sampling schedule is changed without retraining?

    python benchmarks/questions/schedule.py             # both parts, two minutes on one core
    python benchmarks/questions/schedule.py exact       # a perfect network alone, seconds
    python benchmarks/questions/schedule.py figure      # the figure alone, from the table

The same 20 network calls (or 10) are put at other times: even, towards noise (time shift 3, as flow models of large
pictures take), towards data (time shift 1/3), and at Karras' noise scales (ρ = 7, σ/α from 99 to 0.005). *exact*: δ at
t = 0.5 and 0.2 of a perfect network on Gaussian data of 784 dimensions, without sampling error. *network*: the bundled
flow model, 64 samples, 200 held-out images, the network estimator, with 95 % intervals. Writes
docs/data/question-schedule-exact.csv, question-schedule.csv and docs/figures/question-schedule.png.
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from common import COLOURS, DOCS, LINES, MARKERS, SPECTRUM, classes, keep, save, style
from solver import nearest_level

import noiseshift as ns
from noiseshift.diffusion.noise import INITIAL, SAMPLING, generators, normal
from noiseshift.diffusion.samplers import per_sample_noise


def even(steps: int) -> torch.Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def shifted(steps: int, by: float) -> torch.Tensor:
    t = even(steps)
    return (by * t / (1 + (by - 1) * t)).clamp(0, 1)


def karras(steps: int) -> torch.Tensor:
    ends = 99.0 ** (1 / 7), 0.005 ** (1 / 7)
    scales = torch.linspace(*ends, steps, dtype=torch.float64) ** 7
    return torch.cat([torch.ones(1).double(), (scales / (1 + scales))[1:], torch.zeros(1).double()])


GRIDS = {
    "even, 20": even(20),
    "towards noise (shift 3), 20": shifted(20, 3),
    "towards data (shift 1/3), 20": shifted(20, 1 / 3),
    "Karras, 20": karras(20),
    "even, 10": even(10),
}
UPDATES = {"Euler": lambda: ns.euler, "Euler–Maruyama": ns.euler_maruyama}


def exact_run(update, times: torch.Tensor) -> torch.Tensor:
    """(K + 1, d) variances of a perfect network's states; a step is linear on Gaussian data."""
    model = ns.targets.Gaussian(torch.zeros(784).double(), SPECTRUM).model(ns.Linear())
    one, zero = torch.ones(1, 784).double(), torch.zeros(1, 784).double()
    held = [torch.ones(784).double()]
    for k in range(len(times) - 1):
        *_, gain = ns.sample(model, one, times[k : k + 2], update=update, noise=torch.zeros_like)
        *_, drawn = ns.sample(model, zero, times[k : k + 2], update=update, noise=torch.ones_like)
        held.append(gain.x[0] ** 2 * held[-1] + drawn.x[0] ** 2)
    return torch.stack(held)


def exact() -> pd.DataFrame:
    rows = []
    for solver, make in UPDATES.items():
        for name, times in GRIDS.items():
            held = exact_run(make(), times)
            inside = [k for k, t in enumerate(times) if 0.01 < t < 0.99]
            found = [nearest_level(held[k]) - float(times[k]) for k in inside]
            order = np.argsort(times[inside].numpy())
            at = np.interp((0.2, 0.5), times[inside].numpy()[order], np.array(found)[order])
            kept = float((held[-1] / SPECTRUM)[392:].mean())
            rows.append((solver, name, at[1], at[0], kept))
    columns = ["solver", "times", "δ at t = 0.5", "δ at t = 0.2", "fine detail kept"]
    table = pd.DataFrame(rows, columns=columns)
    keep(table, "schedule-exact")
    return table


def network() -> pd.DataFrame:
    checkpoint, data = ns.load(), ns.data.reference()[:200]
    reader, rows = checkpoint.level_estimator(), []
    for solver, make in UPDATES.items():
        for name, times in GRIDS.items():
            times = torch.cat([times[:1], times[1:-1].clamp(max=0.999), times[-1:]])
            x = normal(generators(range(64), seed=0, stream=INITIAL), (1, 28, 28))
            noise = per_sample_noise(generators(range(64), seed=0, stream=SAMPLING))
            steps = list(ns.sample(checkpoint.model, x, times, update=make(), cond=classes(64), noise=noise))
            read = [min(steps[:-1], key=lambda step, t=t: abs(float(step.t) - t)) for t in (0.8, 0.5, 0.35, 0.2, 0.1)]
            read = sorted({step.index: step for step in read}.values(), key=lambda step: step.index)
            at = torch.stack([torch.as_tensor(step.t).double() for step in read])
            instrument = ns.calibrate(reader, data.floats, at, cond=data.labels)
            table = ns.measure([*read, steps[-1]], instrument, cond=classes(64), content=False).table()
            rows += [(solver, name, r.t, r.shift, r.low, r.high) for r in table.itertuples()]
            print(solver, name, flush=True)
    table = pd.DataFrame(rows, columns=["solver", "times", "t", "δ", "low", "high"])
    keep(table, "schedule")
    return table


def draw(table: pd.DataFrame) -> None:
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(5.5, 3.1))
        for ax, (solver, part) in zip(panels, table.groupby("solver", sort=False), strict=True):
            ax.axhline(0, color="black", linewidth=0.8)
            for k, (name, run) in enumerate(part.groupby("times", sort=False)):
                ax.fill_between(run.t, run.low, run.high, color=COLOURS[k], alpha=0.18, linewidth=0)
                ax.plot(run.t, run["δ"], LINES[k % 4], marker=MARKERS[k], color=COLOURS[k], markersize=3.5, label=name)
            ax.set(xlim=(1, 0), xlabel="conditioning time t", title=solver)
        panels[0].set_ylabel("noise shift δ")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
        save(figure, "schedule")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["figure"]:  # from the table that is there
        draw(pd.read_csv(DOCS / "data" / "question-schedule.csv"))
    else:
        exact()
    if not sys.argv[1:]:
        draw(network())
