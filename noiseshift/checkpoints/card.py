"""Sidecar cards: what a checkpoint file cannot say of itself, in a few lines of YAML, checked word by word."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from noiseshift.diffusion.conventions import Calling, LabelInput, TimeInput, signature_of
from noiseshift.reading import ReadingError, read_yaml

if TYPE_CHECKING:
    from noiseshift.diffusion.models import Predicts
    from noiseshift.diffusion.schedules import Schedule

LARGEST = {"heads": 1 << 16, "head_channels": 1 << 16, "size": 1 << 16, "classes": 1 << 20}
LONGEST = 100_000
"""Steps of a schedule; a longer table is none."""
NUMBERS = 1 << 28
"""Of one state."""
PREDICTIONS = ("velocity", "epsilon", "x0", "score", "v_prediction")


class CheckpointError(ReadingError):
    """A checkpoint or card that cannot be used; the message is one line and names the remedy."""


class HoldsCode(CheckpointError):
    """A file that only its own code can rebuild."""


@dataclass(frozen=True)
class Card:
    """What the tensors of a checkpoint do not tell. A value of the wrong kind raises CheckpointError.

    Attributes:
        family: one of FAMILIES (or diffusers, for its folders).
        schedule: as `noiseshift.diffusion.schedules.build` takes it.
        prediction: velocity, epsilon, x0, score or v_prediction.
        time: how the network counts.
        heads: attention heads, where the width is no official one.
        head_channels: channels of a head, in place of heads.
        attention_order: "new" where an ADM network was trained with --use_new_attention_order.
        size: pixels per side, or [height, width], where the network takes several.
        classes: how many; only where the network has no null class.
        estimator: file of a level estimator beside the card.
        data: name of the matching held-out set.
        shape: of a state, where the model is a callable: (C, H, W), (d,), (C, L), (C, T, H, W), …
        range: what black and white are for the network, where not -1 and 1.
        signature: how a callable takes its arguments; see `diffusion.conventions.Calling`.
        output: what it returns; see there.
        null_class: what it takes for no class; see there. 0 says that its classes start at 1: class k is k + 1 to it.
        label: what it takes for the class, where not numbers (B,).
        latents: center and spread, a number per channel each, where states are (z - center) / spread of an autoencoder's
            latents z in another way than its configuration says; and range, what it takes black and white for where not
            -1 and 1.
        class_names: for people.
        provenance: for people.
    """

    family: str
    schedule: Mapping[str, Any] = field(default_factory=lambda: {"kind": "linear"})
    prediction: str = "velocity"
    time: TimeInput = field(default_factory=TimeInput)
    heads: int | None = None
    head_channels: int | None = None
    attention_order: str | None = None
    size: int | tuple[int, int] | None = None
    classes: int | None = None
    estimator: str | None = None
    data: str | None = None
    shape: tuple[int, ...] | None = None
    range: tuple[float, float] | None = None
    signature: tuple[str, ...] = ()
    output: str | int | None = None
    null_class: int | str | None = None
    label: LabelInput | None = None
    latents: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise CheckpointError(f"card: prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        _check("schedule", self.schedule, Mapping, "a mapping such as {kind: linear}")
        _check("provenance", self.provenance, Mapping, "a mapping")
        _check("latents", self.latents, Mapping, "a mapping of center and spread")
        if self.latents and not _standard(self.latents):
            raise CheckpointError(
                "card: latents must be {center: [a number per channel], spread: [as many above 0], range: [0, 1]}"
            )
        if self.range is not None and not (
            _numbers(self.range) and len(self.range) == 2 and self.range[0] < self.range[1]
        ):
            raise CheckpointError(f"card: range must be what black and white are, such as [0, 1], got {self.range!r}")
        if self.latents and self.range:
            raise CheckpointError("card: range is for pixels; that of latents stands in latents")
        own = [name for name in ("signature", "output", "null_class", "label") if getattr(self, name) not in (None, ())]
        if own and self.family != "callable":
            raise CheckpointError(
                f"card: {own[0]} is for a network of your own code (family: callable), not {self.family}"
            )
        if own or self.family == "callable":
            self._check_calling()
        if self.attention_order not in (None, "legacy", "new"):
            raise CheckpointError(f"card: attention_order must be legacy or new, got {self.attention_order!r}")
        self._check_size()
        for name in ("heads", "head_channels", "classes"):
            value = getattr(self, name)
            _check(name, value, int | None, "a whole number above 0")
            if value is not None and not 1 <= value <= LARGEST[name]:
                raise CheckpointError(f"card: {name} must be a whole number from 1 to {LARGEST[name]:,}")
        for name in ("estimator", "data"):
            _check(name, getattr(self, name), str | None, "a name")
        if self.estimator is not None and (Path(self.estimator).name != self.estimator or self.estimator in ("", "..")):
            raise CheckpointError(f"card: estimator must be the name of a file beside the card, got {self.estimator!r}")

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width, by its size or else by its shape; None where neither says them."""
        if self.size is not None:
            return (self.size, self.size) if isinstance(self.size, int) else self.size
        return self.shape[1:] if self.shape is not None and len(self.shape) == 3 else None

    def _check_size(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        whole = [
            isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= LARGEST["size"] for side in sides
        ]
        if self.size is not None and not (len(sides) == 2 and all(whole)):
            raise CheckpointError(
                f"card: size must be a whole number from 1 to {LARGEST['size']:,}, or two of them, [height, width]"
            )

    @property
    def calling(self) -> Calling:
        """How its network is called."""
        label = self.label and self.label.of_classes(self.classes or 0, self.null_class)
        return Calling(self.signature, self.output, self.null_class, label)

    def _check_calling(self) -> None:
        with said_of_the_card():
            calling = self.calling
        null = calling.null_class
        if isinstance(null, int) and self.classes and 0 < null < self.classes:
            raise CheckpointError(
                f"card: classes are 0 … {self.classes - 1}, so null_class must be another than {null}; 0 where classes start at 1 "
                "in the network"
            )
        if not self.classes and (
            named := next((n for n in ("null_class", "label") if getattr(self, n) is not None), None)
        ):
            raise CheckpointError(f"card: {named} is for a network of classes: say how many with classes")
        if self.signature and ("label" in self.signature) != bool(self.classes):
            raise CheckpointError(
                "card: signature names a label where there are classes, and only there: correct one of both"
            )

    @property
    def predicts(self) -> Predicts:
        """`prediction`, checked."""
        return cast("Predicts", self.prediction)

    def build_schedule(self) -> Schedule:
        """The schedule. Raises CheckpointError when the card describes none, or one whose noise does not grow."""
        import torch

        from noiseshift.diffusion.schedules import build

        if any(isinstance(value, int | float) and not _finite(value) for value in self.schedule.values()):
            raise CheckpointError("card: the numbers of a schedule must be finite")
        steps = self.schedule.get("steps", 1000)
        if not isinstance(steps, int) or not 2 <= steps <= LONGEST:
            raise CheckpointError(f"card: steps of a schedule must be a whole number from 2 to {LONGEST:,}")
        try:
            schedule = build(self.schedule)
            log_snr = schedule.log_snr(torch.linspace(0, 1, 33, dtype=torch.float64))
        except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, MemoryError) as error:
            raise CheckpointError(f"card: {(str(error).splitlines() or [type(error).__name__])[0][:200]}") from None
        if not bool((log_snr.diff() < 0).all()):
            raise CheckpointError(f"card: noise must grow from t = 0 to t = 1, it does not in {schedule!r}")
        return schedule

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], in_file: Card | None = None) -> Card:
        """A card from plain values.

        Args:
            values: Keys are the attributes of a card. What is left out is as `in_file`, or as the family's official code means it.
            in_file: The card that the checkpoint file itself makes; it counts where `values` name the same family or none.

        Raises:
            CheckpointError: An unknown key, an unknown family, or a value of the wrong kind.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(str(key) for key in set(values) - set(known))
        if unknown:
            raise CheckpointError(f"card: unknown key {', '.join(unknown)}; known are {', '.join(known)}")
        family = values.get("family", in_file and in_file.family)
        usual = FAMILIES.get(family) if isinstance(family, str) else None
        if in_file is not None and in_file.family == family:
            usual = in_file
        if usual is None:
            reason = "is missing" if family is None else f"{family!r} is unknown"
            raise CheckpointError(f"card: family {reason}: choose from {', '.join(FAMILIES)}")
        given = {name: getattr(usual, name) for name in known}
        if not {"heads", "head_channels"}.isdisjoint(values):  # one stands for the other
            given |= {"heads": None, "head_channels": None}
        given |= values
        if isinstance(given["time"], Mapping):
            given["time"] = _time(given["time"], given["schedule"])
        if isinstance(given["signature"], str | list | tuple) and given["signature"]:
            with said_of_the_card():
                given["signature"] = signature_of(given["signature"])
        if isinstance(given["label"], Mapping):
            with said_of_the_card():
                given["label"] = LabelInput.of(given["label"])
        _check("label", given["label"], LabelInput | None, "a mapping such as {one_hot: true}")
        for name in ("range", "size"):
            if isinstance(given[name], list):
                given[name] = tuple(given[name])
        _check("time", given["time"], TimeInput, "a mapping such as {zero: data, scale: 1000}")
        _check("class_names", given.get("class_names", ()), list | tuple, "a list of names")
        if given.get("shape") is not None:
            given["shape"] = _shape(given["shape"])
        if not all(isinstance(name, str | int | float) for name in given["class_names"]):
            raise CheckpointError("card: class_names must be a list of names")
        given["class_names"] = tuple(str(name) for name in given["class_names"])
        return cls(**given)

    @classmethod
    def read(cls, path: str | Path, in_file: Card | None = None) -> Card:
        """Read a YAML card.

        Args:
            path: The file, at most 4 MB.
            in_file: The card that the checkpoint file itself makes; see `from_dict`.

        Raises:
            CheckpointError: It is missing, no mapping, or holds what `from_dict` refuses.
        """
        values = read_yaml(path, "card", "write it as lines of key: value, family first", CheckpointError)
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} is no card: it must hold keys and values, family first")
        return cls.from_dict(values, in_file)


def _check(name: str, value: object, kind: Any, what: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CheckpointError(f"card: {name} must be {what}, got {value!r}")


def _standard(latents: Mapping[str, Any]) -> bool:
    """Whether this is a center and a positive spread of as many channels, and maybe a range."""
    center, spread, ends = (latents.get(name) for name in ("center", "spread", "range"))
    if set(latents) - {"range"} != {"center", "spread"} or not (_numbers(center) and _numbers(spread)):
        return False
    channels = len(center) == len(spread) > 0 and min(spread) > 0
    return channels and (ends is None or (_numbers(ends) and len(ends) == 2 and ends[0] < ends[1]))


def _numbers(row: Any) -> TypeGuard[list[float] | tuple[float, ...]]:
    return isinstance(row, list | tuple) and all(isinstance(n, int | float) and _finite(n) for n in row)


def _finite(number: float) -> bool:
    """Whether it is a number that a float can hold, a whole one too."""
    return -1e300 < number < 1e300


def _shape(value: Any) -> tuple[int, ...]:
    whole = isinstance(value, list | tuple) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 1 << 16 for n in value
    )
    if not whole or not 1 <= len(value) <= 4 or math.prod(value) > NUMBERS:
        raise CheckpointError(
            f"card: shape must be that of one state, such as [channels, height, width], in at most 4 whole numbers, got {value!r}"
        )
    return tuple(value)


def _time(values: Mapping[str, Any], schedule: object) -> TimeInput:
    steps = None
    if isinstance(schedule, Mapping) and schedule.get("kind") == "discrete":
        table = schedule.get("alphas_cumprod")
        steps = len(table) if isinstance(table, list | tuple) else schedule.get("steps", 1000)
    with said_of_the_card():
        return TimeInput.of(values, steps)


@contextmanager
def said_of_the_card() -> Iterator[None]:
    """What is wrong with a part of a card is said of the card."""
    try:
        yield
    except ReadingError as error:
        raise CheckpointError(f"card: {error}") from None


# What the official code bases mean when there is no card.
FAMILIES: Mapping[str, Card] = {
    # SiT counts 0 = noise, 1 = data, hands the raw time to the embedding and predicts data - noise (arXiv 2401.08740).
    "sit": Card("sit", {"kind": "linear"}, "velocity", TimeInput("noise")),
    # DiT is handed the integer step 0 … 999 of DDPM's linear betas and predicts the noise (arXiv 2212.09748).
    "dit": Card(
        "dit",
        {"kind": "discrete", "beta_start": 1e-4, "beta_end": 0.02, "steps": 1000},
        "epsilon",
        TimeInput("data", 1000.0, -1.0),
    ),
    # REPA keeps SiT's network but counts 0 = data and predicts noise - data (arXiv 2410.06940).
    "repa": Card("repa", {"kind": "linear"}, "velocity", TimeInput("data")),
    # Denoisers of states x0 + sigma eps, conditioned on sigma; the file itself gives the range (arXiv 2206.00364, 2312.02696).
    "edm": Card("edm", {"kind": "variance-exploding"}, "x0"),
    "edm2": Card("edm2", {"kind": "variance-exploding"}, "x0"),
    # guided-diffusion is handed DDPM's integer step; --noise_schedule linear and the noise are its defaults (2105.05233).
    "adm": Card("adm", {"kind": "discrete", "steps": 1000}, "epsilon", TimeInput("data", 1000.0, -1.0)),
    # torchcfm counts 0 = noise, hands the raw time to the embedding and predicts data - noise (arXiv 2302.00482).
    "torchcfm": Card("torchcfm", {"kind": "linear"}, "velocity", TimeInput("noise")),
    # denoising-diffusion-pytorch's GaussianDiffusion() as it comes: 1000 steps of sigmoid betas, v, an integer step.
    "lucidrains": Card(
        "lucidrains",
        {"kind": "discrete", "betas": "sigmoid", "steps": 1000},
        "v_prediction",
        TimeInput("data", 1000.0, -1.0),
    ),
    # k-diffusion's networks are conditioned on sigma, and denoise; each file has its range of sigmas (arXiv 2206.00364).
    "k-diffusion": Card("k-diffusion", {"kind": "variance-exploding"}, "x0", TimeInput("data")),
    # Single files of Stable Diffusion's original layout; their tensors show the rest (arXiv 2112.10752).
    "stable-diffusion": Card(
        "stable-diffusion", {"kind": "discrete", "steps": 1000}, "epsilon", TimeInput("data", 1000.0, -1.0)
    ),
    # Anybody's function of (x, t): counts as we do unless its card says otherwise.
    "callable": Card("callable", {"kind": "linear"}, "velocity", TimeInput("data")),
}
