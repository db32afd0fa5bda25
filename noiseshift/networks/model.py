"""A class-conditional network as a `Model`: several branches in one forward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from noiseshift.calling import evaluating
from noiseshift.diffusion.memory import Halving, joined
from noiseshift.diffusion.models import (
    FULL,
    READ,
    Branch,
    Prediction,
    Predicts,
    as_time,
    checked,
    nearest,
    require,
    require_states,
)
from noiseshift.diffusion.schedules import Schedule

Precision = Literal["fp32", "bf16", "fp16"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

ON_CPU = 64
"""Rows that go through at once on a CPU unless a trial finds better ones (`studies.pace`): 192 and 256 rows of a small transformer
take 1.6 … 2 times as long a row, since their activations leave the cache."""


class NetworkModel:
    """Wraps a network called as network(x, time, label, known) -> (B, C or 2C, H, W), such as `Transformer`.

    A second half of output channels (a learned variance, as DiT's) is dropped. cond: integer classes (B,), or None for the null
    class; a network of 0 classes ignores it.

    Args:
        network: Is set to evaluation, without gradients.
        schedule: The path that it was trained on.
        predicts: What it predicts.
        time_input: Maps t (B,), t = 0 data, to the number that the network's embedding was trained on.
        classes: How many, without the null class; 0 for an unconditional network.
        class_dropout: Whether label `classes` is a null class.
        noise_dropout: Whether it has a noise-unconditional branch, for `known` False.
        shape: (C, H, W) that it works on, None where any size goes.
        sign: -1 turns a velocity that points from noise to data around.
        levels: (K,) the only times that it knows, None for a continuum.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        predicts: Predicts,
        time_input: Callable[[Tensor], Tensor],
        *,
        classes: int,
        class_dropout: bool,
        noise_dropout: bool,
        shape: tuple[int, ...] | None = None,
        sign: float = 1.0,
        levels: Tensor | None = None,
    ):
        self.network = network.eval().requires_grad_(False)
        self.schedule = schedule
        self.time_input = time_input
        self.classes = classes
        self.class_dropout = class_dropout
        self.noise_dropout = noise_dropout
        self.shape = shape
        self.predicts = predicts
        self.sign = sign
        self.levels = levels
        self.precision: Precision = "fp32"
        self.halving = Halving("the network")
        self._dtype = next((p.dtype for p in network.parameters()), torch.get_default_dtype())

    def to(self, device: torch.device | str, precision: str = "fp32") -> NetworkModel:
        """The same model computing on a device. The weights are moved, not copied: both models share them.

        Args:
            device: Where the network goes.
            precision: "fp32", or "bf16" or "fp16" by autocast: times, states and predictions keep their own precision.

        Raises:
            ValueError: The precision is another word.
        """
        if precision not in ("fp32", *AUTOCAST):
            raise ValueError(f"precision must be fp32, bf16 or fp16, got {precision!r}")
        moved = copy.copy(self)
        moved.network = self.network.to(device)
        moved.precision = cast("Precision", precision)
        return moved

    @property
    def branches(self) -> frozenset[Branch]:
        noise = [True, False] if self.noise_dropout else [True]
        condition = [True, False] if self.class_dropout else [True]
        return frozenset(Branch(n, c) for n in noise for c in condition)

    def snap(self, t: Tensor) -> Tensor:
        return nearest(self.levels, t)

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        return self.predict(x, t, cond, (FULL,))[0]

    def predict(self, x: Tensor, t: Tensor, cond: Tensor | None, branches: Sequence[Branch]) -> tuple[Prediction, ...]:
        """The predictions of several branches, from one forward of the network as far as memory goes.

        Args:
            x: (B, C, H, W), or states of another shape.
            t: () or (B,), t = 0 data.
            cond: Integer classes (B,), or None for the null class.
            branches: The conditions that each prediction keeps.

        Returns:
            One prediction per branch, in order.

        Raises:
            ValueError: A branch that the network lacks, a class that it has not, or a batch of another shape than its own.
        """
        require(self, branches)
        require_states(x, None)
        if self.shape is not None and tuple(x.shape[1:]) != tuple(self.shape):
            raise ValueError(f"this network works on (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        level = self.schedule(t.double()).like(x)
        copies = len(branches)
        rows = len(x)
        labels = torch.cat([self._labels(cond, branch, x) for branch in branches])
        known = torch.tensor([b.noise for b in branches], device=x.device).repeat_interleave(rows)
        states = x.to(self._dtype).repeat(copies, *[1] * (x.ndim - 1))
        # Steps and the network's own time are computed in float64: 1000 t - 1 of a float32 t is no whole number.
        time = as_time(self.time_input(t.double()), states).expand(rows).repeat(copies)
        most = ON_CPU if x.device.type == "cpu" else None
        answers = self.halving(self._mean, states, time, labels, known, most=most)
        values = self.sign * joined(answers).to(x.dtype)
        return tuple(READ[self.predicts](value, x, level) for value in values.split(rows))

    def _mean(self, states: Tensor, time: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        """The network's answer about `states` without the variance that some networks add."""
        half = AUTOCAST.get(self.precision)
        with torch.autocast(states.device.type, half or torch.bfloat16, enabled=half is not None):
            with evaluating("the network"):
                output = self.network(states, time, labels, known)
        rows, channels, *rest = states.shape
        learned = isinstance(output, Tensor) and output.ndim == states.ndim and output.shape[1] == 2 * channels
        wanted = (rows, 2 * channels if learned else channels, *rest)
        return checked(output, states, "the network", wanted)[:, :channels]

    def raw(self, x: Tensor, time: Tensor, cond: Tensor | None) -> Tensor:
        """What the network itself answers under all conditions: no sign, no reading, no learned variance.

        Args:
            x: States (B, …).
            time: (B,), the number that its embedding takes for the time.
            cond: Integer classes (B,), or None for the null class.
        """
        states = x.to(self._dtype)
        known = torch.ones(len(x), dtype=torch.bool, device=x.device)
        time = as_time(time, states).expand(len(x))
        return self._mean(states, time, self._labels(cond, FULL, x), known).to(x.dtype)

    def _labels(self, cond: Tensor | None, branch: Branch, x: Tensor) -> Tensor:
        """(B,) class ids for one branch; `classes` is the null class, which the network's last embedding row stands for."""
        if not self.classes or not branch.condition:
            return torch.full((len(x),), self.classes, device=x.device)
        if cond is None:
            if not self.class_dropout:
                raise ValueError(f"this network needs a class: pass cond, integers 0 … {self.classes - 1}")
            return torch.full((len(x),), self.classes, device=x.device)
        if cond.shape != (len(x),) or cond.is_floating_point():
            raise ValueError(f"cond must be ({len(x)},) integers, got {tuple(cond.shape)} of {cond.dtype}")
        last = self.classes if self.class_dropout else self.classes - 1
        if bool(((cond < 0) | (cond > last)).any()):
            null = f" ({self.classes} is the null class)" if self.class_dropout else ""
            raise ValueError(f"classes must lie in 0 … {self.classes - 1}{null}, got {cond.min()} … {cond.max()}")
        return cond.to(x.device)
