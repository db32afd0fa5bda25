"""The shift by parts of a state: where in the picture, in frequency or in time it lies.

What is read is the noise that the sampler's network has predicted already: its rms u over each part, at no network call. On
resolved noise of level s, at conditioning time t, u = sigma(s) / sigma(t), so that a reading in t is t + (u - 1) sigma / sigma'.
It is calibrated as every reading is: delta = (mean of sampling states - mean of real ones at the level) / slope, where the slope
says how far the reading moves with the level. A part in which the data hide the noise, as pictures do in the low bands near t = 0,
has a slope outside 0.5 … 2 and is not read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.diffusion.models import FULL, as_time
from noiseshift.diffusion.schedules import Schedule
from noiseshift.diffusion.steps import Step
from noiseshift.estimators.instrument import DATA, Array, Instrument, calibrate, slope_reach
from noiseshift.estimators.parts import Parts
from noiseshift.estimators.posterior import Posterior
from noiseshift.estimators.residual import Residual, answered
from noiseshift.shift.inference import Ratio
from noiseshift.shift.reading import runs_of, visits


@dataclass(frozen=True, eq=False)
class PartCalibration:
    """What parts read on real states whose level is known.

    Attributes:
        residual: whose model predicts the noise.
        parts: that are read.
        times: (K,) conditioning times.
        real: (n, K, P) readings in t of n real states.
        slopes: (m, K, P) for m of them, the change of the reading over the change of the level.
        baseline: of what the states are, as of `Calibration`.
    """

    residual: Residual
    parts: Parts
    times: Array
    real: Array
    slopes: Array
    baseline: str = DATA

    @property
    def slope(self) -> Array:
        """(K, P) how far a reading moves when the level does."""
        mean: Array = self.slopes.mean(0)
        return mean

    def read(self, step: Step, cond: Tensor | None = None) -> Array:
        """(B, P) readings in t of the states of a step; one call where the step has no prediction.

        Args:
            step: of B states.
            cond: (B,) their classes, or None.
        """
        return in_t(_sizes(self.residual, self.parts, step, cond), step.t, self.residual.schedule)


def in_t(values: Array, t: Tensor, schedule: Schedule) -> Array:
    """Readings in t of rms values u (B, P) at conditioning time t: t + (u - 1) sigma / sigma'.

    Args:
        values: (B, P) rms of the predicted noise by part, 1 at the conditioning level.
        t: () the conditioning time.
        schedule: the model's.
    """
    level = schedule(t.double().cpu())
    found: Array = float(t) + (values - 1) * float(level.sigma / level.dsigma)
    return found


def _sizes(residual: Residual, parts: Parts, step: Step, cond: Tensor | None) -> Array:
    found: Array = parts.values(answered(residual.model, step, step.x, cond).eps).cpu().numpy()
    return found


@dataclass
class _Listening:
    """A residual estimator whose predictions are read by parts too, so that calibrating parts asks the network nothing more.

    Attributes:
        residual: reads the whole state.
        parts: that are read beside it.
        passes: by `Step.index`, the readings of each pass over the real states: `calibrate` makes one at the level, one a
            step below it and one above.
    """

    residual: Residual
    parts: Parts
    passes: dict[int, list[list[Array]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule: Schedule = self.residual.schedule
        self.times: Tensor = self.residual.times

    def __call__(self, x: Tensor, cond: Tensor | None = None, *, step: Step | None = None) -> Posterior:
        assert step is not None  # `calibrate` passes one
        if step.prediction is None:
            step = replace(step, prediction=self.residual.model.predict(x, as_time(step.t, x), cond, (FULL,))[0])
        passes = self.passes.setdefault(step.index, [])
        if step.first == 0:
            passes.append([])
        passes[-1].append(in_t(_sizes(self.residual, self.parts, step, cond), step.t, self.schedule))
        return self.residual(x, cond, step=step)


def calibrate_parts(
    residual: Residual,
    parts: Parts,
    data: Tensor,
    times: Tensor,
    *,
    cond: Tensor | None = None,
    seed: int = 0,
    slope_rows: int = 128,
    limit: int | None = None,
) -> tuple[Instrument, PartCalibration]:
    """Calibrate the residual estimator and, off the same predictions, the parts.

    Args:
        residual: fitted at these times.
        parts: that are read beside it, such as `estimators.bands(shape)`.
        data: (N, …) real samples, held out from training; at least 2.
        times: (K,) conditioning times at which runs will be read.
        cond: (N,) their classes, or None.
        seed: of the noise.
        slope_rows: how many of the rows give the slope.
        limit: how many samples of a run the residual instrument reads; parts read all.

    Returns:
        What `calibrate` gives, and the calibration of the parts.
    """
    both = _Listening(residual, parts)
    instrument = calibrate(both, data, times, cond=cond, seed=seed, slope_rows=slope_rows, limit=limit)
    found = [[np.concatenate(each) for each in both.passes[k]] for k in range(len(times))]
    real = np.stack([at for at, _, _ in found], axis=1)
    spans = 2 * slope_reach(torch.from_numpy(instrument.times)).numpy()
    slopes = np.stack([(high - low) / span for (_, low, high), span in zip(found, spans, strict=True)], axis=1)
    calibration = PartCalibration(residual, parts, instrument.times, real, slopes)
    return replace(instrument, estimator=residual), calibration


@dataclass
class Watching:
    """Reads parts off the steps of one run as they pass by.

    Attributes:
        calibration: of the parts, at the run's times.
        cond: the classes of its samples, from its first one on, or None.
        columns: by place in the calibrated times, (B, P) readings.
        steps: by place, `Step.index`.
    """

    calibration: PartCalibration
    cond: Tensor | None = None
    columns: dict[int, Array] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)

    def passing(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The same steps. Raises ValueError where the run misses one of the calibrated times."""
        for k, step in visits(steps, self.calibration.times):
            if k is not None:
                cond = None if self.cond is None else self.cond[: len(step.x)]
                self.columns[k] = self.calibration.read(step, cond)
                self.steps[k] = step.index
            yield step

    def rows(self) -> Array:
        """(B, K, P) what was read, once the run is through."""
        return np.stack([self.columns[k] for k in range(len(self.calibration.times))], axis=1)


@dataclass(frozen=True, eq=False)
class PartReport:
    """The shift of one run by parts of its states.

    Attributes:
        steps: (K,) `Step.index` of the states that were read.
        sampled: (N, K, P) readings of the sampling states.
        calibration: of the parts.
    """

    steps: Array
    sampled: Array
    calibration: PartCalibration

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """A row a part and step, kind after kind: see `PARTS`. Intervals at once are over all parts of a kind and all levels."""
        return self._table(level).copy()

    @functools.lru_cache(maxsize=8)  # noqa: B019 the bootstrap of many columns takes a second
    def _table(self, level: float) -> pd.DataFrame:
        kinds = dict.fromkeys(self.calibration.parts.kinds)
        return pd.concat([self._of_kind(kind, level) for kind in kinds], ignore_index=True)

    def _of_kind(self, kind: str, level: float) -> pd.DataFrame:
        parts = self.calibration.parts
        times = self.calibration.times
        places = [p for p, each in enumerate(parts.kinds) if each == kind]
        sampled, real, slopes = (
            rows[:, :, places].transpose(0, 2, 1).reshape(len(rows), -1)
            for rows in (self.sampled, self.calibration.real, self.calibration.slopes)
        )
        ratio = Ratio.of_difference(sampled, real, slopes)
        where = ratio.readable(np.tile(times, len(places)))
        test = ratio.at(where).test(level)
        frame = part_columns(ratio, where, test.critical, level)
        frame.insert(0, "kind", kind)
        frame.insert(1, "part", np.repeat([parts.names[p] for p in places], len(times)))
        frame.insert(2, "estimator", "residual")
        frame.insert(3, "step", np.tile(self.steps, len(places)))
        frame.insert(4, "t", np.tile(times, len(places)))
        return frame.assign(p=test.p, n=len(sampled), against=self.calibration.baseline)


PARTS = (
    *("kind", "part", "estimator", "step", "t", "shift", "low", "high", "joint_low", "joint_high", "floor", "slope"),
    *("resolved", "significant", "p", "n", "against"),
)
"""Columns of a table of parts or groups. shift, low, high: delta in t, with its own interval. joint_low, joint_high: the interval
that holds at all parts and levels of a kind at once. floor: the least |delta| whose own interval excludes 0. resolved: its own
interval excludes 0; significant: the joint one does. p: of no shift anywhere in this kind. n: states read. against: baseline."""


def part_columns(ratio: Ratio, where: Array, critical: float, level: float) -> pd.DataFrame:
    """What is known of shifts (C,), NaN where `where` says that they cannot be read.

    Args:
        ratio: the shifts with their errors.
        where: (C,) whether each can be read.
        critical: of the joint test, from which the joint intervals are made.
        level: of the single intervals, such as 0.95.

    Returns:
        A row per part: shift, low, high, joint_low, joint_high, floor, slope, resolved, significant.
    """
    low, high = ratio.interval(level)
    joint_low, joint_high = ratio.within(critical)
    values = {
        "shift": ratio.value,
        "low": low,
        "high": high,
        "joint_low": joint_low,
        "joint_high": joint_high,
        "floor": ratio.floor(level),
    }
    frame = pd.DataFrame({name: np.where(where, column, np.nan) for name, column in values.items()})
    frame["slope"] = ratio.slope
    frame["resolved"] = (frame.low > 0) | (frame.high < 0)
    frame["significant"] = (frame.joint_low > 0) | (frame.joint_high < 0)
    return frame


def measure_parts(steps: Iterable[Step], calibration: PartCalibration, *, cond: Tensor | None = None) -> PartReport:
    """Read the shift by parts of one or several `sample()` runs, chained one after another.

    Args:
        steps: the runs' states, as they come.
        calibration: what `calibrate_parts` gives.
        cond: (N,) the classes of all samples, in order; needed only where steps have no prediction.

    Returns:
        The report.

    Raises:
        ValueError: the steps meet not all of the calibrated times.
    """
    batches: list[Array] = []
    start = 0
    indices = {}
    for run in runs_of(steps):
        watch = Watching(calibration, None if cond is None else cond[start:])
        for step in watch.passing(run):
            size = len(step.x)
        batches.append(watch.rows())
        start = start + size
        indices = watch.steps
    if not batches:
        raise ValueError("there are no steps to measure: sample at least one state")
    order = np.array([indices[k] for k in range(len(calibration.times))])
    return PartReport(order, np.concatenate(batches), calibration)
