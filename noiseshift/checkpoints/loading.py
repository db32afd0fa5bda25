"""`load(path)`: a file on disk becomes a model with its schedule, and nothing in the file is ever executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseshift.checkpoints.autoencoder import Autoencoder
from noiseshift.checkpoints.card import FAMILIES, Card, CheckpointError
from noiseshift.checkpoints.conditions import Conditions
from noiseshift.checkpoints.diffusers_folder import is_folder, read_folder
from noiseshift.checkpoints.files import read_content, sha256
from noiseshift.checkpoints.formats import Content, Format, recognised
from noiseshift.data import ASSETS
from noiseshift.networks.model import NetworkModel
from noiseshift.samplers import Scheduled

BUNDLED = ("fashion-sit", "fashion-ddpm")


@dataclass(frozen=True)
class Checkpoint:
    """A model and what is known of it. shape (C, H, W) of a state; classes 0 for an unconditional model, the number of
    prompts for one that is told a text; hash: sha256 of the file; estimator: a level estimator's file, or None; decode:
    states → images in [-1, 1], the identity for models that work on pixels; autoencoder: a latent model's, where it is
    known; sampler(n): the n steps that a diffusers folder's own pipeline takes; recognised: what it was taken for, and why."""

    name: str
    model: NetworkModel
    card: Card
    hash: str
    shape: tuple[int, ...]
    classes: int
    estimator: Path | None
    decode: Callable[[Tensor], Tensor]
    autoencoder: Autoencoder | None = None
    sampler: Callable[[int], Scheduled] | None = None
    recognised: str = ""

    @property
    def latent(self) -> bool:
        """Whether states are latents, not pixels."""
        return self.autoencoder is not None or self.shape[0] not in (1, 3)

    def to(self, device: torch.device | str, precision: str = "fp32") -> Checkpoint:
        """The same checkpoint computing on a device in "fp32" or "bf16" (states and readings stay float32)."""
        return replace(self, model=self.model.to(device, precision))


def load(
    path: str | Path | None = None,
    *,
    family: str | None = None,
    card: str | Path | Mapping[str, Any] | None = None,
    vae: str | Path | None = None,
    prompts: Sequence[str] | None = None,
    embeddings: str | Path | Conditions | None = None,
    size: int | None = None,
) -> Checkpoint:
    """Load a checkpoint: a bundled one by name (`fashion-sit` when None, `fashion-ddpm`), or a DiT, SiT or REPA state
    dict, `.pt` or `.safetensors`, as its authors save it (EMA weights preferred), or a diffusers folder.

    family ("sit", "dit", "repa") or a card (path or mapping; `<stem>.yaml` beside the file is found by itself) says what
    the keys cannot. `vae` is the folder of a latent model's autoencoder, where it is not in the checkpoint's own folder.
    Text pipelines take `prompts`, encoded once, or their `embeddings` (a file or `Conditions`): class i is then prompt i.
    `size` is pixels a side, where a folder's network takes several. Raises CheckpointError in one line that names the
    remedy.
    """
    file = _resolve(path)
    if file.is_dir():
        folder = read_folder(file, vae=vae, prompts=prompts, embeddings=embeddings, size=size)
        found = _checkpoint(file, folder.weights, folder.model, folder.card, folder.autoencoder)
        return replace(found, sampler=folder.sampler, recognised="a diffusers folder, by model_index.json")
    if prompts is not None or embeddings is not None:
        raise CheckpointError(f"{file.name} is no diffusers folder: prompts and embeddings are for those")
    try:
        content = read_content(file)
        form, shown = recognised(content)
        convention = _card(file, family, card, form, content)
        if size is not None:
            convention = replace(convention, size=size)
        model = form.build(content, convention)
    except CheckpointError as error:
        said = str(error)
        raise CheckpointError(said if said.startswith(file.name) else f"{file.name}: {said}") from None
    found = _checkpoint(file, file, model, convention, None if vae is None else Autoencoder.load(vae))
    return replace(found, recognised=f"{form.name}, by {shown}")


def _checkpoint(
    path: Path, weights: Path, model: NetworkModel, card: Card, autoencoder: Autoencoder | None
) -> Checkpoint:
    assert model.shape is not None  # every loader states it
    if card.size not in (None, model.shape[-1]):
        raise CheckpointError(
            f"{path.name} works on {model.shape[-1]} pixels a side, not {card.size}: leave the size out"
        )
    if autoencoder is not None and autoencoder.channels != model.shape[0]:
        raise CheckpointError(f"the autoencoder has {autoencoder.channels} channels, {path.name} {model.shape[0]}")
    return Checkpoint(
        name=path.stem,
        model=model,
        card=card,
        hash=sha256(weights),
        shape=model.shape,
        classes=model.classes,
        estimator=None if card.estimator is None else path.parent / card.estimator,
        decode=_shown if autoencoder is None else autoencoder.decode,
        autoencoder=autoencoder,
    )


def _shown(x: Tensor) -> Tensor:
    """Pixels as they are; of latents whose autoencoder is not known, three channels at a third of their scale."""
    return x if x.shape[1] in (1, 3) else x[:, :3] / 3


def _resolve(path: str | Path | None) -> Path:
    name = "fashion-sit" if path is None else str(path)
    found = ASSETS / f"{name}.safetensors" if name in BUNDLED else Path(name)
    if found.is_dir() and not is_folder(found):
        raise CheckpointError(f"{found} is a folder without model_index.json: give a .pt or .safetensors file")
    if not found.exists():
        raise CheckpointError(
            f"no checkpoint at {name}: give a .pt or .safetensors file, or one of {', '.join(BUNDLED)}"
        )
    return found


def _card(
    path: Path, family: str | None, card: str | Path | Mapping[str, Any] | None, form: Format, content: Content
) -> Card:
    """The card that was given, or lies beside the file, completed by what the file itself tells, or the family's usual one."""
    if family is not None and family not in FAMILIES:
        raise CheckpointError(f"unknown family {family!r}: choose from {', '.join(FAMILIES)}")
    beside = path.with_suffix(".yaml")
    if card is None and beside.exists():
        card = beside
    told = form.card(content)
    if card is not None:
        found = Card.from_dict(card, told) if isinstance(card, Mapping) else Card.read(card, told)
    else:
        found = told if told and family in (None, told.family) else _usual(family, form)
    if card is not None and family not in (None, found.family):
        raise CheckpointError(f"the card says {found.family}, not {family}: leave --family out, or correct the card")
    if (family or found.family) not in form.families or found.family not in form.families:
        raise CheckpointError(f"this is {form.name}, no {family or found.family} file: use --family {form.families[0]}")
    return found


def _usual(family: str | None, form: Format) -> Card:
    if family is None:
        choice = " or ".join(form.families)
        raise CheckpointError(f"this is {form.name}: say which with --family {choice}, or with a card")
    return FAMILIES[family]
