"""From real images to instruments: the split into halves, the estimators a protocol names, their calibration."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images, for_checkpoint, misfit
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.noise import FITTING, generator, torch_generator
from noiseshift.diffusion.samplers import Scheduled
from noiseshift.estimators import ConstantPixel, FokkerPlanck, Residual, ScoreMixture
from noiseshift.estimators.instrument import Instrument, calibrate
from noiseshift.estimators.parts import Parts
from noiseshift.estimators.posterior import Estimator, time_grid
from noiseshift.shift.parts import PartCalibration, calibrate_parts
from noiseshift.studies.kept_calibration import kept_or_made
from noiseshift.studies.protocol import ESTIMATORS, Protocol
from noiseshift.studies.sampling import Progress

RESIDUAL_ROWS, SLOPE_ROWS = 128, 64
"""Real images that fit the residual's curve, and that give a calibration's slope."""


ASKING: Mapping[str, Callable[[Model], Estimator]] = {
    "fokker-planck": lambda model: FokkerPlanck(model, time_grid(model.schedule, 24, 0.01, 0.99)),
    "score-mixture": lambda model: ScoreMixture(model, time_grid(model.schedule, 32, 0.01, 0.99)),
}
"""The estimators that evaluate the network itself at many levels."""


def read_times(model: Model, protocol: Protocol) -> Tensor:
    """Which of the sampler's conditioning times are read: `points` of them, even in step index, strictly between 0 and 1.

    Args:
        model: decides the sampler's times.
        protocol: with its solver and `points`.

    Returns:
        (K,) float64, falling.
    """
    grid = protocol.solver.grid(model)
    if grid is None:
        update = protocol.solver.update()
        assert isinstance(update, Scheduled)  # only a scheduler brings its own times
        grid = update.times(model.schedule)
    inside = grid.double()[(grid > 0) & (grid < 1)]
    if not len(inside):
        raise ValueError(
            f"{protocol.solver.name} passes through no level between noise and data: take at least 2 steps"
        )
    keep = np.unique(np.linspace(0, len(inside) - 1, min(protocol.points, len(inside))).round().astype(int))
    return inside[torch.from_numpy(keep)]


def build(checkpoint: Checkpoint, protocol: Protocol, data: Images, times: Tensor) -> dict[str, Estimator]:
    """The estimators that the protocol names.

    Args:
        checkpoint: whose network they use.
        protocol: names them.
        data: real images, on which they are fitted where they need it.
        times: (K,) the conditioning times that are read.

    Returns:
        Estimators by name.
    """
    return {name: _estimator(checkpoint, protocol, data, times, name) for name in protocol.estimators}


def _estimator(checkpoint: Checkpoint, protocol: Protocol, data: Images, times: Tensor, name: str) -> Estimator:
    schedule = checkpoint.model.schedule
    makers: dict[str, Callable[[], Estimator]] = {
        "network": checkpoint.level_estimator,
        "residual": lambda: _residual(checkpoint, data, times, protocol),
        "constant-pixel": lambda: ConstantPixel(data.floats, schedule),
        **{each: functools.partial(maker, checkpoint.model) for each, maker in ASKING.items()},
    }
    return makers[name]()


def available(
    checkpoint: Checkpoint, data: Images | None, wanted: Sequence[str] = ESTIMATORS[:3]
) -> dict[str, int | None]:
    """Those of the `wanted` estimators that this checkpoint and these images allow, each reading all samples.

    Args:
        checkpoint: may bring a level estimator.
        data: real images, or None.
        wanted: names of estimators.

    Returns:
        A limit of None by name; "residual" where nothing else is left.
    """
    found = dict.fromkeys(wanted)
    if checkpoint.estimator is None:
        found.pop("network", None)
    # Pictures of another size are for a latent model, whose states have no constant coordinates.
    if data is None or tuple(data.pixels.shape[1:]) != tuple(checkpoint.shape):
        found.pop("constant-pixel", None)
    if data is not None and "constant-pixel" in found:
        try:
            ConstantPixel(split(data, checkpoint)[0].floats, checkpoint.model.schedule)
        except ValueError:
            del found["constant-pixel"]
    return found or {"residual": None}


def _residual(checkpoint: Checkpoint, data: Images, times: Tensor, protocol: Protocol) -> Residual:
    source = torch_generator(generator(0, seed=protocol.seed, stream=FITTING))
    x0, cond = on_device(protocol.device, data[:RESIDUAL_ROWS])
    return Residual(checkpoint.model, x0, times, generator=source, cond=cond)


def on_device(device: str, data: Images) -> tuple[Tensor, Tensor | None]:
    """Images as floats, and their classes, on a device.

    Args:
        device: such as "cuda".
        data: a set of images.
    """
    return data.floats.to(device), None if data.labels is None else data.labels.to(device)


def require_fitting(data: Images, checkpoint: Checkpoint) -> None:
    """Raise ValueError where images cannot be measured on, before any work: what `split` raises, but for the size of pictures
    that go through an autoencoder, which says it itself.

    Args:
        data: real images.
        checkpoint: says the shape of states and the classes.
    """
    found = for_checkpoint(data, checkpoint.classes, checkpoint.card.class_names)
    if checkpoint.autoencoder is None:
        found = checkpoint.encode(found)
        _require_shape(found, checkpoint)
    _require_enough(found)


def _require_shape(data: Images, checkpoint: Checkpoint) -> None:
    if wrong := misfit(data.pixels.shape[1:], checkpoint.shape):
        raise ValueError(wrong.replace("give data", "give --data"))


def _require_enough(data: Images) -> None:
    if len(data) < 8:
        raise ValueError(f"{len(data)} held-out states are too few to calibrate on: give at least 8, better 1,000")


def split(data: Images, checkpoint: Checkpoint) -> tuple[Images, Images]:
    """Two halves with the same mix of classes, each with its classes in turn: one calibrates, the other tests. Pictures
    for a latent checkpoint come out encoded; labels that the checkpoint does not take are left out.

    Args:
        data: real images.
        checkpoint: says the shape of states and the classes.

    Raises:
        ValueError: images of another size or number of channels, or fewer than 8.
    """
    data = checkpoint.encode(for_checkpoint(data, checkpoint.classes, checkpoint.card.class_names))
    _require_shape(data, checkpoint)
    _require_enough(data)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    classes = torch.zeros_like(order) if data.labels is None else data.labels[order]
    # The rank of each row within its class; even ones to one half, odd ones to the other.
    rank = torch.zeros_like(order)
    for label in classes.unique():
        rank[classes == label] = torch.arange(int((classes == label).sum()))
    turns = torch.argsort(rank * (int(classes.max()) + 1) + classes)
    if not checkpoint.classes:
        data = replace(data, labels=None)
    first, second = (turns[rank[turns] % 2 == half] for half in (0, 1))
    return data[order[first]], data[order[second]]


def warn_of_absent_classes(data: Images, sampled: Tensor | None) -> None:
    """On the log, where most of what is sampled is of classes that the real images do not show.

    Args:
        data: real images.
        sampled: (N,) classes of the run, or None.
    """
    if sampled is None or data.labels is None:
        return
    drawn = sampled.unique()
    shown = int(torch.isin(drawn, data.labels).sum())
    if shown < len(drawn) / 2:
        logging.getLogger("noiseshift").warning(
            "only %d of the %d classes that are sampled are among --data's labels: what is read as a shift may be the other "
            "classes; give real data of all",
            shown,
            len(drawn),
        )


def calibrated(
    checkpoint: Checkpoint,
    protocol: Protocol,
    data: Images,
    times: Tensor,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Instrument]:
    """The protocol's estimators, calibrated: instruments by name. See `calibrated_with_parts`.

    Args:
        checkpoint: whose network they use.
        protocol: names them, and says on how many images they are calibrated.
        data: real images, held out from training.
        times: (K,) the conditioning times that are read.
        progress: called as (stage, done, total).
    """
    return calibrated_with_parts(checkpoint, protocol, None, data, times, progress)[0]


def calibrated_with_parts(
    checkpoint: Checkpoint,
    protocol: Protocol,
    parts: Parts | None,
    data: Images,
    times: Tensor,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[dict[str, Instrument], PartCalibration | None]:
    """The protocol's estimators, calibrated, and what is read off the residual's predictions beside it.

    Args:
        checkpoint: whose network they use.
        protocol: names them, and says on how many images they are calibrated.
        parts: of the states, that are read too; or None.
        data: real images, held out from training.
        times: (K,) the conditioning times that are read.
        progress: called as (stage, done, total).

    Returns:
        Instruments by name, and the parts' calibration or None.
    """
    instruments: dict[str, Instrument] = {}
    by_part: PartCalibration | None = None
    for done, name in enumerate(protocol.estimators):
        progress("calibrating", done, len(protocol.estimators))
        if parts is not None and name == "residual":
            instruments[name], by_part = _calibrated_parts(checkpoint, protocol, data, times, parts)
        else:
            made = functools.partial(_calibrated, checkpoint, protocol, data, times, name)
            instruments[name] = kept_or_made(checkpoint, protocol, data, times, name, made)
    progress("calibrating", len(protocol.estimators), len(protocol.estimators))
    return instruments, by_part


def _calibrated(checkpoint: Checkpoint, protocol: Protocol, data: Images, times: Tensor, name: str) -> Instrument:
    limit = protocol.estimators[name]
    estimator = _estimator(checkpoint, protocol, data, times, name)
    x0, cond = on_device(protocol.device, data[: limit or protocol.rows])
    return calibrate(estimator, x0, times, cond=cond, seed=protocol.seed, slope_rows=SLOPE_ROWS, limit=limit)


def _calibrated_parts(
    checkpoint: Checkpoint, protocol: Protocol, data: Images, times: Tensor, parts: Parts
) -> tuple[Instrument, PartCalibration]:
    limit = protocol.estimators["residual"]
    estimator = _residual(checkpoint, data, times, protocol)
    x0, cond = on_device(protocol.device, data[: limit or protocol.rows])
    return calibrate_parts(
        estimator, parts, x0, times, cond=cond, seed=protocol.seed, slope_rows=SLOPE_ROWS, limit=limit
    )
