"""The main job from end to end: sample a checkpoint, read the shift of its states, run the controls.

A `Protocol` says everything that decides the numbers; `run` turns a checkpoint and a protocol into a `Run`. Batches are
kept as they finish when a folder is given, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from noiseshift import distributed
from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images, for_checkpoint
from noiseshift.diffusion.models import Guided, Model, wrap
from noiseshift.diffusion.noise import FITTING, INITIAL, SAMPLING, generator, generators, normal, torch_generator
from noiseshift.diffusion.samplers import Scheduled, Step, Update, per_sample_noise, sample
from noiseshift.estimators import ConstantPixel, FokkerPlanck, Residual, ScoreMixture
from noiseshift.estimators.instrument import Instrument, Instruments, calibrate
from noiseshift.estimators.posterior import Estimator, time_grid
from noiseshift.evaluation import Extractor, Features, extract
from noiseshift.shift import controls as control
from noiseshift.shift.reading import BatchReadings, assemble, read_run
from noiseshift.shift.report import ShiftReport
from noiseshift.studies.folders import Run, pictures_of, versions
from noiseshift.studies.protocol import ESTIMATORS, Protocol, fingerprint
from noiseshift.studies.shards import Shards

RESIDUAL_ROWS, SLOPE_ROWS = 128, 64
"""Real images that fit the residual's curve, and that give a calibration's slope."""

PICTURES = 64
"""How many samples a run keeps to be looked at."""

ASKING: Mapping[str, Callable[[Model], Estimator]] = {
    # Unpolished: the calibration averages a probe's error out, which a single state could not.
    "fokker-planck": lambda model: FokkerPlanck(model, time_grid(model.schedule, 24, 0.01, 0.99), polish=0),
    "score-mixture": lambda model: ScoreMixture(model, time_grid(model.schedule, 32, 0.01, 0.99)),
}
"""The estimators that ask the network itself at many levels."""

Progress = Callable[[str, int, int], None]
"""Called as (stage, done, total) while a run goes on."""


def run(
    checkpoint: Checkpoint,
    protocol: Protocol,
    data: Images,
    *,
    extractor: Extractor | None = None,
    shards: Shards | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Run:
    """Measure the noise shift of `checkpoint` under `protocol` against held-out real images `data`.

    Half of `data` calibrates, the other half serves the controls. With an `extractor` the run also keeps the features of
    its samples, from which distances are taken. Raises ValueError when the data do not fit the
    checkpoint or an estimator cannot be had.
    """
    if protocol.samples < 2:
        raise ValueError("a shift needs at least 2 samples: ask for more")
    started = time.time()
    protocol = protocol.bound(checkpoint)
    about = fingerprint(checkpoint, protocol, data, extractor)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    held_out = split(data, checkpoint)
    _warn_of_absent_classes(held_out[0], labels(checkpoint, range(protocol.samples)))
    model = guided(checkpoint, protocol)
    times = read_times(model, protocol)
    instruments = calibrated(checkpoint, protocol, held_out[0], times, progress)
    reports, pictures, features = _measure(model, checkpoint, instruments, protocol, extractor, shards, progress)
    found = None
    if protocol.controls:
        found = _controls(checkpoint, instruments, reports, held_out, protocol, progress)
    return Run(
        manifest=about | _cost_and_versions(checkpoint, protocol, data, time.time() - started),
        reports=reports,
        controls=found,
        pictures=pictures,
        labels=labels(checkpoint, range(len(pictures))),
        features=features,
    )


def draw(
    checkpoint: Checkpoint,
    protocol: Protocol,
    *,
    shards: Shards | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> tuple[Tensor, Tensor | None]:
    """The protocol's samples as uint8 pictures (N, C, H, W), and their classes."""
    protocol = protocol.bound(checkpoint)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    model = guided(checkpoint, protocol)

    def make(indices: range) -> BatchReadings:
        *_, last = sampler_run(model, checkpoint, protocol, indices)
        return BatchReadings(len(indices), last.x, labels(checkpoint, indices))

    batches = in_batches(protocol, make, shards, progress, "sampling")
    parts = [pictures_of(checkpoint.decode(batch.final)) for batch in batches]
    return torch.cat(parts), labels(checkpoint, range(protocol.samples))


def in_batches(
    protocol: Protocol, make: Callable[[range], BatchReadings], shards: Shards | None, progress: Progress, stage: str
) -> Iterator[BatchReadings]:
    """`make(indices)` of every batch, in order; with `shards` each is kept as it is finished, and not made again.

    Under torchrun each rank makes its share, and all ranks get all batches through the shards' folder; without one, each
    makes them all.
    """
    starts, (rank, world) = range(0, protocol.samples, protocol.batch), distributed.joined() if shards else (0, 1)
    for start in starts[rank::world]:
        progress(stage, start, protocol.samples)
        kept = shards.load(start) if shards else None
        if kept is None:
            kept = make(_indices(protocol, start))
            if shards:
                shards.save(start, kept)
        if world == 1:
            yield kept
    if world > 1 and shards is not None:
        distributed.wait()
        yield from (shards.whole(start) for start in starts)
        distributed.wait()  # nothing is cleared while another still reads
    progress(stage, protocol.samples, protocol.samples)


def guided(checkpoint: Checkpoint, protocol: Protocol) -> Model:
    """The checkpoint's model under the protocol's guidance. Raises ValueError when it lacks a branch."""
    return checkpoint.model if protocol.guidance is None else Guided(checkpoint.model, protocol.guidance)


def _indices(protocol: Protocol, start: int) -> range:
    return range(start, min(start + protocol.batch, protocol.samples))


def labels(checkpoint: Checkpoint, indices: range) -> Tensor | None:
    """Balanced classes: sample i is of class i mod classes, so that two runs differ in nothing but what is compared."""
    classes = checkpoint.classes
    return None if not classes else torch.tensor([i % classes for i in indices])


def initial_noise(model: Model, shape: tuple[int, ...], indices: range, seed: int) -> Tensor:
    """x at t = 1 for samples `indices`: sigma(1) eps, each row from its own generator."""
    eps = normal(generators(indices, seed=seed, stream=INITIAL), shape)
    return model.schedule(torch.tensor(1.0)).like(eps).sigma * eps


def sampler_run(
    model: Model,
    checkpoint: Checkpoint,
    protocol: Protocol,
    indices: range,
    *,
    update: Callable[[Update], Update] | None = None,
) -> Iterator[Step]:
    """The steps of one batch: samples `indices` of this protocol, whatever the batch size. `model` is the checkpoint's,
    guided or not, or another (the exact one) to be sent through the same times from the same noise; `update` may change
    the solver's own (not a scheduler's, which is left as it is)."""
    noise = per_sample_noise(generators(indices, seed=protocol.seed, stream=SAMPLING))
    x = initial_noise(model, checkpoint.shape, indices, protocol.seed).to(protocol.device)
    cond = labels(checkpoint, indices)
    cond = None if cond is None else cond.to(protocol.device)
    own = protocol.solver.update()
    if isinstance(own, Scheduled):
        if update is not None:
            raise ValueError("this method changes the sampler's update: use euler, heun, ddim, ddpm or em")
        return sample(model, x, None, update=own, cond=cond, noise=noise)
    return sample(
        model, x, protocol.solver.grid(checkpoint.model), update=update(own) if update else own, cond=cond, noise=noise
    )


def calls_a_sample(checkpoint: Checkpoint, protocol: Protocol) -> int:
    """NFE: the branches that every evaluation of one trajectory asks for, by walking a model that knows nothing."""
    walker = Walker(checkpoint.model)
    *_, _last = sampler_run(walker.model, checkpoint, replace(protocol, device="cpu"), range(1))
    weights = protocol.guidance.weights if protocol.guidance else None
    return sum(len(weights(t)) if weights else 1 for t in walker.times)


class Walker:
    """A model that knows nothing, costs nothing, and remembers what it was asked."""

    def __init__(self, model: Model):
        self.times: list[Tensor] = []
        self.rows = 0
        self.model = wrap(self._answer, model.schedule, predicts="x0", blind=self._blind, levels=_levels(model))

    def _answer(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        self.times.append(t.flatten()[0])
        return self._blind(x, cond)

    def _blind(self, x: Tensor, cond: Tensor | None) -> Tensor:
        self.rows += len(x)
        return 0.5 * x


def _levels(model: Model) -> Tensor | None:
    return getattr(model, "levels", None)


def read_times(model: Model, protocol: Protocol) -> Tensor:
    """Which of the sampler's told times are read: `points` of them, even in step index, strictly between 0 and 1."""
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
    """The estimators that the protocol names, for this checkpoint, fitted on `data` where they need it."""
    schedule = checkpoint.model.schedule
    makers: dict[str, Callable[[], Estimator]] = {
        "network": checkpoint.level_estimator,
        "residual": lambda: _residual(checkpoint, data, times, protocol),
        "constant-pixel": lambda: ConstantPixel(data.floats, schedule),
        **{name: functools.partial(maker, checkpoint.model) for name, maker in ASKING.items()},
    }
    return {name: makers[name]() for name in protocol.estimators}


def available(checkpoint: Checkpoint, data: Images, wanted: Sequence[str] = ESTIMATORS[:3]) -> dict[str, int | None]:
    """Those of the `wanted` estimators that this checkpoint and these images allow, each reading all samples."""
    found = dict.fromkeys(wanted)
    if checkpoint.estimator is None:
        found.pop("network", None)
    # Pictures of another size are for a latent model, whose states have no constant coordinates.
    if tuple(data.pixels.shape[1:]) != tuple(checkpoint.shape):
        found.pop("constant-pixel", None)
    if "constant-pixel" in found:
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
    """Images as floats, and their classes, on a device."""
    return data.floats.to(device), None if data.labels is None else data.labels.to(device)


def split(data: Images, checkpoint: Checkpoint) -> tuple[Images, Images]:
    """Two halves with the same mix of classes, each with its classes in turn: one calibrates, the other tests. Pictures
    for a latent checkpoint come out encoded; labels that the checkpoint cannot be told are left out."""
    data = checkpoint.encode(for_checkpoint(data, checkpoint.classes, checkpoint.card.class_names))
    if tuple(data.pixels.shape[1:]) != tuple(checkpoint.shape):
        raise ValueError(
            f"the images are {tuple(data.pixels.shape[1:])}, the checkpoint works on {tuple(checkpoint.shape)}: "
            "give --data of its own size and channels"
        )
    if len(data) < 8:
        raise ValueError(f"{len(data)} held-out images are too few to calibrate on: give at least 8, better 1,000")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    classes = torch.zeros_like(order) if data.labels is None else data.labels[order]
    # The how-manieth of its class each row is; even ones to one half, odd ones to the other.
    rank = torch.zeros_like(order)
    for label in classes.unique():
        rank[classes == label] = torch.arange(int((classes == label).sum()))
    turns = torch.argsort(rank * (int(classes.max()) + 1) + classes)
    if not checkpoint.classes:
        data = replace(data, labels=None)
    first, second = (turns[rank[turns] % 2 == half] for half in (0, 1))
    return data[order[first]], data[order[second]]


def _warn_of_absent_classes(data: Images, sampled: Tensor | None) -> None:
    """On the log, where most of what is sampled is of classes that the real images do not show."""
    if sampled is None or data.labels is None:
        return
    drawn = sampled.unique()
    shown = int(torch.isin(drawn, data.labels).sum())
    if shown < len(drawn) / 2:
        logging.getLogger("noiseshift").warning(
            "only %d of the %d classes that are sampled are among --data's labels: what is read as a shift may be the other "
            "classes; give real images of all",
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
    """The protocol's estimators, calibrated on `data` at the times that are read."""
    instruments = {}
    estimators = build(checkpoint, protocol, data, times)
    for done, (name, estimator) in enumerate(estimators.items()):
        progress("calibrating", done, len(estimators))
        limit = protocol.estimators[name]
        x0, cond = on_device(protocol.device, data[: limit or protocol.calibration_rows])
        instruments[name] = calibrate(
            estimator, x0, times, cond=cond, seed=protocol.seed, slope_rows=SLOPE_ROWS, limit=limit
        )
    progress("calibrating", len(estimators), len(estimators))
    return instruments


def _measure(
    model: Model,
    checkpoint: Checkpoint,
    instruments: Instruments,
    protocol: Protocol,
    extractor: Extractor | None,
    shards: Shards | None,
    progress: Progress,
) -> tuple[dict[str, ShiftReport], Tensor, Features | None]:
    """Sample and read all batches; also the first 64 pictures, and the features of all where there is an extractor."""
    every = _all_labels(checkpoint, protocol)

    def make(indices: range) -> BatchReadings:
        steps = sampler_run(model, checkpoint, protocol, indices)
        batch = read_run(steps, instruments, cond=every, start=indices.start, seed=protocol.seed)
        return batch if extractor else batch.keeping(PICTURES - indices.start)

    batches: list[BatchReadings] = []
    first: list[Tensor] = []
    features: list[Features] = []
    for batch in in_batches(protocol, make, shards, progress, "sampling"):
        batches.append(batch.keeping(0))
        if not len(batch.final):
            continue
        pictures = pictures_of(checkpoint.decode(batch.final))
        first.append(pictures[: max(0, PICTURES - sum(map(len, first)))])
        if extractor:
            features.append(extract(pictures, extractor))
    reports = assemble(batches, instruments)
    return reports, torch.cat(first), Features.concatenate(features) if features else None


def _all_labels(checkpoint: Checkpoint, protocol: Protocol) -> Tensor | None:
    every = labels(checkpoint, range(protocol.samples))
    return None if every is None else every.to(protocol.device)


def _controls(
    checkpoint: Checkpoint,
    instruments: Instruments,
    reports: Mapping[str, ShiftReport],
    held_out: tuple[Images, Images],
    protocol: Protocol,
    progress: Progress,
) -> control.Controls:
    rows = held_out[1][: protocol.calibration_rows]
    progress("controls", 0, 3)
    x0, cond = on_device(protocol.device, rows)
    null, null_check = control.null_control(instruments, x0, cond, seed=protocol.seed)
    progress("controls", 1, 3)
    level, level_check = control.level_control(instruments, x0, cond, seed=protocol.seed)
    progress("controls", 2, 3)
    solver = _solver_reports(checkpoint, instruments, held_out, protocol, progress)
    checks = (null_check, level_check, control.solver_check(reports, solver), control.content_check(reports))
    return control.Controls(checks, null, level, solver)


def _solver_reports(
    checkpoint: Checkpoint,
    instruments: Instruments,
    held_out: tuple[Images, Images],
    protocol: Protocol,
    progress: Progress,
) -> dict[str, ShiftReport]:
    """The exact denoiser of the held-out images, unguided, through the same solver from the same noise and classes."""
    exact = exact_denoiser(checkpoint, held_out)
    every = _all_labels(checkpoint, protocol)
    batches = []
    for start in range(0, protocol.samples, protocol.batch):
        progress("exact model", start, protocol.samples)
        # Estimators that use a prediction want the checkpoint's, not the exact model's.
        bare = (
            replace(step, prediction=None)
            for step in sampler_run(exact, checkpoint, protocol, _indices(protocol, start))
        )
        batch = read_run(bare, instruments, cond=every, start=start, content=False, seed=protocol.seed)
        batches.append(batch.keeping(0))
    return assemble(batches, instruments)


def exact_denoiser(checkpoint: Checkpoint, held_out: tuple[Images, Images]) -> Model:
    """What a perfect network would say if the held-out images were all the data there is."""
    from noiseshift.targets import Empirical

    images = torch.cat([part.floats for part in held_out])
    labels = [part.labels for part in held_out if part.labels is not None]
    return Empirical(images, torch.cat(labels) if labels else None).model(checkpoint.model.schedule)


def _cost_and_versions(checkpoint: Checkpoint, protocol: Protocol, data: Images, seconds: float) -> dict[str, object]:
    """What a manifest says beside the fingerprint."""
    return {
        "nfe": calls_a_sample(checkpoint, protocol),
        "noise": "one Philox generator a sample index; classes balanced, sample i of class i mod classes",
        "versions": versions(),
        "data read as": data.about,
        "seconds": round(seconds, 1),
    }
