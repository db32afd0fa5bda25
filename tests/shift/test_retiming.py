"""A time that is off by half a percent of the table is found and named; networks that are given their level are not blamed."""

import re

import pytest
import torch
import yaml

import noiseshift as ns
from noiseshift.data import ASSETS
from noiseshift.shift.denoising import denoised
from noiseshift.shift.preflight import preflight
from noiseshift.shift.retiming import NAME, retiming

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
    assert units == pytest.approx(-entries, abs=2)


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
