"""The shift δ of a state x_t + e, e ~ N(0, σ_e² I): the exact roots of three definitions, and Statement 1's first order.

`sigma`      σ(t + δ)² = σ_t² + σ_e²                       the definition behind Statement 1 of arXiv 2510.12497
`snr`        σ(t + δ)/α(t + δ) = √(σ_t² + σ_e²)/α_t        what a reader of σ/α alone sees
`posterior`  argmin_s KL(p(x_t + e) ‖ p_s)                 what a posterior p(t | x) sees; closed form for Gaussian data

Directions that hold only noise pull `posterior` to `sigma`; directions full of signal pin alpha and pull it to 0. With r
of d directions full of signal it passes `snr` near r/d = 1 − t on the linear schedule. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from noiseshift.diffusion.schedules import Schedule

Match = Literal["sigma", "snr", "posterior"]
Number = Tensor | float


@dataclass(frozen=True)
class Spectrum:
    """Gaussian data as the `posterior` definition needs them.

    Attributes:
        variances: (d,) along the principal axes.
        mean: (d,) the mean's coordinates there.
    """

    variances: Tensor
    mean: Tensor

    @classmethod
    def of(cls, data: Tensor) -> Spectrum:
        """The Gaussian with mean and covariance of data (n, …), float64.

        With fewer rows than numbers per row, the directions that the rows do not span have variance 0.
        """
        flat = data.flatten(1).double()
        mean = flat.mean(0)
        centred = flat - mean
        degrees = max(1, len(flat) - 1)
        if len(flat) >= len(mean):
            variances, axes = torch.linalg.eigh(centred.T @ centred / degrees)
            return cls(variances.clamp_min(0), mean @ axes)
        _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
        inside = axes @ mean
        variances, coordinates = torch.zeros_like(mean), torch.zeros_like(mean)
        variances[: len(singular)], coordinates[: len(singular)] = singular**2 / degrees, inside
        coordinates[-1] = (mean.square().sum() - inside.square().sum()).clamp_min(0).sqrt()
        return cls(variances, coordinates)


def exact_shift(
    schedule: Schedule, t: Number, sigma_e: Number, match: Match = "sigma", *, data: Spectrum | None = None
) -> Tensor:
    """The shift δ of states to which noise is added, by one of its definitions.

    Args:
        schedule: the path between data and noise.
        t: conditioning time; it broadcasts with `sigma_e`.
        sigma_e: standard deviation of the added noise, at least 0.
        match: "sigma" (the paper's), "snr" or "posterior".
        data: the spectrum of the data, for "posterior".

    Returns:
        δ in t, float64.

    Raises:
        ValueError: sigma_e is negative, the spectrum is missing, or a root leaves [0, 1].
    """
    t, sigma_e = _pair(t, sigma_e)
    roots = _roots(schedule, t, sigma_e, match, data)
    if bool(roots.isnan().any()):
        first = torch.argwhere(roots.isnan().flatten())[0, 0]
        raise ValueError(
            f"the {match} root leaves [0, 1]: sigma_e = {float(sigma_e.flatten()[first]):.4g} at "
            f"t = {float(t.flatten()[first]):.4g} is more noise than the schedule ends with; take a smaller sigma_e"
        )
    return roots - t


def possible_shift(
    schedule: Schedule, t: Number, sigma_e: Number, match: Match = "sigma", *, data: Spectrum | None = None
) -> Tensor:
    """`exact_shift`, with NaN where the root leaves [0, 1].

    Args:
        schedule: the path between data and noise.
        t: conditioning time; it broadcasts with `sigma_e`.
        sigma_e: standard deviation of the added noise, at least 0.
        match: "sigma", "snr" or "posterior".
        data: the spectrum of the data, for "posterior".

    Returns:
        δ in t, float64.
    """
    t, sigma_e = _pair(t, sigma_e)
    return _roots(schedule, t, sigma_e, match, data) - t


def first_order_shift(schedule: Schedule, t: Number, sigma_e: Number) -> Tensor:
    """Statement 1: (√(σ_t² + σ_e²) − σ_t) / σ̇_t; exact for `sigma` where sigma is linear in t (arXiv 2510.12497).

    Args:
        schedule: the path between data and noise.
        t: conditioning time; it broadcasts with `sigma_e`.
        sigma_e: standard deviation of the added noise.

    Returns:
        δ in t, float64.
    """
    t, sigma_e = _pair(t, sigma_e)
    return shift_of_variance(schedule, t, sigma_e**2)


def shift_of_variance(schedule: Schedule, t: Number, variance: Number) -> Tensor:
    """Statement 1 for a signed added variance (σ_e² and more): (√(σ_t² + variance)₊ − σ_t) / σ̇_t.

    Args:
        schedule: the path between data and noise.
        t: conditioning time; it broadcasts with `variance`.
        variance: what is added to σ_t², negative where noise is missing; below -σ_t² it is taken as -σ_t².

    Returns:
        δ in t, float64.
    """
    t, variance = torch.broadcast_tensors(_double(t), _double(variance))
    level = schedule(t)
    # variance/(√(σ² + variance) + σ) keeps its digits where the added variance is tiny.
    rho = (level.sigma**2 + variance).clamp_min(0).sqrt()
    return (rho**2 - level.sigma**2) / (rho + level.sigma).clamp_min(1e-300) / level.dsigma


def leading_shift(schedule: Schedule, t: Number, sigma_e: Number) -> Tensor:
    """σ_e² / (2 σ_t σ̇_t), the leading term of first order and of `sigma`; infinite at σ_t = 0.

    Args:
        schedule: the path between data and noise.
        t: conditioning time; it broadcasts with `sigma_e`.
        sigma_e: standard deviation of the added noise, at least 0.

    Returns:
        δ in t, float64.
    """
    t, sigma_e = _pair(t, sigma_e)
    level = schedule(t)
    return sigma_e**2 / (2 * level.sigma * level.dsigma)


def implied_sigma_e2(
    schedule: Schedule, t: Number, shift: Number, match: Literal["sigma", "snr", "first-order"] = "sigma"
) -> Tensor:
    """The added variance σ_e² that a shift means, the inverse of `exact_shift` or `first_order_shift`.

    Args:
        schedule: the path between data and noise.
        t: conditioning time; it broadcasts with `shift`.
        shift: δ in t.
        match: the definition of δ: "sigma", "snr" or "first-order".

    Returns:
        σ_e², signed: negative where states are cleaner than the conditioning level.

    Raises:
        ValueError: t + shift leaves [0, 1].
    """
    t, shift = torch.broadcast_tensors(_double(t), _double(shift))
    now = schedule(t)
    there = torch.as_tensor(t + shift)
    if match == "first-order":
        return (now.sigma + shift * now.dsigma).clamp_min(0) ** 2 - now.sigma**2
    if not bool(((there >= 0) & (there <= 1)).all()):
        raise ValueError("t + shift leaves [0, 1]: no level is meant; check the shift's units")
    then = schedule(there)
    if match == "sigma":
        return then.sigma**2 - now.sigma**2
    return (now.alpha * then.sigma / then.alpha) ** 2 - now.sigma**2


def error_map(schedule: Schedule, times: Tensor, ratios: Tensor) -> Tensor:
    """Relative error of first order against the `sigma` root, for σ_e = ratio · σ_t.

    Args:
        schedule: the path between data and noise.
        times: (K,).
        ratios: (R,) σ_e/σ_t.

    Returns:
        (K, R); NaN where the root leaves [0, 1].
    """
    t = times.double()[:, None]
    ratios = ratios.double()[None]
    sigma_e = ratios * schedule(t).sigma
    return first_order_shift(schedule, t, sigma_e) / possible_shift(schedule, t, sigma_e) - 1


def first_order_limit(schedule: Schedule, times: Tensor, tolerance: float) -> Tensor:
    """The largest σ_e/σ_t up to which first order stays near the `sigma` root.

    Args:
        schedule: the path between data and noise.
        times: (K,).
        tolerance: relative error that is allowed.

    Returns:
        (K,); infinite where no added noise breaks it before the root leaves [0, 1].
    """
    ratios = torch.logspace(-3, 3, 2401, dtype=torch.float64)
    error = error_map(schedule, times, ratios)
    broken = error.abs() > tolerance
    first = broken.double().argmax(-1)
    return torch.where(broken.any(-1), ratios[(first - 1).clamp_min(0)], torch.inf)


def _roots(schedule: Schedule, t: Tensor, sigma_e: Tensor, match: Match, data: Spectrum | None) -> Tensor:
    if match == "posterior":
        if data is None:
            raise ValueError("the posterior definition needs the data's spectrum: pass data=Spectrum.of(images)")
        return _posterior_roots(schedule, t, sigma_e, data)
    level = schedule(t)
    rho = torch.hypot(level.sigma, sigma_e)
    roots = torch.full_like(rho, torch.nan)
    if match == "sigma":
        inside = rho <= schedule(torch.ones_like(t)).sigma
        roots[inside] = schedule.time_of_sigma(rho[inside])
    elif match == "snr":
        log_snr = _log_snr(level.alpha, rho)
        inside = log_snr >= schedule.log_snr(torch.ones_like(t))
        roots[inside] = schedule.time_of_log_snr(log_snr[inside])
    else:
        raise ValueError(f"match must be sigma, snr or posterior, got {match!r}")
    return torch.where(sigma_e == 0, t, roots)


def _log_snr(alpha: Tensor, sigma: Tensor) -> Tensor:
    tiny = torch.finfo(alpha.dtype).tiny
    return 2 * (alpha.clamp_min(tiny).log() - sigma.clamp_min(tiny).log())


def _posterior_roots(schedule: Schedule, t: Tensor, sigma_e: Tensor, data: Spectrum, points: int = 65) -> Tensor:
    """argmin_s KL(N(α_t m, α_t² Λ + (σ_t² + σ_e²) I) ‖ N(α_s m, α_s² Λ + σ_s² I)): a grid, then the slope's root by
    bisection, for all pairs at once; NaN when the divergence still falls at the end of the schedule."""
    divergence = _divergence(schedule, t.flatten(), sigma_e.flatten(), data)

    def slope(s: Tensor) -> Tensor:
        return torch.func.jvp(divergence, (s,), (torch.ones_like(s),))[1]

    # The end points themselves are out: at sigma = 0 the divergence is infinite.
    grid = torch.linspace(0, 1, points, dtype=torch.float64).clamp(1e-6, 1 - 1e-9)
    along = torch.stack([divergence(s.expand(t.numel())) for s in grid])
    best = along.argmin(0)
    low, high = grid[(best - 1).clamp_min(0)], grid[(best + 1).clamp_max(points - 1)]
    lost = (high == grid[-1]) & (slope(high) < 0)
    for _ in range(50):
        middle = (low + high) / 2
        falls = slope(middle) < 0
        low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
    return torch.where(lost, torch.nan, (low + high) / 2).reshape(t.shape)


def _divergence(schedule: Schedule, t: Tensor, sigma_e: Tensor, data: Spectrum) -> Callable[[Tensor], Tensor]:
    """KL at s (N,) for N pairs, up to what does not depend on s."""
    alpha, sigma = (part[:, None] for part in schedule.coefficients(t))
    variance = alpha**2 * data.variances + sigma**2 + sigma_e[:, None] ** 2

    def divergence(s: Tensor) -> Tensor:
        there_alpha, there_sigma = (part[:, None] for part in schedule.coefficients(s))
        there = there_alpha**2 * data.variances + there_sigma**2
        apart = ((alpha - there_alpha) * data.mean) ** 2
        return ((variance + apart) / there + there.log()).sum(-1) / 2

    return divergence


def _pair(t: Number, sigma_e: Number) -> tuple[Tensor, Tensor]:
    times, errors = torch.broadcast_tensors(_double(t), _double(sigma_e))
    if not bool((errors >= 0).all()):
        raise ValueError("sigma_e is a standard deviation: it must be at least 0")
    if not bool(((times >= 0) & (times <= 1)).all()):
        raise ValueError("t must lie in [0, 1]: 0 is data, 1 is noise")
    return times, errors


def _double(value: Number) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)
