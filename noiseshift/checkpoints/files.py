"""Tensors from a file, without ever running what else is in it."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseshift.checkpoints.card import CheckpointError, HoldsCode
from noiseshift.checkpoints.unpickling.persistence import is_persistent, read_persistent
from noiseshift.checkpoints.unpickling.pickles import names_in


def sha256(path: Path) -> str:
    """The file's SHA-256, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


METADATA = "__metadata__"
"""Where `read_content` puts the words that a safetensors file carries beside its tensors."""


def state_of(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The state dict in a file's content: averaged weights where a training checkpoint holds both, keys without
    wrappers' prefixes. Raises CheckpointError when there are no tensors."""
    inside = next((content[k] for k in WEIGHTS if isinstance(content.get(k), Mapping) and content[k]), content)
    state = {bare(str(k)): v for k, v in inside.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError("it holds no tensors: give a file with a model's state dict")
    return state


WEIGHTS = ("ema", "ema_model", "model_ema", "model", "net_model", "state_dict", "network")
"""Where training scripts keep weights, averaged ones first."""


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            words = file.metadata()
        return {**load_file(path), **({METADATA: words} if words else {})}
    except (SafetensorError, OSError, KeyError):
        raise CheckpointError(f"{path.name} is damaged or no safetensors file: fetch it again") from None


def read_content(path: Path) -> Mapping[Any, Any]:
    """Everything in a checkpoint file as it lies there: `.safetensors` hold nothing but tensors and words, any other suffix
    is read by torch's restricted unpickler, or, EDM's pickles, by our own. Raises CheckpointError when the file is damaged
    or holds code."""
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.is_file() and is_persistent(path):
        return read_persistent(path)
    content = _unpickled(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}: give a file with a model's state dict")
    return content


def _unpickled(path: Path) -> Any:
    try:
        # Training scripts keep their command line in the file; a Namespace of plain values is harmless.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's unpickler trips over, the file is not to be used
        if "unsupported global" in str(error).lower():
            raise HoldsCode(
                f"{path.name} holds code{_named(path)}, which is not run: give a plain state dict or a .safetensors file"
            ) from None
        raise CheckpointError(
            f"{path.name} is damaged or no PyTorch checkpoint: give a plain state dict or a .safetensors file"
        ) from None


def _named(path: Path) -> str:
    """The first few names of the code in a file, for a message."""
    names = names_in(path)
    return f" ({', '.join(name[:60] for name in names[:3])}{', …' * (len(names) > 3)})" if names else ""


def bare(key: str) -> str:
    """The key without what DistributedDataParallel and torch.compile put before it."""
    return key.removeprefix("module.").removeprefix("_orig_mod.")
