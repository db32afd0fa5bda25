"""Runs of models of the small distribution (`small.py`), read by its exact posterior and held to its exact moments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from common import steps_of
from small import OBJECTIVES, SHAPE, draws, law, moments

import noiseshift as ns
from noiseshift.diffusion.guidance import in_space
from noiseshift.diffusion.models import NOISE_UNCONDITIONAL
from noiseshift.evaluation import Change, Features, Jackknife, jackknife, student

LEVELS = (0.8, 0.6, 0.4, 0.2, 0.1)
"""Conditioning times that 10, 20 and 50 even steps all pass."""


@dataclass(frozen=True)
class Run:
    """δ of each sample (N, K) at `LEVELS`, NaN where the level cannot be read, and the Fréchet distance of the final samples
    to the distribution.

    The calibration's own error is in all of them alike, and drops out of the difference of two runs.
    """

    shifts: np.ndarray
    distance: Jackknife


@cache
def instrument(kind: str):
    times = torch.tensor(LEVELS, dtype=torch.float64)
    return ns.calibrate(law().estimator(OBJECTIVES[kind].schedule), draws(4000, seed=2), times)


def run(model, word: str, kind: str, samples: int, seed: int) -> Run:
    """Sample and read; sample i is the same under every model and solver of one seed."""
    steps = list(steps_of(model, word, samples, seed=seed, shape=SHAPE))
    report = ns.measure(iter(steps), instrument(kind), content=False, seed=seed)
    calibration = report.calibration
    shifts = (report.sampled.t - calibration.real.t.mean(0)) / calibration.slope
    shifts[:, ~calibration.readable] = np.nan  # as in every report: there the slope says that no reading means anything
    return Run(shifts, jackknife(Features("pixels", steps[-1].x.flatten(1).double().numpy()), moments()))


def perfect(kind: str):
    return law().model(OBJECTIVES[kind].schedule, blind=OBJECTIVES[kind].predicts)


class PerfectUnconditional:
    """The prediction of least squared error that sees the state alone."""

    def __init__(self, kind: str):
        self.inner = perfect(kind)
        self.schedule, self.predicts, self.branches = self.inner.schedule, self.inner.predicts, frozenset()
        self.snap = self.inner.snap

    def __call__(self, x, t, cond=None):
        return self.inner.predict(x, t, None, (NOISE_UNCONDITIONAL,))[0]


def error(model, kind: str, rows: int = 2000) -> Change:
    """Mean squared difference of a prediction from the exact one, over coordinates and uniform times, with its interval."""
    schedule = OBJECTIVES[kind].schedule
    x0 = draws(rows, seed=3)
    generator = torch.Generator().manual_seed(4)
    t = ((torch.rand(rows, generator=generator) * 1000).floor() + 1).double() / 1000
    x = schedule(t).like(x0).mix(x0, torch.randn(x0.shape, generator=generator))
    asked, exact = (in_space(each(x, t, None), OBJECTIVES[kind].predicts) for each in (model, perfect(kind)))
    return student((asked - exact).double().square().flatten(1).mean(1).numpy())
