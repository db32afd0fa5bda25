"""Networks of every convention: what they are handed, in which order, in which range; through a card and through `wrap`.

Each network here knows the exact answer for its own convention, so that a number read wrongly is an error of epsilon.
"""

import dataclasses
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import noiseshift as ns
from noiseshift.diffusion.conventions import TimeInput

SHAPE = (1, 4, 4)
X0 = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
EPS = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2))
DDPM = {"kind": "discrete", "steps": 1000}
STEP = {"scale": 1000, "offset": -1}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load what a function returns, as module:function does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strangers_file.py").write_text("made = None\ndef model(): return made\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "strangers_file", raising=False)

    def loaded(function, **card):
        import strangers_file

        strangers_file.made = function, {"shape": list(SHAPE), **card}
        return ns.load("strangers_file:model")

    return loaded


class Asked(nn.Module):
    """Answers the noise; keeps what it was asked."""

    def __init__(self, answer=lambda x: EPS[: len(x)]):
        super().__init__()
        self.calls, self.answer = [], answer

    def forward(self, *given):
        self.calls.append(given)
        return self.answer(next(part for part in given if part is not None and part.ndim > 2))


def asked(checkpoint, t, cond=None, x=None):
    """What the network was called with at t; the answer must be the noise that is in the states."""
    state = checkpoint.model.schedule(torch.tensor(t)).mix(X0, EPS) if x is None else x
    found = checkpoint.model(state, torch.tensor(t), cond)
    torch.testing.assert_close(found.eps, EPS)
    return checkpoint.model.network.fn.calls[-1]


@pytest.mark.parametrize("step", [0, 3, 10, 41, 499, 999])
def test_a_float_network_gets_its_step_exactly(load, step):
    checkpoint = load(Asked(), schedule=DDPM, prediction="epsilon", time=STEP)
    _, time = asked(checkpoint, np.float32((step + 1) / 1000).item())
    assert time.dtype == torch.float32
    assert time.tolist() == [step] * 3
    net = Asked()
    ns.wrap(net, ns.Discrete.from_betas(), predicts="epsilon", time=STEP)(X0, torch.tensor((step + 1) / 1000))
    assert net.calls[-1][1].tolist() == [step] * 3


def test_rounding_is_mended_and_nothing_else():
    time = TimeInput(scale=1000.0)
    for t in (0.00312, 0.12345, 0.5004, 0.99951):
        assert float(time(ns.Linear(), torch.tensor(t, dtype=torch.float64))) == 1000.0 * t


@pytest.mark.parametrize(
    ("word", "shape"), [(STEP, (3,)), ({}, (3,)), ({"column": True}, (3, 1)), ({"shape": ["B", 1]}, (3, 1))]
)
def test_an_embedding_is_indexed_by_whole_numbers(load, word, shape):
    embedding = nn.Embedding(1000, 16)
    net = Asked(lambda x: EPS[: len(x)])
    checkpoint = load(net, schedule=DDPM, prediction="epsilon", time={"integer": True, **word})
    _, time = asked(checkpoint, 0.042)
    assert embedding(time).shape[: len(shape)] == shape
    assert (time.dtype, tuple(time.shape), time.flatten().tolist()) == (torch.int64, shape, [41] * 3)


def test_whole_numbers_make_levels_of_a_continuous_schedule(load):
    time = {"integer": True, "zero": "noise", "scale": 100}
    checkpoint = load(Asked(lambda x: EPS - X0), schedule={"kind": "linear"}, prediction="velocity", time=time)
    assert len(checkpoint.model.levels) == 101
    assert float(checkpoint.model.snap(torch.tensor(0.337))) == pytest.approx(0.34)
    checkpoint.model.network.fn.answer = lambda x: X0 - EPS  # its time runs towards the data
    _, number = asked(checkpoint, 0.34)
    assert number.tolist() == [66] * 3


@pytest.mark.parametrize("key", ["told", "conditioning"])
@pytest.mark.parametrize(
    ("word", "of_sigma"),
    [("sigma", lambda s: s), ("log_sigma/4", lambda s: math.log(s) / 4), ("log_snr", lambda s: -2 * math.log(s))],
)
def test_a_network_conditioned_on_sigma(load, key, word, of_sigma):
    """A whole preconditioned network D(x, sigma), and EDM's c_noise."""
    schedule = {"kind": "variance-exploding", "sigma_min": 0.002, "sigma_max": 80.0}
    checkpoint = load(Asked(lambda x: X0), schedule=schedule, prediction="x0", time={key: word})
    t = 0.7
    sigma = 0.002 * (80 / 0.002) ** t
    state = X0 + sigma * EPS
    found = checkpoint.model(state, torch.tensor(t, dtype=torch.float64))
    torch.testing.assert_close(found.eps, EPS, rtol=1e-4, atol=1e-4)
    _, number = checkpoint.model.network.fn.calls[-1]
    np.testing.assert_allclose(number, of_sigma(sigma), rtol=2e-6)


def test_sigma_on_another_schedule_is_that_of_the_state_scaled_to_the_data(load):
    checkpoint = load(Asked(), schedule={"kind": "linear"}, prediction="epsilon", time={"conditioning": "sigma"})
    _, number = asked(checkpoint, 0.75)
    np.testing.assert_allclose(number, 3.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("signature", "classes", "order"),
    [
        ("(t, x)", None, "tx"),
        (["t", "x"], None, "tx"),
        ("(x, label, t)", 4, "xlt"),
        ("(t, x, y)", 4, "txl"),
        ("(x, t)", None, "xt"),
        (None, 4, "xtl"),
    ],
)
def test_arguments_in_their_order(load, signature, classes, order):
    more = {} if signature is None else {"signature": signature}
    label = torch.tensor([0, 3, 1])
    checkpoint = load(Asked(), schedule={"kind": "linear"}, prediction="epsilon", classes=classes, **more)
    given = asked(checkpoint, 0.5, label if classes else None)
    kinds = {4: "x", 1: "t"}
    shown = "".join("l" if part.dtype == torch.int64 else kinds[part.ndim] for part in given)
    assert shown == order


@dataclasses.dataclass
class Output:
    sample: torch.Tensor


@pytest.mark.parametrize(
    ("output", "made"),
    [
        ("first", lambda x: (EPS, None)),
        (1, lambda x: (None, EPS)),
        ("sample", lambda x: Output(EPS)),
        ("eps", lambda x: {"eps": EPS}),
    ],
)
def test_a_part_of_the_answer(load, output, made):
    checkpoint = load(Asked(made), schedule={"kind": "linear"}, prediction="epsilon", output=output)
    asked(checkpoint, 0.5)
    model = ns.wrap(Asked(made), ns.Linear(), predicts="epsilon", output=output)
    torch.testing.assert_close(model(0.5 * X0 + 0.5 * EPS, torch.tensor(0.5)).eps, EPS)


def test_an_answer_in_parts_names_the_remedy(load):
    checkpoint = load(Asked(lambda x: (EPS, None)), schedule={"kind": "linear"}, prediction="epsilon")
    with pytest.raises(ValueError, match=r"returned a tuple: .*output \(first"):
        checkpoint.model(X0, torch.tensor(0.5))
    checkpoint = load(Asked(lambda x: (EPS, None)), schedule={"kind": "linear"}, prediction="epsilon", output="eps")
    with pytest.raises(ValueError, match="has no 'eps': correct output"):
        checkpoint.model(X0, torch.tensor(0.5))


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-0.5, 0.5), (0.0, 255.0)])
def test_pictures_reach_a_network_in_its_own_range(load, limits):
    low, high = limits
    checkpoint = load(Asked(), schedule={"kind": "linear"}, prediction="epsilon", range=list(limits))
    bytes_ = torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4) * 5
    states = checkpoint.encode(ns.data.Images(bytes_)).floats
    torch.testing.assert_close(states, bytes_.float() / 255 * (high - low) + low)
    torch.testing.assert_close(checkpoint.decode(states), bytes_.float() / 127.5 - 1)
    again = checkpoint.encode(ns.data.Images(states))  # states already
    torch.testing.assert_close(again.floats, states)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1.0, 1.0), "none"])
def test_floats_are_pictures_where_their_range_is_said(load, tmp_path, limits):
    pixels = np.random.default_rng(0).uniform(0, 1, (20, 4, 4, 1)).astype("float32")
    stored = pixels * 2 - 1 if limits == (-1.0, 1.0) else pixels
    np.savez(tmp_path / "real.npz", images=stored)
    checkpoint = load(Asked(), schedule={"kind": "linear"}, prediction="epsilon", range=[0, 1])
    states = checkpoint.encode(ns.data.load_images(tmp_path / "real.npz", limits=limits)).floats
    np.testing.assert_allclose(states.reshape(-1), pixels.reshape(-1), atol=1e-6)


@pytest.mark.parametrize("null", [10, -1, "none"])
def test_the_null_class_is_the_unconditional_branch(load, null):
    checkpoint = load(Asked(), schedule={"kind": "linear"}, prediction="epsilon", classes=10, null_class=null)
    unconditional = ns.models.UNCONDITIONAL
    assert unconditional in checkpoint.model.branches
    net, y = checkpoint.model.network.fn, torch.tensor([3, 9, 0])
    net.answer = lambda x: torch.zeros_like(x)
    checkpoint.model.predict(X0, torch.tensor(0.5), y, (ns.models.FULL, unconditional))
    given = [label for _, _, label in net.calls]
    if null == "none":
        assert given[0] is None
        assert given[1].tolist() == y.tolist()
    else:
        assert given[0].tolist() == [3, 9, 0, null, null, null]
    model = ns.wrap(net, ns.Linear(), predicts="epsilon", null_class=null)
    model.predict(X0, torch.tensor(0.5), y, (unconditional,))
    assert net.calls[-1][2] is None if null == "none" else net.calls[-1][2].tolist() == [null] * 3


def test_a_null_class_of_0_says_that_classes_start_at_1(load):
    card = {"schedule": {"kind": "linear"}, "prediction": "epsilon", "classes": 10}
    checkpoint = load(Asked(), **card, null_class=0)
    net, y = checkpoint.model.network.fn, torch.tensor([3, 9, 0])
    net.answer = lambda x: torch.zeros_like(x)
    checkpoint.model.predict(X0, torch.tensor(0.5), y, (ns.models.FULL, ns.models.UNCONDITIONAL))
    assert net.calls[0][2].tolist() == [4, 10, 1, 0, 0, 0]
    wrapped = ns.wrap(net, ns.Linear(), predicts="epsilon", null_class=0)
    with pytest.raises(ns.CheckpointError, match="one of the classes 0 … 9: return"):
        load(wrapped, **card)


def test_rows_without_a_class_keep_their_place(load):
    def answer(x, t, label):
        return x if label is None else x + 100 * (1 + label.view(-1, 1, 1, 1))

    checkpoint = load(answer, schedule={"kind": "linear"}, prediction="epsilon", classes=10, null_class="none")
    found = checkpoint.model(X0, torch.tensor(0.5), torch.tensor([2, 10, 0])).eps
    torch.testing.assert_close(found, X0 + torch.tensor([300.0, 0.0, 100.0]).view(-1, 1, 1, 1))


LABELS = [
    ({"column": True}, None, [[3], [9], [0]]),
    ({"shape": "(B, 1)"}, None, [[3], [9], [0]]),
    ({"one_hot": True}, None, torch.eye(10)[[3, 9, 0]].tolist()),
    ({"one_hot": 12}, None, torch.eye(12)[[3, 9, 0]].tolist()),
    ({"one_hot": True}, 10, torch.eye(11)[[3, 9, 0]].tolist()),
    ({"one_hot": True}, 0, torch.eye(11)[[4, 10, 1]].tolist()),
    ({"one_hot": True}, "none", torch.eye(10)[[3, 9, 0]].tolist()),
    ({"column": True}, 0, [[4], [10], [1]]),
]


@pytest.mark.parametrize(("label", "null", "expected"), LABELS)
def test_a_class_arrives_as_the_network_takes_it(load, label, null, expected):
    words = {"schedule": {"kind": "linear"}, "prediction": "epsilon", "classes": 10, "null_class": null}
    checkpoint = load(Asked(lambda x: torch.zeros_like(x)), **words, label=label)
    net, y = checkpoint.model.network.fn, torch.tensor([3, 9, 0])
    checkpoint.model(X0, torch.tensor(0.5), y)
    given = net.calls[-1][2]
    assert given.tolist() == expected
    assert given.dtype == (torch.float32 if "one_hot" in label else torch.int64)
    if null is not None:
        net.calls.clear()
        checkpoint.model.predict(X0, torch.tensor(0.5), y, (ns.models.UNCONDITIONAL,))
        unconditional = net.calls[-1][2]
        assert unconditional is None if null == "none" else unconditional.tolist() == [net_label(null, label)] * 3


def net_label(null, label):
    """The null class as a network of ten more takes it."""
    return [null] if "column" in label else torch.eye(11)[null].tolist()


def test_wrap_hands_a_class_over_likewise():
    net, y = Asked(lambda x: torch.zeros_like(x)), torch.tensor([3, 9, 0])
    ns.wrap(net, ns.Linear(), label={"one_hot": 10})(X0, torch.tensor(0.5), y)
    assert net.calls[-1][2].tolist() == torch.eye(10)[[3, 9, 0]].tolist()
    ns.wrap(net, ns.Linear(), label={"shape": ["B", 1]})(X0, torch.tensor(0.5), y)
    assert net.calls[-1][2].tolist() == [[3], [9], [0]]
    ns.wrap(net, ns.Linear(), label={"one_hot": 10}, null_class="none")(X0, torch.tensor(0.5), None)
    assert net.calls[-1][2] is None
    with pytest.raises(ValueError, match="a row of 9 has no place for class 9: correct it"):
        ns.wrap(net, ns.Linear(), label={"one_hot": 9})(X0, torch.tensor(0.5), y)
    with pytest.raises(ValueError, match="how wide is a row"):
        ns.wrap(net, ns.Linear(), label={"one_hot": True})(X0, torch.tensor(0.5), y)


class OneHot(nn.Module):
    """Takes classes as rows of zeros and a one."""

    def __init__(self, width=10):
        super().__init__()
        self.lin = nn.Linear(width, 1)

    def forward(self, x, t, y):
        return x + self.lin(y).view(-1, 1, 1, 1)


class Column(nn.Module):
    """Takes classes (B, 1)."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 1)

    def forward(self, x, t, y):
        _, one = y.shape
        assert one == 1
        return x + self.table(y).view(-1, 1, 1, 1)


FAILING = [
    (OneHot(), None, "label: {one_hot: true}"),
    (OneHot(11), 10, "label: {one_hot: true}"),
    (Column(), None, "label: {column: true}"),
    (Column(), 10, "label: {column: true}"),
]


@pytest.mark.parametrize(("network", "null", "words"), FAILING)
@pytest.mark.parametrize("with_data", [False, True])
def test_a_network_that_fails_names_the_word_for_its_classes(load, network, null, words, with_data):
    card = {"schedule": {"kind": "linear"}, "classes": 10, "null_class": null}
    checkpoint = load(network, **card)
    real = ns.data.Images(torch.rand(40, *SHAPE) * 2 - 1, torch.arange(40) % 10)
    if with_data:
        with pytest.raises(ValueError, match=f"; with {words} in its card it can"):
            ns.preflight(checkpoint, real)
    else:
        assert f"with {words} in its card it can" in ns.preflight(checkpoint, None).failures[0].sentence
    right = load(network, **card, label={"column": True} if "column" in words else {"one_hot": True})
    assert not ns.preflight(right, None).failures
    assert ns.preflight(right, real).checks


def test_a_wrapped_network_that_fails_names_the_argument(load):
    checkpoint = load(ns.wrap(OneHot(), ns.Linear()), classes=10)
    assert "with label: {one_hot: 10} in ns.wrap it can" in ns.preflight(checkpoint, None).failures[0].sentence

    def turned(t, x):
        (rows,) = t.shape
        return x[:rows]

    real = ns.data.Images(torch.rand(40, *SHAPE) * 2 - 1)
    with pytest.raises(ValueError, match=r"with signature: \(t, x\) in ns.wrap it can"):
        ns.preflight(load(ns.wrap(turned, ns.Linear())), real)


@pytest.mark.parametrize("shape", [(2,), (1, 32), (16, 8), (3, 5, 8, 8)], ids=["vector", "signal", "tokens", "video"])
def test_states_of_any_shape(load, shape):
    """2-D toys, 1-D signals, token sequences and video, from the file's convention to a shift."""
    scale = torch.linspace(0.5, 1.5, math.prod(shape)).view(shape)
    exact = ns.targets.Gaussian(torch.zeros(math.prod(shape)), scale.flatten().square())
    gaussian = exact.model(ns.Linear())

    def velocity(time, x):  # time runs to the data
        return -gaussian(x.flatten(1), 1 - time).velocity.view_as(x), "and more"

    words = {"schedule": {"kind": "linear"}, "time": {"zero": "noise"}, "signature": "(t, x)", "output": "first"}
    checkpoint = load(velocity, **words | {"shape": list(shape)})
    assert checkpoint.shape == shape
    assert not checkpoint.latent
    x, t = torch.randn(4, *shape), torch.tensor(0.4)
    expected = gaussian(x.flatten(1), t)
    torch.testing.assert_close(checkpoint.model(x, t).x0.flatten(1), expected.x0, rtol=1e-4, atol=1e-4)
    *_, last = ns.sample(checkpoint.model, torch.randn(8, *shape), ns.time_grid(checkpoint.model, 4))
    assert last.x.shape == (8, *shape)


def test_wrap_takes_the_words_of_a_card():
    net = Asked(lambda x: (X0 - EPS, None))
    words = {"time": {"zero": "noise", "scale": 10, "integer": True, "column": True}, "signature": "(t, x)"}
    model = ns.wrap(net, ns.Linear(), output="first", range=[0, 1], **words)
    assert model.range == (0.0, 1.0)
    found = model(0.7 * X0 + 0.3 * EPS, torch.tensor(0.3))
    torch.testing.assert_close(found.x0, X0)
    time, _ = net.calls[-1]
    assert (time.dtype, time.tolist()) == (torch.int64, [[7]] * 3)


def test_a_wrapped_models_range_goes_into_the_card(load):
    model = ns.wrap(Asked(), ns.Linear(), predicts="epsilon", range=(0, 1))
    assert load(model).card.range == (0.0, 1.0)


def test_wrap_calls_a_function_of_two_as_one_of_two():
    model = ns.wrap(lambda x, t: EPS, ns.Linear(), predicts="epsilon")
    torch.testing.assert_close(model(X0, torch.tensor(0.5)).eps, EPS)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"time": {"told": "gamma"}}, "conditioning must be one of t, sigma"),
        ({"time": {"told": "sigma", "zero": "noise"}}, "which way t counts"),
        ({"time": {"integer": True, "scale": 0}}, "give scale, the number of steps"),
        ({"time": {"integer": "yes"}}, "true or false"),
        ({"time": {"shape": "(1, B)"}}, r"must be \[B\] or \[B, 1\]"),
        ({"time": {"integer": True, "scale": 500}, "schedule": DDPM}, "correct scale and offset"),
        ({"time": {"speed": 1}}, "time takes zero"),
        ({"signature": "(x, y)"}, "must name x and t"),
        ({"signature": "(x, t, mask)"}, "made of x, t and label"),
        ({"signature": "(x, t, label)"}, "there are classes"),
        ({"null_class": 10}, "say how many with classes"),
        ({"label": {"column": True}}, "say how many with classes"),
        ({"label": {"column": True, "one_hot": 10}, "classes": 10}, "not both"),
        ({"label": {"one_hot": 0}, "classes": 10}, "width of a row"),
        ({"label": {"wide": 10}, "classes": 10}, "label takes column"),
        ({"label": "one-hot", "classes": 10}, "label must be a mapping such as"),
        ({"null_class": 3, "classes": 10}, "null_class must be another than 3"),
        ({"null_class": 1.5, "classes": 10}, "must be a class number"),
        ({"range": [1, 0]}, "range must be"),
        ({"range": 1}, "range must be"),
        ({"output": 1.5}, "output must be"),
        ({"shape": [3, 0]}, "shape must be"),
    ],
)
def test_what_a_card_cannot_mean_is_one_line(load, words, says):
    with pytest.raises(ns.CheckpointError, match=says) as caught:
        load(Asked(), **words)
    assert "\n" not in str(caught.value)


def test_a_card_of_a_known_file_takes_no_calling():
    with pytest.raises(ns.CheckpointError, match="for a network of your own code"):
        ns.Card.from_dict({"family": "sit", "signature": "(t, x)"})


def test_a_card_is_written_and_read_with_its_words(tmp_path):
    from noiseshift.checkpoints.saving import write_card

    words = {
        "family": "callable",
        "shape": [1, 4, 4],
        "range": [0, 1],
        "classes": 3,
        "null_class": 3,
        "output": "first",
    }
    card = ns.Card.from_dict({**words, "signature": "(t, x, y)", "time": {"told": "sigma"}})
    assert ns.Card.read(write_card(tmp_path / "x.pt", card)) == card
    assert SimpleNamespace(**vars(card)).time.conditioning == "sigma"


def test_a_network_that_learned_nothing_is_one_line(load):
    checkpoint = load(
        lambda x, t: torch.full_like(x, 0.01), schedule={"kind": "discrete", "steps": 50}, prediction="epsilon"
    )
    protocol = ns.Protocol("ddpm:5", samples=8, points=2, estimators={"residual": None})
    with pytest.raises(ValueError, match="noise of one size for every state"):
        ns.run(checkpoint, protocol, None)
