"""Distances of vectors, signals, video and other states that are no pictures."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint, load
from noiseshift.evaluation import ClassifierFeatures, Features, StateFeatures, WaveletPackets, extract
from noiseshift.studies.folders import pictures_of
from noiseshift.studies.room import require_reference

SHAPES = [(2,), (2, 16), (10, 8), (7, 4, 4), (1, 5, 4, 4)]


@pytest.mark.parametrize("shape", [*SHAPES, (3, 4, 6)])
def test_states_are_their_own_features(shape):
    states = torch.randn(5, *shape)
    np.testing.assert_array_equal(extract(states, StateFeatures(), batch=2).values, states.flatten(1).double().numpy())


def test_pictures_count_from_minus_one_to_one():
    pictures = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    assert extract(pictures, StateFeatures()).values.flatten().tolist() == [-1, 1]


@pytest.mark.parametrize("extractor", [ClassifierFeatures, WaveletPackets])
@pytest.mark.parametrize("shape", SHAPES)
def test_extractors_of_pictures_refuse_other_states(shape, extractor):
    with pytest.raises(ValueError, match=r"no pictures, .* extractor states"):
        extract(torch.zeros(3, *shape), extractor())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_study_refuses_them_before_it_samples(shape):
    model = ns.wrap(lambda x, t, _: x, ns.Linear(), predicts="x0")
    found = Checkpoint("mine", model, Card("callable"), "0" * 64, shape, 0, None, lambda x: x)
    with pytest.raises(ValueError, match="extractor states"):
        require_reference(found, ClassifierFeatures(), Features("fashion", np.zeros((9, 128))), 4, small=True)
    wide = int(np.prod(shape))
    require_reference(found, StateFeatures(), Features("states", np.zeros((9, wide))), 4, small=True)


def test_channels_of_an_unknown_autoencoder_stay_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "channels_mine.py").write_text("def model():\n    return lambda x, t: x, {'shape': [7, 4, 4]}\n")
    done = CliRunner().invoke(main, ["sample", "channels_mine:model", "--samples", "3", "--sampler", "euler:2"])
    assert done.exit_code == 0, done.output
    with np.load(next(tmp_path.glob("*.npz"))) as arrays:
        assert arrays["states"].shape == (3, 7, 4, 4)
    states = torch.randn(2, 7, 4, 4)
    assert torch.equal(pictures_of(load("channels_mine:model").decode(states)), states)


def test_evaluate_says_how_vectors_are_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("drawn.npz", 0), ("real.npz", 1)):
        np.savez(name, states=np.random.default_rng(seed).normal(size=(60, 2)).astype("f4"))
    words = ["evaluate", "drawn.npz", "--reference", "real.npz"]
    refused = CliRunner().invoke(main, words)
    assert (refused.exit_code, "with --extractor states" in refused.stderr) == (1, True)
    assert "--range" not in refused.stderr
    found = CliRunner().invoke(main, [*words, "--extractor", "states", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)[0]["metric"] == "FD-states"
