"""Calibration: what an estimator reads on held-out real states whose level is known.

No estimator is read uncalibrated: each has a bias that depends on t, on the data and on its grid's edges. The shift is
the difference between two readings at the same scheduled t, sampled and real, over the slope of the reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from noiseshift.diffusion.noise import CALIBRATION, generators, normal
from noiseshift.estimators.posterior import Estimator

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step

Array = np.ndarray


@dataclass(frozen=True)
class Readings:
    """What one estimator read off N states at each of K times.

    t and log_snr (N, K): posterior means; density (K, G): posterior mass on the estimator's grid, averaged over states.
    """

    t: Array
    log_snr: Array
    density: Array

    def __repr__(self) -> str:
        return f"Readings({len(self)} states at {self.t.shape[1]} times)"

    def __len__(self) -> int:
        return len(self.t)

    @classmethod
    def stack(cls, columns: Sequence[Readings]) -> Readings:
        """Readings at several times (each (N, 1)) side by side."""
        return cls(*(np.concatenate(parts, axis=axis) for parts, axis in zip(_fields(columns), (1, 1, 0), strict=True)))

    @classmethod
    def concatenate(cls, batches: Sequence[Readings]) -> Readings:
        """Readings of several batches of states, one after another; densities are averaged with the batch sizes."""
        t, log_snr, density = _fields(batches)
        share = np.array([len(batch) for batch in batches]) / sum(map(len, batches))
        return cls(np.concatenate(t), np.concatenate(log_snr), np.tensordot(share, np.stack(density), 1))


def _fields(parts: Sequence[Readings]) -> tuple[list[Array], list[Array], list[Array]]:
    return [p.t for p in parts], [p.log_snr for p in parts], [p.density for p in parts]


@dataclass(frozen=True)
class Calibration:
    """Readings on real states at each time, and how far a reading moves when the level does.

    times (K,); grid (G,) the estimator's times; real: readings of n real states; slopes, slopes_log_snr (m, K): for m
    of them, the change of the reading over the change of the level, in t and in log-SNR.
    """

    times: Array
    grid: Array
    real: Readings
    slopes: Array
    slopes_log_snr: Array

    def __repr__(self) -> str:
        return f"Calibration({len(self.real)} real states at {len(self.times)} times)"

    @property
    def bias(self) -> Array:
        """(K,) mean reading minus true level."""
        return self.real.t.mean(0) - self.times

    @property
    def spread(self) -> Array:
        """(K,) standard deviation of a single state's reading."""
        return self.real.t.std(0, ddof=1)

    @property
    def slope(self) -> Array:
        """(K,) d E[reading] / dt: 1 is faithful, 0 is blind; outside 0.5 … 2 nothing should be read."""
        return self.slopes.mean(0)

    @property
    def slope_log_snr(self) -> Array:
        return self.slopes_log_snr.mean(0)


@torch.no_grad()
def read(estimator: Estimator, x: Tensor, cond: Tensor | None, step: Step) -> Readings:
    """One estimator's readings (N, 1) of the states x (N, …) of a step. Raises ValueError when a reading is not finite."""
    posterior = estimator(x, cond, step=step)
    log_snr = estimator.schedule.log_snr(posterior.times.double().cpu())
    mean = posterior.mean.double().cpu()
    if not bool(torch.isfinite(mean).all()):
        raise ValueError(
            f"an estimator returned NaN at t = {float(step.t):.4f}: are the states finite and of its shape?"
        )
    return Readings(
        mean.numpy()[:, None],
        posterior.expect(log_snr.to(posterior.prob)).double().cpu().numpy()[:, None],
        posterior.prob.mean(0).double().cpu().numpy()[None],
    )


def forward_noise(
    data: Tensor, cond: Tensor | None, estimator: Estimator, *, level: Tensor, told: Tensor, index: int, eps: Tensor
) -> Readings:
    """Readings of real states noised to `level` while the estimator is told `told`, in batches of 256."""
    from noiseshift.diffusion.samplers import Step

    schedule = estimator.schedule
    parts = []
    for i in range(0, len(data), 256):
        rows = data[i : i + 256]
        at = schedule(level.double()).like(rows)
        x = at.alpha * rows + at.sigma * eps[i : i + 256].to(rows)
        parts.append(read(estimator, x, None if cond is None else cond[i : i + 256], Step(index, told, x, first=i)))
    return Readings.concatenate(parts)


def calibrate(
    estimator: Estimator,
    data: Tensor,
    times: Tensor,
    *,
    cond: Tensor | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
    slope_rows: int = 128,
    stream: int = CALIBRATION,
) -> Calibration:
    """Read `estimator` on held-out real data (N, …), classes `cond` (N,) or None, noised to each of `times` (K,).

    The slope is a central difference with common noise over the first `slope_rows` rows, a step of min(t, 1 - t)/8 to
    each side. Each row draws from a generator of its own (`seed`, or one drawn from `generator`; `stream`). Raises
    ValueError for fewer than two rows or times that are not strictly between 0 and 1.
    """
    if len(data) < 2:
        raise ValueError("calibration needs at least two held-out real samples")
    if not bool(((times > 0) & (times < 1)).all()):
        raise ValueError("calibrate strictly between t = 0 and t = 1: at the ends there is no level to read")
    if generator is not None:
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    sources = generators(range(len(data)), seed=seed, stream=stream)
    head = slice(0, min(slope_rows, len(data)))
    some = None if cond is None else cond[head]
    columns, slopes, slopes_log_snr = [], [], []
    for k, t in enumerate(times.double().cpu()):
        eps = normal(sources, data.shape[1:])
        columns.append(forward_noise(data, cond, estimator, level=t, told=t, index=k, eps=eps))
        reach = torch.minimum(t, 1 - t).clamp_min(1e-3) / 8
        low, high = (
            forward_noise(data[head], some, estimator, level=s, told=t, index=k, eps=eps[head])
            for s in (t - reach, t + reach)
        )
        span = float(estimator.schedule.log_snr(t + reach) - estimator.schedule.log_snr(t - reach))
        slopes.append((high.t - low.t) / (2 * float(reach)))
        slopes_log_snr.append((high.log_snr - low.log_snr) / span)
    return Calibration(
        # Copies: what the caller does with its tensor afterwards must not change a calibration.
        times.double().cpu().numpy().copy(),
        estimator.times.double().cpu().numpy().copy(),
        Readings.stack(columns),
        np.concatenate(slopes, axis=1),
        np.concatenate(slopes_log_snr, axis=1),
    )
