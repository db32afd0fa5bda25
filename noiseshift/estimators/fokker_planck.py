"""The level from the model alone: integrate d log p(x | λ) / dλ over the log-SNR λ at a fixed state.

The integral is p(x | t) up to a constant, and so p(t | x) under a flat prior. It needs no training and no
noise-unconditional branch. See `slopes` for the slope and what it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from noiseshift.diffusion.models import Model
from noiseshift.estimators.posterior import Posterior, time_grid
from noiseshift.estimators.slopes import Probes, Slopes, differences_hold, energy_at, slopes_at

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step

FINE = 1500
"""Points of the posterior's grid: 3,000 dimensions resolve a log-SNR to about 0.03."""

AROUND = {0.12: (-4.5, 0.0, 3.5), 0.3: (-5.0, -2.5, 0.0, 2.0, 4.0)}
"""Levels read around the mode, in standard deviations of log-SNR, by the width up to which they describe a posterior. It
leans towards noise, the more the wider it is."""

FALLEN = 4.0
"""How far the log density must have fallen from its top to both ends of the levels, for them to hold all of it."""

TRIES = 8
"""Most levels on the way to a mode."""

ALONG = 0.05
"""The step in log-SNR that gives the energy's slope."""

REFINED = (0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
"""Quantiles of a wide posterior at which it is read again."""

SMOOTHING = 0.3
"""The standard deviation in log-SNR over which the probes of a wide posterior are pooled."""


class FokkerPlanck:
    """Posterior over t by integrating the slope of log p(x | t), the model's own.

    Where the posterior is narrow (a standard deviation of log-SNR up to 0.3), its mode is found by Newton's method from the
    conditioning level by one probe a level, and 3 levels around it are read. Every level has probes of its own, and what they
    say is pooled: T changes little there. That is 3 or 6 evaluations on the way and 3 (1 + probes) around. A probe's error
    shifts the posterior by about sqrt(k / d) of its width, k the dimensions that the data fill; n probes', by 1/√n of it.

    Where the posterior is wide, or no mode is found, all of `times` are read with one probe, and 9 levels more at its
    quantiles: 2 G + 9 (1 + probes) evaluations.

    The unguided, class-conditional branch is evaluated. Derivatives are finite differences, 1 + probes evaluations a level;
    forward-mode ones where differences do not hold (half precision).

    Args:
        model: the model whose posterior it is.
        times: (G,) the levels of a wide posterior; the first and last bound every posterior. At least 4.
        probes: Hutchinson probes at a level that counts.
        seed: the probes' seed.

    Raises:
        ValueError: fewer than 4 times, or no probe.
    """

    def __init__(self, model: Model, times: Tensor, probes: int = 3, seed: int = 0):
        self.model = model
        self.schedule = model.schedule
        self.probes = probes
        self.seed = seed
        self.levels = times.double().cpu().sort().values
        if len(self.levels) < 4:
            raise ValueError(f"Fokker–Planck needs at least 4 times to integrate over, got {len(self.levels)}")
        if probes < 1:
            raise ValueError(f"Fokker–Planck needs at least one probe, got {probes}")
        self.times = time_grid(self.schedule, FINE, float(self.levels[0]), float(self.levels[-1]))
        self.grid = self.schedule.log_snr(self.times)
        self.bounds = (float(self.grid[-1]), float(self.grid[0]))
        self._exact: bool | None = None

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """x (B, …), cond (B,) or None. The search starts at the level of `step`, else in the middle."""
        state = _States(x, cond, Probes(x, self.seed, step.first if step else 0))
        if self._exact is None:
            self._exact = not differences_hold(self.model, x, cond)
        start = float(self.grid[len(self.grid) // 2] if step is None else self.schedule.log_snr(step.t.double().cpu()))
        density = torch.zeros(len(x), len(self.grid), dtype=torch.float64)
        mode, width = self._find(state, min(max(start, self.bounds[0]), self.bounds[1]))
        whole = torch.zeros(len(x), dtype=torch.bool)
        above = 0.0
        for limit, offsets in AROUND.items():
            near = torch.nonzero((width > above) & (width <= limit))[:, 0]
            above = limit
            if len(near):
                levels = mode[near, None] + width[near, None] * torch.tensor(offsets, dtype=torch.float64)
                density[near], whole[near] = self._around(state, near, levels)
        rest = torch.nonzero(~whole)[:, 0]
        if len(rest):
            density[rest] = self._swept(state, rest)
        return Posterior.from_log_density(self.times, density)

    def _find(self, state: _States, start: float) -> tuple[Tensor, Tensor]:
        """Modes and widths (B,) in log-SNR; an infinite width where none was found.

        Over noise directions d log p / dλ = k (1 - exp(λ - λ*)), so value g and slope g' give the root at once:
        λ* = λ + log((g' - g) / g').
        """
        mode = torch.full((len(state.x),), start, dtype=torch.float64)
        width = torch.full_like(mode, torch.inf)
        left = torch.arange(len(mode))
        low, high = self.bounds
        for _ in range(TRIES):
            here = mode[left].clamp(low + ALONG, high)
            seen = self._slopes(state, left, here, 1)
            behind = energy_at(self.model, *state.of(left), here - ALONG)
            value = seen.energy - seen.trace / 2
            slope = (seen.energy - behind) / ALONG - (seen.trace - seen.square) / 2
            jump = torch.log((slope - value) / slope).clamp(-2, 2)
            good = torch.isfinite(jump) & (slope < 0)
            jump = torch.where(good, jump, value.sign())  # elsewhere the form does not hold: up or down by one
            mode[left] = (here + jump).clamp(low, high)
            near = good & (jump.abs() < (-slope).rsqrt())
            width[left[near]] = (-slope[near]).rsqrt()
            left = left[~near & (jump != 0)]
            if not len(left):
                break
        return mode, width

    def _around(self, state: _States, rows: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities (rows, K) from levels (rows, L), and whether these hold all of them (rows,)."""
        inside = (levels[:, 0] > self.bounds[0]) & (levels[:, -1] < self.bounds[1])
        levels = self._spread_out(levels.clamp(*self.bounds))
        seen = Slopes.stack([self._slopes(state, rows, at, self.probes) for at in levels.unbind(1)])
        density = _integrated(seen, torch.inf, self.grid)
        ends = torch.stack(
            [density.gather(1, _nearest(self.grid, at)[:, None])[:, 0] for at in levels[:, [0, -1]].unbind(1)]
        )
        return density, inside & (density.amax(1) - ends > FALLEN).all(0)

    def _swept(self, state: _States, rows: Tensor) -> Tensor:
        """Log densities (rows, K) from all the levels, and from some more where the posterior turns out to lie."""
        every = self.schedule.log_snr(self.levels).flip(0).expand(len(rows), -1)
        seen = Slopes.stack([self._slopes(state, rows, at, 1) for at in every.unbind(1)])
        first = Posterior.from_log_density(self.times, _integrated(seen, SMOOTHING, self.grid))
        where = torch.stack([self.schedule.log_snr(first.quantile(q)) for q in REFINED[::-1]], 1)
        more = Slopes.stack([self._slopes(state, rows, at, self.probes) for at in where.unbind(1)])
        both = seen.and_also(more)
        return _integrated(both._replace(log_snr=self._spread_out(both.log_snr)), SMOOTHING, self.grid)

    def _slopes(self, state: _States, rows: Tensor, log_snr: Tensor, count: int) -> Slopes:
        probes = state.probes.draw(rows, count)
        return slopes_at(self.model, *state.of(rows), log_snr, probes, exact=bool(self._exact))

    @staticmethod
    def _spread_out(levels: Tensor) -> Tensor:
        """Levels (B, L) that rise, made to rise strictly, as a spline's knots must."""
        gap = 1e-6 * torch.arange(levels.shape[1], dtype=torch.float64)
        return torch.cummax(levels, 1).values + gap


class _States:
    """States (B, …), their conditions, and where their probes come from."""

    def __init__(self, x: Tensor, cond: Tensor | None, probes: Probes):
        self.x = x
        self.cond = cond
        self.probes = probes

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        cond = None if self.cond is None else self.cond[rows.to(self.cond.device)]
        return self.x[rows.to(self.x.device)], cond


def _integrated(seen: Slopes, reach: float, grid: Tensor) -> Tensor:
    """(B, K) log density on the log-SNRs `grid` (K,), from slopes at rising levels (B, L); it ends where the levels do."""
    slope = (seen.energy - _pooled(seen, reach) / 2).numpy()
    at = grid.numpy()
    rows = []
    for knots, values in zip(seen.log_snr.numpy(), slope, strict=True):
        inside = at.clip(knots[0], knots[-1])
        rows.append(CubicSpline(knots, values).antiderivative()(inside) - 1e3 * np.abs(at - inside))
    return torch.from_numpy(np.stack(rows))


def _pooled(seen: Slopes, reach: float) -> Tensor:
    """T (B, L) at every level, from the probes of all levels within `reach` of it.

    Over a Gaussian's directions T is a sum of logistic functions of λ. Here it is one, size × logistic(λ - centre), fitted to
    the weighted sums of T and of T - T'. Their ratio falls as the centre rises, so bisection finds the centre.
    """
    away = seen.log_snr[:, :, None] - seen.log_snr[:, None, :]
    weight = torch.exp(-0.5 * (away / reach) ** 2)
    total = (weight * seen.trace[:, None]).sum(2)
    ratio = ((weight * seen.square[:, None]).sum(2) / total).nan_to_num(0.5).clamp(1e-3, 1 - 1e-3)
    low, high = torch.full_like(total, -30), torch.full_like(total, 30)
    for _ in range(45):
        centre = (low + high) / 2
        share = torch.sigmoid(-away - centre[..., None])  # of every level, seen from this one
        above = (weight * share**2).sum(2) / (weight * share).sum(2) > ratio
        low, high = torch.where(above, centre, low), torch.where(above, high, centre)
    return total / (weight * share).sum(2) * torch.sigmoid(-centre)


def _nearest(grid: Tensor, at: Tensor) -> Tensor:
    return (grid - at[:, None]).abs().argmin(1)
