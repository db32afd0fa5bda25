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

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.diffusion.models import Guided, Model
from noiseshift.diffusion.noise import TARGET, generator, torch_generator
from noiseshift.diffusion.samplers import Step
from noiseshift.estimators.instrument import Array, Instrument, Instruments, calibrate, common_times
from noiseshift.shift.reading import BatchReadings, assemble, read_run
from noiseshift.shift.refinement import Refinement
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.shares import shares
from noiseshift.studies.calls import counted
from noiseshift.studies.finer_steps import Start, finer_steps
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import SLOPE_ROWS
from noiseshift.studies.sampling import Progress, all_labels, guided, in_batches, labels, sampler_run
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
    """The run's first samples under more and more steps; empty where there are no finer steps."""
    finer = finer_steps(checkpoint, protocol)
    if finer is None:
        return {}
    runs = [
        _readings(checkpoint, protocol, instruments, start, f"{factor} × the steps", progress)
        for factor, start in zip(finer.factors, finer.starts, strict=True)
    ]
    return {
        name: Refinement(name, finer.order, np.stack([run[name] for run in runs]), each.calibration, finer.factors)
        for name, each in instruments.items()
    }


def _readings(
    checkpoint: Checkpoint,
    protocol: Protocol,
    instruments: Instruments,
    start: Start,
    stage: str,
    progress: Progress,
) -> dict[str, Array]:
    """(M, K) readings by instrument of one of the runs."""
    model = guided(checkpoint, protocol)
    every = all_labels(checkpoint, protocol)

    def make(indices: range) -> BatchReadings:
        run = start(model, protocol, indices)
        return read_run(run, instruments, cond=every, start=indices.start, content=False).keeping(0)

    within = range(min(REFINED, protocol.samples))
    batches = list(in_batches(protocol, make, None, progress, stage, within))
    return {
        name: np.concatenate([batch.sampled[name].t for batch in batches if name in batch.sampled])
        for name in instruments
    }


def refined_calls(checkpoint: Checkpoint, protocol: Protocol) -> int:
    """NFE of one sample under N, 2N and 4N steps; 0 where its steps are not refined.

    Args:
        checkpoint: what is sampled.
        protocol: the run's.
    """
    finer = finer_steps(checkpoint, protocol)
    starts = () if finer is None else finer.starts
    return sum(counted(checkpoint, protocol, functools.partial(_one, start)) for start in starts)


def _one(start: Start, model: Model, protocol: Protocol) -> Iterator[Step]:
    return start(model, protocol, range(1))


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
