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


def said(middle, error, rows=8, scale=1.6, filled=True):
    """Of slopes whose mean is `middle` and whose standard error is `error`, at one level; at a lower one they are far off."""
    off = np.array([1.0, -1.0] * (rows // 2) + [0.0] * (rows % 2))
    slopes = np.ones((rows, 2, 2))
    slopes[:, 0, 0] = middle + off * error * np.sqrt(rows) / off.std(ddof=1)
    slopes[:, 1, 0] = 20
    return contrast(np.array([scale, 0.2]), slopes, False, filled=filled)


def test_the_sentence_has_two_standard_errors():
    assert "0.950 ± 0.008 (1 is right)" in said(0.95, 0.004).sentence


@pytest.mark.parametrize(
    ("middle", "errors", "passes"),
    [(0.91, 4.1, False), (0.91, 3.9, True), (0.93, 9, True), (1.07, 9, True), (1.09, 4.1, False), (1.09, 3.9, True)],
)
def test_another_contrast_is_certain_and_beyond_a_bound(middle, errors, passes):
    found = said(middle, abs(middle - 1) / errors)
    assert found.passed is passes
    assert ("than the network learned" in found.sentence) is not passes


@pytest.mark.parametrize(("middle", "errors", "passes"), [(0.97, 2.6, False), (0.97, 2.4, True), (1.03, 3.9, True)])
def test_dim_pictures_need_less_certainty_of_less_contrast(middle, errors, passes):
    assert said(middle, abs(middle - 1) / errors, filled=False).passed is passes


@pytest.mark.parametrize(
    ("rows", "scale", "passed"),
    [(8, 1.6, True), (7, 1.6, None), (8, 0.69, None), (8, 0.71, True), (8, 3.4, True), (8, 3.6, None)],
)
def test_rows_and_levels_that_are_judged(rows, scale, passed):
    assert said(1.0, 0.01, rows=rows, scale=scale).passed is passed


@pytest.mark.parametrize(("name", "about"), [("fashion-sit", 0.0), ("fashion-ddpm", 127.5)])
def test_preflight_finds_eight_tenths_of_the_contrast(name, about):
    images = DATA[:512]
    dim = Images((about + 0.8 * (images.pixels.float() - about)).round().to(torch.uint8), images.labels)
    found = preflight(ns.load(name), dim, samples=0)
    assert NAME in [check.name for check in found.failures], str(found)
    assert next(check for check in found.checks if check.name == "range").passed is None
