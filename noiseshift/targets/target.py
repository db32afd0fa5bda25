"""Exact models: distributions of the data whose every prediction, density and posterior over t is known in closed form.

With x = alpha x0 + sigma eps and x0 ~ N(mean, C), the precision-weighted residual

    r = (alpha² C + sigma² I)^-1 (x - alpha mean)

gives everything: score = -r, E[eps | x] = sigma r and E[x0 | x] = mean + alpha C r, finite at both ends. A mixture
averages these over its components, a finite data set is a mixture of points. With a flat prior on t the noise-unconditional
prediction is E[f | x] = Σ_i p(t_i | x) f(x | t_i) for whichever target f a network would have been trained on.
States may be (B, d) or (B, C, H, W); the arithmetic is in float64, the answer in the state's own dtype.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL, READ, Branch, Prediction, Predicts, require
from noiseshift.diffusion.schedules import Level, Schedule
from noiseshift.estimators.posterior import Posterior, time_grid

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step

ENTRIES = 1 << 21
"""Float64 numbers in the largest temporary of one row block: 16 MB."""

FLOOR = 1e-30
"""Variance below which a direction counts as exactly known: keeps 0/0 at sigma = 0 finite."""

_NEGLIGIBLE = 1e-14
"""Posterior mass of a level below which, for every state of a batch, a noise-unconditional average leaves it out."""

Self = TypeVar("Self", bound="Target")


class Target(ABC):
    """A distribution of the data. Subclasses write the density and the weighted predictions over a set of levels."""

    dim: int
    branches: frozenset[Branch] = frozenset({FULL, NOISE_UNCONDITIONAL})

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, …) independent draws of x0.

        Args:
            n: how many.
            generator: on the device where numbers are drawn.
        """

    @abstractmethod
    def _log_density(self, x: Tensor, levels: Levels, cond: Tensor | None) -> Tensor:
        """log p_t(x), (B, T), of flat float64 states (B, d)."""

    @abstractmethod
    def _weighted(
        self, x: Tensor, levels: Levels, x0: Tensor, eps: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(Σ_t x0[:, t] E[x0 | x, t], Σ_t eps[:, t] E[eps | x, t]), each (B, d); the weights are (B, T)."""

    @abstractmethod
    def _row_entries(self, levels: int) -> int:
        """Numbers that one state needs in the largest temporary, for so many levels."""

    def log_prob(self, x: Tensor, level: Level, cond: Tensor | None = None) -> Tensor:
        """log density of x_t = alpha x0 + sigma eps.

        Args:
            x: states (B, …).
            level: parts () or (B,).
            cond: (B,) classes, or None.

        Returns:
            (B,) float64, in nats.

        Raises:
            ValueError: x does not hold vectors of the target's size, or the level fits no row of x.
        """
        return self._log_densities(x, Levels.of(level, x), cond)[:, 0]

    def model(self, schedule: Schedule, *, blind: Predicts = "velocity", times: Tensor | None = None) -> ExactModel:
        """The exact model of this distribution.

        Args:
            schedule: the path between data and noise.
            blind: the space whose average over p(t | x) is the noise-unconditional branch.
            times: (T,) the grid of that average, ascending; by default fine enough for the target's dimension.

        Returns:
            A model without error.

        Raises:
            ValueError: for an unknown space.
        """
        return ExactModel(self, schedule, blind, self.estimator(schedule, times))

    def estimator(self, schedule: Schedule, times: Tensor | None = None) -> ExactPosterior:
        """The exact posterior p(t | x) under a flat prior on t, on the grid `times` (T,).

        Args:
            schedule: the path whose times are read.
            times: rising, in [0, 1]; by default as many as the dimension needs.
        """
        return ExactPosterior(self, schedule, _grid_for(schedule, self.dim) if times is None else times.double())

    def to(self: Self, device: torch.device | str) -> Self:
        """A copy on `device`."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved

    def _flat(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).double()
        if flat.shape[1] != self.dim:
            raise ValueError(f"states of this target have {self.dim} numbers each, got {tuple(x.shape)}: reshape them")
        return flat

    def _blocks(self, rows: int, levels: Levels) -> list[slice]:
        """Rows of a batch, few enough at a time to bound memory."""
        size = max(1, ENTRIES // self._row_entries(1 if levels.paired else len(levels.alpha)))
        return [slice(start, start + size) for start in range(0, rows, size)]

    def _log_densities(self, x: Tensor, levels: Levels, cond: Tensor | None) -> Tensor:
        """log p_t(x) of a batch (B, …): (B, T) float64."""
        flat = self._flat(x)
        parts = [self._log_density(flat[b], levels.rows(b), _rows(cond, b)) for b in self._blocks(len(x), levels)]
        return torch.cat(parts)

    def _predictions(
        self, x: Tensor, levels: Levels, x0: Tensor, eps: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`_weighted` of a batch (B, …), in the shape of x: float64."""
        flat = self._flat(x)
        parts = [
            self._weighted(flat[b], levels.rows(b), x0[b], eps[b], _rows(cond, b)) for b in self._blocks(len(x), levels)
        ]
        of_x0, of_eps = zip(*parts, strict=True)
        return torch.cat(of_x0).reshape(x.shape), torch.cat(of_eps).reshape(x.shape)


def _rows(cond: Tensor | None, part: slice) -> Tensor | None:
    return None if cond is None else cond[part]


@dataclass(frozen=True)
class Levels:
    """T levels for every state, or (`paired`) one level a state: alpha and sigma (T,) float64.

    Attributes:
        alpha: (T,).
        sigma: (T,).
        paired: whether level b belongs to state b.
    """

    alpha: Tensor
    sigma: Tensor
    paired: bool

    @classmethod
    def of(cls, level: Level, x: Tensor) -> Levels:
        """One level for all of x, or one per row. Raises ValueError (from `Level.like`) for anything else.

        Args:
            level: with alpha and sigma of one number or (B,).
            x: states (B, …).
        """
        level.like(x)
        alpha, sigma = (part.to(x.device, torch.float64).reshape(-1) for part in level[:2])
        return cls(alpha, sigma, paired=len(alpha) > 1)

    @classmethod
    def grid(cls, level: Level) -> Levels:
        return cls(level.alpha, level.sigma, paired=False)

    def rows(self, part: slice | Tensor) -> Levels:
        return Levels(self.alpha[part], self.sigma[part], True) if self.paired else self

    def each(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(alpha, sigma) to broadcast against (B, N), one level at a time; paired levels come at once."""
        if self.paired:
            yield self.alpha[:, None], self.sigma[:, None]
        else:
            yield from zip(self.alpha, self.sigma, strict=True)

    def pair(self, values: Tensor, gains: Tensor) -> Tensor:
        """Σ_j values[:, b, j] gains[:, t, j]: (K, B, r) with (K, T, r) → (K, B, T).

        Args:
            values: (K, B, r).
            gains: (K, T, r), T = B where `paired`.
        """
        return (values * gains).sum(-1, keepdim=True) if self.paired else values @ gains.mT

    def mix(self, weights: Tensor, gains: Tensor) -> Tensor:
        """Σ_t weights[:, b, t] gains[:, t, j]: (K, B, T) with (K, T, r) → (K, B, r).

        Args:
            weights: (K, B, T).
            gains: (K, T, r), T = B where `paired`.
        """
        return weights * gains if self.paired else weights @ gains

    def outer(self, values: Tensor, gains: Tensor) -> Tensor:
        """values[:, b] gains[:, t]: (K, B) with (K, T) → (K, B, T).

        Args:
            values: (K, B).
            gains: (K, T), T = B where `paired`.
        """
        return (values * gains)[..., None] if self.paired else values[..., None] * gains[:, None]


class ExactPosterior:
    """p(t | x) of a target under a flat prior on t: an `Estimator` without error. See `Target.estimator`.

    Args:
        target: the exact distribution.
        schedule: the path.
        times: (T,) the grid, rising.
    """

    def __init__(self, target: Target, schedule: Schedule, times: Tensor):
        self.target = target
        self.schedule = schedule
        self.times = times

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """x (B, …), cond (B,) or None; `step` is not needed."""
        times = self.times.to(x.device)
        return Posterior.from_log_density(times, self.target._log_densities(x, Levels.grid(self.schedule(times)), cond))


class ExactModel:
    """A target as a `Model`: exact predictions of every branch. See `Target.model`.

    Args:
        target: the exact distribution.
        schedule: the path.
        blind: the space in which the noise-unconditional branch is averaged over levels, one of `READ`.
        posterior: over the levels of a state, for that branch.

    Raises:
        ValueError: another space.
    """

    def __init__(self, target: Target, schedule: Schedule, blind: Predicts, posterior: ExactPosterior):
        if blind not in READ:
            raise ValueError(f"blind must be one of {', '.join(READ)}, got {blind!r}")
        self.target = target
        self.schedule = schedule
        self.blind = blind
        self.posterior = posterior

    @property
    def branches(self) -> frozenset[Branch]:
        return self.target.branches

    @property
    def predicts(self) -> Predicts:
        return self.blind

    def snap(self, t: Tensor) -> Tensor:
        return t

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        return self.predict(x, t, cond, (FULL,))[0]

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        """Branches at x (B, …), t () or (B,). A noise-unconditional branch read in epsilon or score is singular where alpha = 0.

        Args:
            x: states (B, …).
            t: () or (B,), in [0, 1].
            cond: (B,) components, or None.
            branches: some of `branches`.
        """
        require(self, branches)
        level = self.schedule(t.to(x.device, torch.float64))
        return tuple(
            (self._full if branch.noise else self._without_level)(x, level, cond if branch.condition else None)
            for branch in branches
        )

    def _full(self, x: Tensor, level: Level, cond: Tensor | None) -> Prediction:
        once = torch.ones(len(x), 1, dtype=torch.float64, device=x.device)
        x0, eps = self.target._predictions(x, Levels.of(level, x), once, once, cond)
        return Prediction(x0.to(x.dtype), eps.to(x.dtype), level.like(x))

    def _without_level(self, x: Tensor, level: Level, cond: Tensor | None) -> Prediction:
        """E[f | x] = Σ_i p(t_i | x) f(x | t_i), read as a prediction at `level`."""
        posterior = self.posterior(x, cond)
        likely = (posterior.prob > _NEGLIGIBLE).any(0)
        prob = posterior.prob[:, likely]
        levels = self.schedule(posterior.times[likely])
        of_x0, of_eps = _COEFFICIENTS[self.blind](levels)
        x0, eps = self.target._predictions(x, Levels.grid(levels), prob * of_x0, prob * of_eps, cond)
        read = READ[self.blind](x0 + eps, x.double(), level)
        return Prediction(read.x0.to(x.dtype), read.eps.to(x.dtype), level.like(x))


_COEFFICIENTS: Mapping[Predicts, Callable[[Level], tuple[Tensor, Tensor]]] = {
    "velocity": lambda level: (level.dalpha, level.dsigma),
    "epsilon": lambda level: (torch.zeros_like(level.alpha), torch.ones_like(level.alpha)),
    "x0": lambda level: (torch.ones_like(level.alpha), torch.zeros_like(level.alpha)),
    "score": lambda level: (torch.zeros_like(level.alpha), -1 / level.sigma),
    "v_prediction": lambda level: (
        -level.sigma / torch.hypot(level.alpha, level.sigma),
        level.alpha / torch.hypot(level.alpha, level.sigma),
    ),
}
"""Each training target as a combination of (x0, eps)."""


def _grid_for(schedule: Schedule, dim: int) -> Tensor:
    """Times fine enough for the narrowest posterior: `dim` coordinates of noise fix log-SNR to within √(2 / dim)."""
    first, last = schedule.log_snr(torch.tensor([0.002, 0.998], dtype=torch.float64)).tolist()
    points = math.ceil((first - last) / (0.7 * math.sqrt(2 / dim)))
    return time_grid(schedule, min(max(points, 200), 4000))
