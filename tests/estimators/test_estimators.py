"""Model-based estimators against the exact posterior of a mixture; constant coordinates and residuals against their levels."""

from dataclasses import replace

import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.models import FULL
from noiseshift.estimators import (
    ConstantPixel,
    FokkerPlanck,
    FokkerPlanckMode,
    Posterior,
    Residual,
    ScoreMixture,
    time_grid,
)
from noiseshift.estimators.fokker_planck import log_density_slope
from noiseshift.estimators.residual import statistic
from noiseshift.targets import Empirical, Gaussian, GaussianMixture, LowRank

SCHEDULES = {"linear": ns.Linear(), "vp": ns.VariancePreserving()}


def mixture(d=64, rank=4):
    """Ten components of low rank: what an image manifold looks like to a noise level."""
    generator = torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(10, d, generator=generator, dtype=torch.float64)
    factors = torch.randn(10, d, rank, generator=generator, dtype=torch.float64) / (2 * rank**0.5)
    return GaussianMixture(torch.ones(10), means, LowRank(factors, torch.full((10,), 1e-3, dtype=torch.float64)))


TARGET = mixture()


def noisy(schedule, t, n=24, seed=3):
    generator = torch.Generator().manual_seed(seed)
    x0 = TARGET.sample(n, generator)
    level = schedule(torch.tensor(t, dtype=torch.float64)).like(x0)
    return level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=generator, dtype=torch.float64)


def compare(estimator, schedule, x, t):
    """(rms error of the mean in posterior sds, mean ratio of the sds)."""
    exact = TARGET.estimator(schedule, time_grid(schedule, 1000, 0.005, 0.995))(x)
    read = estimator(x, step=ns.Step(0, torch.tensor(t, dtype=torch.float64), x))
    return float((((read.mean - exact.mean) / exact.std) ** 2).mean().sqrt()), float((read.std / exact.std).mean())


@pytest.mark.parametrize(("name", "t"), [("linear", 0.1), ("linear", 0.3), ("vp", 0.1), ("vp", 0.8)])
@pytest.mark.parametrize(("probes", "allowed"), [(1, 0.3), (4, 0.15)])
def test_fokker_planck_against_the_oracle(name, t, probes, allowed):
    schedule = SCHEDULES[name]
    estimator = FokkerPlanck(TARGET.model(schedule), time_grid(schedule, 32, 0.005, 0.995), probes=probes)
    error, ratio = compare(estimator, schedule, noisy(schedule, t), t)
    assert error < allowed
    assert abs(ratio - 1) < 0.15


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [0.1, 0.4])
def test_score_mixture_against_the_oracle(name, t):
    schedule = SCHEDULES[name]
    estimator = ScoreMixture(TARGET.model(schedule), time_grid(schedule, 32, 0.005, 0.995))
    error, ratio = compare(estimator, schedule, noisy(schedule, t), t)
    assert error < 0.15
    assert abs(ratio - 1) < 0.15


@pytest.mark.parametrize("space", ["epsilon", "x0"])
def test_score_mixture_reads_the_space_of_the_noise_unconditional_branch(space):
    schedule = SCHEDULES["linear"]
    estimator = ScoreMixture(TARGET.model(schedule, blind=space), time_grid(schedule, 32, 0.005, 0.995))
    error, _ = compare(estimator, schedule, noisy(schedule, 0.2, n=8), 0.2)
    assert error < 0.2


def test_polishing_at_the_mode_is_worth_many_probes():
    schedule, x = SCHEDULES["linear"], noisy(SCHEDULES["linear"], 0.3)
    levels, model = time_grid(SCHEDULES["linear"], 32, 0.005, 0.995), TARGET.model(SCHEDULES["linear"])
    rough, _ = compare(FokkerPlanck(model, levels, polish=0), schedule, x, 0.3)
    polished, _ = compare(FokkerPlanck(model, levels, polish=16), schedule, x, 0.3)
    assert polished < 0.6 * rough


@pytest.mark.parametrize("t", [0.05, 0.1, 0.2])
def test_the_mode_finder_agrees_with_the_grid_where_the_posterior_is_narrow(t):
    schedule, x = SCHEDULES["linear"], noisy(SCHEDULES["linear"], t)
    model = TARGET.model(schedule)
    grid = FokkerPlanck(model, time_grid(schedule, 32, 0.005, 0.995), polish=0)(x)  # the same probe
    mode = FokkerPlanckMode(model)(x, step=ns.Step(0, torch.tensor(1.3 * t, dtype=torch.float64), x))
    assert float(((mode.mean - grid.mean) / grid.std).abs().max()) < 0.25
    assert float((mode.std / grid.std - 1).abs().max()) < 0.2


def test_the_slope_is_the_derivative_of_the_exact_log_density():
    # One coordinate: the Rademacher estimate of a 1×1 trace is exact.
    schedule = ns.Linear()
    target = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.5]]), torch.tensor([0.05, 0.2]))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for t in (0.1, 0.5, 0.9):
        at = torch.full((9,), t, dtype=torch.float64, requires_grad=True)
        log_snr = torch.special.logit(1 - at) * 2
        alpha = torch.sigmoid(log_snr / 2)
        level = ns.Level(alpha, 1 - alpha, alpha, alpha)
        (expected,) = torch.autograd.grad(target.log_prob(x, level).sum(), log_snr)
        slope = log_density_slope(target.model(schedule), x, at.detach()[:, None])[:, 0]
        torch.testing.assert_close(slope, expected, rtol=1e-8, atol=1e-10)


def test_probes_are_the_same_every_time():
    schedule, x = SCHEDULES["linear"], noisy(SCHEDULES["linear"], 0.3, n=4)
    estimator = FokkerPlanck(TARGET.model(schedule), time_grid(schedule, 16, 0.01, 0.99), seed=5)
    torch.testing.assert_close(estimator(x).log_prob, estimator(x).log_prob, rtol=0, atol=0)


def test_a_sample_has_its_own_probes_in_a_batch_of_any_size():
    model = ns.wrap(lambda x, t, cond: torch.tanh(x.cumsum(1)), ns.Linear(), predicts="x0")
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimator = FokkerPlanck(model, time_grid(ns.Linear(), 8, 0.05, 0.95), polish=1)
    step = ns.Step(0, torch.tensor(0.3), x, first=10)
    whole = estimator(x, step=step).mean
    torch.testing.assert_close(estimator(x[2:], step=replace(step, first=12)).mean, whole[2:])
    assert float((estimator(x[2:], step=step).mean - whole[2:]).abs().min()) > 1e-6


def test_a_network_without_forward_derivatives_is_differenced():
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 0.5 * x

    def fn(x, t, cond):
        return Opaque.apply(x)

    plain = ns.wrap(lambda x, t, cond: 0.5 * x, ns.Linear(), predicts="x0")
    opaque = ns.wrap(fn, ns.Linear(), predicts="x0")
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.tensor([[0.2, 0.6]], dtype=torch.float64).repeat(3, 1)
    expected = log_density_slope(plain, x, times)
    torch.testing.assert_close(log_density_slope(opaque, x, times), expected, rtol=1e-6, atol=1e-6)


def test_classes_reach_the_network():
    data = torch.randn(20, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    model = Empirical(data, labels).model(ns.Linear())
    estimator = FokkerPlanck(model, time_grid(ns.Linear(), 16, 0.05, 0.95))
    x = data[:4] * 0.7 + 0.3 * torch.randn(4, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    right, wrong = estimator(x, labels[:4]), estimator(x, 1 - labels[:4])
    assert float((right.mean - wrong.mean).abs().max()) > 0.01


def test_without_a_noise_unconditional_branch_there_is_no_score_mixture():
    model = ns.wrap(lambda x, t, cond: x, ns.Linear())
    with pytest.raises(ValueError, match="no noise-unconditional branch"):
        ScoreMixture(model, torch.linspace(0.1, 0.9, 9))


def test_constant_pixels_read_the_level_without_a_model():
    generator, schedule = torch.Generator().manual_seed(0), ns.Linear()
    data = torch.cat([torch.full((50, 200), -1.0), torch.rand(50, 100, generator=generator)], dim=1)
    estimator = ConstantPixel(data, schedule)
    assert int(estimator.mask.sum()) == 200
    for t in (0.05, 0.3):
        at = schedule(torch.tensor(t)).like(data)
        x = at.alpha * data + at.sigma * torch.randn(data.shape, generator=generator)
        posterior = estimator(x, step=ns.Step(0, torch.tensor(t), x))
        assert abs(float(posterior.mean.mean()) / t - 1) < 0.03
        assert abs(float(posterior.std.mean()) / t * (2 * 200) ** 0.5 - 1) < 0.15  # sd of a scale from 200 normals


def test_constant_pixels_refuse_data_that_has_none():
    with pytest.raises(ValueError, match="leave the constant-pixel estimator out"):
        ConstantPixel(torch.randn(50, 30), ns.Linear())


def test_residual_reads_levels_off_the_prediction():
    # Data on a plane in 128 dimensions: the predicted noise is resolved, and its size is the level.
    variance = torch.cat([torch.ones(4), torch.full((124,), 1e-4)]).double()
    target, schedule = Gaussian(torch.zeros(128), variance), ns.Linear()
    model, generator = target.model(schedule), torch.Generator().manual_seed(0)
    times = torch.tensor([0.2], dtype=torch.float64)
    estimator = Residual(model, target.sample(256, generator), times, generator=generator)
    for s in (0.19, 0.2, 0.21):
        x0 = target.sample(256, generator)
        level = schedule(torch.tensor(s)).like(x0)
        x = level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        step = ns.Step(0, times[0], x, model(x, times[0]))
        assert abs(float(estimator(x, step=step).mean.mean()) - s) < 0.003
        torch.testing.assert_close(estimator(x, step=ns.Step(0, times[0], x)).mean, estimator(x, step=step).mean)


def test_residual_takes_the_unguided_prediction():
    model = TARGET.model(ns.Linear())
    guided = ns.Guided(model, ns.noise_awareness(2.0))
    x, t = noisy(ns.Linear(), 0.3, n=4), torch.tensor(0.3, dtype=torch.float64)
    plain = model.predict(x, t, None, (FULL,))[0]
    torch.testing.assert_close(statistic(guided(x, t)), statistic(plain))
    assert not torch.allclose(guided(x, t).eps, plain.eps)


def test_residual_names_a_time_it_was_not_fitted_at():
    model, generator = TARGET.model(ns.Linear()), torch.Generator().manual_seed(0)
    estimator = Residual(model, TARGET.sample(8, generator), torch.tensor([0.3]), generator=generator)
    x = torch.zeros(2, 64, dtype=torch.float64)
    with pytest.raises(ValueError, match="fit it at the sampler's times"):
        estimator(x, step=ns.Step(0, torch.tensor(0.4), x))


def test_posterior_moments_and_quantiles_of_a_known_shape():
    times = torch.linspace(0, 1, 2001, dtype=torch.float64)
    posterior = Posterior.from_log_density(times, (-0.5 * ((times - 0.4) / 0.05) ** 2)[None])
    torch.testing.assert_close(posterior.mean, torch.tensor([0.4], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(posterior.std, torch.tensor([0.05], dtype=torch.float64), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(posterior.mode, torch.tensor([0.4], dtype=torch.float64), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        posterior.quantile(0.975), torch.tensor([0.498], dtype=torch.float64), rtol=1e-3, atol=1e-6
    )
    assert float(posterior.prob.sum()) == pytest.approx(1)
