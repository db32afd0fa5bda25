"""The level from what the network says without being told it.

The noise-blind prediction is the posterior-weighted mixture of the conditional ones, f(x) = Σ p(t_i | x) f(x | t_i), for
any fixed training target f (velocity, eps, x0; for the score with p(x) = ∫ p(t) p_t(x) dt). Given both branches the
weights follow by least squares on the simplex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from noiseshift.estimators.posterior import Posterior, time_grid
from noiseshift.estimators.rows import over_levels
from noiseshift.models import FULL, NOISE_BLIND, Model, Prediction, require

if TYPE_CHECKING:
    from noiseshift.samplers import Step

WINDOW = 17  # levels of each refinement


class ScoreMixture:
    """Posterior over t from the blind branch and the conditional one on a grid of `times` (G,), coarse to fine.

    Least squares on the simplex chooses few levels, but their mean and spread are those of the posterior: the first is
    where f(x) lies along the curve f(x | t), the second how far inside its bend. A Gaussian in log-SNR with these two
    moments is returned. Costs G + 2 × 17 forwards a state, and one of the blind branch. Raises ValueError for a model
    without a noise-blind branch.
    """

    def __init__(self, model: Model, times: Tensor):
        require(model, (NOISE_BLIND,))
        self.model, self.schedule, self.levels = model, model.schedule, times.double().cpu().sort().values
        self.times = time_grid(self.schedule, 1500, float(self.levels[0]), float(self.levels[-1]))

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """x (B, …), cond (B,) or None."""
        with torch.no_grad():
            # Any t will do: in the space it was trained in, the blind branch does not depend on it.
            blind = value_of(self.model, self.model.predict(x, torch.tensor(0.5).to(x), cond, (NOISE_BLIND,))[0])
            blind = blind.flatten(1).double()
            coarse = self.schedule.log_snr(self.levels).expand(len(x), -1)
            mean, spread = self._fit(x, cond, blind, coarse)
            spacing = float((coarse[0, 0] - coarse[0, -1]) / (coarse.shape[1] - 1))
            # First the coarse cell, then four standard deviations of what was seen there.
            mean, spread = self._fit(x, cond, blind, self._window(mean, (3 * spread).clamp_min(1.5 * spacing)))
            mean, spread = self._fit(x, cond, blind, self._window(mean, 4 * spread.clamp_min(spacing / 50)))
        grid = self.schedule.log_snr(self.times)
        width = spread.clamp_min(1e-3)[:, None]
        density = -0.5 * ((grid - mean[:, None]) / width) ** 2
        # The moments are of the posterior as it is, prior included; from_log_density would apply the prior again.
        return Posterior(self.times, torch.log_softmax(density + torch.gradient(grid)[0].abs().log(), dim=-1))

    def _window(self, centre: Tensor, half: Tensor) -> Tensor:
        """(B, 17) log-SNRs around each state's centre, within the grid."""
        ends = self.schedule.log_snr(self.levels[[-1, 0]])
        offsets = torch.linspace(1, -1, WINDOW, dtype=torch.float64)
        return (centre[:, None] + half[:, None] * offsets).clamp(float(ends[0]), float(ends[1]))

    def _fit(self, x: Tensor, cond: Tensor | None, blind: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread (B,) in log-SNR of the simplex weights over each state's levels (B, G)."""
        times = self.schedule.time_of_log_snr(log_snr)
        told = over_levels(self._conditional, x, times, cond).double()
        weights = _simplex(told, blind)
        mean = (weights * log_snr).sum(1)
        return mean, (weights * (log_snr - mean[:, None]) ** 2).sum(1).clamp_min(0).sqrt()

    def _conditional(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return value_of(self.model, self.model.predict(x, t.to(x), cond, (FULL,))[0]).flatten(1)


def value_of(model: Model, prediction: Prediction) -> Tensor:
    """A prediction in the space that the model was trained in."""
    space = {"velocity": "velocity", "epsilon": "eps", "x0": "x0", "score": "score"}[model.predicts]
    value: Tensor = getattr(prediction, space)
    return value


def _simplex(levels: Tensor, blind: Tensor) -> Tensor:
    """Weights (B, G) ≥ 0 with sum 1 that bring Σ w_i levels_i (B, G, d) closest to blind (B, d)."""
    # Centred on the blind prediction the target is 0, and the sum-to-one row alone keeps the weights from vanishing.
    offset = (levels - blind[:, None]).cpu()
    scale = offset.square().sum(-1).mean(-1).sqrt().clamp_min(1e-300)[:, None, None]
    matrix = torch.cat([offset.mT / scale, torch.ones_like(offset[:, None, :, 0])], dim=1)
    # Thin QR first: G numbers a column instead of d.
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
