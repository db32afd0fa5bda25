"""Estimators of the posterior p(t | x) over the noise level of a state; all share one interface, `Estimator`."""

from noiseshift.estimators.constant_pixel import ConstantPixel
from noiseshift.estimators.fokker_planck import FokkerPlanck, FokkerPlanckMode
from noiseshift.estimators.instrument import Calibration, Instrument, Readings, calibrate
from noiseshift.estimators.network import EstimatorTraining, Network, train_estimator
from noiseshift.estimators.posterior import Estimator, Posterior, time_grid
from noiseshift.estimators.residual import Residual
from noiseshift.estimators.score_mixture import ScoreMixture

__all__ = [
    "Calibration",
    "ConstantPixel",
    "Estimator",
    "EstimatorTraining",
    "FokkerPlanck",
    "FokkerPlanckMode",
    "Instrument",
    "Network",
    "Posterior",
    "Readings",
    "Residual",
    "ScoreMixture",
    "calibrate",
    "time_grid",
    "train_estimator",
]
