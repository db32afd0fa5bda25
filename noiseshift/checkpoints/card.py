"""Sidecar cards: what a checkpoint file cannot say of itself, in a few lines of YAML, checked word by word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from noiseshift.schedules import Schedule, build

PREDICTIONS = ("velocity", "epsilon", "x0", "score")


class CheckpointError(ValueError):
    """A checkpoint or card that cannot be used; the message is one line and names the remedy."""


@dataclass(frozen=True)
class TimeInput:
    """How the network counts time: it is handed `scale` * u + `offset`, where u is t, or 1 - t when zero means noise."""

    zero: str = "data"
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.zero not in ("data", "noise"):
            raise CheckpointError(f"card: time.zero must be data or noise, got {self.zero!r}")


@dataclass(frozen=True)
class Card:
    """family: sit, dit or repa; schedule as `noiseshift.schedules.build` takes it; prediction: what the network outputs;
    time: how it counts; heads: attention heads where the width is no official one; estimator: file of a level estimator,
    beside the card; data: name of the matching held-out set; class_names, provenance: for people."""

    family: str
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"kind": "linear"})
    prediction: str = "velocity"
    time: TimeInput = field(default_factory=TimeInput)
    heads: int | None = None
    estimator: str | None = None
    data: str | None = None
    class_names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise CheckpointError(f"card: prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")

    def build_schedule(self) -> Schedule:
        """The schedule. Raises CheckpointError when the card describes none."""
        try:
            return build(self.schedule)
        except ValueError as error:
            raise CheckpointError(f"card: {error}") from None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Card:
        """Raises CheckpointError on unknown or missing keys."""
        known = {f.name for f in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise CheckpointError(
                f"card: unknown key {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}"
            )
        if "family" not in values:
            raise CheckpointError("card: family is missing (sit, dit or repa)")
        values = dict(values)
        try:
            values["time"] = TimeInput(**values.get("time", {}))
        except TypeError:
            raise CheckpointError("card: time takes zero (data or noise), scale and offset") from None
        values["class_names"] = tuple(values.get("class_names", ()))
        return cls(**values)

    @classmethod
    def read(cls, path: str | Path) -> Card:
        """Read a YAML card. Raises CheckpointError when it is missing or no mapping."""
        try:
            values = yaml.safe_load(Path(path).read_text())
        except OSError:
            raise CheckpointError(f"no card at {path}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise CheckpointError(f"{path} is not YAML") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} is no card: it must hold keys and values, family first")
        return cls.from_dict(values)


# What the official code bases mean when there is no card.
FAMILIES: Mapping[str, Card] = {
    # SiT counts 0 = noise, 1 = data, hands the raw time to the embedding and predicts data - noise (arXiv 2401.08740).
    "sit": Card("sit", {"kind": "linear"}, "velocity", TimeInput("noise")),
    # REPA keeps SiT's network but counts 0 = data and predicts noise - data (arXiv 2410.06940).
    "repa": Card("repa", {"kind": "linear"}, "velocity", TimeInput("data")),
    # DiT is handed the integer step 0 … 999 of DDPM's linear betas and predicts the noise (arXiv 2212.09748).
    "dit": Card(
        "dit",
        {"kind": "discrete", "beta_start": 1e-4, "beta_end": 0.02, "steps": 1000},
        "epsilon",
        TimeInput("data", 1000.0, -1.0),
    ),
}
