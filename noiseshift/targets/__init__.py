"""Exact models: distributions whose denoiser, posterior and marginals are known in closed form."""

from noiseshift.targets.target import (
    Empirical,
    ExactModel,
    ExactPosterior,
    Gaussian,
    GaussianMixture,
    LowRank,
    Self,
    Target,
)

__all__ = ["Empirical", "ExactModel", "ExactPosterior", "Gaussian", "GaussianMixture", "LowRank", "Self", "Target"]
