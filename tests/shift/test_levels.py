"""A shift leads from its conditioning time to a level of the schedule, or it is none."""

import numpy as np
import pytest
from reports import report_of

import noiseshift as ns
from noiseshift.approximation.path import PathReport
from noiseshift.shift.groups import Groups, measure_groups
from noiseshift.shift.inference import Ratio
from noiseshift.shift.summary import mean_square, rms_shift, run_answer, terminal_shift

TIMES = np.array([0.91, 0.5, 0.05])


def made(shift, *, spread=0.01, n=64, name="residual", seed=0, content=False):
    """A report of those shifts exactly, whose states scatter by `spread`."""
    rng = np.random.default_rng(seed)
    sampled, real = (rng.standard_normal((n, len(TIMES))) for _ in range(2))
    rows, real = (TIMES + spread * (each - each.mean(0)) for each in (sampled, real))
    return report_of(TIMES, rows + np.array(shift), real, name=name, content=real if content else None)


@pytest.mark.parametrize(
    ("shift", "readable"),
    [
        ([-1.36, 0.0, 0.0], [False, True, True]),
        ([0.2, 0.0, -0.08], [False, True, False]),
        ([0.085, 0.0, -0.045], [True, True, True]),
        ([0.0901, 0.0, -0.0501], [True, True, True]),
        ([-0.905, 0.5001, 0.94], [True, True, True]),
    ],
)
def test_a_shift_is_read_where_its_interval_reaches_a_level(shift, readable):
    table = made(shift, content=True).table()
    assert table["shift"].notna().tolist() == readable
    columns = ["shift", "low", "high", "band_low", "band_high", "shift_log_snr", "sigma_e2", "floor", "content_shift"]
    assert (table[columns].notna().all(axis=1) == table[columns].notna().any(axis=1)).all()
    assert not table.resolved[table["shift"].isna()].any()


def test_the_rule_is_the_intervals_own_end():
    """At 64 states of spread .01 the interval ends .0036 from the shift: to 1e-9 beyond the end, it is read."""
    low, _ = (float(end[0]) for end in made([0.1, 0.0, 0.0]).ratio().interval())
    for beyond, stays in ((-1e-9, True), (1e-9, False)):
        at = np.array([1 - low + beyond, 0.5, 0.05])
        assert made([0.1, 0.0, 0.0]).ratio().readable(at)[0] == stays
        assert made([-0.1, 0.0, 0.0]).ratio().readable(np.array([low - beyond, 0.5, 0.05]))[0] == stays


@pytest.mark.parametrize("end", [0, 2])
def test_a_state_at_the_end_of_the_schedule_stays_in_all_but_its_intervals_errors(end):
    """The truth is t + δ = 1, or 0: 95 % intervals hold it in all but 1 of 20, half of these to the outside."""
    shift = np.zeros(3)
    shift[end] = 1 - TIMES[0] if end == 0 else -TIMES[2]
    rng = np.random.default_rng(end)
    kept = []
    for _ in range(200):
        sampled, real = (TIMES + 0.2 * rng.standard_normal((64, 3)) for _ in range(2))
        kept.append(Ratio.of_difference(sampled + shift, real, np.ones((20, 3))).readable(TIMES)[end])
    assert np.mean(kept) > 0.975 - 3 * (0.025 * 0.975 / 200) ** 0.5


def test_a_reading_that_is_no_level_says_nothing_anywhere():
    wild, tame = made([-1.36, 0.0, 0.0]), made([0.0, 0.0, 0.0], name="network", seed=1)
    assert not wild.test().significant
    answer = run_answer({"residual": wild, "network": tame})
    assert not answer.significant
    assert not answer.agreement.significant
    assert rms_shift(wild) < 0.01
    assert abs(mean_square(wild)) < 1e-4
    assert terminal_shift(made([0.0, 0.1, -0.9])) == pytest.approx(0.1)
    difference = wild - made([0.0, 0.0, 0.0], seed=0)
    assert difference.table().difference.isna().tolist() == [True, False, False]
    assert not difference.test().significant
    groups = measure_groups({"residual": wild}, Groups("class", ["a"] * 32 + ["b"] * 32))
    assert groups["shift"].isna().tolist() == [True, False, False] * 2


def test_where_no_reading_is_a_level_there_is_no_answer():
    wild = made([-1.36, 0.9, -0.5])
    assert np.isnan(wild.test().p)
    assert np.isnan(mean_square(wild))
    assert np.isnan(run_answer({"residual": wild}).run.p)


def test_along_a_path_too():
    report = made([-1.36, 0.0, 0.0])
    nothing, fine = np.zeros((64, 3)), made([0.0, 0.0, 0.0]).sampled.t
    scalars = dict.fromkeys(("sigma_e2", "cross", "kurtosis", "along_x0", "along_eps"), nothing)
    path = PathReport(
        "residual",
        ns.Linear(),
        TIMES,
        report.calibration,
        coarse=report.sampled.t,
        fine=fine,
        spectrum=nothing[:3, :0],
        **scalars,
    )
    found = path.table()
    assert found[["measured", "low", "high", "total"]].isna().all(axis=1).tolist() == [True, False, False]
    assert not found.resolved[0]
