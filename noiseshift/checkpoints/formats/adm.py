"""ADM's UNet from files of guided-diffusion and of torchcfm, whose networks share their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from noiseshift.checkpoints.card import FAMILIES, Card, CheckpointError
from noiseshift.checkpoints.files import state_of
from noiseshift.checkpoints.formats.rebuilt import filled, fitting, model_of, sized
from noiseshift.networks.adm import Adm, AdmConfig, config_from_state
from noiseshift.networks.model import NetworkModel

_COSINE = {"kind": "discrete", "betas": "cosine", "steps": 1000}

# What OpenAI's README and torchcfm's CIFAR-10 example were run with, which no tensor shows, by what the tensors do show:
# width, channels at every resolution, residual blocks at each, channels in and out.
_RELEASED: Mapping[tuple[int, tuple[int, ...], int, int, int], tuple[str, dict[str, Any]]] = {
    (192, (192, 384, 576, 768), 3, 3, 6): (
        "adm",
        {"size": 64, "head_channels": 64, "attention_order": "new", "schedule": _COSINE},
    ),
    (256, (256, 256, 512, 768, 1024), 2, 3, 6): ("adm", {"size": 128, "heads": 4}),
    (256, (256, 256, 512, 512, 1024, 1024), 2, 3, 6): ("adm", {"size": 256, "head_channels": 64}),
    (256, (128, 256, 256, 512, 512, 1024, 1024), 2, 3, 6): ("adm", {"size": 512, "head_channels": 64}),
    (128, (128, 256, 256, 256), 2, 3, 3): ("torchcfm", {"size": 32, "head_channels": 64}),
}


def recognise(content: Mapping[Any, Any]) -> str | None:
    """Whether these are an ADM UNet's keys, with or without torchcfm's training script around them."""
    state = state_of(content)
    if not {"input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight"} <= set(state):
        return None
    shown = "input_blocks.*, time_embed.* among its keys"
    if _of_torchcfm(content):
        shown += ", in torchcfm's net_model and ema_model"
    elif (released := _released(state)) is not None:
        shown += f", in the shapes that {released.family} was released in at {released.size} pixels"
    return shown


def card_of(content: Mapping[Any, Any]) -> Card | None:
    """The card of a released network, and the family of a file of torchcfm's training script."""
    released = _released(state_of(content))
    if not _of_torchcfm(content):
        return released
    return released if released and released.family == "torchcfm" else FAMILIES["torchcfm"]


def build(content: Mapping[Any, Any], card: Card) -> NetworkModel:
    """The model.

    Args:
        content: What the file holds: a state dict, or what a training script saved around it.
        card: With heads or head_channels, and size, which no tensor shows.

    Raises:
        CheckpointError: The tensors are no ADM UNet's, or the card leaves out heads or size.
    """
    if card.heads is None and card.head_channels is None:
        raise CheckpointError("no tensor shows its attention heads: give heads, or head_channels, in a card")
    state = state_of(content)
    with fitting(card):
        config = config_from_state(
            state, heads=card.heads, head_channels=card.head_channels, new_order=card.attention_order == "new"
        )
        network = filled(lambda: Adm(config), state)
    if card.classes not in (None, config.rows, config.rows - 1):
        raise CheckpointError(
            f"the file has {config.rows} class embeddings, the card {card.classes} classes: correct the card"
        )
    classes = card.classes or config.rows
    return model_of(
        network,
        card,
        shape=sized(card, config.channels, len(config.widths) - 1),
        classes=classes,
        # No null class in theirs; a card of one class less says that the last row is one.
        class_dropout=classes < config.rows,
    )


def _of_torchcfm(content: Mapping[Any, Any]) -> bool:
    return isinstance(content.get("net_model"), Mapping) and isinstance(content.get("ema_model"), Mapping)


def _released(state: Mapping[str, Tensor]) -> Card | None:
    try:
        shape: AdmConfig = config_from_state(state)
    except ValueError:
        return None
    key = (shape.width, shape.widths, shape.blocks, shape.channels, shape.out_channels)
    family, values = _RELEASED.get(key, (None, {}))
    return None if family is None else replace(FAMILIES[family], **values)
