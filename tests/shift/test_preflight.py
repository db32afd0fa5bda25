"""A wrong card, other data and a rounded time are found and named; the bundled models pass."""

import functools
import hashlib
from dataclasses import replace

import pytest
import torch
import yaml

import noiseshift as ns
from noiseshift.data import ASSETS, Images
from noiseshift.networks.model import NetworkModel
from noiseshift.shift import rereading
from noiseshift.shift.likeness import likeness
from noiseshift.shift.preflight import ENERGY, _its_data, handed, preflight
from noiseshift.shift.rereading import better_reading
from noiseshift.studies.checking import checked

DATA = ns.data.reference()


def read_as(name, **changes):
    """A bundled checkpoint with a changed card."""
    card = yaml.safe_load((ASSETS / f"{name}.yaml").read_text())
    return ns.load(ASSETS / f"{name}.safetensors", card=card | changes)


def failed(found):
    return {check.name: check.sentence for check in found.failures}


@pytest.fixture(scope="module")
def bundled():
    """name → what is found of a bundled model, once."""
    return functools.cache(lambda name: preflight(ns.load(name), DATA))


def test_a_first_run_makes_the_checks_itself_and_keeps_them(tmp_path, monkeypatch):
    """Nothing of them ships with the package: they are there to doubt what is read."""
    monkeypatch.setenv("NOISESHIFT_CACHE", str(tmp_path / "kept"))
    made = checked(ns.load(), DATA[:32])
    assert list((tmp_path / "kept").glob("preflight-*"))
    again = checked(ns.load(), DATA[:32])
    assert [(each.name, each.passed, each.sentence) for each in made.checks] == [
        (each.name, each.passed, each.sentence) for each in again.checks
    ]


@pytest.mark.parametrize("name", ["fashion-sit", "fashion-ddpm"])
def test_the_bundled_models_pass(name, bundled):
    found = bundled(name)
    assert found.passed, str(found)
    assert not found.errors.worse.any()
    assert len(found.errors) >= 6


WRONG_CARDS = {
    "time runs the other way": ("fashion-sit", {"time": {"zero": "noise", "scale": 1000.0}}, "0 is data"),
    "time unscaled": ("fashion-sit", {"time": {"zero": "data", "scale": 1.0}}, "time steps 0 … 999, 0 is data"),
    "epsilon for velocity": ("fashion-sit", {"prediction": "epsilon"}, "prediction velocity"),
    "cosine for linear": ("fashion-sit", {"schedule": {"kind": "cosine"}}, "schedule linear"),
    "v for epsilon": ("fashion-ddpm", {"prediction": "v_prediction"}, "prediction epsilon"),
    "x0 for epsilon": ("fashion-ddpm", {"prediction": "x0"}, "prediction epsilon"),
    "linear for DDPM": ("fashion-ddpm", {"schedule": {"kind": "linear"}}, "schedule discrete, DDPM's linear betas"),
    "steps reversed": (
        "fashion-ddpm",
        {"time": {"zero": "noise", "scale": 1000.0, "offset": -1.0}},
        "time steps 0 … 999, 0 is data",
    ),
}


FITTED, EVALUATED = DATA[64:192], DATA[:16]


class Remembering(torch.nn.Module):
    """A network that answers what it was asked before from memory, to the bit: cards differ in how they read an answer."""

    def __init__(self, network):
        super().__init__()
        self.inner, self.answers = network, {}

    def forward(self, *asked):
        key = hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in asked)).digest()
        if key not in self.answers:
            self.answers[key] = self.inner(*asked)
        return self.answers[key]


@pytest.fixture(scope="module")
def remembering():
    return {name: Remembering(ns.load(name).model.network) for name in ("fashion-sit", "fashion-ddpm")}


@pytest.fixture
def few_states(monkeypatch):
    """Half as many states as a user's trial has: what is right on them is right on more."""
    monkeypatch.setattr(rereading, "ROWS", 2)


@pytest.mark.usefixtures("few_states")
@pytest.mark.parametrize("case", WRONG_CARDS)
def test_the_right_reading_is_named(case, remembering):
    name, changes, remedy = WRONG_CARDS[case]
    model = read_as(name, **changes).model
    model.network = remembering[name]
    found = better_reading(model, FITTED.floats, EVALUATED.floats, EVALUATED.labels)
    assert found is not None
    assert remedy in found.sentence()


@pytest.mark.usefixtures("few_states")
def test_a_wrong_card_fails_and_the_remedy_is_in_the_sentence():
    found = failed(preflight(read_as("fashion-sit", prediction="epsilon"), DATA))
    assert "does not denoise these data" in found["denoises"]
    assert "prediction velocity" in found["denoises"]
    assert not {"class order", "fine detail"} & set(found), "a wrong card is no fault of the data"


@pytest.mark.usefixtures("few_states")
@pytest.mark.parametrize("name", ["fashion-sit", "fashion-ddpm"])
def test_no_other_reading_is_better_than_the_right_one(name, remembering):
    model = ns.load(name).model
    model.network = remembering[name]
    assert better_reading(model, FITTED.floats, EVALUATED.floats, EVALUATED.labels) is None


@pytest.mark.usefixtures("few_states")
def test_a_network_of_other_range_is_named():
    bundled = ns.load().model
    # The same network as one whose data are in [0, 1]: x = alpha y + sigma eps with y = (x0 + 1) / 2.

    def velocity(y, t, cond):
        t = t.reshape(-1, 1, 1, 1)
        alpha, sigma = 1 - t, t
        # y-state to the x-state of the same noise over signal: 2 y - alpha has noise 2 sigma.
        level = 2 * sigma / (alpha + 2 * sigma)
        x = (2 * y - alpha) * (1 - level) / alpha.clamp_min(1e-6)
        said = bundled(x.float(), level.flatten(), cond)
        return said.eps - (said.x0 + 1) / 2

    found = better_reading(ns.wrap(velocity, ns.Linear()), FITTED.floats, EVALUATED.floats, EVALUATED.labels)
    assert found is not None
    assert "range [0, 1]" in found.sentence()


def other_pictures(kind):
    pixels = DATA.pixels[:256]
    shuffled = torch.randperm(28, generator=torch.Generator().manual_seed(0))
    changed = {
        "upside down": pixels.flip(2),
        "on their side": pixels.transpose(2, 3),
        "negatives": 255 - pixels,
        "rows shuffled": pixels[:, :, shuffled],
    }
    return Images(changed[kind], DATA.labels[:256])


@pytest.mark.usefixtures("few_states")
@pytest.mark.parametrize("kind", ["upside down", "rows shuffled"])
def test_other_data_are_caught(kind):
    assert "the samples are not like these data" in failed(preflight(ns.load(), other_pictures(kind)))["its data"]


@pytest.mark.parametrize(
    ("data", "check", "words"),
    [
        (Images(DATA.pixels[:64, :, :14], DATA.labels[:64]), "shape", "give data of its own size"),
        (Images(DATA.pixels[:64] // 255, DATA.labels[:64]), "range", "multiply these by 255"),
        (Images(DATA.pixels[:64].float(), DATA.labels[:64]), "range", "scale these data"),
        (Images(DATA.pixels[:64], DATA.labels[:64] + 1), "classes", "number the classes"),
        (Images(DATA.pixels[:64]), "classes", "give labelled data"),
        (Images(0 * DATA.pixels[:64], DATA.labels[:64]), "range", "no data"),
    ],
)
def test_data_that_do_not_fit_are_named(data, check, words):
    assert words in failed(preflight(ns.load(), data))[check]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_time_rounded_to_half_precision_is_found(dtype):
    checkpoint = ns.load()
    model = checkpoint.model
    assert isinstance(model, NetworkModel)
    inner = model.network

    class Rounding(torch.nn.Module):
        """Casts its time as pipelines in half precision do."""

        def forward(self, x, time, label, known):
            return inner(x, time, label, known)

        def __call__(self, x, time, *rest):
            return super().__call__(x, time.to(dtype), *rest)

    model.network = Rounding()
    try:
        check = handed(model, DATA[:2].floats, DATA.labels[:2])
    finally:
        model.network = inner
    assert check.passed is False
    assert "float16" in check.sentence


def test_likeness_is_calibrated_under_one_distribution():
    """p is uniform where both come from one distribution, and the statistics centre on 0 and 1."""
    found = []
    for seed in range(100):
        rows = torch.randn(60, 12, generator=torch.Generator().manual_seed(seed))
        found.append(likeness(rows[:24], rows[24:], seed=seed))
    p = torch.tensor([each.p for each in found])
    assert 0.0 < float((p <= 0.05).float().mean()) < 0.13
    assert abs(sum(each.mean for each in found) / 100) < 0.02
    assert abs(sum(each.energy for each in found) / 100) < 0.02


@pytest.mark.parametrize(("factor", "diverge"), [(30.0, True), (0.0, False)])
def test_samples_that_diverge_fail_and_the_line_says_so(factor, diverge):
    model = ns.wrap(lambda x, t, cond: factor * x, ns.Linear(), predicts="x0")
    data = 0.5 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    _, check = _its_data(model, data, None, 32, ENERGY)
    assert check.passed is False
    assert ("diverge" in check.sentence) is diverge
    assert "give the data that it was trained on" in check.sentence


def right_but_near_pure_noise(error):
    """The exact denoiser of pixels that are normal, with so much relative error of its noise above t = 0.95."""

    def noise(x, t, cond=None):
        alpha, sigma, *_ = schedule(t.double()).like(x)
        x0 = alpha * x * 0.25 / (alpha.square() * 0.25 + sigma.square())
        off = torch.where(t.reshape(-1, 1, 1, 1) > 0.95, error, 0.0)
        return (1 + off) * (x - alpha * x0) / sigma

    schedule = ns.Cosine()
    return ns.wrap(noise, schedule, predicts="epsilon", levels=torch.linspace(0.005, 0.995, 199))


@pytest.mark.parametrize(("error", "said"), [(0.0, ""), (-0.1, "without, they diverge in 10 steps (spread ")])
def test_a_network_that_is_right_passes_where_its_steps_diverge(error, said):
    """An error of a tenth of the noise is, near pure noise, one of ten times the data."""
    data = 0.5 * torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = right_but_near_pure_noise(error)
    _, check = _its_data(model, data, None, 48, ENERGY)
    assert check.passed is True, check.sentence
    assert said in check.sentence
    assert ("without" in check.sentence) is bool(said)
    _, check = _its_data(model, 2 * data + 1, None, 48, ENERGY)
    assert check.passed is False


def test_averages_in_other_files_are_said_with_data_and_without():
    beside = ("ema_0.99.pt", "ema_0.999.pt", "ema_0.9999.pt", "ema_1.pt")
    made = replace(ns.load(), averages_beside=beside)
    for found in (preflight(made, None), preflight(made, Images(torch.zeros(4, 1, 8, 8)))):
        check = found.checks[0]
        assert (check.name, check.passed) == ("weights", None)
        assert check.sentence.endswith("their averages: ema_0.99.pt, ema_0.999.pt, ema_0.9999.pt")
    assert preflight(ns.load(), None).checks[0].name == "data"
