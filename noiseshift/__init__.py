"""noiseshift: measure, explain, correct and compare the noise shift of diffusion and flow models.

    import noiseshift as ns

t = 0 is data, t = 1 is noise; `x_t = alpha x_0 + sigma eps`; images are floats in [-1, 1], (B, C, H, W). Names are
imported when first used, so that `import noiseshift` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noiseshift import (
        approximation,
        checkpoints,
        data,
        estimators,
        evaluation,
        integrations,
        shift,
        targets,
        training,
    )
    from noiseshift.audit import Audit, audit
    from noiseshift.checkpoints import Card, Checkpoint, CheckpointError, load
    from noiseshift.correction import alternatives
    from noiseshift.correction.words import method
    from noiseshift.diffusion import guidance, models, samplers, schedules, solvers
    from noiseshift.diffusion.guidance import (
        autoguidance,
        classifier_free,
        classifier_noise_awareness,
        domain,
        noise_awareness,
    )
    from noiseshift.diffusion.models import Branch, Guidance, Guided, Model, Prediction
    from noiseshift.diffusion.samplers import (
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
    from noiseshift.diffusion.schedules import (
        Cosine,
        Discrete,
        Level,
        Linear,
        Schedule,
        SubVariancePreserving,
        VarianceExploding,
        VarianceExplodingSDE,
        VariancePreserving,
    )
    from noiseshift.diffusion.solvers import Solver, solver
    from noiseshift.diffusion.wrapping import wrap
    from noiseshift.estimators import Calibration, Estimator, Instrument, Posterior, calibrate
    from noiseshift.evaluation import evaluate
    from noiseshift.integrations import Recorder, adapters, observe
    from noiseshift.integrations.metric import NoiseShift
    from noiseshift.shift import PairedDifference, ShiftReport, calibrate_parts, measure, measure_parts, residual_noise
    from noiseshift.shift.preflight import Preflight, preflight
    from noiseshift.studies.approximate import Plan
    from noiseshift.studies.approximate import run as approximate
    from noiseshift.studies.compare import compare
    from noiseshift.studies.correct import run as correct
    from noiseshift.studies.folders import Run
    from noiseshift.studies.measure import run
    from noiseshift.studies.protocol import Protocol

_HOMES = {
    "noiseshift.audit": "Audit audit",
    "noiseshift.checkpoints": "Card Checkpoint CheckpointError load",
    "noiseshift.correction.words": "method",
    "noiseshift.diffusion.guidance": "autoguidance classifier_free classifier_noise_awareness domain noise_awareness",
    "noiseshift.diffusion.models": "Branch Guidance Guided Model Prediction",
    "noiseshift.diffusion.samplers": (
        "Step ancestral ddim edm_heun euler euler_maruyama from_diffusers heun karras_grid sample time_grid"
    ),
    "noiseshift.diffusion.schedules": "Cosine Discrete Level Linear Schedule SubVariancePreserving VarianceExploding "
    "VarianceExplodingSDE VariancePreserving",
    "noiseshift.diffusion.wrapping": "wrap",
    "noiseshift.estimators": "Calibration Estimator Instrument Posterior calibrate",
    "noiseshift.integrations": "Recorder observe",
    "noiseshift.integrations.metric": "NoiseShift",
    "noiseshift.shift.preflight": "Preflight preflight",
    "noiseshift.shift": "PairedDifference ShiftReport calibrate_parts measure measure_parts residual_noise",
    "noiseshift.evaluation": "evaluate",
    "noiseshift.studies.approximate": "Plan",
    "noiseshift.studies.compare": "compare",
    "noiseshift.studies.folders": "Run",
    "noiseshift.diffusion.solvers": "Solver solver",
    "noiseshift.studies.measure": "run",
    "noiseshift.studies.protocol": "Protocol",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
_COMMANDS = {"approximate": "noiseshift.studies.approximate", "correct": "noiseshift.studies.correct"}
"""Names of functions that are called `run` where they are written."""
_MODULES = {
    "alternatives": "correction.alternatives",
    "adapters": "integrations.adapters",
    "randomness": "diffusion.noise",  # as it was called in 0.1
    **{name: f"diffusion.{name}" for name in ("guidance", "models", "samplers", "schedules", "solvers")},
    **{
        name: name
        for name in (
            *("approximation", "checkpoints", "data", "estimators", "evaluation", "integrations", "shift", "targets"),
            "training",
        )
    },
}

__all__ = [
    "Audit",
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
    "Instrument",
    "Level",
    "Linear",
    "Model",
    "NoiseShift",
    "PairedDifference",
    "Plan",
    "Posterior",
    "Prediction",
    "Preflight",
    "Protocol",
    "Recorder",
    "Run",
    "Schedule",
    "ShiftReport",
    "Solver",
    "Step",
    "SubVariancePreserving",
    "VarianceExploding",
    "VarianceExplodingSDE",
    "VariancePreserving",
    "adapters",
    "alternatives",
    "ancestral",
    "approximate",
    "approximation",
    "audit",
    "autoguidance",
    "calibrate",
    "calibrate_parts",
    "checkpoints",
    "classifier_free",
    "classifier_noise_awareness",
    "compare",
    "correct",
    "data",
    "ddim",
    "domain",
    "edm_heun",
    "estimators",
    "euler",
    "euler_maruyama",
    "evaluate",
    "evaluation",
    "from_diffusers",
    "guidance",
    "heun",
    "integrations",
    "karras_grid",
    "load",
    "measure",
    "measure_parts",
    "method",
    "models",
    "noise_awareness",
    "observe",
    "preflight",
    "residual_noise",
    "run",
    "sample",
    "samplers",
    "schedules",
    "shift",
    "solver",
    "solvers",
    "targets",
    "time_grid",
    "training",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _COMMANDS:
        return importlib.import_module(_COMMANDS[name]).run
    if name in _MODULES:
        return importlib.import_module(f"noiseshift.{_MODULES[name]}")
    raise AttributeError(f"module 'noiseshift' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
