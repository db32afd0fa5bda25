"""Sums over levels: the mean of δ² and its draws, unlike grids, content signs."""

import numpy as np
import pandas as pd
import pytest
from reports import report_of

from noiseshift.shift.summary import (
    common_span,
    content_rms,
    content_signs,
    mean_square,
    mean_square_draws,
    rms_in_words,
    rms_of,
    run_answer,
    shared_levels,
    sized,
    terminal_shift,
)

TIMES = np.array([0.8, 0.6, 0.3, 0.1])


def made(shift, *, times=TIMES, spread=0.05, n=100, seed=0):
    rng = np.random.default_rng(seed)
    real, sampled = (times + spread * rng.standard_normal((n, len(times))) for _ in range(2))
    return report_of(times, sampled + shift, real)


def test_draws_of_the_mean_square_scatter_around_the_estimate():
    """Each draw carries the error twice; counted once, or three times, the draws lie off by the error's own size."""
    report = made(0.0)
    estimate, draws = mean_square(report), mean_square_draws(report)
    size = report.covariance().trace() / len(TIMES)
    assert abs(draws.mean() - estimate) < 0.25 * size


def test_without_a_shift_the_mean_square_is_zero_on_average():
    found = np.array([mean_square(made(0.0, seed=seed)) for seed in range(200)])
    size = made(0.0).covariance().trace() / len(TIMES)
    assert abs(found.mean()) < 4 * found.std() / 200**0.5 < 0.25 * size


@pytest.mark.parametrize("span", [(0.1, 0.8), (0.2, 0.5), (0.3, 0.6), (0.3, 0.3)])
def test_over_a_span_it_is_the_integral_of_the_squared_line(span):
    values = np.array([0.4, -0.2, 0.3, 0.1])
    report = report_of(TIMES, np.stack([TIMES + values] * 4), np.stack([TIMES] * 4))
    levels = np.linspace(*span, 20001)
    line = np.interp(levels, TIMES[::-1], values[::-1])
    assert mean_square(report, span) == pytest.approx(np.mean(line**2), rel=1e-3)


def test_spans_and_levels_are_those_that_all_runs_share():
    one, other = made(0.0), made(0.0, times=np.array([0.9, 0.6, 0.2]))
    assert common_span([one, other]) == (0.2, 0.8)
    assert shared_levels([one, other]).tolist() == [0.6]
    apart = made(0.0, times=np.array([0.95, 0.9]))
    with pytest.raises(ValueError, match="overlap"):
        common_span([one, apart])


def test_content_signs_are_told_by_intervals():
    rows = {
        "shift": [0.1, 0.1, -0.1, -0.1, 0.1, 0.1],
        "content_low": [-0.2, 0.1, 0.1, -0.3, -0.1, -0.2],
        "content_high": [-0.1, 0.2, 0.2, -0.1, 0.1, -0.1],
        "resolved": [True, True, True, True, True, False],
    }
    opposite, none_seen = content_signs(pd.DataFrame(rows))
    assert opposite.index.tolist() == [0, 2]
    assert none_seen.index.tolist() == [4]


def test_a_sum_of_parts_does_not_count_its_own_noise():
    """500 parts of size 0.01, each known to 0.03: their plain rms is 0.032. Where there are none, only a bound is said."""
    noise = 0.03 * np.random.default_rng(0).standard_normal(500)
    seen = pd.Series(0.01 * np.sign(noise[::-1]) + noise)
    assert rms_of(seen, seen - 1.96 * 0.03, seen + 1.96 * 0.03) == pytest.approx(0.01, abs=0.004)
    sharp = pd.Series([0.1, -0.1])
    assert rms_of(sharp, sharp, sharp) == pytest.approx(0.1)
    few = pd.Series([0.01, -0.01])
    assert rms_in_words(few, few - 0.03, few + 0.03) == "< 0.0400"
    assert np.isnan(rms_of(*[pd.Series([np.nan, np.nan])] * 3))


def test_the_last_level_that_can_be_read_is_the_terminal_one():
    report = made(np.array([0.1, 0.2, 0.3, 0.4]), spread=1e-6)
    assert terminal_shift(report) == pytest.approx(0.4, abs=1e-4)
    slopes = np.tile([1.0, 1.0, 1.0, 0.1], (20, 1))
    rng = np.random.default_rng(0)
    states = TIMES + 0.01 * rng.standard_normal((30, 4))
    assert terminal_shift(report_of(TIMES, states + np.array([0, 0, 0.3, 0.4]), states, slope=slopes)) == pytest.approx(
        0.3
    )
    assert np.isnan(terminal_shift(report_of(TIMES, states, states, slope=0.1)))
    assert np.isnan(mean_square(report_of(TIMES, states, states, slope=0.1)))


def test_content_rms_is_of_the_shift_against_the_final_samples():
    rng = np.random.default_rng(0)
    states = TIMES + 0.01 * rng.standard_normal((200, 4))
    assert np.isnan(content_rms(report_of(TIMES, states, states)))
    against = report_of(TIMES, states + 0.03, states, content=states)
    assert content_rms(against) == pytest.approx(0.03, rel=1e-3)


def test_64_states_of_an_estimator_go_into_a_runs_answer_and_63_do_not():
    rng = np.random.default_rng(0)
    real = TIMES + 0.05 * rng.standard_normal((100, 4))
    few, enough, many = (report_of(TIMES, real[:rows], real) for rows in (63, 64, 100))
    assert run_answer({"few": few, "enough": enough, "many": many}).joint == ("enough", "many")


def test_runs_that_meet_at_one_level_have_a_span_and_those_read_nowhere_have_none():
    assert common_span([made(0.0, times=np.array([0.9, 0.6])), made(0.0, times=np.array([0.6, 0.2]))]) == (0.6, 0.6)
    states = np.stack([TIMES] * 4)
    with pytest.raises(ValueError, match="read none of these runs"):
        common_span([report_of(TIMES, states, states, slope=0.1)])


@pytest.mark.parametrize("truth", [[0.0, 0.0, 0.0], [0.03, -0.02, 0.01], [0.03, 0.0, 0.0]])
def test_the_ends_of_a_size_hold_the_truth_and_the_size(truth):
    """In 95 % at least: intervals of single levels would say of nothing that it is something in 14 % of three."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        values = pd.Series(np.array(truth) + 0.005 * rng.standard_normal(3))
        found = sized(values, values - 1.96 * 0.005, values + 1.96 * 0.005)
        assert found.low <= found.value <= found.high
        held += found.low <= np.sqrt(np.mean(np.square(truth))) <= found.high
    assert held >= 940


def test_a_size_of_nothing_has_no_ends():
    none = pd.Series([np.nan, np.nan])
    assert np.isnan(sized(none, none, none)).all()
