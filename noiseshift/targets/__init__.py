"""Exact models: distributions whose denoiser, posterior and marginals are known in closed form."""

from noiseshift.targets.empirical import Empirical
from noiseshift.targets.gaussian import Gaussian, GaussianMixture, LowRank
from noiseshift.targets.target import ExactModel, ExactPosterior, Self, Target

__all__ = ["Empirical", "ExactModel", "ExactPosterior", "Gaussian", "GaussianMixture", "LowRank", "Self", "Target"]
