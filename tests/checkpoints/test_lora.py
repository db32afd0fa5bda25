"""LoRA files on a tiny Stable Diffusion folder, in the layouts of kohya's trainer and of peft."""

import json
import shutil

import diffusers
import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from safetensors.torch import save_file

import noiseshift as ns
from noiseshift.checkpoints.diffusers.conditions import Conditions
from noiseshift.studies.protocol import fingerprint

TEXTS = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
RANK, ALPHA = 2, 1.0
LAYERS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.resnets.0.conv1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sd") / "pipe"
    unet = tiny.shaken(tiny.text_unet())
    parts = {
        "unet": unet,
        "vae": tiny.autoencoder(scaling_factor=0.18215),
        "scheduler": diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
    }
    for name, part in parts.items():
        part.save_pretrained(path / name)
    index = {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))
    return unet, path


def factors(unet):
    """Low-rank factors (down, up) of LAYERS; of a convolution down has its kernel."""
    generator = torch.Generator().manual_seed(1)
    for name in LAYERS:
        weight = unet.get_submodule(name).weight
        down = torch.randn(RANK, *weight.shape[1:], generator=generator)
        up = torch.randn(len(weight), RANK, *[1] * (weight.ndim - 2), generator=generator)
        yield name, down, up


def kohya(unet):
    state = {}
    for name, down, up in factors(unet):
        key = "lora_unet_" + name.replace(".", "_")
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return state, None


def peft(unet, prefix="unet."):
    state = {}
    for name, down, up in factors(unet):
        state |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
    told = {f"{prefix}{key}": value for key, value in {"r": RANK, "lora_alpha": ALPHA}.items()}
    return state, {"format": "pt", "lora_adapter_metadata": json.dumps(told)}


def stabilised(unet):
    state, _ = peft(unet)
    told = {"unet.r": RANK, "unet.lora_alpha": ALPHA / RANK**0.5, "unet.use_rslora": True}
    return state, {"lora_adapter_metadata": json.dumps(told)}


def bare(unet):
    return peft(unet, prefix="")


def wrapped(unet):
    return peft(unet, prefix="base_model.model.unet.")[0], peft(unet)[1]


def former(unet):
    """As diffusers wrote them before peft; these have no alpha."""
    state = {}
    for name, down, up in factors(unet):
        key = f"unet.{name}.lora" if "attn" not in name else ""
        if not key:
            block, _, layer = name.partition(".to_")
            key = f"unet.{block}.processor.to_{layer.removesuffix('.0')}_lora"
        state |= {f"{key}.down.weight": down * (ALPHA / RANK), f"{key}.up.weight": up}
    return state, None


def load(path, **given):
    return ns.load(path, embeddings=Conditions(TEXTS, None, 2), size=2 * tiny.SIDE, **given)


def merged(unet, scale):
    """The network with all factors added by hand."""
    again = tiny.shaken(tiny.text_unet())
    again.load_state_dict(unet.state_dict())
    with torch.no_grad():
        for name, down, up in factors(unet):
            weight = again.get_submodule(name).weight
            change = torch.einsum("or,r...->o...", up.flatten(1), down) * ALPHA / RANK
            weight += scale * change
    return again


X = torch.randn(2, 4, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(5))


def answer(unet):
    with torch.no_grad():
        return unet(X, 499, encoder_hidden_states=TEXTS).sample


def predicted(checkpoint):
    return checkpoint.model(X, torch.tensor(0.5, dtype=torch.float64), torch.arange(2)).eps


@pytest.mark.parametrize(
    ("layout", "scale"), [(kohya, 0.5), (peft, 1.0), (stabilised, 1.0), (bare, -0.5), (wrapped, 1.0), (former, 1.0)]
)
def test_a_lora_changes_the_network_as_its_layout_says(folder, tmp_path, layout, scale):
    unet, path = folder
    state, words = layout(unet)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "style.safetensors", words)
    word = f"{tmp_path / 'style.safetensors'}" + (f":{scale}" if scale != 1 else "")
    checkpoint = load(path, lora=word)
    torch.testing.assert_close(predicted(checkpoint), answer(merged(unet, scale)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(predicted(checkpoint), answer(unet), atol=1e-2)
    assert checkpoint.name == ("pipe+style" if scale == 1 else f"pipe+style:{scale:g}")


@pytest.fixture
def style(folder, tmp_path):
    state, _ = kohya(folder[0])
    save_file(state, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


def test_runs_of_another_scale_are_other_runs(folder, style):
    protocol = ns.Protocol("ddim:4", samples=4)
    found = [fingerprint(load(folder[1], lora=lora), protocol) for lora in ([], [style], [f"{style}:0.5"])]
    assert len({json.dumps(each["checkpoint"], sort_keys=True) for each in found}) == 3
    two = load(folder[1], lora=[f"{style}:0.5", f"{style}:0.5"])
    torch.testing.assert_close(predicted(two), answer(merged(folder[0], 1.0)), rtol=1e-4, atol=1e-4)
    said = two.card.provenance["lora"]
    assert [row["scale"] for row in said] == [0.5, 0.5]
    assert len(said[0]["sha256"]) == 64


def test_the_command_line_takes_them(folder, style, tmp_path):
    Conditions(TEXTS, None, 2).save(tmp_path / "texts.safetensors")
    words = ["info", folder[1], "--embeddings", tmp_path / "texts.safetensors", "--size", 16, "--lora", f"{style}:0.8"]
    result = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output.splitlines()[-1])
    assert found["name"] == "pipe+style:0.8"
    assert found["card"]["provenance"]["lora"][0]["scale"] == 0.8


def other_network(state):
    return {key.replace("down_blocks_0", "down_blocks_1"): value for key, value in state.items()}


def other_width(state):
    return {k: v[:, :3].contiguous() if "lora_down" in k else v for k, v in state.items()}


def half(state):
    return {key: value for key, value in state.items() if "lora_up" not in key}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_network, "is a LoRA of another network"),
        (other_width, "is a LoRA of another network"),
        (half, "diffusers does not know the names"),
        (lambda state: {"conv_in.weight": torch.zeros(2, 2)}, "holds no LoRA: its first key is conv_in.weight"),
        (lambda state: {key.replace("lora_up", "hada_w1_a"): v for key, v in state.items()}, "is a LoHa"),
        (lambda state: state | {"lora_unet_x.dora_scale": torch.zeros(2)}, "is a DoRA"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, tmp_path, change, says):
    save_file(change(kohya(folder[0])[0]), tmp_path / "style.safetensors")
    with pytest.raises(ns.CheckpointError, match=says) as caught:
        load(folder[1], lora=tmp_path / "style.safetensors")
    assert "\n" not in str(caught.value)


def test_a_text_encoders_part_is_not_left_out_silently(folder, tmp_path):
    state, _ = kohya(folder[0])
    key = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    state |= {f"{key}.lora_down.weight": torch.zeros(2, 16), f"{key}.lora_up.weight": torch.zeros(16, 2)}
    save_file(state, tmp_path / "style.safetensors")
    assert load(folder[1], lora=tmp_path / "style.safetensors").name == "pipe+style"
    with pytest.raises(ns.CheckpointError, match="changes the text encoder too"):
        ns.load(folder[1], prompts=["a cat"], lora=tmp_path / "style.safetensors")


def test_other_checkpoints_take_none(folder, style, tmp_path):
    with pytest.raises(ns.CheckpointError, match="for diffusers folders"):
        ns.load("fashion-sit", lora=style)
    with pytest.raises(ns.CheckpointError, match="at most 100"):
        load(folder[1], lora=f"{style}:1e9")
    with pytest.raises(ns.CheckpointError, match=r"no \.safetensors file"):
        load(folder[1], lora=tmp_path / "style.pt")
    copied = shutil.copytree(folder[1], tmp_path / "copy")
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps(index | {"_class_name": "DDPMPipeline"}))
    with pytest.raises(ns.CheckpointError):
        load(copied, lora=style)
