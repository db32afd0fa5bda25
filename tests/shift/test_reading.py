"""Which states are read, by whom, and what is kept of a batch."""

import dataclasses

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.samplers import Step
from noiseshift.estimators.instrument import common_times, place
from noiseshift.shift.reading import first_rows, read_run, runs_of, visits

TIMES = np.array([0.75, 0.5, 0.25])


class FirstCoordinate:
    """Reads the level that the state's first coordinate says, and remembers which conditions came with it."""

    schedule = ns.Linear()
    times = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)

    def __init__(self):
        self.conditions = []

    def __call__(self, x, cond=None, *, step=None):
        self.conditions.append(cond)
        return ns.Posterior.from_log_density(self.times, -(((self.times - x[:, :1].double()) / 2e-3) ** 2))


def instrument(times=TIMES, limit=None):
    # Real states whose first coordinate is the level: data 0, noise 1.
    made = ns.calibrate(FirstCoordinate(), torch.zeros(4, 2), torch.tensor(times), slope_rows=2)
    return dataclasses.replace(made, limit=limit)


def run(times=(1.0, 0.75, 0.5, 0.25, 0.0), rows=3, first=0):
    """A run whose state at each step says, in its first coordinate, which step it is."""
    last = len(times) - 1
    for k, t in enumerate(times):
        x = torch.full((rows, 2), 0.1 + 0.05 * k)
        t_cond = torch.tensor(t, dtype=torch.float64)
        yield Step(first + k, t_cond, x, None if k == last else ns.Prediction(x, x, ns.Linear()(t_cond).like(x)))


def read_steps(steps, instruments=None, **options):
    batch = read_run(steps, instruments or {"a": instrument()}, content=False, **options)
    return batch, np.round((batch.sampled["a"].t.mean(0) - 0.1) / 0.05).astype(int).tolist()


def test_states_are_read_at_the_calibrated_times_whatever_their_index():
    batch, found = read_steps(run(first=7))
    assert found == [1, 2, 3]
    assert batch.steps.tolist() == [8, 9, 10]


def test_a_time_that_is_met_twice_is_known_by_its_index():
    times = (1.0, 0.75, 0.5, 0.75, 0.5, 0.25, 0.0)  # a sampler that goes up again
    assert read_steps(run(times))[1] == [1, 2, 5]
    assert read_steps(run(times), at=[3, 4, 5])[1] == [3, 4, 5]


def test_states_inside_a_step_are_not_read():
    steps = [dataclasses.replace(step, internal=step.index == 1) for step in run((1.0, 0.75, 0.75, 0.5, 0.25, 0.0))]
    assert read_steps(steps)[1] == [2, 3, 4]


def test_an_index_at_another_time_is_refused():
    with pytest.raises(ValueError, match=r"step 2 is at t = 0.5000, its readings are calibrated at t = 0.7500"):
        read_steps(run(), at=[2, 3, 4])


def test_one_time_alone_can_be_read():
    batch, found = read_steps(run(), {"a": instrument((0.5,))})
    assert found == [2]
    assert batch.steps.tolist() == [2]


def test_a_time_that_is_never_met_is_named():
    with pytest.raises(ValueError, match=r"t = 0.2500 is missing"):
        read_steps(run((1.0, 0.75, 0.5, 0.0)))


def test_all_batches_are_read_at_the_steps_of_the_first():
    """A later run that passes another state at the same time first is still read where the first one was."""
    first = run((1.0, 0.75, 0.5, 0.25, 0.0))
    second = [dataclasses.replace(step, index=k) for step, k in zip(run(), (0, 1, 2, 9, 10), strict=True)]
    with pytest.raises(ValueError, match="calibrate at the sampler's own times"):
        ns.measure([*first, *second], instrument(), content=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loop_in_single_precision_meets_its_times(dtype):
    times = np.linspace(0.999, 0.001, 41)
    assert [place(times, torch.tensor(t, dtype=dtype)) for t in times] == list(range(41))
    assert place(times, 0.5 + 1e-4) is None
    assert place(np.zeros(0), 0.5) is None


def test_a_recorder_takes_single_precision_for_the_same_level():
    recorder = ns.Recorder(ns.Linear(), {"a": FirstCoordinate()})
    for t in (torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float32)):
        recorder.record(torch.zeros(2, 2), t)
    assert len(recorder.times) == 1
    assert len(recorder.report(torch.zeros(4, 2)).sampled) == 4


def test_times_need_not_fall_to_be_read():
    report = ns.measure(run(), instrument(TIMES[::-1].copy()), content=False)
    assert report.steps.tolist() == [3, 2, 1]
    assert (np.diff(report.sampled.t.mean(0)) < 0).all()


def test_what_is_kept_of_a_batch_has_its_final_states_and_conditions():
    cond = torch.arange(10)
    batch = read_run(run(), {"a": instrument()}, cond=cond, start=4, content=False)
    assert batch.size == 3
    torch.testing.assert_close(batch.final, torch.full((3, 2), 0.3))
    assert batch.cond.tolist() == [4, 5, 6]
    few = batch.keeping(1)
    assert (few.size, len(few.final), few.cond.tolist()) == (3, 1, [4])
    assert len(batch.keeping(-5).final) == 0


def test_an_instrument_with_a_limit_reads_the_first_samples_only():
    pair = {"a": instrument(), "b": instrument(limit=4)}
    reports = ns.measure([*run(), *run()], pair)
    assert [len(reports[name].sampled) for name in "ab"] == [6, 4]
    assert [len(reports[name].content) for name in "ab"] == [6, 4]
    batch = read_run(run(), {"b": instrument(limit=4)}, cond=torch.arange(10), start=3, content=False)
    assert len(batch.sampled["b"]) == 1
    assert pair["b"].rows(8, 3) == 0


def test_instruments_that_read_together_share_their_times():
    with pytest.raises(ValueError, match="same times"):
        common_times({"a": instrument(), "b": instrument(TIMES[:2].copy())})
    with pytest.raises(ValueError, match="no instrument"):
        common_times({})


def test_an_estimator_and_its_calibration_are_an_instrument():
    made = instrument()
    new = ns.measure(run(), made).table()
    for old in (made, made.calibration):
        assert ns.measure(run(), made.estimator, old).table().equals(new)
    with pytest.raises(TypeError, match="uncalibrated"):
        ns.measure(run(), made.estimator)


def test_visits_hands_on_every_step():
    assert [k for k, _ in visits(run(), TIMES)] == [None, 0, 1, 2, None]


def test_an_instrument_says_what_it_is():
    assert repr(instrument(limit=8)) == (
        "Instrument(FirstCoordinate, Calibration(4 real states at 3 times), up to 8 samples)"
    )


def test_a_state_is_read_with_its_own_class_and_its_own_index():
    class Recorded(FirstCoordinate):
        def __call__(self, x, cond=None, *, step=None):
            if cond is not None:
                self.conditions.append((step.first, cond.tolist()))
            return super().__call__(x, step=step)

    estimator = Recorded()
    made = dataclasses.replace(instrument(limit=6), estimator=estimator)
    read_run(run(), {"a": made}, cond=torch.arange(10), start=4)
    seen = [each for each in estimator.conditions if each is not None]
    assert seen == [(4, [4, 5])] * 6  # three times each, sampled and re-noised


def test_a_run_ends_at_a_state_without_a_prediction_that_is_no_trial():
    steps = [dataclasses.replace(step, prediction=None, internal=True) if step.index == 2 else step for step in run()]
    assert [len(list(one)) for one in runs_of([*steps, *run()])] == [5, 5]


def test_the_first_rows_of_a_step_lose_what_was_said_of_all():
    step = next(run())
    assert first_rows(step, 3) is step
    fewer = first_rows(step, 2)
    assert (len(fewer.x), fewer.prediction) == (2, None)
