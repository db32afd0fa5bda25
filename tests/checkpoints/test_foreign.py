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
from noiseshift.checkpoints.inspection import contents_of
from noiseshift.checkpoints.libraries import made_of
from noiseshift.checkpoints.wrapper import write_wrapper

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


def karras(classes=0):
    """Names and shapes of a KarrasUnet(image_size=16, dim=16, dim_max=32, channels=3, num_downsamples=1, num_blocks_per_stage=1,
    attn_res=(8,), fourier_dim=8, attn_dim_head=16), as version 2.3.4 has them, without what tells nothing."""
    shapes = {
        "input_block.weight": (16, 4, 3, 3), "output_block.0.weight": (3, 16, 3, 3), "output_block.1.gain": (),
        "to_time_emb.0.weights": (4,), "to_time_emb.1.weight": (64, 8), "downs.0.block1.1.weight": (16, 16, 3, 3),
        "downs.1.downsample_conv.weight": (32, 16, 1, 1), "downs.1.block1.1.weight": (32, 32, 3, 3),
        "downs.1.attn.mem_kv": (2, 2, 4, 16), "downs.1.attn.to_qkv.weight": (96, 32, 1, 1),
        "downs.2.block1.1.weight": (32, 32, 3, 3), "downs.2.attn.to_qkv.weight": (96, 32, 1, 1),
    }  # fmt: skip
    shapes |= {"to_class_emb.weight": (64, classes)} if classes else {}
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def uvit():
    """Of a UViT(16, dim_mults=(1, 2), channels=3, vit_depth=1), likewise."""
    shapes = {
        "init_conv.weight": (16, 3, 7, 7), "time_mlp.0.weights": (8,), "time_mlp.1.weight": (64, 17),
        "downs.0.0.block1.proj.weight": (16, 16, 3, 3), "downs.0.3.1.weight": (16, 64, 1, 1),
        "downs.1.0.block1.proj.weight": (16, 16, 3, 3), "downs.1.3.1.weight": (32, 64, 1, 1),
        "vit.layers.0.0.q_scale": (32,), "vit.layers.0.0.to_qkv.weight": (384, 32), "final_conv.weight": (3, 16, 1, 1),
    }  # fmt: skip
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


KARRAS = (
    "KarrasUnet(image_size=SIZE, channels=3, dim=16, dim_max=32, num_downsamples=1, num_blocks_per_stage=1, "
    "attn_res=(SIZE // 2,), attn_dim_head=16, fourier_dim=8, num_classes={}, self_condition=False)"
)
UVIT = (
    "UViT(dim=16, init_dim=16, channels=3, dim_mults=(1, 2), downsample_factor=(2, 2), vit_depth=1, attn_dim_head=32, "
    "attn_heads=4, learned_sinusoidal_dim=16)"
)


@pytest.mark.parametrize(
    ("tensors", "made", "also"),
    [
        (karras(), KARRAS.format(None), ["from denoising_diffusion_pytorch.karras_unet import KarrasUnet"]),
        (karras(10), KARRAS.format(10), ['"classes": 10,', "lambda x, t, label: network(x, t, class_labels=label)"]),
        (uvit(), UVIT, ['"schedule": {"kind": "cosine"}, "time": {"conditioning": "log_snr"},']),
    ],
    ids=["Karras UNet", "with classes", "UViT"],
)
def test_a_wrapper_of_a_librarys_network_has_what_its_tensors_show(tmp_path, tensors, made, also):
    torch.save(tensors, tmp_path / "x.pt")
    written = write_wrapper(tmp_path / "mine.py", contents_of(tmp_path / "x.pt")).read_text()
    compile(written, "mine.py", "exec")
    for line in (made, '"shape": [3, SIZE, SIZE],', "SIZE = 32  # fill in: pixels a side of its training", *also):
        assert line in written
    assert "my_network" not in written
    assert "signature" not in written


def test_those_networks_are_still_made_so():
    """With the library itself, where it is installed."""
    karras_unet = pytest.importorskip("denoising_diffusion_pytorch.karras_unet")
    simple = pytest.importorskip("denoising_diffusion_pytorch.simple_diffusion")
    options = {"dim": 16, "dim_max": 32, "num_downsamples": 1, "num_blocks_per_stage": 1, "attn_res": (8,)}
    theirs = karras_unet.KarrasUnet(image_size=16, channels=3, fourier_dim=8, attn_dim_head=16, **options)
    other = simple.UViT(16, dim_mults=(1, 2), channels=3, vit_depth=1)
    for found, ours in ((theirs.state_dict(), karras()), (other.state_dict(), uvit())):
        assert {name: found[name].shape for name in ours} == {name: value.shape for name, value in ours.items()}
        assert made_of(found) == made_of(ours)


def saved(path, network, **beside):
    torch.save(network.state_dict() | beside, path)
    return path


class Convolved(nn.Sequential):
    """Convolutions, and what follows them."""

    def __init__(self, *last):
        super().__init__(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(), *last)


@pytest.mark.parametrize(
    "network",
    [
        Convolved(nn.Linear(16, 10)),
        Convolved(nn.Linear(16 * 9, 32), nn.ReLU(), nn.Linear(32, 1)),
        nn.ModuleDict({"conv": nn.Conv2d(3, 8, 3), "bn": nn.BatchNorm2d(8), "fc": nn.Linear(8, 100)}),
    ],
)
def test_a_classifier_is_refused_by_both_commands(network, tmp_path):
    path = saved(tmp_path / "a.pt", network)
    for words in ([], ["--write-wrapper", str(tmp_path / "mine.py")]):
        result = CliRunner().invoke(main, ["info", str(path), *words])
        assert result.exit_code == 1
        assert "a classifier or an encoder" in " ".join(result.output.split())
    assert not (tmp_path / "mine.py").exists()


@pytest.mark.parametrize(
    "network",
    [
        nn.ModuleDict({"inp": nn.Conv2d(1, 8, 3), "out": nn.Conv2d(8, 1, 3), "mlp": nn.Linear(1, 8)}),
        nn.ModuleDict({"inp": nn.Conv2d(1, 8, 3), "out": nn.Conv2d(8, 2, 3), "mlp": nn.Linear(1, 8)}),
        nn.ModuleDict({"inp": nn.Conv2d(1, 8, 3), "up": nn.ConvTranspose2d(8, 1, 3), "mlp": nn.Linear(1, 8)}),
        nn.ModuleDict({"patches": nn.Conv2d(3, 16, 4, 4), "block": nn.Linear(16, 16), "out": nn.Linear(16, 48)}),
        nn.ModuleDict(
            {"inp": nn.Conv2d(1, 8, 3), "mid": nn.Conv2d(8, 8, 3), "time": nn.Linear(1, 8), "fc": nn.Linear(8, 9)}
        ),
    ],
)
def test_a_network_that_may_answer_with_a_state_is_none(network, tmp_path):
    with pytest.raises(ns.CheckpointError, match="of no network known here"):
        ns.load(saved(tmp_path / "a.pt", network))


@pytest.mark.parametrize(
    "name",
    [
        "_transform._transforms.1.autoregressive_net.initial_layer.weight",
        "transform.transforms.0.hyper.0.weight",
        "module_list.3.subnet1.0.weight",
        "flows.0.param_map.net.0.weight",
    ],
)
def test_a_normalizing_flow_is_refused(name, tmp_path):
    torch.save({name: torch.ones(4, 4)}, tmp_path / "a.pt")
    with pytest.raises(NoDenoiser, match="no noise levels"):
        ns.load(tmp_path / "a.pt")


def test_a_file_of_data_is_sent_to_data(tmp_path):
    torch.save({"data": torch.ones(5, 2), "labels": torch.ones(5)}, tmp_path / "a.pt")
    for words in ([], ["--write-wrapper", str(tmp_path / "mine.py")]):
        result = CliRunner().invoke(main, ["info", str(tmp_path / "a.pt"), *words])
        assert "as data they go to --data" in " ".join(result.output.split())
