"""Data of another contrast than the network learned are found; its own are not blamed, dim ones neither."""

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.data import Images
from noiseshift.shift.contrast import NAME, contrast
from noiseshift.shift.denoising import denoised
from noiseshift.shift.preflight import preflight

DATA = ns.data.reference()
DIM = 64


def judged(factor, seed, filled=True):
    """Gaussian data whose contrast is multiplied, read by the exact denoiser of those that are not."""
    variances = torch.arange(1, DIM + 1, dtype=torch.float64) ** -1.5
    target = ns.targets.Gaussian(torch.full((DIM,), 0.3, dtype=torch.float64), variances)
    x0 = target.sample(320, torch.Generator().manual_seed(seed)).float()
    x0 = 0.3 + factor * (x0 - 0.3)
    found = denoised(target.model(ns.Linear()), x0[32:], x0[:32])
    return contrast(found.table.scale.to_numpy(), found.slopes, False, filled=filled)


@pytest.mark.parametrize("seed", range(20))
def test_an_exact_network_is_never_blamed(seed):
    found = judged(1.0, seed)
    assert found.passed, found.sentence


def test_less_and_more_contrast_are_found():
    assert "less contrast" in judged(0.7, 0).sentence
    assert "more contrast" in judged(1.5, 0).sentence


def test_a_second_sign_makes_less_enough():
    slopes = np.ones((32, 1, 2))
    slopes[:, 0, 0] += np.random.default_rng(0).normal(0, 0.05, 32)
    slopes[:, 0, 0] += 0.97 - slopes[:, 0, 0].mean()
    scales = np.array([1.6])
    assert contrast(scales, slopes, False).passed
    assert contrast(scales, slopes, False, filled=False).passed is False
    assert contrast(scales, slopes, True).passed is None


@pytest.mark.parametrize(("name", "about"), [("fashion-sit", 0.0), ("fashion-ddpm", 127.5)])
def test_preflight_finds_eight_tenths_of_the_contrast(name, about):
    images = DATA[:512]
    dim = Images((about + 0.8 * (images.pixels.float() - about)).round().to(torch.uint8), images.labels)
    found = preflight(ns.load(name), dim, samples=0)
    assert NAME in [check.name for check in found.failures], str(found)
    assert next(check for check in found.checks if check.name == "range").passed is None
