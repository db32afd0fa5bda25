"""What is left in finished samples: known noise is read, texture is not, and nothing is said where there is nothing."""

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.shift.final_noise import ConstantCoordinates, LevelReader, wavelet

SIDE = 16
SHAPES = torch.fft.fftfreq(SIDE)[:, None] ** 2 + torch.fft.fftfreq(SIDE)[None] ** 2

GAIN = (SHAPES + 0.003) ** -0.75
GAIN = GAIN / GAIN.square().mean().sqrt()


def textured(count, seed, dark=True):
    """Random fields of a steep spectrum with a dark rim, as pictures have."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, 1, SIDE, SIDE, generator=generator)
    field = 0.5 * torch.fft.ifft2(torch.fft.fft2(white) * GAIN).real  # of one scale for all sets: rows are independent
    if dark:
        field[..., :2, :] = field[..., -2:, :] = -1
    return field


def noisy(x, sigma, seed=9):
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


TARGET = ns.targets.Gaussian(
    torch.zeros(SIDE**2, dtype=torch.float64), torch.cov(textured(4000, 5, dark=False).flatten(1).double().T)
)


class Exact:
    """The exact level estimator of the Gaussian fields."""

    def __init__(self):
        self.schedule = ns.Linear()
        self.inner = TARGET.estimator(self.schedule, torch.linspace(0.01, 0.7, 139, dtype=torch.float64))
        self.times = self.inner.times

    def __call__(self, x, cond=None, *, step=None):
        return self.inner(x.flatten(1).double(), cond, step=step)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_known_noise_is_read_by_every_reader(sigma):
    found = ns.residual_noise(noisy(textured(128, 0), sigma), textured(256, 1), estimator=Exact()).set_index("reader")
    assert {*found.index} == {"wavelet", "constant-pixel", "level"}
    assert (found.verdict == "noise").all()
    assert found.sigma.to_numpy() == pytest.approx(sigma, rel=0.2)
    assert ((found.low <= sigma * 1.03) & (found.high >= sigma * 0.97)).all()
    np.testing.assert_allclose(found.psnr, 20 * np.log10(2 / found.sigma))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_reader_that_rises_on_a_bent_curve_reads_amounts_between_those_that_were_added(power):
    """Straight lines between them read sigma 2 % high by wavelet, and 5 % by an exact level estimator."""

    def bent(x):
        return (0.01 + x.double().square().flatten(1).mean(1).numpy()) ** power

    real = noisy(torch.zeros(400, 1, SIDE, SIDE), 0.2, seed=3)
    for sigma in (0.027, 0.055, 0.11, 0.22):
        found = ns.residual_noise(noisy(real[:200], sigma), real[200:], readers={"bent": bent}).iloc[0]
        assert found.sigma == pytest.approx(sigma, rel=0.02)


def test_texture_is_not_called_noise_and_smoothness_has_its_own_word():
    same = ns.residual_noise(textured(128, 2), textured(256, 3))
    assert (same.verdict == "none seen").all()
    assert (same.sigma <= same.floor).all()
    fields = textured(128, 2, dark=False)
    smooth = (fields + fields.roll(1, -1) + fields.roll(1, -2) + fields.roll((1, 1), (-1, -2))) / 4
    found = ns.residual_noise(smooth, textured(256, 3, dark=False)).set_index("reader")
    assert found.verdict["wavelet"] == "smoother"
    assert found.sigma["wavelet"] == 0 == found.low["wavelet"]
    assert found.psnr["wavelet"] == np.inf


def test_the_null_is_called_noise_at_its_rate_and_intervals_cover():
    """The full study (300 repeats and more) is benchmarks/final_noise.py; this would show a gross fault."""
    real, called, covered = textured(192, 4), 0, 0
    for seed in range(16):
        null = ns.residual_noise(textured(48, 100 + seed), real, readers={"wavelet": wavelet})
        called += int(null.verdict[0] != "none seen")
        some = ns.residual_noise(noisy(textured(48, 200 + seed), 0.1, seed), real, readers={"wavelet": wavelet})
        covered += int(some.low[0] <= 0.1 <= some.high[0])
    assert called <= 4
    assert covered >= 12


def test_what_a_reader_cannot_tell_is_not_made_up():
    """An estimator whose grid ends: noise beyond it is said to be more, not to be so much."""

    class Narrow(Exact):
        def __init__(self):
            self.schedule = ns.Linear()
            self.inner = TARGET.estimator(self.schedule, torch.linspace(0.01, 0.15, 29, dtype=torch.float64))
            self.times = self.inner.times

    fields = textured(64, 7, dark=False)
    found = ns.residual_noise(noisy(fields, 0.5), textured(128, 8, dark=False), estimator=Narrow()).set_index("reader")
    assert found.sigma["level"] == np.inf
    assert found.verdict["level"] == "noise"
    assert 0.05 < found.low["level"] <= 0.5
    from noiseshift.analysis.final_noise import RESIDUAL_COLUMNS, _of

    assert "of more than σ = 0" in _of({**found.loc["level"], "reader": "level", "space": "pictures"})
    assert {name for name, *_ in RESIDUAL_COLUMNS} - {"space"} <= {"reader", *found.columns}


def test_readers_are_variances_of_the_noise_alone():
    white = 0.2 * torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert wavelet(white).mean() == pytest.approx(0.04, rel=0.02)
    flat = torch.linspace(-1, 1, 32).expand(4, 1, 32, 32)
    assert wavelet(flat).max() < 1e-12
    edge = torch.zeros(4, 1, 32, 32)
    edge[..., :, 7:] = 1
    assert wavelet(edge).max() == 0
    constant = ConstantCoordinates.of(torch.full((20, 1, 4, 4), 0.5))
    assert constant(0.5 + 0.1 * torch.randn(500, 1, 4, 4, generator=torch.Generator().manual_seed(0))).mean() > 0.006
    assert ConstantCoordinates.of(torch.randn(20, 1, 4, 4)) is None


def test_a_reading_does_not_depend_on_the_batch():
    x = textured(9, 6)
    reader = LevelReader(Exact(), seed=3)
    np.testing.assert_allclose(reader(x)[:5], reader(x[:5]))


@pytest.mark.parametrize(
    ("samples", "real", "line"),
    [
        (textured(1, 0), textured(20, 1), "needs 2 samples"),
        (textured(4, 0), textured(4, 1), "8 real ones"),
        (textured(4, 0)[..., :8], textured(20, 1), "give alike shapes"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(samples, real, line):
    with pytest.raises(ValueError, match=line):
        ns.residual_noise(samples, real)


def test_the_level_network_reads_what_is_left_where_a_run_has_controls():
    from noiseshift.studies.final_noise import finished

    checkpoint, data = ns.load(), ns.data.reference()
    final = noisy(data.floats[1000:1064], 0.05)
    for controls, readers in ((False, {"wavelet", "constant-pixel"}), (True, {"wavelet", "constant-pixel", "level"})):
        protocol = ns.Protocol("em:4", 64, estimators={"network": None}, controls=controls)
        found = finished(checkpoint, protocol, final, data[:128]).set_index("reader")
        assert {*found.index} == readers
    assert found.sigma.level == pytest.approx(0.05, rel=0.15)
    assert found.low.level < 0.05 < found.high.level
    without = ns.Protocol("em:4", 64, estimators={"residual": None}, controls=True)
    assert "level" not in [*finished(checkpoint, without, final, data[:128]).reader]


def test_a_run_says_and_keeps_what_is_left(tmp_path, capsys):
    from noiseshift.analysis.tables import print_run

    protocol = ns.Protocol("flow-sde:4,a=0.7", 16, estimators={"network": None}, points=1, calibration_rows=16)
    run = ns.run(ns.load(), protocol, ns.data.reference()[:200])
    found = run.residual_noise.set_index("reader")
    assert {"wavelet", "constant-pixel"} == {*found.index}
    assert (found.space == "pictures").all()
    assert found.verdict["constant-pixel"] == "noise"
    again = ns.Run.load(run.save(tmp_path / "run"))
    assert again.residual_noise.equals(run.residual_noise)
    assert run.summary()["residual_noise"][0]["reader"] == "wavelet"
    print_run(run)
    assert "Left in the final samples" in " ".join(capsys.readouterr().out.split())
