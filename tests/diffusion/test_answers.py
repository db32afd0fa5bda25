"""What a network answers is checked: nothing is broadcast, cast or divided by zero in silence."""

import pytest
import torch
from torch import nn

import noiseshift as ns
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL, Branch, Guided, Prediction, checked
from noiseshift.networks.model import NetworkModel

X = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
T = torch.tensor(0.5)

WRONG = {
    "one row for the batch": (lambda x: x[:1], r"shape \(1, 3, 2, 2\): return one of shape \(4, 3, 2, 2\)"),
    "one channel for all": (lambda x: x[:, :1], r"\(4, 1, 2, 2\)"),
    "one number": (lambda x: x.mean(), r"shape \(\)"),
    "one number per row": (lambda x: x.flatten(1).mean(1), r"\(4,\)"),
    "flattened": (lambda x: x.flatten(1), r"\(4, 12\)"),
    "a larger picture": (lambda x: x.repeat(1, 1, 2, 2), r"\(4, 3, 4, 4\)"),
    "whole numbers": (lambda x: x.long(), "torch.int64"),
    "truths": (lambda x: x > 0, "torch.bool"),
    "complex numbers": (lambda x: x.to(torch.complex64), "torch.complex64"),
    "nothing": (lambda x: None, "NoneType"),
    "a pair": (lambda x: (x, x), "tuple"),
    "numpy": (lambda x: x.numpy(), "ndarray"),
    "elsewhere": (lambda x: x.to("meta"), "meta"),
}


def models(answer):
    """The same wrong answer by every way that a network comes in."""
    schedule = ns.Linear()

    class Net(nn.Module):
        def forward(self, x, time, label, known):
            return answer(x)

    network = NetworkModel(Net(), schedule, "velocity", lambda t: t, classes=0, class_dropout=False, noise_dropout=True)
    uninformed = ns.wrap(lambda x, t, c: x, schedule, blind=lambda x, c: answer(x))
    yield lambda: ns.wrap(lambda x, t, c: answer(x), schedule)(X, T)
    yield lambda: uninformed.predict(X, T, None, (FULL, NOISE_UNCONDITIONAL))
    yield lambda: Guided(uninformed, ns.noise_awareness(1.0))(X, T)
    yield lambda: network(X, T)
    yield lambda: ns.adapters.torchcfm(lambda t, x, y=None: answer(x))(X, T)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("way", range(5))
def test_an_answer_that_does_not_fit_is_refused(kind, way):
    answer, says = WRONG[kind]
    with pytest.raises(ValueError, match=says) as caught:
        list(models(answer))[way]()
    assert "\n" not in str(caught.value)


def test_a_network_of_one_row_for_two_branches_is_refused():
    """Right for one branch, one half of what two need: nothing may be split unevenly."""

    class Net(nn.Module):
        def forward(self, x, time, label, known):
            return x[:4]

    model = NetworkModel(
        Net(), ns.Linear(), "velocity", lambda t: t, classes=0, class_dropout=False, noise_dropout=True
    )
    model(X, T)
    with pytest.raises(ValueError, match=r"shape \(4, 3, 2, 2\): return one of shape \(8, 3, 2, 2\)"):
        model.predict(X, T, None, (FULL, Branch(noise=False)))


def test_a_learned_variance_is_dropped_and_nothing_else_is():
    def model(channels):
        class Net(nn.Module):
            def forward(self, x, time, label, known):
                return torch.cat([x, x, x], dim=1)[:, :channels]

        return NetworkModel(
            Net(), ns.Linear(), "velocity", lambda t: t, classes=0, class_dropout=False, noise_dropout=False
        )

    torch.testing.assert_close(model(6)(X, T).velocity, X)
    for channels in (2, 4, 5, 9):
        with pytest.raises(ValueError, match="shape"):
            model(channels)(X, T)


def test_an_answer_in_half_precision_is_widened_to_the_states_own():
    """As under autocast: the pair must not mix two precisions."""
    prediction = ns.wrap(lambda x, t, c: x.bfloat16(), ns.Linear(), predicts="x0")(X, T)
    assert prediction.x0.dtype == prediction.eps.dtype == torch.float32


@pytest.mark.parametrize("x", [torch.ones(4, dtype=torch.float32), torch.ones(4, 2, dtype=torch.int64)])
def test_states_that_are_no_batch_of_numbers_are_refused(x):
    with pytest.raises(ValueError, match="states must be"):
        ns.wrap(lambda x, t, c: x, ns.Linear())(x, T)


@pytest.mark.parametrize("cond", [torch.tensor([1]), torch.tensor(1), torch.arange(5)])
def test_conditions_of_another_number_than_the_states_are_refused(cond):
    with pytest.raises(ValueError, match=r"one entry per state, \(4,\)"):
        ns.wrap(lambda x, t, c: x, ns.Linear())(X, T, cond)


@pytest.mark.parametrize(("predicts", "t"), [("epsilon", 1.0), ("score", 1.0), ("x0", 0.0), ("score", 0.0)])
@pytest.mark.parametrize("schedule", [ns.Linear(), ns.Cosine()], ids=["linear", "cosine"])
def test_what_a_prediction_cannot_say_at_an_end_is_refused(predicts, t, schedule):
    model = ns.wrap(lambda x, t, c: x, schedule, predicts=predicts)
    with pytest.raises(ValueError, match="is 0 at this time"):
        model(X, torch.tensor(t))
    with pytest.raises(ValueError, match="is 0 at this time"):
        model(X, torch.tensor([0.5, 0.5, t, 0.5]))


@pytest.mark.parametrize("predicts", ["velocity", "v_prediction"])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_a_velocity_says_all_at_both_ends(predicts, t):
    prediction = ns.wrap(lambda x, t, c: 0.5 * x, ns.Linear(), predicts=predicts)(X, torch.tensor(t))
    assert bool(torch.isfinite(prediction.x0).all() and torch.isfinite(prediction.eps).all())


def test_the_last_entry_of_a_zero_terminal_snr_table_counts_as_no_signal():
    table = torch.linspace(0.99, 0, 100, dtype=torch.float64)
    with pytest.raises(ValueError, match="alpha is 0"):
        ns.wrap(lambda x, t, c: x, ns.Discrete(table), predicts="epsilon")(X, torch.tensor(1.0))


def test_a_score_at_the_data_is_refused():
    level = ns.Linear()(torch.tensor(0.0)).like(X)
    with pytest.raises(ValueError, match="sigma is 0"):
        _ = Prediction(X, X, level).score


def test_classifier_guidance_at_pure_noise_is_refused():
    guidance = ns.classifier_noise_awareness(lambda x, t: -(x**2).flatten(1).sum(1), 1.0, interval=(0, 1))
    model = Guided(ns.wrap(lambda x, t, c: x, ns.Linear()), guidance)
    with pytest.raises(ValueError, match="end the classifier's interval"):
        model(X, torch.tensor(1.0))
    model(X, torch.tensor(0.9))


def test_a_log_probability_of_the_whole_batch_is_refused():
    """Its mean over the batch would divide the push by the batch's size."""
    guidance = ns.classifier_noise_awareness(lambda x, t: -(x**2).mean(), 1.0)
    with pytest.raises(ValueError, match=r"shape \(\): return one of shape \(4,\)"):
        Guided(ns.wrap(lambda x, t, c: x, ns.Linear()), guidance)(X, T)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "update", [ns.euler, ns.heun, ns.ddim(), ns.from_diffusers], ids=["euler", "heun", "ddim", "diffusers"]
)
def test_a_run_stops_where_the_model_says_something_that_is_no_number(bad, update):
    def fn(x, t, c):
        return torch.where((t < 0.6)[:, None, None, None] & (torch.arange(4) == 2)[:, None, None, None], bad, 0.5 * x)

    model = ns.wrap(fn, ns.Cosine())
    times = torch.linspace(1, 0, 6)
    if update is ns.from_diffusers:
        from diffusers import FlowMatchEulerDiscreteScheduler

        update, times = ns.from_diffusers(FlowMatchEulerDiscreteScheduler(), 5), None
        model = ns.wrap(fn, ns.Linear())
    with pytest.raises(ValueError, match=r"not finite at t = 0\.\d+ in 1 of 4 rows"):
        list(ns.sample(model, X, times, update=update))


def test_edms_sampler_refuses_a_schedule_without_signal():
    with pytest.raises(ValueError, match="divides by alpha"):
        list(ns.sample(ns.wrap(lambda x, t, c: x, ns.Linear()), X, torch.linspace(1, 0, 5), update=ns.edm_heun))


def test_a_users_model_is_checked_where_it_is_sampled():
    class Own:
        schedule, branches, predicts = ns.Linear(), frozenset({FULL}), "velocity"

        def snap(self, t):
            return t

        def __call__(self, x, t, cond=None):
            return Prediction.from_velocity(x[:1], x[:1], self.schedule(t))

        def predict(self, x, t, cond, branches):
            return tuple(self(x, t, cond) for _ in branches)

    with pytest.raises(ValueError, match=r"shape \(1, 3, 2, 2\)"):
        list(ns.sample(Own(), X, torch.linspace(1, 0, 5)))


def test_what_fits_is_handed_on_as_it_is():
    assert checked(X, X, "it") is X
