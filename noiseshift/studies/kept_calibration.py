"""Calibrations and checks that were made before for the same checkpoint, data and levels: read from the cache folder.
Calibrations also from those that ship with the package; checks never do, since they are there to doubt what is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.diffusion import schedules
from noiseshift.estimators import Network, Residual
from noiseshift.estimators.instrument import Calibration, Instrument, Readings
from noiseshift.networks.model import NetworkModel
from noiseshift.shift.preflight import SAMPLES, Preflight
from noiseshift.studies import kept, shipped
from noiseshift.studies.protocol import Protocol, as_it_reads, describe_checkpoint

KEPT = ("network", "residual")
"""Estimators whose calibrations are kept: the others' are cheap, or too dear to be made twice by chance."""


def comparable(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is one of ours or of a library's, which its weights and settings identify."""
    return isinstance(checkpoint.model, NetworkModel)


def kept_or_made(
    checkpoint: Checkpoint,
    protocol: Protocol,
    data: Images,
    times: Tensor,
    name: str,
    made: Callable[[], Instrument],
) -> Instrument:
    """The instrument `name` as the cache or the package has it, or as `made` gives it, which is then kept.

    Args:
        checkpoint: whose network the estimator uses.
        protocol: says on how many images it is calibrated, and with which noise.
        data: the real images, all that are for it.
        times: (K,) the conditioning times that are read.
        name: of the estimator.
        made: calibrates it.
    """
    about = about_calibration(checkpoint, protocol, data, times, name)
    if about is None:
        return made()
    limit = protocol.estimators[name]
    found = kept.load("calibration", about)
    if found is not None:
        return _instrument(checkpoint, times, name, found, limit)
    ready = shipped.load("calibration", about)
    if ready is not None:
        instrument = _instrument(checkpoint, times, name, ready, limit)
        if shipped.agrees(instrument, data, protocol.device, protocol.seed):
            return instrument
    instrument = made()
    kept.save("calibration", about, _arrays(instrument))
    return instrument


def kept_or_checked(
    checkpoint: Checkpoint, data: Images | None, device: str, samples: int, made: Callable[[], Preflight]
) -> Preflight:
    """The checks before a measurement as the cache has them, or as `made` makes them.

    Args:
        checkpoint: what is checked.
        data: real images; without any, nothing is kept.
        device: where the network computes.
        samples: how many are drawn.
        made: makes the checks.
    """
    about = about_checks(checkpoint, data, device, samples)
    if about is None:
        return made()
    found = kept.load("preflight", about)
    if found is not None:
        return Preflight.from_dict(json.loads(str(found["found"])))
    checks = made()
    kept.save("preflight", about, {"found": np.array(json.dumps(checks.as_dict()))})
    return checks


def about_calibration(
    checkpoint: Checkpoint, protocol: Protocol, data: Images, times: Tensor, name: str
) -> dict[str, Any] | None:
    """Everything that decides a calibration; None where none is kept.

    Args:
        checkpoint: whose network the estimator uses.
        protocol: says on how many images it is calibrated, and with which noise.
        data: the real images, all that are for it.
        times: (K,) the conditioning times that are read.
        name: of the estimator.
    """
    if name not in KEPT or not comparable(checkpoint) or kept.folder() is None:
        return None
    about = _described(checkpoint, data) | {"device": torch.device(protocol.device).type}
    about |= {"estimator": name, "times": times.double().tolist()}
    return about | {"seed": protocol.seed, "rows": protocol.rows, "limit": protocol.estimators[name]}


def about_checks(checkpoint: Checkpoint, data: Images | None, device: str, samples: int) -> dict[str, Any] | None:
    """Everything that decides the checks; None where none are kept.

    Args:
        checkpoint: what is checked.
        data: real images, or None.
        device: where the network computes.
        samples: how many are drawn.
    """
    if data is None or not comparable(checkpoint) or kept.folder() is None:
        return None
    return {**_described(checkpoint, data), "device": torch.device(device).type, "samples": min(samples, SAMPLES)}


def _described(checkpoint: Checkpoint, data: Images) -> dict[str, Any]:
    """Everything of a checkpoint and of images that decides an answer; the precision is the model's."""
    assert isinstance(checkpoint.model, NetworkModel)
    return {
        "checkpoint": describe_checkpoint(as_it_reads(checkpoint)),
        "schedule": schedules.describe(checkpoint.model.schedule),
        "shape": list(checkpoint.shape),
        "precision": checkpoint.model.precision,
        "data": [data.sha256, data.unit, None if data.names is None else list(data.names)],
    }


def _arrays(instrument: Instrument) -> dict[str, np.ndarray]:
    found = instrument.calibration
    real = instrument.calibration.real
    arrays = {"times": found.times, "grid": found.grid, "slopes": found.slopes, "slopes_log_snr": found.slopes_log_snr}
    arrays |= {"t": real.t, "log_snr": real.log_snr, "density": real.density}
    if isinstance(instrument.estimator, Residual):
        arrays["fit"] = instrument.estimator.fit.numpy()
    return arrays


def _instrument(
    checkpoint: Checkpoint, times: Tensor, name: str, arrays: dict[str, np.ndarray], limit: int | None
) -> Instrument:
    estimator: Residual | Network
    if name == "residual":
        estimator = Residual.of_fit(checkpoint.model, times, torch.from_numpy(arrays["fit"]))
    else:
        estimator = checkpoint.level_estimator()
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    real = Readings(arrays["t"], arrays["log_snr"], arrays["density"])
    calibration = Calibration(arrays["times"], arrays["grid"], real, arrays["slopes"], arrays["slopes_log_snr"])
    return Instrument(estimator, calibration, limit)
