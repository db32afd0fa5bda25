"""Gaussians and mixtures of them as exact models, their covariances by their eigenvalues. See `target` for the mathematics."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from noiseshift.diffusion.schedules import Level
from noiseshift.targets.target import FLOOR, Levels, Target


class LowRank(NamedTuple):
    """K covariances F Fᵀ + variance I. No d × d matrix is ever formed.

    Attributes:
        factors: F, (K, d, r).
        variance: (K,).
    """

    factors: Tensor
    variance: Tensor


class GaussianMixture(Target):
    """Σ_k weights[k] N(means[k], covs[k]). Samples have the dtype of `means`.

    Args:
        weights: (K,) positive; they are normalised.
        means: (K, d).
        covs: full (K, d, d), diagonal (K, d), isotropic variances (K,), or `LowRank`.

    Raises:
        ValueError: for shapes that do not fit, or a covariance that is none.
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
        """(n, d) independent draws, in the target's dtype.

        Args:
            n: how many.
            generator: on any device.
        """
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

    def _variances(self, levels: Levels) -> tuple[Tensor, Tensor | None]:
        """Eigenvalues of alpha² C + sigma² I: (K, T, r), and (K, T) for the directions outside the basis."""
        signal, noise = levels.alpha**2, levels.sigma**2
        inside = (signal[:, None] * self.values[:, None] + noise[:, None]).clamp_min(FLOOR)
        rest = None if self.rest is None else (signal * self.rest[:, None] + noise).clamp_min(FLOOR)
        return inside, rest

    def _joint(self, x: Tensor, levels: Levels) -> Tensor:
        """log weights[k] + log N(x; alpha mean_k, …): (K, B, T)."""
        inside, rest = self._variances(levels)
        alpha = levels.alpha[:, None]
        y = self._coordinates(x)
        mu = self.mean_coordinates
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

    def _log_density(self, x: Tensor, levels: Levels, cond: Tensor | None) -> Tensor:
        return self._joint(x, levels).logsumexp(0)

    def _weighted(
        self, x: Tensor, levels: Levels, x0: Tensor, eps: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        share = self._joint(x, levels).softmax(0)
        inside, rest = self._variances(levels)
        alpha, sigma = levels.alpha, levels.sigma
        rest_x0 = None if rest is None or self.rest is None else alpha * self.rest[:, None] / rest
        rest_eps = None if rest is None else sigma / rest
        from_x0 = self._filter(x, levels, share * x0, alpha[:, None] * self.values[:, None] / inside, rest_x0)
        from_eps = self._filter(x, levels, share * eps, sigma[:, None] / inside, rest_eps)
        return from_x0 + (share * x0).sum(-1).T @ self.means, from_eps

    def _filter(self, x: Tensor, levels: Levels, weights: Tensor, gains: Tensor, rest: Tensor | None) -> Tensor:
        """Σ_kt weights[k, :, t] g_kt(C_k) (x - alpha_t mean_k), for a function g of the covariance given by its
        eigenvalues `gains` (K, T, r) and `rest` (K, T): (B, d)."""
        alpha = levels.alpha
        on_x = levels.mix(weights, gains)
        on_mean = levels.mix(weights, alpha[:, None] * gains)
        if self.basis is None:
            return (on_x * x - on_mean * self.mean_coordinates).sum(0)
        if rest is not None:
            rest_x = levels.mix(weights, rest[..., None])
            rest_mean = levels.mix(weights, (alpha * rest)[..., None])
            on_x = on_x - rest_x
            on_mean = on_mean - rest_mean
        inside = on_x * self._coordinates(x) - on_mean * self.mean_coordinates
        total = torch.einsum("kbr,kdr->bd", inside, self.basis)
        if rest is not None:
            total = total + rest_x.sum(0) * x - rest_mean[..., 0].T @ self.means
        return total


class Gaussian(GaussianMixture):
    """N(mean, cov).

    Args:
        mean: (d,).
        cov: (d,) variances, (d, d), () isotropic, or `LowRank` with factors (d, r).

    Raises:
        ValueError: for shapes that do not fit, or a covariance that is none.
    """

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
