"""How many forwards estimators ask for a state: counted, on a mixture whose posterior is known, with their error."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from harness import Row

import noiseshift as ns
from noiseshift.correction.counting import CountingModel
from noiseshift.studies.readers import ASKING
from noiseshift.targets import GaussianMixture, LowRank

BOUNDS = {"fokker-planck": 16, "score-mixture": 12}


def rows(repeats: int) -> Iterator[Row]:
    target, states = _mixture(784, 20), 16
    model = target.model(ns.Linear())
    oracle = target.estimator(ns.Linear(), ns.estimators.time_grid(ns.Linear(), 1500, 0.01, 0.99))
    counted = CountingModel(model)
    for name, bound in BOUNDS.items():
        estimator, asked, errors = ASKING[name](counted), [], []
        for t in (0.1, 0.3, 0.6):
            level = torch.tensor(t, dtype=torch.float64)
            x = ns.Linear()(level).mix(
                target.sample(states, torch.Generator().manual_seed(1)),
                torch.randn(states, 784, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
            )
            counted.rows = 0
            with torch.no_grad():
                found, truth = estimator(x, step=ns.Step(0, level, x)), oracle(x)
            asked.append(counted.rows / states)
            errors.append(float((((found.mean - truth.mean) / truth.std) ** 2).mean().sqrt()))
        note = "rms error " + ", ".join(f"{error:.2f}" for error in errors) + " posterior sd at t = 0.1, 0.3, 0.6"
        yield Row(f"{name}: forwards a state", asked, bound, unit="", note=note)


def _mixture(d: int, rank: int) -> GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(10, d, generator=generator, dtype=torch.float64)
    factors = torch.randn(10, d, rank, generator=generator, dtype=torch.float64) / (2 * rank**0.5)
    return GaussianMixture(torch.ones(10), means, LowRank(factors, torch.full((10,), 1e-3, dtype=torch.float64)))
