"""Tensors from a file, without ever running what else is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from noiseshift.checkpoints.card import CheckpointError, HoldsCode
from noiseshift.checkpoints.foreign import refuse_other_files
from noiseshift.checkpoints.unpickling.pickles import names_in
from noiseshift.checkpoints.unpickling.reader import REMEDY, read_pickled
from noiseshift.checkpoints.weights import chosen
from noiseshift.reading import opened, read_safetensors, reading


def sha256(path: Path) -> str:
    """The file's SHA-256, hexadecimal. Raises CheckpointError when it cannot be read."""
    digest = hashlib.sha256()
    with opened(path, "checkpoint", "fetch it again", CheckpointError) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


OPTIMIZER = {"state", "param_groups"}
"""The keys of an optimizer's state."""
METADATA = "__metadata__"
"""Where `read_content` puts the words that a safetensors file carries beside its tensors."""


def state_of(content: Mapping[Any, Any]) -> Mapping[str, Tensor]:
    """The state dict in a file's content: averaged weights where there are any, keys without wrappers' names; see `weights`.
    Raises CheckpointError when there are no tensors, or several networks."""
    return chosen(content).state


def read_content(path: Path) -> Mapping[Any, Any]:
    """Everything in a checkpoint file as it lies there: `.safetensors` hold nothing but tensors and words, any other suffix
    is read as a pickle of torch's or EDM's, by an unpickler that calls nothing. Raises CheckpointError when the file is
    damaged or holds code."""
    refuse_other_files(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        content = read_pickled(path)
    except HoldsCode as error:
        names = names_in(path) or [str(error)]
        shown = ", ".join(name[:60] for name in names[:3]) + ", …" * (len(names) > 3)
        raise HoldsCode(f"{path.name} holds code ({shown}), which is not run: {REMEDY}") from None
    if isinstance(content, dict) and set(content) == OPTIMIZER:
        raise CheckpointError(
            f"{path.name} is an optimizer's state, without weights: give a file with a model's state dict"
        )
    if isinstance(content, list | tuple):
        content = _named(content)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}: give a file with a model's state dict")
    return content


def _named(content: Sequence[Any]) -> Any:
    """A training state that is kept as a list, as score networks' and DDIM's code does: the network, its optimizer, numbers,
    and the averaged weights last. Any other list is handed back."""
    rows = list(content)
    if len(rows) < 2 or not all(isinstance(row, Mapping) for row in rows[:2]) or set(rows[1]) != OPTIMIZER:
        return content
    averaged = {"ema": rows[-1]} if len(rows) > 2 and isinstance(rows[-1], Mapping) else {}
    return {"model": rows[0], "optimizer": rows[1], **averaged}


def _safetensors(path: Path) -> dict[str, Any]:
    with reading(path.name, "safetensors file", "fetch it again", CheckpointError):
        tensors, words = read_safetensors(path, "safetensors file", "fetch it again")
    return {**tensors, **({METADATA: words} if words else {})}
