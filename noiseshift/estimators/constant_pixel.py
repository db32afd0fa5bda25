"""The independent reference: coordinates that never vary in the data hold pure noise, so their spread *is* the level.

Dark corners and zero padding: over them x - alpha mean is N(0, sigma²), whatever the network believes. No model enters.
It also counts what a network leaves behind in those coordinates, which is noise all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from noiseshift.diffusion.schedules import Schedule
from noiseshift.estimators.posterior import Posterior, time_grid

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step


class ConstantPixel:
    """Posterior over t from the data's constant coordinates.

    Args:
        data: (N, …) real images or vectors.
        schedule: on which states are read.
        tolerance: a coordinate counts as constant when its standard deviation is at most this, in the data's units ([-1, 1]
            for images).
        least: how many constant coordinates there must be.
        times: (K,) the grid of its posteriors; by default `time_grid` of the schedule.

    Raises:
        ValueError: fewer than `least` coordinates are constant.
    """

    def __init__(
        self, data: Tensor, schedule: Schedule, *, tolerance: float = 0.01, least: int = 8, times: Tensor | None = None
    ):
        self.schedule = schedule
        self.times = time_grid(schedule) if times is None else times.double()
        flat = data.flatten(1).double()
        variance, mean = torch.var_mean(flat, dim=0)
        self.mask = variance <= tolerance**2
        if int(self.mask.sum()) < least:
            raise ValueError(
                f"only {int(self.mask.sum())} of {flat.shape[1]} coordinates are constant in this data (sd ≤ {tolerance}), "
                f"{least} are needed: leave the constant-pixel estimator out"
            )
        self.mean = mean[self.mask]
        self.variance = variance[self.mask]

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """x (B, …). With a `step` the signal is subtracted at the scheduled alpha, so that only the noise is read;
        without one alpha varies with the candidate level."""
        values = x.flatten(1)[:, self.mask.to(x.device)].double().cpu()
        level = self.schedule(self.times)
        alpha = level.alpha if step is None else self.schedule(step.t.double().cpu()).alpha.expand_as(self.times)
        variance = level.sigma[:, None] ** 2 + alpha[:, None] ** 2 * self.variance
        residual = values[:, None] - alpha[:, None] * self.mean
        log_density = -0.5 * (residual**2 / variance + variance.log()).sum(-1)
        return Posterior.from_log_density(self.times, log_density)
