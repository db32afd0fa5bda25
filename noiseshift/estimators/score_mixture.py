"""The level from a network's noise-unconditional branch.

The noise-unconditional prediction is the posterior-weighted mixture of the conditional ones, f(x) = Σ p(t_i | x) f(x | t_i), for
any fixed training target f (velocity, eps, x0; for the score with p(x) = ∫ p(t) p_t(x) dt). Given both branches the
weights follow by least squares on the simplex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from noiseshift.diffusion.guidance import in_space
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL, Branch, Model, as_time, require
from noiseshift.estimators.posterior import Posterior, time_grid
from noiseshift.estimators.rows import over_levels

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step

WINDOW = 17  # levels of each refinement of a wide posterior

AROUND, EDGE = (3.0, 1.0, 0.0, -1.0, -3.0), 0.5
"""Log-SNRs about the conditioning level that are looked at first; a state nearer to their ends is looked for elsewhere."""

CLOSER = (0.5, 0.02)
"""The least half-widths of the two windows of three levels that follow."""

NEAR_CALLS = 1 + len(AROUND) + 3 * len(CLOSER)
"""Forwards a state where these levels will do."""

NARROW = 0.3
"""Standard deviation of log-SNR below which three levels describe the curve of the conditional predictions: on the oracle's
mixtures the mean is then off by at most 0.03 standard deviations."""

NEWTON = 25  # two or three suffice for a narrow posterior, the rest for one piled up at an end


class ScoreMixture:
    """Posterior over t from the noise-unconditional branch and the conditional one on a grid of times, coarse to fine.

    Least squares on the simplex chooses few levels, but their mean and spread are those of the posterior: the first is
    where f(x) lies along the curve f(x | t), the second how far inside its bend. The broadest density in t with these
    two moments is returned, a Gaussian cut off at the ends of the grid; the posterior's skew is not recovered.

    Costs one forward of the noise-unconditional branch, and 11 of the other where the posterior is narrow and near the
    conditioning level; elsewhere G + 2 × 17 more.

    Args:
        model: has a noise-unconditional branch.
        times: (G,) the coarse grid, ascending.

    Raises:
        ValueError: for a model without that branch.
    """

    def __init__(self, model: Model, times: Tensor):
        require(model, (NOISE_UNCONDITIONAL,))
        self.model = model
        self.schedule = model.schedule
        self.levels = times.double().cpu().sort().values
        self.times = time_grid(self.schedule, 1500, float(self.levels[0]), float(self.levels[-1]))

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """x (B, …), cond (B,) or None. The search starts at the level of `step`; without one all levels are looked at."""
        with torch.no_grad():
            # Any t will do: in the space it was trained in, the noise-unconditional branch does not depend on it.
            mixed = self._value(x, as_time(torch.tensor(0.5), x), cond, NOISE_UNCONDITIONAL).flatten(1).double()
            mean, std = torch.empty(2, len(x), dtype=torch.float64)
            rest = torch.arange(len(x))
            if step is not None:
                start = self.schedule.log_snr(step.t.double().cpu())
                mean, std, narrow = self._near(x, cond, mixed, start)
                rest = rest[~narrow]
            if len(rest):
                rows = rest.to(x.device)
                some = None if cond is None else cond[rest.to(cond.device)]
                mean[rest], std[rest] = self._swept(x[rows], some, mixed[rows])
        # Log-SNR has no end where the signal vanishes, and its moments there are those of a tail: t has both ends.
        return broadest(self.times, mean, std)

    def _near(self, x: Tensor, cond: Tensor | None, mixed: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation (B,) of t from 11 levels around log-SNR `start` (), and for which states these will do."""
        low, high = (float(end) for end in self.schedule.log_snr(self.levels[[-1, 0]]))
        levels = (start + torch.tensor(AROUND, dtype=torch.float64)).clamp(low, high).expand(len(x), -1)
        mean, spread = _moments(levels, self._weights(x, cond, mixed, levels))
        inside = (mean > levels[:, -1] + EDGE) & (mean < levels[:, 0] - EDGE)
        for least in CLOSER:
            levels = self._window(mean, (3 * spread).clamp_min(least), 3)
            weights = self._weights(x, cond, mixed, levels)
            mean, spread = _moments(levels, weights)
        mean_t, std_t = _moments(self.schedule.time_of_log_snr(levels), weights)
        return mean_t, std_t, inside & (spread < NARROW)

    def _swept(self, x: Tensor, cond: Tensor | None, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B,) of t from all the levels, and twice from some around where they put it."""
        coarse = self.schedule.log_snr(self.levels).expand(len(x), -1)
        mean, spread = _moments(coarse, self._weights(x, cond, mixed, coarse))
        spacing = float((coarse[0, 0] - coarse[0, -1]) / (coarse.shape[1] - 1))
        # First the coarse cell, then four standard deviations of what was seen there.
        finer = self._window(mean, (3 * spread).clamp_min(1.5 * spacing), WINDOW)
        mean, spread = _moments(finer, self._weights(x, cond, mixed, finer))
        finest = self._window(mean, 4 * spread.clamp_min(spacing / 50), WINDOW)
        return _moments(self.schedule.time_of_log_snr(finest), self._weights(x, cond, mixed, finest))

    def _window(self, centre: Tensor, half: Tensor, count: int) -> Tensor:
        """(B, count) log-SNRs around each state's centre, within the grid."""
        ends = self.schedule.log_snr(self.levels[[-1, 0]])
        offsets = torch.linspace(1, -1, count, dtype=torch.float64)
        return (centre[:, None] + half[:, None] * offsets).clamp(float(ends[0]), float(ends[1]))

    def _weights(self, x: Tensor, cond: Tensor | None, mixed: Tensor, log_snr: Tensor) -> Tensor:
        """The simplex weights (B, G) of each state's levels."""
        times = self.schedule.time_of_log_snr(log_snr)
        return _simplex(over_levels(self._conditional, x, times, cond).double(), mixed)

    def _conditional(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return self._value(x, as_time(t, x), cond, FULL).flatten(1)

    def _value(self, x: Tensor, t: Tensor, cond: Tensor | None, branch: Branch) -> Tensor:
        """A branch's answer in the space that the model was trained in."""
        return in_space(self.model.predict(x, t, cond, (branch,))[0], self.model.predicts)


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B,) of values (B, G) under weights that sum to 1."""
    mean = (weights * values).sum(1)
    return mean, (weights * (values - mean[:, None]) ** 2).sum(1).sqrt()


def broadest(times: Tensor, mean: Tensor, std: Tensor) -> Posterior:
    """The posterior of greatest entropy on `times` (K,) with this mean and standard deviation of t, (B,) each.

    Its log density is a parabola in t; two natural parameters per state are found by Newton's method on the convex dual.
    A width that the grid cannot hold is widened to half its spacing there.

    Args:
        times: (K,) rising grid.
        mean: (B,), inside the grid.
        std: (B,), positive.
    """
    cell = torch.gradient(times)[0]
    std = torch.maximum(std, cell[torch.searchsorted(times, mean.contiguous()).clamp(max=len(times) - 1)] / 2)
    u = (times - mean[:, None]) / std[:, None]
    features = torch.stack([u, u**2 - 1], dim=-1)
    natural = torch.tensor([0.0, -0.5], dtype=torch.float64).expand(len(mean), 2)
    for _ in range(NEWTON):
        posterior = Posterior.from_log_density(times, (features @ natural[..., None])[..., 0])
        gap = (posterior.prob[:, None] @ features)[:, 0]
        if float(gap.abs().max()) < 1e-6:
            break
        centred = features - gap[:, None]
        curvature = centred.mT @ (posterior.prob[..., None] * centred) + 1e-9 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(curvature, gap)
        # A long step leaves the region where the quadratic model holds.
        natural = natural - step / step.norm(dim=-1, keepdim=True).clamp_min(1)
    return posterior


def _simplex(levels: Tensor, mixed: Tensor) -> Tensor:
    """Weights (B, G) ≥ 0 with sum 1 that bring Σ w_i levels_i (B, G, d) closest to mixed (B, d)."""
    # Centred on the noise-unconditional prediction the target is 0, and the sum-to-one row alone keeps the weights from vanishing.
    offset = (levels - mixed[:, None]).cpu()
    scale = offset.square().sum(-1).mean(-1).sqrt().clamp_min(1e-300)[:, None, None]
    matrix = torch.cat([offset.mT / scale, torch.ones_like(offset[:, None, :, 0])], dim=1)
    # Thin QR first: G numbers per column instead of d.
    q, r = torch.linalg.qr(matrix)
    rows = [_nonnegative(part.numpy(), target.numpy()) for part, target in zip(r, q[:, -1], strict=True)]
    weights = torch.from_numpy(np.stack(rows)).clamp_min(1e-300)
    return weights / weights.sum(1, keepdim=True)


def _nonnegative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Non-negative least squares; neighbouring levels are nearly parallel, so with as little ridge as lets it end."""
    count = matrix.shape[1]
    padded = np.concatenate([target, np.zeros(count)])
    for ridge in (1e-6, 1e-4, 1e-2):
        try:
            weights, _ = nnls(np.vstack([matrix, ridge * np.eye(count)]), padded, maxiter=5 * count)
        except RuntimeError:  # it cycles: scipy gives up
            continue
        return np.asarray(weights)
    return np.full(count, 1 / count)
