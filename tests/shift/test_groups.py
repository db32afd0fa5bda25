"""Which samples and which real states make a group, and what its row says."""

import numpy as np
import pytest
from reports import report_of

from noiseshift.shift.groups import Groups, measure_groups
from noiseshift.shift.inference import Ratio
from noiseshift.shift.parts import PARTS

TIMES = np.array([0.6, 0.2])


def report(sampled, real, name="network", seed=0):
    """Samples of group `a` read 0.1 too high, real states of it 0.04; those of `b` as they are."""
    rng = np.random.default_rng(seed)
    high, low = ({"a": shift, "b": 0.0} for shift in (0.1, 0.04))
    read = [np.array([[of[g]] for g in names]) + TIMES for of, names in ((high, sampled), (low, real))]
    noise = [0.01 * rng.standard_normal(values.shape) for values in read]
    return report_of(TIMES, read[0] + noise[0], read[1] + noise[1], name=name, steps=np.array([3, 7]))


def test_a_group_is_eight_samples_and_is_against_eight_real_states_of_its_own():
    sampled, real = ["a"] * 8 + ["b"] * 8, ["b"] * 20 + ["a"] * 8
    found = measure_groups({"network": report(sampled, real)}, Groups("class", sampled, real))
    assert {*found.against} == {"held-out data"}
    np.testing.assert_allclose(found[found.part == "a"]["shift"], 0.06, atol=0.01)
    np.testing.assert_allclose(found[found.part == "b"]["shift"], 0.0, atol=0.01)
    few = measure_groups({"network": report(sampled, real[:-1])}, Groups("class", sampled, real[:-1]))
    assert list(few.against) == ["all of held-out data"] * 2 + ["held-out data"] * 2
    with pytest.raises(ValueError, match="the class a has 7 samples of 15: by group, each needs at least 8"):
        Groups("class", sampled[1:], real)


def test_a_row_per_estimator_group_and_step():
    sampled, real = ["b", "a"] * 10, ["a", "b"] * 15
    reports = {name: report(sampled, real, name, seed) for seed, name in enumerate(("network", "residual"))}
    found = measure_groups(reports, Groups("prompt", sampled, real))
    assert list(found.columns) == list(PARTS)
    assert list(found.index) == list(range(8))
    assert {*found.kind} == {"prompt"}
    assert list(found.estimator) == ["network"] * 4 + ["residual"] * 4
    assert list(found.part) == ["b", "b", "a", "a"] * 2
    assert list(found.step) == [3, 7] * 4
    assert list(found.t) == [0.6, 0.2] * 4
    assert (found.n == 10).all()
    one = reports["network"]
    rows = np.array(sampled) == "b"
    ratio = Ratio.of_difference(
        one.sampled.t[rows], one.calibration.real.t[np.array(real) == "b"], one.calibration.slopes, seed=1000
    )
    np.testing.assert_allclose(found["shift"][:2], ratio.value)


def test_an_estimator_that_read_too_few_of_a_group_is_left_out():
    sampled, real = ["a"] * 10 + ["b"] * 10, ["a", "b"] * 15
    groups = Groups("class", sampled, real)
    whole = report(sampled, real)
    assert set(measure_groups({"network": report(sampled[:18], real)}, groups).part) == {"a", "b"}
    found = measure_groups({"network": report(sampled[:17], real, "network"), "residual": whole}, groups)
    assert len(found) == 4
    assert measure_groups({"network": report(sampled[:17], real)}, groups).empty


def test_real_states_that_were_not_read_are_of_no_group():
    sampled, real = ["a", "b"] * 10, ["a", "b"] * 15
    found = measure_groups({"network": report(sampled, real)}, Groups("class", sampled, real + ["a"] * 50))
    assert {*found.against} == {"held-out data"}


def test_another_level_of_the_intervals_is_another_width():
    sampled, real = ["a", "b"] * 20, ["a", "b"] * 30
    one, groups = report(sampled, real), Groups("class", sampled, real)
    wide, narrow = (measure_groups({"network": one}, groups, level) for level in (0.99, 0.8))
    assert ((wide.high - wide.low) > 1.3 * (narrow.high - narrow.low)).all()
