"""`load(path)`: a file on disk becomes a model with its schedule, and nothing in the file is ever executed."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseshift.checkpoints.card import FAMILIES, Card, CheckpointError
from noiseshift.data import ASSETS
from noiseshift.models import Predicts
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.transformer import Transformer, config_from_state
from noiseshift.schedules import Discrete

BUNDLED = ("fashion-sit", "fashion-ddpm")


@dataclass(frozen=True)
class Checkpoint:
    """A model and what is known of it. shape (C, H, W) of a state; classes 0 for an unconditional model; hash: sha256 of
    the file; estimator: a level estimator's file, or None; decode: states → images in [-1, 1]."""

    name: str
    model: NetworkModel
    card: Card
    hash: str
    shape: tuple[int, ...]
    classes: int
    estimator: Path | None
    decode: Callable[[Tensor], Tensor]

    def to(self, device: torch.device | str, precision: str = "fp32") -> Checkpoint:
        """The same checkpoint computing on a device in "fp32" or "bf16" (states and readings stay float32)."""
        return replace(self, model=self.model.to(device, precision))


def load(
    path: str | Path | None = None,
    *,
    family: str | None = None,
    card: str | Path | Mapping[str, Any] | None = None,
    vae: str | Path | None = None,
    trust: bool = False,
) -> Checkpoint:
    """Load a checkpoint: a bundled one by name (`fashion-sit` when None, `fashion-ddpm`), or a DiT, SiT or REPA state
    dict, `.pt` or `.safetensors`, as its authors save it (EMA weights preferred).

    family ("sit", "dit", "repa") or a card (path or mapping; `<stem>.yaml` beside the file is found by itself) says what
    the keys cannot. Raises CheckpointError in one line that names the remedy.
    """
    if vae is not None or trust:
        raise CheckpointError("autoencoders and trusted code are not supported yet: load a pixel-space DiT or SiT file")
    path = _resolve(path)
    state = _read(path)
    card = _card(path, family, card)
    try:
        config = config_from_state(state, heads=card.heads)
        network = Transformer(config)
        network.load_state_dict({k: v.float() for k, v in state.items()})
    except ValueError as error:
        raise CheckpointError(f"{path.name}: {error}") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path.name} does not fit the {card.family} network: {reason[:200]}") from None
    schedule = card.build_schedule()
    time = card.time
    model = NetworkModel(
        network,
        schedule,
        _prediction(card),
        lambda t: time.scale * (t if time.zero == "data" else 1 - t) + time.offset,
        classes=config.classes,
        class_dropout=config.class_dropout,
        noise_dropout=config.noise_dropout,
        sign=-1.0 if time.zero == "noise" and card.prediction == "velocity" else 1.0,
        levels=schedule.times if isinstance(schedule, Discrete) else None,
    )
    return Checkpoint(
        name=path.stem,
        model=model,
        card=card,
        hash=hashlib.sha256(path.read_bytes()).hexdigest(),
        shape=(config.channels, config.size, config.size),
        classes=config.classes,
        estimator=None if card.estimator is None else path.parent / card.estimator,
        decode=lambda x: x,
    )


def _resolve(path: str | Path | None) -> Path:
    name = "fashion-sit" if path is None else str(path)
    found = ASSETS / f"{name}.safetensors" if name in BUNDLED else Path(name)
    if found.is_dir():
        raise CheckpointError(f"{found} is a folder: give a .pt or .safetensors file")
    if not found.exists():
        raise CheckpointError(
            f"no checkpoint at {name}: give a .pt or .safetensors file, or one of {', '.join(BUNDLED)}"
        )
    return found


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict of a file; the averaged weights where a training checkpoint holds both."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError):
            raise CheckpointError(f"{path.name} is damaged or no safetensors file: fetch it again") from None
    try:
        # Training scripts keep their command line in the file; a Namespace of plain values is harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's unpickler trips over, the file is not to be used
        refused = "Unsupported global" in str(error) or "not an allowed global" in str(error)
        why = "holds code, which is never run" if refused else "is damaged or no PyTorch checkpoint"
        raise CheckpointError(f"{path.name} {why}: give a plain state dict or a .safetensors file") from None
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("ema", "model", "state_dict", "network"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}, not a state dict")
    state = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    # REPA's projectors serve its training only.
    state = {k: v for k, v in state.items() if not k.startswith("projectors.")}
    if not state:
        raise CheckpointError(f"{path.name} holds no tensors: is it a model checkpoint?")
    return state


def _card(path: Path, family: str | None, card: str | Path | Mapping[str, Any] | None) -> Card:
    beside = path.with_suffix(".yaml")
    if isinstance(card, Mapping):
        return Card.from_dict(card)
    if card is not None:
        return Card.read(card)
    if family is not None:
        if family not in FAMILIES:
            raise CheckpointError(f"unknown family {family!r}: choose from {', '.join(FAMILIES)}")
        return FAMILIES[family]
    if beside.exists():
        return Card.read(beside)
    raise CheckpointError(
        f"{path.name}: DiT, SiT and REPA share their keys, so say which it is: --family sit, dit or repa, or a card"
    )


def _prediction(card: Card) -> Predicts:
    return card.prediction  # type: ignore[return-value] # checked by the card
