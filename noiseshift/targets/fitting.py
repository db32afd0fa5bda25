"""Exact distributions fitted to data: what a network could learn of them at best, without learning single images by heart.

The exact denoiser of a finite data set (`Empirical`) memorises: at small t its states collapse onto single images, which
is a shift of its own. A Gaussian or a mixture does not. The one of the largest likelihood on other rows stands for the data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from noiseshift.diffusion.noise import FITTING, generators, normal
from noiseshift.diffusion.schedules import Level
from noiseshift.targets.gaussian import Gaussian, GaussianMixture, LowRank

RANKS = (8, 16, 32, 64, 128)


def fitted_gaussian(x0: Tensor, rank: int = 64) -> Gaussian:
    """A Gaussian of probabilistic principal components (Tipping & Bishop, J. R. Stat. Soc. B 61, 1999).

    Args:
        x0: (N, …) data, N ≥ 3.
        rank: of its covariance at most, and at most N // 4; all other directions share the rest of the variance, so that few
            rows do not make a degenerate covariance.
    """
    mean, factors, rest = _components(x0.flatten(1).double(), rank)
    return Gaussian(mean, LowRank(factors, rest))


def fitted_mixture(x0: Tensor, labels: Tensor, rank: int) -> GaussianMixture:
    """A component per class, each as `fitted_gaussian`, weighted by its rows.

    Args:
        x0: (N, …) data.
        labels: (N,) classes; one of fewer than 8 rows is left out.
        rank: of each covariance, at most a quarter of the class's rows; the components have one rank, the least.

    Raises:
        ValueError: no class has 8 rows.
    """
    flat = x0.flatten(1).double()
    classes = [label for label in labels.unique() if int((labels == label).sum()) >= 8]
    if not classes:
        raise ValueError("a mixture needs a class of at least 8 rows")
    sizes = torch.tensor([int((labels == label).sum()) for label in classes])
    least = max(1, min(rank, int(sizes.min()) // 4))
    means, factors, rests = zip(*(_components(flat[labels == label], least) for label in classes), strict=True)
    return GaussianMixture(sizes.double(), torch.stack(means), LowRank(torch.stack(factors), torch.stack(rests)))


def best_fit(x0: Tensor, labels: Tensor | None, held_out: Tensor, level: Level) -> GaussianMixture:
    """The Gaussian or mixture under which other rows are likeliest, noised to a level.

    Args:
        x0: (N, …) rows that are fitted.
        labels: (N,) their classes, or None.
        held_out: (M, …) other rows, by which one is chosen.
        level: parts (), at which it is chosen: the least noise that matters.
    """
    noise = normal(generators(range(len(held_out)), seed=0, stream=FITTING), held_out.shape[1:])
    x = level.mix(held_out.cpu().double(), noise.double())
    return max(
        _candidates(x0.cpu(), None if labels is None else labels.cpu()), key=lambda fit: _likelihood(fit, x, level)
    )


def _candidates(x0: Tensor, labels: Tensor | None) -> Sequence[GaussianMixture]:
    found: list[GaussianMixture] = [fitted_gaussian(x0, rank) for rank in RANKS if rank <= len(x0) // 4]
    if labels is not None and int(labels.unique(return_counts=True)[1].max()) >= 8 and len(labels.unique()) <= 32:
        found += [fitted_mixture(x0, labels, rank) for rank in RANKS[:3]]
    return found or [fitted_gaussian(x0)]


def _likelihood(target: GaussianMixture, x: Tensor, level: Level) -> float:
    return float(target.log_prob(x, level).mean())


def _components(flat: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (d,), factors (d, r) and the variance () of all other directions."""
    mean = flat.mean(0)
    if flat.shape[1] == 1:  # a single direction, which is no factor beside others
        return mean, flat.new_zeros(1, 1), flat.var().clamp_min(1e-12)
    rank = max(1, min(len(flat) // 4, rank, flat.shape[1] - 1))
    _, singular, directions = torch.linalg.svd(flat - mean, full_matrices=False)
    variances = singular.square() / (len(flat) - 1)
    rest = (variances.sum() - variances[:rank].sum()).clamp_min(0) / (flat.shape[1] - rank)
    rest = rest.clamp_min(1e-8 * variances.sum() / flat.shape[1] + 1e-12)
    return mean, directions[:rank].T * (variances[:rank] - rest).clamp_min(0).sqrt(), rest
