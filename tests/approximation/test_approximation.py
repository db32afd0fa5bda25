"""Statement 1's mathematics against closed forms, and its measurements against exact models."""

import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main

import noiseshift as ns
from noiseshift import approximation
from noiseshift.approximation import Spectrum
from noiseshift.approximation.path import radial_spectrum
from noiseshift.diffusion.noise import SAMPLING, generators
from noiseshift.diffusion.samplers import Step, per_sample_noise
from noiseshift.estimators.posterior import Posterior, time_grid


@pytest.fixture(scope="module")
def mixture():
    """The oracle of THEORY.md: ten components of rank 20 in 784 dimensions."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(10, 784, 20, generator=generator, dtype=torch.float64) / 20**0.5
    means = 0.3 * torch.randn(10, 784, generator=generator, dtype=torch.float64)
    variance = torch.full((10,), 1e-6, dtype=torch.float64)
    return ns.targets.GaussianMixture(torch.ones(10, dtype=torch.float64), means, ns.targets.LowRank(factors, variance))


def test_the_exact_posterior_of_a_low_rank_mixture_reads_the_sigma_root(mixture):
    data = mixture.sample(64, torch.Generator().manual_seed(1))
    times = torch.tensor([0.5, 0.3, 0.1], dtype=torch.float64)
    # Each state belongs to one component, so its Gaussian decides what a posterior sees.
    component = Spectrum(
        *(torch.cat([p[0], torch.zeros(764).double()]) for p in (mixture.values, mixture.mean_coordinates[:, 0]))
    )
    component.mean[-1] = (mixture.means[0].square().sum() - component.mean.square().sum()).sqrt()
    report = approximation.check(data, mixture.estimator(ns.Linear()), times, torch.tensor([0.1]), spectrum=component)
    table = report.table()
    assert bool(table.resolved.all())
    for row in table.itertuples():
        assert row.measured == pytest.approx(row.sigma, abs=0.004)
        assert row.measured == pytest.approx(row.posterior, abs=0.002)
        assert row.low <= row.measured <= row.high
    # THEORY.md: at t = 0.1 sigma .0414 and snr .0358 differ.
    assert table.iloc[2].low > table.iloc[2].snr


def test_gaussian_data_measure_what_the_posterior_root_says():
    variances = 4.0 / torch.arange(1, 257, dtype=torch.float64)
    target = ns.targets.Gaussian(torch.zeros(256, dtype=torch.float64), variances)
    report = approximation.check(
        target,
        target.estimator(ns.Linear()),
        torch.tensor([0.6, 0.3]).double(),
        torch.tensor([0.15, 0.3]),
        spectrum=Spectrum(variances, torch.zeros_like(variances)),
    )
    table = report.table()
    # The mean reading on a curve is not quite the KL projection; they agree where the root differs from `sigma`.
    assert bool(((table.measured - table.posterior).abs() < 0.15 * (table.sigma - table.posterior).abs() + 0.002).all())
    assert bool((table.low > 0).all())


class Faithful:
    """An estimator that answers the noise scale of flat states around 0, in t of the linear schedule."""

    schedule = ns.Linear()
    times = time_grid(ns.Linear(), 4000)

    def __call__(self, x, cond=None, *, step=None):
        read = x.double().square().mean(-1).sqrt()
        return Posterior.from_log_density(self.times, -0.5 * ((self.times - read[:, None]) / 1e-3) ** 2)


def test_limits_say_how_far_first_order_holds():
    data = torch.zeros(64, 512)
    sigma_es = 0.3 * torch.tensor([0.2, 0.5, 1.0])
    report = approximation.check(data, Faithful(), torch.tensor([0.3]).double(), sigma_es)
    assert report.limits().loc[0, "measured, 5 %"] == pytest.approx(1.0, abs=1e-6)
    wrong = approximation.ApproximationReport(**{**vars(report), "injected": report.injected * 1.02})
    assert not wrong.limits().loc[0, "measured, 5 %"] >= 0.2


def test_check_refuses_what_it_cannot_answer():
    data, times = torch.zeros(64, 8), torch.tensor([0.3]).double()
    with pytest.raises(ValueError, match="more noise than the schedule"):
        approximation.check(data, Faithful(), times, torch.tensor([2.0]))
    with pytest.raises(ValueError, match="too few"):
        approximation.check(data[:4], Faithful(), times, torch.tensor([0.1]))
    with pytest.raises(ValueError, match="strictly between"):
        approximation.check(data, Faithful(), torch.tensor([1.0]), torch.tensor([0.1]))


def test_refined_noise_follows_the_fine_path():
    target = ns.targets.Gaussian(torch.zeros(64, dtype=torch.float64), torch.linspace(0.01, 1, 64).double())
    model = target.model(ns.Linear())
    times = ns.time_grid(model, 20)
    fine = approximation.refine(model, times, 16)
    assert len(fine) == 321
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def sources(seed=0):
        return generators(range(16), seed=seed, stream=SAMPLING)

    def end(grid, noise):
        *_, last = ns.sample(model, x, grid, update=ns.euler_maruyama(), noise=noise)
        return last.x

    reference = end(fine, per_sample_noise(sources()))
    same = end(times, approximation.refined_noise(sources(), times, fine))
    other = end(times, approximation.refined_noise(sources(1), times, fine))
    assert float((same - reference).square().mean()) < 0.2 * float((other - reference).square().mean())
    one = approximation.refined_noise(sources(), times, fine)(x)
    assert float(one.std()) == pytest.approx(1, abs=0.05)


def test_refined_times_are_levels_that_the_model_knows():
    model = ns.load("fashion-ddpm").model
    times = ns.time_grid(model, 5)
    fine = approximation.refine(model, times, 3)
    torch.testing.assert_close(model.snap(fine[:-1]), fine[:-1])
    assert set(times.tolist()) <= set(fine.tolist())


def test_an_error_along_the_noise_is_counted_by_the_cross_term():
    """x̂ = x + c eps is noisier by c, which white-noise σ_e = c would understate tenfold."""
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(32, 4096, generator=generator, dtype=torch.float64)
    x0 = torch.zeros_like(eps)
    t, c = torch.tensor(0.4, dtype=torch.float64), 0.02
    level = ns.Linear()(t).like(eps)
    fine = Step(0, t, level.sigma * eps, ns.Prediction(x0, eps, level))
    coarse = Step(0, t, fine.x + c * eps, None)
    instruments = {"faithful": ns.calibrate(Faithful(), x0[:16].float(), t[None], slope_rows=8)}
    batch = approximation.follow([coarse], [fine], instruments)
    table = approximation.assemble([batch], ns.Linear(), instruments)["faithful"].table()
    row = table.iloc[0]
    assert row.sigma_e == pytest.approx(c, rel=0.01)
    assert row.first_order == pytest.approx(math.hypot(0.4, c) - 0.4, rel=0.02)
    assert row.with_cross == pytest.approx(c, rel=0.02)
    assert row.measured == pytest.approx(c, rel=0.05)
    assert row.along_eps == pytest.approx(1)
    assert row.excess_kurtosis == pytest.approx(0, abs=0.1)


def test_runs_that_miss_a_time_are_refused():
    step = Step(0, torch.tensor(0.4), torch.zeros(2, 3), None)
    elsewhere, here = ({"faithful": ns.calibrate(Faithful(), torch.zeros(4, 3), torch.tensor([t]))} for t in (0.5, 0.4))
    with pytest.raises(ValueError, match="does not pass through"):
        approximation.follow([step], [step], elsewhere)
    with pytest.raises(ValueError, match="no prediction"):
        approximation.follow([step], [step], here)


def test_the_radial_spectrum_is_one_for_white_noise_and_sees_a_wave():
    white = torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(radial_spectrum(white).mean(0), 1, atol=0.15)
    wave = torch.cos(2 * math.pi * 3 * torch.arange(16) / 16).expand(1, 1, 16, 16)
    assert int(radial_spectrum(wave)[0].argmax()) == 3
    assert radial_spectrum(torch.zeros(2, 5)).shape == (2, 0)


def test_approx_runs_and_writes(tmp_path):
    out = tmp_path / "study"
    small = "--rows 16 --samples 4 --substeps 2 --times 0.1,0.5 --ratios 0.5,1 --estimator network --no-progress"
    words = ["approx", "--sampler", "euler:4", "--sampler", "em:4", *small.split(), "--out", str(out)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "Statement 1" in result.output
    names = {path.name for path in out.iterdir()}
    assert names == {
        *(
            "run.json",
            "summary.json",
            "injected.parquet",
            "limits.parquet",
            "paths.parquet",
            "spectra.npz",
            "figures",
            "report.html",
            "noiseshift.json",
        )
    }
    assert len(list((out / "figures").glob("*.png"))) == 3 + 4 * 2


def test_approx_refuses_a_sampler_without_a_path(tmp_path):
    words = ["approx", "--sampler", "ddpm:4", "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "ddpm:4 has no path" in result.output
    assert not (tmp_path / "x").exists()
