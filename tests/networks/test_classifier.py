"""The bundled classifier: what its card says is what it does."""

import numpy as np
import pytest
import torch

from noiseshift.data import ASSETS, reference
from noiseshift.networks.classifier import Classifier, ClassifierConfig, load_classifier


def test_the_bundled_classifier_knows_the_held_out_images():
    classifier, images = load_classifier(), reference()[:1000]
    with torch.inference_mode():
        logits = torch.cat([classifier(x) for x in images.floats.split(250)])
    accuracy = float((logits.argmax(1) == images.labels).double().mean())
    stated = classifier.card["measured"]["accuracy on the 10,000 test images"]
    assert stated >= 0.91
    assert accuracy == pytest.approx(stated, abs=3 * (0.08 * 0.92 / 1000) ** 0.5)


def test_the_bundled_statistics_are_those_of_its_features():
    classifier, images = load_classifier(), reference()[:1000]
    with np.load(ASSETS / "fashion-statistics.npz") as file:
        mu, sigma, n = file["mu"], file["sigma"], int(file["n"])
    assert n == 60_000
    assert sigma.dtype == mu.dtype == np.float64
    assert sigma.shape == (classifier.num_features, classifier.num_features)
    assert np.linalg.eigvalsh(sigma).min() > -1e-9
    features = torch.cat([classifier.features(x) for x in images.floats.split(250)]).double().numpy()
    # Held-out means stray from the training mean by their standard error, plus what the classes' unequal fit adds.
    z = (features.mean(0) - mu) / np.sqrt(np.diag(sigma) / len(features) + 1e-12)
    assert np.sqrt(np.mean(z**2)) < 2
    assert features.var(0).sum() == pytest.approx(np.trace(sigma), rel=0.1)


def test_the_head_reads_the_features(tmp_path):
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(channels=3, classes=4, width=4), card={"data": "none"}).eval()
    x = torch.randn(2, 3, 9, 12)
    assert classifier.num_features == 16
    torch.testing.assert_close(classifier.head(classifier.features(x)), classifier(x))
    classifier.save(tmp_path / "c.safetensors")
    loaded = load_classifier(tmp_path / "c.safetensors")
    assert not loaded.training
    assert loaded.card == {"data": "none"}
    torch.testing.assert_close(loaded(x), classifier(x), atol=5e-3, rtol=1e-2)


def test_what_it_cannot_read_is_one_line(tmp_path):
    classifier = Classifier()
    for shape in ((2, 3, 28, 28), (2, 784), (2, 1, 3, 3)):
        with pytest.raises(ValueError, match=r"reads images \(N, 1, H, W\)"):
            classifier(torch.zeros(shape))
    with pytest.raises(FileNotFoundError, match=r"Classifier\.save"):
        load_classifier(tmp_path / "c.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged or no classifier"):
        load_classifier(tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="damaged or no classifier"):
        load_classifier(ASSETS / "fashion-sit-estimator.safetensors")
