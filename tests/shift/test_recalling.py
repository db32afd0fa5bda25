"""A network of custom code that fails as its card calls it: the words of the card with which it can be called, the fewest."""

import pytest
import torch

import noiseshift as ns
from noiseshift.calling import CodeError
from noiseshift.checkpoints.custom_code import Called
from noiseshift.diffusion.conventions import Calling, TimeInput
from noiseshift.networks.model import NetworkModel
from noiseshift.shift.recalling import better_call, remedied

STATES = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))


def words(fn, classes=0, time=None, cond=None):
    called = Called(fn, classes, time or TimeInput(scale=1000.0), Calling())
    model = NetworkModel(
        called, ns.Linear(), "x0", lambda t: 1000 * t, classes=classes, class_dropout=False, noise_dropout=False
    )
    return better_call(model, STATES, torch.tensor(0.5, dtype=torch.float64), cond, classes)


def takes(x, t):
    """An answer where these are states and a time each."""
    if tuple(x.shape) != (3, 2) or tuple(t.shape) != (3,):
        raise TypeError("one time a state")
    return x


def column(x, t):
    if tuple(t.shape) != (3, 1):
        raise TypeError("a column of times")
    return x


def whole(x, t):
    if t.dtype != torch.int64:
        raise TypeError("whole times")
    return x


NEEDS = {
    "the time first": (lambda t, x: takes(x, t), "signature: (t, x)"),
    "a column": (column, "time: {column: true}"),
    "whole numbers": (whole, "time: {integer: true}"),
    "a column of whole numbers": (lambda x, t: column(whole(x, t), t), "time: {integer: true, column: true}"),
    "the first of a tuple": (lambda x, t: (x, None), "output: first"),
    "two things": (lambda t, x: (takes(x, t), None), "signature: (t, x), output: first"),
    "a column and an order": (lambda t, x: column(x, t), "time: {column: true}, signature: (t, x)"),
    "three things": (lambda t, x: (column(x, t), None), None),
    "numbers that are finite": (lambda t, x: takes(x, t) * float("nan"), None),
    "what nobody gives": (lambda x, t: 1 / 0, None),
}


@pytest.mark.parametrize("case", NEEDS)
def test_the_words_that_are_wanting(case):
    fn, wanted = NEEDS[case]
    assert words(fn) == (None if wanted is None else f"with {wanted} in its card it can")
    wrapped = better_call(ns.wrap(fn, ns.Linear(), predicts="x0"), STATES, torch.tensor(0.5), None, 0)
    assert wrapped == (None if wanted is None else f"with {wanted} in ns.wrap it can")


def test_the_order_of_three_arguments():
    def network(x, label, t):
        if label.dtype != torch.int64 or t.dtype == torch.int64:
            raise TypeError("classes are whole, times are not")
        return takes(x, t)

    assert words(network, classes=4, cond=torch.tensor([0, 1, 3])) == "with signature: (x, label, t) in its card it can"


@pytest.mark.parametrize(("shape", "wanted"), [((3, 1), "column: true"), ((3, 4), "one_hot: true")])
def test_the_form_of_classes(shape, wanted):
    def network(x, t, label):
        if tuple(label.shape) != shape:
            raise TypeError("classes of another form")
        return x

    assert words(network, classes=4, cond=torch.tensor([0, 1, 3])) == f"with label: {{{wanted}}} in its card it can"


def test_a_network_of_our_own_has_no_words():
    model = NetworkModel(
        torch.nn.Identity(), ns.Linear(), "x0", lambda t: t, classes=0, class_dropout=False, noise_dropout=False
    )
    assert better_call(model, STATES, torch.tensor(0.5), None, 0) is None


@pytest.mark.parametrize(
    ("fn", "said"),
    [(column, "no answer; with time: {column: true} in ns.wrap it can"), (lambda x, t: 1 / 0, "no answer")],
)
def test_an_error_says_also_how_the_network_can_be_called(fn, said):
    model = ns.wrap(fn, ns.Linear(), predicts="x0")
    with pytest.raises(CodeError) as raised, remedied(model, STATES, torch.tensor(0.5), None, 0):
        raise CodeError("no answer")
    assert str(raised.value) == said


def test_a_model_that_is_no_custom_code_has_no_words():
    model = ns.targets.Gaussian(torch.zeros(2), torch.ones(2)).model(ns.Linear())
    assert better_call(model, STATES, torch.tensor(0.5), None, 0) is None
