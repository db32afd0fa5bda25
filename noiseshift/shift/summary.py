"""One answer and one number per run: whether there is any shift, the rms shift over the levels that can be read, and what
another run reduces it.

A square counts its own error; the error's variance is taken out, so that noise is not read as shift.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd

from noiseshift.estimators.instrument import Array, place
from noiseshift.evaluation import Change
from noiseshift.shift.inference import RunTest, difference_error, largest, mean_error, resampled_means
from noiseshift.shift.report import ShiftReport

JOINT_ROWS = 64
"""Fewest states of an estimator that goes into a run's answer: those that read a dozen would widen it for all."""


@dataclass(frozen=True)
class RunAnswer:
    """What a run says, at one error rate of 5 % over all of its levels and estimators.

    Attributes:
        run: Is there any shift?
        estimators: The same, by each estimator alone.
        agreement: Do any two estimators read different shifts? None where there are not two to compare.
        joint: The estimators that `run` and `agreement` are about: those of at least 64 states, or all if there are none.
    """

    run: RunTest
    estimators: Mapping[str, RunTest]
    agreement: RunTest | None
    joint: tuple[str, ...]

    def __repr__(self) -> str:
        found = "a shift" if self.significant else "no significant shift"
        return f"RunAnswer({found}, p = {self.run.p:.2g}, by {', '.join(self.joint)})"

    @property
    def significant(self) -> bool:
        """Whether there is a shift, at 95 %."""
        return self.run.significant

    @property
    def p(self) -> dict[str, float]:
        """`run` and each estimator's p."""
        return {"run": self.run.p} | {name: test.p for name, test in self.estimators.items()}


def run_answer(reports: Mapping[str, ShiftReport]) -> RunAnswer:
    """The answer of a run from the reports of its estimators, which read the same states."""
    seen = {name: report for name, report in reports.items() if report.readable.any()}
    joint = {name: report for name, report in seen.items() if len(report.sampled) >= JOINT_ROWS} or seen
    comparable = len(joint) > 1
    return RunAnswer(
        run_test(joint.values()),
        {name: report.test() for name, report in reports.items()},
        disagreement(joint.values()) if comparable else None,
        tuple(joint),
    )


def run_test(reports: Iterable[ShiftReport], level: float = 0.95) -> RunTest:
    """Is there a shift, by any of these estimators at any level?

    Their readings are of the same states, and resampled with them: one chance in twenty is shared by all.

    Args:
        reports: of one run, by several estimators.
        level: 1 minus the error rate.

    Returns:
        The test.
    """
    found = [report.ratio().at(report.readable) for report in reports]
    return largest([each.readings for each in found], [each.error for each in found], level)


def disagreement(reports: Iterable[ShiftReport], level: float = 0.95) -> RunTest:
    """Do any two of these estimators read different shifts at a level that both can read?

    Differences are taken state by state, and what is not known of both slopes counts.

    Args:
        reports: of one run, by several estimators.
        level: 1 minus the error rate.

    Returns:
        The test.
    """
    values, errors = [], []
    for first, second in itertools.combinations(reports, 2):
        if not np.array_equal(first.steps, second.steps):
            raise ValueError("estimators that did not read the same steps cannot be compared")
        both = first.readable & second.readable
        sampled, real, slopes = (
            _difference(a, b) for a, b in zip(_scaled(first, both), _scaled(second, both), strict=True)
        )
        values.append(sampled.mean(0) - real.mean(0))
        errors.append(difference_error(sampled, real) + mean_error(slopes, seed=1))
    return largest(values, errors, level)


def _scaled(report: ShiftReport, levels: Array) -> tuple[Array, Array, Array]:
    """What a shift is made of, in its own units: rows (n, K) of sampled and real readings over the slope, and (s, K) of what
    an error of the slope does to it."""
    slope = report.calibration.slope[levels]
    effect = report.shift()[levels] / slope * report.calibration.slopes[:, levels]
    return report.sampled.t[:, levels] / slope, report.calibration.real.t[:, levels] / slope, -effect


def _difference(first: Array, second: Array) -> Array:
    """Row by row, as far as both go."""
    rows = min(len(first), len(second))
    apart = first[:rows] - second[:rows]
    return np.where(np.abs(apart) < 1e-12, 0.0, apart)  # what rounding makes of one reading twice


Span = tuple[float, float]
"""Conditioning levels, from the least to the largest, between which runs of unlike steps are compared."""


def common_span(reports: Iterable[ShiftReport]) -> Span:
    """The levels between which all of these runs can be read, those left out that can be read nowhere. Raises ValueError
    when there are none."""
    read = [report.times[report.readable] for report in reports if report.readable.any()]
    if not read:
        raise ValueError(
            "the estimator could read none of these runs: measure them by another one (--estimator), or choose it with --by"
        )
    low, high = max(float(t.min()) for t in read), min(float(t.max()) for t in read)
    if low > high:
        raise ValueError("these runs were not read at levels that overlap: measure them with more --points or steps")
    return low, high


def shared_levels(reports: Iterable[ShiftReport]) -> Array:
    """(S,) conditioning levels that all of these runs were read at, and can be; falling, as the first has them."""
    first, *rest = (report.times[report.readable] for report in reports)
    return np.array([t for t in first if all(place(times, t) is not None for times in rest)])


def mean_square(report: ShiftReport, span: Span | None = None) -> float:
    """Mean of δ² over the steps that can be read, minus what its own error adds.

    Args:
        report: of one run.
        span: levels between which the mean is taken instead, along straight lines between the steps; it then does not depend on
            where a run has its steps.

    Returns:
        Below 0 by chance where there is no shift; NaN where nothing can be read.
    """
    usable = report.readable
    if not usable.any():
        return float("nan")
    shift = report.shift()[usable]
    form = _form(report.times[usable], span)
    return float(shift @ form @ shift - np.sum(form * _error(report)))


def mean_square_draws(report: ShiftReport, span: Span | None = None, *, seed: int = 0) -> Array:
    """(R,) bootstrap draws of `mean_square`. Reports of as many samples and calibration rows draw the same ones for the
    same seed: their draws are paired.

    Args:
        report: of one run.
        span: the conditioning levels over which it is averaged; None: all that were read.
        seed: of the resamples.

    Returns:
        The draws; NaN where nothing can be read.
    """
    usable = report.readable
    rng = np.random.default_rng(seed)
    sampled, real = (resampled_means(part.t, rng) for part in (report.sampled, report.calibration.real))
    if not usable.any():
        return np.full(len(sampled), np.nan)
    shift = ((sampled - real) / report.calibration.slope)[:, usable]
    form = _form(report.times[usable], span)
    # A draw carries its error twice: once as the estimate, once as the resample.
    return np.sum(shift @ form * shift, axis=1) - 2 * np.sum(form * _error(report))


def _error(report: ShiftReport) -> Array:
    usable = report.readable
    return report.covariance()[np.ix_(usable, usable)]


def _form(times: Array, span: Span | None) -> Array:
    """(K, K) Q so that δ' Q δ is the mean of δ² over falling `times` (K,), or over a span, δ linear between them."""
    if span is None:
        return np.eye(len(times)) / max(1, len(times))
    low, high = span
    levels = np.unique([low, *times[(times > low) & (times < high)], high])
    lines = np.stack([np.interp(levels, times[::-1], unit[::-1]) for unit in np.eye(len(times))], axis=1)
    gaps = np.diff(levels) / (high - low) if high > low else np.zeros(0)
    # The integral of a product of two lines over a gap: a third of it at an end with itself, a sixth across.
    mass = np.diag((np.append(gaps, 0) + np.append(0, gaps)) / 3) + np.diag(gaps / 6, 1) + np.diag(gaps / 6, -1)
    return lines.T @ (mass if high > low else np.eye(1)) @ lines


def rms_shift(report: ShiftReport, span: Span | None = None) -> float:
    """The root of `mean_square`; 0 where nothing is left.

    Args:
        report: of one run.
        span: the conditioning levels over which it is averaged; None: all that were read.
    """
    return float(np.sqrt(np.maximum(mean_square(report, span), 0)))


def rms_draws(report: ShiftReport, *, seed: int = 0) -> Array:
    """(R,) bootstrap draws of `rms_shift`.

    Args:
        report: of one run.
        seed: of the resamples.
    """
    return np.sqrt(np.clip(mean_square_draws(report, seed=seed), 0, None))


def content_signs(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of a table's resolved rows, those where the content-controlled shift has the opposite sign, its interval without 0;
    and those where that interval holds 0."""
    up, down = table.content_low > 0, table.content_high < 0
    opposite = table.resolved & np.where(table["shift"] > 0, down, up)
    return table[opposite], table[table.resolved & ~up & ~down]


class Sized(NamedTuple):
    """A number with its 95 % interval; all NaN where there is none.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


NOTHING = Sized(float("nan"), float("nan"), float("nan"))


def terminal_shift(report: ShiftReport) -> float:
    """δ at the last step that can be read."""
    return terminal(report).value


def terminal(report: ShiftReport) -> Sized:
    """δ at the last step that can be read, with its interval."""
    read = report.table()[report.readable]
    return Sized(*(float(read[name].iloc[-1]) for name in ("shift", "low", "high"))) if len(read) else NOTHING


def content_rms(report: ShiftReport) -> float:
    """Root mean square of the content-controlled δ, its noise taken out; NaN without that control."""
    return content_size(report).value


def content_size(report: ShiftReport) -> Sized:
    """The same with what the intervals of the levels leave room for."""
    if report.content is None:
        return NOTHING
    table = report.table()
    return sized(table.content_shift, table.content_low, table.content_high)


def rms_of(values: pd.Series, low: pd.Series, high: pd.Series) -> float:
    """Root mean square of estimates with 95 % intervals, the variance of their errors taken out; 0 where nothing is left, NaN
    without an estimate.

    Args:
        values: estimates.
        low: lower ends of their 95 % intervals.
        high: upper ends.
    """
    square = (values**2 - ((high - low) / (2 * 1.96)) ** 2).mean()
    return float(np.sqrt(max(square, 0.0))) if not np.isnan(square) else float("nan")


def sized(values: pd.Series, low: pd.Series, high: pd.Series) -> Sized:
    """`rms_of` with ends between which the root mean square lies in 95 % of cases or more, however the errors hang together.

    The upper end lets every estimate lie at the far end of its interval. The lower one takes the near ends of intervals that
    hold all at once (Bonferroni's), so that it is above 0 in 5 % of cases at most where there is nothing.

    Args:
        values: estimates.
        low: lower ends of their 95 % intervals.
        high: upper ends.
    """
    if not values.notna().any():
        return NOTHING
    found = rms_of(values, low, high)
    wider = NormalDist().inv_cdf(1 - 0.025 / values.count()) / NormalDist().inv_cdf(0.975)
    joint_low, joint_high = values - wider * (values - low), values + wider * (high - values)
    near = np.maximum(0, np.maximum(joint_low, -joint_high))
    far = np.maximum(low.abs(), high.abs())
    least, most = (float(np.sqrt((ends**2).mean())) for ends in (near, far))
    return Sized(found, min(least, found), most)


def rms_in_words(values: pd.Series, low: pd.Series, high: pd.Series) -> str:
    """`rms_of` with four digits; where nothing is left, what the ends of the intervals leave room for.

    Args:
        values: estimates.
        low: lower ends of their 95 % intervals.
        high: upper ends.
    """
    found = sized(values, low, high)
    return f"< {found.high:.4f}" if found.value == 0 else f"{found.value:.4f}"


def reduction(report: ShiftReport, base: ShiftReport, *, seed: int = 0) -> Change:
    """1 - rms δ / rms δ of `base`, over paired resamples of samples and calibration rows.

    Args:
        report: of the corrected run.
        base: of the run without a correction.
        seed: of the resamples.

    Returns:
        The reduction with its 95 % interval; NaN where the shift of `base` is not significant over all of its levels: there
        is nothing to reduce.
    """
    draws = [rms_draws(each, seed=seed) for each in (report, base)]
    whole = rms_shift(base)
    if whole == 0 or np.quantile(draws[1], 0.025) == 0 or not base.test().significant:
        return Change(float("nan"), float("nan"), float("nan"))
    ratio = 1 - draws[0] / np.maximum(draws[1], 1e-12)
    low, high = np.quantile(ratio, [0.025, 0.975])
    return Change(1 - rms_shift(report) / whole, float(low), float(high))
