"""Model-based estimators against the exact posterior of a mixture; constant coordinates and residuals against their levels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.correction.counting import CountingModel
from noiseshift.diffusion.models import FULL
from noiseshift.estimators import (
    ConstantPixel,
    FokkerPlanck,
    Posterior,
    Residual,
    ScoreMixture,
    time_grid,
)
from noiseshift.estimators.instrument import Readings, forward_noise, readable, slope_reach
from noiseshift.estimators.residual import statistic
from noiseshift.estimators.slopes import Probes, slopes_at
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


@pytest.mark.parametrize("start", [None, 0.01, 0.9])
def test_fokker_planck_finds_the_mode_from_anywhere(start):
    schedule, x = SCHEDULES["linear"], noisy(SCHEDULES["linear"], 0.2)
    estimator = FokkerPlanck(TARGET.model(schedule), time_grid(schedule, 32, 0.005, 0.995), probes=4)
    exact = TARGET.estimator(schedule, time_grid(schedule, 1000, 0.005, 0.995))(x)
    step = None if start is None else ns.Step(0, torch.tensor(start, dtype=torch.float64), x)
    read = estimator(x, step=step)
    assert float((((read.mean - exact.mean) / exact.std) ** 2).mean().sqrt()) < 0.2


def test_a_narrow_posterior_costs_a_few_evaluations():
    """16 forward-equivalents per state at 0.1 posterior sds, where the posterior is narrow."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(1, 512, 12, generator=generator, dtype=torch.float64) / 8
    target = GaussianMixture(
        torch.ones(1), torch.zeros(1, 512).double(), LowRank(factors, torch.full((1,), 1e-3, dtype=torch.float64))
    )
    schedule, t = ns.Linear(), torch.tensor(0.2, dtype=torch.float64)
    x0 = target.sample(48, generator)
    x = schedule(t).mix(x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64))
    counted = CountingModel(target.model(schedule))
    read = FokkerPlanck(counted, time_grid(schedule, 24, 0.005, 0.995))(x, step=ns.Step(0, t, x))
    exact = target.estimator(schedule, time_grid(schedule, 1500, 0.005, 0.995))(x)
    assert float((((read.mean - exact.mean) / exact.std) ** 2).mean().sqrt()) < 0.12
    assert counted.rows <= 17 * len(x)


def test_probes_are_the_same_every_time():
    schedule, x = SCHEDULES["linear"], noisy(SCHEDULES["linear"], 0.3, n=4)
    estimator = FokkerPlanck(TARGET.model(schedule), time_grid(schedule, 16, 0.01, 0.99), seed=5)
    torch.testing.assert_close(estimator(x).log_prob, estimator(x).log_prob, rtol=0, atol=0)


def test_a_sample_has_its_own_probes_in_a_batch_of_any_size():
    model = ns.wrap(lambda x, t, cond: torch.tanh(x.cumsum(1)), ns.Linear(), predicts="x0")
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimator = FokkerPlanck(model, time_grid(ns.Linear(), 8, 0.05, 0.95))
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
    log_snr, probes = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64), Probes(x, 0, 0).draw(torch.arange(3), 2)
    expected = slopes_at(plain, x, None, log_snr, probes, exact=True)
    torch.testing.assert_close(slopes_at(opaque, x, None, log_snr, probes, exact=True), expected, rtol=1e-6, atol=1e-6)


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


def test_a_slope_is_read_an_eighth_of_the_way_to_the_nearer_end():
    t = torch.tensor([0.4, 0.9, 1e-4], dtype=torch.float64)
    torch.testing.assert_close(slope_reach(t), torch.tensor([0.05, 0.0125, 1.25e-4], dtype=torch.float64))


def test_an_exact_estimator_moves_as_the_level_in_either_unit():
    times = torch.tensor([0.8, 0.5, 0.3], dtype=torch.float64)
    exact = Gaussian(torch.zeros(64), 1e-4 * torch.eye(64)).estimator(ns.Linear(), torch.linspace(0.01, 0.99, 99))
    data = 0.01 * torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    calibration = ns.calibrate(exact, data, times).calibration
    np.testing.assert_allclose(calibration.slopes.mean(0), 1, atol=0.25)
    np.testing.assert_allclose(calibration.slopes_log_snr.mean(0), 1, atol=0.25)


def test_what_can_be_read_has_a_slope_from_a_half_to_two():
    assert (
        readable(np.array([0.49, 0.5, 1.0, 2.0, 2.01, np.nan, -1.0])).tolist()
        == [False, True, True, True] + [False] * 3
    )
    assert repr(Readings(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((2, 5)))) == "Readings(3 states at 2 times)"


class FirstCoordinate:
    """Reads the level that a state's first coordinate says."""

    schedule, times = ns.Linear(), torch.linspace(0.001, 0.999, 999, dtype=torch.float64)

    def __init__(self):
        self.seen = []

    def __call__(self, x, cond=None, *, step=None):
        self.seen.append((step.first, None if cond is None else cond[:1].tolist(), len(x)))
        return ns.Posterior.from_log_density(self.times, -(((self.times - x[:, :1].double()) / 2e-3) ** 2))


def test_real_states_are_noised_in_batches_each_with_its_classes_and_indices():
    estimator, t = FirstCoordinate(), torch.tensor(0.4)
    read = forward_noise(
        torch.zeros(300, 2), torch.arange(300), estimator, level=t, t_cond=t, index=0, eps=torch.ones(300, 2)
    )
    assert estimator.seen == [(0, [0], 256), (256, [256], 44)]
    np.testing.assert_allclose(read.t, 0.4, atol=1e-6)


def test_what_cannot_be_calibrated_is_refused():
    times = torch.tensor([0.5])
    for rows in (0, 1):
        with pytest.raises(ValueError, match="at least two"):
            ns.calibrate(FirstCoordinate(), torch.zeros(rows, 2), times)
    for end in (0.0, 1.0):
        with pytest.raises(ValueError, match="strictly between"):
            ns.calibrate(FirstCoordinate(), torch.zeros(2, 2), torch.tensor([0.5, end]))


def test_a_calibration_takes_its_slope_from_its_first_rows_and_is_cut_to_its_times():
    made = ns.calibrate(FirstCoordinate(), torch.zeros(5, 2), torch.tensor([0.6, 0.4, 0.2]), slope_rows=3).calibration
    assert made.slopes.shape == made.slopes_log_snr.shape == (3, 3)
    part = made.at(np.array([0.2, 0.6]))
    np.testing.assert_allclose(part.real.t, made.real.t[:, [2, 0]])
    np.testing.assert_allclose(part.slopes, made.slopes[:, [2, 0]])
    with pytest.raises(ValueError, match=r"not calibrated at t = 0\.5000"):
        made.at(np.array([0.2, 0.5]))


def test_a_reading_of_another_number_than_the_states_is_refused():
    class Mean(FirstCoordinate):
        def __call__(self, x, cond=None, *, step=None):
            return super().__call__(x.mean(0, keepdim=True), step=step)

    with pytest.raises(ValueError, match=r"read \(1,\) levels off 4 states"):
        ns.calibrate(Mean(), torch.zeros(4, 2), torch.tensor([0.5]))


def test_densities_of_unlike_batches_are_averaged_by_their_sizes():
    one, three = (Readings(np.zeros((n, 1)), np.zeros((n, 1)), np.full((1, 2), float(n))) for n in (1, 3))
    np.testing.assert_allclose(Readings.concatenate([one, three]).density, 2.5)
