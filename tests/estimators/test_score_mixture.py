"""The score mixture where log-SNR runs off to infinity; the broadest density with given moments."""

import pytest
import torch

import noiseshift as ns
from noiseshift.correction.counting import CountingModel
from noiseshift.estimators import ScoreMixture, time_grid
from noiseshift.estimators.score_mixture import _simplex, broadest
from noiseshift.targets import GaussianMixture, LowRank


def test_the_spread_near_pure_noise_is_not_that_of_the_log_snr_tail():
    generator, schedule = torch.Generator().manual_seed(0), ns.Linear()
    means = 0.5 * torch.randn(10, 64, generator=generator, dtype=torch.float64)
    factors = torch.randn(10, 64, 4, generator=generator, dtype=torch.float64) / 4
    target = GaussianMixture(torch.ones(10), means, LowRank(factors, torch.full((10,), 1e-3, dtype=torch.float64)))
    x0 = target.sample(16, generator)
    x = 0.2 * x0 + 0.8 * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    exact = target.estimator(schedule, time_grid(schedule, 800))(x)
    read = ScoreMixture(target.model(schedule), time_grid(schedule, 32))(x)
    assert float((((read.mean - exact.mean) / exact.std) ** 2).mean().sqrt()) < 0.15
    assert float((read.std / exact.std - 1).abs().max()) < 0.15


def test_weights_are_found_where_they_are_determined():
    generator = torch.Generator().manual_seed(0)
    levels = torch.randn(3, 5, 40, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    weights[:, 2] = 0
    weights /= weights.sum(1, keepdim=True)
    found = _simplex(levels, (weights[:, :, None] * levels).sum(1))
    torch.testing.assert_close(found, weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.05), (0.9, 0.08), (0.05, 0.03), (0.6, 0.25)])
def test_the_broadest_density_has_the_moments_asked_for(mean, std):
    times = time_grid(ns.Linear(), 1000, 0.005, 0.995)
    moments = torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64)
    posterior = broadest(times, *moments)
    torch.testing.assert_close((posterior.mean, posterior.std), moments, rtol=1e-5, atol=1e-7)


def test_the_broadest_density_is_a_parabola_in_t():
    times = torch.linspace(0, 1, 501, dtype=torch.float64)
    posterior = broadest(times, torch.tensor([0.9]).double(), torch.tensor([0.08]).double())
    curve = posterior.log_prob[0, 1:-1].diff().diff()
    torch.testing.assert_close(curve, curve.mean().expand_as(curve))


def test_a_spread_below_the_grid_is_widened_to_it():
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    posterior = broadest(times, torch.tensor([0.305]).double(), torch.tensor([0.0]).double())
    assert 0.004 < float(posterior.std) < 0.011
    assert float(posterior.mean) == pytest.approx(0.305, abs=1e-3)


@pytest.mark.parametrize("off", [0.0, 0.8, -4.0])
def test_near_the_conditioning_level_a_narrow_posterior_takes_twelve_forwards(off):
    """And wherever the search starts it finds the same."""
    generator, schedule, t = torch.Generator().manual_seed(0), ns.Linear(), torch.tensor(0.2, dtype=torch.float64)
    means = 0.5 * torch.randn(10, 256, generator=generator, dtype=torch.float64)
    factors = torch.randn(10, 256, 4, generator=generator, dtype=torch.float64) / 4
    target = GaussianMixture(torch.ones(10), means, LowRank(factors, torch.full((10,), 1e-3, dtype=torch.float64)))
    x = schedule(t).mix(target.sample(8, generator), torch.randn(8, 256, generator=generator, dtype=torch.float64))
    start = schedule.time_of_log_snr(schedule.log_snr(t) + off)
    counted = CountingModel(target.model(schedule))
    read = ScoreMixture(counted, time_grid(schedule, 32))(x, step=ns.Step(0, start, x))
    assert counted.rows == 8 * (12 if abs(off) < 1 else 12 + 32 + 34)
    exact = target.estimator(schedule, time_grid(schedule, 1500))(x)
    assert float((((read.mean - exact.mean) / exact.std) ** 2).mean().sqrt()) < 0.1
    assert float((read.std / exact.std - 1).abs().mean()) < 0.15
