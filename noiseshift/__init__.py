"""noiseshift: measure, explain and correct the noise shift of diffusion and flow models.

    import noiseshift as ns

t = 0 is data, t = 1 is noise; `x_t = alpha x_0 + sigma eps`; images are floats in [-1, 1], (B, C, H, W). Names are
imported when first used, so that `import noiseshift` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noiseshift import (
        adapters,
        approximation,
        data,
        estimators,
        evaluation,
        guidance,
        models,
        relatives,
        runs,
        samplers,
        schedules,
        targets,
        training,
    )
    from noiseshift.checkpoints import Card, Checkpoint, CheckpointError, load
    from noiseshift.estimators import Calibration, Estimator, Posterior, calibrate
    from noiseshift.guidance import autoguidance, classifier_free, classifier_noise_awareness, domain, noise_awareness
    from noiseshift.metric import NoiseShift
    from noiseshift.models import (
        Branch,
        Guidance,
        Guided,
        Model,
        Prediction,
        wrap,
    )
    from noiseshift.observers import Recorder, observe
    from noiseshift.protocol import Protocol, Solver, run
    from noiseshift.runs import Run
    from noiseshift.samplers import (
        Step,
        ancestral,
        ddim,
        edm_heun,
        euler,
        euler_maruyama,
        from_diffusers,
        heun,
        karras_grid,
        sample,
        time_grid,
    )
    from noiseshift.schedules import (
        Cosine,
        Discrete,
        Level,
        Linear,
        Schedule,
        VarianceExploding,
        VariancePreserving,
    )
    from noiseshift.shift import PairedDifference, ShiftReport, measure

_HOMES = {
    "noiseshift.checkpoints": "Card Checkpoint CheckpointError load",
    "noiseshift.estimators": "Calibration Estimator Posterior calibrate",
    "noiseshift.guidance": "autoguidance classifier_free classifier_noise_awareness domain noise_awareness",
    "noiseshift.models": "Branch Guidance Guided Model Prediction wrap",
    "noiseshift.metric": "NoiseShift",
    "noiseshift.observers": "Recorder observe",
    "noiseshift.protocol": "Protocol Solver run",
    "noiseshift.runs": "Run",
    "noiseshift.samplers": "Step ancestral ddim edm_heun euler euler_maruyama from_diffusers heun karras_grid sample time_grid",
    "noiseshift.schedules": "Cosine Discrete Level Linear Schedule VarianceExploding VariancePreserving",
    "noiseshift.shift": "PairedDifference ShiftReport measure",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
_MODULES = (
    *("adapters", "approximation", "data", "estimators", "evaluation", "guidance", "models", "relatives", "runs"),
    *("samplers", "schedules", "targets", "training"),
)

__all__ = [
    "Branch",
    "Calibration",
    "Card",
    "Checkpoint",
    "CheckpointError",
    "Cosine",
    "Discrete",
    "Estimator",
    "Guidance",
    "Guided",
    "Level",
    "Linear",
    "Model",
    "NoiseShift",
    "PairedDifference",
    "Posterior",
    "Prediction",
    "Protocol",
    "Recorder",
    "Run",
    "Schedule",
    "ShiftReport",
    "Solver",
    "Step",
    "VarianceExploding",
    "VariancePreserving",
    "adapters",
    "ancestral",
    "approximation",
    "autoguidance",
    "calibrate",
    "classifier_free",
    "classifier_noise_awareness",
    "data",
    "ddim",
    "domain",
    "edm_heun",
    "estimators",
    "euler",
    "euler_maruyama",
    "evaluation",
    "from_diffusers",
    "guidance",
    "heun",
    "karras_grid",
    "load",
    "measure",
    "models",
    "noise_awareness",
    "observe",
    "relatives",
    "run",
    "runs",
    "sample",
    "samplers",
    "schedules",
    "targets",
    "time_grid",
    "training",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"noiseshift.{name}")
    raise AttributeError(f"module 'noiseshift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
