"""Estimators of the posterior p(t | x) over the noise level of a state; all share one interface, `Estimator`."""

from typing import TYPE_CHECKING, Any

from noiseshift.estimators.constant_pixel import ConstantPixel
from noiseshift.estimators.fokker_planck import FokkerPlanck
from noiseshift.estimators.instrument import Calibration, Instrument, Readings, calibrate
from noiseshift.estimators.network import Network
from noiseshift.estimators.parts import Parts, bands, frames, region
from noiseshift.estimators.posterior import Estimator, Posterior, time_grid
from noiseshift.estimators.residual import Residual
from noiseshift.estimators.score_mixture import ScoreMixture

if TYPE_CHECKING:
    from noiseshift.training.level_estimator import EstimatorTraining, train_estimator

__all__ = [
    "Calibration",
    "ConstantPixel",
    "Estimator",
    "EstimatorTraining",
    "FokkerPlanck",
    "Instrument",
    "Network",
    "Parts",
    "Posterior",
    "Readings",
    "Residual",
    "ScoreMixture",
    "bands",
    "calibrate",
    "frames",
    "region",
    "time_grid",
    "train_estimator",
]


def __getattr__(name: str) -> Any:
    if name in (
        "EstimatorTraining",
        "train_estimator",
    ):  # trainings are a layer above: imported when they are asked for
        from noiseshift.training import level_estimator

        return getattr(level_estimator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
