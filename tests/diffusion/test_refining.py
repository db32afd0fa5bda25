"""Finer grids under the same path, in closed form."""

import math

import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.noise import SAMPLING, generators, normal
from noiseshift.diffusion.refining import refine, refined_noise


def model(levels=None):
    return ns.wrap(lambda x, t, cond: x, ns.Linear(), predicts="x0", levels=levels)


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_every_interval_is_cut_evenly(end):
    times = torch.tensor([1.0, 0.6, 0.5, end], dtype=torch.float64)
    parts = [torch.linspace(a, b, 5, dtype=torch.float64)[:-1] for a, b in ((1, 0.6), (0.6, 0.5), (0.5, end))]
    torch.testing.assert_close(refine(model(), times, 4), torch.cat([*parts, times[-1:]]), rtol=0, atol=1e-12)
    assert torch.equal(refine(model(), times, 1), times)


def test_parts_are_moved_to_known_levels_and_the_times_themselves_are_kept():
    """Tenths are known; 0.55 and 0.05 are times of the run all the same, and no level is there twice, or beyond the last."""
    known = model(torch.arange(1.0, 11.0).double() / 10)
    times = torch.tensor([1.0, 0.55, 0.25], dtype=torch.float64)
    fine = refine(known, times, 8)
    assert fine.tolist() == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4, 0.3, 0.25])
    assert refine(known, torch.tensor([0.5, 0.3], dtype=torch.float64), 8).tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert refine(known, torch.tensor([0.3, 0.22], dtype=torch.float64), 4).tolist() == pytest.approx([0.3, 0.22])


def test_a_coarse_draw_is_the_sum_of_the_fine_ones_over_their_interval():
    times = torch.tensor([0.9, 0.5, 0.4, 0.1], dtype=torch.float64)
    fine = torch.tensor([0.9, 0.8, 0.55, 0.5, 0.4, 0.3, 0.1], dtype=torch.float64)
    x = torch.zeros(3, 4, dtype=torch.float64)
    z = generators(range(3), seed=0, stream=SAMPLING)
    drawn = [normal(z, (4,)).to(x) for _ in range(6)]
    noise = refined_noise(generators(range(3), seed=0, stream=SAMPLING), times, fine)
    weights = [(0.1, 0.25, 0.05), (0.1,), (0.1, 0.2)]
    place = 0
    for parts in weights:
        total = math.sqrt(sum(parts))
        wanted = sum(math.sqrt(h) / total * drawn[place + k] for k, h in enumerate(parts))
        torch.testing.assert_close(noise(x), wanted)
        place += len(parts)
