"""How a network is called: what it takes for the time, its arguments in their order, and which part of its answer counts.

Here t = 0 is data and t = 1 is noise. What a network was trained to take instead is said once, in a card or to `wrap`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from noiseshift.calling import called
from noiseshift.reading import ReadingError

if TYPE_CHECKING:
    from torch import Tensor

    from noiseshift.diffusion.schedules import Schedule

LONGEST = 100_000
"""Steps that a network may know."""

Quantity = Callable[["Schedule", "Tensor"], "Tensor"]


def _log_sigma(schedule: Schedule, t: Tensor) -> Tensor:
    return -0.5 * schedule.log_snr(t)


CONDITIONINGS: Mapping[str, Quantity] = {
    "t": lambda schedule, t: t,
    "sigma": lambda schedule, t: _log_sigma(schedule, t).exp(),
    "log_sigma": _log_sigma,
    "log_sigma/4": lambda schedule, t: _log_sigma(schedule, t) / 4,
    "log_snr": lambda schedule, t: schedule.log_snr(t),
    "alpha": lambda schedule, t: schedule.coefficients(t)[0],
}
"""What networks are conditioned on. sigma is that of states x0 + sigma eps: on other schedules, sigma / alpha."""

ROUNDING = 2.0**-22
"""Relative error of a time that was kept in float32 and computed with once."""


@dataclass(frozen=True)
class TimeInput:
    """What a network takes for the time: `scale` * u + `offset`, u being what it is conditioned on.

    A velocity is read as the slope in the direction that the network counts: zero = noise turns its sign.

    Attributes:
        zero: which end its t = 0 is, "data" or "noise": u = t, or 1 - t.
        scale: factor of u.
        offset: what is added.
        conditioning: one of CONDITIONINGS. sigma is that of states x0 + sigma eps (sigma / alpha on other schedules);
            log_sigma/4 is EDM's c_noise (Karras et al., arXiv 2206.00364).
        integer: whether it takes whole numbers (int64), as an `nn.Embedding` does.
        column: whether it takes shape (B, 1) instead of (B,).

    Raises:
        ReadingError: a value of the wrong kind.
    """

    zero: str = "data"
    scale: float = 1.0
    offset: float = 0.0
    conditioning: str = "t"
    integer: bool = False
    column: bool = False

    def __post_init__(self) -> None:
        if self.zero not in ("data", "noise"):
            raise ReadingError(f"time.zero must be data or noise, got {self.zero!r}")
        for name in ("scale", "offset"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ReadingError(f"time.{name} must be a number, got {value!r}")
            if not -1e300 < value < 1e300:
                raise ReadingError(f"time.{name} must be a finite number")
        for name in ("integer", "column"):
            if not isinstance(getattr(self, name), bool):
                raise ReadingError(f"time.{name} must be true or false, got {getattr(self, name)!r}")
        if self.conditioning not in CONDITIONINGS:
            known = ", ".join(CONDITIONINGS)
            raise ReadingError(f"time.conditioning must be one of {known}, got {self.conditioning!r}")
        if self.conditioning != "t" and self.zero == "noise":
            raise ReadingError(f"time.zero says which way t counts: leave it out beside {self.conditioning}")
        if self.integer and (self.conditioning != "t" or self.scale == 0 or abs(self.scale) > LONGEST):
            raise ReadingError(
                f"time.integer counts steps of t: give scale, the number of steps, from 1 to {LONGEST:,}, and no conditioning"
            )

    @classmethod
    def of(cls, words: Mapping[str, Any] | TimeInput, steps: int | None = None) -> TimeInput:
        """From a card's words; `told` stands for `conditioning`, and `shape: [B, 1]` for `column`. Whole numbers, of which
        nothing else is said, count the `steps` of a table from 0.

        Args:
            words: the fields of `TimeInput`, as a card has them; one that is made already is handed back.
            steps: how many steps the table of a discrete schedule has; None of a continuous one.
        """
        if isinstance(words, TimeInput):
            return words
        given = dict(words)
        if "told" in given:
            given.setdefault("conditioning", given.pop("told"))
        if "shape" in given:
            given.setdefault("column", _is_column(given.pop("shape")))
        if given.get("integer") is True and steps is not None and not {"scale", "offset"} & set(given):
            given |= {"scale": steps, "offset": 0 if given.get("zero") == "noise" else -1}
        try:
            return cls(**given)
        except TypeError:
            raise ReadingError(
                "time takes zero (data or noise), scale, offset, conditioning (sigma, log_sigma/4, …), integer and column"
            ) from None

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The number for each time t, float64: a whole one where it is off by no more than the rounding of a float32 t."""
        import torch

        t = t.double()
        counted = self.scale * CONDITIONINGS[self.conditioning](schedule, 1 - t if self.zero == "noise" else t)
        number = counted + self.offset
        if self.conditioning != "t" or abs(self.scale) < 2:
            return number
        whole = number.round()
        return torch.where((number - whole).abs() <= ROUNDING * abs(self.scale), whole, number)

    def levels(self) -> Tensor | None:
        """(K,) the times, ascending, at which the number is whole and not negative; None where it may be any."""
        import torch

        if not self.integer:
            return None
        ends = sorted((self.offset, self.scale + self.offset))
        first, last = max(0, math.ceil(ends[0] - 1e-6)), math.floor(ends[1] + 1e-6)
        if last <= first:
            raise ReadingError(
                f"time.integer: scale {self.scale:g} and offset {self.offset:g} leave no whole numbers between t = 0 and 1: "
                "give the number of steps as scale"
            )
        u = (torch.arange(first, last + 1, dtype=torch.float64) - self.offset) / self.scale
        return (1 - u if self.zero == "noise" else u).clamp(0, 1).sort().values

    def shaped(self, number: Tensor) -> Tensor:
        """The number (B,) as the network takes it."""
        given = number.round().long() if self.integer else number
        return given[:, None] if self.column else given


def levels_of(schedule: Schedule, time: TimeInput) -> Tensor | None:
    """(K,) the only times that a network knows: its table's, or those at which it is handed a whole number where it takes
    no others. None for a continuous one. Raises ReadingError where a table's steps are no whole numbers to such a one.

    Args:
        schedule: the path on which the network was trained; a `Discrete` one has a table.
        time: what the network takes for the time.
    """
    from noiseshift.diffusion.schedules import Discrete

    if not isinstance(schedule, Discrete):
        return time.levels()
    number = time(schedule, schedule.times)
    if time.integer and not bool((number == number.round()).all() and (number >= 0).all()):
        raise ReadingError(
            f"time.integer: the {len(number)} steps of the schedule are {number[0]:g} … {number[-1]:g} to the network: correct "
            f"scale and offset, such as {{scale: {len(number)}, offset: -1}} for 0 … {len(number) - 1}"
        )
    return schedule.times


def _is_column(shape: Any) -> bool:
    """Whether a shape, in a card's words, is (B, 1) and not (B,)."""
    words = [word.strip() for word in shape.strip("()[] ").split(",")] if isinstance(shape, str) else list(shape)
    words = [str(word) for word in words if str(word)]
    if words not in (["B"], ["B", "1"]):
        raise ReadingError(f"time.shape must be [B] or [B, 1], got {shape!r}")
    return len(words) == 2


@dataclass(frozen=True)
class LabelInput:
    """What a network takes for the class: numbers (B,), unless something else is said.

    Attributes:
        column: whether it takes shape (B, 1) instead of (B,).
        one_hot: the width of rows (B, width) of zeros and a one, in the dtype of the states; None for numbers, and True for as many
            as there are classes, the null class among them where it is a number.

    Raises:
        ReadingError: a value of the wrong kind, or both.
    """

    column: bool = False
    one_hot: int | bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.column, bool):
            raise ReadingError(f"label.column must be true or false, got {self.column!r}")
        wide = isinstance(self.one_hot, int) and not isinstance(self.one_hot, bool) and 2 <= self.one_hot <= LONGEST
        if not wide and self.one_hot not in (None, True):
            raise ReadingError(f"label.one_hot must be the width of a row, or true, got {self.one_hot!r}")
        if self.column and self.one_hot:
            raise ReadingError("label is a column or one-hot, not both: correct one")

    @classmethod
    def of(cls, words: Mapping[str, Any] | LabelInput | None) -> LabelInput | None:
        """From a card's words; `shape: [B, 1]` stands for `column`.

        Args:
            words: the fields of `LabelInput`, as a card has them; one that is made already, or None, is handed back.
        """
        if words is None or isinstance(words, LabelInput):
            return words
        given = dict(words)
        if "shape" in given:
            given.setdefault("column", _is_column(given.pop("shape")))
        try:
            return cls(**given)
        except TypeError:
            raise ReadingError("label takes column (true for shape [B, 1]) or one_hot (the width of a row)") from None

    def of_classes(self, classes: int, null: int | str | None) -> LabelInput:
        """The same with its width, where that is as many as there are classes.

        Args:
            classes: how many, without the null class.
            null: the null class, as `Calling` has it.
        """
        if self.one_hot is not True:
            return self
        return replace(self, one_hot=classes + (isinstance(null, int) and not 0 < null < classes))

    def shaped(self, label: Tensor, x: Tensor) -> Tensor:
        """The classes as the network takes them.

        Args:
            label: (B,) class numbers.
            x: (B, …) states, whose dtype rows take.
        """
        if self.column:
            return label[:, None]
        if not self.one_hot:
            return label
        import torch

        if self.one_hot is True:
            raise ReadingError("label.one_hot: how wide is a row? give a number in place of true")
        outside = label[(label < 0) | (label >= self.one_hot)]
        if len(outside):
            raise ReadingError(
                f"label.one_hot: a row of {self.one_hot} has no place for class {int(outside[0])}: correct it, classes or "
                "null_class"
            )
        return torch.nn.functional.one_hot(label.long(), self.one_hot).to(x.dtype)


ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "x": ("x", "x_t", "xt"),
    "t": ("t", "time", "sigma", "timestep", "timesteps"),
    "label": ("label", "labels", "y", "c", "cond", "class"),
}
"""The arguments of a network, and other words for them."""


@dataclass(frozen=True)
class Calling:
    """How a network of (x, t, label) is called, and what of its answer is the prediction.

    Attributes:
        signature: its arguments in their order, of "x", "t" and "label"; empty where nobody said, see `completed`.
        output: None for a tensor; "first" or a place for a tuple; a name for a field of a dataclass or mapping.
        null_class: the label that asks for the unconditional prediction, "none" for None, None where there is no such.
        label: what it takes for a class; None for numbers (B,).

    Raises:
        ReadingError: a value of the wrong kind.
    """

    signature: tuple[str, ...] = ()
    output: str | int | None = None
    null_class: int | str | None = None
    label: LabelInput | None = None

    def __post_init__(self) -> None:
        if self.signature and (len(set(self.signature)) < len(self.signature) or not {"x", "t"} <= set(self.signature)):
            raise ReadingError(f"signature must name x and t, and label where it takes one, got {self.signature}")
        if isinstance(self.output, bool) or not isinstance(self.output, str | int | None):
            raise ReadingError(f"output must be first, a place in a tuple, or a name, got {self.output!r}")
        whole = isinstance(self.null_class, int) and not isinstance(self.null_class, bool)
        if not (whole or self.null_class in (None, "none")):
            raise ReadingError(f"null_class must be a class number, or none for None, got {self.null_class!r}")

    def completed(self, labelled: bool) -> Calling:
        """The same with a signature, (x, t, label) or (x, t), where it has none."""
        usual = ("x", "t", "label") if labelled else ("x", "t")
        return self if self.signature else replace(self, signature=usual)

    def __call__(self, function: Callable[..., Any], x: Tensor, time: Tensor, label: Tensor | None) -> Any:
        """What the function answers."""
        named = label if label is None or self.label is None else self.label.shaped(label, x)
        given = {"x": x, "t": time, "label": named}
        return self._part(called(function, *(given[name] for name in self.signature)))

    def _part(self, answer: Any) -> Any:
        if self.output is None:
            return answer
        place = 0 if self.output == "first" else self.output
        try:
            return getattr(answer, place) if isinstance(place, str) and hasattr(answer, place) else answer[place]
        except (LookupError, TypeError):
            raise ReadingError(
                f"the network's answer, a {type(answer).__name__}, has no {place!r}: correct output"
            ) from None


def signature_of(words: str | Sequence[str]) -> tuple[str, ...]:
    """ "(t, x)" or [t, x] → ("t", "x"), in the names of ARGUMENTS. Raises ReadingError for a word that is none of them."""
    parts = words.strip("()[] ").split(",") if isinstance(words, str) else words
    named = {word: name for name, words in ARGUMENTS.items() for word in words}
    found = []
    for part in map(str, parts):
        if part.strip("()[] ") not in named:
            raise ReadingError(f"signature is made of x, t and label, such as (t, x), got {part.strip()!r}")
        found.append(named[part.strip("()[] ")])
    return tuple(found)


def takes(function: Callable[..., Any], arguments: int) -> bool:
    """Whether a function can be called with so many arguments, as far as it shows.

    Args:
        function: a function, or a module, of which `forward` is looked at.
        arguments: how many, all of them positional.
    """
    try:
        inspect.signature(getattr(function, "forward", function)).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # of C: it does not show
        return True
    return True
