"""Exact models: data whose score, noise-blind branch and posterior over t are known in closed form.

They are the oracle that every estimator, sampler and correction is tested against. All computation is in float64;
predictions come back in the dtype of x and in its shape, (B, d) or (B, C, H, W).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from noiseshift.estimators.posterior import Posterior, time_grid
from noiseshift.models import CLASS_BLIND, FULL, NOISE_BLIND, READ, Branch, Prediction, require
from noiseshift.schedules import Level, Schedule

if TYPE_CHECKING:
    from noiseshift.samplers import Step

Space = Literal["velocity", "epsilon", "score"]


class Exact(NamedTuple):
    """log p_t(x) (B,), and the conditional means x0, eps (B, d)."""

    log_prob: Tensor
    x0: Tensor
    eps: Tensor


class Target(ABC):
    """A data distribution with an exact answer at every level."""

    conditional = False

    @abstractmethod
    def exact(self, x: Tensor, level: Level, cond: Tensor | None = None) -> Exact:
        """Everything at once for flat float64 x (B, d) at a level whose parts are () or (B,)."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n data points."""

    def log_prob(self, x: Tensor, level: Level, cond: Tensor | None = None) -> Tensor:
        """(B,) exact log density of x_t = alpha x_0 + sigma eps, float64; level parts () or (B,)."""
        return self.exact(x.flatten(1).double(), level, cond).log_prob

    def model(self, schedule: Schedule, *, blind: Space = "velocity", times: Tensor | None = None) -> ExactModel:
        """The exact model on a schedule. Its noise-blind branch averages `blind` predictions over p(t | x) on `times`
        (a grid even in log-SNR by default), the prior on t being flat."""
        return ExactModel(self, schedule, blind, time_grid(schedule) if times is None else times)

    def estimator(self, schedule: Schedule, times: Tensor) -> ExactPosterior:
        """The exact posterior over t under a flat prior, on `times` (K,) ascending."""
        return ExactPosterior(self, schedule, times)


class ExactPosterior:
    """p(t | x) by Bayes: the oracle of all estimators. Follows the `Estimator` protocol."""

    def __init__(self, target: Target, schedule: Schedule, times: Tensor):
        self.target, self.schedule, self.times = target, schedule, times.double()

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        """x (B, …)."""
        cond = cond if self.target.conditional else None
        columns = [self.target.log_prob(x, self.schedule(t), cond) for t in self.times]
        return Posterior.from_log_density(self.times, torch.stack(columns, dim=-1))


class ExactModel:
    """The exact prediction of a target, with an exact noise-blind branch; see `Target.model`."""

    def __init__(self, target: Target, schedule: Schedule, blind: Space, times: Tensor):
        self.target, self.schedule, self.blind, self.times = target, schedule, blind, times.double()
        class_blind = {CLASS_BLIND, Branch(False, False)} if target.conditional else set()
        self.branches = frozenset({FULL, NOISE_BLIND, *class_blind})

    def snap(self, t: Tensor) -> Tensor:
        return t

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        return self.predict(x, t, cond, (FULL,))[0]

    def predict(
        self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]
    ) -> tuple[Prediction, ...]:
        """x (B, …), t () or (B,)."""
        require(self, branches)
        return tuple(self._branch(x, t, cond, branch) for branch in branches)

    def _branch(self, x: Tensor, t: Tensor, cond: Tensor | None, branch: Branch) -> Prediction:
        flat = x.flatten(1).double()
        cond = cond if branch.condition and self.target.conditional else None
        level = self.schedule(t.double())
        if branch.noise:
            exact = self.target.exact(flat, level, cond)
            return Prediction(exact.x0.to(x).view_as(x), exact.eps.to(x).view_as(x), level.like(x))
        return READ[self.blind](self._average(flat, cond).to(x).view_as(x), x, level)

    def _average(self, x: Tensor, cond: Tensor | None) -> Tensor:
        """E[f | x] = Σ p(t_i | x) f(x | t_i), streamed over the grid with a running maximum."""
        cells = torch.gradient(self.times)[0]
        top = torch.full_like(x[:, :1], -math.inf)
        total, weighted = torch.zeros_like(top), torch.zeros_like(x)
        for t, cell in zip(self.times, cells, strict=True):
            level = self.schedule(t)
            exact = self.target.exact(x, level, cond)
            log_weight = exact.log_prob[:, None] + cell.log()
            higher = torch.maximum(top, log_weight)
            weight, decay = (log_weight - higher).exp(), (top - higher).exp()
            total = total * decay + weight
            weighted = weighted * decay + weight * self._value(exact, level)
            top = higher
        return weighted / total

    def _value(self, exact: Exact, level: Level) -> Tensor:
        if self.blind == "velocity":
            return level.dalpha * exact.x0 + level.dsigma * exact.eps
        return exact.eps if self.blind == "epsilon" else -exact.eps / level.sigma


@dataclass(frozen=True)
class LowRank:
    """Covariances F Fᵀ + variance I: factors (K, d, r), variance (K,)."""

    factors: Tensor
    variance: Tensor


class GaussianMixture(Target):
    """Weights (K,), means (K, d), covs: full (K, d, d), diagonal (K, d), isotropic (K,), or `LowRank`.

    Every covariance is kept as U diag(l) Uᵀ + v I, so that a low rank never costs d². Raises ValueError when the shapes
    do not fit or a covariance is not positive.
    """

    def __init__(self, weights: Tensor, means: Tensor, covs: Tensor | LowRank):
        self.means = torch.as_tensor(means).double()
        if self.means.ndim != 2 or len(weights) != len(self.means):
            raise ValueError(f"means must be ({len(weights)}, d), one row a weight, got {tuple(self.means.shape)}")
        weights = torch.as_tensor(weights).double()
        self.log_weights = (weights / weights.sum()).log()
        self.basis, self.spectrum, self.floor = _eigen(covs, self.means)
        if bool((self.spectrum < 0).any() or (self.floor < 0).any()):
            raise ValueError("a covariance has a negative eigenvalue")

    def exact(self, x: Tensor, level: Level, cond: Tensor | None = None) -> Exact:
        alpha, sigma = (part.double().reshape(-1, 1) for part in level[:2])
        offset = x[None] - alpha * self.means[:, None]
        inside = self._project(offset)
        base = (alpha**2 * self.floor[:, None, None] + sigma**2).clamp_min(1e-30)
        spread = alpha**2 * self.spectrum[:, None]
        # Σ⁻¹ y = (y - U diag(s / (base + s)) Uᵀ y) / base, s = alpha² l
        solved = (offset - self._lift(spread / (base + spread) * inside)) / base
        rest = self.means.shape[1] - self.spectrum.shape[1]
        log_det = rest * base.log().sum(-1) + (base + spread).log().sum(-1)
        energy = (offset * solved).sum(-1)
        joint = self.log_weights[:, None] - 0.5 * (energy + log_det + x.shape[1] * math.log(2 * math.pi))
        share = joint.softmax(0)[..., None]
        # E[x0 | x, k] = mean + alpha C Σ⁻¹ y, with C w = U diag(l) Uᵀ w + v w
        moved = self._lift(self.spectrum[:, None] * self._project(solved)) + self.floor[:, None, None] * solved
        x0 = (share * (self.means[:, None] + alpha * moved)).sum(0)
        return Exact(joint.logsumexp(0), x0, (share * sigma * solved).sum(0))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(n, d) float64."""
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        inner = torch.randn(n, self.spectrum.shape[1], generator=generator, dtype=torch.float64) * self.spectrum[k].sqrt()
        if self.basis is not None:
            inner = torch.stack([self.basis[i] @ z for i, z in zip(k.tolist(), inner, strict=True)])
        outer = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + inner + outer * self.floor[k, None].sqrt()

    def _project(self, y: Tensor) -> Tensor:
        return y if self.basis is None else y @ self.basis

    def _lift(self, z: Tensor) -> Tensor:
        return z if self.basis is None else z @ self.basis.mT


class Gaussian(GaussianMixture):
    """One Gaussian: mean (d,), cov (d,) diagonal or (d, d)."""

    def __init__(self, mean: Tensor, cov: Tensor):
        super().__init__(torch.ones(1), torch.as_tensor(mean)[None], torch.as_tensor(cov)[None])


def _eigen(covs: Tensor | LowRank, means: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """(basis (K, d, r) or None for the coordinate axes, spectrum (K, r), floor (K,)) of U diag(l) Uᵀ + v I."""
    components, d = means.shape
    if isinstance(covs, LowRank):
        u, s, _ = torch.linalg.svd(covs.factors.double(), full_matrices=False)
        return u, s**2, torch.as_tensor(covs.variance).double()
    covs = torch.as_tensor(covs).double()
    if covs.shape == (components, d, d):
        spectrum, basis = torch.linalg.eigh(covs)
        return basis, *_split_floor(spectrum)
    if covs.shape == (components, d):
        return None, *_split_floor(covs)
    if covs.shape == (components,):
        return torch.zeros(components, d, 0, dtype=torch.float64), covs.new_zeros(components, 0), covs
    raise ValueError(f"covs must be ({components},), ({components}, {d}) or ({components}, {d}, {d}), got {tuple(covs.shape)}")


def _split_floor(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the least eigenvalue goes into the floor, so that Σ can be inverted at sigma = 0."""
    floor = spectrum.amin(1) / 2
    return spectrum - floor[:, None], floor


class Empirical(Target):
    """The exact denoiser of a finite data set: a softmax over its points. data (N, …), labels (N,) or None.

    With labels a class-conditional call sees only its class. Works through the data in chunks: 10,000 images of 28×28
    and a batch of 256 take about 0.1 GB.
    """

    def __init__(self, data: Tensor, labels: Tensor | None = None, *, chunk: int = 2048):
        if len(data) < 1 or (labels is not None and len(labels) != len(data)):
            raise ValueError(f"an empirical target needs data and one label a row, got {len(data)} rows")
        self.data, self.labels, self.chunk = data, labels, chunk
        self.flat = data.flatten(1)
        self.squares = torch.cat([rows.double().square().sum(1) for rows in self.flat.split(chunk)])
        self.conditional = labels is not None

    def exact(self, x: Tensor, level: Level, cond: Tensor | None = None) -> Exact:
        return Exact(*(torch.cat(parts) for parts in zip(*self._batches(x, level, cond), strict=True)))

    def _batches(self, x: Tensor, level: Level, cond: Tensor | None) -> list[Exact]:
        alpha, sigma = (part.double().reshape(-1, 1).expand(len(x), 1) for part in level[:2])
        rows = range(0, len(x), 256)
        return [
            self._exact(x[i : i + 256], alpha[i : i + 256], sigma[i : i + 256], None if cond is None else cond[i : i + 256])
            for i in rows
        ]

    def _exact(self, x: Tensor, alpha: Tensor, sigma: Tensor, cond: Tensor | None) -> Exact:
        # At sigma = 0 this is the nearest point; the floor keeps its weights finite.
        sigma = sigma.clamp_min(1e-9)
        chunks = self.flat.split(self.chunk)
        cross = torch.cat([x @ rows.double().T for rows in chunks], dim=1)
        distance = x.square().sum(1, keepdim=True) - 2 * alpha * cross + alpha**2 * self.squares
        logits = -0.5 * distance / sigma**2
        if cond is not None and self.labels is not None:
            logits = logits.masked_fill(self.labels[None] != cond[:, None], -math.inf)
        seen = torch.isfinite(logits).sum(1)
        share = logits.softmax(1)
        x0 = torch.zeros_like(x)
        for weights, rows in zip(share.split(self.chunk, dim=1), chunks, strict=True):
            x0 = x0 + weights @ rows.double()
        log_prob = logits.logsumexp(1) - seen.log() - x.shape[1] * (sigma[:, 0].log() + 0.5 * math.log(2 * math.pi))
        return Exact(log_prob, x0, (x - alpha * x0) / sigma)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points of the data, drawn with replacement, in its shape and dtype."""
        return self.data[torch.randint(len(self.data), (n,), generator=generator)]
