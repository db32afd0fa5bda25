"""Pictures that were blurred or enlarged lack the detail that a network of sharp ones sees in them."""

import pandas as pd
import pytest
import torch
from torch.nn import functional

import noiseshift as ns
from noiseshift.shift.denoising import error_table
from noiseshift.shift.detail import SCALES, detail, fine_slope

DATA = ns.data.reference()[:160]
KERNEL = torch.tensor([1, 4, 6, 4, 1.0]) / 16


def blurred(x):
    return functional.conv2d(functional.pad(x, (2,) * 4, mode="replicate"), (KERNEL[:, None] * KERNEL)[None, None])


def enlarged(x):
    return functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")


CHANGES = {
    "as they are": (lambda x: x, True),
    "blurred": (blurred, None),
    "blurred twice": (lambda x: blurred(blurred(x)), None),
    "enlarged": (enlarged, None),
    "darker": (lambda x: 0.9 * (x + 1) - 1, True),
}


def errors_of(model, change):
    x = change(DATA.floats)
    return error_table(model, x[32:], x[:32], DATA.labels[:32])


@pytest.mark.parametrize("name", ["fashion-sit", "fashion-ddpm"])
@pytest.mark.parametrize("case", CHANGES)
def test_pictures_without_their_detail_are_found(case, name):
    change, right = CHANGES[case]
    found = detail(errors_of(ns.load(name).model, change))
    assert found.passed is right, found.sentence
    assert ("finer detail" in found.sentence) is (right is None)


def test_a_network_that_is_poor_is_not_blamed_on_the_data():
    """Noise on its weights: worse than the linear denoiser at small noise, or still certain of its detail."""
    for noise in (0.05, 0.2):
        model = ns.load().model
        generator = torch.Generator().manual_seed(0)
        for weights in model.network.parameters():
            if weights.ndim > 1:
                weights.data += noise * weights.data.std() * torch.randn(weights.shape, generator=generator)
        assert "finer detail" not in detail(errors_of(model, lambda x: x)).sentence


def test_a_network_that_leaves_noise_in_its_own_pictures_does_not_fail():
    """The slopes of a stranger's flow of digits, whose samples have a dirty background."""
    errors = pd.DataFrame(
        {"scale": SCALES, "t": [0.08, 0.16], "slope": [0.23, 0.12], "slope_error": 0.01, "worse": False}
    )
    found = detail(errors)
    assert found.passed is None
    assert "leaves noise" in found.sentence


@pytest.mark.parametrize(
    ("slopes", "errors", "blurred"),
    [
        ([0.41, 0.45], [0.029, 0.2], True),
        ([0.41, 0.45], [0.031, 0.2], False),
        ([0.45, 0.41], [0.2, 0.029], True),
        ([0.41, 0.51], [0.001, 0.001], False),
        ([0.51, 0.41], [0.001, 0.001], False),
    ],
)
def test_less_detail_is_seen_at_both_levels_and_certain_at_one(slopes, errors, blurred):
    """Below a half at both, by three standard errors at one. A level that is not judged says nothing."""
    frame = pd.DataFrame({"scale": [*SCALES, 1.6], "t": [0.08, 0.16, 0.4], "slope": [*slopes, 0.0], "worse": False})
    frame["slope_error"] = [*errors, 0.0]
    found = detail(frame)
    assert found.passed is (None if blurred else True)
    assert "slope of the finest detail over the network's " in found.sentence
    assert "0.00" not in found.sentence


def test_detail_is_not_looked_at_where_a_level_is_missing_or_no_picture():
    frame = pd.DataFrame({"scale": SCALES, "t": [0.08, 0.16], "slope": 0.2, "slope_error": 0.01, "worse": False})
    for part in (frame[:1], frame[1:], frame.assign(slope=[0.2, float("nan")]), frame.assign(worse=[False, True])):
        assert detail(part).sentence.startswith("not looked at")
    assert detail(frame.assign(scale=[0.23, 0.35])).sentence.startswith("the network puts")  # as times are snapped
    assert detail(frame.assign(scale=[0.25, 0.4])).sentence.startswith("not looked at")


def test_the_exact_denoiser_has_slope_1_and_one_of_more_detail_less():
    variances = torch.full((64,), 0.25, dtype=torch.float64)
    target = ns.targets.Gaussian(torch.zeros(64, dtype=torch.float64), variances)
    x0 = target.sample(400, torch.Generator().manual_seed(0)).double()
    x = 0.7 * x0 + 0.3 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    said = target.model(ns.Linear())(x, torch.tensor(0.3, dtype=torch.float64)).x0
    slope, error = fine_slope(x0.reshape(-1, 1, 8, 8), said.reshape(-1, 1, 8, 8))
    assert abs(slope - 1) < 4 * error < 0.1
    assert fine_slope(x0.reshape(-1, 1, 8, 8), 2 * said.reshape(-1, 1, 8, 8))[0] == pytest.approx(slope / 2)


@pytest.mark.parametrize("shape", [(64,), (4, 16), (1, 4, 16)])
def test_other_states_have_no_slope(shape):
    x = torch.randn(16, *shape)
    assert str(fine_slope(x, x)[0]) == "nan"
