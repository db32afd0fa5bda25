"""What Fokker–Planck needs of a state at a level, from a few evaluations of the denoiser there.

At fixed x of d numbers, d/dt log p_t(x) = -div v_t(x) - v_t(x)·s_t(x) with v the probability-flow velocity and s the score.
In λ = log SNR that is

    d log p / dλ = energy(x, λ) - T(x, λ) / 2,     T = alpha tr ∂x̂0/∂x.

The energy takes one evaluation. T, the number of dimensions that the data fill at this level, takes Hutchinson's probes. The
same probes give alpha² |∂x̂0/∂x|², which over a Gaussian's directions is T - dT/dλ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from noiseshift.diffusion.memory import is_out_of_memory
from noiseshift.diffusion.models import FULL, Model, as_time
from noiseshift.diffusion.noise import PROBING, generators, normal
from noiseshift.diffusion.schedules import Level
from noiseshift.estimators.rows import over_levels

STEP = 0.02
"""A finite difference's step along a probe, over sigma: below a denoiser's own scale, above float32's rounding."""

AGREEMENT = 0.1
"""How closely differences of two steps must agree, relative to the derivative, for differences to be used. Of the bundled
networks they agree to 0.01 … 0.03 in float32 (T to 1 %), and to 0.5 … 0.9 in bfloat16."""


class Slopes(NamedTuple):
    """What is known at levels of B states; each (B,), or (B, L) where stacked. float64, on the CPU.

    Attributes:
        log_snr: λ, the log-SNR of the levels.
        energy: d log p / dλ without its trace.
        trace: alpha ε·(∂x0/∂x)ε, averaged over the probes ε: alpha times the trace, without bias.
        square: alpha² ‖(∂x0/∂x)ε‖², averaged over the probes.
    """

    log_snr: Tensor
    energy: Tensor
    trace: Tensor
    square: Tensor

    @classmethod
    def stack(cls, parts: Sequence[Slopes]) -> Slopes:
        """(B, L) from L of (B,)."""
        return cls(*(torch.stack(column, 1) for column in zip(*parts, strict=True)))

    def and_also(self, other: Slopes) -> Slopes:
        """The levels of both (B, L), rising."""
        joined = [torch.cat(pair, 1) for pair in zip(self, other, strict=True)]
        order = joined[0].argsort(dim=1)
        return Slopes(*(column.gather(1, order) for column in joined))


class Probes:
    """Rademacher probes, one generator per sample: what a state draws depends on how often it was evaluated, not on its batch.

    Args:
        like: the states (B, …).
        seed: the run's.
        first: row i draws the probes of sample first + i.
    """

    def __init__(self, like: Tensor, seed: int, first: int):
        self.like = like
        self.sources = generators(range(first, first + len(like)), seed=seed, stream=PROBING)

    def draw(self, rows: Tensor, count: int) -> Tensor:
        """(rows, count, …) new signs for these rows.

        Args:
            rows: (n,) which of the states.
            count: how many each.
        """
        shape = (count, *self.like.shape[1:])
        signs = [self.sources[row].integers(0, 2, shape, np.int8) * 2 - 1 for row in rows.tolist()]
        return torch.from_numpy(np.stack(signs)).to(self.like)


def slopes_at(model: Model, x: Tensor, cond: Tensor | None, log_snr: Tensor, probes: Tensor, *, exact: bool) -> Slopes:
    """What every state has at a level of its own.

    Args:
        model: its unguided, class-conditional branch is evaluated.
        x: states (B, …).
        cond: conditions (B,), or None.
        log_snr: levels (B,).
        probes: (B, P, …).
        exact: by forward-mode derivatives; else by finite differences, 1 + P evaluations.
    """
    t = model.schedule.time_of_log_snr(log_snr)
    level = model.schedule(t)
    count = probes.shape[1]
    both = torch.stack([x[:, None].expand_as(probes), probes], 2).flatten(0, 1)
    if exact:
        found = over_levels(lambda y, s, c: _forward_mode(model, y, s, c), both, *_repeated(t, cond, count))
    else:
        found = _differences(model, x, cond, t, probes, STEP)
    x0, along = found.double().cpu().reshape(len(x), count, 2, -1).unbind(2)
    trace = level.alpha * (probes.double().cpu().flatten(2) * along).sum(2).mean(1)
    square = level.alpha**2 * along.square().sum(2).mean(1)
    return Slopes(log_snr, _energy(level, x, x0[:, 0]), trace, square)


def energy_at(model: Model, x: Tensor, cond: Tensor | None, log_snr: Tensor) -> Tensor:
    """(B,) d log p / dλ without its trace, from one evaluation per state.

    Args:
        model: what denoises.
        x: states (B, …).
        cond: (B,) classes, or None.
        log_snr: (B,) the level at which each is evaluated.
    """
    t = model.schedule.time_of_log_snr(log_snr)
    x0 = over_levels(lambda y, s, c: _denoised(model, y, s, c), x, *_repeated(t, cond, 1))[:, 0]
    return _energy(model.schedule(t), x, x0.double().cpu())


def differences_hold(model: Model, like: Tensor, cond: Tensor | None) -> bool:
    """Whether finite differences give the derivative: two steps agree on a state of little noise.

    They do not where a network computes in half precision.

    Args:
        model: what is differentiated.
        like: (B, …) states, for their shape, dtype and device.
        cond: (B,) classes, or None.
    """
    t = torch.tensor([0.05], dtype=torch.float64)
    probe = Probes(like[:1], 0, 0).draw(torch.zeros(1, dtype=torch.long), 1)
    x = float(model.schedule(t).sigma) * normal(generators([0], seed=0, stream=PROBING), like.shape[1:]).to(like)
    conds = None if cond is None else cond[:1]
    one, two = (_differences(model, x, conds, t, probe, step)[:, 1] for step in (STEP, 2 * STEP))
    return float((one - two).norm()) <= AGREEMENT * max(float(one.norm()), 1e-3 * one.numel() ** 0.5)


def _differences(model: Model, x: Tensor, cond: Tensor | None, t: Tensor, probes: Tensor, step: float) -> Tensor:
    """(B P, 2, d): x̂0 and its derivative along each probe, by forward differences from one common evaluation."""
    size = (step * model.schedule(t).sigma).reshape(-1, *(1 for _ in probes.shape[1:]))
    count = probes.shape[1] + 1
    states = torch.cat([x[:, None], x[:, None] + probes * size.to(x)], 1).flatten(0, 1)
    x0 = over_levels(lambda y, s, c: _denoised(model, y, s, c), states, *_repeated(t, cond, count))
    x0 = x0.double().cpu().reshape(len(x), count, -1)
    along = (x0[:, 1:] - x0[:, :1]) / size.flatten(2)
    return torch.stack([x0[:, :1].expand_as(along), along], 2).flatten(0, 1)


def _repeated(t: Tensor, cond: Tensor | None, count: int) -> tuple[Tensor, Tensor | None]:
    """Times (B count, 1) and conditions (B count,) for `count` states of each row."""
    return t.repeat_interleave(count)[:, None], None if cond is None else cond.repeat_interleave(count, 0)


def _denoised(model: Model, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
    with torch.no_grad():
        return model.predict(x, as_time(t, x), cond, (FULL,))[0].x0.flatten(1)


def _forward_mode(model: Model, both: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
    """(rows, 2, d) x̂0 and its derivative, for rows of a state and a probe (rows, 2, …)."""
    x, along = both.unbind(1)

    def denoise(y: Tensor) -> Tensor:
        return model.predict(y, as_time(t, y), cond, (FULL,))[0].x0

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward-mode derivative
        value, slope = _derivative(denoise, x, along)
    return torch.stack([value.flatten(1), slope.flatten(1)], 1)


def _derivative(function: Callable[[Tensor], Tensor], x: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """function(x) and its derivative along a direction: forward mode, or a central difference where a layer has none."""
    try:
        value, slope = torch.func.jvp(function, (x,), (along,))[:2]
        return value, slope
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # A network that is broken, and not only in forward mode, says so again here.
        step = 1e-3
        return function(x), (function(x + step * along) - function(x - step * along)) / (2 * step)


def _energy(level: Level, x: Tensor, x0: Tensor) -> Tensor:
    """(B,) ((alpha' x0 + sigma' eps)·eps - sigma' d) / (sigma λ'), from x̂0 (B, d)."""
    x = x.double().cpu().flatten(1)
    here = level.like(x)
    eps = (x - here.alpha * x0) / here.sigma
    along = ((here.dalpha * x0 + here.dsigma * eps) * eps).sum(1) - level.dsigma * x.shape[1]
    energy: Tensor = along / level.sigma / (2 * (level.dalpha / level.alpha - level.dsigma / level.sigma))
    return energy
