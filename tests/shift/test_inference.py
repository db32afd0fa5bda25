"""Intervals, bands and tests of shifts: they hold the rates they name, and say one thing."""

import dataclasses

import numpy as np
import pytest
from reports import report_of
from scipy import stats

from noiseshift.shift.inference import Ratio, difference_error, largest, mean_error, resampled_means
from noiseshift.shift.summary import disagreement, mean_square, mean_square_draws, reduction, rms_shift, run_answer


def skewed(shape, rng):
    """Log-normal of skewness 7: as readings near the data are."""
    variance = 1.03**2
    spread = np.sqrt((np.exp(variance) - 1) * np.exp(variance))
    return (np.exp(1.03 * rng.normal(size=shape)) - np.exp(variance / 2)) / spread


KINDS = {"normal": lambda shape, rng: rng.normal(size=shape), "skewed": skewed}


def report(sampled, real, slopes, name="e", content=None):
    """A report of readings about 0.5 … at as many levels as there are columns."""
    levels = sampled.shape[1]
    times = np.linspace(0.9, 0.1, levels)
    against = None if content is None else content + times
    states, data = sampled + times, real + times
    return report_of(times, states, data, slope=slopes, content=against, name=name, log_snr=lambda t: -4 * t)


def noise_report(rng, *, shift=0.0, n=128, m=200, levels=8, scale=0.02, name="e"):
    sampled, real = (scale * skewed((rows, levels), rng) for rows in (n, m))
    return report(sampled + shift, real, 1 + 0.2 * rng.normal(size=(64, levels)), name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [16, 96])
def test_intervals_hold_the_shift_in_95_of_100_cases(kind, n):
    """600 levels as columns of one report, each an experiment of its own; Student's quantiles hold 86 % of skewed ones."""
    rng = np.random.default_rng(3)
    sampled, real = (KINDS[kind]((rows, 600), rng) for rows in (n, 400))
    low, high = Ratio.of_difference(sampled, real, 1 + 0.3 * rng.normal(size=(64, 600))).interval()
    assert 0.925 < np.mean((low <= 0) & (high >= 0)) < 0.975


@pytest.mark.parametrize("rows", [8, 64])
def test_what_is_not_known_of_the_slope_counts_where_the_shift_is_large(rows):
    rng = np.random.default_rng(4)
    sampled, real = (rng.normal(size=(200, 600)) for _ in range(2))
    low, high = Ratio.of_difference(sampled + 3, real, 1 + 0.3 * rng.normal(size=(rows, 600))).interval()
    assert 0.925 < np.mean((low <= 3) & (high >= 3)) < 0.975


def test_means_that_differ_are_no_shift_where_the_slope_is_not_significant():
    """The reader is not known to see levels there, so no interval of a shift has ends and the run has no answer from it."""
    rng = np.random.default_rng(0)
    levels, scale = 4, 0.02
    sampled, real = (scale * rng.normal(size=(64, levels)) for _ in range(2))
    unknown = 0.7 + 9 * rng.normal(size=(12, levels))
    unknown += 0.7 - unknown.mean(0)
    found = report(sampled + 0.05, real, unknown)
    assert not found.readable.any()
    table = found.table()
    assert table[["shift", "low", "high", "band_low", "band_high"]].isna().all(axis=None)
    assert np.isnan(found.test().p)
    assert not run_answer({"e": found}).significant
    known = report(sampled + 0.05, real, 0.7 + 0.1 * rng.normal(size=(12, levels)))
    assert known.readable.all()
    assert np.isfinite(known.table()[["low", "high"]]).all(axis=None)
    assert known.test().significant


def test_a_slope_that_may_be_zero_leaves_no_interval():
    rng = np.random.default_rng(0)
    low, high = Ratio.of_mean(rng.normal(size=(50, 1)) + 9, 1 + 9 * rng.normal(size=(12, 1))).interval()
    assert low[0] == -np.inf
    assert high[0] == np.inf


def test_a_run_without_a_shift_is_called_shifted_once_in_twenty():
    alarms, cells, runs = 0, 0, 60
    for seed in range(runs):
        one = noise_report(np.random.default_rng([1, seed]), n=64, m=80)
        alarms += one.test().significant
        cells += one.table().resolved.any()
    assert alarms <= stats.binom.ppf(0.999, runs, 0.05)
    assert cells > 2 * alarms  # what a look at each level alone would have called


def test_readings_of_one_state_are_resampled_together():
    """Eight copies of one level are one level: a test that took them for eight would need more."""
    rng = np.random.default_rng(2)
    sampled, real = 0.02 * rng.normal(size=(128, 1)), 0.02 * rng.normal(size=(200, 1))
    one = report(sampled, real, np.ones((64, 1)))
    eight = report(*(np.repeat(rows, 8, axis=1) for rows in (sampled, real)), np.ones((64, 8)))
    assert eight.test().critical == pytest.approx(one.test().critical)
    assert noise_report(rng).test().critical > 1.1 * one.test().critical


@pytest.mark.parametrize("shift", [0.0, 0.004, 0.02])
def test_table_band_and_test_say_one_thing(shift):
    for seed in range(6):
        found = noise_report(np.random.default_rng([5, seed]), shift=shift)
        table, test = found.table(), found.test()
        outside = (table.low > 0) | (table.high < 0)
        assert (table.resolved == outside).all()
        assert (table.resolved == (table["shift"].abs() > table.floor)).all()
        assert test.significant == bool(((table.band_low > 0) | (table.band_high < 0)).any())
        assert test.significant == (test.p <= 0.05)
        assert (table.band_low < table.low).all()
        assert (table.high < table.band_high).all()


def test_a_level_that_cannot_be_read_does_not_answer():
    found = noise_report(np.random.default_rng(0), shift=np.eye(8)[3] * 0.1)
    assert found.test().significant
    dull = np.where(np.arange(8) == 3, 0.1, 1.0) * found.calibration.slopes
    insensitive = dataclasses.replace(found, calibration=dataclasses.replace(found.calibration, slopes=dull))
    assert not insensitive.test().significant
    none = dataclasses.replace(found, calibration=dataclasses.replace(found.calibration, slopes=0.1 * dull))
    assert np.isnan(none.test().p)
    assert not none.test().significant


def test_a_normal_sample_gets_about_students_interval():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 50)), rng.normal(size=(30, 50))
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    ours = Ratio.of_difference(a, b, np.ones((4, 50))).interval()
    np.testing.assert_allclose((ours[1] - ours[0]).mean() / (theirs.high - theirs.low).mean(), 1, atol=0.05)


def test_resamples_have_the_spread_of_the_mean():
    rows = np.random.default_rng(0).normal(size=(400, 3)) * [1.0, 2.0, 0.5]
    error = mean_error(rows)
    np.testing.assert_allclose(error.variance, rows.var(0, ddof=1) / 400)
    np.testing.assert_allclose(error.draws.std(0), rows.std(0) / 20, rtol=0.06)
    np.testing.assert_allclose(error.variances.mean(0), error.variance, rtol=0.02)
    between = difference_error(rows, rows[:50])
    np.testing.assert_allclose(between.draws.std(0), np.sqrt(between.variance), rtol=0.15)


def test_many_rows_are_resampled_in_blocks_of_the_same_kind(monkeypatch):
    from noiseshift.shift import inference

    rows = np.random.default_rng(0).normal(size=(300, 2))
    monkeypatch.setattr(inference, "NUMBERS", 300 * 64)
    draws = resampled_means(rows, np.random.default_rng(1), 1000)
    assert draws.shape == (1000, 2)
    assert len(np.unique(draws[:, 0])) == 1000
    np.testing.assert_allclose(draws.std(0), rows.std(0) / np.sqrt(300), rtol=0.1)


def test_the_largest_of_nothing_is_not_a_number():
    assert np.isnan(largest([], []).statistic)


# --- Several estimators ----------------------------------------------------------------------------------------------


def pair(shift, seed=0, few=128):
    """Two estimators that read the same states with slopes of their own; the second's shift is off by `shift`."""
    rng = np.random.default_rng([7, seed])
    shared = [0.02 * rng.normal(size=(rows, 4)) for rows in (128, 200)]
    slopes = [factor + 0.2 * rng.normal(size=(64, 4)) for factor in (1.0, 1.5)]
    first = report(shared[0] + 0.03, shared[1], slopes[0], "a")
    own = [0.01 * rng.normal(size=rows.shape) for rows in shared]
    second = 1.5 * (shared[0] + own[0] + 0.03 + shift), 1.5 * (shared[1] + own[1])
    return {"a": first, "b": report(second[0][:few], second[1], slopes[1], "b")}


def test_estimators_that_agree_rarely_disagree():
    """Both read + .03, fifteen standard errors: what is not known of their slopes is the most of it."""
    apart = sum(disagreement(pair(0.0, seed).values()).significant for seed in range(40))
    assert apart <= stats.binom.ppf(0.999, 40, 0.05)


def test_estimators_that_differ_are_found_out():
    assert all(disagreement(pair(0.02, seed).values()).significant for seed in range(10))


def test_the_answer_is_over_all_estimators_that_read_enough():
    answer = run_answer(pair(0.0))
    assert answer.joint == ("a", "b")
    assert answer.significant
    assert set(answer.p) == {"run", "a", "b"}
    assert answer.run.critical > max(test.critical for test in answer.estimators.values())
    few = run_answer(pair(0.0, few=32))
    assert few.joint == ("a",)
    assert few.agreement is None
    assert few.run == few.estimators["a"]
    only = run_answer({"b": pair(0.0, few=32)["b"]})
    assert only.joint == ("b",)


def test_estimators_of_unlike_steps_are_not_compared():
    first, second = pair(0.0).values()
    with pytest.raises(ValueError, match="same steps"):
        disagreement([first, dataclasses.replace(second, steps=second.steps + 1)])


# --- Errors of the shift, and sums over levels ------------------------------------------------------------------------


def test_the_covariance_holds_both_the_samples_and_the_calibrations_error():
    rng = np.random.default_rng(0)
    many = np.array([_independent(rng).shift() for _ in range(1000)])
    one = _independent(rng, n=4000, m=4000)
    expected = one.covariance() * np.diag([1, 1]) * 4000 * (1 / 60 + 1 / 20) / 2
    np.testing.assert_allclose(np.diag(np.cov(many.T)), np.diag(expected), rtol=0.15)
    few = _independent(rng)
    np.testing.assert_allclose(np.diag(few.covariance()), few.standard_error() ** 2)
    sampled, real = few.sampled.t.var(0, ddof=1) / 60, few.calibration.real.t.var(0, ddof=1) / 20
    np.testing.assert_allclose(few.calibration_share(), real / (sampled + real))
    np.testing.assert_allclose(few.table().calibration_share, few.calibration_share())


def _independent(rng, n=60, m=20):
    return report(0.02 * rng.normal(size=(n, 2)), 0.02 * rng.normal(size=(m, 2)), np.ones((8, 2)))


def test_a_square_is_freed_of_its_own_error_on_average():
    """1,000 runs without a shift: with the error left in, the mean of δ² is its variance."""
    rng = np.random.default_rng(1)
    error = 0.02**2 * (1 / 60 + 1 / 20)
    squares = [mean_square(_independent(rng)) for _ in range(1000)]
    assert abs(np.mean(squares)) < 0.15 * error


def test_a_draw_carries_its_error_twice():
    """The draws of the square lie about the square: freed of their error once, they would lie one variance above."""
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.01):
        one = noise_report(rng, shift=shift, levels=4)
        error = float(np.mean(one.standard_error() ** 2))
        assert np.mean(mean_square_draws(one)) == pytest.approx(mean_square(one), abs=0.25 * error)


def test_content_is_taken_out_state_by_state():
    """A state and its own final sample share what is unusual in it; paired, the difference is sharp."""
    rng = np.random.default_rng(0)
    unusual = 0.05 * rng.normal(size=(150, 3))
    real, slopes = 0.05 * rng.normal(size=(200, 3)), np.ones((16, 3))
    sampled, content = (unusual + 0.002 * rng.normal(size=(150, 3)) + more for more in (0.01, 0.0))
    table = report(sampled, real, slopes, content=content).table()
    np.testing.assert_allclose(table.content_shift, 0.01, atol=0.001)
    assert (table.content_high - table.content_low < 0.002).all()
    mixed = report(sampled, real, slopes, content=content[::-1]).table()
    assert (mixed.content_high - mixed.content_low > 0.015).all()


def test_a_run_takes_nothing_off_what_is_not_there():
    rng = np.random.default_rng(0)
    there, nothing = noise_report(rng, shift=0.03), noise_report(rng)
    assert np.isnan(reduction(nothing, nothing).value)
    assert reduction(nothing, there).value > 0.8
    # A base whose rms happens to exceed 0, but not by more than chance over its levels, is nothing either.
    for seed in range(30):
        base = noise_report(np.random.default_rng([3, seed]))
        assert base.test().significant or np.isnan(reduction(nothing, base).value)
    assert rms_shift(nothing) < 0.01


def test_a_slope_of_nothing_leaves_every_shift_possible():
    rows = np.random.default_rng(0).normal(size=(20, 2))
    low, high = Ratio.of_mean(rows, np.zeros((20, 2))).within(1.0)
    assert low.tolist() == [-np.inf] * 2
    assert high.tolist() == [np.inf] * 2


def test_the_columns_of_a_table_in_closed_form():
    """Linear schedule: sigma = t, so sigma_e² is (t + δ)² - t²; it stays within the schedule, and is none where δ is none."""
    times = np.array([0.9, 0.5, 0.2])
    rng = np.random.default_rng(0)
    real = times + 0.03 + 0.01 * rng.standard_normal((40, 3))
    slopes = np.tile([1.0, 0.8, 0.1], (20, 1))
    more = np.array([0.102, 0.04, 0.04])
    table = report_of(times, real + more, real, slope=slopes).table()
    np.testing.assert_allclose(table["shift"], [0.102, 0.05, np.nan])
    np.testing.assert_allclose(table.sigma_e2, [1 - 0.81, 0.55**2 - 0.25, np.nan])
    np.testing.assert_allclose(table.raw, real.mean(0) + more - times)
    np.testing.assert_allclose(table.bias, real.mean(0) - times)
    assert table.n.tolist() == [40] * 3
    assert table.step.tolist() == [0, 1, 2]
    assert table.columns[:3].tolist() == ["step", "t", "log_snr"]


def test_readings_that_are_all_the_same_have_a_shift_of_nothing():
    times = np.array([0.9, 0.5, 0.2])
    same = np.tile(times, (8, 1))
    table = report_of(times, same, same).table()
    assert table[["shift", "low", "high", "sigma_e2"]].to_numpy().tolist() == [[0.0] * 4] * 3
    assert not table.resolved.any()


def test_a_paired_difference_is_resolved_on_either_side_of_nothing():
    rng = np.random.default_rng(0)
    first, second, real = 0.01 * rng.standard_normal((3, 40, 3))
    slopes = np.ones((16, 3))
    raised = np.array([0.1, 0.0, -0.1])
    table = (report(first + raised, real, slopes) - report(second, real, slopes)).table()
    assert table.resolved.tolist() == [True, False, True]
    np.testing.assert_allclose(table.difference, raised, atol=0.01)


def test_the_final_samples_of_fewer_states_are_held_against_those_states():
    rng = np.random.default_rng(0)
    unusual = 0.05 * rng.normal(size=(150, 3))
    real, slopes = 0.05 * rng.normal(size=(200, 3)), np.ones((16, 3))
    table = report(unusual + 0.01, real, slopes, content=unusual[:40]).table()
    np.testing.assert_allclose(table.content_shift, 0.01)


def test_runs_of_other_times_or_as_many_samples_only_are_no_pair():
    rng = np.random.default_rng(0)
    one = noise_report(rng)
    for other in (
        noise_report(rng, n=64),
        dataclasses.replace(one, times=one.times + 1e-3),
        noise_report(rng, levels=4),
    ):
        with pytest.raises(ValueError, match="measure both alike"):
            one - other
    assert np.isnan((one - one).table().difference).sum() == 0
    dull = np.where(np.arange(8) == 3, 0.1, 1.0) * one.calibration.slopes
    insensitive = dataclasses.replace(one, calibration=dataclasses.replace(one.calibration, slopes=dull))
    assert np.isnan((insensitive - one).table().difference).tolist() == [k == 3 for k in range(8)]
