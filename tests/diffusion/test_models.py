"""Predictions, branches and guidance."""

import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.guidance import in_space
from noiseshift.diffusion.models import (
    FULL,
    NOISE_UNCONDITIONAL,
    READ,
    UNCONDITIONAL,
    Branch,
    GuidedPrediction,
    require,
)
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.transformer import Transformer, TransformerConfig

SCHEDULES = [
    ns.Linear(),
    ns.Cosine(),
    ns.VariancePreserving(),
    ns.SubVariancePreserving(),
    ns.VarianceExploding(),
    ns.VarianceExplodingSDE(),
    ns.Discrete.from_betas(),
]


def network_model():
    torch.manual_seed(0)
    network = Transformer(TransformerConfig(size=8, patch=2, width=16, depth=2, heads=2, classes=3))
    for parameter in network.parameters():  # adaLN-Zero starts at 0: give every branch something to say
        parameter.data.normal_(std=0.3)
    return NetworkModel(
        network, ns.Linear(), "velocity", lambda t: 1000 * t, classes=3, class_dropout=True, noise_dropout=True
    )


X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
T, Y = torch.tensor(0.4), torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("space", list(READ))
def test_every_space_reads_back_the_same_pair(schedule, space):
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    level = schedule(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64))
    at = level.like(x0)
    x = at.alpha * x0 + at.sigma * eps
    value = {
        "velocity": at.dalpha * x0 + at.dsigma * eps,
        "epsilon": eps,
        "x0": x0,
        "score": -eps / at.sigma,
        "v_prediction": (at.alpha * eps - at.sigma * x0) / torch.hypot(at.alpha, at.sigma),
    }[space]
    prediction = READ[space](value, x, level)
    torch.testing.assert_close(prediction.x0, x0)
    torch.testing.assert_close(prediction.eps, eps)
    torch.testing.assert_close(prediction.velocity, at.dalpha * x0 + at.dsigma * eps)
    torch.testing.assert_close(prediction.score, -eps / at.sigma)
    torch.testing.assert_close(in_space(prediction, space), value)


def test_velocity_is_regular_at_both_ends_of_a_flow():
    x, v = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for t in (0.0, 1.0):
        prediction = ns.Prediction.from_velocity(v, x, ns.Linear()(t))
        torch.testing.assert_close(prediction.x0, x - t * v)
        torch.testing.assert_close(prediction.eps, x + (1 - t) * v)


def test_guidances_add_up_to_three_branches():
    weights = (ns.classifier_free(1.5) + ns.noise_awareness(0.8)).weights()
    assert weights == pytest.approx({FULL: 3.3, UNCONDITIONAL: -1.5, NOISE_UNCONDITIONAL: -0.8})
    assert sum(weights.values()) == pytest.approx(1)


def test_cfg_and_nag_run_in_one_forward():
    model = network_model()
    calls = []
    model.network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    ns.Guided(model, ns.classifier_free(1.5) + ns.noise_awareness(0.8))(X, T, Y)
    assert calls == [12]


def test_guidance_is_the_sum_of_its_directions():
    model = network_model()
    full, uninformed, free = model.predict(X, T, Y, (FULL, NOISE_UNCONDITIONAL, UNCONDITIONAL))
    guided = ns.Guided(model, ns.classifier_free(1.5) + ns.noise_awareness(0.8))(X, T, Y)
    expected = full.velocity + 1.5 * (full.velocity - free.velocity) + 0.8 * (full.velocity - uninformed.velocity)
    torch.testing.assert_close(guided.velocity, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(guided, GuidedPrediction)
    torch.testing.assert_close(guided.unguided.eps, full.eps)
    assert not torch.allclose(full.eps, uninformed.eps)
    assert not torch.allclose(full.eps, free.eps)


def test_scale_0_is_bit_equal_to_unguided():
    model = network_model()
    guided = ns.Guided(model, ns.classifier_free(0.0) + ns.noise_awareness(0.0))(X, T, Y)
    plain = model(X, T, Y)
    assert torch.equal(guided.x0, plain.x0)
    assert torch.equal(guided.eps, plain.eps)


def test_outside_its_interval_guidance_costs_nothing():
    weights = ns.noise_awareness(2.0, interval=(0.2, 0.6)).weights
    assert list(weights(0.7)) == [FULL]
    assert weights(0.4) == pytest.approx({FULL: 3.0, NOISE_UNCONDITIONAL: -2.0})


def test_branches_of_one_forward_are_those_of_separate_ones():
    model = network_model()
    together = model.predict(X, T, Y, (NOISE_UNCONDITIONAL, FULL))
    torch.testing.assert_close(
        together[0].x0, model.predict(X, T, Y, (NOISE_UNCONDITIONAL,))[0].x0, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(together[1].x0, model(X, T, Y).x0, rtol=1e-4, atol=1e-5)


def test_a_noise_unconditional_prediction_does_not_depend_on_t():
    model = network_model()
    early, late = (model.predict(X, torch.tensor(t), Y, (NOISE_UNCONDITIONAL,))[0].velocity for t in (0.2, 0.9))
    torch.testing.assert_close(early, late, rtol=1e-3, atol=1e-4)


def test_missing_branches_and_classes_are_named():
    model = ns.wrap(lambda x, t, cond: x, ns.Linear())
    with pytest.raises(ValueError, match="no noise-unconditional branch: train or fine-tune"):
        ns.Guided(model, ns.noise_awareness(1.0))
    with pytest.raises(ValueError, match="0"):
        network_model()(X, T, torch.tensor([0, 1, 2, 9]))


def test_wrap_snaps_and_takes_a_noise_unconditional_branch():
    model = ns.wrap(
        lambda x, t, cond: x * t[:, None],
        ns.Linear(),
        predicts="epsilon",
        blind=lambda x, cond: 2 * x,
        levels=[0.9, 0.1, 0.5],
    )
    x = torch.ones(2, 3)
    assert torch.equal(model.snap(torch.tensor([0.0, 0.29, 0.31, 1.0])), torch.tensor([0.1, 0.1, 0.5, 0.9]))
    full, uninformed = model.predict(x, torch.tensor(0.5), None, (FULL, NOISE_UNCONDITIONAL))
    torch.testing.assert_close(full.eps, 0.5 * x)
    torch.testing.assert_close(uninformed.eps, 2 * x)


def test_an_interval_holds_its_ends_in_single_precision():
    """The samplers hand over float32 times, and float32's 0.6 is a little more than 0.6."""
    weights = ns.noise_awareness(2.0, interval=(0.2, 0.6)).weights
    for end in (0.2, 0.6):
        assert weights(torch.tensor(end, dtype=torch.float32))[NOISE_UNCONDITIONAL] == -2.0
    with pytest.raises(ValueError, match="from low to high"):
        ns.noise_awareness(2.0, interval=(0.6, 0.2))


def test_guidance_that_depends_on_t_wants_one_t_a_batch():
    several = torch.tensor([0.1, 0.4, 0.4, 0.4])
    with pytest.raises(ValueError, match="give every row of a batch the same t"):
        ns.Guided(network_model(), ns.noise_awareness(2.0, interval=(0.2, 0.6)))(X, several, Y)
    ns.Guided(network_model(), ns.noise_awareness(2.0))(X, several, Y)  # a constant scale does not mind


def test_black_and_white_are_two_rising_numbers():
    assert ns.wrap(lambda x, t, cond: x, ns.Linear()).range is None
    assert ns.wrap(lambda x, t, cond: x, ns.Linear(), range=[0, 255]).range == (0.0, 255.0)
    for wrong in [(1, 0), (1, 1), (0,), (0, 1, 2), (2, 1, 0)]:
        with pytest.raises(ValueError, match="range must be what black and white are"):
            ns.wrap(lambda x, t, cond: x, ns.Linear(), range=wrong)


def test_known_levels_are_those_given_else_those_of_whole_steps_else_none():
    table = ns.Discrete.from_betas(steps=50)
    assert ns.wrap(lambda x, t, cond: x, table).levels is None
    assert len(ns.wrap(lambda x, t, cond: x, table, time={"integer": True}).levels) == 50
    given = ns.wrap(lambda x, t, cond: x, table, time={"integer": True}, levels=[0.9, 0.1])
    assert given.levels.tolist() == pytest.approx([0.1, 0.9])


def test_the_unconditional_branch_is_asked_without_a_class():
    asked = []

    def fn(x, t, cond):
        asked.append(cond)
        return x

    model = ns.wrap(fn, ns.Linear(), unconditional=True)
    assert model.branches == {FULL, UNCONDITIONAL}
    model.predict(X, T, Y, (FULL, UNCONDITIONAL))
    assert asked[0].equal(Y)
    assert asked[1] is None
    assert ns.wrap(fn, ns.Linear()).branches == {FULL}
    assert ns.wrap(fn, ns.Linear(), blind=lambda x, cond: x).branches == {FULL, NOISE_UNCONDITIONAL}


def test_the_first_missing_branch_is_the_one_that_is_named():
    model = ns.wrap(lambda x, t, cond: x, ns.Linear())
    with pytest.raises(ValueError, match="no noise-unconditional branch"):
        require(model, [FULL, NOISE_UNCONDITIONAL, UNCONDITIONAL])
    with pytest.raises(ValueError, match="no class-unconditional branch"):
        require(model, [UNCONDITIONAL, NOISE_UNCONDITIONAL])
    with pytest.raises(ValueError, match="no noise-and-class-unconditional branch"):
        require(model, [Branch(noise=False, condition=False)])


def test_one_weak_branch_is_mixed_and_no_gradient_is_asked_at_scale_0():
    def never(x, t):
        raise AssertionError

    model = ns.wrap(lambda x, t, cond: x, ns.Linear(), blind=lambda x, cond: 3 * x)
    guided = ns.Guided(model, ns.noise_awareness(0.5) + ns.classifier_noise_awareness(never, 0.0))(X, T)
    torch.testing.assert_close(guided.velocity, X + 0.5 * (X - 3 * X))


def test_a_classifiers_push_is_added_to_the_score_and_keeps_the_state():
    model = ns.wrap(lambda x, t, cond: 0.3 * x, ns.Linear())
    guidance = ns.classifier_noise_awareness(lambda x, t: -x.square().flatten(1).sum(1), 0.7)
    guided, plain = ns.Guided(model, guidance)(X, T), model(X, T)
    torch.testing.assert_close(guided.score, plain.score + 0.7 * -2 * X)
    torch.testing.assert_close(0.6 * guided.x0 + 0.4 * guided.eps, X)
