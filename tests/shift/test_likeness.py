"""What is said of samples beside data, in closed form."""

import math

import numpy as np
import pytest
import torch

from noiseshift.shift.likeness import likeness


def rows(count, seed, shape=(6,)):
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_mean_spread_and_energy_distance_by_their_formulas():
    samples, data = 0.3 + 1.2 * rows(10, 0), rows(14, 1)
    found = likeness(samples, data)
    ours, theirs = samples.numpy(), data.numpy()
    each, other = [*ours], [*theirs]
    variance = theirs.var(0, ddof=1).sum()
    chance = ours.var(0, ddof=1).sum() / 10 + variance / 14
    assert found.mean == pytest.approx((((ours.mean(0) - theirs.mean(0)) ** 2).sum() - chance) / variance)
    assert found.spread == pytest.approx(ours.var(0, ddof=1).sum() / variance)

    def apart(a, b):
        return np.mean([np.linalg.norm(x - y) for x in a for y in b if x is not y])

    inside = apart(each, each), apart(other, other)
    assert found.energy == pytest.approx((2 * apart(each, other) - sum(inside)) / inside[1])


def test_p_counts_relabellings_that_are_as_far_and_the_one_that_is():
    far = likeness(rows(12, 0) + 9, rows(12, 1))
    assert far.p == pytest.approx(1 / 201)
    twice = torch.tensor([0.0, 1.0]).repeat(8)[:, None]
    assert likeness(twice, twice).p == 1  # no relabelling is nearer; some are as near
    assert likeness(rows(12, 0), rows(12, 1), seed=0) == likeness(rows(12, 0), rows(12, 1), seed=0)


def test_the_spectrum_is_the_largest_ratio_of_powers_in_octaves_without_the_constant():
    data = rows(64, 3, (1, 8, 8))
    assert likeness(2 * data, data).spectrum == pytest.approx(math.log(4))
    brighter = data + rows(64, 4, (1, 1, 1))
    assert likeness(brighter, data).spectrum == pytest.approx(0, abs=1e-9)


def test_a_picture_that_all_have_in_common_and_how_bright_they_are_do_not_count():
    data, common = rows(64, 3, (2, 8, 8)), 50 * rows(1, 5, (2, 8, 8))
    assert likeness(common + 2 * data, common + data).spectrum == pytest.approx(math.log(4))
    assert likeness(0.02 * data, 0.01 * data).spectrum == pytest.approx(math.log(4))
    assert math.isfinite(likeness(0 * data[:8], data).spectrum)


@pytest.mark.parametrize(("side", "radius"), [(8, 2), (64, 4)])
def test_the_coarsest_octave_is_below_an_eighth_and_from_there_on_one(side, radius):
    """Of eight pixels the waves of one a picture, across, down and both; of 64 all waves of less than four a picture."""
    data = rows(32, 3, (1, side, side))
    waves = torch.fft.fft2(data)
    power = torch.fft.fft2(data - data.mean(0)).abs().square().mean((0, 1))
    place = torch.fft.fftfreq(side, 1 / side)
    coarse = (place[:, None].square() + place.square()).sqrt() < radius
    coarse[0, 0] = False
    share = float((power[1, 0] + power[-1, 0]) / power[coarse].sum())
    waves[..., 1, 0] *= 3
    waves[..., -1, 0] *= 3
    found = likeness(torch.fft.ifft2(waves).real, data).spectrum
    assert found == pytest.approx(math.log(1 + 8 * share), rel=1e-6)


@pytest.mark.parametrize("shape", [(6,), (4, 8), (1, 3, 8), (1, 8, 3)])
def test_states_that_are_no_pictures_have_no_spectrum(shape):
    assert math.isnan(likeness(rows(8, 0, shape), rows(8, 1, shape)).spectrum)


def test_the_smallest_pictures_have_one():
    assert math.isfinite(likeness(rows(8, 0, (1, 4, 4)), rows(8, 1, (1, 4, 4))).spectrum)


@pytest.mark.parametrize("pair", [(rows(7, 0), rows(8, 0)), (rows(8, 0), rows(7, 0)), (rows(8, 0), rows(8, 0, (5,)))])
def test_too_few_rows_and_other_shapes_are_refused(pair):
    with pytest.raises(ValueError, match="at least 8 rows of one shape"):
        likeness(*pair)
