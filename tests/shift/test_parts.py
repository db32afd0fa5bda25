"""The shift by parts of a state, on an exact model: random fields whose denoiser is a filter."""

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.models import FULL
from noiseshift.diffusion.steps import Step
from noiseshift.estimators import Residual, calibrate, parts
from noiseshift.shift.groups import Groups, measure_groups
from noiseshift.shift.inference import Ratio
from noiseshift.shift.parts import PARTS, calibrate_parts, measure_parts, part_columns

SIDE = 16
SCHEDULE = ns.Linear()
TIMES = torch.tensor([0.7, 0.4, 0.15], dtype=torch.float64)
FREQUENCY = torch.fft.fftfreq(SIDE)[:, None] ** 2 + torch.fft.fftfreq(SIDE)[None] ** 2
POWER = 0.02 * (FREQUENCY + 0.002) ** -1 * (FREQUENCY < 0.03)
"""Of the data by frequency: none in most of them, as in smooth pictures, so that the noise is resolved there."""
SHAPE = (1, SIDE, SIDE)


def data(count, seed):
    white = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return torch.fft.ifft2(torch.fft.fft2(white) * POWER.sqrt()).real


def denoised(x, t, cond):
    level = SCHEDULE(t).like(x)
    gain = level.alpha * POWER / (level.alpha**2 * POWER + level.sigma**2)
    return torch.fft.ifft2(torch.fft.fft2(x) * gain).real


MODEL = ns.wrap(denoised, SCHEDULE, predicts="x0")


def calibrated(wanted, real=None, model=MODEL):
    real = data(256, 0) if real is None else real
    residual = Residual(model, real[:64], TIMES, generator=torch.Generator().manual_seed(1))
    return calibrate_parts(residual, wanted, real, TIMES)


def steps(count, seed, add=lambda index, eps: eps, offset=0.0, predict=True):
    """A run whose states are data, noised to t + offset; `add` may change the noise."""
    x0 = data(count, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for index, t in enumerate(TIMES):
        eps = add(index, torch.randn(x0.shape, generator=generator))
        x = SCHEDULE(t + offset).mix(x0, eps)
        told = t.to(x).expand(count)
        yield Step(index, t, x, MODEL.predict(x, told, None, (FULL,))[0] if predict else None)
    yield Step(len(TIMES), torch.tensor(0.0, dtype=torch.float64), x0)


def more_in(band, eps, share):
    """White noise with more of one Haar band."""
    found = parts.haar_bands(eps)
    two = band.endswith("2")
    scale = {name: 1 + share * (name == band) for name in found}
    low = parts.inverse_haar({k[:2]: scale[k] * found[k] for k in found if k.endswith("2")}) if two else found["LL1"]
    return parts.inverse_haar(
        {"LL": low} | {k[:2]: scale[k] * found[k] for k in found if k.endswith("1") and k != "LL1"}
    )


@pytest.fixture(scope="module")
def by_band():
    return calibrated(parts.bands(SHAPE))[1]


def test_the_transform_is_orthonormal_and_names_its_directions():
    x = torch.randn(3, 2, 8, 12, dtype=torch.float64)
    bands = parts.haar_bands(x)
    assert list(bands) == ["LL2", "LH2", "HL2", "HH2", "LL1", "LH1", "HL1", "HH1"]
    disjoint = [part.square().sum() for name, part in bands.items() if name != "LL1"]
    assert sum(disjoint) == pytest.approx(float(x.square().sum()))
    torch.testing.assert_close(parts.inverse_haar(parts.haar(x)), x, atol=1e-6, rtol=1e-6)
    across = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
    assert [name for name, part in parts.haar(across).items() if bool(part.any())] == ["HL"]
    assert [name for name, part in parts.haar(across.mT).items() if bool(part.any())] == ["LH"]


@pytest.mark.parametrize(("shape", "names"), [((3, 6, 10), 4), ((4, 5, 8, 8), 8), ((8, 2), 4)])
def test_bands_of_any_even_size(shape, names):
    found = parts.bands(shape)
    white = torch.randn(400, *shape, generator=torch.Generator().manual_seed(0))
    assert found.values(white).shape == (400, names)
    np.testing.assert_allclose(found.values(white).square().mean(0), 1, atol=0.2)


@pytest.mark.parametrize("shape", [(3, 7, 8), (3, 8, 9), (5,), (1, 1)])
def test_states_without_bands_are_refused(shape):
    with pytest.raises(ValueError, match="even height and width"):
        parts.bands(shape)


def test_a_known_shift_is_read_in_every_band_that_can_be_read(by_band):
    found = measure_parts(steps(512, 10, offset=0.02), by_band).table()
    read = found[found["shift"].notna()]
    assert {*read.part} == {*by_band.parts.names}, "each somewhere"
    assert ((read.joint_low <= 0.02) & (read.joint_high >= 0.02)).all()
    assert read.significant.mean() > 0.6


@pytest.mark.parametrize("band", ["HH1", "LH1", "HL2"])
def test_noise_of_a_band_is_read_in_its_band_and_only_there(by_band, band):
    found = measure_parts(steps(512, 20, lambda _, eps: more_in(band, eps, 0.1)), by_band).table()
    holds = {band, "LL1"} if band.endswith("2") else {band}
    seen = {*found[found.significant].part}
    assert band in seen
    assert seen <= holds
    inside = found[(found.part == band) & found["shift"].notna()]
    # Noise of scale 1.1 sigma at t is that of level t + 0.1 t on the linear schedule, but for the data's share of the slope.
    np.testing.assert_allclose(inside["shift"], 0.1 * inside.t, rtol=0.35)


def test_the_null_is_called_at_its_rate(by_band):
    """The full study is benchmarks/parts.py; this would show a gross fault."""
    called = sum(bool(measure_parts(steps(48, 100 + 2 * k), by_band).table().significant.any()) for k in range(12))
    assert called <= 3


def test_a_table_has_a_row_per_part_and_step(by_band):
    report = measure_parts(steps(16, 3), by_band)
    found = report.table()
    assert list(found.columns) == list(PARTS)
    assert list(found.index) == list(range(24))
    assert list(found.part[:4]) == [by_band.parts.names[0]] * 3 + [by_band.parts.names[1]]
    assert list(found.t[:3]) == TIMES.tolist()
    assert list(found.step[:3]) == list(report.steps)
    assert {*found.n} == {16}
    bias = report.sampled.mean(0) - by_band.real.mean(0)
    expected = (bias / by_band.slope).T.reshape(-1)
    some = found["shift"].notna()
    np.testing.assert_allclose(found["shift"][some], expected[some], rtol=1e-9)


def test_what_is_called_a_shift_has_an_interval_on_one_side_of_nothing():
    """Readings without noise: each interval is its value."""
    rows = np.ones((10, 4))
    ratio = Ratio.of_difference(rows * [0.1, -0.1, 0.0, 0.1], 0 * rows, rows)
    found = part_columns(ratio, np.array([True, True, True, False]), 2.0, 0.95)
    assert found.resolved.tolist() == found.significant.tolist() == [True, True, False, False]
    for column in ("shift", "low", "high", "joint_low", "joint_high"):
        np.testing.assert_allclose(found[column], [0.1, -0.1, 0.0, np.nan])
    assert found.slope.tolist() == [1, 1, 1, 1]
    assert found.floor[:3].tolist() == [0, 0, 0]


def test_no_call_is_made_for_states_that_have_a_prediction():
    asked = []

    def counted(x, t, cond):
        asked.append(len(x))
        return denoised(x, t, cond)

    model, real = ns.wrap(counted, SCHEDULE, predicts="x0"), data(40, 0)
    residual = Residual(model, real, TIMES, generator=torch.Generator().manual_seed(1))
    asked.clear()
    alone = calibrate(residual, real, TIMES)
    cost, asked[:] = sum(asked), []
    instrument, calibration = calibrate_parts(residual, parts.bands(SHAPE), real, TIMES)
    assert sum(asked) == cost, "calibrating bands asks nothing more"
    np.testing.assert_array_equal(instrument.calibration.real.t, alone.calibration.real.t)
    np.testing.assert_array_equal(instrument.calibration.slopes, alone.calibration.slopes)
    asked.clear()
    measure_parts(steps(8, 3), calibration)
    assert not asked
    calibration.read(next(steps(8, 3, predict=False)))
    assert asked == [8]


def test_chained_runs_are_one_report(by_band):
    runs = (step for seed in (3, 5) for step in steps(8, seed))
    both = measure_parts(runs, by_band)
    assert both.sampled.shape == (16, 3, 8)
    np.testing.assert_array_equal(both.sampled[8:], measure_parts(steps(8, 5), by_band).sampled)


def test_noise_of_a_region_is_read_inside_alone():
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[4:12, 4:12] = True
    calibration = calibrated(parts.region(inside, SHAPE))[1]
    found = measure_parts(steps(512, 30, lambda _, eps: eps * (1 + 0.1 * inside)), calibration).table()
    read = found[found["shift"].notna()].set_index(["part", "t"])["shift"]
    assert {*found[found.significant].part} == {"inside"}
    assert read["inside"].min() > 3 * read["outside"].abs().max()


@pytest.mark.parametrize("size", [(8, 8), (16, 32), (20, 20)])
def test_a_mask_of_another_size_is_refused(size):
    with pytest.raises(ValueError, match=rf"{size[0]} × {size[1]}, the states are 16 × 16"):
        parts.region(torch.zeros(size, dtype=torch.bool), SHAPE)


def test_a_mask_of_pixels_fits_latents():
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[:16] = True
    x = torch.zeros(1, 4, 8, 8)
    x[:, :, :4] = 3.0
    assert parts.region(inside, (4, 8, 8)).values(x).tolist() == [[3.0, 0.0]]
    with pytest.raises(ValueError, match="white and black"):
        parts.region(torch.ones(8, 8, dtype=torch.bool), (4, 8, 8))


def test_frames_are_read_apart():
    x = torch.ones(2, 3, 5, 4, 4) * torch.arange(5.0)[:, None, None]
    assert parts.frames((3, 5, 4, 4)).values(x).tolist() == [[0, 1, 2, 3, 4]] * 2
    with pytest.raises(ValueError, match="no frames"):
        parts.frames(SHAPE)


def grouped(shifted, n=96, groups=3, seed=0):
    """A report of samples in turn of each group, of which one is shifted; and the groups of samples and real states."""
    from reports import report_of

    rng = np.random.default_rng(seed)
    sampled, real = (np.arange(rows) % groups for rows in (n, 4 * n))
    content = np.array([0.0, 0.3, -0.2])  # what a group reads at the right level
    times = np.array([0.6, 0.2])

    def readings(names, shift):
        noise = rng.gamma(4, size=(len(names), 1)) / 2 - 2 + 0.3 * rng.normal(size=(len(names), 2))
        return times + content[names, None] + (names[:, None] == shifted) * shift + 0.05 * noise

    report = report_of(times, readings(sampled, 0.05), readings(real, 0.0))
    return report, Groups("class", [f"c{k}" for k in sampled], [f"c{k}" for k in real])


def test_the_group_that_is_shifted_is_found_and_no_other():
    report, groups = grouped(shifted=1)
    found = measure_groups({"network": report}, groups)
    assert {*found[found.significant].part} == {"c1"}
    assert found[found.part == "c1"]["shift"].to_numpy() == pytest.approx(0.05, abs=0.02)
    assert (found.n == 32).all()
    assert (found.p < 0.01).all()
    assert {*found.against} == {"held-out data"}


def test_groups_without_labels_of_the_data_are_against_all():
    report, groups = grouped(shifted=-1)
    found = measure_groups({"network": report}, Groups("class", groups.sampled))
    assert {*found.against} == {"all of held-out data"}
    assert {*found[found.significant].part} >= {"c1"}, "content of a group is read as a shift there"


def test_no_group_is_called_more_often_than_it_may():
    called = sum(
        bool(measure_groups({"a": r}, g).significant.any()) for r, g in (grouped(-1, 48, seed=k) for k in range(12))
    )
    assert called <= 3


def test_small_groups_are_refused_before_they_are_sampled():
    with pytest.raises(ValueError, match=r"the prompt b has 2 samples of 12: .*ask for more --samples"):
        Groups("prompt", ["a"] * 10 + ["b"] * 2)
