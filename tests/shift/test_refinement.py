"""The split of a shift by step refinement: exact where the order is, wide where it is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from reports import report_of

import noiseshift as ns
from noiseshift.shift.refinement import Refinement

TIMES = np.array([0.5, 0.1])
NETWORK = np.array([0.02, -0.03])
SOLVER = np.array([0.04, 0.05])
SLOPE = 0.8


def measured(shift_at, rng, spread=0.02, samples=200):
    """Readings whose means follow shift_at(N), under N, 2N and 4N steps, of paths that share their noise."""
    base = TIMES + spread * rng.normal(size=(samples, 2))
    runs = np.stack([base + SLOPE * shift_at(factor) + 0.001 * rng.normal(size=base.shape) for factor in (1, 2, 4)])
    real = TIMES + spread * rng.normal(size=(200, 2))
    slopes = SLOPE + 0.01 * rng.normal(size=(50, 2))
    report = report_of(TIMES, runs[0], real, slope=slopes, name="exact", steps=np.array([1, 2]))
    return runs, report.calibration, report


@pytest.mark.parametrize("order", [1, 2])
def test_the_limit_is_the_networks_part(order):
    covered, reached = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        runs, calibration, report = measured(lambda n: NETWORK + SOLVER / n**order, rng)
        table = Refinement("exact", order, runs, calibration).split(report)
        covered.append((table.network_low <= NETWORK) & (table.network_high >= NETWORK))
        reached.append(table.reached)
        assert np.allclose(table.solver, SOLVER, atol=0.004)
        assert np.allclose(table.solver + table.network, table.total)
    assert 0.87 <= np.mean(covered) <= 0.995
    assert 0.87 <= np.mean(reached) <= 0.995


@pytest.mark.parametrize("power", [0.5, 2])
def test_an_order_that_is_not_reached_is_said_and_no_limit_is_trusted(power):
    runs, calibration, report = measured(lambda n: NETWORK + SOLVER / n**power, np.random.default_rng(0))
    table = Refinement("exact", 1, runs, calibration).split(report)
    assert not table.reached.any()
    # What the finest run still shows lies inside the interval: the solver's part is at least what was seen.
    finest = table.total - (runs[0] - runs[2]).mean(0) / calibration.slope
    assert ((table.network_low <= finest) & (finest <= table.network_high)).all()
    seen = table.total - finest
    assert ((table.solver_low < seen) & (seen < table.solver_high)).all()
    for part in ("solver", "network"):
        assert ((table[f"{part}_low"] < table[part]) & (table[part] < table[f"{part}_high"])).all()


@pytest.mark.parametrize(
    ("order", "shifts"), [(1, (0.09, 0.05, 0.03)), (2, (0.1, 0.04, 0.025)), (3, (0.09, 0.026, 0.018))]
)
def test_the_parts_of_readings_without_noise_are_arithmetic(order, shifts):
    """The second difference is 2^-order of the first; what is left of them goes on so, and a slope of 0 reads nothing."""
    flat = np.ones((20, 2))
    runs = np.stack([flat * (TIMES + shift) for shift in shifts])
    report = report_of(TIMES, np.concatenate([runs[0], runs[0] + 0.01]), flat * TIMES, slope=flat * [0.5, 0])
    table = Refinement("exact", order, runs, report.calibration).split(report)
    assert list(table.columns) == [
        *("t", "total", "solver", "solver_low", "solver_high", "network", "network_low", "network_high", "reached")
    ]
    assert table.iloc[1].drop(["t", "reached"]).isna().all()
    assert list(table.t) == list(TIMES)
    first = table.iloc[0]
    end = shifts[2] - (shifts[1] - shifts[2]) / (2**order - 1)
    assert first.total == pytest.approx((shifts[0] + 0.005) / 0.5)
    assert first.solver == pytest.approx((shifts[0] - end) / 0.5)
    assert first.network == pytest.approx((end + 0.005) / 0.5)
    assert first.network_low < first.network < first.network_high
    drawn = Refinement("exact", order, runs, report.calibration)._draws(report)
    np.testing.assert_allclose(drawn.gap[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(drawn.solver[:, 0], first.solver)


def test_a_run_of_other_times_is_refused():
    runs, calibration, report = measured(lambda n: NETWORK, np.random.default_rng(0))
    with pytest.raises(ValueError, match="the run that was refined"):
        Refinement("exact", 1, np.concatenate([runs, runs], 1), calibration).split(report)
    with pytest.raises(ValueError, match="the run that was refined"):
        Refinement("exact", 1, runs, replace(calibration, times=calibration.times + 0.01)).split(report)
    Refinement("exact", 1, runs[:, :150], calibration).split(report)


def test_a_perfect_network_is_given_no_part_of_the_shift():
    """Euler-Maruyama with the exact model of a Gaussian: the whole shift is the solver's."""
    from noiseshift.diffusion.noise import INITIAL, SAMPLING, generators, normal
    from noiseshift.diffusion.refining import refine, refined_noise
    from noiseshift.diffusion.samplers import per_sample_noise

    schedule, dim, samples = ns.Linear(), 32, 96
    target = ns.targets.Gaussian(torch.zeros(dim).double(), torch.arange(1, dim + 1).double() ** -1.5)
    model = target.model(schedule)
    at = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    real = target.sample(400, torch.Generator().manual_seed(1))
    instrument = ns.calibrate(target.estimator(schedule), real, at)
    times = torch.linspace(1, 0, 11, dtype=torch.float64)
    finest, runs = refine(model, times, 4), []
    for factor in (1, 2, 4):
        steps = refine(model, times, factor) if factor > 1 else times
        sources = generators(range(samples), seed=0, stream=SAMPLING)
        noise = per_sample_noise(sources) if factor == 4 else refined_noise(sources, steps, finest)
        x = normal(generators(range(samples), seed=0, stream=INITIAL), (dim,)).double()
        run = ns.sample(model, x, steps, update=ns.euler_maruyama(), noise=noise)
        runs.append(ns.measure(run, instrument, content=False))
    found = Refinement("exact", 1, np.stack([r.sampled.t for r in runs]), instrument.calibration).split(runs[0])
    assert ((found.network_low <= 0) & (found.network_high >= 0)).all(), found
    assert (found.solver > 0.01).all(), found
