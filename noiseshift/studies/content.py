"""The content control: the shift against generated content at a right level.

What an estimator reads depends on what a state shows. Final samples of the same seeds, re-noised, have generated content and the
right level. Those of a coarse solver are smoother than the data, which would be read as a shift of its own, so they are taken
from a finer run wherever the solver can take more steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.diffusion.samplers import Step
from noiseshift.diffusion.solvers import Solver
from noiseshift.estimators.instrument import DATA, Instruments, Readings
from noiseshift.shift.reading import BatchReadings, read_renoised
from noiseshift.shift.report import ShiftReport
from noiseshift.studies.kept_samples import kept_or_sampled
from noiseshift.studies.protocol import Protocol, as_it_reads
from noiseshift.studies.sampling import Progress, all_labels, guided, in_batches, labels, sampler_run
from noiseshift.studies.shards import Shards

ROWS = 64
"""Final samples of a finer run, at most."""

OWN_SAMPLES = "the run's own final samples"


def finer_solver(checkpoint: Checkpoint, protocol: Protocol) -> Solver | None:
    """What makes the final samples of the content control, or None where they are the run's own.

    Args:
        checkpoint: to which it is bound.
        protocol: says the solver and `content_steps`.
    """
    if protocol.content_steps == 1:
        return None
    try:
        solver = protocol.solver.finer(protocol.content_steps)
        bound = None if solver is None else solver.bound(checkpoint)
        if bound is not None:
            bound.grid(checkpoint.model)
            bound.update()
        return bound
    except ValueError:  # a scheduler that knows no more steps
        return None


def content_rows(protocol: Protocol) -> int:
    """How many final samples of a finer run there are."""
    return min(ROWS, protocol.samples)


def content_in_words(instruments: Instruments, finer: Solver | None) -> str | None:
    """What the content control is against; None without one, where the baseline is that already.

    Args:
        instruments: those of the run.
        finer: what made the final samples; None: the run itself.
    """
    if next(iter(instruments.values())).calibration.baseline != DATA:
        return None
    return OWN_SAMPLES if finer is None else f"final samples of {finer.name} from the same seeds"


def with_content(
    reports: Mapping[str, ShiftReport],
    checkpoint: Checkpoint,
    instruments: Instruments,
    protocol: Protocol,
    finer: Solver,
    shards: Shards | None,
    progress: Progress,
) -> dict[str, ShiftReport]:
    """The reports with the content control of a finer run: its first samples, of the same initial noise and classes.

    Args:
        reports: of the run, by estimator.
        checkpoint: what is sampled, under the protocol's guidance; without its cache, which saves other things at other steps.
        instruments: by name.
        protocol: the run's.
        finer: the solver of more steps.
        shards: where batches are kept, or None.
        progress: called as (stage, done, total).
    """
    checkpoint = as_it_reads(checkpoint)
    model = guided(checkpoint, protocol)
    first = next(iter(reports.values()))
    visited = [Step(int(k), torch.tensor(t), torch.zeros(0)) for k, t in zip(first.steps, first.times, strict=True)]
    every = all_labels(checkpoint, protocol)
    steps = replace(protocol, solver=finer)

    def make(places: range) -> BatchReadings:
        indices = range(places.start - protocol.samples, places.stop - protocol.samples)

        def sampled() -> Tensor:
            *_, last = sampler_run(model, checkpoint, steps, indices)
            return last.x

        final = kept_or_sampled(checkpoint, protocol, finer, indices, sampled)
        found = read_renoised(final, visited, instruments, every, indices.start, protocol.seed)
        return BatchReadings(len(indices), final[:0], labels(checkpoint, indices), first.steps, {}, found)

    # Kept behind the run's own batches.
    within = range(protocol.samples, protocol.samples + content_rows(protocol))
    batches = list(in_batches(protocol, make, shards, progress, "content control", within))
    return {
        name: replace(report, content=Readings.concatenate([b.content[name] for b in batches if name in b.content]))
        for name, report in reports.items()
    }
