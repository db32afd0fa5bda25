"""Checkpoints of our own: float16 weights in safetensors, and the card that `load` finds beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import yaml
from torch import Tensor

from noiseshift.checkpoints.card import Card
from noiseshift.writing import whole_file, write_text


def save(path: str | Path, state: Mapping[str, Tensor], card: Card) -> Path:
    """Write `state` to `path` (.safetensors) and `card` to `<stem>.yaml` beside it; returns the path."""
    from safetensors.torch import save_file

    path = Path(path).with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as fresh:
        save_file({k: v.detach().half().cpu().contiguous() for k, v in state.items()}, fresh)
    write_card(path, card)
    return path


def write_card(path: str | Path, card: Card) -> Path:
    """Write `card` to `<stem>.yaml` beside the checkpoint `path`, where `load` finds it; returns the card's path."""
    values = {key: value for key, value in asdict(card).items() if value not in (None, (), {})}
    values["schedule"], values["class_names"] = dict(card.schedule), list(card.class_names)
    written = Path(path).with_suffix(".yaml")
    write_text(written, yaml.safe_dump(values, sort_keys=False, width=110))
    return written
