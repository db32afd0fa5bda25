"""A network that fails when it is called as its card says: with which other words of the card it can be called."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from noiseshift.checkpoints.custom_code import Called
from noiseshift.diffusion.models import Model
from noiseshift.networks.model import NetworkModel

MOST = 2
"""Words that are changed at once."""


def better_call(model: Model, x: Tensor, t: Tensor, cond: Tensor | None) -> str | None:
    """The words of a card with which a network of custom code can be called, the fewest; None where there are none, or
    it is no such network.

    Args:
        model: its network failed on these arguments.
        x: (B, …) states.
        t: () a time.
        cond: (B,) classes, or None.
    """
    if not isinstance(model, NetworkModel) or not isinstance(model.network, Called):
        return None
    for words, network in _others(model.network):
        tried = NetworkModel(
            network,
            model.schedule,
            model.predicts,
            model.time_input,
            classes=model.classes,
            class_dropout=model.class_dropout,
            noise_dropout=False,
            shape=model.shape,
        )
        if _answers(tried, x, t, cond):
            return words
    return None


def _answers(model: NetworkModel, x: Tensor, t: Tensor, cond: Tensor | None) -> bool:
    try:
        with torch.no_grad():
            return bool(model(x, t, cond).eps.isfinite().all())
    except Exception:  # anybody's network fails in its own way
        return False


def _others(network: Called) -> Iterator[tuple[str, Called]]:
    """The network called in other ways, those of fewer changes first, each in the words of a card."""
    time = network.time
    calling = network.calling
    usual = ("x", "t", "label") if network.classes else ("x", "t")
    swaps = [order for order in itertools.permutations(usual) if order != calling.signature]
    changes: dict[str, tuple[str, Any]] = {
        "time: {column: true}": ("time", replace(time, column=True)),
        "time: {integer: true}": ("time", replace(time, integer=True, conditioning="t", scale=time.scale or 1.0)),
        "time: {integer: true, column: true}": (
            "time",
            replace(time, integer=True, column=True, conditioning="t", scale=time.scale or 1.0),
        ),
        **{f"signature: ({', '.join(order)})": ("signature", order) for order in swaps},
        "output: first": ("output", "first"),
    }
    for count in range(1, MOST + 1):
        for chosen in itertools.combinations(changes, count):
            kinds = [changes[words][0] for words in chosen]
            if len(set(kinds)) == count:
                given = {changes[words][0]: changes[words][1] for words in chosen}
                called: dict[str, Any] = {name: value for name, value in given.items() if name != "time"}
                fresh = Called(network.fn, network.classes, given.get("time", time), replace(calling, **called))
                yield ", ".join(chosen), fresh
