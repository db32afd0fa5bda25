"""Wrappers of networks of libraries that are not built here: what they were made with, by their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

SIZE = "SIZE"
"""What a wrapper calls the pixels a side, which no tensor shows."""


@dataclass(frozen=True)
class Made:
    """How a library makes a network.

    Attributes:
        module: where its class is.
        name: of the class.
        arguments: what it is made with, as code.
        channels: of a state.
        card: lines of its card that are known, without its shape; empty where a person says them.
        label: the argument that takes the class, where it is not the third; None where it takes none.
        classes: how many it takes.
    """

    module: str
    name: str
    arguments: str
    channels: int
    card: tuple[str, ...] = ()
    label: str | None = None
    classes: int = 0


def made_of(tensors: Mapping[str, Tensor]) -> Made | None:
    """How a network of a library that is known was made; None for any other.

    Args:
        tensors: of the network, by name.
    """
    if {"input_block.weight", "output_block.0.weight", "to_time_emb.0.weights"} <= set(tensors):
        return _karras(tensors)
    if {"init_conv.weight", "time_mlp.0.weights", "vit.layers.0.0.q_scale"} <= set(tensors):
        return _uvit(tensors)
    return None


def _karras(tensors: Mapping[str, Tensor]) -> Made | None:
    """denoising-diffusion-pytorch's karras_unet, of pictures."""
    first, last = tensors["input_block.weight"], tensors["output_block.0.weight"]
    if first.ndim != 4 or last.ndim != 4:  # of signals and video it takes other arguments
        return None
    downs = _numbers(tensors, r"downs\.(\d+)\.")
    halved = _numbers(tensors, r"downs\.(\d+)\.downsample_conv\.weight")
    attends = _numbers(tensors, r"downs\.(\d+)\.attn\.to_qkv\.weight")
    widths = [tensors[f"downs.{i}.block1.1.weight"].shape[0] for i in downs if f"downs.{i}.block1.1.weight" in tensors]
    heads = next((v.shape[-1] for k, v in tensors.items() if k.endswith("attn.mem_kv")), 64)
    classes = tensors["to_class_emb.weight"].shape[1] if "to_class_emb.weight" in tensors else 0
    at = [f"{SIZE} // {2 ** (level + 1)}" for level, down in enumerate(halved) if down in attends]
    arguments = {
        "image_size": SIZE,
        "channels": last.shape[0],
        "dim": last.shape[1],
        "dim_max": max(widths, default=last.shape[1]),
        "num_downsamples": len(halved),
        "num_blocks_per_stage": (len(downs) - len(halved)) // (len(halved) + 1),
        "attn_res": f"({', '.join(at)}{',' if len(at) == 1 else ''})",
        "attn_dim_head": heads,
        "fourier_dim": 2 * len(tensors["to_time_emb.0.weights"]),
        "num_classes": classes or None,
        "self_condition": first.shape[1] == 2 * last.shape[0] + 1,  # one more, of ones
    }
    made = ", ".join(f"{name}={value}" for name, value in arguments.items())
    module = "denoising_diffusion_pytorch.karras_unet"
    return Made(module, "KarrasUnet", made, last.shape[0], label="class_labels" if classes else None, classes=classes)


def _uvit(tensors: Mapping[str, Tensor]) -> Made:
    """denoising-diffusion-pytorch's simple_diffusion, conditioned on the log-SNR of a cosine schedule, shifted or not."""
    width = tensors["time_mlp.1.weight"].shape[0] // 4
    downs = _numbers(tensors, r"downs\.(\d+)\.")
    outs = [tensors[f"downs.{i}.3.1.weight"].shape for i in downs]
    head = len(tensors["vit.layers.0.0.q_scale"])
    arguments = {
        "dim": width,
        "init_dim": tensors["init_conv.weight"].shape[0],
        "channels": tensors["init_conv.weight"].shape[1],
        "dim_mults": tuple(shape[0] // width for shape in outs),
        "downsample_factor": tuple(
            round((shape[1] / _before(tensors, i)) ** 0.5) for i, shape in zip(downs, outs, strict=True)
        ),
        "vit_depth": len(_numbers(tensors, r"vit\.layers\.(\d+)\.")),
        "attn_dim_head": head,
        "attn_heads": tensors["vit.layers.0.0.to_qkv.weight"].shape[0] // (3 * head),
        "learned_sinusoidal_dim": 2 * len(tensors["time_mlp.0.weights"]),
    }
    made = ", ".join(f"{name}={value}" for name, value in arguments.items())
    card = (
        '"schedule": {"kind": "cosine"}, "time": {"conditioning": "log_snr"},',
        '"prediction": "v_prediction",  # fill in: epsilon where its pred_objective was eps',
    )
    return Made(
        "denoising_diffusion_pytorch.simple_diffusion", "UViT", made, tensors["init_conv.weight"].shape[1], card
    )


def _before(tensors: Mapping[str, Tensor], level: int) -> int:
    """Channels of a level before they are folded."""
    return tensors[f"downs.{level}.0.block1.proj.weight"].shape[1]


def _numbers(tensors: Mapping[str, Tensor], pattern: str) -> list[int]:
    return sorted({int(found[1]) for name in tensors if (found := re.match(pattern, name))})


def imports_of(made: Made) -> Iterator[str]:
    """The lines that a wrapper begins with."""
    yield f"from {made.module} import {made.name}"
    yield ""
    yield "import noiseshift as ns"


def body_of(made: Made) -> Iterator[str]:
    """The lines that make the network, up to where its card begins."""
    yield f"network = ns.adapters.weights(FILE, {made.name}({made.arguments}))"
    yield (f"return lambda x, t, label: network(x, t, {made.label}=label), {{" if made.label else "return network, {")
