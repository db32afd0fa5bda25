"""DiT, SiT and REPA state dicts into models. They share their keys: the card says which convention they were trained in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from noiseshift.checkpoints.card import FAMILIES, Card
from noiseshift.checkpoints.formats.rebuilt import filled, fitting, model_of
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.transformer import Transformer, config_from_state

_BLOCK = re.compile(r"blocks\.\d+\.(attn\.qkv|adaLN_modulation\.1)\.weight$")


def is_repa(state: Mapping[str, Tensor]) -> bool:
    """REPA alone has projectors, which serve its training only (arXiv 2410.06940)."""
    return any(key.startswith("projectors.") for key in state)


def is_transformer(state: Mapping[str, Tensor]) -> bool:
    """Whether these are a DiT's keys, which SiT and REPA share; other networks too have `blocks`, of convolutions."""
    return "x_embedder.proj.weight" in state or any(_BLOCK.match(key) for key in state)


PATHS: Mapping[str, Mapping[str, str]] = {
    "sit": {"Linear": "linear", "GVP": "cosine", "VP": "variance-preserving"},
    "repa": {"linear": "linear", "cosine": "cosine"},
}
"""What SiT's and REPA's training scripts call paths between data and noise, and we."""

LEARNED = {"velocity": "velocity", "v": "velocity", "score": "score", "noise": "epsilon"}
"""What their networks predict, likewise."""


def repa_card(content: Mapping[Any, Any]) -> Card:
    """The usual card of a REPA file, with the path and the prediction that its training script was called with.

    Args:
        content: What the file holds; the settings are in its `args`.
    """
    return _by_settings("repa", content)


def card_by_settings(content: Mapping[Any, Any]) -> Card | None:
    """The card of a DiT or SiT file whose training script left its settings in the file; None where it did not.

    Args:
        content: What the file holds.
    """
    model = str(_settings(content).get("model", ""))
    if model.startswith("SiT") and "path_type" in _settings(content):
        return _by_settings("sit", content)
    return FAMILIES["dit"] if model.startswith("DiT") else None


def _settings(content: Mapping[Any, Any]) -> Mapping[str, Any]:
    found = content.get("args")
    return found if isinstance(found, Mapping) else {}


def _by_settings(family: str, content: Mapping[Any, Any]) -> Card:
    settings, usual = _settings(content), FAMILIES[family]
    kind = PATHS[family].get(str(settings.get("path_type")))
    learned = LEARNED.get(str(settings.get("prediction")))
    schedule = {"kind": kind} if kind else usual.schedule
    return replace(usual, schedule=schedule, prediction=learned or usual.prediction)


def transformer_model(state: Mapping[str, Tensor], card: Card) -> NetworkModel:
    """The model of a state dict, computing in float32 and counting t = 0 as data.

    Args:
        state: The tensors by their official names; REPA's projectors are left out.
        card: With the convention, and heads where the width is no official one.

    Raises:
        CheckpointError: The tensors are not such a network's.
    """
    state = {k: v for k, v in state.items() if not k.startswith("projectors.")}
    with fitting(card):
        config = config_from_state(state, heads=card.heads, classes=card.classes)
        network = filled(lambda: Transformer(config), state)
    return model_of(
        network,
        card,
        classes=config.classes,
        class_dropout=config.class_dropout,
        noise_dropout=config.noise_dropout,
        shape=(config.channels, config.size, config.size),
    )
