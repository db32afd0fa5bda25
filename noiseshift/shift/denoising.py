"""Does a model denoise these data? Its noise error by level, beside two denoisers that know nothing of the network.

The error is the mean squared difference between the noise in a state and the noise that is predicted, per coordinate. Predicting
no noise at all has error 1. The linear denoiser is the exact one of a Gaussian fitted to other rows of the data: a network that was
trained on them does better at most levels, since images are not Gaussian.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.diffusion.models import Model
from noiseshift.diffusion.noise import PREFLIGHT, generators, normal
from noiseshift.diffusion.predictions import Prediction
from noiseshift.diffusion.schedules import Schedule
from noiseshift.estimators.instrument import Array
from noiseshift.shift.contrast import products
from noiseshift.shift.detail import fine_slope
from noiseshift.targets.fitting import fitted_gaussian

SCALES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Noise over signal, in units of the data's spread, at which a model is checked."""


def checked_times(schedule: Schedule, spread: float, scales: Sequence[float] = SCALES) -> Tensor:
    """(T,) float64 ascending times at which noise over signal is `scales` times the data's spread, inside the schedule's
    levels; times that fall together are taken once.

    Args:
        schedule: the model's.
        spread: standard deviation of the data.
        scales: σ/α in units of it.
    """
    low, high = (float(schedule.log_snr(torch.tensor(t, dtype=torch.float64))) for t in (1.0, 0.0))
    wanted = -2 * torch.tensor(scales, dtype=torch.float64).mul(spread).log()
    inside = wanted[(wanted > low) & (wanted < high)]
    times = schedule.time_of_log_snr(inside if len(inside) else wanted.clamp(low, high))
    return torch.unique(times.clamp(1e-4, 1 - 1e-4))


def noise_errors(model: Model, x0: Tensor, times: Tensor, cond: Tensor | None = None, *, seed: int = 0) -> Array:
    """(N, T) float64 mean squared noise error of each row at each time; the noise of row i depends on the seed and i alone.

    Args:
        model: what predicts the noise.
        x0: (N, …) real data.
        times: (T,) strictly between 0 and 1.
        cond: (N,) classes, or None.
        seed: of the noise.
    """
    answers = _answers(model, x0, times, cond, seed)
    return np.stack([_squared(said.eps - eps) for eps, said in answers], 1)


def _answers(
    model: Model, x0: Tensor, times: Tensor, cond: Tensor | None, seed: int = 0
) -> Iterator[tuple[Tensor, Prediction]]:
    """The noise of the states at each time, and what the model says of them."""
    eps = normal(generators(range(len(x0)), seed=seed, stream=PREFLIGHT), x0.shape[1:]).to(x0)
    for t in times:
        level = model.schedule(t).like(x0)
        with torch.no_grad():
            yield eps, model(level.mix(x0, eps), t, cond)


def _squared(rows: Tensor) -> Array:
    return rows.double().square().flatten(1).mean(1).cpu().numpy()


def error_table(model: Model, fitted: Tensor, x0: Tensor, cond: Tensor | None = None) -> pd.DataFrame:
    """The noise error by level.

    Args:
        model: what is tested.
        fitted: (M, …) rows that the linear denoiser is fitted to.
        x0: (N, …) other rows, which both denoise.
        cond: (N,) their classes, or None.

    Returns:
        A row per level, as `Denoised.table` has them.
    """
    return denoised(model, fitted, x0, cond).table


@dataclass(frozen=True)
class Denoised:
    """How a model denoises real data.

    Attributes:
        table: a row per level: t; `scale`, noise over signal in spreads of the data; `error` of the model, `linear` of the linear
            denoiser; `worse`, whether the model's is the larger one, by more than two standard errors of the paired difference,
            or is not finite; `slope` and `slope_error` as `detail.fine_slope` has them.
        errors: (N, T) the model's error by row and level.
        slopes: (N, T, 2) by row and level, as `contrast.products` has them.
    """

    table: pd.DataFrame
    errors: Array
    slopes: Array


def denoised(model: Model, fitted: Tensor, x0: Tensor, cond: Tensor | None = None) -> Denoised:
    """Denoise rows at every level.

    Args:
        model: what is tested.
        fitted: (M, …) rows that the linear denoiser is fitted to.
        x0: (N, …) other rows, which both denoise.
        cond: (N,) their classes, or None.
    """
    spread = float(fitted.flatten(1).double().std(0).square().mean().sqrt())
    times = torch.unique(model.snap(checked_times(model.schedule, spread)).double())
    answers = [
        (_squared(said.eps - eps), fine_slope(x0, said.x0), products(x0, said.x0))
        for eps, said in _answers(model, x0, times, cond)
    ]
    errors = np.stack([error for error, *_ in answers], 1)
    fine = np.array([slope for _, slope, _ in answers])
    linear = noise_errors(fitted_gaussian(fitted).model(model.schedule), x0.cpu(), times)
    level = model.schedule(times)
    table = pd.DataFrame(
        {
            "t": times.numpy(),
            "scale": (level.sigma / level.alpha / spread).numpy(),
            "error": errors.mean(0),
            "linear": linear.mean(0),
            "worse": _worse(errors, linear),
            "slope": fine[:, 0],
            "slope_error": fine[:, 1],
        }
    )
    return Denoised(table, errors, np.stack([pair for *_, pair in answers], 1))


def _worse(found: Array, linear: Array) -> Array:
    difference = found - linear
    error = difference.std(0, ddof=1) / np.sqrt(len(difference))
    return ~np.isfinite(found).all(0) | (difference.mean(0) > 2 * error)
