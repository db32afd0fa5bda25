"""Named changes of one checkpoint, from the same seeds: what precision, compilation, quantisation, a cache or fewer steps do.

A variant changes what samples. What reads is the checkpoint as it is wherever that is possible: a cached network does nothing but
sample. Every variant is in the run's fingerprint by its word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from noiseshift.checkpoints import Checkpoint
from noiseshift.checkpoints.diffusers.caching import KINDS, Cached
from noiseshift.diffusion.models import Guided, Model
from noiseshift.networks.model import NetworkModel, Precision
from noiseshift.networks.variants import HALVES, compiled, quantised, with_rounded_time
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.sampling import sampler_run
from noiseshift.studies.words import VARIANTS

Change = Callable[[Checkpoint, Protocol], tuple[Checkpoint, Protocol]]

PRECISIONS: Mapping[str, Precision] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}


CALIBRATING = 8
"""Samples on which the cache `mag` is calibrated."""


@dataclass(frozen=True)
class Variant:
    """A named change of a checkpoint.

    Attributes:
        name: its word.
        change: what it does.
        lora: a LoRA file, with its scale, that the checkpoint is loaded with; or None.
    """

    name: str
    change: Change
    lora: str | None = None

    def __call__(self, checkpoint: Checkpoint, protocol: Protocol) -> tuple[Checkpoint, Protocol]:
        """The changed checkpoint, named in its card, and protocol. Raises ValueError, in one line, where it cannot be had."""
        made, how = self.change(checkpoint, protocol)
        card = replace(made.card, provenance={**made.card.provenance, "variant": self.name})
        return replace(made, card=card), how


def variant(word: str) -> Variant:
    """The variant of a word. Raises ValueError naming what exists."""
    name, _, value = word.partition("=")
    if word in PRECISIONS:
        return Variant(word, lambda checkpoint, protocol: (checkpoint, replace(protocol, precision=PRECISIONS[word])))
    if name == "time" and value in HALVES:
        return Variant(word, _of_network(word, lambda model: with_rounded_time(model, value)))
    if name == "compile" and (value or word == name):
        return Variant(word, _of_network(word, lambda model: compiled(model, value or "inductor")))
    if word == "int8":
        return Variant(word, _of_network(word, quantised))
    if name == "steps" and value.isascii() and value.isdigit():
        return Variant(word, lambda checkpoint, protocol: (checkpoint, _with_steps(protocol, int(value))))
    if name == "lora" and value:
        return Variant(word, lambda checkpoint, protocol: (checkpoint, protocol), value)
    if name == "cache" and (found := _cache(value)) is not None:
        return Variant(word, _cached(word, *found))
    raise ValueError(f"{word!r} is no variant: choose from {VARIANTS}")


def _cache(value: str) -> tuple[str, float | None] | None:
    kind, colon, number = value.partition(":")
    try:
        return (kind, float(number) if colon else None) if kind in KINDS else None
    except ValueError:
        return None


def _of_network(word: str, change: Callable[[NetworkModel], NetworkModel]) -> Change:
    def changed(checkpoint: Checkpoint, protocol: Protocol) -> tuple[Checkpoint, Protocol]:
        return replace(checkpoint, model=change(_network(checkpoint, word))), protocol

    return changed


def _cached(word: str, kind: str, value: float | None) -> Change:
    def changed(checkpoint: Checkpoint, protocol: Protocol) -> tuple[Checkpoint, Protocol]:
        def walk(model: Model) -> None:
            """A few samples of the run."""
            sampling = model if protocol.guidance is None else Guided(model, protocol.guidance)
            few = range(min(CALIBRATING, protocol.samples))
            for _ in sampler_run(sampling, checkpoint, protocol.bound(checkpoint), few):
                pass

        return replace(checkpoint, sampled=Cached(_network(checkpoint, word), kind, value, walk)), protocol

    return changed


def _network(checkpoint: Checkpoint, word: str) -> NetworkModel:
    model: Any = checkpoint.model
    if not isinstance(model, NetworkModel):
        raise ValueError(f"{checkpoint.name} was made by custom code, which {word} cannot change: leave it out")
    return model


def _with_steps(protocol: Protocol, steps: int) -> Protocol:
    solver: Any = protocol.solver
    if hasattr(solver, "options"):
        return replace(protocol, solver=type(solver)(solver.scheduler, steps, **solver.options))
    return replace(protocol, solver=replace(solver, steps=steps))
