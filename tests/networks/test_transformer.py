"""The transformer, its shape read off a file, and its adapter: what the tensors say and what they must not be believed."""

import pytest
import torch
import yaml
from safetensors.torch import save_file

import noiseshift as ns
from noiseshift.diffusion.models import FULL, Branch
from noiseshift.networks.transformer import Transformer, TransformerConfig, config_from_state

SMALL = TransformerConfig(size=8, patch=2, width=16, depth=2, heads=2, classes=3, noise_dropout=False)
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
T, Y = torch.tensor(0.3), torch.tensor([0, 2])


def network(**changes):
    torch.manual_seed(0)
    net = Transformer(TransformerConfig(**{**SMALL.as_dict(), **changes}))
    for parameter in net.parameters():
        parameter.data.normal_(std=0.3)
    return net.eval()


def saved(folder, state, **card):
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "m.safetensors")
    return ns.load(folder / "m.safetensors", card={"family": "sit", "heads": 2, **card})


def test_an_untrained_network_says_nothing():
    """adaLN-Zero: the output is exactly 0 before the first step of training."""
    torch.manual_seed(0)
    assert Transformer(SMALL)(X, torch.zeros(2), Y).eq(0).all()


def test_the_first_half_of_the_channels_is_the_prediction(tmp_path):
    net = network(out_channels=2)
    model = saved(tmp_path, net.state_dict(), family="dit").model
    t = torch.tensor(0.37, dtype=torch.float64)
    with torch.no_grad():
        mean, variance = net(X, torch.full((2,), 369.0), Y).split(1, dim=1)
    assert not torch.allclose(mean, variance)  # or the wrong half would go unseen
    torch.testing.assert_close(model(X, t, Y).eps, mean, rtol=1e-5, atol=1e-6)


def test_without_a_null_class_the_card_says_how_many_classes(tmp_path):
    model = saved(tmp_path, network(class_dropout=False).state_dict(), classes=3).model
    assert model.branches == frozenset({FULL})
    with pytest.raises(ValueError, match="needs a class: pass cond"):
        model(X, T)
    with pytest.raises(ValueError, match=r"classes must lie in 0 … 2, got 0 … 3"):
        model(X, T, torch.tensor([0, 3]))


def test_no_class_given_is_the_null_class(tmp_path):
    model = saved(tmp_path, network().state_dict()).model
    assert Branch(condition=False) in model.branches
    assert torch.equal(model(X, T).x0, model(X, T, torch.tensor([3, 3])).x0)


@pytest.mark.parametrize(
    ("x", "cond", "says"),
    [
        (torch.zeros(2, 1, 4, 4), Y, r"works on \(B, 1, 8, 8\), got \(2, 1, 4, 4\)"),
        (X, torch.tensor([0]), r"cond must be \(2,\) integers"),
        (X, torch.tensor([0.0, 1.0]), r"cond must be \(2,\) integers"),
        (X, torch.tensor([-1, 0]), "classes must lie in"),
    ],
)
def test_wrong_batches_are_named(tmp_path, x, cond, says):
    with pytest.raises(ValueError, match=says):
        saved(tmp_path, network().state_dict()).model(x, T, cond)


def test_precision_is_the_copys_own(tmp_path):
    checkpoint = saved(tmp_path, network().state_dict())
    half = checkpoint.to("cpu", "bf16").model(X, T, Y).x0
    whole = checkpoint.model(X, T, Y).x0
    assert half.dtype == torch.float32
    assert not torch.equal(half, whole)
    # Eight bits of mantissa through a network of random weights: single pixels may be off by more than the whole.
    assert float((half - whole).norm() / whole.norm()) < 0.1
    assert torch.equal(checkpoint.to("cpu").model(X, T, Y).x0, whole)
    with pytest.raises(ValueError, match="fp32, bf16 or fp16"):
        checkpoint.to("cpu", "fp8")


def test_a_stray_key_asks_for_no_more_blocks():
    state = {**network().state_dict(), "blocks.999999999.stray": torch.zeros(1)}
    assert config_from_state(state, heads=2).depth == 3


@pytest.mark.parametrize(
    ("change", "card", "says"),
    [
        ({"blocks.999999999.stray": torch.zeros(1)}, {}, "do not fit"),
        ({"pos_embed": torch.zeros(16)}, {}, "other shapes"),
        ({}, {"heads": 3}, "cannot be split among 3 heads"),
        ({}, {"classes": 7}, "4 class embeddings, the card 7"),
        ({}, {"heads": "two"}, "card: heads must be a whole number"),
        ({}, {"time": {"scale": "x"}}, "time.scale must be a number"),
        ({}, {"estimator": "../e.safetensors"}, "name of a file beside the card"),
        ({}, {"family": "vit"}, "'vit' is unknown: choose from"),
        ({}, {"schedule": {"kind": "variance-exploding", "sigma_min": 2.0, "sigma_max": 1.0}}, "noise must grow"),
        ({"projectors.0.0.weight": torch.zeros(1)}, {}, "a REPA transformer, no sit file"),
    ],
)
def test_files_and_cards_that_do_not_fit_are_one_line(tmp_path, change, card, says):
    with pytest.raises(ns.CheckpointError, match=says) as caught:
        saved(tmp_path, {**network().state_dict(), **change}, **card)
    assert "\n" not in str(caught.value)


def test_a_card_beside_the_file_is_found_and_starts_from_its_familys_convention(tmp_path):
    saved(tmp_path, network().state_dict())
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"family": "dit", "heads": 2}))
    checkpoint = ns.load(tmp_path / "m.safetensors")
    assert checkpoint.card.prediction == "epsilon"
    assert isinstance(checkpoint.model.schedule, ns.Discrete)
    with pytest.raises(ns.CheckpointError, match="the card says dit, not sit"):
        ns.load(tmp_path / "m.safetensors", family="sit")
