"""The measurement against exact targets: known shifts, intervals, floors, streams, files."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.models import Prediction
from noiseshift.diffusion.noise import generators, normal
from noiseshift.diffusion.samplers import Step, sample
from noiseshift.estimators.instrument import Calibration, Instrument, Readings, calibrate
from noiseshift.estimators.posterior import time_grid
from noiseshift.reading import ReadingError
from noiseshift.shift.controls import level_control, null_control, real_report
from noiseshift.shift.reading import measure
from noiseshift.shift.report import ShiftReport
from noiseshift.targets import Gaussian

SCHEDULE = ns.Linear()
TIMES = torch.tensor([0.8, 0.4, 0.1], dtype=torch.float64)


@pytest.fixture(scope="module")
def target():
    return Gaussian(torch.zeros(96), torch.logspace(-4, 0, 96))


@pytest.fixture(scope="module")
def estimator(target):
    return target.estimator(SCHEDULE, time_grid(SCHEDULE, 120, 0.005, 0.99))


@pytest.fixture(scope="module")
def calibration(target, estimator):
    return calibrate(estimator, target.sample(200, torch.Generator().manual_seed(0)), TIMES).calibration


@pytest.fixture(scope="module")
def instrument(estimator, calibration):
    return Instrument(estimator, calibration)


def shifted_steps(target, offset, n=150, seed=5):
    """One "run" whose states truly live at t + offset: an exactly known shift."""
    generator = torch.Generator().manual_seed(seed)
    x0 = target.sample(n, generator)
    for index, t in enumerate(TIMES):
        level = SCHEDULE(t + offset)
        x = level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        yield Step(index, t, x, Prediction(x, x, SCHEDULE(t).like(x)))
    yield Step(len(TIMES), torch.tensor(0.0, dtype=torch.float64), x0)


def test_calibration_of_the_exact_posterior_is_unbiased_where_it_is_resolved(calibration):
    error = calibration.spread / np.sqrt(len(calibration.real))
    assert (np.abs(calibration.bias[1:]) < 4 * error[1:] + 2e-3).all()
    assert (np.abs(calibration.slope - 1) < 0.25).all()


def test_a_known_shift_is_read_within_its_interval(target, instrument):
    table = measure(shifted_steps(target, 0.03), instrument).table()
    assert ((table.low < 0.03) & (0.03 < table.high)).all()
    assert table.resolved.all()
    assert (table.shift_log_snr < 0).all()  # noisier states have less signal


def test_the_shift_is_signed_and_sigma_e2_follows_it(target, instrument):
    table = measure(shifted_steps(target, -0.02), instrument).table()
    assert (table["shift"] < 0).all()
    expected = (table.t + table["shift"]) ** 2 - table.t**2
    np.testing.assert_allclose(table.sigma_e2, expected, rtol=1e-12)


def test_content_control_reads_zero_when_the_final_samples_are_the_data(target, instrument):
    table = measure(shifted_steps(target, 0.03), instrument).table()
    assert ((table.content_low < 0.03) & (0.03 < table.content_high)).all()


def test_nothing_is_read_where_the_estimator_is_insensitive(target, estimator, calibration):
    for factor in (0.1, 20.0):  # insensitive, or jumping between modes
        dull = dataclasses.replace(calibration, slopes=calibration.slopes * np.array([1.0, factor, 1.0]))
        table = measure(shifted_steps(target, 0.03), Instrument(estimator, dull)).table()
        assert np.isnan(table["shift"][1])
        assert not table.resolved[1]
        assert table["shift"].notna().sum() == 2


def test_paired_differences_are_sharper_than_two_reports(target, instrument):
    first = measure(shifted_steps(target, 0.03), instrument)
    second = measure(shifted_steps(target, 0.02), instrument)
    table = (first - second).table()
    # 5 % of the shift is the price of reading a curve by its slope at t.
    np.testing.assert_allclose(table.difference, 0.01, rtol=0.08)
    assert table.resolved.all()
    single = first.table()
    assert ((table.high - table.low) < (single.high - single.low)).all()


def test_unlike_reports_cannot_be_paired(target, instrument):
    first = measure(shifted_steps(target, 0.0), instrument)
    second = measure(shifted_steps(target, 0.0, n=20), instrument)
    with pytest.raises(ValueError, match="same number of samples"):
        first - second


def test_batches_and_several_estimators_change_nothing(target, instrument):
    model = target.model(SCHEDULE)
    x = normal(generators(range(12), seed=0, stream=0), (96,)).double()
    times = torch.tensor([1.0, 0.8, 0.4, 0.1, 0.0], dtype=torch.float64)
    whole = measure(sample(model, x, times), instrument)
    chain = (step for rows in x.split(5) for step in sample(model, rows, times))
    parts = measure(chain, {"a": instrument, "b": instrument})
    for name in "ab":
        np.testing.assert_allclose(parts[name].sampled.t, whole.sampled.t, atol=1e-9)
        np.testing.assert_allclose(parts[name].content.t, whole.content.t, atol=1e-9)


def test_a_report_survives_its_files(target, instrument, tmp_path):
    report = measure(shifted_steps(target, 0.03), instrument, name="exact")
    report.save(tmp_path)
    pd.testing.assert_frame_equal(ShiftReport.load(tmp_path).table(), report.table())
    long = pd.read_parquet(tmp_path / "shift.parquet")
    assert len(long[long.states == "sampled"]) == 150 * 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows[:0],
        lambda rows: rows[rows.row > 0],
        lambda rows: rows[rows.states != "slope"],
        lambda rows: rows[rows.states != "sampled"],
        lambda rows: rows.assign(estimator="another"),
        lambda rows: rows.assign(t=rows.t + 2),
        lambda rows: rows.assign(t=float("nan")),
        lambda rows: rows.assign(t=rows.t.map(lambda t: [t])),
        lambda rows: rows.assign(t_hat=[[]] * len(rows)),
        lambda rows: rows.assign(log_snr_hat="x"),
        lambda rows: rows.assign(step="x"),
        lambda rows: rows.sort_values("t_hat"),
        lambda rows: rows.sort_values(["states", "step", "row"]),
        lambda rows: rows.sample(frac=1, random_state=0),
        lambda rows: pd.concat([rows, rows]),
        lambda rows: rows.assign(states=rows.states.where(rows.row != 2, "real")),
        lambda rows: rows.assign(t=rows.t.where(rows.states != "real", rows.t / 2)),
        lambda rows: rows.assign(step=1),
    ],
    ids=[
        "empty",
        "no first row",
        "no slopes",
        "not sampled",
        "of another",
        "times past 1",
        "times not finite",
        "lists",
        "empty lists",
        "words for numbers",
        "words for steps",
        "sorted by readings",
        "sorted by steps",
        "shuffled",
        "doubled",
        "states of another kind",
        "real states of other times",
        "one step for all",
    ],
)
def test_a_table_without_a_reports_states_is_refused_by_name(damage, target, instrument, tmp_path):
    measure(shifted_steps(target, 0.03, n=4), instrument, name="exact").save(tmp_path)
    rows = pd.read_parquet(tmp_path / "shift.parquet")
    damage(rows).to_parquet(tmp_path / "shift.parquet")
    with pytest.raises(ReadingError, match=tmp_path.name):
        ShiftReport.load(tmp_path)


def test_posteriors_of_other_steps_are_refused_by_name(target, instrument, tmp_path):
    measure(shifted_steps(target, 0.03, n=4), instrument, name="exact").save(tmp_path)
    kept = dict(np.load(tmp_path / "posteriors.npz"))
    for part in (np.s_[:2], np.s_[:, :5]):
        np.savez(tmp_path / "posteriors.npz", **kept | {"exact/sampled": kept["exact/sampled"][part]})
        with pytest.raises(ReadingError, match=tmp_path.name):
            ShiftReport.load(tmp_path)


def test_times_that_the_run_never_meets_are_named(target, estimator):
    elsewhere = calibrate(estimator, target.sample(20, torch.Generator().manual_seed(0)), torch.tensor([0.55]))
    with pytest.raises(ValueError, match="calibrate at the sampler's own times"):
        measure(shifted_steps(target, 0.0), elsewhere)


def test_states_that_are_not_finite_stop_the_measurement(target, instrument):
    def broken():
        for step in shifted_steps(target, 0.0):
            yield dataclasses.replace(step, x=step.x * float("nan"))

    with pytest.raises(ValueError, match="not finite"):
        measure(broken(), instrument)


def test_null_and_level_controls_on_an_exact_estimator(target, instrument):
    data = target.sample(200, torch.Generator().manual_seed(11))
    null, check = null_control({"exact": instrument}, data)
    assert check.passed
    assert len(null) == 3
    level, check = level_control({"exact": instrument}, data)
    assert check.passed
    assert ((level["shift"] - level.expected).abs() < 1.5 * level.floor).all()
    assert (level["shift"] > 0).all()


def test_controls_say_so_where_no_state_could_be_read(target, estimator, calibration):
    flat = dataclasses.replace(calibration, slopes=calibration.slopes * 0)
    data = target.sample(50, torch.Generator().manual_seed(11))
    for control in (null_control, level_control):
        _, check = control({"exact": Instrument(estimator, flat)}, data)
        assert check.passed is None
        assert check.sentence == "no state could be read, so nothing was checked"


def test_null_control_catches_an_instrument_that_is_off(target, estimator, calibration):
    moved = dataclasses.replace(calibration.real, t=calibration.real.t + 0.05)
    off = dataclasses.replace(calibration, real=moved)
    data = target.sample(200, torch.Generator().manual_seed(11))
    assert not null_control({"exact": Instrument(estimator, off)}, data)[1].passed


def test_false_alarms_come_at_the_nominal_rate(target, estimator):
    alarms = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(100 + seed)
        one = calibrate(estimator, target.sample(80, generator), TIMES[:2], seed=seed, slope_rows=40)
        report = real_report("exact", one, target.sample(80, generator), seed=seed)
        alarms.append(report.table().resolved.to_numpy())
    assert np.sum(alarms) <= 6  # 99.9 % point of Binomial(40, 0.05) is 7


def test_readings_of_batches_average_their_densities_by_size():
    small = Readings(np.zeros((1, 1)), np.zeros((1, 1)), np.array([[1.0, 0.0]]))
    large = Readings(np.ones((3, 1)), np.ones((3, 1)), np.array([[0.0, 1.0]]))
    joined = Readings.concatenate([small, large])
    np.testing.assert_allclose(joined.density, [[0.25, 0.75]])
    assert len(joined) == 4


def test_calibration_needs_times_between_the_ends(target, estimator):
    with pytest.raises(ValueError, match="strictly between"):
        calibrate(estimator, target.sample(4, torch.Generator().manual_seed(0)), torch.tensor([1.0, 0.5]))


def test_calibration_draws_its_noise_from_a_generator_as_from_a_seed(target, estimator):
    data = target.sample(20, torch.Generator().manual_seed(0))
    first, second, other = (
        calibrate(estimator, data, TIMES, generator=torch.Generator().manual_seed(seed)).bias for seed in (3, 3, 4)
    )
    assert (first == second).all()
    assert (first != other).any()


def test_what_is_measured_is_shown_in_a_line(target, instrument):
    report = measure(shifted_steps(target, 0.03, n=8), instrument)
    assert repr(report) == "ShiftReport(shift, 8 samples at 3 times from t = 0.80 to 0.10: see .table())"
    for shown in (report - report, report.sampled, instrument.calibration):
        assert type(shown).__name__ in repr(shown)
        assert len(repr(shown)) < 250


def test_calibration_type_is_public():
    assert ns.Calibration is Calibration
