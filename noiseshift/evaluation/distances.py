"""Distances between sets of features, as single numbers.

FD (Heusel et al., arXiv 1706.08500), IS (Salimans et al., 1606.03498), precision and recall (Kynkäänniemi et al.,
1904.06991). KID is in `kernel`. Statistics are float64; nothing depends on the order of the rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from noiseshift.evaluation.features import Features, Moments

Array = np.ndarray

NEIGHBOURS = 3
"""A real image's ball reaches to its neighbour of this rank."""

__all__ = [
    "NEIGHBOURS",
    "Features",
    "Moments",
    "density_coverage",
    "frechet_distance",
    "inception_score",
    "precision_recall",
]


def frechet_distance(a: Moments, b: Moments) -> float:
    """‖m_a - m_b‖² + tr(A + B - 2 (B^½ A B^½)^½). Raises ValueError when the features are not of one length.

    Args:
        a: of samples.
        b: of the reference, with features of the same length.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"features of {len(a.mean)} and {len(b.mean)} numbers cannot be compared: use one extractor for both"
        )
    cross = np.sqrt(_eigenvalues(a, b).clip(0)).sum()
    return float(np.square(a.mean - b.mean).sum() + np.trace(a.cov) + np.trace(b.cov) - 2 * cross)


def _eigenvalues(a: Moments, b: Moments) -> Array:
    """(d,) those of A B. With B = L Lᵀ they are those of Lᵀ A L, a quarter of the work of B^½ A B^½; that is for a B whose
    features are too few or too dependent to have an L."""
    from scipy.linalg import lapack

    if b.factor is None:
        return np.linalg.eigvalsh(b.root @ a.cov @ b.root)
    between, failed = lapack.dsygst(a.cov, b.factor, itype=2, lower=1)
    assert not failed
    return np.linalg.eigvalsh(between, UPLO="L")


def inception_score(probs: Array) -> float:
    """exp E KL(p(y|x) ‖ p(y)) of the whole set, (N, K) class probabilities.

    Papers print the mean over ten parts of 5,000, which depends on the order of the rows.
    Raises ValueError for numbers that are no probabilities.
    """
    require_probabilities(probs)
    return float(np.exp(entropy(probs.mean(0)) - entropy(probs).mean()))


def require_probabilities(probs: Array) -> None:
    """Raise ValueError unless every row is a distribution over at least two classes."""
    if probs.ndim != 2 or probs.shape[1] < 2 or not np.isfinite(probs).all() or probs.min() < -1e-6:
        raise ValueError(f"probabilities of shape {probs.shape} must be (N, K), finite and not negative")
    if np.abs(probs.sum(1) - 1).max() > 1e-3:
        raise ValueError("the probabilities of an image must add up to 1: give a softmax, not logits")


def entropy(probs: Array) -> Array:
    """-Σ p log p over the last axis, 0 log 0 = 0."""
    terms = np.zeros_like(probs)
    np.log(probs, out=terms, where=probs > 0)
    return -(probs * terms).sum(-1)


def precision_recall(real: Array, fake: Array, *, neighbours: int = NEIGHBOURS) -> tuple[Array, Array]:
    """Improved precision and recall, sample by sample (Kynkäänniemi et al., arXiv 1904.06991).

    Args:
        real: (M, d) features of real images.
        fake: (N, d) features of generated ones.
        neighbours: a point's ball reaches to its neighbour of this rank in its own set.

    Returns:
        (N,) whether each generated sample lies in a real one's ball, and (M,) the reverse.
    """
    real_t, fake_t = torch.from_numpy(real), torch.from_numpy(fake)
    return _covered(fake_t, real_t, neighbours), _covered(real_t, fake_t, neighbours)


def density_coverage(real: Array, fake: Array, *, neighbours: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al., arXiv 2002.09797, eqs. 3 and 5), which outliers among the real images move less.

    Args:
        real: (M, d) features of real images.
        fake: (N, d) features of generated ones.
        neighbours: k: a real image's ball reaches to its neighbour of this rank among the real ones.

    Returns:
        density, how many real balls hold a generated sample, over k (1 where both are alike, and not bounded by it), and
        coverage, the share of real balls that hold any.

    Raises:
        ValueError: for fewer than k + 1 real samples.
    """
    if len(real) <= neighbours:
        raise ValueError(f"{len(real)} real samples have no {neighbours}th neighbour: give at least {neighbours + 1}")
    real_t, fake_t = torch.from_numpy(real), torch.from_numpy(fake)
    radii = torch.cat([torch.cdist(part, real_t).kthvalue(neighbours + 1, dim=1).values for part in real_t.split(512)])
    held = torch.zeros(len(real), dtype=torch.int64)
    for part in fake_t.split(512):
        held += (torch.cdist(part, real_t) < radii).sum(0)
    return float(held.sum()) / (neighbours * len(fake)), float((held > 0).double().mean())


def _covered(points: Tensor, centres: Tensor, neighbours: int) -> Array:
    """(N,) whether a point is within reach of any centre, in blocks that bound memory."""
    if len(centres) <= neighbours:
        raise ValueError(f"{len(centres)} samples have no {neighbours}th neighbour: give at least {neighbours + 1}")
    radii = torch.cat(
        [torch.cdist(part, centres).kthvalue(neighbours + 1, dim=1).values for part in centres.split(512)]
    )
    return torch.cat([(torch.cdist(part, centres) <= radii).any(1) for part in points.split(512)]).numpy()
