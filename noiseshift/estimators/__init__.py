"""Estimators of the posterior p(t | x) over the noise level of a state; all share one interface, `Estimator`."""

from noiseshift.estimators.posterior import Estimator, Posterior

__all__ = ["Estimator", "Posterior"]
