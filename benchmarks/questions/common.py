"""What the questions' scripts share: the bundled models, sampled and read without the other parts of a run."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from noiseshift.analysis import drawing

import noiseshift as ns
from noiseshift.diffusion.noise import INITIAL, SAMPLING, generators, normal
from noiseshift.diffusion.samplers import Scheduled, per_sample_noise

DOCS = Path(os.environ.get("NOISESHIFT_DOCS") or Path(__file__).parent.parent.parent / "docs")
"""Where figures and tables are written; `docs_numbers.py` has them made elsewhere."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#777777")
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^vP*X"
SPECTRUM = 20 * torch.arange(1, 785, dtype=torch.float64) ** -1.5
"""Variances of Gaussian data of 784 dimensions, falling as those of pictures do."""


def classes(samples: int) -> torch.Tensor:
    return torch.arange(samples) % 10


def steps_of(model, word: str, samples: int, *, checkpoint=None, seed: int = 0, first: int = 0, shape=(1, 28, 28)):
    """One run of `samples` by the bundled classes in turn; sample i is the same under every solver."""
    solver = ns.solver(word) if checkpoint is None else ns.solver(word).bound(checkpoint)
    update, indices = solver.update(), range(first, first + samples)
    x = normal(generators(indices, seed=seed, stream=INITIAL), shape)
    noise = per_sample_noise(generators(indices, seed=seed, stream=SAMPLING))
    times = None if isinstance(update, Scheduled) else solver.grid(model)
    if times is None and not isinstance(update, Scheduled):
        times = ns.time_grid(model, solver.steps)
    yield from ns.sample(model, x, times, update=update, cond=classes(samples), noise=noise)


def reports(checkpoint, word: str, estimators: dict, *, samples=96, real=400, model=None, levels=8, seed=0, at=None):
    """The shift of one run, by each estimator, against the first `real` held-out images. Classes come in turn, so that a block
    holds all of them equally."""
    model, data = model or checkpoint.model, ns.data.reference()[:real]
    pictures, labels = data.floats, data.labels
    kept = [step for step in steps_of(model, word, samples, checkpoint=checkpoint, seed=seed) if not step.internal]
    inside = [step for step in kept if 0.02 < float(step.t) < 0.98]
    if at is None:
        places = torch.linspace(0, len(inside) - 1, min(levels, len(inside))).round().long().tolist()
        chosen = {inside[k].index for k in places}
    else:
        chosen = {min(inside, key=lambda step: abs(float(step.t) - t)).index for t in at}
    read = [step for step in kept if step.index in chosen or step is kept[-1]]
    times = torch.stack([torch.as_tensor(step.t).double() for step in read[:-1]])
    instruments = {
        name: ns.calibrate(estimator, pictures, times, cond=labels, seed=seed) for name, estimator in estimators.items()
    }
    return ns.measure(iter(read), instruments, cond=classes(samples), content=False, seed=seed), kept[-1].x


def save(figure, name: str) -> None:
    figure.savefig(DOCS / "figures" / f"question-{name}.png", dpi=200)
    plt.close(figure)


def keep(table: pd.DataFrame, name: str, digits: int = 4) -> None:
    """Write what the page shows, and print it."""
    table = table.round(digits)
    table.to_csv(DOCS / "data" / f"question-{name}.csv", index=False)
    print(table.to_string(index=False))


def style():
    return drawing.style("iclr")


def interval(values: torch.Tensor) -> tuple[float, float, float]:
    """Mean over samples and its 95 % interval by Student's t."""
    from scipy import stats

    values = values.double().flatten()
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(values.std()) / len(values) ** 0.5
    mean = float(values.mean())
    return mean, mean - half, mean + half
