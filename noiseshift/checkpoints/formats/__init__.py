"""The kinds of checkpoint files that `load` reads. A new one is a module of its own and an entry in FORMATS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from noiseshift.checkpoints.card import Card, CheckpointError
from noiseshift.checkpoints.files import state_of
from noiseshift.checkpoints.foreign import library_of, refuse_other_parts
from noiseshift.checkpoints.formats import adm, edm, k_diffusion, lucidrains
from noiseshift.checkpoints.formats.transformer import (
    card_by_settings,
    is_repa,
    is_transformer,
    repa_card,
    transformer_model,
)
from noiseshift.networks.model import NetworkModel

Content = Mapping[Any, Any]
"""Everything in a file, as it lies there: a state dict, or what a training script saved around it."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        name: For people, with its article.
        families: The families that its card may name.
        recognise: What in the content shows that it is one, in a few words, or None.
        card: The card that the file itself makes, or None.
        build: The content and a card → the model; CheckpointError when the tensors do not fit.
    """

    name: str
    families: tuple[str, ...]
    recognise: Callable[[Content], str | None]
    card: Callable[[Content], Card | None]
    build: Callable[[Content, Card], NetworkModel]


def _repa(content: Content) -> str | None:
    return "its projectors" if is_repa(state_of(content)) else None


def _transformer(content: Content) -> str | None:
    return "x_embedder, blocks.* among its keys" if is_transformer(state_of(content)) else None


def _build_transformer(content: Content, card: Card) -> NetworkModel:
    return transformer_model(state_of(content), card)


# The first that recognises a file reads it: a config says more than keys do.
FORMATS = (
    Format("an EDM pickle", ("edm", "edm2"), edm.recognise, edm.card, edm.build),
    Format("a k-diffusion network", ("k-diffusion",), k_diffusion.recognise, k_diffusion.card_of, k_diffusion.build),
    Format("a REPA transformer", ("repa",), _repa, repa_card, _build_transformer),
    Format(
        "a DiT, SiT or REPA transformer",
        ("sit", "dit", "repa"),
        _transformer,
        card_by_settings,
        _build_transformer,
    ),
    Format("an ADM UNet", ("adm", "torchcfm"), adm.recognise, adm.card_of, adm.build),
    Format(
        "a Unet of denoising-diffusion-pytorch",
        ("lucidrains",),
        lucidrains.recognise,
        lucidrains.card_of,
        lucidrains.build,
    ),
)


def recognised(content: Content) -> tuple[Format, str]:
    """The format of a file's content, and what shows it. Raises CheckpointError when it is none of FORMATS."""
    for form in FORMATS:
        shown = form.recognise(content)
        if shown is not None:
            return form, shown
    state = state_of(content)
    # A part that is called net is taken for the whole network; the names beside it tell more.
    beside = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    names = {*state, *beside}
    refuse_other_parts(content, names, beside if len(beside) > len(state) else state)
    elsewhere = library_of(names)
    if elsewhere is not None:
        raise CheckpointError(elsewhere)
    keys = ", ".join(str(key)[:60] for key in list(state)[:3])
    raise CheckpointError(
        f"its keys ({keys}, …) are of no network known here: give module:function, which builds the model "
        "(noiseshift info FILE --write-wrapper mine.py begins it)"
    )
