"""A time that is off by half a percent of the table is found and named; networks that are given their level are not blamed."""

import re

import numpy as np
import pytest
import torch
import yaml

import noiseshift as ns
from noiseshift.data import ASSETS
from noiseshift.shift.denoising import denoised
from noiseshift.shift.preflight import preflight
from noiseshift.shift.retiming import _MOVED, NAME, OFFSETS, _jackknifed, _Tried, _vertex, retiming

DIM = 256
SCHEDULE = ns.Linear()


def exact():
    """Gaussian data of a falling spectrum, and their exact denoiser."""
    variances = torch.arange(1, DIM + 1, dtype=torch.float64) ** -1.5
    return ns.targets.Gaussian(torch.zeros(DIM, dtype=torch.float64), variances)


def network(change, integer=False):
    """What `change` makes of the number that it is handed is its t: 1,000 t, or a place from 0 in a table of 100."""
    model = exact().model(SCHEDULE)
    time = {"scale": 100, "offset": -1, "integer": True} if integer else {"scale": 1000.0}
    return ns.wrap(lambda x, t, cond: model(x, change(t), cond).x0, SCHEDULE, predicts="x0", time=time)


def checked(model, seed=0, rows=32):
    x0 = exact().sample(256 + rows, torch.Generator().manual_seed(seed)).float()
    found = denoised(model, x0[rows:], x0[:rows])
    return retiming(model, x0[:rows], torch.tensor(found.table.t), found.errors)


@pytest.mark.parametrize("seed", range(20))
def test_an_exact_network_is_never_blamed(seed):
    found = checked(network(lambda n: n / 1000), seed)
    assert found.passed, found.sentence


@pytest.mark.parametrize("entries", [-20, -10, 10, 20])
def test_a_time_that_is_off_is_named_with_its_interval(entries):
    found = checked(network(lambda n: ((n + entries) / 1000).clamp(1e-4, 1 - 1e-4)))
    assert found.passed is False
    low, high, units = map(
        float, re.search(r"\[([-+.\d]+), ([-+.\d]+)\], ([-+.\d]+) in its own", found.sentence).groups()
    )
    assert low - 1e-3 <= -entries / 1000 <= high + 1e-3
    assert f"conditioned on {'less' if entries > 0 else 'more'} noise than its states have" in found.sentence
    assert units == pytest.approx(-entries, abs=2)


def test_no_call_of_a_search_is_made_twice():
    """Of a table that is coarse: what is tried comes back to the same entries. Its first look, by other rows, has its own calls."""
    model, handed = exact().model(SCHEDULE), []

    def predicted(x, t, cond):
        handed.append((len(x), float(t[0]), float(x.double().sum())))
        return model(x, ((t + 6) / 100).clamp(1e-4, 1 - 1e-4), cond).x0

    found = ns.wrap(predicted, SCHEDULE, predicts="x0", time={"scale": 100, "offset": -1, "integer": True})
    x0 = exact().sample(288, torch.Generator().manual_seed(0)).float()
    errors = denoised(found, x0[32:], x0[:32])
    handed.clear()
    assert retiming(found, x0[:32], torch.tensor(errors.table.t), errors.errors).passed is False
    assert len(handed) > 30
    assert len(set(handed)) == len(handed)


def test_a_time_that_is_multiplied_is_named():
    found = checked(network(lambda n: n / 1100))
    assert found.passed is False
    assert float(re.search(r": ([.\d]+) t \[", found.sentence)[1]) == pytest.approx(1.1, abs=0.02)


@pytest.mark.parametrize(("shift", "passes"), [(0, True), (1, False), (-1, False)])
def test_labels_off_by_one_in_a_table_of_a_hundred(shift, passes):
    found = checked(network(lambda n: ((n.double() + 1 + shift) / 100).clamp(1e-4, 1 - 1e-4), integer=True))
    assert found.passed is passes, found.sentence


def test_the_smallest_that_is_seen_and_what_is_not():
    """By the page: 5 of 1,000 are said, 1 of 1,000 and 1 % of t are not."""
    said = checked(network(lambda n: (n + 5) / 1000))
    assert said.passed is None
    assert "by themselves" in said.sentence
    assert checked(network(lambda n: (n + 1) / 1000)).passed
    assert checked(network(lambda n: n / 1010)).passed


def test_numbers_of_its_own_are_named_only_where_they_differ_alike_at_all_levels():
    model = exact().model(SCHEDULE)
    times = {"conditioning": "log_sigma"}
    found = checked(
        ns.wrap(
            lambda x, n, cond: model(x, n.exp() / (1 + n.exp()) + 0.02, cond).x0, SCHEDULE, predicts="x0", time=times
        )
    )
    assert found.passed is False
    assert "in its own" not in found.sentence


@pytest.mark.parametrize(("errors_above", "passes"), [(1.02, False), (0.98, True)])
def test_what_is_certain_is_a_mean_over_its_standard_error(errors_above, passes):
    """A level whose error is so many standard errors below that of the card's own, over eight rows, the fewest that are judged."""
    model = network(lambda n: n / 1000)
    x0 = exact().sample(8, torch.Generator().manual_seed(0)).float()
    t = torch.tensor([0.5], dtype=torch.float64)
    tried = _Tried(model, x0, None)
    below = tried.errors(t[0], tried.beside(t[0])[0])
    gain = np.array([1.0, -1.0] * 4)
    gain = errors_above * 3.5 * gain.std(ddof=1) / np.sqrt(8) + gain
    found = retiming(model, x0, t, (below + 1e-3 * gain)[:, None])
    assert (found.passed is True) is passes, found.sentence


def test_beside_a_level_of_a_coarse_table_lie_its_neighbours():
    """Ten levels: none is so near that a tenth in log-SNR leads to another one."""
    model = ns.wrap(lambda x, t, cond: x, SCHEDULE, predicts="x0", levels=torch.arange(1.0, 10.0).double() / 10)
    tried = _Tried(model, torch.zeros(8, 4), None)
    assert [float(each) for each in tried.beside(torch.tensor(0.5, dtype=torch.float64))] == pytest.approx([0.4, 0.6])
    assert tried.beside(torch.tensor(0.1, dtype=torch.float64))[0] is None
    assert tried.beside(torch.tensor(0.9, dtype=torch.float64))[1] is None


def test_changes_that_lead_to_one_level_are_tried_once():
    model = network(lambda n: ((n.double() + 1) / 100).clamp(1e-4, 1 - 1e-4), integer=True)
    tried = _Tried(model, exact().sample(8, torch.Generator().manual_seed(0)).float(), None)
    moved, errors = tried._curve(torch.tensor([0.3, 0.6], dtype=torch.float64), _MOVED, OFFSETS)
    assert moved == pytest.approx([0, 0.01, 0.02, 0.04, 0.08])
    assert errors.shape == (5, 8)


def test_the_least_of_a_parabola():
    """Between three points exactly, never beyond them; of fewer, or where it has no least, the least of the points."""
    at = np.array([0.0, 1.0, 3.0])
    assert _vertex(at, (at - 1.25) ** 2) == pytest.approx(1.25)
    assert _vertex(at, (at + 5) ** 2) == 0
    assert _vertex(at, (at - 9) ** 2) == 3
    assert _vertex(at, -((at - 1) ** 2)) == 3
    assert _vertex(at[:2], np.array([2.0, 1.0])) == 1


def test_a_network_that_refuses_other_times_is_not_tried():
    model = network(lambda n: n / 1000)
    x0 = exact().sample(64, torch.Generator().manual_seed(0)).float()
    found = denoised(model, x0[32:], x0[:32])

    def refuses(x, t, cond):
        raise KeyError("no such time")

    model.fn = refuses
    said = retiming(model, x0[:32], torch.tensor(found.table.t), found.errors)
    assert said.passed is None
    assert "fails" in said.sentence


def test_preflight_says_it_and_names_the_units_of_the_card():
    card = yaml.safe_load((ASSETS / "fashion-ddpm.yaml").read_text())
    card["time"]["offset"] = 9.0
    found = preflight(ns.load(ASSETS / "fashion-ddpm.safetensors", card=card), ns.data.reference(), samples=0)
    assert [check.name for check in found.failures] == [NAME]
    assert re.search(r"-(9\.\d+|10|10\.\d+) in its own numbers", found.failures[0].sentence)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    rows = np.random.default_rng(0).normal(size=16)
    without = [float(np.delete(rows, i).mean()) for i in range(16)]
    assert _jackknifed(without) == pytest.approx(rows.std(ddof=1) / 4, rel=1e-12)
