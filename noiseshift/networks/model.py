"""A class-conditional network as a `Model`: several branches in one forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from noiseshift.models import FULL, READ, Branch, Prediction, Predicts, nearest, require
from noiseshift.schedules import Schedule


class NetworkModel:
    """Wraps a network called as network(x, time, label, known) -> (B, C or 2C, H, W), such as `Transformer`.

    `time_input` maps t (B,), t = 0 data, to the number that the network's embedding was trained on; `sign` -1 turns a
    velocity that points from noise to data around; `levels` (K,) are the only times that the network knows. A second half
    of output channels (a learned variance) is dropped. cond: integer classes (B,), or None for the null class.
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
        sign: float = 1.0,
        levels: Tensor | None = None,
    ):
        self.network, self.schedule, self.time_input = network.eval().requires_grad_(False), schedule, time_input
        self.classes, self.class_dropout, self.noise_dropout = classes, class_dropout, noise_dropout
        self.predicts, self.sign, self.levels = predicts, sign, levels

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
        """x (B, C, H, W), t () or (B,). Raises ValueError for a branch the network lacks, classes out of range, or a
        batch of another shape than the network's."""
        require(self, branches)
        copies, rows = len(branches), len(x)
        labels = torch.cat([self._labels(cond, branch, x) for branch in branches])
        known = torch.tensor([b.noise for b in branches], device=x.device).repeat_interleave(rows)
        time = self.time_input(t.to(torch.float64)).to(x).expand(rows).repeat(copies)
        output = self.network(x.repeat(copies, *[1] * (x.ndim - 1)), time, labels, known)
        values = self.sign * output[:, : x.shape[1]].to(x.dtype)
        level = self.schedule(t.double()).like(x)
        return tuple(READ[self.predicts](value, x, level) for value in values.split(rows))

    def _labels(self, cond: Tensor | None, branch: Branch, x: Tensor) -> Tensor:
        if cond is None and not self.class_dropout:
            raise ValueError(f"this network needs a class: pass cond, integers 0 … {self.classes - 1}")
        if cond is None or not branch.condition:
            return torch.full((len(x),), self.classes, device=x.device)
        if not torch.compiler.is_compiling() and (int(cond.min()) < 0 or int(cond.max()) > self.classes):
            raise ValueError(f"classes must lie in 0 … {self.classes - 1} ({self.classes} is the null class)")
        return cond.to(x.device)
