"""Checkpoints of our own: float16 weights in safetensors, and the card that `load` finds beside them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import yaml
from torch import Tensor

from noiseshift.checkpoints.card import Card
from noiseshift.writing import check_file, replaced_file, write_tensors
from noiseshift.writing.signatures import CHECKPOINT, signed_checkpoint


def save(path: str | Path, state: Mapping[str, Tensor], card: Card, *, overwrite: bool = False) -> Path:
    """Write a checkpoint that `load` reads.

    Args:
        path: a .safetensors file; the card goes to `<stem>.yaml` beside it.
        state: the network's.
        card: what the tensors do not tell.
        overwrite: replace weights that noiseshift did not make, and a card of other words.

    Returns:
        The path.

    Raises:
        PlaceError: a ValueError, before anything is written, where such files are there.
    """
    path = Path(path).with_suffix(".safetensors")
    check_file(path.with_suffix(".yaml"), lambda there: _says(there, card), overwrite=overwrite)
    _save_weights(path, state, overwrite=overwrite)
    write_card(path, card, overwrite=overwrite)
    return path


def save_trained(path: Path, state: Mapping[str, Tensor], card: Card) -> Path:
    """As `save`, for what a training makes again: a card that is there was corrected by hand, and stays.

    Args:
        path: A .safetensors file.
        state: The network's tensors, which are written in float16.
        card: Written where there is none yet; another one that is there is named on the log.

    Returns:
        The path.

    Raises:
        PlaceError: A ValueError: weights that noiseshift did not make are there.
    """
    written = path.with_suffix(".yaml")
    if not written.exists():
        return save(path, state, card)
    if not _says(written, card):
        logging.getLogger("noiseshift").warning("%s was changed since it was written: it stays as it is", written)
    return _save_weights(path, state)


def _save_weights(path: Path, state: Mapping[str, Tensor], *, overwrite: bool = False) -> Path:
    with replaced_file(path, signed_checkpoint, overwrite=overwrite) as fresh:
        weights = {k: v.detach().half().cpu().contiguous() for k, v in state.items()}
        write_tensors(fresh, weights, {CHECKPOINT: metadata.version("noiseshift")})
    return path


def write_card(path: str | Path, card: Card, *, overwrite: bool = False) -> Path:
    """Write a card beside a checkpoint, where `load` finds it.

    Args:
        path: The checkpoint; the card goes to `<stem>.yaml` beside it.
        card: What it will say.
        overwrite: Replace a card of other words.

    Returns:
        The card's path.

    Raises:
        PlaceError: A ValueError: a card of other words is there.
    """
    written = Path(path).with_suffix(".yaml")
    with replaced_file(written, lambda there: _says(there, card), overwrite=overwrite) as fresh:
        fresh.write_text(_text(card), encoding="utf-8")
    return written


def _text(card: Card) -> str:
    values = {key: value for key, value in asdict(card).items() if value not in (None, (), {})}
    values["schedule"] = dict(card.schedule)
    values["class_names"] = list(card.class_names)
    return yaml.safe_dump(values, sort_keys=False, width=110)


def _says(path: Path, card: Card) -> bool:
    """Whether a card's file says this, and nothing else."""
    return path.read_bytes() == _text(card).encode()
