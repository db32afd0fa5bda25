"""diffusers folders (`save_pretrained`) of pixel-space UNet2DModel pipelines: DDPM, DDIM, and their conditional kin.

Weights come from safetensors alone and are rebuilt by diffusers' own classes; no code in the folder is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from noiseshift.checkpoints.card import Card, CheckpointError, TimeInput
from noiseshift.networks.model import NetworkModel
from noiseshift.schedules import Discrete

PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v_prediction"}
READABLE = "UNet2DModel pipelines in pixel space (DDPMPipeline, DDIMPipeline)"


class _Unet(nn.Module):
    """A UNet2DModel called as our networks are: (x, time, label, known)."""

    def __init__(self, unet: nn.Module, classes: int):
        super().__init__()
        self.unet, self.classes = unet, classes

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        labels = {"class_labels": label} if self.classes else {}
        output: Tensor = self.unet(x, t, **labels).sample
        return output


def is_folder(path: Path) -> bool:
    """Whether a folder is diffusers'."""
    return (path / "model_index.json").exists()


def weights_of(path: Path) -> Path:
    """The file whose hash stands for the folder."""
    return _only(path / "unet", "*.safetensors")


def folder_model(path: Path) -> tuple[NetworkModel, Card]:
    """The model in a folder and the card that its configuration makes.

    Raises CheckpointError for another kind of pipeline, a missing or damaged part, or weights that are no safetensors.
    """
    index = _json(path / "model_index.json")
    kind = index.get("_class_name")
    parts = index.get("unet") or [None, None]
    if parts[1] != "UNet2DModel":
        raise CheckpointError(f"{path.name} is a {kind}: the folders that can be read are {READABLE}")
    unet = _unet(path / "unet")
    schedule, prediction = _schedule(path / "scheduler")
    size, classes = unet.config.sample_size, int(unet.config.num_class_embeds or 0)
    if size is None:
        raise CheckpointError(f"{path.name}: the UNet's configuration names no sample_size: write it there")
    height, width = (size, size) if isinstance(size, int) else size
    time = TimeInput("data", float(len(schedule.times)), -1.0)
    model = NetworkModel(
        _Unet(unet, classes),
        schedule,
        prediction,
        lambda t: (time.scale * t + time.offset).round().clamp_min(0),
        classes=classes,
        class_dropout=False,
        noise_dropout=False,
        shape=(int(unet.config.in_channels), int(height), int(width)),
        levels=schedule.times,
    )
    described = {"kind": "discrete", "alphas_cumprod": schedule.alphas_cumprod.tolist()}
    return model, Card("diffusers", described, prediction, time, classes=classes or None, provenance={"pipeline": kind})


def _unet(path: Path) -> Any:
    import logging

    from diffusers import UNet2DModel

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    _only(path, "*.safetensors")
    try:
        return UNet2DModel.from_pretrained(str(path), use_safetensors=True, low_cpu_mem_usage=False).eval()
    except Exception as error:  # diffusers raises many kinds for damaged folders
        raise CheckpointError(f"{path} does not load as a UNet2DModel: {str(error).splitlines()[0][:200]}") from None


def _schedule(path: Path) -> tuple[Discrete, Any]:
    import diffusers

    config = _json(path / "scheduler_config.json")
    name = str(config.get("_class_name", ""))
    made = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if made is None:
        raise CheckpointError(f"{path}: diffusers has no scheduler {name!r}; correct its scheduler_config.json")
    scheduler = made.from_config(config)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise CheckpointError(f"{path}: {name} has no alphas_cumprod, which a UNet2DModel of DDPM's kind is trained on")
    prediction = PREDICTIONS.get(getattr(scheduler.config, "prediction_type", "epsilon"))
    if prediction is None:
        raise CheckpointError(f"{path}: prediction_type must be one of {', '.join(PREDICTIONS)}")
    return Discrete(scheduler.alphas_cumprod.double()), prediction


def _only(path: Path, pattern: str) -> Path:
    found = sorted(path.glob(pattern))
    if not found:
        raise CheckpointError(f"no {pattern} in {path}: save the pipeline with safe_serialization=True")
    return found[0]


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise CheckpointError(f"{path} is missing: save the whole pipeline with save_pretrained") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise CheckpointError(f"{path} is not JSON: save the pipeline again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no settings: save the pipeline again")
    return values
