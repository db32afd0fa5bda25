"""How schedulers count, in closed form: what they are given for a prediction, and how that is read back."""

import math

import diffusers
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.families import (
    FLOW,
    Consistency,
    Exploding,
    Flow,
    Preconditioned,
    Preserving,
    family_of,
    last_label,
    outside,
    pair_of,
    unit,
)

GENERATOR = torch.Generator().manual_seed(0)
X0, EPS = torch.randn(2, 3, 4, generator=GENERATOR, dtype=torch.float64)
LEVELS = {"preserving": (0.8, 0.6), "exploding": (1.0, 2.5), "flow": (0.3, 0.7)}
KINDS = [
    family(kind) for family in (Preserving, Exploding, Flow) for kind in ("epsilon", "sample", "v_prediction", FLOW)
]
EVERY = [*KINDS, Preconditioned("epsilon", 0.5), Preconditioned("v_prediction", 0.7), Consistency(0.5, 0.002)]


@pytest.mark.parametrize("family", EVERY, ids=lambda family: f"{type(family).__name__}-{family.kind}")
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_answered_is_read_back(family, level):
    """At any level in any scaling; EDM's weights are of sigma over alpha, as it keeps alpha = 1."""
    alpha, sigma = LEVELS[level]
    own = (1.0, sigma / alpha) if isinstance(family, Preconditioned) else (alpha, sigma)
    output = family.answer(X0, EPS, (alpha, sigma), own)
    x0, eps = family.read(output, alpha * X0 + sigma * EPS, (alpha, sigma))
    torch.testing.assert_close(x0, X0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(eps, EPS, rtol=1e-9, atol=1e-9)


def test_answers_by_their_formulas():
    level = (3.0, 4.0)
    for kind, wanted in {
        "epsilon": EPS,
        "sample": X0,
        FLOW: EPS - X0,
        "v_prediction": 0.6 * EPS - 0.8 * X0,
    }.items():
        torch.testing.assert_close(Preserving(kind).answer(X0, EPS, level, level), wanted)


def test_edms_answer_is_the_raw_network():
    """D = c_skip x + c_out F with c_skip = s² / (σ² + s²), c_out = σ s / √(σ² + s²) (2206.00364, table 1)."""
    sigma, data = 2.0, 0.5
    raw = Preconditioned("epsilon", data).answer(X0, EPS, (1.0, sigma), (1.0, sigma))
    skip, out = data**2 / (sigma**2 + data**2), sigma * data / math.sqrt(sigma**2 + data**2)
    torch.testing.assert_close(skip * (X0 + sigma * EPS) + out * raw, X0)
    torch.testing.assert_close(Preconditioned("v_prediction", data).answer(X0, EPS, (1.0, sigma), (1.0, sigma)), -raw)


def test_a_consistency_models_answer_is_the_state_at_the_least_noise():
    """c_skip = s² / ((σ - ε)² + s²), c_out = s (σ - ε) / √(σ² + s²) (2303.01469, appendix C)."""
    family = Consistency(0.5, 0.002)
    assert family._weights(0.002) == (1, 0)
    assert family._weights(1.002) == pytest.approx((0.25 / 1.25, 0.5 / math.hypot(1.002, 0.5)))


def test_levels_in_each_scaling():
    level = (1.5, 2.0)
    assert Preserving("epsilon").scaled(level) == pytest.approx((0.6, 0.8)) == unit(level)
    assert Exploding("epsilon").scaled(level) == pytest.approx((1, 4 / 3))
    assert Preconditioned("epsilon", 0.5).scaled(level) == pytest.approx((1, 4 / 3))
    assert Flow(FLOW).scaled(level) == pytest.approx((3 / 7, 4 / 7))
    for log_snr in (-800.0, -3.0, 0.0, 5.0, 800.0):
        alpha, sigma = pair_of(log_snr)
        assert alpha**2 + sigma**2 == pytest.approx(1)
        if abs(log_snr) < 100:
            assert 2 * math.log(alpha / sigma) == pytest.approx(log_snr)


SCHEDULERS = {
    "DDIMScheduler": ({}, Preserving, "epsilon", 999),
    "DDPMScheduler": ({"prediction_type": "v_prediction"}, Preserving, "v_prediction", 999),
    "EulerDiscreteScheduler": ({}, Exploding, "epsilon", 999),
    "FlowMatchEulerDiscreteScheduler": ({}, Flow, FLOW, 1000),
    "DPMSolverMultistepScheduler": ({"use_flow_sigmas": True, "prediction_type": FLOW}, Flow, FLOW, 1000),
    "EDMEulerScheduler": ({}, Preconditioned, "epsilon", None),
}
CONTINUOUS = {"timestep_type": "continuous", "prediction_type": "v_prediction"}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_which_family_a_scheduler_is_of_and_its_last_label(name):
    options, kind, predicts, last = SCHEDULERS[name]
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(5)
    family = family_of(scheduler)
    assert type(family) is kind
    assert family.kind == predicts
    assert last_label(family, scheduler) == last
    labels = torch.tensor([-0.01, 0.0, 500.0, 999.0, 999.0005, 1000.0, 1000.0005, 1001.0], dtype=torch.float64)
    beyond = {None: [], 999: [0, 5, 6, 7], 1000: [0, 7]}[last]
    assert outside(family, scheduler, labels).tolist() == labels[beyond].tolist()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_labels_are_the_levels_of_their_states(name):
    """Where a scheduler's labels were not rounded, both are one level: 0.4 in log-SNR holds those that are whole."""
    options, *_ = SCHEDULERS[name]
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(8)
    family = family_of(scheduler)
    states = torch.tensor([2 * math.log(alpha / sigma) for alpha, sigma in family.states(scheduler)[1:]])
    assert float((family.labelled(scheduler)[1:] - states).abs().max()) < 0.4


def test_labels_of_a_continuous_scheduler_are_logarithms_of_its_sigmas():
    scheduler = diffusers.EulerDiscreteScheduler(**CONTINUOUS)
    scheduler.set_timesteps(6)
    family = family_of(scheduler)
    assert last_label(family, scheduler) is None
    states = torch.tensor([2 * math.log(alpha / sigma) for alpha, sigma in family.states(scheduler)])
    torch.testing.assert_close(family.labelled(scheduler).float(), states, rtol=1e-4, atol=1e-4)


class Own:
    """A scheduler of one's own, with what is `given` beside its two methods."""

    def __init__(self, config, **given):
        self.config = config
        self.timesteps = torch.tensor([900.0, 500.0, 100.0])
        vars(self).update(given)

    def set_timesteps(self, steps):
        pass

    def step(self, model_output, timestep, sample):
        return (sample,)


TABLE = torch.linspace(0.99, 0.01, 1000)
SIGMAS = torch.tensor([0.9, 0.5, 0.1, 0.0])
FLOWS = {"num_train_timesteps": 1000}


@pytest.mark.parametrize(
    ("config", "given", "kind"),
    [
        ({"prediction_type": "epsilon"}, {"alphas_cumprod": TABLE}, Preserving),
        (FLOWS, {"sigmas": SIGMAS}, Flow),
        (FLOWS | {"shift": 3.0}, {"sigmas": SIGMAS + 1e-3}, Flow),
    ],
)
def test_a_scheduler_of_ones_own_is_known_by_its_table_or_its_sigmas(config, given, kind):
    assert type(family_of(Own(config, **given))) is kind


@pytest.mark.parametrize(
    ("config", "given", "why"),
    [
        ({"prediction_type": "epsilon"}, {}, "use a diffusers one"),
        ({}, {"alphas_cumprod": TABLE}, "use a diffusers one"),
        ({}, {"sigmas": SIGMAS}, "use a diffusers one"),
        (FLOWS, {"sigmas": SIGMAS.tolist()}, "use a diffusers one"),
        (FLOWS, {"sigmas": SIGMAS[:2]}, "use a diffusers one"),
        (FLOWS, {"sigmas": SIGMAS + 0.01}, "use a diffusers one"),
        (FLOWS | {"shift": 3.0}, {"sigmas": SIGMAS[:2]}, "use a diffusers one"),
        (
            FLOWS | {"shift": 3.0},
            {"sigmas": torch.tensor([0.9, 0.75, 0.1, 0.0])},
            r"given 500 where its states have sigma = 0\.75: .* give it sigmas alone",
        ),
        (FLOWS, {"sigmas": SIGMAS.flip(0)[1:], "timesteps": torch.tensor([100.0, 500.0, 900.0])}, "from data to noise"),
    ],
)
def test_what_is_no_scheduler_that_is_known_says_why(config, given, why):
    with pytest.raises(ValueError, match=why):
        family_of(Own(config, **given))


def test_one_step_towards_noise_is_refused_too():
    with pytest.raises(ValueError, match="it runs from data to noise"):
        ns.from_diffusers(diffusers.DDIMInverseScheduler(), 1)


REFUSED = {
    "'v'": ("DDIMScheduler", {"prediction_type": "v"}, "is unknown here: use epsilon, sample, v_prediction"),
    "flow": ("EulerDiscreteScheduler", {"prediction_type": FLOW}, "goes with use_flow_sigmas=True"),
    "variance": ("DDPMScheduler", {"variance_type": "learned_range"}, "set variance_type to 'fixed_small'"),
    "inverse": ("DDIMInverseScheduler", {}, "it runs from data to noise"),
    "inverted": ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "set it to False"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_says_why(case):
    name, options, why = REFUSED[case]
    with pytest.raises(ValueError, match=f"{name} is no scheduler that can be followed: .*{why}"):
        ns.from_diffusers(getattr(diffusers, name)(**options), 5)


def test_a_learned_variance_is_read_but_not_stepped():
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    scheduler.set_timesteps(5)
    assert family_of(scheduler, step=False).kind == "epsilon"
