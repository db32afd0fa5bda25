"""Single files of Stable Diffusion's original layout, made here from small diffusers networks by writing its keys."""

import re

import diffusers
import pytest
import torch
from safetensors.torch import save_file

import noiseshift as ns
from noiseshift.checkpoints.diffusers.conditions import Conditions

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
SIDE = 8


def unet(**config):
    torch.manual_seed(0)
    given = {"cross_attention_dim": 24, "attention_head_dim": 8, **config}
    net = diffusers.UNet2DConditionModel(
        sample_size=SIDE,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **given,
    )
    return net.eval()


def autoencoder(scale=0.18215):
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32),
        scaling_factor=scale,
    ).eval()


def original_unet(net):
    """The UNet's tensors under the original names; one layer a block."""
    found = {}
    for key, value in net.state_dict().items():
        for ours, theirs in ENDS.items():
            if key.startswith(f"{ours}."):
                found[key.replace(ours, theirs)] = value
        block = re.match(
            r"(down_blocks|up_blocks|mid_block)\.?(\d*)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key
        )
        if block is None:
            continue
        kind, level, part, layer, rest = block.groups()
        if part == "resnets":
            name, _, last = rest.partition(".")
            rest = f"{RESNET[name]}.{last}"
        place = 2 * int(level or 0) + int(layer)
        if kind == "mid_block":
            where = f"middle_block.{1 if part == 'attentions' else 2 * int(layer)}"
        elif part == "downsamplers":
            where, rest = f"input_blocks.{2 * int(level) + 2}.0", rest.replace("conv", "op")
        elif part == "upsamplers":
            where = f"output_blocks.{2 * int(level) + 1}.1"
        elif kind == "down_blocks":
            where = f"input_blocks.{1 + place}.{int(part == 'attentions')}"
        else:
            where = f"output_blocks.{place}.{int(part == 'attentions')}"
        found[f"{where}.{rest}"] = value
    assert len(found) == len(net.state_dict())
    return found


def original_coder(net):
    found = {}
    for key, value in net.state_dict().items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample.", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"up.{1 - int(m[1])}.upsample.", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = (
            name.replace("mid_block.attentions.0", "mid.attn_1")
            .replace("group_norm", "norm")
            .replace("to_out.0", "proj_out")
        )
        if ".attn_1.to_" in name or "proj_out" in name:
            name = name.replace(".to_", ".")
            value = value[:, :, None, None] if value.ndim == 2 else value
        found[name] = value
    return found


def whole(net, coder=None, **more):
    tensors = {f"model.diffusion_model.{key}": value for key, value in original_unet(net).items()}
    if coder is not None:
        tensors |= {f"first_stage_model.{key}": value for key, value in original_coder(coder).items()}
    tensors |= {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.zeros(1, 4)}
    return {key: value.contiguous().clone() for key, value in {**tensors, **more}.items()}


X = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
T = torch.tensor(0.5, dtype=torch.float64)


def texts(width, pooled=None):
    generator = torch.Generator().manual_seed(3)
    return Conditions(torch.randn(2, 4, width, generator=generator), pooled, 2)


def load(path, width=24, *, coded=False, **given):
    return ns.load(path, embeddings=texts(width), size=2 * SIDE if coded else SIDE, **given)


def answer(net, width=24):
    with torch.no_grad():
        return net(X, 499, encoder_hidden_states=texts(width).hidden).sample


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A file as those of 1.x."""
    net, coder = unet(), autoencoder()
    path = tmp_path_factory.mktemp("single") / "mix.safetensors"
    save_file(whole(net, coder), path)
    return net, coder, path


def test_network_autoencoder_and_schedule(first):
    net, coder, path = first
    checkpoint = load(path, coded=True)
    torch.testing.assert_close(checkpoint.model(X, T, torch.arange(2)).eps, answer(net), rtol=1e-4, atol=1e-5)
    pictures = torch.rand(2, 3, 2 * SIDE, 2 * SIDE) * 2 - 1
    with torch.no_grad():
        expected = 0.18215 * coder.encode(pictures).latent_dist.mode()
    torch.testing.assert_close(checkpoint.autoencoder.encode(pictures), expected, rtol=1e-4, atol=1e-5)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2
    assert float(checkpoint.model.schedule(T).alpha ** 2) == pytest.approx(float((1 - betas).cumprod(0)[499]), rel=1e-5)
    assert (checkpoint.name, checkpoint.classes) == ("mix", 2)
    assert "Stable Diffusion" in checkpoint.recognised


def test_its_own_scheduler_draws(first):
    checkpoint = load(first[2], coded=True)
    times = checkpoint.sampler(4).conditioning_times(checkpoint.model.schedule)
    assert (times * 1000).round().int().tolist() == [752, 502, 252, 2]  # DDIM, leading, from step 751


def test_averages_are_preferred(first, tmp_path):
    net, _, _ = first
    averages = {
        "model_ema." + f"diffusion_model.{key}".replace(".", ""): value + 0.01
        for key, value in original_unet(net).items()
    }
    torch.save({"state_dict": whole(net, **averages), "global_step": 3}, tmp_path / "mix.ckpt")
    moved = unet()
    moved.load_state_dict({key: value + 0.01 for key, value in net.state_dict().items()})
    checkpoint = load(tmp_path / "mix.ckpt")
    torch.testing.assert_close(checkpoint.model(X, T, torch.arange(2)).eps, answer(moved), rtol=1e-4, atol=1e-5)


def test_the_second_version_needs_its_prediction(tmp_path):
    net = unet(cross_attention_dim=1024, use_linear_projection=True, attention_head_dim=[1, 1])
    save_file(whole(net), tmp_path / "v2.safetensors")
    with pytest.raises(ns.CheckpointError, match="does not say what it predicts"):
        load(tmp_path / "v2.safetensors", 1024)
    card = {"family": "stable-diffusion", "prediction": "v_prediction", "heads": 1}
    checkpoint = load(tmp_path / "v2.safetensors", 1024, card=card)
    torch.testing.assert_close(checkpoint.model(X, T, torch.arange(2)).v, answer(net, 1024), rtol=1e-4, atol=1e-5)
    save_file(whole(net, v_pred=torch.zeros(1), ztsnr=torch.zeros(1)), tmp_path / "marked.safetensors")
    marked = load(tmp_path / "marked.safetensors", 1024, card=card | {"heads": 1})
    assert float(marked.model.schedule(torch.tensor(1.0).double()).alpha) < 1e-6


def test_xl(tmp_path):
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 16 + 6 * 256,
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "attention_head_dim": [4, 4],
    }
    net = unet(**added)
    save_file(whole(net), tmp_path / "xl.safetensors")
    pooled = torch.randn(2, 16, generator=torch.Generator().manual_seed(4))
    card = {"family": "stable-diffusion", "heads": 4}
    checkpoint = ns.load(tmp_path / "xl.safetensors", embeddings=texts(2048, pooled), size=SIDE, card=card)
    sizes = torch.tensor([[8 * SIDE, 8 * SIDE, 0, 0, 8 * SIDE, 8 * SIDE]]).float().expand(2, -1)
    with torch.no_grad():
        given = {"text_embeds": pooled, "time_ids": sizes}
        expected = net(X, 499, encoder_hidden_states=texts(2048).hidden, added_cond_kwargs=given).sample
    torch.testing.assert_close(checkpoint.model(X, T, torch.arange(2)).eps, expected, rtol=1e-4, atol=1e-5)
    assert checkpoint.card.provenance["pipeline"] == "StableDiffusionXLPipeline"


def test_what_is_not_read_is_one_line(first, tmp_path):
    with pytest.raises(ns.CheckpointError, match="holds no tokenizer"):
        ns.load(first[2], prompts=["a cat"])
    save_file(whole(unet(in_channels=9)), tmp_path / "inpainting.safetensors")
    with pytest.raises(ns.CheckpointError, match=r"takes 5 channels beside the state \(a mask"):
        load(tmp_path / "inpainting.safetensors")
    broken = {key: value for key, value in whole(unet()).items() if "middle_block.1" not in key}
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(ns.CheckpointError, match=r"broken\.safetensors") as caught:
        load(tmp_path / "broken.safetensors")
    assert "\n" not in str(caught.value)
