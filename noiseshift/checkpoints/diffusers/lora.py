"""LoRA files on the network of a diffusers folder: low-rank changes of its weights, merged in (Hu et al., arXiv 2106.09685).

diffusers' own loader brings the names of other trainers (kohya's, XLabs', AI-Toolkit's) into its own; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noiseshift.checkpoints.card import CheckpointError
from noiseshift.checkpoints.files import sha256
from noiseshift.reading import as_text, read_safetensors, read_words

LOADERS = {
    "StableDiffusionPipeline": "StableDiffusionLoraLoaderMixin",
    "StableDiffusionXLPipeline": "StableDiffusionXLLoraLoaderMixin",
    "StableDiffusion3Pipeline": "SD3LoraLoaderMixin",
    "FluxPipeline": "FluxLoraLoaderMixin",
}
"""Of diffusers, by the pipeline that takes them."""

OTHER_KINDS = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lora_mid": "a LoRA in Tucker form",
    "lora_B.bias": "a LoRA with biases",
}
"""What is called LoRA too, by parts of its keys."""

LARGEST = 100.0
"""No scale is larger."""


@dataclass(frozen=True)
class Lora:
    """A LoRA file and how much of it is added.

    Attributes:
        path: The .safetensors file.
        scale: Factor of its change of the weights: 1 as it was trained, at most 100 either way where it is given in words.
    """

    path: Path
    scale: float = 1.0

    @classmethod
    def of(cls, word: str | Path | Lora) -> Lora:
        """`FILE` or `FILE:SCALE`. Raises CheckpointError."""
        if isinstance(word, Lora):
            return word
        name, _, number = str(word).rpartition(":")
        if not name or Path(str(word)).exists():
            return cls(Path(word))
        try:
            scale = float(number)
        except ValueError:
            return cls(Path(word))
        if not abs(scale) <= LARGEST:
            raise CheckpointError(f"{word}: the scale of a LoRA is a number of at most {LARGEST:g}")
        return cls(Path(name), scale)

    @property
    def name(self) -> str:
        """For a run's name: the file's, and the scale where it is another than 1."""
        return as_text(self.path.stem) + ("" if self.scale == 1 else f":{self.scale:g}")

    def described(self) -> dict[str, Any]:
        """What tells one from another: the file's hash and the scale."""
        return {"file": as_text(self.path.name), "sha256": sha256(self.path), "scale": self.scale}


@dataclass(frozen=True)
class Parts:
    """Low-rank factors by the layer that they change.

    Attributes:
        down: (r, …) by layer.
        up: (…, r) by layer.
        alpha: by layer, r where the file does not say.
    """

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    alpha: Mapping[str, float]

    def change(self, layer: str) -> Tensor:
        """(out, in · kernel) what is added to the layer's weight at scale 1: up · down · alpha / r."""
        down, up = self.down[layer].float(), self.up[layer].float()
        change: Tensor = up.flatten(1) @ down.flatten(1)
        return change * (self.alpha.get(layer, float(len(down))) / len(down))


def merge(network: nn.Module, pipeline: str, loras: Sequence[Lora], *, prompts: bool) -> list[dict[str, Any]]:
    """Add LoRAs to a network's weights.

    Args:
        network: of a diffusers folder; its weights are changed.
        pipeline: the folder's, by name.
        loras: the files and their scales.
        prompts: whether texts will be encoded by the folder's own encoders, which are not changed here.

    Returns:
        What was added, a row each.

    Raises:
        CheckpointError: a pipeline that takes none, a file that is none, or one of another network.
    """
    if loras and pipeline not in LOADERS:
        raise CheckpointError(f"a {pipeline} takes no LoRA: those that do are {', '.join(LOADERS)}")
    for lora in loras:
        parts, texts = _read(lora.path, pipeline, network)
        if texts and prompts:
            raise CheckpointError(
                f"{lora.path.name} changes the text encoder too, which is not done here: encode the prompts with it in diffusers, "
                "and give --embeddings"
            )
        _add(network, parts, lora)
    return [lora.described() for lora in loras]


@torch.no_grad()
def _add(network: nn.Module, parts: Parts, lora: Lora) -> None:
    layers = dict(network.named_modules())
    weights: dict[str, Any] = {name: getattr(layers.get(name), "weight", None) for name in parts.down}
    changes = {name: parts.change(name) for name in parts.down if name in parts.up and _fits(parts, name)}
    strange = [
        name for name, weight in weights.items() if name not in changes or not _takes(weight, changes[name])
    ] or sorted(set(parts.up) - set(parts.down))
    if strange:
        raise CheckpointError(
            f"{lora.path.name} is a LoRA of another network: {len(strange)} of its {len(parts.down)} layers do not fit this "
            f"{type(network).__name__}, first {as_text(strange[0][:100])}"
        )
    for name, change in changes.items():
        weights[name].add_(lora.scale * change.reshape(weights[name].shape))


def _fits(parts: Parts, name: str) -> bool:
    return (
        parts.down[name].ndim >= 2
        and parts.up[name].ndim >= 2
        and parts.up[name].flatten(1).shape[1] == len(parts.down[name])
    )


def _takes(weight: Any, change: Tensor) -> bool:
    return isinstance(weight, Tensor) and weight.ndim > 1 and weight.flatten(1).shape == change.shape


def _read(path: Path, pipeline: str, network: Any) -> tuple[Parts, bool]:
    """The part of a file that changes the network, and whether it changes text encoders too."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path.name} is no .safetensors file: save the LoRA as one")
    tensors, words = read_safetensors(path, "LoRA", "give a .safetensors file of one", CheckpointError)
    for mark, kind in OTHER_KINDS.items():
        if any(mark in key for key in tensors):
            raise CheckpointError(
                f"{path.name} is {kind}, which is not read here: merge it into the folder in diffusers"
            )
    if not any("lora" in key.lower() for key in tensors):
        first = as_text(next(iter(tensors), "none")[:60])
        raise CheckpointError(f"{path.name} holds no LoRA: its first key is {first}")
    state, alphas = _in_diffusers_names(path, tensors, pipeline, network)
    texts = any(key.startswith("text_encoder") for key in state)
    own = "unet." if getattr(network, "config", {}).get("cross_attention_dim") else "transformer."
    # What a network saves by itself (save_lora_adapter) names no part.
    part = own if any(key.startswith(own) for key in state) else ""
    inside = {key.removeprefix(part): v for key, v in state.items() if key.startswith(part or own) or not part}
    inside = {key: v for key, v in inside.items() if not key.startswith("text_encoder")}
    stated = {key.removeprefix(part): value for key, value in alphas.items()}
    return _parts(path, inside, stated | _in_header(path, words, part, inside)), texts


def _in_diffusers_names(
    path: Path, tensors: Mapping[str, Tensor], pipeline: str, network: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Keys as peft writes them, below the name of the part that they change, and alphas by layer."""
    from diffusers.loaders import lora_pipeline
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    loader = getattr(lora_pipeline, LOADERS[pipeline])
    options: dict[str, Any] = {}
    if pipeline == "FluxPipeline":
        options = {"return_alphas": True}
    elif "cross_attention_dim" in network.config:
        options = {"unet_config": network.config}
    try:
        found = loader.lora_state_dict(dict(tensors), **options)
    except Exception as error:  # of names it does not know
        reason = next(iter(str(error).split()), type(error).__name__)[:160]
        raise CheckpointError(
            f"{path.name}: diffusers does not know the names in this LoRA: {as_text(reason)}"
        ) from None
    state, alphas = found if isinstance(found, tuple) else (found, None)
    state = {key.removeprefix("base_model.model."): value for key, value in state.items()}
    renamed: dict[str, Tensor] = convert_unet_state_dict_to_peft(state)
    return renamed, {_layer(key): float(v) for key, v in convert_unet_state_dict_to_peft(alphas or {}).items()}


def _layer(key: str) -> str:
    """The layer that a key is of."""
    return key.partition(".lora_")[0].removesuffix(".alpha")


def _parts(path: Path, state: Mapping[str, Tensor], alphas: Mapping[str, float]) -> Parts:
    down = {_layer(key): value for key, value in state.items() if ".lora_A." in key}
    up = {_layer(key): value for key, value in state.items() if ".lora_B." in key}
    own = {_layer(key): float(v) for key, v in state.items() if key.endswith(".alpha") and v.numel() == 1}
    strange = [k for k in state if ".lora_A." not in k and ".lora_B." not in k and not k.endswith(".alpha")]
    if strange or not down:
        first = as_text((strange or ["none"])[0][:80])
        raise CheckpointError(
            f"{path.name} holds more than a LoRA ({first}), or less: merge it into the folder in diffusers"
        )
    return Parts(down, up, {**own, **alphas})


def _in_header(path: Path, words: Mapping[str, str], part: str, state: Mapping[str, Tensor]) -> dict[str, float]:
    """Alphas that a header gives, as diffusers and peft write it; of a rank-stabilised LoRA those of the same scale."""
    if "lora_adapter_metadata" not in words:
        return {}
    header = read_words(words["lora_adapter_metadata"], path, "LoRA", "save it again", CheckpointError)
    settings = {key.removeprefix(part): value for key, value in header.items()}
    usual = settings.get("lora_alpha")
    pattern = settings.get("alpha_pattern") or {}
    found = {}
    for key, value in state.items():
        layer = _layer(key)
        named = [alpha for name, alpha in pattern.items() if layer == name or layer.endswith(f".{name}")]
        alpha = named[0] if named else usual
        if ".lora_A." in key and isinstance(alpha, int | float):
            # Of those the scale is alpha / sqrt(r) (arXiv 2312.03732).
            found[layer] = alpha * len(value) ** 0.5 if settings.get("use_rslora") else float(alpha)
    return found
