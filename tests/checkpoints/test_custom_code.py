"""Models that custom code makes: module:function, and whole modules in a file that is trusted."""

import json
import logging
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints.custom_code import as_model, networks_in

MODULE = """
import functools
import torch
import noiseshift as ns
from noiseshift.checkpoints.custom_code import networks_in

CARD = {"shape": [1, 8, 8], "prediction": "epsilon", "time": {"zero": "noise", "scale": 10.0, "offset": 1.0}}

class Net(torch.nn.Module):
    def __init__(self, classes=0, fill=0.5):
        super().__init__()
        self.gain, self.classes = torch.nn.Parameter(torch.full((1, 8, 8), fill)), classes
    def forward(self, x, time, label=None):
        shift = 0 if label is None else label.view(-1, 1, 1, 1)
        return self.gain * x + time.view(-1, 1, 1, 1) + shift

NET = Net()

def network(): return Net(), CARD
def with_classes(): return Net(3), {**CARD, "classes": 3}
def by_global(): return (lambda x, time: NET(x, time)), CARD
def by_closure():
    net = Net(fill=0.5)
    return (lambda x, time: net(x, time)), CARD
def other_weights():
    net = Net(fill=0.25)
    return (lambda x, time: net(x, time)), CARD
def partial(): return functools.partial(Net.forward, Net(fill=0.25)), CARD
def wrapped():
    net = Net()
    model = ns.wrap(lambda x, t, cond: net(x, t), ns.Cosine(), predicts="x0", unconditional=True)
    return model, {"shape": [1, 8, 8], "classes": 2}
def exact():
    return ns.targets.Empirical(torch.linspace(-1, 1, 128).view(2, 1, 8, 8)).model(ns.Linear())
def shapeless(): return exact()
def exact_pictures(): return exact(), {"shape": [1, 8, 8]}
def without_classes():
    def velocity(x, t):
        return 0 * x
    return ns.adapters.flow_matching(velocity), {"shape": [1, 8, 8]}
def without_card(): return lambda x, time: x
def number(): return 3
def broken(): raise RuntimeError("no weights")
"""
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a module of models, as the working directory."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def test_a_family_of_a_function_is_refused():
    result = CliRunner().invoke(main, ["info", "mine:network", "--family", "sit"])
    assert result.exit_code != 0
    assert "mine:network is a function, and --family says what a state dict is: leave it out" in result.output


@pytest.mark.parametrize(("size", "said"), [(1.0, False), (3.0, True)])
def test_numbers_that_do_not_fit_into_pictures_are_said(here, caplog, size, said):
    (here / "wide.py").write_text(
        "import torch\n"
        "def model():\n"
        f"    return (lambda x, t: {size} * torch.tanh(100 * x)), "
        "{'shape': [1, 8, 8], 'schedule': {'kind': 'linear'}, 'prediction': 'x0'}\n"
    )
    with caplog.at_level(logging.WARNING, "noiseshift"):
        assert (
            CliRunner().invoke(main, ["sample", "wide:model", "--sampler", "euler:4", "--out", "w.npz"]).exit_code == 0
        )
    assert any("beyond black and white, and are cut there" in line for line in caplog.messages) == said
    sys.modules.pop("wide")


def test_a_callable_is_given_its_own_time_and_its_classes():
    checkpoint = ns.load("mine:with_classes")
    assert (checkpoint.shape, checkpoint.classes, checkpoint.name) == ((1, 8, 8), 3, "mine-with_classes")
    t, y = torch.tensor(0.3), torch.tensor([0, 2])
    expected = 0.5 * X + (10 * 0.7 + 1) + y.view(-1, 1, 1, 1)
    torch.testing.assert_close(checkpoint.model(X, t, y).eps, expected)


def test_a_model_keeps_its_own_schedule_and_space():
    checkpoint = ns.load("mine:wrapped")
    assert checkpoint.card.schedule == {"kind": "cosine"}
    assert checkpoint.card.prediction == "x0"
    assert ns.models.UNCONDITIONAL in checkpoint.model.branches
    assert checkpoint.classes == 2


def test_other_weights_are_another_hash():
    found = {name: ns.load(f"mine:{name}").hash for name in ("by_closure", "other_weights", "by_global", "partial")}
    assert found["by_closure"] == found["by_global"]  # the same numbers, found in a closure and in a global
    assert found["other_weights"] == found["partial"]
    assert found["by_closure"] != found["other_weights"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shapeless", "how large is a state"),
        ("without_card", "needs a card"),
        ("number", "it is a int"),
        ("broken", r"mine:broken failed at mine.py:\d+: RuntimeError: no weights"),
        ("nothing", "mine has no nothing"),
    ],
)
def test_what_is_no_model_is_one_line(name, says):
    with pytest.raises(ns.CheckpointError, match=says) as caught:
        ns.load(f"mine:{name}")
    assert "\n" not in str(caught.value)


def test_a_missing_module_is_one_line():
    with pytest.raises(ns.CheckpointError, match="run from the folder"):
        ns.load("there_is_no_such:thing")


@pytest.mark.parametrize("function", ["exact_pictures", "without_classes"])
def test_measure_runs_on_ones_own_function_and_tells_it_no_labels_that_it_does_not_take(function, here):
    images = np.linspace(0, 255, 128).reshape(2, 8, 8, 1).repeat(24, 0).astype("uint8")
    np.savez(here / "real.npz", images=images, labels=np.arange(48) % 2)
    words = (
        f"measure mine:{function} --data real.npz --samples 8 --sampler euler:4 --points 2 --estimator residual --json"
    )
    result = CliRunner().invoke(main, [*words.split(), "--no-progress", "--out", "run"])
    assert result.exit_code == 0, result.output
    assert json.loads((here / "run" / "run.json").read_text())["checkpoint"]["name"] == f"mine-{function}"


def whole(path):
    sys.path.insert(0, os.getcwd())
    import mine

    torch.save({"ema": mine.Net(fill=0.75), "step": 3}, path)
    return mine


def test_a_whole_module_is_loaded_only_when_it_is_trusted(here, caplog):
    whole("whole.pt")
    card = {"family": "callable", "shape": [1, 8, 8], "prediction": "epsilon"}
    with pytest.raises(ns.CheckpointError, match=r"holds code \(mine.Net.*--trust it"):
        ns.load("whole.pt", card=card)
    with pytest.raises(ns.CheckpointError, match="needs a card"):
        ns.load("whole.pt", trust=True)
    checkpoint = ns.load("whole.pt", card=card, trust=True)
    assert "may call, mine.Net" in caplog.text
    torch.testing.assert_close(checkpoint.model(X, torch.tensor(0.5)).eps, 0.75 * X + 0.5)


def test_what_will_run_is_said_before_it_runs(here):
    class Touch:
        def __reduce__(self):
            return os.mkdir, ("made",)

    (here / "x.pkl").write_bytes(pickle.dumps({"ema": Touch()}))
    said = []

    class Handler(logging.Handler):
        def emit(self, record):
            said.append((record.getMessage(), (here / "made").exists()))

    logging.getLogger("noiseshift").addHandler(Handler())  # tests/conftest.py takes it off
    with pytest.raises(ns.CheckpointError):
        ns.load("x.pkl", trust=True)
    assert said == [(f"trusted: loading x.pkl imports, and may call, {os.mkdir.__module__}.mkdir", False)]


def test_a_trusted_state_dict_is_read_as_any_other(here, caplog):
    from noiseshift.networks.transformer import Transformer, TransformerConfig

    class Odd(dict):
        """A mapping class of a user's, as configuration libraries save them."""

    Odd.__module__, Odd.__qualname__ = "mine", "Odd"
    (here / "mine.py").write_text(MODULE + "\nclass Odd(dict):\n    pass\n")
    sys.path.insert(0, os.getcwd())
    import mine

    network = Transformer(TransformerConfig(8, 1, 2, 16, 1, 2, classes=3))
    torch.save({"ema": network.state_dict(), "settings": mine.Odd(a=1)}, "odd.pt")
    card = {"family": "sit", "heads": 2}
    with pytest.raises(ns.CheckpointError, match=r"mine\.Odd"):
        ns.load("odd.pt", card=card)
    assert ns.load("odd.pt", card=card, trust=True).recognised.startswith("a DiT, SiT or REPA")


def test_networks_that_are_still_in_training_mode_are_read_and_frozen():
    network = torch.nn.Linear(8, 8)
    model = ns.wrap(lambda x, t, cond: network(x), ns.Linear())
    data, times = X.repeat(8, 1, 1, 1), torch.tensor([0.3, 0.6])
    estimator = ns.estimators.Residual(model, data, times, generator=torch.Generator().manual_seed(0))
    found = ns.calibrate(estimator, data, times)
    assert found.times.shape == (2,)
    checkpoint = ns.load("mine:by_closure")
    assert not any(p.requires_grad for n in networks_in(checkpoint.model) for p in n.parameters())


@pytest.mark.parametrize("shape", [[16, 8], [2, 100]])
def test_sequences_in_an_array_are_states(shape, tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((20, *shape)).astype("float32"))
    model, card = as_model((lambda x, t: x, {"shape": shape}), None)
    checkpoint = ns.Checkpoint("x", model, card, "", tuple(shape), 0, None, lambda x: x)
    found = checkpoint.encode(ns.data.load_images(tmp_path / "data.npy", limits="none"))
    assert np.array_equal(found.pixels.numpy(), np.load(tmp_path / "data.npy"))
