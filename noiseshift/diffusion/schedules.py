"""Noise schedules: `x_t = alpha x_0 + sigma eps`; t = 0 is data, t = 1 is noise.

A schedule writes one method, `coefficients`; slopes follow by forward-mode differentiation and inverses by bisection. Those here
also write their `slopes`, since differentiation takes 0.4 to 1.7 ms, at every call of a network.
`log_snr = 2 log(alpha / sigma)` decreases with t. Conventions of other frameworks are converted where a checkpoint is
loaded, and nowhere else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """Signal and noise scale at a time, and their slopes; all of the shape of t.

    Attributes:
        alpha: scale of the data.
        sigma: scale of the noise.
        dalpha: d alpha / dt.
        dsigma: d sigma / dt.
    """

    alpha: Tensor
    sigma: Tensor
    dalpha: Tensor
    dsigma: Tensor

    def like(self, x: Tensor) -> Level:
        """The same level with trailing axes, dtype and device of `x` (B, …), ready to broadcast; idempotent.

        Raises ValueError when the level is neither one number nor one number a row of `x`.
        """
        if self.alpha.ndim == x.ndim > 1:
            return Level(*(part.to(x) for part in self))
        if self.alpha.ndim > 1 or (self.alpha.ndim == 1 and len(self.alpha) not in (1, len(x))):
            raise ValueError(f"t must be () or ({len(x)},), got {tuple(self.alpha.shape)}")
        shape = self.alpha.shape + (1,) * (x.ndim - self.alpha.ndim)
        return Level(*(part.to(x).reshape(shape) for part in self))

    def mix(self, x0: Tensor, eps: Tensor) -> Tensor:
        """The state alpha x0 + sigma eps, in the dtype and on the device of x0.

        Args:
            x0: data (B, …), floating-point.
            eps: noise of that shape, of any dtype and device.

        Computed in float32 or wider and rounded once: an alpha or sigma in half precision is another level.
        """
        wide = x0.to(torch.promote_types(x0.dtype, torch.float32))
        level = self.like(wide)
        return (level.alpha * wide + level.sigma * eps.to(wide)).to(x0.dtype)


class Schedule(ABC):
    """A path between data and noise. Subclasses define `coefficients`; alpha must decrease and sigma increase."""

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at times t in [0, 1], any shape, differentiable."""

    def __call__(self, t: Tensor | float) -> Level:
        """alpha, sigma and their slopes at t, any shape."""
        t = _as_time(t).contiguous()  # an expanded t cannot carry a tangent
        if "slopes" in vars(type(self)):  # not inherited ones: a subclass may have changed the coefficients alone
            return Level(*self.coefficients(t), *self.slopes(t))
        values, slopes = torch.func.jvp(self.coefficients, (t,), (torch.ones_like(t),))[:2]
        return Level(*values, *slopes)

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(d alpha / dt, d sigma / dt) at times t in [0, 1], any shape: a shorter way to what differentiation gives.

        Only a class that writes it itself is asked for it.
        """
        raise NotImplementedError

    def log_snr(self, t: Tensor | float) -> Tensor:
        """2 log(alpha / sigma); finite at both ends, where it saturates at the dtype's smallest normal number."""
        alpha, sigma = self.coefficients(_as_time(t))
        tiny = torch.finfo(alpha.dtype).tiny
        return 2 * (alpha.clamp_min(tiny).log() - sigma.clamp_min(tiny).log())

    def time_of_sigma(self, sigma: Tensor | float) -> Tensor:
        """The time whose noise scale is `sigma`, float64. Raises ValueError outside the schedule's range."""
        return _invert(lambda t: self.coefficients(t)[1], sigma, name="sigma")

    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """The time whose log-SNR is `log_snr`, float64. Raises ValueError outside the schedule's range."""
        return _invert(self.log_snr, log_snr, name="log_snr")

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v}" for k, v in vars(self).items() if isinstance(v, int | float))
        return f"{type(self).__name__}({values})"


class Linear(Schedule):
    """Rectified flow / SiT "Linear": alpha = 1 - t, sigma = t (Liu et al., arXiv 2209.03003)."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, 1 * t

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)


class Cosine(Schedule):
    """SiT "GVP": alpha = cos(pi t / 2), sigma = sin(pi t / 2); variance preserving (arXiv 2401.08740)."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # sin of the complement: cos(pi / 2) is not 0 in floating point, and t = 1 must be pure noise.
        return torch.sin((1 - t) * (math.pi / 2)), torch.sin(t * (math.pi / 2))

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        quarter = math.pi / 2
        return -quarter * torch.cos((1 - t) * quarter), quarter * torch.cos(t * quarter)


class VariancePreserving(Schedule):
    """Continuous DDPM: beta(t) = beta_min + t (beta_max - beta_min), alpha = exp(-½ ∫beta) (Song et al., 2011.13456).

    sigma ~ √t at t = 0 has no finite slope; a floor of 1e-12 in sigma² gives it one and is invisible elsewhere.

    Args:
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        self.beta_min = beta_min
        self.beta_max = beta_max

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        return log_alpha.exp(), (1e-12 - torch.expm1(2 * log_alpha)).sqrt()

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.coefficients(t)
        falling = -0.5 * (t * (self.beta_max - self.beta_min) + self.beta_min)
        return alpha * falling, -(alpha**2) * falling / sigma


class SubVariancePreserving(Schedule):
    """The alpha of `VariancePreserving` with less noise: sigma = 1 - alpha² (Song et al., arXiv 2011.13456, "sub-VP").

    Args:
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        self.beta_min = beta_min
        self.beta_max = beta_max

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = VariancePreserving(self.beta_min, self.beta_max).coefficients(t)
        return alpha, sigma**2

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        preserving = VariancePreserving(self.beta_min, self.beta_max)(t)
        return preserving.dalpha, 2 * preserving.sigma * preserving.dsigma


class VarianceExploding(Schedule):
    """alpha = 1, sigma geometric from sigma_min (t = 0) to sigma_max (t = 1) (Song et al., arXiv 2011.13456).

    Args:
        sigma_min: the least noise, above 0.
        sigma_max: the largest.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0):
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (t * math.log(self.sigma_max / self.sigma_min)).exp()

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        _, sigma = self.coefficients(t)
        return torch.zeros_like(t), math.log(self.sigma_max / self.sigma_min) * sigma


class VarianceExplodingSDE(Schedule):
    """dx = sigma^t dw from no noise: alpha = 1, sigma_t² = (sigma^2t - 1) / (2 log sigma), as Song's tutorial on score-based
    models has it. A floor of 1e-12 in sigma_t² as in `VariancePreserving`.

    Args:
        sigma: growth of the diffusion coefficient, above 1.
    """

    def __init__(self, sigma: float = 25.0):
        self.sigma = sigma

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        twice = 2 * math.log(self.sigma)
        return torch.ones_like(t), (1e-12 + torch.expm1(t * twice) / twice).sqrt()

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        _, sigma = self.coefficients(t)
        return torch.zeros_like(t), (t * (2 * math.log(self.sigma))).exp() / (2 * sigma)


STAND_IN = 2**-24
"""What diffusers writes for a zero terminal alphas_cumprod where it divides by it."""


class Discrete(Schedule):
    """A variance-preserving table, step i at t = (i + 1) / N, linear in log-SNR between steps.

    Below the first step sigma²/alpha² falls linearly to data at t = 0. A zero-terminal-SNR table is accepted: its last
    entry is read as 1e-20, and so is the 2^-24 that diffusers puts in its place, where that lies above its neighbour.

    Args:
        alphas_cumprod: (N,) alpha² of each step.

    Raises:
        ValueError: unless the table decreases within [0, 1].
    """

    def __init__(self, alphas_cumprod: Tensor):
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu()
        if table.ndim == 1 and len(table) > 1 and table[-2] <= table[-1] <= STAND_IN:
            table = torch.cat([table[:-1], torch.zeros(1, dtype=torch.float64)])
        if table.ndim != 1 or len(table) < 2 or not bool((table.diff() < 0).all() and table[0] < 1 and table[-1] >= 0):
            raise ValueError("alphas_cumprod must be one decreasing row of numbers in [0, 1)")
        self.alphas_cumprod = table
        self._log_snr = torch.logit(table.clamp_min(1e-20))

    @classmethod
    def from_betas(cls, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> Discrete:
        """The linear-beta table of DDPM (Ho et al., arXiv 2006.11239).

        Args:
            beta_start: beta of the first step.
            beta_end: beta of the last.
            steps: how many.
        """
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        return cls((1 - betas).cumprod(0))

    @classmethod
    def quadratic(cls, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> Discrete:
        """The table whose betas are squares of evenly spaced numbers, which diffusers calls scaled_linear.

        Args:
            beta_start: as for `from_betas`, 0.00085 for Stable Diffusion.
            beta_end: likewise, and 0.012.
            steps: how many.
        """
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        return cls((1 - betas).cumprod(0))

    @classmethod
    def cosine(cls, steps: int = 1000) -> Discrete:
        """The table of improved DDPM: betas of cos² of the time, at most 0.999 (Nichol & Dhariwal, arXiv 2102.09672)."""
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        return cls._falling((((u + 0.008) / 1.008) * (math.pi / 2)).cos() ** 2)

    @classmethod
    def sigmoid(cls, steps: int = 1000) -> Discrete:
        """The table of a sigmoid from -3 to 3, betas at most 0.999 (Jabri et al., arXiv 2212.11972)."""
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        return cls._falling(torch.sigmoid(3 - 6 * u) - torch.sigmoid(torch.tensor(-3.0, dtype=torch.float64)))

    @classmethod
    def _falling(cls, signal: Tensor) -> Discrete:
        """The table of betas that lead from each entry of `signal` (N + 1,) to the next."""
        betas = (1 - signal[1:] / signal[:-1]).clamp(0, 0.999)
        return cls((1 - betas).cumprod(0))

    @property
    def times(self) -> Tensor:
        """The N times of the table, ascending, float64: what a model trained on it knows."""
        return torch.arange(1, len(self._log_snr) + 1, dtype=torch.float64) / len(self._log_snr)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_snr, _ = self._at(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_snr, slope = self._at(t)
        signal, noise = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        return 0.5 * signal.sqrt() * noise * slope, -0.5 * noise.sqrt() * signal * slope

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The log-SNR at t, and its slope."""
        knots = self._log_snr.to(t)
        position = t * len(knots) - 1
        low = position.detach().floor().clamp(0, len(knots) - 2).long()
        inside = torch.lerp(knots[low], knots[low + 1], position - low)
        first = t * len(knots) + 1e-12
        log_snr = torch.where(position < 0, knots[0] - torch.log(first), inside)
        slope = torch.where(position < 0, -1 / first, knots[low + 1] - knots[low])
        return log_snr, len(knots) * slope


class Tabulated(Schedule):
    """Any schedule by numbers, linear between them.

    Args:
        times: (K,) from 0 to 1.
        log_snr: (K,) 2 log(alpha / sigma), falling.
        log_norm: (K,) ½ log(alpha² + sigma²).

    Raises:
        ValueError: for other rows.
    """

    def __init__(self, times: Tensor, log_snr: Tensor, log_norm: Tensor):
        rows = [torch.as_tensor(row, dtype=torch.float64).cpu() for row in (times, log_snr, log_norm)]
        self.table = rows
        alike = len({row.shape for row in rows}) == 1 and rows[0].ndim == 1 and len(rows[0]) > 1
        ordered = alike and bool((rows[0].diff() > 0).all() and (rows[1].diff() < 0).all())
        if not ordered or float(rows[0][0]) != 0 or float(rows[0][-1]) != 1:
            raise ValueError(
                "a tabulated schedule has times from 0 up to 1, log_snr falling, and log_norm, alike in length"
            )

    @classmethod
    def of(cls, schedule: Schedule, knots: int = 2049) -> Tabulated:
        """The table of another schedule, evenly spaced in log-SNR, which is read as within ±46 (an SNR of 1e±20).

        Args:
            schedule: with a log-SNR that falls in t.
            knots: entries of the table; levels that fall on one time are taken once.
        """
        high, low = (float(schedule.log_snr(torch.tensor(t, dtype=torch.float64)).clamp(-46, 46)) for t in (0.0, 1.0))
        levels = torch.linspace(high, low, knots, dtype=torch.float64)
        inside = schedule.time_of_log_snr(levels[1:-1])
        times = torch.cat([torch.zeros(1), inside, torch.ones(1)]).double()
        alpha, sigma = schedule.coefficients(times)
        apart = torch.cat([torch.ones(1), times.diff()]) > 0
        return cls(times[apart], levels[apart], (0.5 * (alpha**2 + sigma**2).log())[apart])

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (snr, norm), _ = self._at(t)
        return norm.exp() * torch.sigmoid(snr).sqrt(), norm.exp() * torch.sigmoid(-snr).sqrt()

    def slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (snr, norm), (dsnr, dnorm) = self._at(t)
        alpha, sigma = norm.exp() * torch.sigmoid(snr).sqrt(), norm.exp() * torch.sigmoid(-snr).sqrt()
        return alpha * (dnorm + 0.5 * torch.sigmoid(-snr) * dsnr), sigma * (dnorm - 0.5 * torch.sigmoid(snr) * dsnr)

    def _at(self, t: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(log-SNR, log-norm) at t, and their slopes."""
        times, log_snr, log_norm = (row.to(t) for row in self.table)
        low = torch.searchsorted(times, t.detach().contiguous(), right=True).sub(1).clamp(0, len(times) - 2)
        length = times[low + 1] - times[low]
        share = (t - times[low]) / length
        snr, norm = (torch.lerp(row[low], row[low + 1], share) for row in (log_snr, log_norm))
        dsnr, dnorm = ((row[low + 1] - row[low]) / length for row in (log_snr, log_norm))
        return (snr, norm), (dsnr, dnorm)


def describe(schedule: Schedule) -> dict[str, Any]:
    """A schedule as plain values, for cards and run folders; `build` is its inverse, to 1e-4 in log-SNR for a schedule of
    another one, which is tabulated."""
    kind = next((name for name, cls in KINDS.items() if type(schedule) is cls), None)
    if isinstance(schedule, Discrete):
        return {"kind": kind, "alphas_cumprod": schedule.alphas_cumprod.tolist()}
    if kind is None or isinstance(schedule, Tabulated):
        made = schedule if isinstance(schedule, Tabulated) else Tabulated.of(schedule)
        return {"kind": "tabulated", **{name: row.tolist() for name, row in zip(_ROWS, made.table, strict=True)}}
    return {"kind": kind, **vars(schedule)}


_ROWS = ("times", "log_snr", "log_norm")


def build(description: Mapping[str, Any]) -> Schedule:
    """The schedule that a card describes: {"kind": "linear"}, {"kind": "discrete", "beta_start": …, "beta_end": …,
    "steps": …} and maybe "betas": "quadratic", or "betas": "cosine" or "sigmoid" and "steps", or "alphas_cumprod", …
    Raises ValueError naming the kinds or the wrong value."""
    values = _mapping(description)
    kind = values.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"unknown schedule kind {kind!r}: choose from {', '.join(KINDS)}")
    make: Callable[..., Schedule] = KINDS[kind]
    if kind == "discrete" and "alphas_cumprod" not in values:
        betas = values.pop("betas", "linear")
        if betas not in _BETAS:
            raise ValueError(f"unknown betas {betas!r}: choose from {', '.join(_BETAS)}")
        make = _BETAS[betas]
    tables = ("alphas_cumprod", *_ROWS)
    words = [name for name, value in values.items() if name not in tables and not isinstance(value, int | float)]
    if words:
        raise ValueError(f"a {kind} schedule takes numbers, got {words[0]} = {values[words[0]]!r}")
    try:
        return make(**values)
    except TypeError:
        raise ValueError(f"a {kind} schedule does not take {', '.join(values)}") from None


def _mapping(description: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(description, Mapping):
        raise ValueError(f"a schedule is described by a mapping such as {{kind: linear}}, got {description!r}")
    return dict(description)


KINDS: dict[str, type[Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "variance-preserving": VariancePreserving,
    "sub-variance-preserving": SubVariancePreserving,
    "variance-exploding": VarianceExploding,
    "variance-exploding-sde": VarianceExplodingSDE,
    "discrete": Discrete,
    "tabulated": Tabulated,
}


_BETAS: dict[str, Callable[..., Discrete]] = {
    "linear": Discrete.from_betas,
    "cosine": Discrete.cosine,
    "sigmoid": Discrete.sigmoid,
    "quadratic": Discrete.quadratic,
}


def _as_time(t: Tensor | float) -> Tensor:
    t = torch.as_tensor(t)
    return t if t.is_floating_point() else t.to(torch.get_default_dtype())


def _invert(monotone: Callable[[Tensor], Tensor], value: Tensor | float, *, name: str) -> Tensor:
    """The root t in [0, 1] of monotone(t) = value, by bisection to the last bit of float64."""
    value = torch.as_tensor(value, dtype=torch.float64)
    ends = monotone(torch.tensor([0.0, 1.0], dtype=torch.float64, device=value.device))
    least = ends.min()
    most = ends.max()
    rising = bool(ends[1] > ends[0])
    slack = 1e-9 * (1 + value.abs())
    # Asked this way round so that NaN is outside too.
    if not bool(((value >= least - slack) & (value <= most + slack)).all()):
        raise ValueError(f"{name} must lie in [{least:.4g}, {most:.4g}] for this schedule")
    low, high = torch.zeros_like(value), torch.ones_like(value)
    for _ in range(60):
        middle = (low + high) / 2
        above = (monotone(middle) > value) == rising
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2
