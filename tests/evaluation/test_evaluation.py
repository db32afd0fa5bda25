"""Distances between image sets against closed forms and against torchmetrics on the same features."""

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift import evaluation
from noiseshift.data import ASSETS, reference
from noiseshift.evaluation.distances import Features, Moments, frechet_distance


def gaussian(n, d=16, shift=0.0, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, d)) @ np.diag(np.linspace(0.2, 2, d)) + shift


def test_the_distance_of_diagonal_gaussians_has_a_closed_form():
    a = Moments(np.zeros(3), np.diag([1.0, 4.0, 0.0]))
    b = Moments(np.ones(3), np.diag([4.0, 1.0, 0.25]))
    assert frechet_distance(a, b) == pytest.approx(3 + 1 + 1 + 0.25)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="one extractor"):
        frechet_distance(a, Moments(np.zeros(2), np.eye(2)))


def test_distance_agrees_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 16

        def forward(self, x):
            return x.flatten(1)

    real, fake = (torch.from_numpy(gaussian(200, seed=s)).reshape(-1, 1, 4, 4) for s in (0, 1))
    metric = FrechetInceptionDistance(feature=Flat(), input_img_size=(1, 4, 4)).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    ours = frechet_distance(*(Features("x", part.flatten(1).numpy()).moments for part in (real, fake)))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_inception_score_has_its_extremes_and_a_seeded_order():
    uniform, sure = np.full((100, 10), 0.1), np.eye(10)[np.arange(100) % 10]
    assert evaluation.inception_score(uniform) == pytest.approx(1)
    assert evaluation.inception_score(sure, splits=1) == pytest.approx(10)
    mixed = np.random.default_rng(0).dirichlet(np.ones(10), 100)
    assert evaluation.inception_score(mixed, seed=1) == evaluation.inception_score(mixed, seed=1)
    assert evaluation.inception_score(mixed, seed=1) != evaluation.inception_score(mixed, seed=2)


def test_the_kernel_distance_is_unbiased():
    same = evaluation.kernel_distance(gaussian(600, seed=0), gaussian(600, seed=1), size=300)
    far = evaluation.kernel_distance(gaussian(600, seed=0), gaussian(600, shift=0.5, seed=1), size=300)
    assert abs(same.mean()) < 3 * same.std()
    assert far.mean() > 5 * far.std()


def test_precision_and_recall_of_sets_that_cover_one_another():
    real = gaussian(200)
    assert all(part.all() for part in evaluation.precision_recall(real, real))
    assert not any(part.any() for part in evaluation.precision_recall(real, real + 100))
    narrow = real[:100] * 0.01
    precision, recall = evaluation.precision_recall(real, narrow)
    assert precision.mean() > recall.mean()


def test_an_evaluation_names_its_extractor_and_holds_its_values():
    features = Features("fashion", gaussian(400, seed=1), np.random.default_rng(0).dirichlet(np.ones(10), 400))
    table = evaluation.evaluate(features, Features("fashion", gaussian(400))).set_index("metric")
    assert list(table.index) == ["FD-fashion", "KD-fashion", "precision", "recall", "IS-fashion"]
    assert bool((table.low <= table.high).all())
    assert evaluation.distance_name("inception") == "FID"
    with pytest.raises(ValueError, match="measure the count"):
        evaluation.evaluate(Features("fashion", gaussian(16)), features.moments)
    assert len(evaluation.evaluate(Features("x", gaussian(16)), features.moments, allow_small=True)) == 1


def test_the_interval_covers_the_distance_of_the_laws():
    """Two Gaussians at a known distance; FD of a sample is biased up, its interval is not."""
    exact = Moments(np.zeros(8), np.eye(8))
    rng = np.random.default_rng(0)
    rows = [evaluation.evaluate(Features("x", rng.standard_normal((300, 8)) + 0.4), exact).iloc[0] for _ in range(150)]
    covered = sum(row.low <= 8 * 0.16 <= row.high for row in rows)
    assert 134 <= covered <= 149  # binom(150, 0.95) stays within in 99.7 % of cases
    assert np.mean([row.value for row in rows]) > 8 * 0.16 + 0.03  # the plain distance is off by more than chance
    assert abs(np.mean([(row.low + row.high) / 2 for row in rows]) - 8 * 0.16) < 0.03


def test_paired_changes_see_what_independent_ones_do_not():
    base = gaussian(500)
    better, same = Features("x", base), Features("x", base.copy())
    worse = Features("x", base * 1.05)
    exact = Moments(np.zeros(16), np.diag(np.linspace(0.2, 2, 16) ** 2))
    assert evaluation.paired_change(same, better, exact).value == 0
    change = evaluation.paired_change(worse, better, exact)
    assert change.low > 0
    assert change.resolved
    with pytest.raises(ValueError, match="same number"):
        evaluation.paired_change(Features("x", base[:100]), better, exact)


def test_the_bundled_classifier_tells_real_images_from_noise():
    looks = evaluation.ClassifierFeatures()
    images = reference().pixels[:400]
    real = evaluation.load_reference(ASSETS / "fashion-statistics.npz", looks)
    held_out = evaluation.extract(images, looks)
    assert held_out.extractor == "fashion"
    noise = evaluation.extract(torch.randint(0, 256, images.shape, dtype=torch.uint8), looks)
    near, far = (frechet_distance(f.moments, real) for f in (held_out, noise))
    assert near < 0.2 * far
    alike = evaluation.extract(images, looks, batch=64)
    np.testing.assert_allclose(alike.values, held_out.values, atol=1e-4)


def test_references_are_read_from_statistics_and_from_pictures(tmp_path):
    looks = evaluation.ClassifierFeatures()
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(128), sigma=np.eye(128))
    assert evaluation.load_reference(tmp_path / "statistics.npz", looks).n is None
    np.savez(tmp_path / "samples.npz", arr_0=reference().pixels[:20].permute(0, 2, 3, 1).numpy())
    assert len(evaluation.load_reference(tmp_path / "samples.npz", looks)) == 20
    with pytest.raises(FileNotFoundError, match="give a folder"):
        evaluation.load_reference(tmp_path / "nothing", looks)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_any_module_is_an_extractor(tmp_path):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 5))
    images = reference().pixels[:8]
    traced = torch.jit.trace(module, torch.zeros(1, 1, 28, 28))
    traced.save(str(tmp_path / "mine.pt"))
    ours = evaluation.extract(images, evaluation.ModuleFeatures(module, "mine"))
    theirs = evaluation.extract(images, evaluation.ModuleFeatures(tmp_path / "mine.pt", trust=True))
    np.testing.assert_allclose(ours.values, theirs.values, atol=1e-6)
    assert ours.extractor == theirs.extractor == "mine"
    with pytest.raises(FileNotFoundError, match="TorchScript"):
        evaluation.ModuleFeatures(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="--trust it"):
        evaluation.ModuleFeatures(tmp_path / "mine.pt")
    (tmp_path / "damaged.pt").write_bytes((tmp_path / "mine.pt").read_bytes()[:900])
    with pytest.raises(ValueError, match="damaged or no TorchScript file"):
        evaluation.ModuleFeatures(tmp_path / "damaged.pt", trust=True)


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.zeros(3), "sigma": np.zeros((2, 2))},
        {"mu": np.zeros((3, 1)), "sigma": np.eye(3)},
        {"mu": np.full(3, np.nan), "sigma": np.eye(3)},
        {"mu": np.zeros(3), "sigma": np.eye(3), "n": 1},
        {"mu": np.array(["a"]), "sigma": np.eye(1)},
        {"mu": np.array([None]), "sigma": np.eye(1)},
    ],
)
def test_statistics_that_are_none_are_refused_in_one_line(arrays, tmp_path):
    np.savez(tmp_path / "statistics.npz", **arrays)
    with pytest.raises(ValueError, match=r"statistics\.npz") as caught:
        evaluation.load_reference(tmp_path / "statistics.npz", evaluation.ClassifierFeatures())
    assert "\n" not in str(caught.value)


def test_inception_without_its_library_names_the_remedy():
    pytest.importorskip("torch")
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"noiseshift\[fid\]"):
            ns.evaluation.InceptionFeatures()
