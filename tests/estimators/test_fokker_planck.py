"""The slope of log p_t(x) in t: its divergence with every probe there is, its probes, the networks it goes through."""

import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import noiseshift as ns
from noiseshift.diffusion.models import FULL
from noiseshift.estimators import FokkerPlanck, time_grid
from noiseshift.estimators.slopes import Probes, differences_hold, slopes_at
from noiseshift.targets import Empirical, GaussianMixture, LowRank


def correlated_mixture():
    """Two components in 3 dimensions whose covariances have large off-diagonal parts: one probe's trace is wrong."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    means = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.4, 0.6]), means, root @ root.mT)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "schedule", [ns.Linear(), ns.Cosine(), ns.VariancePreserving()], ids=lambda s: type(s).__name__
)
def test_averaged_over_all_probes_the_slope_is_the_exact_one(schedule, exact):
    target = correlated_mixture()
    model = target.model(schedule, times=torch.linspace(0.1, 0.9, 9))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64, requires_grad=True)
    alpha, sigma = schedule.coefficients(t)
    (in_time,) = torch.autograd.grad(target.log_prob(x, ns.Level(alpha, sigma, alpha, sigma)).sum(), t)
    (rate,) = torch.autograd.grad(schedule.log_snr(t).sum(), t)
    signs = torch.tensor([*itertools.product((-1.0, 1.0), repeat=3)], dtype=torch.float64)
    log_snr = schedule.log_snr(t.detach())
    found = slopes_at(model, x, None, log_snr, signs.expand(5, 8, 3), exact=exact)
    close = {"rtol": 1e-7, "atol": 1e-8} if exact else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found.energy - found.trace / 2, in_time / rate, **close)
    single = slopes_at(model, x, None, log_snr, signs[:1].expand(5, 1, 3), exact=exact)
    assert float((single.trace - found.trace).abs().max()) > 0.1


def test_over_a_gaussian_the_square_is_the_trace_without_its_slope():
    """T - dT/dλ = alpha² |∂x̂0/∂x|²: what lets probes at one level speak for its neighbours."""
    cov = torch.diag(torch.tensor([4.0, 1.0, 0.01], dtype=torch.float64))
    model = ns.targets.Gaussian(torch.zeros(3, dtype=torch.float64), cov).model(ns.Linear())
    x, signs = torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 1, 3, dtype=torch.float64)
    at = [
        slopes_at(model, x, None, torch.tensor([here], dtype=torch.float64), signs, exact=True) for here in (0.3, 0.301)
    ]
    slope = (at[1].trace - at[0].trace) / 0.001
    torch.testing.assert_close(at[0].trace - at[0].square, slope, rtol=1e-3, atol=1e-6)


def test_images_and_vectors_give_the_same_slope():
    data = torch.randn(12, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, log_snr = data[:3] + 0.3, torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    images, vectors = Empirical(data).model(ns.Linear()), Empirical(data.flatten(1)).model(ns.Linear())
    probes = Probes(x, 0, 0).draw(torch.arange(3), 2)
    for exact in (True, False):
        image = slopes_at(images, x, None, log_snr, probes, exact=exact)
        vector = slopes_at(vectors, x.flatten(1), None, log_snr, probes.flatten(2), exact=exact)
        torch.testing.assert_close(image, vector)


def test_fused_attention_is_differentiated_exactly():
    def fused(x, t, cond):
        return scaled_dot_product_attention(x, x, x)

    def plain(x, t, cond):
        return torch.softmax(x @ x.mT / x.shape[-1] ** 0.5, dim=-1) @ x

    x = torch.randn(2, 1, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_snr, probes = torch.tensor([2.0, -1.0], dtype=torch.float64), Probes(x, 0, 0).draw(torch.arange(2), 1)
    found = [slopes_at(ns.wrap(fn, ns.Linear()), x, None, log_snr, probes, exact=True) for fn in (fused, plain)]
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_differences_are_used_but_where_a_network_computes_in_half_precision(precision):
    model = ns.load().to("cpu", precision).model
    assert differences_hold(model, torch.zeros(1, 1, 28, 28), torch.tensor([0])) == (precision == "fp32")


LIKE = torch.zeros(1, 64, dtype=torch.float64)


def rounded(x):
    """To steps of more than a difference's."""
    return (371 * x).round() / 371


@pytest.mark.parametrize(
    ("name", "denoise", "hold"),
    [
        ("smooth", lambda x: torch.tanh(x), True),
        ("nothing", lambda x: 0 * x, True),
        ("rounded", rounded, False),
        (
            "rounded beyond the first two coordinates",
            lambda x: torch.cat([x[:, :2], rounded(x[:, 2:])], 1),
            False,
        ),
        ("hardly anything, at random", lambda x: 3e-6 * torch.frac(1e7 * x), False),
    ],
)
def test_differences_hold_where_two_steps_agree_in_all_coordinates(name, denoise, hold):
    model = ns.wrap(lambda x, t, cond: denoise(x), ns.Linear(), predicts="x0")
    assert differences_hold(model, LIKE, None) is hold


def test_differences_are_tried_on_a_state_of_little_noise():
    seen = []
    model = ns.wrap(lambda x, t, cond: seen.append((x, t)) or 0 * x, ns.Linear(), predicts="x0")
    differences_hold(model, LIKE.expand(1, 64), None)
    for x, t in seen:
        assert t.double().unique().tolist() == pytest.approx([0.05])
        assert float(x[0].std()) == pytest.approx(0.05, rel=0.25)


def test_guidance_does_not_change_the_reading():
    model = correlated_mixture().model(ns.Linear())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    guided, levels = ns.Guided(model, ns.noise_awareness(3.0)), time_grid(ns.Linear(), 12, 0.05, 0.95)
    torch.testing.assert_close(FokkerPlanck(guided, levels)(x).log_prob, FokkerPlanck(model, levels)(x).log_prob)
    assert not torch.allclose(guided(x, torch.tensor(0.5)).x0, model.predict(x, torch.tensor(0.5), None, (FULL,))[0].x0)


def test_there_is_no_mass_at_levels_that_were_not_read():
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
    with pytest.raises(ValueError, match="at least one probe"):
        FokkerPlanck(model, torch.linspace(0.1, 0.9, 9), probes=0)
