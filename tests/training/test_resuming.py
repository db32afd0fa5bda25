"""A training goes on only as itself: anything else in its folder is refused, or moved aside by --restart."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.data import Images
from noiseshift.diffusion.schedules import Cosine, Linear
from noiseshift.networks.transformer import Transformer, TransformerConfig
from noiseshift.training.finetune import finetune
from noiseshift.training.level_estimator import EstimatorTraining, train_estimator
from noiseshift.training.train import Objective, TrainingConfig, train

IMAGES = ns.data.reference()[:32]
CONFIG = TrainingConfig(steps=3, batch=4, snapshots=())
LEVEL = EstimatorTraining(steps=3, batch=4, width=4)


def time(t):
    return 1000 * t


def network(seed=0, **settings):
    torch.manual_seed(seed)
    shape = {"patch": 7, "width": 32, "depth": 1, "heads": 2}
    return Transformer(TransformerConfig(**(shape | settings), class_dropout=True, noise_dropout=True))


def trained(folder, net=None, objective=None, images=IMAGES, config=CONFIG, **rest):
    return train(net or network(), objective or Objective(Linear(), "velocity", time), images, config, folder, **rest)


def stopped(folder, train, at=1, **rest):
    def stop(step, loss):
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, every=1, report=stop, **rest)
    assert (folder / "state.pt").exists()


OTHERS = {
    **{
        f.name: {"config": dataclasses.replace(CONFIG, **{f.name: value})}
        for f, value in zip(
            dataclasses.fields(TrainingConfig),
            (4, 5, 1e-4, 0.5, 0.5, 0.5, 2.0, 0.5, 0.5, 0.5, "bf16", (0.5,), 7),
            strict=True,
        )
    },
    "images": {"images": ns.data.reference()[32:64]},
    "labels": {"images": Images(IMAGES.pixels, IMAGES.labels.flip(0))},
    "first weights": {"net": network(1)},
    "depth": {"net": network(depth=2)},
    "heads": {"net": network(heads=4)},
    "predicts": {"objective": Objective(Linear(), "epsilon", time)},
    "schedule": {"objective": Objective(Cosine(), "velocity", time)},
    "sign": {"objective": Objective(Linear(), "velocity", time, -1.0)},
    "time": {"objective": Objective(Linear(), "velocity", lambda t: 999 * t)},
    "trained part": {"net": network().requires_grad_(False)},
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_training_is_refused(other, tmp_path):
    if other == "trained part":
        OTHERS[other]["net"].t_embedder.null.requires_grad_(True)
    stopped(tmp_path, trained)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(ValueError, match=r"holds a training with other settings .* --restart") as error:
        trained(tmp_path, **OTHERS[other])
    assert "\n" not in str(error.value)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_the_same_training_goes_on_and_ends_where_it_would_have(tmp_path):
    whole = trained(tmp_path / "whole")
    stopped(tmp_path / "parts", trained)
    steps = []
    resumed = trained(tmp_path / "parts", report=lambda step, loss: steps.append(step))
    assert steps == [1, 2]
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_finished_training_takes_more_steps_but_no_fewer(tmp_path):
    trained(tmp_path)
    steps = []
    trained(tmp_path, config=dataclasses.replace(CONFIG, steps=5), report=lambda step, loss: steps.append(step))
    assert steps == [3, 4]
    with pytest.raises(ValueError, match="steps was 5, is 3"):
        trained(tmp_path)
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        trained(tmp_path, config=dataclasses.replace(CONFIG, steps=6, seed=1))


def test_an_unfinished_training_is_finished_first(tmp_path):
    stopped(tmp_path, trained)
    with pytest.raises(ValueError, match="finish its 3 steps first"):
        trained(tmp_path, config=dataclasses.replace(CONFIG, steps=5))


def test_restart_moves_the_old_training_aside(tmp_path):
    stopped(tmp_path, trained)
    (tmp_path / "notes.txt").write_text("mine")
    old = (tmp_path / "state.pt").read_bytes()
    steps, other = [], dataclasses.replace(CONFIG, seed=1, snapshots=(0.4,))
    trained(tmp_path, config=other, restart=True, report=lambda step, loss: steps.append(step))
    assert steps == [0, 1, 2]
    assert (tmp_path / "previous-1" / "state.pt").read_bytes() == old
    trained(tmp_path, restart=True)
    assert {path.name for path in (tmp_path / "previous-2").iterdir()} == {"state.pt", "log.jsonl", "ema-1.pt"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "previous-1",
        "previous-2",
        "state.pt",
        "log.jsonl",
        "noiseshift.json",
        "notes.txt",
    }


def test_a_state_that_does_not_say_what_it_is_is_refused(tmp_path):
    stopped(tmp_path, trained)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["about"]
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"does not say what it was made of: .*--restart"):
        trained(tmp_path)


def level(folder, images=IMAGES, schedule=None, config=LEVEL, **rest):
    return train_estimator(images, schedule or Linear(), config, folder=folder, **rest)


@pytest.mark.parametrize(
    "other",
    [
        *({f.name: v} for f, v in zip(dataclasses.fields(LEVEL), (4, 5, 1e-4, 8, "bf16", 7), strict=True)),
        {"images": ns.data.reference()[32:64]},
        {"schedule": Cosine()},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_level_networks_training_is_refused(other, tmp_path):
    stopped(tmp_path, level)
    settings = {name: value for name, value in other.items() if hasattr(LEVEL, name)}
    rest = {name: value for name, value in other.items() if name not in settings}
    with pytest.raises(ValueError, match=r"holds a training with other settings .* --restart"):
        level(tmp_path, config=dataclasses.replace(LEVEL, **settings), **rest)
    resumed = level(tmp_path, config=dataclasses.replace(LEVEL, **settings), restart=True, **rest)
    fresh = level(tmp_path / "fresh", config=dataclasses.replace(LEVEL, **settings), **rest)
    assert all(torch.equal(v, fresh.network.state_dict()[k]) for k, v in resumed.network.state_dict().items())


def test_a_finished_level_network_takes_more_steps(tmp_path):
    first = level(tmp_path)
    steps = []
    more = level(tmp_path, config=dataclasses.replace(LEVEL, steps=5), report=lambda step, loss: steps.append(step))
    assert steps == [3, 4]
    assert not all(torch.equal(v, first.network.state_dict()[k]) for k, v in more.network.state_dict().items())


@pytest.mark.parametrize("steps", [2, 6, 21, 40, 4000])
def test_the_rate_is_that_of_one_cycle(steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    config = EstimatorTraining(steps=steps)
    for step in range(steps):
        assert config.rate(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step + 1 < steps:
            theirs.step()


def test_every_number_of_steps_has_a_rate():
    for steps in range(1, 200):
        rates = [EstimatorTraining(steps=steps).rate(step) for step in range(steps)]
        assert all(math.isfinite(rate) and 0 < rate <= 3e-3 for rate in rates)


def shell(*words):
    return CliRunner().invoke(main, [*map(str, words), "--no-progress"])


def test_train_from_the_shell(tmp_path):
    words = [
        "train",
        *"--width 32 --depth 1 --heads 2 --patch 7 --steps 2 --batch 4".split(),
        "--out",
        tmp_path / "run",
    ]
    assert shell(*words).exit_code == 0
    made = (tmp_path / "run" / "model.safetensors").read_bytes()
    for change in ("--seed 1", "--family dit", "--rate 0.0001", "--width 48", "--ema 0.5", "--batch 3", "--depth 2"):
        refused = shell(*words, *change.split())
        assert refused.exit_code == 1
        assert "--restart" in refused.output
        assert refused.output.splitlines()[-1].startswith("error:")  # one line
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == made


def test_finetune_goes_on_only_with_its_own_checkpoint_and_part(tmp_path):
    bundled, config = ns.load(), TrainingConfig(steps=1, batch=4, snapshots=())
    finetune(bundled, IMAGES, IMAGES[:4], config, tmp_path)
    other = ns.load()
    with torch.no_grad():
        next(other.model.network.parameters()).add_(0.01)
    turned = dataclasses.replace(config, noise_dropout=0.5)
    for change in ((other, config, "all"), (bundled, config, "null"), (bundled, turned, "all")):
        checkpoint, settings, part = change
        with pytest.raises(ValueError, match=r"other settings .* --restart"):
            finetune(checkpoint, IMAGES, IMAGES[:4], settings, tmp_path, part=part)
    finetune(other, IMAGES, IMAGES[:4], config, tmp_path, restart=True)
    assert (tmp_path / "previous-1" / "state.pt").exists()


def test_train_estimator_takes_any_number_of_steps(tmp_path):
    np.savez(tmp_path / "data.npz", images=IMAGES.pixels.numpy())
    words = ["train-estimator", "--data", tmp_path / "data.npz", *"--steps 20 --batch 4".split()]
    assert shell(*words, "--out", tmp_path / "level.safetensors").exit_code == 0


def test_a_card_that_was_corrected_by_hand_stays_and_restart_moves_it_aside(tmp_path):
    words = [
        "train",
        *"--width 16 --depth 1 --heads 2 --patch 14 --steps 1 --batch 4".split(),
        "--out",
        tmp_path / "run",
    ]
    assert shell(*words).exit_code == 0
    card = tmp_path / "run" / "model.yaml"
    written = card.read_text()
    card.write_text(written + "# corrected by hand\n")
    again = shell(*words)
    assert again.exit_code == 0
    assert "it stays as it is" in again.stderr
    assert card.read_text() == written + "# corrected by hand\n"
    assert shell(*words, "--restart").exit_code == 0
    assert card.read_text() == written
    assert "corrected by hand" in (tmp_path / "run" / "previous-1" / "model.yaml").read_text()


HAND_MADE = {
    "no averages": {"ema": {}},
    "averages of numbers": {"ema": 7},
    "averages of another shape": {"ema": lambda old: {name: part[..., :1] for name, part in old.items()}},
    "averages of another type": {"ema": lambda old: {name: part.double() for name, part in old.items()}},
    "an average less": {"ema": lambda old: dict(list(old.items())[1:])},
    "an average more": {"ema": lambda old: old | {"another": torch.zeros(2)}},
    "no network": {"network": {}},
    "no optimizers": {"optimizers": []},
    "optimizers of nothing": {"optimizers": [{}]},
    "a step before the first": {"step": -1},
    "a step behind the last": {"step": 4},
    "a step far behind": {"step": 10**18},
    "settings of nothing": {"about": "{}"},
    "settings that are none": {"about": "nothing"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    trained(folder)
    return folder


def exchanged(finished, folder, **changes):
    """A finished training, whose state has other values."""
    shutil.copytree(finished, folder)
    state = torch.load(folder / "state.pt", weights_only=True)
    state |= {key: value(state[key]) if callable(value) else value for key, value in changes.items()}
    torch.save(state, folder / "state.pt")
    return folder


@pytest.mark.parametrize("change", HAND_MADE)
@pytest.mark.parametrize("steps", [3, 5])
def test_a_state_made_by_hand_gives_no_weights(change, steps, finished, tmp_path):
    """Neither another network's, nor those of a training that was never taken to its end."""
    folder = exchanged(finished, tmp_path / "it", **HAND_MADE[change])
    with pytest.raises(ValueError, match="--restart") as error:
        trained(folder, config=dataclasses.replace(CONFIG, steps=steps))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("log", [[1, 2], ["step"], [{"step": 1}], [{"step": "x", "loss": 1.0}], [None], 7])
def test_a_log_that_is_none_stops_no_training(log, finished, tmp_path):
    folder = exchanged(finished, tmp_path / "it", log=log)
    state = trained(folder, config=dataclasses.replace(CONFIG, steps=4))
    assert all(torch.isfinite(part).all() for part in state.values())
