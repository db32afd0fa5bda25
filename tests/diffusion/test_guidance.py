"""Guidance and its alternatives against their defining equations, on exact models."""

import math

import pytest
import torch

import noiseshift as ns
from noiseshift.correction.alternatives import (
    EpsilonScaled,
    EstimatedLevel,
    LevelGuidance,
    TimeShifted,
    TimeStepGuidance,
    closed_loop_scale,
    level_projection,
)
from noiseshift.diffusion import guidance
from noiseshift.diffusion.guidance import BranchSpace
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL, UNCONDITIONAL, Branch, Guided, gradient
from noiseshift.diffusion.samplers import Step, Transition, euler, per_sample_noise
from noiseshift.diffusion.scales import Within
from noiseshift.estimators.posterior import Posterior, time_grid
from noiseshift.targets import LowRank

LINEAR = ns.Linear()
T = torch.tensor(0.4, dtype=torch.float64)


def gaussian(dim=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(dim, 4, generator=generator, dtype=torch.float64)
    return ns.targets.Gaussian(
        torch.zeros(dim, dtype=torch.float64), LowRank(factors, torch.tensor(1e-4, dtype=torch.float64))
    )


def labelled(seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(40, 24, generator=generator, dtype=torch.float64)
    return ns.targets.Empirical(data, torch.arange(40) % 4)


def states(n=6, dim=64, seed=1):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_guidance_of_several_kinds_adds_up_to_its_closed_form():
    model, weak, pretrained = (labelled(seed).model(LINEAR) for seed in (0, 1, 2))
    x, cond = states(dim=24), torch.arange(6) % 4
    total = ns.classifier_free(1.5) + ns.noise_awareness(0.5) + ns.autoguidance(weak, 0.7) + ns.domain(pretrained, 0.2)
    mixed = Guided(model, total)(x, T, cond)
    full, uninformed, no_class = model.predict(x, T, cond, [FULL, NOISE_UNCONDITIONAL, UNCONDITIONAL])
    other, before = weak(x, T, cond), pretrained.predict(x, T, cond, [UNCONDITIONAL])[0]
    for name in ("x0", "eps"):
        f = getattr(full, name)
        expected = f + sum(
            w * (f - getattr(p, name)) for w, p in ((1.5, no_class), (0.5, uninformed), (0.7, other), (0.2, before))
        )
        torch.testing.assert_close(getattr(mixed, name), expected)
    assert sum(total.weights().values()) == pytest.approx(1)
    assert mixed.unguided.eps.equal(full.eps)


def test_one_forward_a_model_and_one_model_once():
    calls = []

    class Counting:
        def __init__(self, model, name):
            self.model, self.name = model, name
            self.schedule, self.branches, self.predicts, self.snap = (
                *(model.schedule, model.branches, model.predicts),
                model.snap,
            )

        def __call__(self, x, t, cond=None):
            return self.predict(x, t, cond, (FULL,))[0]

        def predict(self, x, t, cond, branches):
            calls.append((self.name, tuple(branches)))
            return self.model.predict(x, t, cond, branches)

    model, weak = Counting(labelled().model(LINEAR), "model"), Counting(labelled(1).model(LINEAR), "weak")
    twice = ns.autoguidance(weak, 0.3) + ns.domain(weak, 0.2) + ns.autoguidance(weak, 0.1)
    assert len(twice.models) == 1
    Guided(model, twice + ns.noise_awareness(1.0))(states(dim=24), T, torch.zeros(6, dtype=torch.long))
    assert calls == [("model", (FULL, NOISE_UNCONDITIONAL)), ("weak", (FULL, UNCONDITIONAL))]


def test_two_reference_models_are_kept_apart():
    first, second = labelled(1).model(LINEAR), labelled(2).model(LINEAR)
    both = ns.autoguidance(first, 0.3) + ns.autoguidance(second, 0.2)
    assert both.weights() == {FULL: 1.5, Branch(model=1): -0.3, Branch(model=2): -0.2}
    assert both.models == (first, second)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: Guided(m, ns.noise_awareness(0.0) + ns.classifier_free(0.0) + ns.autoguidance(m, 0.0)),
        lambda m: Guided(m, ns.classifier_noise_awareness(lambda x, t: x.sum(1), 0.0)),
        lambda m: LevelGuidance(m, 0.0, lambda x, t, cond: t.expand(len(x))),
        lambda m: TimeStepGuidance(m, 0.0),
    ],
)
def test_scale_0_is_bit_equal_to_unguided(make):
    model = labelled().model(LINEAR)
    x, cond = states(dim=24), torch.arange(6) % 4
    plain, other = model(x, T, cond), make(model)(x, T, cond)
    assert plain.x0.equal(other.x0)
    assert plain.eps.equal(other.eps)


def test_the_nag_direction_of_an_exact_model_is_the_gradient_of_log_p_of_t():
    target = gaussian()
    times = torch.linspace(0.2, 0.7, 101, dtype=torch.float64)
    model, posterior = target.model(LINEAR, blind="score", times=times), target.estimator(LINEAR, times)
    x = 0.6 * target.sample(6, torch.Generator().manual_seed(0)) + 0.4 * states()

    def log_prob(x, t):
        every = torch.stack([target.log_prob(x, LINEAR(s)) for s in times], dim=1)
        return (
            target.log_prob(x, LINEAR(t))
            - Posterior.from_log_density(times, every).log_prob.new_zeros(1)
            - (every + (torch.gradient(times)[0]).log()).logsumexp(1)
        )

    full, uninformed = model.predict(x, T, None, [FULL, NOISE_UNCONDITIONAL])
    direction = full.score - uninformed.score
    torch.testing.assert_close(gradient(log_prob, x, T), direction, rtol=2e-3, atol=2e-3)
    by_classifier = Guided(model, ns.classifier_noise_awareness(log_prob, 0.7))(x, T)
    torch.testing.assert_close(by_classifier.score, full.score + 0.7 * gradient(log_prob, x, T), rtol=1e-9, atol=1e-9)
    level = LINEAR(T)
    torch.testing.assert_close(level.alpha * by_classifier.x0 + level.sigma * by_classifier.eps, x)
    assert posterior(x).mean.shape == (6,)


def test_gradients_are_taken_in_inference_mode_too():
    with torch.inference_mode():
        x = states(2, 3)
        torch.testing.assert_close(gradient(lambda x, t: (x**2).sum(1) * t, x, T), 2 * x * T)


def relaxation(space, w, excess):
    """How far guidance by a perfect branch takes back a relative excess c - 1 of noise, from t = 0.5 to 0.15."""
    dim, rank = 8192, 4  # a posterior over t this narrow makes its answer perfect to 1e-4
    factors = torch.zeros(dim, rank, dtype=torch.float64)
    factors[:rank] = torch.eye(rank)
    target = ns.targets.Gaussian(
        torch.zeros(dim, dtype=torch.float64), LowRank(factors, torch.tensor(1e-12, dtype=torch.float64))
    )
    levels = time_grid(LINEAR, 500, 0.12, 0.68)
    model = Guided(target.model(LINEAR, blind=space, times=levels), ns.noise_awareness(w))
    times = torch.logspace(math.log10(0.5), math.log10(0.15), 61, dtype=torch.float64)
    noise = states(1, dim)
    x = 0.5 * (1 + excess) * noise / noise[:, rank:].square().mean().sqrt()
    *_, last = ns.sample(model, x, times, update=ns.heun)
    return (float(last.x[:, rank:].square().mean().sqrt() / 0.15) - 1) / excess


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 2.0])
def test_relaxation_under_a_perfect_noise_unconditional_branch(w):
    """(c - 1) ∝ sigma^w in directions that hold only noise, for noise-unconditional velocities of the linear schedule."""
    assert math.log(relaxation("velocity", w, 0.2)) / math.log(0.3) == pytest.approx(w, rel=0.02, abs=1e-3)


@pytest.mark.parametrize("w", [0.5, 1.0])
def test_noise_unconditional_epsilons_and_scores_relax_with_sigma_over_alpha(w):
    """A guided epsilon moves x0 too: (c - 1) ∝ (sigma/alpha)^w, and ^2w for scores, weaker by c."""
    fall = math.log(0.15 / 0.85)
    assert math.log(relaxation("epsilon", w, 0.2)) / fall == pytest.approx(w, rel=0.02)
    assert math.log(relaxation("score", w / 2, 0.02)) / fall == pytest.approx(w, rel=0.04)


def test_a_noise_unconditional_velocity_is_reread_as_an_epsilon_and_as_a_score():
    target = gaussian(512)
    x = 0.6 * target.sample(8, torch.Generator().manual_seed(0)) + 0.45 * states(8, 512)
    trained = target.model(LINEAR, blind="velocity")
    effective_level = EstimatedLevel(target.estimator(LINEAR))
    for space in ("epsilon", "score"):
        wanted = target.model(LINEAR, blind=space).predict(x, T, None, [NOISE_UNCONDITIONAL])[0].eps
        found = BranchSpace(trained, space, effective_level).predict(x, T, None, [NOISE_UNCONDITIONAL])[0].eps
        naive = trained.predict(x, T, None, [NOISE_UNCONDITIONAL])[0].eps
        assert float((found - wanted).norm()) < 0.05 * float((naive - wanted).norm())
    plain = BranchSpace(trained, "score", effective_level).predict(x, T, None, [FULL])[0]
    assert plain.eps.equal(trained(x, T).eps)
    with pytest.raises(ValueError, match="space must be"):
        BranchSpace(trained, "noise", effective_level)


def test_an_estimated_level_is_calibrated_and_stays_near():
    class Off:
        schedule, times = LINEAR, torch.linspace(0, 1, 101, dtype=torch.float64)

        def __call__(self, x, cond=None, *, step=None):
            read = x.double().square().mean(1).sqrt() + 0.05
            return Posterior.from_log_density(self.times, -0.5 * ((self.times - read[:, None]) / 1e-2) ** 2)

    x = 0.4 * states(64, 2048)
    calibration = ns.calibrate(Off(), torch.zeros(64, 2048), T[None], slope_rows=2)
    read = EstimatedLevel(calibration)(x, T, None)
    assert float(read.mean()) == pytest.approx(0.4, abs=0.003)
    assert read.equal(EstimatedLevel(Off(), calibration)(x, T, None))
    far = EstimatedLevel(Off(), reach=0.1)(2 * x, T, None)
    torch.testing.assert_close(far, torch.full_like(far, 0.44))


def test_epsilon_scaling_divides_the_noise_and_keeps_the_state():
    model = gaussian().model(LINEAR)
    x = states()
    plain, scaled = model(x, T), EpsilonScaled(model, 1.01, 0.1)(x, T)
    torch.testing.assert_close(scaled.eps, plain.eps / (1.01 + 0.1 * 0.4))
    torch.testing.assert_close(0.6 * scaled.x0 + 0.4 * scaled.eps, x)
    # Estimators read the network's own answer: a scaled one is no conditional expectation.
    torch.testing.assert_close(scaled.unguided.eps, plain.eps, rtol=0, atol=0)
    torch.testing.assert_close(scaled.unguided.x0, plain.x0, rtol=0, atol=0)
    start = EpsilonScaled(model, 1.01)(x, torch.tensor(1.0, dtype=torch.float64))
    assert bool(torch.isfinite(start.x0).all())


def test_the_time_shift_sampler_tells_the_time_of_a_states_variance():
    """A variance-preserving state of white data, variance 1, stays at the end of the window; pure noise is found."""
    t_cond = []

    def network(x, t, cond):
        t_cond.append(t.clone())
        return x

    schedule = ns.VariancePreserving()
    model = ns.wrap(network, schedule, predicts="epsilon")
    noise = states(8, 4096)
    noise /= noise.std(1, keepdim=True)
    sigma = float(schedule(torch.tensor(0.32)).sigma)
    TimeShifted(model, 0.1, 0.1)(sigma * noise, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(t_cond[-1], torch.full_like(t_cond[-1], 0.32), atol=0.006, rtol=0)
    TimeShifted(model, 0.02, 0.1)(sigma * noise, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(t_cond[-1], torch.full_like(t_cond[-1], 0.31), atol=1e-6, rtol=0)
    TimeShifted(model, 0.1, 0.35)(sigma * noise, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(t_cond[-1], torch.full_like(t_cond[-1], 0.3), atol=1e-6, rtol=0)


def test_level_guidance_is_the_difference_of_two_scores():
    target = gaussian()
    model, x = target.model(LINEAR), states()
    effective = torch.linspace(0.35, 0.5, 6, dtype=torch.float64)
    guided = LevelGuidance(model, 0.8, lambda x, t, cond: effective)(x, T)
    here, there = model(x, T), model(x, effective)
    torch.testing.assert_close(guided.score, here.score + 0.8 * (here.score - there.score))
    torch.testing.assert_close(0.6 * guided.x0 + 0.4 * guided.eps, x)
    late = torch.tensor(0.8, dtype=torch.float64)
    assert LevelGuidance(model, 0.8, lambda x, t, cond: effective)(x, late).eps.equal(model(x, late).eps)


def test_time_step_guidance_repeats_itself_and_pushes_away_from_other_times():
    model, x = gaussian().model(LINEAR), states()
    first, second = (TimeStepGuidance(model, 1.0, spread=0.05)(x, T) for _ in range(2))
    assert first.eps.equal(second.eps)
    other = TimeStepGuidance(model, 1.0, spread=0.05, seed=1)(x, T)
    assert not first.eps.equal(other.eps)
    none = TimeStepGuidance(model, 1.0, spread=0.0)(x, T)
    torch.testing.assert_close(none.eps, model(x, T).eps)


def test_time_step_guidance_draws_by_the_state_and_not_by_its_place_in_the_batch():
    model, x = gaussian().model(LINEAR), states()
    guided = TimeStepGuidance(model, 1.0, spread=0.05)
    whole = guided(x, T).x0
    torch.testing.assert_close(guided(x.flip(0), T).x0.flip(0), whole)
    torch.testing.assert_close(guided(x[3:], T).x0, whole[3:])


def test_level_projection_sets_the_effective_level_and_nothing_else():
    noise, x0 = states(5, 32), states(5, 32, seed=3)
    level = LINEAR(T).like(noise)
    x = level.alpha * x0 + 0.5 * noise
    model = ns.wrap(lambda x, t, cond: x, LINEAR)
    prediction = ns.Prediction(x0, (x - level.alpha * x0) / level.sigma, level)
    seen = []

    def update(transition):
        seen.append(transition)
        return euler(transition)

    moved = Transition(
        model, Step(0, T, x, prediction), prediction, torch.tensor(0.2).double(), None, per_sample_noise([])
    )
    level_projection(update, lambda x, t, cond: torch.full((5,), 0.5).double())(moved)
    torch.testing.assert_close(seen[0].step.x, level.alpha * x0 + 0.4 * noise)
    torch.testing.assert_close(seen[0].prediction.eps, noise)
    assert seen[0].prediction.x0.equal(x0)
    level_projection(update, lambda x, t, cond: t, interval=(0.0, 0.1))(moved)
    assert seen[1] is moved


def test_the_closed_loop_holds_the_shift_at_its_floor():
    import numpy as np

    times = np.array([0.8, 0.4, 0.2])
    # relative excess 0, 0.02, 0.02: gained on the first stretch, conserved on the second
    scale = closed_loop_scale(times, times, np.array([0, 0.008, 0.004]), np.ones(3), 0.01 * times, largest=5.0)
    assert scale(0.6) == pytest.approx(0.02 / math.log(2) / 0.01)
    assert scale(0.3) == pytest.approx(0, abs=1e-9)
    assert closed_loop_scale(times, times, np.full(3, np.nan), np.ones(3), times) == 0.0


def test_what_a_guidance_needs_is_asked_for_at_construction():
    conditional_only = ns.wrap(lambda x, t, cond: x, LINEAR)
    with pytest.raises(ValueError, match="no noise-unconditional branch"):
        Guided(conditional_only, ns.noise_awareness(1.0))
    assert ns.domain(conditional_only, 1.0).terms.keys() == {Branch(model=1)}
    with pytest.raises(ValueError, match="no noise-unconditional branch"):
        Guided(labelled().model(LINEAR), guidance.Guidance({Branch(noise=False, model=1): (1.0,)}, (conditional_only,)))


def test_a_guidance_acts_at_all_times_unless_an_interval_says_otherwise():
    target = ns.targets.Gaussian(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    other = target.model(LINEAR)
    made = ns.classifier_free(2.0), ns.noise_awareness(2.0), ns.domain(other, 2.0), ns.autoguidance(other, 2.0)
    assert [list(each.terms.values()) for each in made] == [[(2.0,)]] * 4
    scale = ns.classifier_noise_awareness(lambda x, t: x.sum(1), 2.0).gradients[0][1]
    assert scale == Within(2.0, 0.0, 0.95)


def test_an_interval_may_be_one_time_and_must_not_run_backwards():
    (scale,) = ns.classifier_free(2.0, interval=(0.5, 0.5)).terms[UNCONDITIONAL]
    assert [scale(torch.tensor(t)) for t in (0.49, 0.5, 0.51)] == [0.0, 2.0, 0.0]
    with pytest.raises(ValueError, match="from low to high"):
        ns.classifier_free(2.0, interval=(0.6, 0.5))


def test_weights_are_those_of_the_middle_where_no_time_is_named():
    assert ns.noise_awareness(1.0, interval=(0.45, 0.55)).weights() == {FULL: 2.0, NOISE_UNCONDITIONAL: -1.0}


@pytest.mark.parametrize(
    "varying",
    [ns.noise_awareness(lambda t: float(t)), ns.Guidance(gradients=((lambda x, t: t, lambda t: float(t)),))],
    ids=["weights", "gradients"],
)
def test_a_guidance_that_depends_on_t_takes_one_time_and_any_other_takes_several(varying):
    several = torch.tensor([0.2, 0.3])
    with pytest.raises(ValueError, match="depends on t"):
        varying.weights(several)
    assert varying.weights(torch.tensor([0.2, 0.2])) == varying.weights(0.2)
    assert ns.noise_awareness(0.5).weights(several) == ns.noise_awareness(0.5).weights(0.2)
