"""Two things that could answer differently have different hashes; the same thing has one, in any process."""

import functools
import operator
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import noiseshift as ns
from noiseshift.correction.alternatives import (
    EpsilonScaled,
    EstimatedLevel,
    LevelGuidance,
    ScoreRescaled,
    TimeShifted,
    TimeStepGuidance,
    closed_loop_scale,
    level_projection,
)
from noiseshift.diffusion.guidance import BranchSpace, in_words
from noiseshift.diffusion.identity import differences, identity
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL, Branch, Guidance


def zero(x, t, cond):
    return 0 * x


def scaled(factor):
    return ns.wrap(lambda x, t, cond: factor * x, ns.Linear(), blind=lambda x, cond: factor * x)


def times(a):
    return lambda t: a * t


def density(a):
    return lambda x, t: -a * x.square().flatten(1).sum(1)


class Own(ns.models.Wrapped):
    def __init__(self, model, weight):
        super().__init__(model)
        self.weight = weight


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


def layer(seed=0, **settings):
    torch.manual_seed(seed)
    made = nn.Linear(3, 3)
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def effective_level(reach=0.5, factor=1.0):
    return EstimatedLevel(
        ns.targets.Gaussian(torch.zeros(2), factor * torch.eye(2)).estimator(ns.Linear()), reach=reach
    )


MODEL = scaled(0.5)
LINE, CURVE = np.linspace(0.9, 0.1, 9), np.linspace(0, 0.1, 9) ** 2

DIFFERENT = {
    "numbers": [0, 0.0, 0.5, np.float32(0.5), True, None, "0", b"0", 1j, ...],
    "containers": [[1, 2], (1, 2), [2, 1], {1, 2}, {1: 2}, {2: 1}, [[1], 2], [[1, 2]], {}, []],
    "arrays": [np.zeros(2), np.zeros(3), np.zeros(2, "f4"), np.zeros((1, 2)), np.array([0, 1e-300])],
    "tensors": [torch.zeros(2), torch.zeros(2).double(), torch.zeros(1, 2), torch.tensor([0.0, 1e-38])],
    "bfloat": [torch.zeros(2).bfloat16(), torch.full((2,), 0.001).bfloat16(), torch.zeros(2).half()],
    "networks": [layer(), layer(1), layer(heads=4), layer(heads=2), layer().double(), nn.Sequential(layer())],
    "buffers": [nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval(), nn.BatchNorm1d(3, eps=1e-3), nn.BatchNorm1d(4)],
    "functions": [
        lambda t: t,
        lambda t: 2 * t,
        lambda t: 3 * t,
        lambda t, a=1: t,
        zero,
        operator.neg,
        np.sin,
        np.interp,
    ],
    "closures": [times(a) for a in (1, 2, torch.zeros(1), torch.ones(1), LINE, CURVE)],
    "partials": [functools.partial(zero, t=t) for t in (1, 2)] + [functools.partial(operator.add, 1)],
    "caches": [functools.lru_cache(zero), functools.lru_cache(scaled)],
    "methods": [layer().forward, layer(1).forward, operator.itemgetter(1), operator.itemgetter(2)],
    "spaces": [
        types.SimpleNamespace(a=1),
        types.SimpleNamespace(a=torch.ones(2000)),
        types.SimpleNamespace(a=torch.zeros(2000)),
    ],
    "sources": [
        np.random.default_rng(0),
        np.random.default_rng(1),
        torch.Generator().manual_seed(0),
        torch.Generator(),
    ],
    "slots": [Slotted(1), Slotted(2)],
    "schedules": [
        ns.Linear(),
        ns.Cosine(),
        ns.VariancePreserving(),
        ns.VariancePreserving(0.2),
        ns.Discrete.from_betas(),
    ],
    "models": [
        MODEL,
        scaled(0.6),
        ns.wrap(zero, ns.Linear()),
        ns.wrap(zero, ns.Cosine()),
        Own(MODEL, 1),
        Own(MODEL, 2),
    ],
    "spaces of a model": [ns.wrap(zero, ns.Linear(), predicts=space) for space in ("x0", "epsilon", "velocity")],
    "alternatives": [
        EpsilonScaled(MODEL, 1.005),
        EpsilonScaled(MODEL, 1.006),
        EpsilonScaled(MODEL, 1.005, 0.01),
        EpsilonScaled(scaled(0.6), 1.005),
        ScoreRescaled(MODEL, 2.0),
        ScoreRescaled(MODEL, 3.0),
        ScoreRescaled(MODEL, 2.0, 0.1),
        TimeShifted(MODEL, 0.1, 0.2),
        TimeShifted(MODEL, 0.2, 0.1),
        TimeShifted(MODEL, 0.1, 0.1),
        TimeStepGuidance(MODEL, 1.0),
        TimeStepGuidance(MODEL, 2.0),
        TimeStepGuidance(MODEL, 1.0, spread=0.2),
        TimeStepGuidance(MODEL, 1.0, power=0.2),
        TimeStepGuidance(MODEL, 1.0, seed=1),
        LevelGuidance(MODEL, 1.0, effective_level()),
        LevelGuidance(MODEL, 2.0, effective_level()),
        LevelGuidance(MODEL, 1.0, effective_level(0.4)),
        LevelGuidance(MODEL, 1.0, effective_level(factor=2.0)),
        LevelGuidance(MODEL, 1.0, effective_level(), interval=(0.0, 0.5)),
        BranchSpace(MODEL, "score", effective_level()),
        BranchSpace(MODEL, "epsilon", effective_level()),
        level_projection(ns.euler, effective_level()),
        level_projection(ns.heun, effective_level()),
        level_projection(ns.euler, effective_level(0.4)),
        level_projection(ns.euler, effective_level(), interval=(0.0, 0.5)),
        ns.Guided(MODEL, ns.noise_awareness(1.0)),
        ns.Guided(MODEL, ns.noise_awareness(2.0)),
    ],
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different_things_have_different_hashes(kind):
    hashes = [identity(thing) for thing in DIFFERENT[kind]]
    assert len(set(hashes)) == len(hashes)


def test_the_same_thing_made_twice_has_one_hash():
    for make in (
        layer,
        effective_level,
        lambda: scaled(0.5),
        lambda: Own(scaled(0.5), 1),
        lambda: {"b": [1], "a": {2, 3}},
    ):
        assert identity(make()) == identity(make())
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    itself = [1]
    itself.append(itself)
    assert identity(itself)


@pytest.mark.parametrize("name", ["fashion-sit", "fashion-ddpm"])
def test_asking_a_model_does_not_change_it(name):
    checkpoint = ns.load(name)
    before = identity(checkpoint.model)
    checkpoint.model(torch.zeros(1, 1, 28, 28), torch.tensor(0.5), torch.tensor([1]))
    assert identity(checkpoint.model) == before == identity(ns.load(name).model)
    with torch.no_grad():
        next(checkpoint.model.network.parameters()).flatten()[0] += 1e-3
    assert identity(checkpoint.model) != before


EVERYWHERE = """
import noiseshift as ns
from noiseshift.diffusion.identity import identity
def made(a):
    return lambda t: {"x", "y", "z"} and a * t
scheduler = ns.solver("diffusers/UniPCMultistepScheduler:5").update()
said = [identity(thing) for thing in (ns.load().model, made(2), {"p", "q", "r"}, scheduler)]
"""


def test_a_hash_is_the_same_in_another_process():
    here = {"__name__": "__main__"}  # a notebook's functions are there too, whatever file launched it
    exec(EVERYWHERE, here)
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    there = subprocess.run(
        [sys.executable, "-c", EVERYWHERE + "print(said)"], capture_output=True, text=True, check=True, env=environment
    )
    assert there.stdout.strip() == str(here["said"])


def guidances():
    """One of every kind, and what each may differ in."""
    weak, other = scaled(0.1), scaled(0.2)
    log_prob, unlike = (density(a) for a in (1, 2))
    gains = 0.01 * np.arange(9)
    yield from (ns.classifier_free(s) for s in (0.5, 0.500001))
    yield from (ns.noise_awareness(s) for s in (0.5, 0.6))
    yield from (ns.noise_awareness(0.5, interval=ends) for ends in ((0.0, 0.6), (0.2, 0.4), (0.2, 0.40001), (0.6, 1.0)))
    yield from (ns.classifier_free(0.5, interval=ends) for ends in ((0.0, 0.6), (0.0, 0.4)))
    yield from (ns.noise_awareness(scale) for scale in (lambda t: float(t), lambda t: 1 - float(t)))
    # Alike at t = 0.5, and at all but one time.
    yield ns.noise_awareness(lambda t: 0.5 if float(t) > 0.3 else 0.0)
    yield ns.noise_awareness(lambda t: 0.5 if float(t) > 0.3001 else 0.0)
    yield ns.noise_awareness(lambda t: float(t), interval=(0.0, 0.6))
    yield from (
        ns.noise_awareness(closed_loop_scale(LINE, LINE, gains, 0 * LINE + 1, 0.01 * LINE, largest=m)) for m in (1, 2)
    )
    yield from (ns.domain(model, 1.0) for model in (weak, other))
    yield from (ns.autoguidance(model, scale) for model in (MODEL, scaled(0.3)) for scale in (1.0, 2.0))
    yield from (ns.classifier_noise_awareness(f, s) for f in (log_prob, unlike) for s in (1.0, 2.0))
    yield ns.classifier_noise_awareness(log_prob, 1.0, interval=(0.0, 0.5))
    yield ns.classifier_free(0.5) + ns.noise_awareness(0.5)
    yield ns.classifier_free(0.5) + ns.noise_awareness(0.6)
    yield ns.noise_awareness(0.5) + ns.classifier_noise_awareness(log_prob, 1.0)
    yield ns.noise_awareness(0.25) + ns.noise_awareness(0.5, interval=(0.0, 0.5))
    yield ns.autoguidance(weak, 1.0) + ns.autoguidance(other, 2.0)
    yield ns.autoguidance(weak, 2.0) + ns.autoguidance(other, 1.0)


def test_every_guidance_describes_itself_as_no_other_does():
    import json

    said = [json.dumps(guidance.describe(), sort_keys=True) for guidance in guidances()]
    assert len(set(said)) == len(said)
    assert said == [json.dumps(guidance.describe(), sort_keys=True) for guidance in guidances()]


def test_guidance_in_words():
    guidance = ns.classifier_free(1.5) + ns.noise_awareness(0.5, interval=(0.0, 0.6))
    assert in_words(guidance.describe()) == "cfg=1.5, nag=0.5 for t in [0, 0.6]"
    assert re.fullmatch("cfg=function [0-9a-f]{8}", in_words(ns.classifier_free(lambda t: t).describe()))
    both = ns.wrap(lambda x, t, cond: x, ns.Linear(), unconditional=True)
    assert in_words(ns.domain(both, 1.0).describe()) == "dog=1"
    neither = Guidance({Branch(noise=False, condition=False): (1.0,)})
    assert in_words(neither.describe()) == "other=1"
    assert in_words(ns.domain(MODEL, 1.0).describe()) == "autoguidance=1"  # it has no unconditional branch
    assert in_words(None) == in_words(Guidance().describe()) == in_words(ns.classifier_free(0.0).describe()) == "none"
    old = {str(tuple(FULL)): 1.5, str(tuple(NOISE_UNCONDITIONAL)): -0.5}
    assert in_words(old) == "nag=0.5"


def test_an_interval_is_closed_in_float32_too():
    scale = ns.noise_awareness(0.5, interval=(0.2, 0.6)).weights
    inside = [len(scale(torch.tensor(t))) == 2 for t in (0.19, 0.2, 0.4, 0.6, 0.61)]
    assert inside == [False, True, True, True, False]


def test_differences_are_one_line():
    before = {"seed": 0, "card": {"time": {"scale": 1000.0}, "heads": 4}, "sha": "a" * 64}
    assert differences(before, before) == ""
    now = {"seed": 1, "card": {"time": {"scale": 1.0}, "heads": 4}, "sha": "b" * 64, "new": None}
    said = differences(before, now)
    assert (
        said
        == "seed was 0, is 1; card.time.scale was 1000.0, is 1.0; sha was aaaaaaaa…, is bbbbbbbb…; new was not given, is None"
    )
    assert differences({}, {str(i): i for i in range(9)}).endswith("; and 5 more")


def test_libraries_are_known_by_name_wherever_they_lie(monkeypatch):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GELU())
    before = identity(network)
    monkeypatch.setattr(torch, "__file__", "/home/someone/libraries/torch/__init__.py")
    assert identity(network) == before


@pytest.mark.parametrize("in_place", [False, True])
def test_a_network_that_was_compiled_is_still_what_it_was(in_place):
    network = torch.nn.Linear(2, 2)
    before = identity(network)
    made = network if in_place else torch.compile(network, backend="eager")  # its attributes are those of the network
    if in_place:
        network.compile(backend="eager")
    made(torch.zeros(1, 2))
    assert identity(network) == before
