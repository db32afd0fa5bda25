"""What every estimator returns: a posterior over t on a grid, one row per state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from noiseshift.diffusion.schedules import Schedule

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step


@dataclass(frozen=True)
class Posterior:
    """p(t | x) on a grid.

    Masses, not densities: the grid's own spacing is part of them. Use `from_log_density` to weigh a density.

    Attributes:
        times: (K,) ascending.
        log_prob: (B, K) the log mass at each time, float64.
    """

    times: Tensor
    log_prob: Tensor

    def __repr__(self) -> str:
        return (
            f"Posterior({len(self.log_prob)} states on a grid of {len(self.times)} times: see .mean(), .sd(), .mode())"
        )

    @classmethod
    def from_log_density(cls, times: Tensor, log_density: Tensor) -> Posterior:
        """From an unnormalised log density in t at the grid points, weighed by the trapezoid rule (a flat prior on t).

        Args:
            times: (G,) rising grid in [0, 1].
            log_density: (B, G).
        """
        times = times.double()
        width = torch.zeros_like(times)
        width[1:] += times.diff() / 2
        width[:-1] += times.diff() / 2
        return cls(times, torch.log_softmax(log_density.double().to(times.device) + width.log(), dim=-1))

    @property
    def prob(self) -> Tensor:
        return self.log_prob.exp()

    @property
    def mean(self) -> Tensor:
        """(B,) posterior mean of t."""
        return self.expect(self.times)

    @property
    def std(self) -> Tensor:
        """(B,) posterior standard deviation of t."""
        centred = self.times - self.mean[:, None]
        return (self.prob * centred**2).sum(-1).sqrt()

    @property
    def mode(self) -> Tensor:
        """(B,) the most probable time of the grid, refined by a parabola through its neighbours where the grid is even."""
        top = self.log_prob.argmax(-1).clamp(1, len(self.times) - 2)
        rows = torch.arange(len(top), device=top.device)
        left, centre, right = (self.log_prob[rows, top + k] for k in (-1, 0, 1))
        curve = left - 2 * centre + right
        offset = torch.where(curve < 0, (left - right) / (2 * curve), 0.0).clamp(-1, 1)
        step = (self.times[top + 1] - self.times[top - 1]) / 2
        return self.times[top] + offset * step

    @property
    def entropy(self) -> Tensor:
        """(B,) entropy in nats of the mass over the grid."""
        return -(self.prob * self.log_prob.clamp_min(-745)).sum(-1)

    def expect(self, values: Tensor) -> Tensor:
        """(B,) posterior mean of a function of t given at the grid points, (K,)."""
        return (self.prob * values.to(self.prob)).sum(-1)

    def quantile(self, q: float) -> Tensor:
        """(B,) the q-quantile, linear within a cell. Raises ValueError unless 0 < q < 1."""
        if not 0 < q < 1:
            raise ValueError(f"a quantile lies between 0 and 1, got {q}")
        cumulative = self.prob.cumsum(-1) - self.prob / 2
        right = torch.searchsorted(cumulative, torch.full_like(cumulative[:, :1], q)).clamp(1, len(self.times) - 1)
        low, high = cumulative.gather(1, right - 1), cumulative.gather(1, right)
        share = ((q - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
        return torch.lerp(self.times[right - 1], self.times[right], share)[:, 0]


class Estimator(Protocol):
    """Reads the noise level off states: x (B, …), cond (B,) or None → a posterior over t.

    `step` is the Step that the states came from, so that an estimator can reuse the network's answer; an estimator that
    does not need it ignores it. `times` (K,) is the grid of its posteriors.
    """

    schedule: Schedule
    times: Tensor

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior: ...


def time_grid(schedule: Schedule, points: int = 400, low: float = 0.002, high: float = 0.998) -> Tensor:
    """Times even in log-SNR: fine where the level is well resolved.

    Args:
        schedule: gives the log-SNR.
        points: how many.
        low: the first time, above 0.
        high: the last, below 1.

    Returns:
        (points,) float64, ascending.
    """
    first, last = (float(schedule.log_snr(torch.tensor(t, dtype=torch.float64))) for t in (low, high))
    inside = schedule.time_of_log_snr(torch.linspace(first, last, points, dtype=torch.float64)[1:-1])
    return torch.cat([torch.tensor([low]).double(), inside, torch.tensor([high]).double()])
