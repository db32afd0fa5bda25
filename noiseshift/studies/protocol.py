"""A run's protocol: everything that decides its numbers, and the fingerprint by which two runs are known to be the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any, Literal, overload

import torch

from noiseshift.checkpoints import Checkpoint
from noiseshift.checkpoints.files import sha256
from noiseshift.data import Images
from noiseshift.diffusion import schedules, solvers
from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.models import Guidance
from noiseshift.diffusion.solvers import Solver
from noiseshift.evaluation import Extractor
from noiseshift.studies import parts
from noiseshift.studies.parts import FRAME, By, Mask, require_grouping

ESTIMATORS = ("network", "residual", "constant-pixel", "fokker-planck", "score-mixture")

EXPENSIVE = {"fokker-planck": 32, "score-mixture": 32}
"""Estimators that evaluate the network many times per state, and how many samples they read unless another is given."""


class Word:
    """A field that holds a solver, and also takes its word."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> Solver:
        if instance is None:
            raise AttributeError(self.name)  # so says a dataclass that there is no default
        found: Solver = vars(instance)[self.name]
        return found

    def __set__(self, instance: object, value: Solver | str) -> None:
        vars(instance)[self.name] = solvers.solver(value)


class Readers:
    """A field that holds how many samples each estimator reads, and also takes names alone: each then reads all."""

    default = ("network", "residual", "constant-pixel")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> tuple[str, ...]: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Mapping[str, int | None]: ...

    def __get__(self, instance: object, owner: type | None = None) -> Mapping[str, int | None] | tuple[str, ...]:
        if instance is None:
            return self.default  # so a dataclass finds a field's default
        found: Mapping[str, int | None] = vars(instance)[self.name]
        return found

    def __set__(self, instance: object, value: Mapping[str, int | None] | Iterable[str] | str) -> None:
        names = (value,) if isinstance(value, str) else value
        vars(instance)[self.name] = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)


@dataclass(frozen=True)
class Protocol:
    """What decides a run's numbers. Raises ValueError for no samples, an unknown estimator and a word that is no solver.

    Attributes:
        solver: the sampler, or its word, such as "heun:25".
        samples: how many are drawn.
        estimators: names, or a mapping of how many samples each reads (None: all).
        guidance: how the model is guided, or None.
        points: how many of the sampler's steps are read, even in step index.
        calibration_rows: how many real images each estimator is calibrated on at most; None: four per sample, at least 128.
            Their error does not shrink with more samples.
        content_steps: how many steps, for each of the solver's, the final samples of the content control are made with, where it
            can take more; 1 for the run's own final samples.
        controls: whether the controls are run too.
        bands: whether the shift is read by Haar band too, off the residual's predictions.
        mask: a region, in and outside of which the shift is read too, likewise; or None.
        by: groups of samples whose shifts are read one by one: "class", "prompt" or a `Grouping` of these; "frame" for the
            frames of a video, likewise off the residual's predictions; or None.
        batch: samples at once.
        seed: sample i depends on it and on i alone.
        device: where the network computes.
        precision: of the network, "fp32", "bf16" or "fp16"; states and readings stay float32.
    """

    solver: Word = Word()
    samples: int = 256
    estimators: Readers = Readers()
    guidance: Guidance | None = None
    points: int = 8
    calibration_rows: int | None = None
    content_steps: int = 4
    controls: bool = False
    bands: bool = False
    mask: Mask | None = None
    by: By | None = None
    batch: int = 128
    seed: int = 0
    device: str = "cpu"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"there is nothing to do for {self.samples} samples: ask for at least 1")
        if self.batch < 1 or self.points < 1:
            raise ValueError(f"batches of {self.batch} and {self.points} points: give at least 1 of each")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"the seed {self.seed} is out of range: give one from 0 to 2^64 - 1")
        if self.calibration_rows is not None and self.calibration_rows < 2:
            raise ValueError(f"nothing can be calibrated on {self.calibration_rows} states: give at least 2")
        if self.content_steps < 1:
            raise ValueError(
                f"content_steps is how many steps for each of the solver's, at least 1, got {self.content_steps}"
            )
        require_grouping(self.by)
        if (self.bands or self.mask or self.by == FRAME) and "residual" not in self.estimators:
            raise ValueError("bands, a mask and frames are read off the residual: add residual to the estimators")
        unknown = set(self.estimators) - set(ESTIMATORS)
        if unknown or not self.estimators:
            raise ValueError(
                f"unknown estimator {', '.join(sorted(unknown)) or '(none)'}: choose from {', '.join(ESTIMATORS)}"
            )

    @property
    def rows(self) -> int:
        """How many real images calibrate each estimator at most: where `calibration_rows` does not say, four per sample (a fifth of
        the variance is then the calibration's), at least 128."""
        return self.calibration_rows or max(128, 4 * self.samples)

    def bound(self, checkpoint: Checkpoint) -> Protocol:
        """The protocol with what its solver takes from the checkpoint. Raises ValueError where it brings none."""
        return replace(self, solver=solvers.bound(self.solver, checkpoint))


def fingerprint(
    checkpoint: Checkpoint, protocol: Protocol, data: Images | None = None, extractor: Extractor | None = None
) -> dict[str, Any]:
    """Everything that decides a run's numbers, in plain values: what was kept under another one is not used.

    Args:
        checkpoint: as it was loaded, before it is put on a device.
        protocol: what is done with it.
        data: the real images that estimators are fitted and calibrated on.
        extractor: what computes features of the samples.
    """
    guidance = protocol.guidance
    bound = protocol.bound(checkpoint).solver
    return {
        "checkpoint": describe_checkpoint(checkpoint),
        "shape": list(checkpoint.shape),
        "conditions": checkpoint.card.provenance.get("conditions"),
        "schedule": schedules.describe(checkpoint.model.schedule),
        "sampler": bound.name,
        "solver": solvers.describe(bound, checkpoint.model),
        "samples": protocol.samples,
        "batch": protocol.batch,
        "guidance": None if guidance is None else guidance.describe(),
        "estimators": dict(protocol.estimators),
        "points": protocol.points,
        "calibration_rows": protocol.calibration_rows,
        "content_steps": protocol.content_steps,
        "controls": protocol.controls,
        **parts.describe(protocol.bands, protocol.mask, protocol.by),
        "seed": protocol.seed,
        "precision": protocol.precision,
        "device": torch.device(protocol.device).type,
        "data": None if data is None else _data(data),
        "extractor": None if extractor is None else {"name": extractor.name, "identity": identity(extractor)},
        "software": _software(),
    }


def _data(data: Images) -> dict[str, Any]:
    """The images and labels; also the classes' names, by which labels find the checkpoint's classes."""
    named = {"names": identity(data.names)} if data.names else {}
    return {"images": len(data), "sha256": data.sha256, **named}


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """The file, the model that was made of it, the card as it was completed, and what else answers or decodes."""
    card = asdict(checkpoint.card)
    if (
        card["label"] is None
    ):  # a word that came later counts where it is said: what earlier runs made keeps its identity
        del card["label"]
    coder = checkpoint.autoencoder
    estimator = checkpoint.estimator
    stated = {name: value for name, value in card.items() if name not in FOR_PEOPLE and value not in (None, {})}
    return {
        "name": checkpoint.name,
        "sha256": checkpoint.hash,
        "family": checkpoint.card.family,
        **{key: checkpoint.card.provenance[key] for key in ("variant",) if key in checkpoint.card.provenance},
        "weights": checkpoint.card.provenance.get("weights", "the whole file"),
        "model": identity(checkpoint.model),
        **({} if checkpoint.sampled is None else {"sampled": identity(checkpoint.sampled)}),
        "card": stated | {"identity": identity(card)},
        "classes": checkpoint.classes,
        "autoencoder": None if coder is None else identity(coder),
        "decoder": identity(checkpoint.decode),
        "estimator": sha256(estimator) if estimator and estimator.is_file() else None,
    }


def as_it_reads(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as estimators read with it: without the cache that samples, and without the word of its variant. What a
    variant changes in the model is in the model's own identity; so what variants share is made once."""
    provenance = {name: value for name, value in checkpoint.card.provenance.items() if name != "variant"}
    return replace(checkpoint, sampled=None, card=replace(checkpoint.card, provenance=provenance))


FOR_PEOPLE = ("family", "schedule", "class_names", "provenance")
"""What a manifest does not repeat of a card; its identity holds them too."""


def _software() -> dict[str, str]:
    """Our own version, and torch's major and minor: others compute otherwise."""
    return {
        "noiseshift": metadata.version("noiseshift"),
        "torch": ".".join(metadata.version("torch").split(".")[:2]),
    }
