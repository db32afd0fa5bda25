"""A network that fails when it is called as its card says: with which other words of the card it can be called."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from noiseshift.calling import CodeError
from noiseshift.checkpoints.custom_code import Called
from noiseshift.diffusion.conventions import Calling, LabelInput, TimeInput
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.wrapping import CallableModel
from noiseshift.networks.model import NetworkModel

MOST = 2
"""Words that are changed at once."""


@contextmanager
def remedied(model: Model, x: Tensor, t: Tensor, cond: Tensor | None, classes: int) -> Iterator[None]:
    """What the network raises within says also with which words it can be called, where there are such.

    Args:
        model: a checkpoint's.
        x: (B, …) states.
        t: () a time.
        cond: (B,) classes, or None.
        classes: how many the checkpoint has.
    """
    try:
        yield
    except CodeError as error:
        way = better_call(model, x, t, cond, classes)
        if way is None:
            raise
        raise CodeError(f"{error}; {way}") from error


def better_call(model: Model, x: Tensor, t: Tensor, cond: Tensor | None, classes: int) -> str | None:
    """With which words a network of custom code can be called, the fewest; None where there are none, or it is no such network.

    Args:
        model: its network failed on these arguments.
        x: (B, …) states.
        t: () a time.
        cond: (B,) classes, or None.
        classes: how many the checkpoint has.
    """
    where, of = "its card", _of_a_card(model)
    if isinstance(model, CallableModel):
        where, of = "ns.wrap", _wrapped(model)
    if of is None:
        return None
    time, calling, made = of
    for words, given in _others(time, calling, classes, whole=isinstance(model, CallableModel)):
        if _answers(made(given.pop("time", time), replace(calling, **given)), x, t, cond):
            return f"with {words} in {where} it can"
    return None


_Made = tuple[TimeInput, Calling, Callable[[TimeInput, Calling], Model]]
"""How a network is called, and what makes a model that calls it otherwise."""


def _of_a_card(model: Model) -> _Made | None:
    network = model.network if isinstance(model, NetworkModel) else None
    if not isinstance(model, NetworkModel) or not isinstance(network, Called):
        return None

    def made(time: TimeInput, calling: Calling) -> Model:
        return NetworkModel(
            Called(network.fn, network.classes, time, calling),
            model.schedule,
            model.predicts,
            model.time_input,
            classes=model.classes,
            class_dropout=model.class_dropout,
            noise_dropout=False,
            shape=model.shape,
        )

    return network.time, network.calling, made


def _wrapped(model: CallableModel) -> _Made:
    def made(time: TimeInput, calling: Calling) -> Model:
        other = copy.copy(model)
        other.time, other.calling = time, calling
        return other

    return model.time, model.calling, made


def _answers(model: Model, x: Tensor, t: Tensor, cond: Tensor | None) -> bool:
    try:
        with torch.no_grad():
            return bool(model(x, t, cond).eps.isfinite().all())
    except Exception:  # anybody's network fails in its own way
        return False


def _others(time: TimeInput, calling: Calling, classes: int, *, whole: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Other ways to call a network, those of fewer changes first, each in words and in the fields that change; `whole`: a row's
    width is said as a number."""
    usual = ("x", "t", "label") if "label" in calling.signature else ("x", "t")
    swaps = [order for order in itertools.permutations(usual) if order != calling.signature]
    counted = replace(time, integer=True, conditioning="t", scale=time.scale or 1.0)
    changes: dict[str, tuple[str, Any]] = {
        "time: {column: true}": ("time", replace(time, column=True)),
        "time: {integer: true}": ("time", counted),
        "time: {integer: true, column: true}": ("time", replace(counted, column=True)),
        **{f"signature: ({', '.join(order)})": ("signature", order) for order in swaps},
        "output: first": ("output", "first"),
    }
    if classes and "label" in usual:
        row = LabelInput(one_hot=True).of_classes(classes, calling.null_class)
        changes[f"label: {{one_hot: {row.one_hot if whole else 'true'}}}"] = ("label", row)
        changes["label: {column: true}"] = ("label", LabelInput(column=True))
    for count in range(1, MOST + 1):
        for chosen in itertools.combinations(changes, count):
            given = dict(changes[words] for words in chosen)
            if len(given) == count:
                yield ", ".join(chosen), given
