"""Which folders are diffusers', and where their network lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiseshift.checkpoints.card import CheckpointError
from noiseshift.checkpoints.diffusers.parts import read_json, weights_in

TEXT = {
    "StableDiffusionPipeline": "UNet2DConditionModel",
    "StableDiffusionXLPipeline": "UNet2DConditionModel",
    "StableDiffusion3Pipeline": "SD3Transformer2DModel",
    "FluxPipeline": "FluxTransformer2DModel",
}

READABLE = f"those of a UNet2DModel (DDPMPipeline, DDIMPipeline, LDMPipeline), DiTPipeline, {', '.join(TEXT)}"


@dataclass(frozen=True)
class Found:
    """A folder's index, and where its network lies.

    Attributes:
        path: The pipeline's folder, or a single file.
        index: What model_index.json says; empty for a single file.
        pipeline: The pipeline's class by name.
        network: The network's class by name.
        part: The folder of the network's configuration and weights.
    """

    path: Path
    index: Mapping[str, Any]
    pipeline: str
    network: str
    part: Path


def is_folder(path: Path) -> bool:
    """Whether a folder is a pipeline of diffusers', or a state that its training kept beside one."""
    return (path / "model_index.json").exists() or bool(_kept(path) and (path.parent / "model_index.json").exists())


def weights_of(path: Path) -> Path:
    """The first file of a folder's network's weights."""
    return weights_in(recognise(path).part)


def is_kept(path: Path) -> bool:
    """Whether a folder is what a training script kept on its way (`checkpoint-500`, by accelerate): networks alone."""
    return not (path / "model_index.json").exists() and bool(_kept(path))


def _kept(path: Path) -> list[Path]:
    """The networks in a training's state, the averaged one first."""
    names = ("unet_ema", "transformer_ema", "unet", "transformer")
    return [path / name for name in names if (path / name / "config.json").exists()]


def recognise(path: Path) -> Found:
    kept = _kept(path) if is_kept(path) else []
    home = path.parent if kept else path
    index = read_json(home / "model_index.json")
    kind = str(index.get("_class_name"))
    part = "unet" if "unet" in index else "transformer"
    network = str((index.get(part) or [None, None])[1])
    plain = network == "UNet2DModel" or (kind, network) == ("DiTPipeline", "DiTTransformer2DModel")
    if "Inpaint" in kind:
        refuse_more_inputs(path, 5)
    if not plain and (kind not in TEXT or TEXT[kind] != network):
        raise CheckpointError(f"{path.name} is a {kind}: the folders that can be read are {READABLE}")
    return Found(home, index, kind, network, kept[0] if kept else path / part)


def refuse_more_inputs(path: Path, more: int) -> None:
    """Raise CheckpointError for a network that takes more channels than a state has.

    Args:
        path: the folder or file, for the message.
        more: how many more; 0 or fewer are none.
    """
    if more > 0:
        raise CheckpointError(
            f"{path.name} takes {more} channels beside the state (a mask and a picture, or one to be changed), "
            "which differ from sample to sample and cannot be given here: measure the model that it was made from"
        )
