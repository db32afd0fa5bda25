"""Whose shift is it? The measured network under finer steps, and a model without error through the same solver.

Two experiments, of different weakness. Step refinement evaluates the network itself: what does not vanish with the steps is its
own, if the steps are fine enough for the solver's order. The exact model of a distribution fitted to the data has no
error at all, but is not quite the data's. "The network's" is said only where both agree.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.diffusion.models import Guided, Model
from noiseshift.diffusion.noise import SAMPLING, TARGET, generator, generators, torch_generator
from noiseshift.diffusion.refining import refine, refined_noise
from noiseshift.diffusion.samplers import Step, per_sample_noise
from noiseshift.estimators.instrument import Array, Instrument, Instruments, calibrate, common_times
from noiseshift.shift.reading import BatchReadings, assemble, read_run
from noiseshift.shift.refinement import FACTORS, Refinement
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.shares import shares
from noiseshift.studies.calls import counted
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import SLOPE_ROWS
from noiseshift.studies.sampling import Progress, all_labels, guided, in_batches, labels, path, sampler_run
from noiseshift.targets import ExactModel, GaussianMixture
from noiseshift.targets.fitting import best_fit

REFINED = 128
"""How many of the run's samples are sampled again under finer steps, at most."""

DRAWS = 400
"""States of the exact model's own distribution that calibrate the instruments for it, at most."""


def shares_of(
    checkpoint: Checkpoint,
    protocol: Protocol,
    instruments: Instruments,
    reports: Mapping[str, ShiftReport],
    held_out: tuple[Images, Images],
    progress: Progress,
) -> tuple[pd.DataFrame, dict[str, ShiftReport]]:
    """Both experiments on a run.

    Args:
        checkpoint: what is sampled.
        protocol: the run's.
        instruments: by name.
        reports: of the run, by estimator.
        held_out: the two halves of the real images.
        progress: called as (stage, done, total).

    Returns:
        The table of `shift.shares` for every instrument, one under another; and the exact model's reports.
    """
    refined = _refinements(checkpoint, protocol, instruments, progress)
    exact = _exact_reports(checkpoint, protocol, instruments, held_out, progress)
    tables = [shares(report, refined.get(name), exact.get(name)) for name, report in reports.items()]
    return pd.concat(tables, ignore_index=True), exact


def _refinements(
    checkpoint: Checkpoint, protocol: Protocol, instruments: Instruments, progress: Progress
) -> dict[str, Refinement]:
    """The run's first samples under N, 2N and 4N steps of one Brownian path; empty where the solver's order is not known (a
    scheduler of diffusers, a custom update) or the model knows too few levels for finer steps."""
    order = protocol.solver.order
    grids = _grids(checkpoint, protocol)
    if order is None or not grids:
        return {}
    runs = [
        _readings(checkpoint, protocol, instruments, times, grids[-1], f"{factor} × the steps", progress)
        for factor, times in zip(FACTORS, grids, strict=True)
    ]
    return {
        name: Refinement(name, order, np.stack([run[name] for run in runs]), each.calibration)
        for name, each in instruments.items()
    }


def _grids(checkpoint: Checkpoint, protocol: Protocol) -> list[Tensor]:
    """The solver's times with N, 2N and 4N steps; none where its order is not known or the model knows too few levels, or where a
    cache samples, whose error does not go with the steps."""
    if checkpoint.sampled is not None:
        return []
    times = protocol.solver.grid(checkpoint.model)
    if protocol.solver.order is None or times is None:
        return []
    grids = [times if factor == 1 else refine(checkpoint.model, times, factor) for factor in FACTORS]
    return [] if len(grids[-1]) <= FACTORS[-1] * (len(times) - 1) else grids


def _readings(
    checkpoint: Checkpoint,
    protocol: Protocol,
    instruments: Instruments,
    times: Tensor,
    finest: Tensor,
    stage: str,
    progress: Progress,
) -> dict[str, Array]:
    """(M, K) readings by instrument under these times, on the Brownian path of the finest ones."""
    model = guided(checkpoint, protocol)
    every = all_labels(checkpoint, protocol)

    def make(indices: range) -> BatchReadings:
        sources = generators(indices, seed=protocol.seed, stream=SAMPLING)
        noise = per_sample_noise(sources) if times is finest else refined_noise(sources, times, finest)
        run = path(model, checkpoint, protocol, indices, times, noise)
        return read_run(run, instruments, cond=every, start=indices.start, content=False).keeping(0)

    within = range(min(REFINED, protocol.samples))
    batches = list(in_batches(protocol, make, None, progress, stage, within))
    return {
        name: np.concatenate([batch.sampled[name].t for batch in batches if name in batch.sampled])
        for name in instruments
    }


def refined_calls(checkpoint: Checkpoint, protocol: Protocol) -> int:
    """NFE of one sample under N, 2N and 4N steps; 0 where its solver is not refined.

    Args:
        checkpoint: what is sampled.
        protocol: the run's.
    """
    grids = _grids(checkpoint, protocol)
    return sum(counted(checkpoint, protocol, functools.partial(_walk, checkpoint, times)) for times in grids)


def _walk(checkpoint: Checkpoint, steps: Tensor, model: Model, protocol: Protocol) -> Iterator[Step]:
    return path(model, checkpoint, protocol, range(1), steps, torch.zeros_like)


def _exact_reports(
    checkpoint: Checkpoint,
    protocol: Protocol,
    instruments: Instruments,
    held_out: tuple[Images, Images],
    progress: Progress,
) -> dict[str, ShiftReport]:
    """An exact model without error through the same solver, from the same noise. The instruments are calibrated on draws of
    its own distribution, so that what its content does to them is not called a shift."""
    target = exact_target(checkpoint, held_out, float(common_times(instruments).min()))
    model = _guided_alike(target.model(checkpoint.model.schedule), protocol)
    own = {name: _recalibrated(each, target, checkpoint, protocol) for name, each in instruments.items()}
    every = all_labels(checkpoint, protocol)

    def make(indices: range) -> BatchReadings:
        # Estimators that use a prediction want the checkpoint's, not the exact model's.
        bare = (replace(step, prediction=None) for step in sampler_run(model, checkpoint, protocol, indices))
        return read_run(bare, own, cond=every, start=indices.start, content=False).keeping(0)

    return assemble(list(in_batches(protocol, make, None, progress, "exact model")), own)


def exact_target(checkpoint: Checkpoint, held_out: tuple[Images, Images], t: float) -> GaussianMixture:
    """The Gaussian or mixture, fitted to one half of the data, under which the other is likeliest at level t.

    Args:
        checkpoint: says the schedule.
        held_out: the two halves of the real images.
        t: strictly between 0 and 1.
    """
    first, second = held_out
    level = checkpoint.model.schedule(torch.tensor(t, dtype=torch.float64))
    return best_fit(first.floats, first.labels, second.floats[:256], level)


def _guided_alike(model: ExactModel, protocol: Protocol) -> Model:
    """The exact model under the run's guidance, as far as it has the branches."""
    guidance = protocol.guidance
    if guidance is None or guidance.models or not set(guidance.terms) <= model.branches:
        return model
    return Guided(model, guidance)


def _recalibrated(
    instrument: Instrument, target: GaussianMixture, checkpoint: Checkpoint, protocol: Protocol
) -> Instrument:
    rows = min(DRAWS, len(instrument.calibration.real))
    source = torch_generator(generator(0, seed=protocol.seed, stream=TARGET))
    draws = target.sample(rows, source).reshape(rows, *checkpoint.shape).float().to(protocol.device)
    cond = labels(checkpoint, range(rows), protocol.device)
    times = torch.tensor(instrument.times)
    return calibrate(
        instrument.estimator, draws, times, cond=cond, seed=protocol.seed, slope_rows=SLOPE_ROWS, limit=instrument.limit
    )
