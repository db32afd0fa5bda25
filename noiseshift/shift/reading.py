"""From states to readings: which states of a run are read, by whom, and what is kept of a batch.

Nothing but (N, K) numbers is kept of the states that pass, and the final ones: re-noised, they are the content control.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
import torch
from torch import Tensor

from noiseshift.diffusion.noise import CONTENT, generators, normal
from noiseshift.diffusion.samplers import Step
from noiseshift.estimators.instrument import (
    Array,
    Calibration,
    Instrument,
    Instruments,
    Readings,
    common_times,
    place,
    read,
)
from noiseshift.estimators.posterior import Estimator
from noiseshift.shift.report import ShiftReport

Readout = dict[str, list[Readings]]
"""Readings (n, 1) by instrument, one per time."""


@dataclass(frozen=True)
class BatchReadings:
    """What is kept of one batch of samples.

    Attributes:
        size: How many samples it has.
        final: (n, …) final states of the first n of them.
        cond: (n,) their conditions, or None.
        steps: (K,) `Step.index` of the states that were read; empty where none were.
        sampled: Readings of the states, by instrument; one that reads none of these samples is missing.
        content: The same of the final samples, re-noised; empty without that control.
        parts: (n, K, P) readings by parts of the states (`shift.parts`), or None.
    """

    size: int
    final: Tensor
    cond: Tensor | None = None
    steps: Array = field(default_factory=lambda: np.zeros(0, dtype=int))
    sampled: Mapping[str, Readings] = field(default_factory=dict)
    content: Mapping[str, Readings] = field(default_factory=dict)
    parts: Array | None = None

    def keeping(self, rows: int) -> BatchReadings:
        """The same with only the first `rows` final states."""
        rows = max(0, rows)
        return replace(self, final=self.final[:rows], cond=None if self.cond is None else self.cond[:rows])


@overload
def measure(
    steps: Iterable[Step],
    instrument: Instrument | Estimator,
    calibration: Instrument | Calibration | None = ...,
    *,
    cond: Tensor | None = ...,
    content: bool = ...,
    seed: int = ...,
    name: str = ...,
) -> ShiftReport: ...


@overload
def measure(
    steps: Iterable[Step],
    instrument: Instruments,
    calibration: None = ...,
    *,
    cond: Tensor | None = ...,
    content: bool = ...,
    seed: int = ...,
) -> dict[str, ShiftReport]: ...


def measure(
    steps: Iterable[Step],
    instrument: Instrument | Estimator | Instruments,
    calibration: Instrument | Calibration | None = None,
    *,
    cond: Tensor | None = None,
    content: bool = True,
    seed: int = 0,
    name: str = "shift",
) -> ShiftReport | dict[str, ShiftReport]:
    """Read the noise shift of one or several `sample()` runs, chained one after another.

    Args:
        steps: The runs' states, as they come; they are read and let go.
        instrument: What `calibrate` gives. Several, by name, are read in one pass over the same states.
        calibration: With a bare estimator in place of an instrument, its calibration.
        cond: (N,) the classes of all samples, in order.
        content: Whether the final samples are re-noised and read too.
        seed: Seeds that noise.
        name: What the report of a single instrument is called.

    Returns:
        A report; of several instruments, a report by name.

    Raises:
        ValueError: The steps meet not all of the calibrated times, or a state is not finite.
    """
    if isinstance(instrument, Mapping):
        return _measure(steps, instrument, cond, content, seed)
    return _measure(steps, {name: paired(instrument, calibration)}, cond, content, seed)[name]


def paired(instrument: Instrument | Estimator, calibration: Instrument | Calibration | None = None) -> Instrument:
    """The instrument itself, or a bare estimator with its calibration. Raises TypeError for an estimator without one.

    Args:
        instrument: what `calibrate` gives, or a bare estimator.
        calibration: of a bare estimator; an instrument needs none.
    """
    if isinstance(instrument, Instrument):
        return instrument
    if calibration is None:
        raise TypeError("an estimator is never read uncalibrated: pass what ns.calibrate(estimator, real, times) gives")
    return Instrument(instrument, calibration.calibration if isinstance(calibration, Instrument) else calibration)


def _measure(
    steps: Iterable[Step], instruments: Instruments, cond: Tensor | None, content: bool, seed: int
) -> dict[str, ShiftReport]:
    batches: list[BatchReadings] = []
    start = 0
    for run in runs_of(steps):
        at = batches[0].steps if batches else None
        batch = read_run(run, instruments, cond=cond, start=start, content=content, seed=seed, at=at)
        batches.append(batch.keeping(0))
        start += batch.size
    if not batches:
        raise ValueError("there are no steps to measure: sample at least one state")
    return assemble(batches, instruments)


def runs_of(steps: Iterable[Step]) -> Iterator[Iterator[Step]]:
    """Cut a chain of sampler runs where the next one starts; each run must be used up before the next is asked for."""
    source = iter(steps)
    pending = next(source, None)

    def one(first: Step) -> Iterator[Step]:
        nonlocal pending
        step: Step | None = first
        while step is not None:
            yield step
            last, step = step, next(source, None)
            if last.prediction is None and not last.internal:
                pending, step = step, None

    while pending is not None:
        current, pending = pending, None
        yield one(current)


def visits(
    steps: Iterable[Step], times: Array, at: Sequence[int] | Array | None = None
) -> Iterator[tuple[int | None, Step]]:
    """Every step of a run, with the place k in `times` (K,) of the state that is read there, or None.

    Args:
        steps: One run; evaluations inside a step are never read.
        times: Conditioning times at which instruments are calibrated.
        at: (K,) `Step.index` of the states that are read. Without it, the first state of each time is.

    Raises:
        ValueError: The run does not pass through all times, or has another time at one of these indices.
    """
    wanted = None if at is None else {int(index): k for k, index in enumerate(at)}
    missing = set(range(len(times)))
    for step in steps:
        k = _place(step, times, wanted) if missing and not step.internal else None
        if k not in missing:
            k = None
        yield k, step
        missing -= {k}
    if missing:
        raise ValueError(
            f"the run does not pass through all calibrated times (t = {times[min(missing)]:.4f} is missing): calibrate at "
            "the sampler's own times"
        )


def _place(step: Step, times: Array, wanted: Mapping[int, int] | None) -> int | None:
    here = place(times, step.t)
    if wanted is None:
        return here
    k = wanted.get(step.index)
    if k is not None and k != here:
        raise ValueError(
            f"step {step.index} is at t = {float(step.t):.4f}, its readings are calibrated at t = {times[k]:.4f}: calibrate "
            "at the sampler's own times"
        )
    return k


def read_run(
    steps: Iterable[Step],
    instruments: Instruments,
    *,
    cond: Tensor | None = None,
    start: int = 0,
    content: bool = True,
    seed: int = 0,
    at: Sequence[int] | Array | None = None,
) -> BatchReadings:
    """Read one sampler run.

    Args:
        steps: The run's states.
        instruments: What reads them, by name.
        cond: (N,) the classes of all samples of all runs.
        start: Which of them this run's first sample is.
        content: Whether the final samples are re-noised and read too.
        seed: Seeds that noise.
        at: (K,) `Step.index` of the states to read, where it is known; see `visits`.

    Raises:
        ValueError: The run misses one of the calibrated times, or a state is not finite.
    """
    times = common_times(instruments)
    found: dict[int, Step] = {}
    columns: dict[int, dict[str, Readings]] = {}
    step = None
    for k, step in visits(steps, times, at):
        if k is not None:
            _require_finite(step)
            columns[k] = _read_all(step, instruments, cond, start)
            found[k] = replace(step, x=step.x[:0], prediction=None)
    assert step is not None  # `visits` has found the times
    order = range(len(times))
    sampled = _stack([columns[k] for k in order])
    visited = [found[k] for k in order]
    renoised = read_renoised(step.x, visited, instruments, cond, start, seed) if content else {}
    labels = None if cond is None else cond[start : start + len(step.x)]
    return BatchReadings(len(step.x), step.x, labels, np.array([each.index for each in visited]), sampled, renoised)


def _require_finite(step: Step) -> None:
    if not bool(torch.isfinite(step.x).all()):
        raise ValueError(
            f"the sampler's states are not finite at t = {float(step.t):.4f}: try --precision fp32 or more steps"
        )


def _read_all(step: Step, instruments: Instruments, cond: Tensor | None, start: int) -> dict[str, Readings]:
    """What each instrument reads off the samples of this step that it reads at all."""
    found = {}
    for name, instrument in instruments.items():
        if rows := instrument.rows(start, len(step.x)):
            labels = None if cond is None else cond[start : start + rows]
            head = replace(first_rows(step, rows), first=start)
            found[name] = read(instrument.estimator, head.x, labels, head)
    return found


def first_rows(step: Step, rows: int) -> Step:
    """A step with its first rows alone. Its prediction is dropped with the others, and made again by whoever needs it.

    Args:
        step: of at least so many states.
        rows: how many are kept.
    """
    return step if rows == len(step.x) else replace(step, x=step.x[:rows], prediction=None)


def _stack(columns: Sequence[Mapping[str, Readings]]) -> dict[str, Readings]:
    """Readings by name at each time, side by side."""
    return {name: Readings.stack([column[name] for column in columns]) for name in columns[0]}


def read_renoised(
    final: Tensor, visited: Sequence[Step], instruments: Instruments, cond: Tensor | None, start: int, seed: int
) -> dict[str, Readings]:
    """The content control: this batch's final samples, noised to every time that was read, and read as the states were.

    Args:
        final: (B, …) final samples.
        visited: the steps whose times are read; their states are not.
        instruments: by name.
        cond: (N,) classes of the whole run, or None.
        start: the index of the first of these samples within the run.
        seed: of the noise, a draw of its own for each sample index.
    """
    schedule = next(iter(instruments.values())).estimator.schedule
    sources = generators(range(start, start + len(final)), seed=seed, stream=CONTENT)
    columns = []
    for step in visited:
        x = schedule(step.t).mix(final, normal(sources, final.shape[1:]))
        columns.append(_read_all(Step(step.index, step.t, x), instruments, cond, start))
    return _stack(columns)


def assemble(batches: Sequence[BatchReadings], instruments: Instruments) -> dict[str, ShiftReport]:
    """One report an instrument from the readings of all batches.

    Args:
        batches: in the order of their samples.
        instruments: by name, those that read them.
    """
    return {name: _assembled(name, batches, instrument) for name, instrument in instruments.items()}


def _assembled(name: str, batches: Sequence[BatchReadings], instrument: Instrument) -> ShiftReport:
    content = [batch.content[name] for batch in batches if name in batch.content]
    return ShiftReport(
        estimator=name,
        schedule=instrument.estimator.schedule,
        steps=batches[0].steps,
        times=instrument.times,
        sampled=Readings.concatenate([batch.sampled[name] for batch in batches if name in batch.sampled]),
        calibration=instrument.calibration,
        content=Readings.concatenate(content) if content else None,
    )
