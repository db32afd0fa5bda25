"""Exact models: laws of the data whose every prediction, density and posterior over t is known in closed form.

With x = alpha x0 + sigma eps and x0 ~ N(mean, C), the precision-weighted residual

    r = (alpha² C + sigma² I)^-1 (x - alpha mean)

gives everything: score = -r, E[eps | x] = sigma r and E[x0 | x] = mean + alpha C r, finite at both ends. A mixture
averages these over its components, a finite data set is a mixture of points. With a flat prior on t the noise-blind
prediction is E[f | x] = Σ_i p(t_i | x) f(x | t_i) for whichever target f a network would have been trained on.
States may be (B, d) or (B, C, H, W); the arithmetic is in float64, the answer in the state's own dtype.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor

from noiseshift.diffusion.models import CLASS_BLIND, FULL, NOISE_BLIND, READ, Branch, Prediction, Predicts, require
from noiseshift.diffusion.schedules import Level, Schedule
from noiseshift.estimators.posterior import Posterior, time_grid

if TYPE_CHECKING:
    from noiseshift.diffusion.samplers import Step

_ENTRIES = 1 << 21
"""Float64 numbers in the largest temporary of one row block: 16 MB."""

_FLOOR = 1e-30
"""Variance below which a direction counts as exactly known: keeps 0/0 at sigma = 0 finite."""

_NEGLIGIBLE = 1e-14
"""Posterior mass of a level below which, for every state of a batch, a blind average leaves it out."""

Self = TypeVar("Self", bound="Target")


class LowRank(NamedTuple):
    """K covariances F Fᵀ + variance I: factors (K, d, r), variance (K,). No d × d matrix is ever formed."""

    factors: Tensor
    variance: Tensor


class Target(ABC):
    """A law of the data. Subclasses write the density and the weighted predictions over a set of levels."""

    dim: int
    branches: frozenset[Branch] = frozenset({FULL, NOISE_BLIND})

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, …) independent draws of x0."""

    @abstractmethod
    def _log_density(self, x: Tensor, levels: _Levels, cond: Tensor | None) -> Tensor:
        """log p_t(x), (B, T), of flat float64 states (B, d)."""

    @abstractmethod
    def _weighted(
        self, x: Tensor, levels: _Levels, x0: Tensor, eps: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(Σ_t x0[:, t] E[x0 | x, t], Σ_t eps[:, t] E[eps | x, t]), each (B, d); the weights are (B, T)."""

    @abstractmethod
    def _row_entries(self, levels: int) -> int:
        """Numbers that one state needs in the largest temporary, for so many levels."""

    def log_prob(self, x: Tensor, level: Level, cond: Tensor | None = None) -> Tensor:
        """log density of x_t = alpha x0 + sigma eps at `level` (parts () or (B,)), in nats: float64 (B,).

        Raises ValueError when x does not hold vectors of the target's size or the level fits no row of x.
        """
        return self._log_densities(x, _Levels.of(level, x), cond)[:, 0]

    def model(self, schedule: Schedule, *, blind: Predicts = "velocity", times: Tensor | None = None) -> ExactModel:
        """The exact model on `schedule`. Its noise-blind branch is the average of the target `blind` over p(t | x) on
        the grid `times` (T,) (ascending; by default fine enough for the target's dimension)."""
        return ExactModel(self, schedule, blind, self.estimator(schedule, times))

    def estimator(self, schedule: Schedule, times: Tensor | None = None) -> ExactPosterior:
        """The exact posterior p(t | x) under a flat prior on t, on the grid `times` (T,)."""
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

    def _blocks(self, rows: int, levels: _Levels) -> list[slice]:
        """Rows of a batch, few enough at a time to bound memory."""
        size = max(1, _ENTRIES // self._row_entries(1 if levels.paired else len(levels.alpha)))
        return [slice(start, start + size) for start in range(0, rows, size)]

    def _log_densities(self, x: Tensor, levels: _Levels, cond: Tensor | None) -> Tensor:
        """log p_t(x) of a batch (B, …): (B, T) float64."""
        flat = self._flat(x)
        parts = [self._log_density(flat[b], levels.rows(b), _rows(cond, b)) for b in self._blocks(len(x), levels)]
        return torch.cat(parts)

    def _predictions(
        self, x: Tensor, levels: _Levels, x0: Tensor, eps: Tensor, cond: Tensor | None
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
class _Levels:
    """T levels asked of every state, or (`paired`) one level a state: alpha and sigma (T,) float64."""

    alpha: Tensor
    sigma: Tensor
    paired: bool

    @classmethod
    def of(cls, level: Level, x: Tensor) -> _Levels:
        """One level for all of x, or one a row. Raises ValueError (from `Level.like`) for anything else."""
        level.like(x)
        alpha, sigma = (part.to(x.device, torch.float64).reshape(-1) for part in level[:2])
        return cls(alpha, sigma, paired=len(alpha) > 1)

    @classmethod
    def grid(cls, level: Level) -> _Levels:
        return cls(level.alpha, level.sigma, paired=False)

    def rows(self, part: slice | Tensor) -> _Levels:
        return _Levels(self.alpha[part], self.sigma[part], True) if self.paired else self

    def each(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(alpha, sigma) to broadcast against (B, N), one level at a time; paired levels come at once."""
        if self.paired:
            yield self.alpha[:, None], self.sigma[:, None]
        else:
            yield from zip(self.alpha, self.sigma, strict=True)

    def pair(self, values: Tensor, gains: Tensor) -> Tensor:
        """Σ_j values[:, b, j] gains[:, t, j]: (K, B, r) with (K, T, r) → (K, B, T)."""
        return (values * gains).sum(-1, keepdim=True) if self.paired else values @ gains.mT

    def mix(self, weights: Tensor, gains: Tensor) -> Tensor:
        """Σ_t weights[:, b, t] gains[:, t, j]: (K, B, T) with (K, T, r) → (K, B, r)."""
        return weights * gains if self.paired else weights @ gains

    def outer(self, values: Tensor, gains: Tensor) -> Tensor:
        """values[:, b] gains[:, t]: (K, B) with (K, T) → (K, B, T)."""
        return (values * gains)[..., None] if self.paired else values[..., None] * gains[:, None]


class GaussianMixture(Target):
    """Σ_k weights[k] N(means[k], covs[k]): weights (K,) positive, means (K, d).

    covs: full (K, d, d), diagonal (K, d), isotropic variances (K,), or `LowRank`. Weights are normalised. Samples have
    the dtype of `means`. Raises ValueError for shapes that do not fit or a covariance that is none.
    """

    def __init__(self, weights: Tensor, means: Tensor, covs: Tensor | LowRank):
        self.dtype = means.dtype
        self.means = means.double()
        if means.ndim != 2 or weights.shape != means.shape[:1]:
            raise ValueError(f"weights must be (K,), means (K, d): got {tuple(weights.shape)} and {tuple(means.shape)}")
        if not bool((weights > 0).all()):
            raise ValueError("weights must be positive: drop the components that have none")
        self.weights = weights.double() / weights.double().sum()
        self.dim = means.shape[1]
        self.basis, self.values, self.rest = _spectrum(covs, *means.shape)
        spread = self.values.amax(-1, keepdim=True) if self.values.shape[-1] else self.values
        if bool((self.values < -1e-8 * spread.abs()).any()) or (self.rest is not None and bool((self.rest < 0).any())):
            raise ValueError("a covariance must be positive semi-definite: check covs")
        self.values = self.values.clamp_min(0)
        self.mean_coordinates = self._coordinates(self.means[:, None])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        device = self.means.device
        which = torch.multinomial(self.weights.to(generator.device), n, replacement=True, generator=generator).to(
            device
        )
        z = torch.randn(n, self.dim, dtype=torch.float64, generator=generator, device=generator.device).to(device)
        x0 = self.means[which]
        for k in which.unique().tolist():
            x0[which == k] += self._root(k, z[which == k])
        return x0.to(self.dtype)

    def _root(self, k: int, z: Tensor) -> Tensor:
        """C_k^½ z for white z (n, d)."""
        values = self.values[k].sqrt()
        if self.basis is None:
            return z * values
        if self.rest is None:
            return z @ self.basis[k] * values @ self.basis[k].T
        rest = self.rest[k].sqrt()
        return rest * z + (z @ self.basis[k]) * (values - rest) @ self.basis[k].T

    def _coordinates(self, x: Tensor) -> Tensor:
        """(…, d) in each component's eigenbasis: (K, …, r)."""
        return x if self.basis is None else x @ self.basis

    def _row_entries(self, levels: int) -> int:
        return len(self.means) * max(levels, self.values.shape[-1], 1) + self.dim

    def _variances(self, levels: _Levels) -> tuple[Tensor, Tensor | None]:
        """Eigenvalues of alpha² C + sigma² I: (K, T, r), and (K, T) for the directions outside the basis."""
        signal, noise = levels.alpha**2, levels.sigma**2
        inside = (signal[:, None] * self.values[:, None] + noise[:, None]).clamp_min(_FLOOR)
        rest = None if self.rest is None else (signal * self.rest[:, None] + noise).clamp_min(_FLOOR)
        return inside, rest

    def _joint(self, x: Tensor, levels: _Levels) -> Tensor:
        """log weights[k] + log N(x; alpha mean_k, …): (K, B, T)."""
        inside, rest = self._variances(levels)
        alpha, y, mu = levels.alpha[:, None], self._coordinates(x), self.mean_coordinates
        if self.basis is None:
            y = y[None]
        constant = (alpha**2 * mu**2 / inside + inside.log()).sum(-1)
        distance = levels.pair(y**2, 1 / inside) - 2 * levels.pair(y * mu, alpha / inside)
        if rest is not None:
            outside = self.dim - self.values.shape[-1]
            xx, xm, mm = self._outside(x, y)
            constant = constant + levels.alpha**2 * mm / rest + outside * rest.log()
            distance = distance + levels.outer(xx, 1 / rest) - 2 * levels.outer(xm, levels.alpha / rest)
        constant = constant[..., None] if levels.paired else constant[:, None]
        log_density = -0.5 * (distance + constant + self.dim * math.log(2 * math.pi))
        return self.weights.log()[:, None, None] + log_density

    def _outside(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inner products of x and the means outside the basis, by Pythagoras: xx (K, B), xm (K, B), mm (K, 1)."""
        mu = self.mean_coordinates
        xx = (x**2).sum(-1) - (y**2).sum(-1)
        xm = self.means @ x.T - (y * mu).sum(-1)
        mm = (self.means**2).sum(-1, keepdim=True) - (mu**2).sum(-1)
        return xx, xm, mm

    def _log_density(self, x: Tensor, levels: _Levels, cond: Tensor | None) -> Tensor:
        return self._joint(x, levels).logsumexp(0)

    def _weighted(
        self, x: Tensor, levels: _Levels, x0: Tensor, eps: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        share = self._joint(x, levels).softmax(0)
        inside, rest = self._variances(levels)
        alpha, sigma = levels.alpha, levels.sigma
        rest_x0 = None if rest is None or self.rest is None else alpha * self.rest[:, None] / rest
        rest_eps = None if rest is None else sigma / rest
        from_x0 = self._filter(x, levels, share * x0, alpha[:, None] * self.values[:, None] / inside, rest_x0)
        from_eps = self._filter(x, levels, share * eps, sigma[:, None] / inside, rest_eps)
        return from_x0 + (share * x0).sum(-1).T @ self.means, from_eps

    def _filter(self, x: Tensor, levels: _Levels, weights: Tensor, gains: Tensor, rest: Tensor | None) -> Tensor:
        """Σ_kt weights[k, :, t] g_kt(C_k) (x - alpha_t mean_k), for a function g of the covariance given by its
        eigenvalues `gains` (K, T, r) and `rest` (K, T): (B, d)."""
        alpha = levels.alpha
        on_x, on_mean = levels.mix(weights, gains), levels.mix(weights, alpha[:, None] * gains)
        if self.basis is None:
            return (on_x * x - on_mean * self.mean_coordinates).sum(0)
        if rest is not None:
            rest_x = levels.mix(weights, rest[..., None])
            rest_mean = levels.mix(weights, (alpha * rest)[..., None])
            on_x, on_mean = on_x - rest_x, on_mean - rest_mean
        inside = on_x * self._coordinates(x) - on_mean * self.mean_coordinates
        total = torch.einsum("kbr,kdr->bd", inside, self.basis)
        if rest is not None:
            total = total + rest_x.sum(0) * x - rest_mean[..., 0].T @ self.means
        return total


class Gaussian(GaussianMixture):
    """N(mean, cov): mean (d,), cov (d,) variances, (d, d), () isotropic, or `LowRank` with factors (d, r)."""

    def __init__(self, mean: Tensor, cov: Tensor | LowRank):
        covs = LowRank(*(part[None] for part in cov)) if isinstance(cov, LowRank) else cov[None]
        super().__init__(torch.ones(1, dtype=mean.dtype, device=mean.device), mean[None], covs)

    def moments(self, level: Level) -> tuple[Tensor, Tensor]:
        """Mean (d,) of x at `level` (parts ()), and the d eigenvalues of its covariance, unordered, float64."""
        alpha, sigma = (part.to(self.means) for part in level[:2])
        outside = self.dim - self.values.shape[-1]
        rest = self.values.new_zeros(0) if self.rest is None else self.rest.expand(outside)
        return alpha * self.means[0], alpha**2 * torch.cat([self.values[0], rest]) + sigma**2


def _spectrum(covs: Tensor | LowRank, k: int, d: int) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Eigenvectors (K, d, r) or None for the axes, eigenvalues (K, r), and the one eigenvalue (K,) of all directions
    outside the eigenvectors, or None when there are none."""
    if isinstance(covs, LowRank):
        if covs.factors.shape[:2] != (k, d) or covs.variance.shape != (k,):
            raise ValueError(f"LowRank must have factors ({k}, {d}, r) and variance ({k},)")
        variance = covs.variance.double()
        basis, root, _ = torch.linalg.svd(covs.factors.double(), full_matrices=False)
        # With r ≥ d the basis is complete and nothing is left outside it.
        return basis, root**2 + variance[:, None], variance if basis.shape[-1] < d else None
    covs = covs.double()
    if covs.shape == (k, d, d):
        if not torch.allclose(covs, covs.mT):
            raise ValueError("a covariance must be symmetric: check covs")
        values, basis = torch.linalg.eigh(covs)
        return basis, values, None
    if covs.shape == (k, d):
        return None, covs, None
    if covs.shape == (k,):
        return None, covs[:, None].expand(k, d), None
    raise ValueError(f"covs must be ({k}, {d}, {d}), ({k}, {d}), ({k},) or LowRank, got {tuple(covs.shape)}")


class Empirical(Target):
    """A finite data set (N, …), each point as likely as the others: the denoiser that a perfect network would learn.

    Images stay in their own dtype and memory; float64 copies are made a block at a time. With `labels` (N,) a state
    given a class sees only that class's points, and the model has class-blind branches; cond=None sees all.
    Raises ValueError when there is no data, when labels and data differ in number, or when a state asks for a class
    without points.
    """

    def __init__(self, data: Tensor, labels: Tensor | None = None):
        if not data.numel():
            raise ValueError("an empirical target needs at least one data point")
        if labels is not None and labels.shape != data.shape[:1]:
            raise ValueError(f"labels must be ({len(data)},), one a data point, got {tuple(labels.shape)}")
        self.data, self.labels = data, labels
        self._of_class: dict[int, Empirical] = {}
        self.dim = data[0].numel()
        self.norms = torch.cat([rows.double().square().sum(1) for rows in self._data_blocks()])
        if labels is not None:
            self.branches = self.branches | {CLASS_BLIND, Branch(noise=False, condition=False)}

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, …) points of the data set, drawn with replacement."""
        which = torch.randint(len(self.data), (n,), generator=generator, device=generator.device)
        return self.data[which.to(self.data.device)]

    def _row_entries(self, levels: int) -> int:
        return len(self.data)

    def _data_blocks(self) -> Sequence[Tensor]:
        return self.data.flatten(1).split(max(1, _ENTRIES // (4 * self.dim)))

    def of_class(self, label: int) -> Empirical:
        """The points of one class alone. Raises ValueError when there is none."""
        if label not in self._of_class:
            own = None if self.labels is None else self.labels == label
            if own is None or not bool(own.any()):
                raise ValueError(
                    f"class {label} has no point in this data set: give labels of every class, or cond=None"
                )
            self._of_class[label] = Empirical(self.data[own])
        return self._of_class[label]

    def to(self, device: torch.device | str) -> Empirical:
        return Empirical(self.data.to(device), None if self.labels is None else self.labels.to(device))

    def _groups(self, cond: Tensor | None) -> list[tuple[Tensor, Empirical]]:
        """The rows of each class in a batch, and the points that they see; empty when all see all."""
        if cond is None or self.labels is None:
            return []
        return [((cond == c).nonzero()[:, 0], self.of_class(c)) for c in cond.unique().tolist()]

    def _log_density(self, x: Tensor, levels: _Levels, cond: Tensor | None) -> Tensor:
        if groups := self._groups(cond):
            parts = [own._log_density(x[rows], levels.rows(rows), None) for rows, own in groups]
            return torch.cat(parts)[_back(groups)]
        columns = [logits.logsumexp(1, keepdim=True) + shared for logits, shared in self._logits(x, levels)]
        return torch.cat(columns, dim=1) - math.log(len(self.data))

    def _weighted(
        self, x: Tensor, levels: _Levels, x0: Tensor, eps: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if groups := self._groups(cond):
            parts = [own._weighted(x[r], levels.rows(r), x0[r], eps[r], None) for r, own in groups]
            of_x0, of_eps = (torch.cat(part)[_back(groups)] for part in zip(*parts, strict=True))
            return of_x0, of_eps
        # At sigma = 0 the noise of a state off the data set is infinite; 0 is its value on the data set.
        inverse = torch.where(levels.sigma > 0, 1 / levels.sigma.clamp_min(_FLOOR), 0.0)
        eps_x = eps * (inverse[:, None] if levels.paired else inverse)
        eps_y = eps_x * (levels.alpha[:, None] if levels.paired else levels.alpha)
        shares = (logits.softmax(1) for logits, _ in self._logits(x, levels))
        if x0.shape[1] == 1:
            mean = self._average(next(shares))
            return x0 * mean, eps_x * x - eps_y * mean
        on_x0 = on_eps = torch.zeros((), dtype=torch.float64, device=x.device)
        for t, share in enumerate(shares):
            on_x0 = on_x0 + x0[:, t, None] * share
            on_eps = on_eps + eps_y[:, t, None] * share
        return self._average(on_x0), eps_x.sum(1, keepdim=True) * x - self._average(on_eps)

    def _logits(self, x: Tensor, levels: _Levels) -> Iterator[tuple[Tensor, Tensor]]:
        """log N(x; alpha y_n, sigma² I), a level at a time: a part (B, N), and a part (B, 1) that all points share."""
        products = torch.cat([x @ rows.double().T for rows in self._data_blocks()], dim=1)
        square = x.square().sum(1, keepdim=True)
        for alpha, sigma in levels.each():
            variance = (sigma**2).clamp_min(_FLOOR)
            shared = -0.5 * (square / variance + self.dim * (2 * math.pi * variance).log())
            yield products * (alpha / variance) - 0.5 * alpha**2 / variance * self.norms, shared

    def _average(self, weights: Tensor) -> Tensor:
        """Σ_n weights[:, n] y_n: (B, d)."""
        total, start = torch.zeros((), dtype=torch.float64, device=weights.device), 0
        for rows in self._data_blocks():
            total = total + weights[:, start : start + len(rows)] @ rows.double()
            start += len(rows)
        return total


def _back(groups: Sequence[tuple[Tensor, Empirical]]) -> Tensor:
    """The permutation that puts rows taken group by group back in order."""
    return torch.cat([rows for rows, _ in groups]).argsort()


class ExactPosterior:
    """p(t | x) of a target under a flat prior on t: an `Estimator` without error. See `Target.estimator`."""

    def __init__(self, target: Target, schedule: Schedule, times: Tensor):
        self.target, self.schedule, self.times = target, schedule, times

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """x (B, …), cond (B,) or None; `step` is not needed."""
        times = self.times.to(x.device)
        return Posterior.from_log_density(
            times, self.target._log_densities(x, _Levels.grid(self.schedule(times)), cond)
        )


class ExactModel:
    """A target as a `Model`: exact predictions of every branch. See `Target.model`."""

    def __init__(self, target: Target, schedule: Schedule, blind: Predicts, posterior: ExactPosterior):
        if blind not in READ:
            raise ValueError(f"blind must be one of {', '.join(READ)}, got {blind!r}")
        self.target, self.schedule, self.blind, self.posterior = target, schedule, blind, posterior

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
        """Branches at x (B, …), t () or (B,). A blind branch read in epsilon or score is singular where alpha = 0."""
        require(self, branches)
        level = self.schedule(t.to(x.device, torch.float64))
        return tuple(
            (self._full if branch.noise else self._blind)(x, level, cond if branch.condition else None)
            for branch in branches
        )

    def _full(self, x: Tensor, level: Level, cond: Tensor | None) -> Prediction:
        once = torch.ones(len(x), 1, dtype=torch.float64, device=x.device)
        x0, eps = self.target._predictions(x, _Levels.of(level, x), once, once, cond)
        return Prediction(x0.to(x.dtype), eps.to(x.dtype), level.like(x))

    def _blind(self, x: Tensor, level: Level, cond: Tensor | None) -> Prediction:
        """E[f | x] = Σ_i p(t_i | x) f(x | t_i), read as a prediction at `level`."""
        posterior = self.posterior(x, cond)
        likely = (posterior.prob > _NEGLIGIBLE).any(0)
        prob, levels = posterior.prob[:, likely], self.schedule(posterior.times[likely])
        of_x0, of_eps = _COEFFICIENTS[self.blind](levels)
        x0, eps = self.target._predictions(x, _Levels.grid(levels), prob * of_x0, prob * of_eps, cond)
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
