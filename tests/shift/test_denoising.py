"""Noise errors by level, in closed form."""

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.shift.denoising import _worse, checked_times, denoised, noise_errors

SCALES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
X0 = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def of_x0(fn):
    """A model that says so of the data, whatever the state."""
    return ns.wrap(lambda x, t, cond: fn(X0[: len(x)]), ns.Linear(), predicts="x0")


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_levels_are_multiples_of_the_datas_spread(spread):
    level = ns.Linear()(checked_times(ns.Linear(), spread))
    assert (level.sigma / level.alpha).tolist() == pytest.approx([spread * scale for scale in SCALES])


def test_only_levels_of_the_schedule_are_checked_and_one_at_the_least():
    narrow = ns.VarianceExploding(0.15, 1.0)
    assert narrow(checked_times(narrow, 1.0)).sigma.tolist() == pytest.approx([0.2, 0.4, 0.8])
    beyond = checked_times(narrow, 100.0)
    assert beyond.tolist() == pytest.approx([1 - 1e-4])
    assert checked_times(narrow, 1e-3).tolist() == pytest.approx([1e-4])


def test_the_noise_error_is_that_of_the_data_over_the_noise():
    times = torch.tensor([0.2, 0.5], dtype=torch.float64)
    assert noise_errors(of_x0(lambda x: x), X0, times) == pytest.approx(0, abs=1e-20)
    off = noise_errors(of_x0(lambda x: x + 0.3), X0, times)
    assert off == pytest.approx(np.tile([(0.8 / 0.2 * 0.3) ** 2, 0.3**2], (40, 1)))


def test_noise_is_a_rows_own():
    nothing = ns.wrap(lambda x, t, cond: 0 * x, ns.Linear(), predicts="epsilon")
    times = torch.tensor([0.3], dtype=torch.float64)
    every = noise_errors(nothing, X0, times)
    assert every.mean() == pytest.approx(1, abs=0.2)
    assert np.array_equal(noise_errors(nothing, X0[:7], times), every[:7])
    assert not np.array_equal(noise_errors(nothing, X0, times, seed=1), every)


def test_worse_is_by_two_standard_errors_of_the_paired_difference_or_no_number():
    off = np.array([1.0, -1.0] * 8)
    linear = np.random.default_rng(0).random((16, 4))
    found = linear + (off / off.std(ddof=1) / 4)[:, None]  # a standard error of 1/16
    found += np.array([2.02, 1.98, -3.0, 0.0]) / 16
    found[5, 3] = np.nan
    assert _worse(found, linear).tolist() == [True, False, False, True]


def test_a_table_has_a_row_a_level():
    rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = denoised(of_x0(lambda x: x + 0.1), rows, X0)
    table = made.table
    spread = float(rows.var(0).mean().sqrt())
    level = ns.Linear()(torch.tensor(table.t))
    assert table.scale.tolist() == pytest.approx((level.sigma / level.alpha / spread).tolist())
    assert table.error.tolist() == pytest.approx((0.1 * level.alpha / level.sigma).square().tolist())
    # of a Gaussian of this spread: a share of the noise, 1 / (1 + scale²), stays
    assert table.linear.tolist() == pytest.approx([1 / (1 + scale**2) for scale in table.scale], rel=0.25)
    assert made.errors.shape == (40, len(SCALES))
    assert made.slopes.shape == (40, len(SCALES), 2)
    assert table.slope.isna().all()


def test_a_table_of_pictures_has_their_slope_and_its_error():
    pictures = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = ns.wrap(lambda x, t, cond: pictures[: len(x)], ns.Linear(), predicts="x0")
    table = denoised(model, pictures, pictures).table
    assert table.slope.tolist() == pytest.approx([1.0] * len(SCALES))
    assert table.slope_error.tolist() == pytest.approx([0.0] * len(SCALES), abs=1e-9)
