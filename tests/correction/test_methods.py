"""Methods by word, and what each does to the bundled model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reports import report_of

import noiseshift as ns
from noiseshift.correction import methods
from noiseshift.correction.methods import MethodContext


@pytest.mark.parametrize(
    "word",
    [
        *("nag=0.5", "cfg=1,nag=0.5", "nag-epsilon=1", "nag-score=1", "classifier-nag=0.5", "level-nag=1"),
        *("closed-loop", "projection", "nlc", "epsilon-scaling=1.005:0.01", "time-shift=0.1", "tsg=1"),
        *("tsr=2", "dcw=0.01", "dcw=0:-0.01"),
        *("dog=1", "dog=1,nag=0.5"),
    ],
)
def test_every_method_samples_the_bundled_model(word):
    checkpoint = ns.load()
    network = ns.estimators.Network.load(checkpoint.estimator)
    times = np.array([0.6, 0.3])
    real = times + 0.01 * np.random.default_rng(0).standard_normal((400, 2))
    pilot = report_of(times, real + 0.02, real)
    method = ns.method(word)
    effective_level = ns.alternatives.EstimatedLevel(network)
    built = method.make(MethodContext(checkpoint.model, network.log_prob, effective_level, pilot, checkpoint.model))
    times = ns.time_grid(checkpoint.model, 3)
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    update = built.update(ns.euler) if built.update else ns.euler
    *_, last = ns.sample(built.model, x, times, update=update, cond=torch.tensor([0, 1]))
    assert bool(torch.isfinite(last.x).all())
    *_, plain = ns.sample(checkpoint.model, x, times, cond=torch.tensor([0, 1]))
    assert not torch.equal(last.x, plain.x)


@pytest.mark.parametrize(
    ("word", "kind", "scale"),
    [
        ("nag=0.5", "nag", 0.5),
        ("cfg=1,nag=0.5", "cfg+nag", 0.5),
        ("dog=2,autoguidance=3", "dog+autoguidance", 2.0),
        ("nag-score=1", "nag-score", 1.0),
        ("closed-loop=3", "closed-loop", 3.0),
        ("epsilon-scaling=1.005:0.01", "epsilon-scaling", 1.015),
        ("tsr=2:0.5", "tsr", 2.0),
        ("dcw=0.01:-0.02", "dcw", 0.01),
        ("projection", "projection", 0.0),
    ],
)
def test_a_word_names_a_method_and_the_method_its_word(word, kind, scale):
    found = ns.method(word)
    assert (found.name, found.kind, found.scale) == (word, kind, pytest.approx(scale))
    assert ns.method(found) is found


def test_defaults_and_former_names():
    assert ns.method("closed-loop").describe() == ns.method("closed-loop=2").describe()
    assert ns.method("blind-free=0.5").describe() == ns.method("level-nag=0.5").describe()


@pytest.mark.parametrize(
    "word",
    [
        *("nag", "nag=x", "nag=nan", "nag=2e6", "foo=1", "projection=2", "tsg", "time-shift=0.1:0.3", "tsr=1:2:3", ""),
        *("cfg=1,projection", "nag=1,nag=2", "projection,nag=1", "nlc,"),
    ],
)
def test_what_is_no_method_is_told_what_is(word):
    with pytest.raises(ValueError, match="is no method: choose from cfg=W"):
        ns.method(word)


def test_a_method_that_cannot_be_says_why():
    with pytest.raises(ValueError, match="takes numbers above 0"):
        ns.method("tsr=-1")


def test_what_a_method_needs_is_missed_before_sampling():
    bare = MethodContext(ns.wrap(lambda x, t, cond: x, ns.Linear()))
    for word, needs in (
        ("projection", "level estimator"),
        ("classifier-nag=1", "level estimator"),
        ("nag=1", "unconditional"),
        ("dog=1", "--against"),
    ):
        with pytest.raises(ValueError, match=needs):
            ns.method(word).make(bare)


@pytest.mark.parametrize(
    ("word", "kind"),
    [("nag=0.5@0:0.6", "nag@0:0.6"), ("cfg=1@0.2:0.8,nag=0.5", "cfg@0.2:0.8+nag"), ("dog=1@0:0.5", "dog@0:0.5")],
)
def test_a_guidance_acts_between_its_times_alone_and_costs_nothing_elsewhere(word, kind):
    model = ns.wrap(
        lambda x, t, cond: 0.5 * x if cond is None else 0.4 * x,
        ns.Linear(),
        blind=lambda x, cond: 0.3 * x,
        unconditional=True,
    )
    made = ns.method(word)
    assert (made.name, made.kind) == (word, kind)
    assert made.describe() != ns.method(word.partition("@")[0]).describe()
    built = made.make(MethodContext(model, other=model)).model
    x, cond = torch.ones(1, 3), torch.zeros(1, dtype=torch.int64)
    plain = ns.method(word.partition("@")[0]).make(MethodContext(model, other=model)).model
    low, high = (float(part) for part in word.partition("@")[2].partition(",")[0].split(":"))
    inside, outside = torch.tensor((low + high) / 2), torch.tensor(min(high + 0.15, 1.0))
    assert len(built.guidance.weights(inside)) == 1 + word.count("=")
    assert len(built.guidance.weights(outside)) == word.count("=")
    if "," not in word and "dog" not in word:
        torch.testing.assert_close(built(x, inside, cond).eps, plain(x, inside, cond).eps)
        torch.testing.assert_close(built(x, outside, cond).eps, model(x, outside, cond).eps)


@pytest.mark.parametrize(
    "word", ["nag=1@", "nag=1@0", "nag=1@0.6:0", "nag=1@0:2", "projection@0:0.6", "nag=1@0:0.5,nag=2"]
)
def test_an_interval_that_is_none_is_refused_in_one_line(word):
    with pytest.raises(ValueError, match="is no method") as caught:
        ns.method(word)
    assert "\n" not in str(caught.value)


def test_a_method_that_is_named_again_is_run_once():
    words = ["nag=0.5", "projection", "nag=0.5", "nag=0.5@0:0.6", "dcw=0.01", "dcw=0.01:0.01"]
    found = methods.each_once([ns.method(word) for word in words])
    assert [each.name for each in found] == [ns.method(word).name for word in dict.fromkeys(words)]
    assert len({each.name for each in found}) == 5
    other = replace(methods.guided_method(nag=1.0), name=found[0].name)
    with pytest.raises(ValueError, match=r"two different methods are called nag=0\.5: give one of them another name"):
        methods.each_once([*found, other])
