"""The samples of a protocol: sample i depends on the seed and on i alone, whatever the batch, the device or the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from noiseshift import distributed
from noiseshift.checkpoints import Checkpoint
from noiseshift.diffusion.models import Guided, Model
from noiseshift.diffusion.noise import INITIAL, SAMPLING, generators, normal
from noiseshift.diffusion.samplers import Noise, Scheduled, Step, Update, per_sample_noise, sample
from noiseshift.shift.reading import BatchReadings
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.shards import Shards

Progress = Callable[[str, int, int], None]
"""Called as (stage, done, total) while a run goes on."""


def in_batches(
    protocol: Protocol,
    make: Callable[[range], BatchReadings],
    shards: Shards | None,
    progress: Progress,
    stage: str,
    within: range | None = None,
) -> Iterator[BatchReadings]:
    """Every batch of a run, in order.

    Under torchrun each rank makes its share, and all ranks get all batches through the shards' folder; without one, each
    makes them all.

    Args:
        protocol: how many samples there are, and how many at once.
        make: called as make(indices) for each batch.
        shards: keeps each batch as it is finished, so that it is not made again; or None.
        progress: called as (stage, done, total).
        stage: what is said to be done.
        within: indices of other samples than the protocol's first ones; None for those.

    Yields:
        The batches' readings.
    """
    whole = range(protocol.samples) if within is None else within
    starts = range(whole.start, whole.stop, protocol.batch)
    rank, world = distributed.joined() if shards else (0, 1)
    for start in starts[rank::world]:
        progress(stage, start - whole.start, len(whole))
        kept = shards.load(start) if shards else None
        if kept is None:
            kept = make(range(start, min(start + protocol.batch, whole.stop)))
            if shards:
                shards.save(start, kept)
        if world == 1:
            yield kept
    if world > 1 and shards is not None:
        distributed.wait()
        yield from (shards.whole(start) for start in starts)
        distributed.wait()  # nothing is cleared while another still reads
    progress(stage, len(whole), len(whole))


def guided(checkpoint: Checkpoint, protocol: Protocol) -> Model:
    """The model that samples under the protocol's guidance. Raises ValueError when it lacks a branch.

    Args:
        checkpoint: what is sampled.
        protocol: with its guidance, or None for none.
    """
    model = checkpoint.sampled or checkpoint.model
    return model if protocol.guidance is None else Guided(model, protocol.guidance)


def labels(checkpoint: Checkpoint, indices: range, device: str = "cpu") -> Tensor | None:
    """Balanced classes: sample i is of class i mod classes, so that two runs differ in nothing but what is compared.

    Args:
        checkpoint: says how many classes there are.
        indices: of samples within the run.
        device: where they are wanted.

    Returns:
        (len(indices),), or None where there are no classes.
    """
    classes = checkpoint.classes
    return None if not classes else torch.tensor([i % classes for i in indices], device=device)


def initial_noise(model: Model, shape: tuple[int, ...], indices: range, seed: int) -> Tensor:
    """x at t = 1 for samples `indices`: sigma(1) eps, each row from its own generator.

    Args:
        model: whose schedule says sigma(1).
        shape: of one state.
        indices: of samples within the run.
        seed: the run's.
    """
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
    """The steps of one batch, whatever the batch size.

    Args:
        model: the checkpoint's, guided or not, or another (the exact one) to be sent through the same times from the same noise.
        checkpoint: gives the shape and the classes.
        protocol: gives the solver and the seed.
        indices: which samples.
        update: may change the solver's own update; not a scheduler's, which is left as it is.

    Yields:
        The steps; without predictions where a cache made them, so that whoever reads them asks the checkpoint's own model.
    """
    steps = _steps(model, checkpoint, protocol, indices, update)
    return steps if checkpoint.sampled is None else (replace(step, prediction=None) for step in steps)


def _steps(
    model: Model,
    checkpoint: Checkpoint,
    protocol: Protocol,
    indices: range,
    update: Callable[[Update], Update] | None,
) -> Iterator[Step]:
    noise = per_sample_noise(generators(indices, seed=protocol.seed, stream=SAMPLING))
    x, cond = _start(model, checkpoint, protocol, indices)
    own = protocol.solver.update()
    if isinstance(own, Scheduled):
        if update is not None:
            raise ValueError("this method changes the sampler's update: use euler, heun, ddim, ddpm or em")
        return sample(model, x, None, update=own, cond=cond, noise=noise)
    times = protocol.solver.grid(checkpoint.model)
    return sample(model, x, times, update=update(own) if update else own, cond=cond, noise=noise)


def path(
    model: Model, checkpoint: Checkpoint, protocol: Protocol, indices: range, times: Tensor, noise: Noise
) -> Iterator[Step]:
    """The steps of one batch on other times than the protocol's, with its own noise; for solvers of ours.

    Args:
        model: what is sampled.
        checkpoint: says shape and classes.
        protocol: with solver, seed and device.
        indices: of samples within the run.
        times: (N,) falling from 1 to 0.
        noise: what a stochastic solver draws from.
    """
    x, cond = _start(model, checkpoint, protocol, indices)
    return sample(model, x, times, update=protocol.solver.update(), cond=cond, noise=noise)


def _start(model: Model, checkpoint: Checkpoint, protocol: Protocol, indices: range) -> tuple[Tensor, Tensor | None]:
    """The initial noise of a batch and its classes, on the protocol's device."""
    x = initial_noise(model, checkpoint.shape, indices, protocol.seed)
    return x.to(protocol.device), labels(checkpoint, indices, protocol.device)


def all_labels(checkpoint: Checkpoint, protocol: Protocol) -> Tensor | None:
    """The classes of all samples of a run (N,), on its device; None where there are none.

    Args:
        checkpoint: says how many classes there are.
        protocol: says how many samples, and the device.
    """
    return labels(checkpoint, range(protocol.samples), protocol.device)
