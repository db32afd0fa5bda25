"""Classes that are numbered otherwise than in training are found, and networks that know no classes are not blamed."""

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.shift.numbering import FEWEST, NAME, _by_class, _Tried, numbering, numbering_calls
from noiseshift.shift.preflight import preflight

DATA = ns.data.reference()[:48]
WORDS = torch.tensor([0, 2, 3, 4, 5, 6, 7, 8, 9, 1])  # the place of 1 … 10 among "1", "10", "2", …
NUMBERS = {
    "counted from one": (lambda y: (y + 1) % 10, "each is one smaller"),
    "counted from minus one": (lambda y: (y - 1) % 10, "each is one larger"),
    "by number, the network by words": (lambda y: WORDS.argsort()[y], "sorted as words (1, 10, 2)"),
    "any order": (lambda y: torch.tensor([3, 8, 5, 0, 9, 1, 7, 4, 2, 6])[y], "is denoised best as"),
    "of other rows": (lambda y: y.flip(0), None),
}


def gaussians(classes, means=None):
    """An exact model of one Gaussian a class, whose means (classes, 4) lie apart."""
    target = ns.targets.Gaussian(torch.zeros(4, dtype=torch.float64), torch.full((4,), 0.1, dtype=torch.float64))
    exact = target.model(ns.Linear())
    if means is None:
        means = 2 * torch.randn(classes, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def denoise(x, t, cond):
        mean = means[cond]
        alpha = exact.schedule(t).like(x).alpha
        return exact(x - alpha * mean, t).x0 + mean

    return ns.wrap(denoise, ns.Linear(), predicts="x0"), means, target


def drawn(classes, rows=64):
    model, means, target = gaussians(classes)
    cond = torch.arange(rows) % classes
    return model, target.sample(rows, torch.Generator().manual_seed(1)) + means[cond], cond


@pytest.mark.parametrize("name", ["fashion-sit", "fashion-ddpm"])
def test_the_bundled_models_know_their_classes(name):
    found = numbering(ns.load(name).model, DATA.floats[:32], DATA.labels[:32], 10)
    assert found.passed, found.sentence


@pytest.mark.parametrize("case", NUMBERS)
def test_other_numbers_are_found_on_the_bundled_model(case):
    change, words = NUMBERS[case]
    found = numbering(ns.load().model, DATA.floats[:32], change(DATA.labels)[:32], 10)
    assert found.passed is not True, found.sentence
    if words is not None:
        assert found.passed is False, found.sentence
        assert words in found.sentence


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_exact_models_of_few_and_many_classes(classes):
    model, x0, cond = drawn(classes)
    assert numbering(model, x0, cond, classes).passed
    assert numbering(model, x0, (cond + 1) % classes, classes).passed is False


@pytest.mark.parametrize("pair", [(0, 6), (2, 4), (3, 8), (5, 7), (1, 9)])
def test_two_classes_exchanged_are_found_on_the_bundled_model(pair):
    """Shirts and T-shirts, pullovers and coats are the pairs that are least apart."""
    every = ns.data.reference()
    order = torch.arange(10)
    order[[*pair]] = order[[*reversed(pair)]]
    labels = order[every.labels]
    rest = every.floats[32:], labels[32:]
    found = numbering(ns.load().model, every.floats[:32], labels[:32], 10, more=rest)
    assert found.passed is False, found.sentence
    assert f"classes {pair[0]} and {pair[1]} are exchanged" in found.sentence


def test_exchanged_classes_need_other_rows():
    model, x0, cond = drawn(10, 400)
    order = torch.tensor([1, 0, *range(2, 10)])
    assert numbering(model, x0[:64], order[cond[:64]], 10).passed
    assert numbering(model, x0[:64], order[cond[:64]], 10, more=(x0[64:], order[cond[64:]])).passed is False
    assert numbering(model, x0[:64], cond[:64], 10, more=(x0[64:], cond[64:])).passed


@pytest.mark.parametrize(("rows", "passes"), [(7, True), (8, False)])
def test_eight_other_rows_of_two_classes_say_that_they_are_exchanged(rows, passes):
    model, x0, cond = drawn(10, 400)
    given = torch.tensor([1, 0, *range(2, 10)])[cond]
    pair = torch.cat([torch.where(cond[64:] < 2)[0][:rows], torch.where(cond[64:] > 1)[0]]) + 64
    assert numbering(model, x0[:64], given[:64], 10, more=(x0[pair], given[pair])).passed is passes


def test_exchanged_classes_are_found_where_no_other_class_tells_anything():
    """Of ten classes eight are one: hardly a row's own class is better than another, and too few rows say that two are wrong."""
    apart = torch.zeros(10, 4, dtype=torch.float64)
    apart[0], apart[1] = 0.3, -0.3
    model, means, target = gaussians(10, apart)
    cond = torch.arange(420) % 10
    x0 = target.sample(420, torch.Generator().manual_seed(1)) + means[cond]
    given = torch.tensor([1, 0, *range(2, 10)])[cond]
    alone = numbering(model, x0[:20], given[:20], 10)
    assert alone.passed is None, alone.sentence
    found = numbering(model, x0[:20], given[:20], 10, more=(x0[20:], given[20:]))
    assert found.passed is False
    assert "classes 0 and 1 are exchanged" in found.sentence


@pytest.mark.parametrize("kind", ["heeds none", "heeds them hardly", "one suits all"])
@pytest.mark.parametrize("seed", range(5))
def test_a_network_that_knows_no_classes_is_not_blamed(kind, seed):
    model, means, target = gaussians(10)
    x0 = target.sample(64, torch.Generator().manual_seed(seed)) + means[0]
    noise = torch.randn(10, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    added = {
        "heeds none": 0 * noise,
        "heeds them hardly": 1e-3 * noise,
        "one suits all": (torch.arange(10) != seed)[:, None] * noise[:1],
    }[kind]
    network = ns.wrap(lambda x, t, c: model(x, t, 0 * c).x0 + added[c], ns.Linear(), predicts="x0")
    assert numbering(network, x0, torch.arange(64) % 10, 10).passed is not False


@pytest.mark.parametrize("classes", [1, 2, 3, 16, 17])
@pytest.mark.parametrize(("rows", "more"), [(FEWEST - 1, 64), (FEWEST, 64), (32, 8), (32, 100)])
def test_calls_are_those_that_are_foretold(classes, rows, more):
    model, x0, cond = drawn(classes, rows + more)
    calls = []

    def counted(x, t, label):
        calls.append(len(x))
        return model(x, t, label).x0

    network = ns.wrap(counted, ns.Linear(), predicts="x0")
    found = numbering(network, x0[:rows], cond[:rows], classes, more=(x0[rows:], cond[rows:]))
    assert sum(calls) == numbering_calls(classes, rows, more)
    assert ("not checked" in found.sentence) is (classes < 2 or rows < FEWEST)


def test_classes_are_tried_at_a_noise_by_the_spread_over_rows():
    """Rows that are each one number, of either sign: over them the spread is 1, within them 0."""
    x0 = torch.tensor([1.0, -1.0]).repeat(50)[:, None].expand(100, 4)
    tried = _Tried(ns.wrap(lambda x, t, cond: x, ns.Linear(), predicts="x0"), x0, torch.arange(100) % 2, 2)
    level = ns.Linear()(tried.times[0])
    assert float(level.sigma / level.alpha) == pytest.approx(1.6, rel=0.02)


def test_preflight_says_it():
    images = ns.data.reference()[:256]
    wrong = ns.data.Images(images.pixels, (images.labels + 1) % 10)
    assert [check.name for check in preflight(ns.load(), wrong, samples=0).failures] == [NAME]


def test_a_class_of_one_row_says_nothing():
    """What the others of its class choose is nothing there: the first class would be taken, which may hide what all others say."""
    cond = np.append(np.repeat([0, 1], 12), 2)
    errors = 1 + 0.01 * np.random.default_rng(0).normal(size=(25, 3))
    errors[np.arange(24), cond[:24]] -= 0.5  # the network's own class errs less
    errors[24] = [5.0, 5.0, 0.5]
    assert _by_class(errors, cond) is None
    said = _by_class(errors[:, [1, 0, 2]], cond)
    assert said is not None
    assert said.startswith("class 0 is denoised best as 1, 1 is denoised best as 0")
