"""Files that hold something else than a denoiser say what they are, and what to do with them."""

import io
import zipfile

import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from safetensors.torch import save_file
from torch import nn

import noiseshift as ns
from noiseshift.checkpoints.foreign import NoDenoiser

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FILES = {
    "pointer.pt": (LFS, "git lfs pull"),
    "pointer.safetensors": (LFS, "git lfs pull"),
    "model.gguf": (b"GGUF\x03" + bytes(40), "safetensors that it was made from"),
    "model.h5": (b"\x89HDF\r\n" + bytes(40), "module:function"),
    "model.onnx": (b"\x08\x08\x12\x07pytorch" + bytes(40), "module:function"),
    "model.ckpt.index": (bytes(40), "TensorFlow"),
    "model.msgpack": (b"\x81\xa6params\x80", "Flax"),
    "page.pt": (b"<!DOCTYPE html><html>", "fetch the file itself"),
    "model.pt.gz": (b"\x1f\x8b\x08" + bytes(40), "unpack it"),
    "config.json": (b"{}", "without weights"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_other_programs_files(name, tmp_path):
    content, remedy = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NoDenoiser, match=remedy) as caught:
        ns.load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("model.pt", "x")
    with pytest.raises(NoDenoiser, match="unpack it"):
        ns.load(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:  # as torch.jit.save lays it out
        for name in ("script/data.pkl", "script/constants.pkl", "script/code/__torch__.py"):
            archive.writestr(name, "")
    with pytest.raises(NoDenoiser, match=r"torch\.jit\.load\(path\)\.state_dict\(\)"):
        ns.load(tmp_path / "script.pt")


def test_a_checkpoint_of_any_name_is_still_read(tmp_path):
    buffer = io.BytesIO()
    torch.save({"a.weight": torch.ones(2, 2)}, buffer)
    for name in ("model.json", "model.index", "model.gz", "model"):
        (tmp_path / name).write_bytes(buffer.getvalue())
        with pytest.raises(ns.CheckpointError, match="of no network known here"):
            ns.load(tmp_path / name)


def of(*names):
    return {name: torch.ones(2, 2) for name in names}


PARTS = {
    "lora": (of("unet.a.lora_A.weight", "unet.a.lora_B.weight", "unet.a.alpha"), "--lora"),
    "kohya": (of("lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.alpha"), "--lora"),
    "vae": (of("encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight"), "--vae"),
    "clip": (of("text_model.embeddings.token_embedding.weight", "text_projection.weight"), "folder of the pipeline"),
    "t5": (of("shared.weight", "encoder.block.0.weight"), "folder of the pipeline"),
}


@pytest.mark.parametrize("name", list(PARTS))
def test_parts_of_pipelines(name, tmp_path):
    tensors, remedy = PARTS[name]
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(NoDenoiser, match=remedy):
        ns.load(tmp_path / "x.safetensors")
    found = CliRunner().invoke(main, ["info", str(tmp_path / "x.safetensors")])
    assert "--write-wrapper" not in found.output


@pytest.mark.parametrize("beside", ["unet.conv.weight", "time_embed.weight"])
def test_a_denoiser_with_such_parts_is_not_one_of_them(beside, tmp_path):
    for tensors, _ in PARTS.values():
        save_file(tensors | of(beside), tmp_path / "x.safetensors")
        with pytest.raises(ns.CheckpointError, match="of no network known here"):
            ns.load(tmp_path / "x.safetensors")


def test_a_gan_and_an_optimizer(tmp_path):
    net = of("conv.weight", "conv.bias")
    torch.save({"generator": net, "discriminator": net}, tmp_path / "gan.pt")
    with pytest.raises(NoDenoiser, match="GAN"):
        ns.load(tmp_path / "gan.pt")
    torch.save(torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(ns.CheckpointError, match="optimizer's state"):
        ns.load(tmp_path / "optimizer.pt")


def test_networks_of_libraries_are_named(tmp_path):
    torch.save(of("input_block.weight", "to_time_emb.0.weights", "output_block.1.gain"), tmp_path / "x.pt")
    with pytest.raises(ns.CheckpointError, match="Karras UNet of denoising-diffusion-pytorch"):
        ns.load(tmp_path / "x.pt")
    torch.save(of("timestep_embed.weight", "net.0.main.0.weight"), tmp_path / "x.pt")
    with pytest.raises(ns.CheckpointError, match=r"v-diffusion.*v_prediction"):
        ns.load(tmp_path / "x.pt")
