"""Files that are no checkpoint of a denoiser, and networks that only their own library builds: what they are, and what to do."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from noiseshift.checkpoints.card import CheckpointError
from noiseshift.checkpoints.unpickling.reader import REMEDY, WHAT
from noiseshift.checkpoints.weights import TIME, is_loose
from noiseshift.reading import opened

PLAIN = "give module:function, a function that calls it on tensors"
UNPACK = "a compressed archive: unpack it, and give the file in it"
STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: git lfs pull in its repository fetches it"),
    (
        b"GGUF",
        "a GGUF file, whose weights are quantised for another program: give the .safetensors that it was made from",
    ),
    (b"\x89HDF", f"an HDF5 file of Keras or another library, not of PyTorch: {PLAIN}"),
    (b"<!DOCTYPE", "a page of the web, not a checkpoint: fetch the file itself"),
    (b"<html", "a page of the web, not a checkpoint: fetch the file itself"),
)
"""Long enough that no length of a safetensors header is one."""
SUFFIXES = {
    ".onnx": f"an ONNX graph, not a state dict: {PLAIN}",
    ".index": f"a TensorFlow checkpoint, not of PyTorch: {PLAIN}",
    ".pb": f"a TensorFlow graph, not of PyTorch: {PLAIN}",
    ".msgpack": f"a Flax checkpoint, not of PyTorch: {PLAIN}",
    ".tflite": f"a TensorFlow graph, not of PyTorch: {PLAIN}",
    **dict.fromkeys((".gz", ".tgz", ".xz", ".7z", ".rar"), UNPACK),
    ".json": "a configuration, without weights: give the file with the weights, or the folder that both lie in",
    ".yaml": "a card or a configuration, without weights: give the file with the weights",
    ".npz": "an archive of arrays: as data it goes to --data; weights must be a state dict that PyTorch saved",
    ".npy": "an array: as data it goes to --data; weights must be a state dict that PyTorch saved",
}


class NoDenoiser(CheckpointError):
    """A file that is whole, and holds something else than a denoiser."""


def refuse_other_files(path: Path) -> None:
    """Raise NoDenoiser where a file's first bytes or its name show that it is no checkpoint of PyTorch."""
    with opened(path, WHAT, REMEDY, CheckpointError) as file:
        start = file.read(32)
        found = _in_archive(file, path) if start.startswith(b"PK") else _by_start(start, path)
    if found is not None:
        raise NoDenoiser(f"{path.name} is {found}")


def _by_start(start: bytes, path: Path) -> str | None:
    by_name = None if start.startswith(b"\x80") else SUFFIXES.get(path.suffix.lower())
    return next((what for head, what in STARTS if start.startswith(head)), by_name)


def _in_archive(file: BinaryIO, path: Path) -> str | None:
    """PyTorch's own files are zips too, with one folder and a data.pkl in it."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError):
        return None
    if any(name.endswith("constants.pkl") for name in names) and any("/code/" in name for name in names):
        return (
            "TorchScript, which is code and is not run: torch.save(torch.jit.load(path).state_dict(), 'network.pt') gives "
            "its weights, and --write-wrapper begins the code around them"
        )
    if not names or any(name.endswith("data.pkl") for name in names):
        return None
    return SUFFIXES.get(path.suffix.lower(), "an archive of other files: unpack it, and give the checkpoint in it")


def _lora(names: Collection[str]) -> bool:
    marks = ("lora_", ".lora.", "hada_", "lokr_")
    weights = [name for name in names if not name.endswith("alpha")]
    return bool(weights) and all(any(mark in name for mark in marks) for name in weights)


def _autoencoder(names: Collection[str]) -> bool:
    parts = {name.partition(".")[0] for name in names}
    whole = parts <= {"encoder", "decoder", "quant_conv", "post_quant_conv", "loss"}
    return whole and {"encoder.conv_in.weight", "decoder.conv_out.weight"} <= set(names)


def _text_encoder(names: Collection[str]) -> bool:
    parts = {name.partition(".")[0] for name in names}
    clip = "text_model" in parts and parts <= {"text_model", "text_projection", "logit_scale"}
    return clip or ({"shared", "encoder"} <= parts and parts <= {"shared", "encoder", "decoder", "lm_head"})


OTHERS: tuple[tuple[Callable[[Collection[str]], bool], str], ...] = (
    (
        _lora,
        "a LoRA, which changes a network and is none: give the folder that it was trained on, with --lora and this file",
    ),
    (_autoencoder, "an autoencoder: it goes with a latent model's checkpoint, whose --vae is its folder"),
    (_text_encoder, "a text encoder: give the folder of the pipeline that it belongs to"),
)

_NORMALIZING = re.compile(
    r"\.autoregressive_net\.|\.hyper\.\d+\.|^(_transform\._transforms|transform\.transforms|flow\.transforms)\.\d+\.|"
    r"^module_list\.\d+\.subnet|^flows\.\d+\.(param_map|s|t|b)\b"
)
"""Parts of the names of nflows, zuko, FrEIA and normflows."""


def shown_by_shapes(tensors: Mapping[str, Tensor]) -> str | None:
    """What a file's tensors are, by their names and shapes, where it is something else than a denoiser; None otherwise.

    Args:
        tensors: of one network, in the file's order.
    """
    if any(_NORMALIZING.search(name) for name in tensors):
        return "a normalizing flow, which maps noise to data in one pass and has no noise levels"
    if is_loose(tensors):
        return (
            f"tensors ({', '.join(str(name)[:40] for name in list(tensors)[:3])}, …) and no network's weights: as data they go to "
            "--data, saved as .npy or .npz; of a network, give its state dict"
        )
    features = _ends_in_features(tensors)
    if features is not None:
        return (
            f"a network that ends in {features} features after its convolutions, a classifier or an encoder: a denoiser answers "
            "with a state; where it does, give module:function"
        )
    return None


def _ends_in_features(tensors: Mapping[str, Tensor]) -> int | None:
    """How many features a network of convolutions without a time ends in; None where its last layers may make a state."""
    if any(TIME.search(name) for name in tensors):
        return None
    layers = [value for name, value in tensors.items() if name.endswith("weight") and value.ndim in (2, 4, 5)]
    maps = [value for value in layers if value.ndim > 2]
    if not maps or layers[-1].ndim > 2 or layers[0].ndim == 2:
        return None
    channels = maps[0].shape[1]
    patch = channels * maps[0][0, 0].numel()
    features = int(layers[-1].shape[0])
    last = maps[-1].shape[: 2 if len(maps) > 1 else 1]  # one that is transposed has its channels out second
    made = {channels, 2 * channels} & {*last} or features in (patch, 2 * patch)
    return None if made else features


LIBRARIES: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"input_block.weight", "to_time_emb.0.weights", "output_block.1.gain"}),
        "a Karras UNet of denoising-diffusion-pytorch",
        "KarrasUnet, KarrasUnet1D or KarrasUnet3D of that library",
    ),
    (
        frozenset({"time_mlp.0.weights", "vit.layers.0.0.q_scale"}),
        "a UViT of denoising-diffusion-pytorch",
        "its simple_diffusion.UViT; schedule: {kind: cosine}, time: {conditioning: log_snr}, prediction: v_prediction or epsilon",
    ),
    (
        frozenset({"timestep_embed.weight", "net.0.main.0.weight"}),
        "a network of v-diffusion",
        "its diffusion.get_model; schedule: {kind: cosine}, prediction: v_prediction, and t from 0 to 1",
    ),
)
"""Parts of the names that show a library's network, what it is, and what a wrapper makes it with."""


def refuse_other_parts(content: Mapping[Any, Any], names: Collection[str], tensors: Mapping[str, Tensor]) -> None:
    """Raise NoDenoiser where a file holds something else than a denoiser.

    Args:
        content: What the file holds.
        names: Of the tensors that were chosen in it, and of those beside them.
        tensors: The network's own, whole.
    """
    if {"generator", "discriminator"} <= set(content):
        raise NoDenoiser(
            "it holds a generator and its discriminator, and a GAN has no noise levels: of a diffusion model that was trained so, "
            "save the network's state dict in a file of its own"
        )
    found = next((what for shown, what in OTHERS if shown(names)), None) or shown_by_shapes(tensors)
    if found is not None:
        raise NoDenoiser(f"it is {found}")


def library_of(names: Collection[str]) -> str | None:
    """Which library's network this is, and what builds it, where that is known."""
    for parts, what, made in LIBRARIES:
        if all(any(name.endswith(part) for name in names) for part in parts):
            return f"it is {what}, which is not built here: noiseshift info FILE --write-wrapper mine.py, with {made}"
    return None
