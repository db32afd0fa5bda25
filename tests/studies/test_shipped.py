"""What ships with the package is what the code would compute, and is used for nothing else."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.noise import FITTING, generator, torch_generator
from noiseshift.estimators import Residual
from noiseshift.estimators.instrument import calibrate
from noiseshift.studies import shipped
from noiseshift.studies.content import finer_solver
from noiseshift.studies.kept_samples import kept_or_sampled
from noiseshift.studies.readers import RESIDUAL_ROWS, calibrated, on_device, read_times, split
from noiseshift.studies.sampling import sampler_run

NAMES = ("network", "residual")


@pytest.fixture(scope="module")
def default():
    """The checkpoint, protocol, half of the images and times of `noiseshift measure` without arguments."""
    checkpoint, data = ns.load(), ns.data.reference()
    protocol = ns.Protocol("euler:50", samples=256, estimators=dict.fromkeys(NAMES)).bound(checkpoint)
    return checkpoint, protocol, split(data, checkpoint)[0], read_times(checkpoint.model, protocol)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, into which goes whatever is made."""
    monkeypatch.setenv("NOISESHIFT_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_a_default_run_calibrates_on_nothing_and_reads_what_it_would_have_read(default, cache):
    checkpoint, protocol, data, times = default
    instruments = calibrated(checkpoint, protocol, data, times)
    assert not cache.exists(), "it was made here"
    rows, cond = data[:24].floats, data[:24].labels
    for name, found in instruments.items():
        assert len(found.calibration.real) == 1000
        now = calibrate(found.estimator, rows, times, cond=cond, slope_rows=8).calibration
        for part in ("t", "log_snr"):
            was, again = (getattr(each.real, part) for each in (found.calibration, now))
            assert np.abs(was[:24] - again).max() < 1e-3 * was.std(0).min(), f"{name}: {part}"
        np.testing.assert_allclose(found.calibration.slopes[:8], now.slopes, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found.calibration.slopes_log_snr[:8], now.slopes_log_snr, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found.calibration.grid, now.grid)
        np.testing.assert_allclose(found.calibration.real.density.sum(1), 1, atol=1e-6)


def test_the_residuals_fit_is_that_of_the_images(default, cache):
    checkpoint, protocol, data, times = default
    shipped_fit = calibrated(checkpoint, protocol, data, times)["residual"].estimator.fit
    x0, cond = on_device("cpu", data[:RESIDUAL_ROWS])
    source = torch_generator(generator(0, seed=protocol.seed, stream=FITTING))
    fit = Residual(checkpoint.model, x0, times[:1], generator=source, cond=cond).fit
    torch.testing.assert_close(shipped_fit[:, :1], fit, rtol=1e-4, atol=1e-6)


def test_the_content_controls_samples_are_those_of_the_finer_run(default, cache):
    checkpoint, protocol, _, _ = default
    finer = finer_solver(checkpoint, protocol)

    def made():
        raise AssertionError("it is made here")

    final = kept_or_sampled(checkpoint, protocol, finer, range(64), made)
    steps = dataclasses.replace(protocol, solver=finer)
    *_, last = sampler_run(checkpoint.model, checkpoint, steps, range(63, 64))
    assert final.shape == (64, 1, 28, 28)
    torch.testing.assert_close(final[63:], last.x, rtol=0, atol=1e-3)


def test_a_network_that_reads_otherwise_uses_none_of_it(default):
    """As after a change of the code that computes: the key does not hold that."""
    checkpoint, protocol, data, times = default
    for found in calibrated(checkpoint, protocol, data, times).values():
        assert shipped.agrees(found, data, "cpu", protocol.seed)
        assert not shipped.agrees(found, data, "cpu", protocol.seed + 1)
        assert not shipped.agrees(found, data[1:], "cpu", protocol.seed)
        other = copy.deepcopy(found)
        changed = other.estimator.network if hasattr(other.estimator, "network") else other.estimator.model.network
        with torch.no_grad():
            for weights in changed.parameters():
                weights *= 1.01
        assert not shipped.agrees(other, data, "cpu", protocol.seed)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"rows": 1023}, {"times": [0.98]}, {"limit": 3}, {"device": "cuda"}])
def test_whatever_decides_a_number_is_in_the_key(changes, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    about = {"seed": 0, "rows": 1024, "times": [0.98, 0.02], "limit": None, "device": "cpu", "software": {"torch": "2"}}
    shipped.save("calibration", about, {"t": np.full((2, 1), 1 / 3), "times": np.full(1, 1 / 3)})
    found = shipped.load("calibration", about | {"software": {"torch": "3"}, "rows at once": 16})
    assert found["t"].dtype == np.float32
    assert found["times"].dtype == np.float64
    assert shipped.load("calibration", about | changes) is None
    assert shipped.load("preflight", about) is None
