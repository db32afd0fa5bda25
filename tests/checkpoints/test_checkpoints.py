"""Checkpoints: official layouts in, models out; nothing in a file is executed; every refusal is one line."""

import argparse
import dataclasses
import math
import os

import pytest
import torch
from safetensors.torch import save_file

import noiseshift as ns
from noiseshift.networks.transformer import Transformer, TransformerConfig, config_from_state

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 2])
CARD = {"family": "sit", "heads": 2}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = Transformer(TransformerConfig(size=8, patch=2, width=16, depth=2, heads=2, classes=3, noise_dropout=False))
    for parameter in net.parameters():
        parameter.data.normal_(std=0.3)
    return net.eval()


def test_sit_counts_from_noise_to_data(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "sit.pt")
    model = ns.load(tmp_path / "sit.pt", card=CARD).model
    t = 0.3
    with torch.no_grad():
        theirs = network(X, torch.full((2,), 1 - t), Y)  # SiT's own time and velocity, data - noise
    torch.testing.assert_close(model(X, torch.tensor(t), Y).velocity, -theirs, rtol=1e-4, atol=1e-5)


def test_repa_counts_as_we_do(network, tmp_path):
    state = {**network.state_dict(), "projectors.0.0.weight": torch.zeros(3, 3)}
    torch.save(
        {"model": {}, "ema": state, "opt": {}, "args": argparse.Namespace(lr=1e-4), "steps": 7}, tmp_path / "r.pt"
    )
    model = ns.load(tmp_path / "r.pt", card={**CARD, "family": "repa"}).model
    with torch.no_grad():
        theirs = network(X, torch.full((2,), 0.3), Y)
    torch.testing.assert_close(model(X, torch.tensor(0.3), Y).velocity, theirs, rtol=1e-4, atol=1e-5)


PATHS = {
    "Linear": (lambda t: (t, 1 - t), lambda t: (1.0, -1.0)),
    "GVP": (
        lambda t: (math.sin(t * math.pi / 2), math.cos(t * math.pi / 2)),
        lambda t: (math.pi / 2 * math.cos(t * math.pi / 2), -math.pi / 2 * math.sin(t * math.pi / 2)),
    ),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kept", [argparse.Namespace, dict])
def test_sit_is_read_by_the_settings_that_its_training_left_in_the_file(network, tmp_path, path, kept):
    """Its own words for the path and the prediction, beside its own sums (transport/path.py of its repository)."""
    args = kept(model="SiT-XL/2", path_type=path, prediction="velocity", image_size=256)
    torch.save({"ema": network.state_dict(), "args": args}, tmp_path / "sit.pt")
    (tmp_path / "sit.yaml").write_text("heads: 2\n")
    model = ns.load(tmp_path / "sit.pt").model
    t = 0.3  # of ours: SiT's is 1 - t
    alpha, sigma = PATHS[path][0](1 - t)
    of_alpha, of_sigma = PATHS[path][1](1 - t)
    with torch.no_grad():
        velocity = network(X, torch.full((2,), 1 - t), Y)
    # x = alpha x0 + sigma eps, and its velocity, solved for eps.
    eps = (alpha * velocity - of_alpha * X) / (alpha * of_sigma - of_alpha * sigma)
    torch.testing.assert_close(model(X, torch.tensor(t), Y).eps, eps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("args", "family", "words"),
    [
        ({"model": "SiT-B/2", "path_type": "VP", "prediction": "score"}, "sit", ("variance-preserving", "score")),
        ({"model": "SiT-B/2", "path_type": "Linear", "prediction": "noise"}, "sit", ("linear", "epsilon")),
        ({"model": "DiT-XL/2", "num_classes": 1000}, "dit", ("discrete", "epsilon")),
    ],
)
def test_settings_say_which_of_the_transformers_it_is(network, tmp_path, args, family, words):
    state = network.state_dict()
    if family == "dit":
        for name in ("weight", "bias"):
            state[f"final_layer.linear.{name}"] = state[f"final_layer.linear.{name}"].repeat_interleave(2, 0)
    torch.save({"ema": state, "args": argparse.Namespace(**args)}, tmp_path / "x.pt")
    (tmp_path / "x.yaml").write_text("heads: 2\n")
    card = ns.load(tmp_path / "x.pt").card
    assert (card.family, card.schedule["kind"], card.prediction) == (family, *words)


def test_dit_is_handed_integer_steps_and_predicts_noise(network, tmp_path):
    state = network.state_dict()
    state["final_layer.linear.weight"] = state["final_layer.linear.weight"].repeat_interleave(2, 0)
    state["final_layer.linear.bias"] = state["final_layer.linear.bias"].repeat_interleave(2, 0)
    torch.save({"ema": state, "model": {k: 0 * v for k, v in state.items()}}, tmp_path / "dit.pt")
    checkpoint = ns.load(tmp_path / "dit.pt", card={**CARD, "family": "dit"})
    t = checkpoint.model.snap(torch.tensor(0.37))
    with torch.no_grad():
        theirs = network(X, torch.full((2,), round(float(t) * 1000) - 1.0), Y)
    torch.testing.assert_close(checkpoint.model(X, t, Y).eps, theirs, rtol=1e-4, atol=1e-5)
    assert checkpoint.shape == (1, 8, 8)


def test_shapes_give_the_network(network):
    read = config_from_state(network.state_dict(), heads=2)
    assert read == network.config


def test_our_transformer_is_diffusers_dit(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    ours = Transformer(
        TransformerConfig(size=8, channels=4, patch=2, width=32, depth=2, heads=2, classes=5, out_channels=8)
    )
    for parameter in ours.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=5,
    )
    state, new = ours.state_dict(), theirs.state_dict()
    new["pos_embed.proj.weight"], new["pos_embed.proj.bias"] = (
        state["x_embedder.proj.weight"],
        state["x_embedder.proj.bias"],
    )
    for i in range(2):
        mine, block = f"blocks.{i}.", f"transformer_blocks.{i}."
        for suffix in ("weight", "bias"):
            for part, to in zip(state[f"{mine}attn.qkv.{suffix}"].chunk(3), ("to_q", "to_k", "to_v"), strict=True):
                new[f"{block}attn1.{to}.{suffix}"] = part
            for a, b in (
                ("attn.proj", "attn1.to_out.0"),
                ("mlp.fc1", "ff.net.0.proj"),
                ("mlp.fc2", "ff.net.2"),
                ("adaLN_modulation.1", "norm1.linear"),
            ):
                new[f"{block}{b}.{suffix}"] = state[f"{mine}{a}.{suffix}"]
            for a, b in (("mlp.0", "linear_1"), ("mlp.2", "linear_2")):
                new[f"{block}norm1.emb.timestep_embedder.{b}.{suffix}"] = state[f"t_embedder.{a}.{suffix}"]
        new[f"{block}norm1.emb.class_embedder.embedding_table.weight"] = state["y_embedder.embedding_table.weight"]
    for a, b in (("adaLN_modulation.1", "proj_out_1"), ("linear", "proj_out_2")):
        for suffix in ("weight", "bias"):
            new[f"{b}.{suffix}"] = state[f"final_layer.{a}.{suffix}"]
    theirs.load_state_dict(new)
    for block in theirs.transformer_blocks:
        # diffusers spaces the time's frequencies over 127 gaps, DiT's own code over 128.
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    x, t, y = torch.randn(3, 4, 8, 8), torch.tensor([3, 500, 999]), torch.tensor([0, 4, 5])
    with torch.no_grad():
        expected = theirs.eval()(x, timestep=t, class_labels=y).sample
        torch.testing.assert_close(ours.eval()(x, t.float(), y), expected, rtol=1e-4, atol=1e-5)


class Hostile:
    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "call", [(os.system, "touch owned"), (eval, "open('owned', 'w')"), (exec, "open('owned', 'w')")]
)
def test_a_hostile_pickle_is_refused_unexecuted(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"ema": {"x_embedder.proj.weight": Hostile(*call)}}, "evil.pt")
    with pytest.raises(ns.CheckpointError) as refusal:
        ns.load("evil.pt", family="sit")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_are_one_line(network, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    (torch.save if suffix == ".pt" else save_file)(network.state_dict(), path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:10], b"", b"\x80" * 500):
        path.write_bytes(damaged)
        with pytest.raises(ns.CheckpointError) as refusal:
            ns.load(path, card=CARD)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("state", "options", "says"),
    [
        ({"weight": torch.zeros(2)}, {"family": "sit"}, "no network known"),
        (None, {}, "family"),
        (None, {"family": "gan"}, "choose from"),
        (None, {"card": {"family": "sit", "head": 2}}, "unknown key"),
        (None, {"card": {"family": "sit"}}, "heads"),
    ],
)
def test_what_cannot_be_used_is_named(network, tmp_path, state, options, says):
    save_file(network.state_dict() if state is None else state, tmp_path / "m.safetensors")
    with pytest.raises(ns.CheckpointError, match=says):
        ns.load(tmp_path / "m.safetensors", **options)


def test_the_bundled_checkpoints_come_through_the_same_door():
    for name in ("fashion-sit", "fashion-ddpm"):
        checkpoint = ns.load(name)
        assert checkpoint.shape == (1, 28, 28)
        assert checkpoint.estimator.exists()
        assert len(checkpoint.hash) == 64
        assert len(checkpoint.model.branches) == 4


def test_a_card_is_written_once_and_found_again(network, tmp_path):
    from click.testing import CliRunner
    from noiseshift.cli import main

    path, card = tmp_path / "theirs.pt", tmp_path / "given.yaml"
    torch.save(network.state_dict(), path)
    card.write_text("family: sit\nheads: 2\n")
    words = ["info", str(path), "--card", str(card), "--write-card"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert ns.load(path).card == ns.load(path, card=card).card
    second = CliRunner().invoke(main, words)
    assert second.exit_code == 1
    assert "already" in second.output
    assert CliRunner().invoke(main, ["info", "--write-card"]).exit_code == 1


def test_a_checkpoint_loads_its_own_level_estimator():
    bundled = ns.load()
    assert bundled.level_estimator()(torch.zeros(1, 1, 28, 28)).mean.shape == (1,)
    with pytest.raises(ValueError, match="names no level estimator: train one"):
        dataclasses.replace(bundled, estimator=None).level_estimator()


def test_pixels_are_states_of_a_model_that_works_on_pixels():
    images = ns.data.reference()[:4]
    assert ns.load().encode(images) is images
