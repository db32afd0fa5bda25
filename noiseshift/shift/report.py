"""The measurement: the noise level that sampling states carry, against the one the network is told.

delta(t) = (E[t_hat | sampled] - E[t_hat | real]) / slope: positive when states are noisier than told. Readings on held-out
real states at the same t (the calibration) take the estimator's bias out; readings on the run's own final samples,
noised again (the content control), take out what generated content does to an estimator at a *right* level.
Intervals are bootstrapped over samples and calibration rows; a shift under the detection floor is "not resolved".
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from noiseshift.diffusion.noise import CONTENT, generators, normal
from noiseshift.diffusion.samplers import Step
from noiseshift.diffusion.schedules import Schedule, build, describe
from noiseshift.estimators.calibration import Array, Calibration, Readings, read
from noiseshift.estimators.posterior import Estimator

RESAMPLES = 2000
SLOPES = (0.5, 2.0)
"""Where an estimator can be read: less and it is blind, more and a hair of noise throws it about."""


def readable(slope: Array) -> Array:
    """Whether readings of these calibration slopes mean anything."""
    return (slope >= SLOPES[0]) & (slope <= SLOPES[1])


@dataclass(frozen=True, eq=False)
class ShiftReport:
    """The noise shift of one run as one estimator reads it.

    steps (K,) sampler indices; times (K,) the levels told; sampled: readings of N sampling states; content: readings of
    the run's own finals, noised again to the same times (None when not asked for).
    """

    estimator: str
    schedule: Schedule
    steps: Array
    times: Array
    sampled: Readings
    calibration: Calibration
    content: Readings | None = None

    def __repr__(self) -> str:
        span = f"{len(self.times)} times from t = {self.times[0]:.2f} to {self.times[-1]:.2f}"
        return f"ShiftReport({self.estimator}, {len(self.sampled)} samples at {span}: see .table())"

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """One row a step. shift, low, high: calibrated delta in t and its bootstrap interval at `level`; the same in
        log-SNR; sigma_e2 = sigma(t + delta)² - sigma(t)², signed; raw = mean reading - t; bias and slope of the
        calibration; floor: the least |delta| that can be told from 0; resolved: |delta| > floor. With a content
        control, content_shift is delta against it. delta is NaN where the calibration's slope is not within 0.5 … 2."""
        return self._table(level).copy()

    @functools.lru_cache(maxsize=64)  # noqa: B019 a figure asks for the same bootstrap again and again
    def _table(self, level: float) -> pd.DataFrame:
        blind = ~readable(self.calibration.slope)
        shift = self._shift("t")
        low, high = _interval(self._draws("t"), level)
        log_low, log_high = _interval(self._draws("log_snr"), level)
        floor = self.floor(level)
        columns = {
            "shift": shift,
            "low": low,
            "high": high,
            "shift_log_snr": self._shift("log_snr"),
            "log_snr_low": log_low,
            "log_snr_high": log_high,
            "sigma_e2": self._added_variance(shift),
            "floor": floor,
        }
        if self.content is not None:
            content_low, content_high = _interval(self._content_draws(), level)
            columns |= {
                "content_shift": self._content_shift(),
                "content_low": content_low,
                "content_high": content_high,
            }
        frame = pd.DataFrame({name: np.where(blind, np.nan, values) for name, values in columns.items()})
        frame.insert(0, "step", self.steps)
        frame.insert(1, "t", self.times)
        frame.insert(2, "log_snr", self.schedule.log_snr(torch.tensor(self.times)).numpy())
        frame["raw"] = self.sampled.t.mean(0) - self.times
        frame["bias"] = self.calibration.bias
        frame["slope"] = self.calibration.slope
        frame["resolved"] = (np.abs(shift) > floor) & ~blind
        frame["n"] = len(self.sampled)
        return frame

    def shift(self) -> Array:
        """(K,) delta in t, also where the calibration's slope says that it means nothing."""
        return self._shift("t")

    def standard_error(self) -> Array:
        """(K,) of the shift, in t: sqrt(sd²/n_sampled + sd²/n_real) / slope."""
        return np.sqrt(sum(variance for variance, _ in self._variances())) / self.calibration.slope

    def covariance(self) -> Array:
        """(K, K) of the shift's own error over the steps: a state that reads high at one of them reads high at the next."""
        parts = (
            np.cov(rows.t.T).reshape(2 * self.times.shape) / len(rows) for rows in (self.sampled, self.calibration.real)
        )
        return sum(parts) / np.outer(self.calibration.slope, self.calibration.slope)

    def floor(self, level: float = 0.95) -> Array:
        """(K,) detection floor, in t: standard errors times Welch's quantile of Student's t, which matters where an
        estimator reads a dozen states."""
        parts = self._variances()
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = sum(v for v, _ in parts) ** 2 / sum(v**2 / (n - 1) for v, n in parts)
        return stats.t.ppf(0.5 + level / 2, np.nan_to_num(freedom, nan=np.inf)) * self.standard_error()

    def _variances(self) -> list[tuple[Array, int]]:
        """Squared standard errors (K,) of the two means, and their numbers of states."""
        return [(rows.t.var(0, ddof=1) / len(rows), len(rows)) for rows in (self.sampled, self.calibration.real)]

    def __sub__(self, other: ShiftReport) -> PairedDifference:
        """This run's shift minus another's; the two must share initial noise, classes and times, row by row.

        Raises ValueError when they do not line up.
        """
        if len(self.sampled) != len(other.sampled) or not np.allclose(self.times, other.times):
            raise ValueError("paired reports need the same number of samples and the same times: measure both alike")
        return PairedDifference(self, other)

    def save(self, folder: str | Path) -> None:
        """Write `shift.parquet` (one row a state and step), `posteriors.npz` and `report.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_reports({self.estimator: self}, folder)

    @classmethod
    def load(cls, folder: str | Path) -> ShiftReport:
        """Read what `save` wrote. Raises ValueError when the folder holds several estimators' reports."""
        reports = read_reports(Path(folder))
        if len(reports) != 1:
            raise ValueError(f"{folder} holds reports of {', '.join(reports)}: load it as a run")
        return next(iter(reports.values()))

    def _shift(self, name: str) -> Array:
        real = self.calibration.real
        return (getattr(self.sampled, name).mean(0) - getattr(real, name).mean(0)) / self._slopes(name).mean(0)

    def _slopes(self, name: str) -> Array:
        return self.calibration.slopes if name == "t" else self.calibration.slopes_log_snr

    def _draws(self, name: str, seed: int = 0) -> Array:
        """(R, K) bootstrap draws of the shift: samples, real states and slopes are each resampled."""
        rng = np.random.default_rng(seed)
        sampled = resampled_means(getattr(self.sampled, name), rng)
        real = resampled_means(getattr(self.calibration.real, name), rng)
        return _ratio(sampled - real, resampled_means(self._slopes(name), rng))

    def _content_shift(self) -> Array:
        assert self.content is not None
        return (self.sampled.t - self.content.t).mean(0) / self.calibration.slope

    def _content_draws(self) -> Array:
        """A state and its own final noised again are one unit: their difference is resampled."""
        assert self.content is not None
        rng = np.random.default_rng(0)
        pairs = resampled_means(self.sampled.t - self.content.t, rng)
        return _ratio(pairs, resampled_means(self.calibration.slopes, rng))

    def _added_variance(self, shift: Array) -> Array:
        then = np.clip(self.times + np.nan_to_num(shift), 0, 1)
        return (_sigma(self.schedule, then) ** 2 - _sigma(self.schedule, self.times) ** 2) + 0 * shift


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two runs' shifts, sample by sample; the calibration's error cancels."""

    first: ShiftReport
    second: ShiftReport

    def __repr__(self) -> str:
        return f"PairedDifference({self.first!r} - {self.second!r}: see .table())"

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """step, t, difference, low, high (bootstrap over pairs, in t) and whether the interval excludes 0."""
        pairs = self.first.sampled.t - self.second.sampled.t
        slope = self.first.calibration.slope
        rng = np.random.default_rng(0)
        draws = _ratio(resampled_means(pairs, rng), resampled_means(self.first.calibration.slopes, rng))
        low, high = _interval(draws, level)
        usable = readable(slope)
        frame = pd.DataFrame({"step": self.first.steps, "t": self.first.times, "difference": pairs.mean(0) / slope})
        frame["low"], frame["high"] = low, high
        frame.loc[~usable, ["difference", "low", "high"]] = np.nan
        frame["resolved"] = ((low > 0) | (high < 0)) & usable
        return frame


def resampled_means(values: Array, rng: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """(R, K) means over bootstrap resamples of the rows of values (N, K)."""
    weights = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples)
    return weights @ values / len(values)


def _ratio(values: Array, slopes: Array) -> Array:
    """values / slopes, NaN in silence where an estimator is blind and its slope 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return values / slopes


def _interval(draws: Array, level: float) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore"):  # draws of a blind estimator are ±inf
        low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return low, high


def _sigma(schedule: Schedule, times: Array) -> Array:
    return schedule(torch.tensor(times)).sigma.numpy()


@overload
def measure(
    steps: Iterable[Step],
    estimator: Estimator,
    calibration: Calibration,
    *,
    cond: Tensor | None = ...,
    content: bool = ...,
    seed: int = ...,
    name: str = ...,
) -> ShiftReport: ...


@overload
def measure(
    steps: Iterable[Step],
    estimator: Mapping[str, Estimator],
    calibration: Mapping[str, Calibration],
    *,
    cond: Tensor | None = ...,
    content: bool = ...,
    seed: int = ...,
) -> dict[str, ShiftReport]: ...


def measure(
    steps: Iterable[Step],
    estimator: Estimator | Mapping[str, Estimator],
    calibration: Calibration | Mapping[str, Calibration],
    *,
    cond: Tensor | None = None,
    content: bool = True,
    seed: int = 0,
    name: str = "shift",
) -> ShiftReport | dict[str, ShiftReport]:
    """Read the shift of one or several `sample()` runs, chained one after another, at the calibration's times.

    Streams: only (N, K) numbers are kept. `cond` (N,) are the classes of all samples in order. Several estimators, with
    a calibration each, are read in one pass over the same states and come back by name. Raises ValueError when the
    steps meet none of the calibration's times, or a state is not finite.
    """
    if not isinstance(estimator, Mapping):
        assert isinstance(calibration, Calibration)
        return measure(steps, {name: estimator}, {name: calibration}, cond=cond, content=content, seed=seed)[name]
    assert isinstance(calibration, Mapping)
    batches, start = [], 0
    for batch in runs_of(steps):
        batches.append(read_run(batch, estimator, calibration, cond=cond, start=start, content=content, seed=seed))
        start += batches[-1].size
    if not batches:
        raise ValueError("there are no steps to measure: sample at least one state")
    return assemble(batches, estimator, calibration)


@dataclass(frozen=True)
class BatchReadings:
    """What all estimators read off one batch of samples; `steps` (K,) are the sampler's indices."""

    size: int
    steps: Array
    sampled: dict[str, Readings]
    content: dict[str, Readings]


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


def read_run(
    steps: Iterable[Step],
    estimators: Mapping[str, Estimator],
    calibrations: Mapping[str, Calibration],
    *,
    cond: Tensor | None = None,
    start: int = 0,
    content: bool = True,
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
) -> BatchReadings:
    """Read one sampler run of samples start, start + 1, …; an estimator with a limit reads only samples below it."""
    times = torch.tensor(next(iter(calibrations.values())).times)
    columns: dict[str, list[Readings]] = {name: [] for name in estimators}
    indices: list[int] = []
    final, size = None, 0
    for step in steps:
        final, size = step.x, len(step.x)
        if step.internal or not _told(step, times[len(indices)] if len(indices) < len(times) else None):
            continue
        if not bool(torch.isfinite(step.x).all()):
            raise ValueError(
                f"the sampler's states are not finite at t = {float(step.t):.4f}: try --precision fp32 or more steps"
            )
        indices.append(step.index)
        _read_all(step, estimators, columns, cond, start, limits)
    if len(indices) < len(times) or final is None:
        raise ValueError("the run does not pass through all calibrated times: calibrate at the sampler's own times")
    sampled = {name: Readings.stack(column) for name, column in columns.items() if column}
    again = _noise_again(final, indices, times, estimators, cond, start, seed, limits) if content else {}
    return BatchReadings(size, np.array(indices), sampled, again)


def _told(step: Step, time: Tensor | None) -> bool:
    return time is not None and abs(float(step.t) - float(time)) < 1e-7


def _read_all(
    step: Step,
    estimators: Mapping[str, Estimator],
    columns: dict[str, list[Readings]],
    cond: Tensor | None,
    start: int,
    limits: Mapping[str, int] | None,
) -> None:
    size = len(step.x)
    for name, estimator in estimators.items():
        rows = min(size, max(0, (limits or {}).get(name, start + size) - start))
        if rows:
            labels = None if cond is None else cond[start : start + rows]
            head = replace(_head(step, rows), first=start)
            columns[name].append(read(estimator, head.x, labels, head))


def _head(step: Step, rows: int) -> Step:
    """The first rows of a step; a prediction is dropped with the rows, and made again by whoever needs it."""
    return step if rows == len(step.x) else replace(step, x=step.x[:rows], prediction=None)


def _noise_again(
    final: Tensor,
    indices: list[int],
    times: Tensor,
    estimators: Mapping[str, Estimator],
    cond: Tensor | None,
    start: int,
    seed: int,
    limits: Mapping[str, int] | None,
) -> dict[str, Readings]:
    """The content control: this batch's finals, forward-noised to every time and read as the states were."""
    schedule = next(iter(estimators.values())).schedule
    sources = generators(range(start, start + len(final)), seed=seed, stream=CONTENT)
    columns: dict[str, list[Readings]] = {name: [] for name in estimators}
    for index, t in zip(indices, times, strict=True):
        level = schedule(t).like(final)
        x = level.alpha * final + level.sigma * normal(sources, final.shape[1:]).to(final)
        _read_all(Step(index, t, x), estimators, columns, cond, start, limits)
    return {name: Readings.stack(column) for name, column in columns.items() if column}


def assemble(
    batches: list[BatchReadings], estimators: Mapping[str, Estimator], calibrations: Mapping[str, Calibration]
) -> dict[str, ShiftReport]:
    """One report an estimator from the readings of all batches."""
    reports = {}
    for name, estimator in estimators.items():
        content = [b.content[name] for b in batches if name in b.content]
        reports[name] = ShiftReport(
            estimator=name,
            schedule=estimator.schedule,
            steps=batches[0].steps,
            times=calibrations[name].times,
            sampled=Readings.concatenate([b.sampled[name] for b in batches if name in b.sampled]),
            calibration=calibrations[name],
            content=Readings.concatenate(content) if content else None,
        )
    return reports


def write_reports(reports: Mapping[str, ShiftReport], folder: Path) -> None:
    """`shift.parquet`: estimator, states (sampled, real, slope, content), row, step, t, t_hat, log_snr_hat; with
    `posteriors.npz` (mean posteriors) and `report.json` (schedule)."""
    frames = [_long(report, states, part) for report in reports.values() for states, part in _parts(report)]
    pd.concat(frames, ignore_index=True).to_parquet(folder / "shift.parquet")
    arrays: dict[str, Any] = {f"{name}/grid": report.calibration.grid for name, report in reports.items()}
    for report in reports.values():
        arrays |= {f"{report.estimator}/{states}": part.density for states, part in _parts(report) if states != "slope"}
    np.savez_compressed(folder / "posteriors.npz", **arrays)
    schedule = describe(next(iter(reports.values())).schedule)
    (folder / "report.json").write_text(json.dumps({"schedule": schedule, "estimators": list(reports)}, indent=2))


def read_reports(folder: Path) -> dict[str, ShiftReport]:
    """What `write_reports` wrote. Raises FileNotFoundError when there is nothing of the kind."""
    if not (folder / "shift.parquet").exists():
        raise FileNotFoundError(f"no shift.parquet in {folder}: is it a folder that `noiseshift measure` wrote?")
    frame = pd.read_parquet(folder / "shift.parquet")
    about = json.loads((folder / "report.json").read_text())
    schedule = build(about["schedule"])
    with np.load(folder / "posteriors.npz") as densities:
        return {
            name: _report(frame[frame.estimator == name], name, schedule, densities) for name in about["estimators"]
        }


def _parts(report: ShiftReport) -> list[tuple[str, Readings]]:
    calibration = report.calibration
    slope = Readings(calibration.slopes, calibration.slopes_log_snr, calibration.real.density)
    parts = [("sampled", report.sampled), ("real", calibration.real), ("slope", slope)]
    return parts + ([("content", report.content)] if report.content is not None else [])


def _long(report: ShiftReport, states: str, part: Readings) -> pd.DataFrame:
    n, k = part.t.shape
    return pd.DataFrame(
        {
            "estimator": report.estimator,
            "states": states,
            "row": np.repeat(np.arange(n), k),
            "step": np.tile(report.steps, n),
            "t": np.tile(report.times, n),
            "t_hat": part.t.reshape(-1),
            "log_snr_hat": part.log_snr.reshape(-1),
        }
    )


def _report(frame: pd.DataFrame, name: str, schedule: Schedule, densities: Mapping[str, Array]) -> ShiftReport:
    first = frame[(frame.states == "sampled") & (frame.row == 0)]
    parts = {
        states: Readings(
            rows.t_hat.to_numpy().reshape(-1, len(first)),
            rows.log_snr_hat.to_numpy().reshape(-1, len(first)),
            densities[f"{name}/{'real' if states == 'slope' else states}"],
        )
        for states, rows in frame.groupby("states", sort=False)
    }
    times = first.t.to_numpy()
    calibration = Calibration(times, densities[f"{name}/grid"], parts["real"], parts["slope"].t, parts["slope"].log_snr)
    return ShiftReport(
        name, schedule, first.step.to_numpy(), times, parts["sampled"], calibration, parts.get("content")
    )
