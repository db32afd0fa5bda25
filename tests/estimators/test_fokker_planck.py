"""The slope of log p_t(x) in t: its divergence with every probe there is, its probes, the networks it goes through."""

import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import noiseshift as ns
from noiseshift.diffusion.models import FULL
from noiseshift.estimators import FokkerPlanck, FokkerPlanckMode, time_grid
from noiseshift.estimators.fokker_planck import _time_slope, log_density_slope
from noiseshift.targets import Empirical, GaussianMixture, LowRank


def correlated_mixture():
    """Two components in 3 dimensions whose covariances have large off-diagonal parts: one probe's trace is wrong."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    means = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.4, 0.6]), means, root @ root.mT)


@pytest.mark.parametrize(
    "schedule", [ns.Linear(), ns.Cosine(), ns.VariancePreserving()], ids=lambda s: type(s).__name__
)
def test_averaged_over_all_probes_the_slope_is_the_exact_one(schedule):
    target = correlated_mixture()
    model = target.model(schedule, times=torch.linspace(0.1, 0.9, 9))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64, requires_grad=True)
    alpha, sigma = schedule.coefficients(t)
    (expected,) = torch.autograd.grad(target.log_prob(x, ns.Level(alpha, sigma, alpha, sigma)).sum(), t)
    probes = [torch.tensor(signs).to(x).expand_as(x) for signs in itertools.product((-1.0, 1.0), repeat=3)]
    slopes = torch.stack([_time_slope(model, torch.cat([x, z], dim=1), t.detach(), None) for z in probes])
    torch.testing.assert_close(slopes.mean(0), expected, rtol=1e-7, atol=1e-8)
    assert float(slopes.std(0).max()) > 0.1


def test_images_and_vectors_give_the_same_slope():
    data = torch.randn(12, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, times = data[:3] + 0.3, torch.tensor([[0.3, 0.7]], dtype=torch.float64).repeat(3, 1)
    image = log_density_slope(Empirical(data).model(ns.Linear()), x, times, probes=2)
    vector = log_density_slope(Empirical(data.flatten(1)).model(ns.Linear()), x.flatten(1), times, probes=2)
    assert image.shape == (3, 2)
    torch.testing.assert_close(image, vector)


def test_a_state_is_read_the_same_in_any_batch():
    model = correlated_mixture().model(ns.Linear())
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = torch.full((7, 1), 0.4, dtype=torch.float64)
    whole = log_density_slope(model, x, times, probes=3)
    torch.testing.assert_close(log_density_slope(model, x[:2], times[:2], probes=3), whole[:2])


def test_fused_attention_is_differentiated_exactly():
    def fused(x, t, cond):
        return scaled_dot_product_attention(x, x, x)

    def plain(x, t, cond):
        return torch.softmax(x @ x.mT / x.shape[-1] ** 0.5, dim=-1) @ x

    x = torch.randn(2, 1, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.tensor([[0.2, 0.6]], dtype=torch.float64).repeat(2, 1)
    slopes = [log_density_slope(ns.wrap(fn, ns.Linear()), x, times) for fn in (fused, plain)]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-10)


def test_guidance_does_not_change_the_reading():
    model = correlated_mixture().model(ns.Linear())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    guided, levels = ns.Guided(model, ns.noise_awareness(3.0)), time_grid(ns.Linear(), 12, 0.05, 0.95)
    torch.testing.assert_close(FokkerPlanck(guided, levels)(x).log_prob, FokkerPlanck(model, levels)(x).log_prob)
    assert not torch.allclose(guided(x, torch.tensor(0.5)).x0, model.predict(x, torch.tensor(0.5), None, (FULL,))[0].x0)


def test_polishing_leaves_no_mass_at_levels_it_did_not_look_at():
    schedule, generator = ns.VariancePreserving(), torch.Generator().manual_seed(0)
    means = 0.5 * torch.randn(10, 64, generator=generator, dtype=torch.float64)
    factors = torch.randn(10, 64, 4, generator=generator, dtype=torch.float64) / 4
    target = GaussianMixture(torch.ones(10), means, LowRank(factors, torch.full((10,), 1e-3, dtype=torch.float64)))
    generator.manual_seed(1)
    x0 = target.sample(24, generator)
    level = schedule(torch.tensor(0.2, dtype=torch.float64)).like(x0)
    x = level.alpha * x0 + level.sigma * torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    exact = target.estimator(schedule, time_grid(schedule, 800, 0.005, 0.995))(x)
    for seed in (0, 1):
        read = FokkerPlanck(target.model(schedule), time_grid(schedule, 24, 0.005, 0.995), seed=seed)(x)
        assert float((read.std / exact.std).max()) < 1.6


def test_too_few_levels_are_refused():
    model = correlated_mixture().model(ns.Linear())
    with pytest.raises(ValueError, match="at least 4 times"):
        FokkerPlanck(model, torch.tensor([0.1, 0.5, 0.9]))
    with pytest.raises(ValueError, match="at least 4 evaluations"):
        FokkerPlanckMode(model, calls=2)
