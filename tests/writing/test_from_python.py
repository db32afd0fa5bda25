"""What is saved from Python keeps the commands' rules: nothing of somebody else's is replaced, our own is, whole."""

import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from noiseshift.analysis import drawing, samples

import noiseshift as ns
from noiseshift.checkpoints.card import Card
from noiseshift.checkpoints.diffusers.conditions import Conditions
from noiseshift.checkpoints.saving import save, save_trained, write_card
from noiseshift.diffusion.schedules import Linear
from noiseshift.estimators.network import Network
from noiseshift.evaluation import Features
from noiseshift.networks.classifier import Classifier, ClassifierConfig
from noiseshift.networks.level import LevelConfig, LevelNetwork
from noiseshift.training.level_estimator import EstimatorTraining, train_estimator
from noiseshift.writing import BusyError, PlaceError, claimed

CARD = Card.from_dict({"family": "sit", "heads": 2})
PICTURES = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
FILES = {
    "samples.png": lambda path, **more: samples.save_samples(PICTURES, None, path, **more),
    "samples.npz": lambda path, **more: samples.save_samples(PICTURES, None, path, **more),
    "features.npz": lambda path, **more: Features("two", np.ones((3, 2))).save(path, **more),
    "level.safetensors": lambda path, **more: Network(LevelNetwork(LevelConfig(1, 4)), Linear()).save(path, **more),
    "classifier.safetensors": lambda path, **more: Classifier(ClassifierConfig(), card={}).save(path, **more),
    "prompts.safetensors": lambda path, **more: Conditions.of({"prompt_embeds": torch.rand(2, 3, 4)}).save(
        path, **more
    ),
    "model.safetensors": lambda path, **more: save(path, {"x": torch.ones(2)}, CARD, **more),
    "card.yaml": lambda path, **more: write_card(path, CARD, **more),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_replaces_its_own_kind_alone(name, tmp_path):
    path, write = tmp_path / name, FILES[name]
    path.write_bytes(b"mine")
    with pytest.raises(PlaceError, match=r"did not make it: .*overwrite=True") as refused:
        write(path)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == b"mine"
    write(path, overwrite=True)
    assert path.read_bytes() != b"mine"
    write(path)
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]
    for other in FILES:
        if Path(other).suffix == path.suffix and other != name and path.suffix != ".png":
            content = path.read_bytes()
            with pytest.raises(PlaceError):
                FILES[other](path)
            assert path.read_bytes() == content


def test_a_checkpoints_own_card_stays_where_it_says_something_else(tmp_path, caplog):
    path = save(tmp_path / "a", {"x": torch.ones(2)}, CARD)
    edited = path.with_suffix(".yaml").read_text() + "name: corrected by hand\n"
    path.with_suffix(".yaml").write_text(edited)
    with pytest.raises(PlaceError):
        save(path, {"x": torch.zeros(2)}, CARD)
    with caplog.at_level(logging.WARNING):
        save_trained(path, {"x": torch.zeros(2)}, CARD)
    assert "was changed since it was written: it stays as it is" in caplog.text
    assert path.with_suffix(".yaml").read_text() == edited


def test_figures_replace_figures(tmp_path):
    def drawn():
        return samples.plot_samples(PICTURES)

    (tmp_path / "a.pdf").write_bytes(b"mine")
    with pytest.raises(PlaceError):
        drawing.save_figure(drawn(), tmp_path / "a")
    assert (tmp_path / "a.pdf").read_bytes() == b"mine"
    assert not (tmp_path / "a.png").exists()
    for _ in range(2):
        assert len(drawing.save_figure(drawn(), tmp_path / "b")) == 2


def _hold(folder, kind, ready, done):
    with claimed(folder, kind, adding=True):
        ready.set()
        done.wait(30)


def test_a_training_from_python_takes_its_lock_and_only_its_own_folder(tmp_path):
    images, config = ns.data.reference()[:8], EstimatorTraining(steps=1, batch=2, width=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(PlaceError, match=r"thesis\.tex"):
        train_estimator(images, Linear(), config, folder=tmp_path / "mine")
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    other = fork.Process(target=_hold, args=(tmp_path / "run", "train-estimator", ready, done))
    other.start()
    ready.wait(30)
    try:
        with pytest.raises(BusyError, match="is being written by process"):
            train_estimator(images, Linear(), config, folder=tmp_path / "run")
    finally:
        done.set()
        other.join()
    train_estimator(images, Linear(), config, folder=tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["log.jsonl", "noiseshift.json", "state.pt"]


@pytest.mark.parametrize("name", ["audit.csv", "findings.json"])
def test_an_audit_replaces_an_audit_and_nothing_else(name, tmp_path):
    found = ns.audit("diffusers/DDIMScheduler", 3)
    found.save(tmp_path)
    found.save(tmp_path)
    (tmp_path / name).write_text('{"mine": 1}\n')
    with pytest.raises(PlaceError, match="noiseshift did not make it: give another name"):
        found.save(tmp_path)
    assert (tmp_path / name).read_text() == '{"mine": 1}\n'
