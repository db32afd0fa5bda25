"""The roots of three definitions of a shift, and first order, against closed forms."""

import math

import pytest
import torch

import noiseshift as ns
from noiseshift import approximation
from noiseshift.approximation import Spectrum, exact_shift, first_order_shift, implied_sigma_e2, leading_shift
from noiseshift.approximation.roots import possible_shift

T = torch.tensor([0.05, 0.3, 0.6], dtype=torch.float64)
SCHEDULES = [ns.Linear(), ns.Cosine(), ns.VariancePreserving(), ns.Discrete.from_betas()]


def flat_spectrum(signal, dim, variance=1e4):
    variances = torch.zeros(dim, dtype=torch.float64)
    variances[:signal] = variance
    return Spectrum(variances, torch.zeros_like(variances))


def test_first_order_is_exact_where_sigma_is_linear():
    torch.testing.assert_close(first_order_shift(ns.Linear(), T, 0.2), exact_shift(ns.Linear(), T, 0.2))


def test_roots_of_the_cosine_schedule_have_closed_forms():
    sigma_e = 0.2
    rho = (torch.sin(T * math.pi / 2) ** 2 + sigma_e**2).sqrt()
    torch.testing.assert_close(exact_shift(ns.Cosine(), T, sigma_e), rho.asin() * 2 / math.pi - T)
    then = torch.atan2(rho, torch.cos(T * math.pi / 2)) * 2 / math.pi
    torch.testing.assert_close(exact_shift(ns.Cosine(), T, sigma_e, "snr"), then - T)


def test_the_snr_root_of_the_linear_schedule_has_a_closed_form():
    ratio = torch.hypot(T, torch.tensor(0.2)) / (1 - T)
    torch.testing.assert_close(exact_shift(ns.Linear(), T, 0.2, "snr"), ratio / (1 + ratio) - T)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_first_order_and_its_leading_term_meet_the_root_as_the_error_vanishes(schedule):
    errors = [
        float((f(schedule, 0.3, s) / exact_shift(schedule, 0.3, s) - 1).abs())
        for f in (first_order_shift, leading_shift)
        for s in (0.1, 0.01)
    ]
    assert errors[1] < 1e-3
    assert errors[3] < 5e-3
    assert errors[1] <= errors[0] + 1e-12
    assert errors[3] < errors[2]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_implied_variance_inverts_every_root(schedule):
    for match in ("sigma", "snr"):
        shift = exact_shift(schedule, T, 0.15, match)
        torch.testing.assert_close(implied_sigma_e2(schedule, T, shift, match), torch.full_like(T, 0.15**2))
    shift = first_order_shift(schedule, T, 0.15)
    torch.testing.assert_close(implied_sigma_e2(schedule, T, shift, "first-order"), torch.full_like(T, 0.15**2))
    assert bool((implied_sigma_e2(schedule, T, -T / 2) < 0).all())


@pytest.mark.parametrize("match", ["sigma", "snr"])
def test_a_root_beyond_the_schedule_is_named(match):
    with pytest.raises(ValueError, match=f"the {match} root leaves"):
        exact_shift(ns.Cosine(), T, 1.2, match) if match == "sigma" else exact_shift(
            ns.VarianceExploding(), T, 100.0, match
        )
    with pytest.raises(ValueError, match="leaves"):
        implied_sigma_e2(ns.Linear(), 0.9, 0.2)
    with pytest.raises(ValueError, match="at least 0"):
        exact_shift(ns.Linear(), T, -0.1)
    with pytest.raises(ValueError, match="spectrum"):
        exact_shift(ns.Linear(), T, 0.1, "posterior")


def test_the_posterior_root_runs_from_sigma_to_zero_as_directions_fill_with_signal():
    t, sigma_e = 0.4, 0.02
    few, crossing, most = (
        float(exact_shift(ns.Linear(), t, sigma_e, "posterior", data=flat_spectrum(r, 1000))) for r in (0, 600, 999)
    )
    assert few == pytest.approx(float(exact_shift(ns.Linear(), t, sigma_e)), rel=1e-9)
    # r/d = 1 - t: there, and only there, a posterior sees what a reader of sigma/alpha sees.
    assert crossing == pytest.approx(float(exact_shift(ns.Linear(), t, sigma_e, "snr")), rel=2e-3)
    assert 0 < most < 0.01 * few


def test_the_posterior_root_of_a_dark_pixel():
    # x = -alpha + rho eps: stationary where s² + δ s = rho² + δ².
    data = Spectrum(torch.zeros(3).double(), -torch.ones(3).double())
    shift = exact_shift(ns.Linear(), 0.2, 0.2, "posterior", data=data)
    assert float(shift) == pytest.approx(0.2 * (math.sqrt(13) - 3) / 2, rel=1e-9)


@pytest.mark.parametrize("rows", [5, 40])
def test_the_spectrum_of_data_keeps_variance_and_mean(rows):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(rows, 3, 4, generator=generator, dtype=torch.float64) + 1
    found = Spectrum.of(data)
    flat = data.flatten(1)
    assert float(found.variances.sum()) == pytest.approx(float(flat.var(0).sum()))
    assert float(found.mean.square().sum()) == pytest.approx(float(flat.mean(0).square().sum()))


def test_the_map_and_the_limit_of_first_order():
    errors = approximation.error_map(ns.Linear(), T, torch.tensor([0.1, 0.5]))
    assert float(errors.abs().max()) < 1e-12
    assert bool(approximation.first_order_limit(ns.Linear(), T, 0.05).isinf().all())
    schedule = ns.VariancePreserving()
    limit = approximation.first_order_limit(schedule, T, 0.05)
    at = approximation.error_map(schedule, T[:1], torch.stack([limit[0] * 0.99, limit[0] * 1.02]))[0].abs()
    assert float(at[0]) < 0.05 < float(at[1])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_posterior_root_past_the_end_of_the_schedule_is_no_number(schedule):
    """More noise than the schedule ends with has no level; less has one. The end itself is never given out for it."""
    data = Spectrum(torch.logspace(-2, 0, 32, dtype=torch.float64), torch.zeros(32, dtype=torch.float64))
    end = float(schedule(torch.tensor(1.0, dtype=torch.float64)).sigma)
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    assert bool(possible_shift(schedule, t, 20 * end, "posterior", data=data).isnan().all())
    inside = possible_shift(schedule, t, 0.1 * float(schedule(t).sigma[0]), "posterior", data=data)
    assert bool((inside > 0).all())
    assert bool((t + inside < 1).all())
    with pytest.raises(ValueError, match="the posterior root leaves"):
        exact_shift(schedule, t, 20 * end, "posterior", data=data)


def test_a_limit_that_is_broken_at_once_is_the_least_ratio():
    assert float(approximation.first_order_limit(ns.Cosine(), T[:1], 0.0)) == pytest.approx(1e-3)


def test_the_posterior_root_is_where_the_divergence_is_least():
    """In one dimension, alpha_s² Λ + sigma_s² and alpha_s m by hand, over a fine grid; two pairs at once."""
    data = Spectrum(torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64))
    t, sigma_e = torch.tensor([0.3, 0.6], dtype=torch.float64), torch.tensor([0.2, 0.1], dtype=torch.float64)
    s = torch.linspace(0.01, 0.99, 9801, dtype=torch.float64)
    there = (1 - s) ** 2 * 0.3 + s**2
    for root, time, error in zip(
        t + possible_shift(ns.Linear(), t, sigma_e, "posterior", data=data), t, sigma_e, strict=True
    ):
        variance = (1 - time) ** 2 * 0.3 + time**2 + error**2
        divergence = (variance + (0.4 * (s - time)) ** 2) / there + there.log()
        assert float(root) == pytest.approx(float(s[divergence.argmin()]), abs=1e-4)


@pytest.mark.parametrize(("variance", "inside"), [(0.999, True), (1.001, False), (1.1, False)])
def test_a_posterior_root_just_past_the_end_is_no_number(variance, inside):
    nothing = Spectrum(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    found = possible_shift(ns.Linear(), 0.5, (variance - 0.25) ** 0.5, "posterior", data=nothing)
    assert float(found) == pytest.approx(variance**0.5 - 0.5, abs=1e-6) if inside else bool(found.isnan())
