"""Measuring without data: what a shift is read against are final samples of the run itself, re-noised.

They are of other sample indices than those that are measured, and of the same protocol. Such a shift says how sampling states
differ from what the same sampler ends in, noised to the level: a fault that the final samples share is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.diffusion.models import Model
from noiseshift.estimators.instrument import OWN, Instrument
from noiseshift.shift.reading import BatchReadings
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.sampling import Progress, in_batches, labels, sampler_run
from noiseshift.studies.shards import Shards

LEAST = 128
"""Final samples that estimators are calibrated on, at least, unless the protocol says how many."""

FURTHER_ROWS = 128
"""Further ones that the null and the level control read, at most."""


def own_rows(protocol: Protocol) -> tuple[int, int]:
    """How many final samples calibrate, and how many more the controls take."""
    first = protocol.calibration_rows or max(LEAST, protocol.samples)
    return first, min(first, FURTHER_ROWS) if protocol.controls else 0


def refuse_what_needs_data(protocol: Protocol) -> None:
    """Raise ValueError for estimators that read what only data have."""
    if "constant-pixel" in protocol.estimators:
        raise ValueError(
            "constant-pixel reads pixels that are the same in all data, which samples only nearly have: without data use "
            "--estimator residual"
        )


def own_samples(
    checkpoint: Checkpoint, model: Model, protocol: Protocol, shards: Shards | None, progress: Progress
) -> tuple[Images, Images]:
    """Final samples of the run's protocol, of the indices that follow those that are measured: one part calibrates, the other,
    empty without controls, tests.

    Args:
        checkpoint: whose samples they are.
        model: it, under the run's guidance.
        protocol: of the run.
        shards: where batches are kept, or None.
        progress: called as (stage, done, total).

    Raises:
        ValueError: a final sample is not finite.
    """
    first, second = own_rows(protocol)
    within = range(protocol.samples, protocol.samples + first + second)

    def make(indices: range) -> BatchReadings:
        *_, last = sampler_run(model, checkpoint, protocol, indices)
        return BatchReadings(len(indices), last.x.cpu(), labels(checkpoint, indices))

    batches = in_batches(protocol, make, shards, progress, "own samples", within)
    states = torch.cat([batch.final for batch in batches])
    if not bool(torch.isfinite(states).all()):
        raise ValueError("the run's own final samples are not finite: try --precision fp32 or more steps")
    every = Images(states, labels(checkpoint, within), about=OWN)
    return every[:first], every[first:]


def against_own(instruments: Mapping[str, Instrument]) -> dict[str, Instrument]:
    """The instruments, calibrated on own samples, with that said of their calibrations."""
    return {
        name: replace(each, calibration=replace(each.calibration, baseline=OWN)) for name, each in instruments.items()
    }
