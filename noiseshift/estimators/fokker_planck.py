"""The level from the model alone: integrate the continuity equation over t at a fixed state.

At fixed x, as a function of t, d/dt log p_t(x) = -div v_t(x) - v_t(x)·s_t(x) with v the probability-flow velocity and s
the score. One divergence per level, by Hutchinson's estimator with the same probes at every level, so that their error is
smooth in t; the integral is p(x | t) up to a constant, and so p(t | x) under a flat prior. It needs no training and no
noise-unconditional branch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from noiseshift.diffusion.memory import is_out_of_memory
from noiseshift.diffusion.models import FULL, Model, as_time
from noiseshift.diffusion.noise import POLISHING, PROBING, generators
from noiseshift.estimators.posterior import Posterior, time_grid
from noiseshift.estimators.rows import over_levels

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step

FINE = 1500  # points of the posterior's grid: 3,000 dimensions resolve a log-SNR to about 0.03


class FokkerPlanck:
    """Posterior over t from d log p / dt at each of `times`, splined in log-SNR and integrated.

    A probe's error shifts the posterior by about sqrt(k / d) of its width, k the data's dimension, and changes slowly with
    the level. So after a first pass with `probes` at every level, `polish` fresh ones at three levels of the posterior
    (its 10, 50 and 90 % points) correct the slopes, three times. Costs probes × (G + 9) + polish × 9 forwards and as many
    forward-mode derivatives per state; the unguided, class-conditional branch is evaluated. The posterior comes on a finer grid
    between the first and the last of `times`.

    Args:
        model: predicts at every level.
        times: (G,) the levels of the first pass, at least 4.
        probes: random directions a state and level (Hutchinson's estimator of the divergence).
        seed: of the probes.
        polish: fresh probes of the later passes; 6 (1 + probes) when None, 0 for no such pass.

    Raises:
        ValueError: for fewer than 4 times.
    """

    def __init__(self, model: Model, times: Tensor, probes: int = 1, seed: int = 0, *, polish: int | None = None):
        self.model, self.schedule, self.probes, self.seed = model, model.schedule, probes, seed
        self.polish = 6 * (1 + probes) if polish is None else polish
        self.levels = times.double().cpu().sort().values
        if len(self.levels) < 4:
            raise ValueError(f"Fokker–Planck needs at least 4 times to integrate over, got {len(self.levels)}")
        self.times = time_grid(self.schedule, FINE, float(self.levels[0]), float(self.levels[-1]))

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """x (B, …), cond (B,) or None."""
        times = self.levels.expand(len(x), -1)
        first = step.first if step else 0
        slopes = log_density_slope(self.model, x, times, cond, probes=self.probes, seed=self.seed, first=first)
        posterior = self._integrate(slopes)
        knots, errors = slopes[:, :0], slopes[:, :0]
        # Several passes: a first one 1.5 posterior sds off refines in the wrong place, and a second still half wrong.
        for _ in range(3 if self.polish else 0):
            at = torch.stack([posterior.quantile(q) for q in (0.1, 0.5, 0.9)], dim=1)
            shared = log_density_slope(self.model, x, at, cond, probes=self.probes, seed=self.seed, first=first)
            fresh = log_density_slope(
                self.model, x, at, cond, probes=self.polish, seed=self.seed, first=first, stream=POLISHING
            )
            errors = torch.cat([errors, ((fresh - shared) * self.polish / (self.polish + self.probes)).to(errors)], 1)
            knots = torch.cat([knots, self.schedule.log_snr(at).to(knots)], 1)
            posterior = self._integrate(slopes + _between(self.schedule.log_snr(times), knots, errors))
        return posterior

    def _integrate(self, slopes: Tensor) -> Posterior:
        # log-SNR falls with t: integrate over its negative, which rises.
        knots = -self.schedule.log_snr(self.levels).numpy()
        fine = -self.schedule.log_snr(self.times).numpy()
        spline = CubicSpline(knots, -slopes.cpu().numpy(), axis=1).antiderivative()
        return Posterior.from_log_density(self.times, torch.from_numpy(spline(np.clip(fine, knots[0], knots[-1]))))


class FokkerPlanckMode:
    """The same posterior from a few evaluations: find the root of d log p / dlog-SNR and read the width off its slope.

    Starts at the conditioning time when it has a `step`, else at the middle. The posterior is a Gaussian in log-SNR: right
    where it is narrow (a standard deviation of log-SNR up to about 0.3), wrong where noise hides the data and it fills a good
    part of the grid. Its mean is that of its probes, unpolished: about sqrt(k / ((d - k) probes)) posterior standard
    deviations off, k the data's dimension.

    Args:
        model: predicts at every level.
        calls: evaluations per state.
        probes: random directions per evaluation.
        seed: of the probes.
        times: (K,) the grid of its posteriors; by default `time_grid` of the schedule.
    """

    def __init__(self, model: Model, calls: int = 8, probes: int = 1, seed: int = 0, times: Tensor | None = None):
        if calls < 4:
            raise ValueError(f"bracketing a mode takes at least 4 evaluations, got {calls}")
        self.model, self.schedule = model, model.schedule
        self.calls, self.probes, self.seed = calls, probes, seed
        self.times = time_grid(self.schedule, FINE) if times is None else times.double()

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """x (B, …), cond (B,) or None."""
        grid = self.schedule.log_snr(self.times)
        bounds = (float(grid.min()), float(grid.max()))
        start = float(grid[len(grid) // 2]) if step is None else float(self.schedule.log_snr(step.t.double().cpu()))
        mode, width = self._bracket(x, cond, start, bounds, step.first if step else 0)
        return Posterior.from_log_density(self.times, -0.5 * ((grid - mode[:, None]) / width[:, None]) ** 2)

    def _bracket(
        self, x: Tensor, cond: Tensor | None, start: float, bounds: tuple[float, float], first: int
    ) -> tuple[Tensor, Tensor]:
        """Mode and width (B,) in log-SNR.

        Over noise directions d log p / dλ = (k/2)(1 - exp(λ - λ*)) for k of them, so value g and slope g' give the root
        at once: λ* = λ + log((g' - g) / g'). Pairs of calls give both; the signs seen keep the guesses in a bracket.
        """
        here = torch.full((len(x),), start, dtype=torch.float64)
        low, high = (torch.full_like(here, end) for end in bounds)
        reach = 0.05
        width = torch.ones_like(here)
        for _ in range(self.calls // 2):
            here = here.clamp(bounds[0] + reach, bounds[1] - reach)
            below, above = (self._slope(x, cond, here + side, first) for side in (-reach, reach))
            value, curvature = (below + above) / 2, (above - below) / (2 * reach)
            low, high = torch.where(value > 0, here, low), torch.where(value > 0, high, here)
            width = (-curvature).clamp_min(1e-6).rsqrt()
            jump = torch.log((curvature - value) / curvature).clamp(-2, 2)
            # Elsewhere the form does not hold: go up or down by one.
            guess = here + torch.where(torch.isfinite(jump) & (curvature < 0), jump, value.sign())
            outside = (guess <= low) | (guess >= high)
            here = torch.where(outside, (low + high) / 2, guess)
        return here, width

    def _slope(self, x: Tensor, cond: Tensor | None, log_snr: Tensor, first: int) -> Tensor:
        times = self.schedule.time_of_log_snr(log_snr)[:, None]
        return log_density_slope(self.model, x, times, cond, probes=self.probes, seed=self.seed, first=first)[:, 0]


def _between(log_snr: Tensor, knots: Tensor, errors: Tensor) -> Tensor:
    """(B, G) errors known at K log-SNRs a row (B, K): linear between them, constant above, fading below.

    A divergence errs by its part alpha dx0/dx = SNR Cov(x0 | x), which vanishes with the SNR; an error carried to levels
    of pure noise, where log p is flat, would heap up mass there.
    """
    order = knots.argsort(dim=1)
    rows = zip(log_snr.numpy(), knots.gather(1, order).numpy(), errors.gather(1, order).numpy(), strict=True)
    between = torch.from_numpy(np.stack([np.interp(*row) for row in rows]))
    return between * torch.exp(log_snr - knots.min(dim=1, keepdim=True).values).clamp(max=1)


def log_density_slope(
    model: Model,
    x: Tensor,
    times: Tensor,
    cond: Tensor | None = None,
    *,
    probes: int = 1,
    seed: int = 0,
    first: int = 0,
    stream: int = PROBING,
) -> Tensor:
    """d log p_t(x) / d log-SNR at fixed x.

    The divergence is Hutchinson's with Rademacher vectors. Row i draws those of sample `first` + i (see `noise.generator`), so
    that a sample reads the same in a batch of any size.

    Args:
        model: predicts at every level.
        x: states (B, …).
        times: (B, G).
        cond: (B,) classes, or None.
        probes: vectors per state and time.
        seed: of the vectors.
        first: the sample index of row 0.
        stream: keeps the vectors apart from other noise.

    Returns:
        (B, G) float64.
    """
    total = torch.zeros(times.shape, dtype=torch.float64)
    sources = generators(range(first, first + len(x)), seed=seed, stream=stream)
    signs = np.stack([source.integers(0, 2, (probes, *x.shape[1:]), np.int8) * 2 - 1 for source in sources])
    for probe in torch.from_numpy(signs).to(x).unbind(1):
        both = torch.cat([x, probe], dim=1)
        total += over_levels(lambda rows, t, c: _time_slope(model, rows, t, c), both, times, cond).cpu()
    at = times.double().contiguous()
    slope = torch.func.jvp(model.schedule.log_snr, (at,), (torch.ones_like(at),))[1]
    return total / probes / slope


def _time_slope(model: Model, both: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
    """(rows,) d log p_t(x) / dt for rows of states and their probes, side by side along axis 1."""
    x, probe = both.chunk(2, dim=1)

    def denoise(y: Tensor) -> tuple[Tensor, Tensor]:
        prediction = model.predict(y, as_time(t, y), cond, (FULL,))[0]
        return prediction.x0, prediction.eps

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward-mode derivative
        (x0, eps), (x0_along, eps_along) = _derivative(denoise, x, probe)
    level = model.schedule(t.double()).like(x0.double())
    velocity = level.dalpha * x0 + level.dsigma * eps
    divergence = probe * (level.dalpha * x0_along + level.dsigma * eps_along)
    return (velocity * eps / level.sigma - divergence).flatten(1).sum(1)


def _derivative(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, along: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """function(x) and its derivative along a direction: forward mode, or a central difference where a layer has none."""
    try:
        value, slope = torch.func.jvp(function, (x,), (along,))[:2]
        return value, slope
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # A network that is broken, and not only in forward mode, says so again here.
        step = 1e-3
        ahead, behind = function(x + step * along), function(x - step * along)
        return function(x), ((ahead[0] - behind[0]) / (2 * step), (ahead[1] - behind[1]) / (2 * step))
