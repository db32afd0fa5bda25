"""What does measuring cost, in network calls, processor time and memory?

    python benchmarks/questions/cost.py          # two minutes on one core

The bundled flow model, 10 Euler steps, 16 samples (4 for Fokker–Planck and score mixture), three of the states read.
For each estimator, of one state that is read: *calls*, the rows that the denoiser computes beyond those of sampling
(exact, counted by a hook); *time*, processor time in units of one call of the denoiser, median and range of three runs
in turns; *kept*, the bytes that a run keeps. And *calibration*: the calls that it takes for one real image and level,
paid once. Writes docs/data/question-cost.csv and
docs/figures/question-cost.png.
"""

from __future__ import annotations

import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from common import COLOURS, classes, keep, save, steps_of, style

import noiseshift as ns
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import build

READS = {"network": 16, "residual": 16, "constant-pixel": 16, "fokker-planck": 4, "score-mixture": 4}
LEVELS, REPEATS, REAL = (0.7, 0.5, 0.3), 3, 8


def counted(work, network) -> tuple[int, float]:
    """How many rows the network computes in `work`, and its processor time."""
    rows = []
    hook = network.register_forward_hook(lambda module, given, found: rows.append(len(found)))
    begun = time.process_time()
    work()
    spent = time.process_time() - begun
    hook.remove()
    return sum(rows), spent


def main() -> None:
    checkpoint, data = ns.load(), ns.data.reference()
    network = checkpoint.model.network
    times = torch.tensor(LEVELS, dtype=torch.float64)
    real = data[:REAL]
    rows = []
    for name, samples in READS.items():
        protocol = Protocol("euler:10", samples=samples, estimators={name: None})
        estimator = build(checkpoint, protocol, data[100:200], times)[name]
        kept = {}

        def calibrate(estimator=estimator, kept=kept):
            kept[0] = ns.calibrate(estimator, real.floats, times, cond=real.labels)

        spent, _ = counted(calibrate, network)

        def plain(samples=samples):
            for _ in steps_of(checkpoint.model, "euler:10", samples):
                pass

        def read(samples=samples, kept=kept):
            ns.measure(steps_of(checkpoint.model, "euler:10", samples), kept[0], cond=classes(samples), content=False)

        pairs = [(counted(plain, network), counted(read, network)) for _ in range(REPEATS)]
        extra = pairs[0][1][0] - pairs[0][0][0]
        states = samples * len(LEVELS)
        costs = [(b[1] - a[1]) / states / (a[1] / a[0]) for a, b in pairs]
        rows.append((name, extra / states, np.median(costs), min(costs), max(costs), 16, spent / REAL / len(LEVELS)))
        print(rows[-1], flush=True)
    columns = [
        "estimator",
        "calls a state",
        "time a state (calls)",
        "least",
        "most",
        "bytes kept a state",
        "calibration calls",
    ]
    table = pd.DataFrame(rows, columns=columns)
    keep(table, "cost", 2)
    with style():
        figure, ax = plt.subplots(figsize=(5.5, 2.4))
        places = np.arange(len(table))[::-1]
        ax.barh(
            places + 0.18,
            table["calls a state"].clip(lower=0.01),
            0.34,
            color=COLOURS[0],
            label="calls of the denoiser, counted",
        )
        ax.barh(
            places - 0.18,
            table["time a state (calls)"].clip(lower=0.01),
            0.34,
            color=COLOURS[4],
            hatch="///",
            label="processor time, in such calls",
        )
        ax.set(
            xscale="log",
            yticks=places,
            yticklabels=table.estimator,
            xlabel="cost of reading one state (0.01: less than that)",
        )
        ax.legend()
        save(figure, "cost")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
