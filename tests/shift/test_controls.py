"""What the controls count, and what they say of it, in closed form."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from reports import report_of
from scipy import stats

import noiseshift as ns
from noiseshift.diffusion.noise import POSITIVE, generators, normal
from noiseshift.estimators.instrument import OWN, calibrate, readable
from noiseshift.estimators.posterior import time_grid
from noiseshift.shift.controls import (
    UNREAD,
    Check,
    Controls,
    content_check,
    level_control,
    null_control,
    real_report,
    share_check,
)
from noiseshift.targets import Gaussian

SCHEDULE = ns.Linear()
TIMES = np.array([0.8, 0.4, 0.1])
TARGET = Gaussian(torch.zeros(48), torch.logspace(-4, 0, 48))


def draws(count, seed):
    return TARGET.sample(count, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def instrument():
    estimator = TARGET.estimator(SCHEDULE, time_grid(SCHEDULE, 60, 0.005, 0.99))
    return calibrate(estimator, draws(120, 0), torch.tensor(TIMES))


def off(instrument, by):
    """The same, calibrated as if real states read `by` further up."""
    real = instrument.calibration.real
    return replace(
        instrument, calibration=replace(instrument.calibration, real=replace(real, t=real.t + np.asarray(by)))
    )


def test_real_states_are_noised_to_the_level_and_read_at_the_conditioning_time(instrument):
    seen = []

    class Watched:
        schedule, times = instrument.estimator.schedule, instrument.estimator.times

        def __call__(self, x, cond=None, *, step=None):
            seen.append((x, cond, step.index, float(step.t)))
            return instrument.estimator(x, cond, step=step)

    data, cond = draws(9, 5), torch.arange(9)
    watched = replace(instrument, estimator=Watched(), limit=7)
    found = real_report("exact", watched, data, cond=cond, offset=0.05, seed=3, stream=POSITIVE)
    assert (found.estimator, len(found.sampled)) == ("exact", 7)
    np.testing.assert_array_equal(found.steps, [0, 1, 2])
    np.testing.assert_array_equal(found.times, TIMES)
    sources = generators(range(7), seed=3, stream=POSITIVE)
    for k, (x, classes, index, t) in enumerate(seen):
        assert (index, t) == (k, TIMES[k])
        assert classes.tolist() == list(range(7))
        expected = SCHEDULE(torch.tensor(TIMES[k] + 0.05)).mix(data[:7], normal(sources, data.shape[1:]))
        torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)


def test_the_null_counts_what_is_called_a_shift_or_is_no_level(instrument):
    data = draws(60, 11)
    several = {"right": instrument, "off": off(instrument, [0, 0.2, 0]), "no level": off(instrument, [0, 0, 9.0])}
    frame, check = null_control(several, data, seed=1)
    usable = frame[readable(frame.slope)]
    alarms = int((usable.resolved | usable["shift"].isna()).sum())
    limit = int(stats.binom.ppf(0.995, len(usable), 0.05))
    assert list(frame.estimator) == ["right"] * 3 + ["off"] * 3 + ["no level"] * 3
    assert list(frame.index) == list(range(9))
    assert alarms == 2
    assert (check.name, check.passed) == ("null", alarms <= limit)
    assert (
        check.sentence
        == f"{alarms} of {len(usable)} readings of held-out real states are called a shift (by chance up to {limit})"
    )


def test_as_many_as_chance_allows_pass_and_one_more_does_not(instrument):
    """Of three levels chance allows two alarms, and asks that one known shift lies in its interval."""
    data = draws(60, 11)
    assert (stats.binom.ppf(0.995, 3, 0.05), stats.binom.ppf(0.005, 3, 0.95)) == (2, 1)
    two, three = {"off": off(instrument, [0.2, 0.2, 0])}, {"off": off(instrument, [0.2, 0.2, 9])}
    assert null_control(two, data, seed=1)[1].passed
    assert not null_control(three, data, seed=1)[1].passed
    assert level_control(two, data, seed=1)[1].passed
    assert not level_control(three, data, seed=1)[1].passed


def test_a_reading_whose_slope_cannot_be_read_is_not_counted(instrument):
    slopes = instrument.calibration.slopes * [1, 0.1, 1]
    dull = replace(instrument, calibration=replace(instrument.calibration, slopes=slopes))
    data = draws(60, 11)
    assert "of 2 readings" in null_control({"dull": off(dull, [0, 0.2, 0])}, data)[1].sentence
    assert "of 2 known shifts" in level_control({"dull": dull}, data)[1].sentence
    none = replace(instrument, calibration=replace(instrument.calibration, slopes=0 * slopes))
    assert null_control({"none": none}, data)[1] == Check("null", None, UNREAD)
    assert level_control({"none": none}, data)[1] == Check("level", None, UNREAD)


def test_the_known_shift_is_a_sixteenth_of_the_way_to_the_nearer_end(instrument):
    frame, check = level_control({"exact": instrument}, draws(60, 11), seed=1)
    np.testing.assert_allclose(frame.expected, [0.2 / 16, 0.4 / 16, 0.1 / 16])
    np.testing.assert_array_equal(frame.covered, (frame.low <= frame.expected) & (frame.expected <= frame.high))
    error = 100 * float((frame["shift"] / frame.expected - 1).abs().median())
    assert check.sentence == (
        f"{frame.covered.sum()} of 3 known shifts of held-out real states lie in their 95 % interval (at least 1 expected); "
        f"median error {error:.0f} % of the shift"
    )
    assert check.passed
    real = real_report("exact", instrument, draws(60, 11), offset=frame.expected.to_numpy(), seed=1, stream=POSITIVE)
    np.testing.assert_array_equal(frame["shift"], real.table()["shift"])


def test_the_noise_is_of_seed_0_unless_another_is_given(instrument):
    data, one = draws(30, 11), {"exact": instrument}
    for control in (null_control, level_control):
        pd.testing.assert_frame_equal(control(one, data)[0], control(one, data, seed=0)[0])
        assert not control(one, data)[0].equals(control(one, data, seed=1)[0])
    pd.testing.assert_frame_equal(
        real_report("exact", instrument, data).table(), real_report("exact", instrument, data, seed=0).table()
    )


def test_own_samples_are_not_called_data(instrument):
    own = replace(instrument, calibration=replace(instrument.calibration, baseline=OWN))
    assert (
        "of own final samples, re-noised, not data,"
        in null_control({"a": instrument, "b": own}, draws(60, 1))[1].sentence
    )


def shares(names=("network", "network", "residual"), **columns):
    parts = ("solver", "network", "exact_solver", "exact_network")
    rows = {"estimator": list(names), "whose": ["solver", "both", "network"]}
    for k, part in enumerate(parts):
        value = np.array([0.01, 0.03, 9.0]) * (k + 1)
        rows |= {part: value, f"{part}_low": value - 1e-9, f"{part}_high": value + 1e-9}
    return pd.DataFrame(rows | columns)


def test_the_split_is_said_of_the_first_estimator_by_both_experiments():
    rms = [float(np.sqrt((0.01**2 + 0.03**2) / 2)) * k for k in (1, 2, 3, 4)]
    check = share_check(shares())
    assert (check.name, check.passed) == ("solver's share", None)
    assert check.sentence == (
        f"read by network, rms over steps: by step refinement solver {rms[0]:.4f}, network {rms[1]:.4f}; by an exact model solver "
        f"{rms[2]:.4f}, network {rms[3]:.4f}; both experiments give 2 of 2 levels to the solver and 1 of 2 levels to the network"
    )
    without = share_check(shares(solver=[np.nan, np.nan, 1.0])).sentence
    assert (
        "rms over steps: this solver's steps cannot be refined, so there is no split by refinement; by an exact"
        in without
    )
    assert share_check(shares(("network", "residual", "residual"))).sentence.startswith("read by network, ")
    assert "step refinement solver" in share_check(shares(solver=[np.nan, 0.1, 1.0])).sentence


def test_the_content_control_counts_signs_and_intervals():
    """Three levels of a resolved shift of +0.03: against content +0.03, -0.05 and 0."""
    rng = np.random.default_rng(0)
    real = TIMES + 0.01 * rng.standard_normal((200, 3))
    sampled = TIMES + 0.03 + 0.01 * rng.standard_normal((100, 3))
    content = sampled - [0.03, -0.05, 0.0] + 1e-4 * rng.standard_normal((100, 3))
    content[:, 2] = sampled[:, 2] + 1e-4 * (np.arange(100) % 2 * 2 - 1)
    check = content_check({"network": report_of(TIMES, sampled, real, content=content), "other": None})
    assert check.name == "content"
    assert check.passed is None
    assert check.sentence.startswith("read by network, rms over steps: against real data 0.03")
    assert check.sentence.endswith("of 3 resolved steps 1 have the opposite sign there and 1 an interval that holds 0")
    assert content_check({"network": report_of(TIMES, sampled, real)}) == Check("content", None, "not measured")


def test_outcomes_in_words():
    checks = (Check("null", True, "few"), Check("level", False, "none"), Check("content", None, "so"))
    assert str(Controls(checks)).splitlines() == ["passed null: few", "FAILED level: none", "note   content: so"]
    assert repr(Controls(checks)) == "Controls(null passed, level FAILED, content note)"
