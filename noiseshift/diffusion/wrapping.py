"""Models of any callable: `wrap` says once what a network takes for the time and the class, and in which space it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from noiseshift.calling import called
from noiseshift.diffusion.conventions import Calling, LabelInput, TimeInput, levels_of, signature_of, takes
from noiseshift.diffusion.memory import Halving, joined
from noiseshift.diffusion.models import Model, as_time, checked, nearest, require, require_states
from noiseshift.diffusion.predictions import (
    FULL,
    READ,
    Branch,
    Prediction,
    Predicts,
)
from noiseshift.diffusion.schedules import Discrete, Schedule

PLAIN_TIME = TimeInput()


PLAIN_CALLING = Calling(("x", "t", "label"))


class CallableModel:
    """A model around a callable, as `wrap` makes it.

    Args:
        fn: the network, called as `calling` says.
        schedule: the path on which it was trained.
        predicts: the space of its answer, one of `READ`.
        blind: its noise-unconditional branch, called as (x, cond), or None.
        levels: (K,) the only times that it knows, or None.
        unconditional: whether it answers without a class.
        time: what it takes for the time.
        calling: its arguments in their order, and which part of its answer counts.
        range: what black and white are in its states, where not (-1, 1).
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        schedule: Schedule,
        predicts: Predicts,
        blind: Callable[[Tensor, Tensor | None], Tensor] | None,
        levels: Tensor | None,
        unconditional: bool,
        time: TimeInput = PLAIN_TIME,
        calling: Calling = PLAIN_CALLING,
        range: tuple[float, float] | None = None,
    ):
        self.fn = fn
        self.schedule = schedule
        self.blind = blind
        self.levels = levels
        self.predicts = predicts
        self.read = READ[predicts]
        self.time = time
        self.calling = calling
        self.range = range
        self.sign = -1.0 if time.zero == "noise" and predicts == "velocity" else 1.0
        noise = [True] if blind is None else [True, False]
        condition = [True, False] if unconditional else [True]
        self.branches = frozenset(Branch(n, c) for n in noise for c in condition)
        self.halving = Halving("the model")

    def snap(self, t: Tensor) -> Tensor:
        return nearest(self.levels, t)

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        return self.predict(x, t, cond, (FULL,))[0]

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        require(self, branches)
        require_states(x, cond)
        level = self.schedule(t).like(x)
        return tuple(self.read(self._value(x, t, cond, branch), x, level) for branch in branches)

    def time_input(self, t: Tensor) -> Tensor:
        """The number that the network takes at times t, float64."""
        return self.time(self.schedule, t)

    def raw(self, x: Tensor, time: Tensor, cond: Tensor | None) -> Tensor:
        """What the network itself answers to states x (B, …) and the number (B,) that it takes for the time: no sign, no
        reading.

        Args:
            x: states (B, …).
            time: (B,) in the network's own units, as `time_input` gives them.
            cond: (B,) classes; None is the null class where the network has one.

        Returns:
            (B, …) in the dtype of x.
        """
        null = self.calling.null_class
        if cond is None and isinstance(null, int):
            cond = torch.full((len(x),), null, device=x.device)
        answer = self.calling(self.fn, x, self.time.shaped(as_time(time, x).expand(len(x))), cond)
        return checked(answer, x, f"the model, which predicts {self.predicts},")

    def _value(self, x: Tensor, t: Tensor, cond: Tensor | None, branch: Branch) -> Tensor:
        answer = self._with_level if branch.noise else self._without_level
        time = as_time(self.time_input(t), x).expand(len(x))
        parts = self.halving(answer, x, time, cond if branch.condition else None)
        return joined(parts)

    def _with_level(self, x: Tensor, time: Tensor, cond: Tensor | None) -> Tensor:
        return self.sign * self.raw(x, time, cond)

    def _without_level(self, x: Tensor, time: Tensor, cond: Tensor | None) -> Tensor:
        assert self.blind is not None  # `require` saw to it
        return checked(called(self.blind, x, cond), x, "the model's noise-unconditional branch")


def wrap(
    fn: Callable[..., Any],
    schedule: Schedule,
    *,
    predicts: Predicts = "velocity",
    blind: Callable[[Tensor, Tensor | None], Tensor] | None = None,
    levels: Tensor | None = None,
    unconditional: bool = False,
    time: TimeInput | Mapping[str, Any] | None = None,
    range: Sequence[float] | None = None,
    null_class: int | str | None = None,
    signature: str | Sequence[str] = (),
    output: str | int | None = None,
    label: LabelInput | Mapping[str, Any] | None = None,
) -> Model:
    """Make a model of any callable; a card's words say what a network takes otherwise.

    Args:
        fn: called as fn(x, t, cond), or fn(x, t), with states x (B, …), times t (B,) in [0, 1], t = 0 data, and classes (B,)
            or None; it returns a tensor like x.
        schedule: the path between data and noise on which it was trained.
        predicts: what comes back: "velocity", "epsilon", "x0", "score" or "v_prediction".
        blind: the noise-unconditional branch, called as blind(x, cond); it answers in the same space.
        levels: (K,) the only times that the network knows; None for a continuum, or for those at which `time` is whole where
            it is an integer.
        unconditional: whether cond=None stands for the unconditional branch.
        time: what the network takes in place of t: {"conditioning": "sigma"}, {"integer": True} for the steps of a table from
            0, {"zero": "noise"}, …; see `diffusion.conventions.TimeInput`.
        range: what black and white are for the network, where not (-1, 1). States are then in that range.
        null_class: the class that stands for the unconditional branch; "none" for None.
        signature: the arguments in their order: "(t, x)", "(x, label, t)".
        output: "first" of a tuple, a place in it, or a field's name.
        label: what the network takes for the class in place of numbers (B,): {"column": True} for (B, 1), {"one_hot": 10} for
            rows of ten.

    Returns:
        A model, for samplers, guidance and estimators.

    Raises:
        ValueError: for an unknown word, or a wrong value.
    """
    if predicts not in READ:
        raise ValueError(f"predicts must be one of {', '.join(READ)}, got {predicts!r}")
    convention = TimeInput.of(time or {}, len(schedule.times) if isinstance(schedule, Discrete) else None)
    calling = Calling(signature_of(signature) if signature else (), output, null_class, LabelInput.of(label))
    if range is not None and not (len(range) == 2 and float(range[0]) < float(range[1])):
        raise ValueError(f"range must be what black and white are, such as (0, 1), got {range!r}")
    known = levels_of(schedule, convention) if levels is None and convention.integer else levels
    return CallableModel(
        fn,
        schedule,
        predicts,
        blind,
        None if known is None else torch.as_tensor(known).sort().values,
        unconditional or null_class is not None,
        convention,
        calling.completed(labelled=takes(fn, 3)),
        None if range is None else (float(range[0]), float(range[1])),
    )
