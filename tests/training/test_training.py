"""Trainings that a user starts from the shell, at toy size on the bundled images."""

import importlib.util

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from safetensors.torch import load_file, save_file

import noiseshift as ns
from noiseshift.checkpoints import Card
from noiseshift.checkpoints.saving import save
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL
from noiseshift.training.finetune import _objective, finetune, held_out_loss
from noiseshift.training.train import TrainingConfig


def run(words):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("family", ["sit", "dit"])
def test_train_writes_a_checkpoint_that_loads_and_knows_all_branches(family, tmp_path):
    small = "--width 32 --depth 1 --heads 2 --patch 7 --steps 3 --batch 8 --no-progress"
    run(["train", "--family", family, *small.split(), "--out", str(tmp_path)])
    assert {"model.safetensors", "model.yaml", "loss.png", "samples.png", "state.pt"} <= {
        path.name for path in tmp_path.iterdir()
    }
    checkpoint = ns.load(tmp_path / "model.safetensors")
    assert len(checkpoint.model.branches) == 4
    assert checkpoint.classes == 10
    assert checkpoint.model.predicts == ("velocity" if family == "sit" else "epsilon")
    run(["train", "--family", family, *small.replace("--steps 3", "--steps 4").split(), "--out", str(tmp_path)])
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4


def test_a_network_has_no_branch_that_it_was_not_trained_for(tmp_path):
    small = "--width 32 --depth 1 --heads 2 --patch 7 --steps 2 --batch 8 --no-progress"
    run(["train", *small.split(), "--noise-dropout", "0", "--class-dropout", "0", "--out", str(tmp_path)])
    checkpoint = ns.load(tmp_path / "model.safetensors")
    assert checkpoint.model.branches == {FULL}
    assert checkpoint.classes == 10


def test_train_refuses_what_does_not_fit(tmp_path):
    result = CliRunner().invoke(main, ["train", "--patch", "5", "--out", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert "--patch divides" in result.output


@pytest.fixture
def unaware(tmp_path):
    """The bundled model as if it had never seen noise dropout."""
    bundled = ns.load()
    state = {k: v for k, v in bundled.model.network.state_dict().items() if k != "t_embedder.null"}
    path = save(tmp_path / "unaware", state, bundled.card)
    (tmp_path / bundled.card.estimator).write_bytes(bundled.estimator.read_bytes())
    assert NOISE_UNCONDITIONAL not in ns.load(path).model.branches
    return path


def test_finetuning_the_null_embedding_leaves_the_conditional_branch_to_the_bit(unaware, tmp_path):
    images = ns.data.reference()
    config = TrainingConfig(steps=12, batch=32, learning_rate=0.1, ema=0.5)
    found = finetune(ns.load(unaware), images[100:], images[:100], config, tmp_path / "run", part="null")
    assert found.conditional_after == found.conditional_before
    assert found.unconditional_after < found.unconditional_before
    old = ns.load(unaware).model.network.state_dict()
    for key, value in found.state.items():
        assert key == "t_embedder.null" or torch.equal(value, old[key])


def test_finetune_reports_both_branches_and_its_checkpoint_takes_guidance(unaware, tmp_path):
    out = tmp_path / "aware"
    words = ["finetune", str(unaware), "--steps", "3", "--batch", "16", "--no-progress", "--out", str(out)]
    printed = run(words)
    assert "noise-conditional:   loss" in printed
    assert "noise-unconditional:" in printed
    aware = ns.load(out / "model.safetensors")
    assert NOISE_UNCONDITIONAL in aware.model.branches
    x = torch.randn(2, 1, 28, 28)
    guided = ns.Guided(aware.model, ns.noise_awareness(1.0))
    assert bool(torch.isfinite(guided(x, torch.tensor(0.5), torch.tensor([0, 1])).eps).all())


def test_the_objective_of_a_checkpoint_is_the_one_it_was_trained_on():
    """The bundled models' held-out loss is near their training loss, which a wrong sign or time would miss by far."""
    images = ns.data.reference()[:256]
    for name in ("fashion-sit", "fashion-ddpm"):
        checkpoint = ns.load(name)
        loss = held_out_loss(checkpoint.model.network, _objective(checkpoint.model), images, conditional=True)
        assert loss < 1.3 * checkpoint.card.provenance["training loss"]
        assert loss < held_out_loss(checkpoint.model.network, _objective(checkpoint.model), images, conditional=False)


def test_official_sit_turns_time_and_sign(tmp_path):
    """A SiT file counts from noise and predicts data - noise: its objective must say so."""
    bundled = ns.load()
    flipped = {
        k: -v if k.startswith("final_layer.linear.") else v for k, v in bundled.model.network.state_dict().items()
    }
    card = Card.from_dict({"family": "sit", "heads": 4, "time": {"zero": "noise", "scale": -1000.0, "offset": 1000.0}})
    path = save(tmp_path / "official", flipped, card)
    images = ns.data.reference()[:64]
    ours, theirs = (
        held_out_loss(c.model.network, _objective(c.model), images, conditional=True) for c in (bundled, ns.load(path))
    )
    assert theirs == pytest.approx(ours, rel=1e-4)


def test_finetuning_asks_for_images_of_its_size(unaware, tmp_path):
    images = ns.data.Images(torch.zeros(20, 1, 14, 14, dtype=torch.uint8), torch.zeros(20, dtype=torch.long))
    with pytest.raises(ValueError, match="of its own size"):
        finetune(ns.load(unaware), images, images, TrainingConfig(steps=1), tmp_path / "run")


def test_train_estimator_writes_a_network_that_loads(tmp_path):
    data, out = tmp_path / "data.npz", tmp_path / "level.safetensors"
    np.savez(data, images=ns.data.reference().pixels[:64].numpy())
    run(["train-estimator", "--data", str(data), "--steps", "3", "--batch", "8", "--no-progress", "--out", str(out)])
    network = ns.estimators.Network.load(out)
    assert network(torch.zeros(1, 1, 28, 28)).mean.shape == (1,)


def test_evaluate_prints_a_row_a_metric(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, arr_0=ns.data.reference().pixels[:200].permute(0, 2, 3, 1).numpy())
    printed = CliRunner().invoke(main, ["evaluate", str(path), "--no-progress"]).stdout
    assert [line.split()[0] for line in printed.splitlines()[1:]] == [
        *("FD-fashion", "KD-fashion", "precision", "recall", "density", "coverage", "IS-fashion")
    ]
    words = ["evaluate", str(path), "--extractor"]
    result = CliRunner().invoke(main, [*words, "inception"])
    assert result.exit_code == 2
    assert "needs --reference" in result.output
    result = CliRunner().invoke(main, [*words, "other.pt", "--reference", str(path)])
    assert result.exit_code == 1
    assert "TorchScript" in result.output
    if importlib.util.find_spec("torch_fidelity") is None:
        result = CliRunner().invoke(main, [*words, "inception", "--reference", str(path)])
        assert result.exit_code == 1
        assert "noiseshift[fid]" in result.output


def test_saved_cards_come_back(tmp_path):
    card = ns.load().card
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    path = save(tmp_path / "b", {"x": torch.ones(2)}, card)
    assert Card.read(path.with_suffix(".yaml")) == card
    assert load_file(path)["x"].dtype == torch.float16
