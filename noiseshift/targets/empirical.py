"""A finite data set as an exact model: the denoiser that a perfect network would learn. See `target` for the mathematics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from noiseshift.diffusion.models import UNCONDITIONAL, Branch
from noiseshift.targets.target import ENTRIES, FLOOR, Levels, Target


class Empirical(Target):
    """A finite data set, each point as likely as the others: the denoiser that a perfect network would learn.

    Images stay in their own dtype and memory; float64 copies are made a block at a time. A state of a class without points
    raises ValueError.

    Args:
        data: (N, …) the points.
        labels: (N,) their classes. A state given a class then sees only that class's points, and the model has unconditional
            branches; cond=None sees all.

    Raises:
        ValueError: there is no data, or labels and data differ in number.
    """

    def __init__(self, data: Tensor, labels: Tensor | None = None):
        if not data.numel():
            raise ValueError("an empirical target needs at least one data point")
        if labels is not None and labels.shape != data.shape[:1]:
            raise ValueError(f"labels must be ({len(data)},), one a data point, got {tuple(labels.shape)}")
        self.data = data
        self.labels = labels
        self._of_class: dict[int, Empirical] = {}
        self.dim = data[0].numel()
        self.norms = torch.cat([rows.double().square().sum(1) for rows in self._data_blocks()])
        if labels is not None:
            self.branches = self.branches | {UNCONDITIONAL, Branch(noise=False, condition=False)}

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, …) points of the data set, drawn with replacement.

        Args:
            n: how many.
            generator: on the device where indices are drawn.
        """
        which = torch.randint(len(self.data), (n,), generator=generator, device=generator.device)
        return self.data[which.to(self.data.device)]

    def _row_entries(self, levels: int) -> int:
        return len(self.data)

    def _data_blocks(self) -> Sequence[Tensor]:
        return self.data.flatten(1).split(max(1, ENTRIES // (4 * self.dim)))

    def of_class(self, label: int) -> Empirical:
        """The points of one class alone. Raises ValueError when there is none."""
        if label not in self._of_class:
            own = None if self.labels is None else self.labels == label
            if own is None or not bool(own.any()):
                raise ValueError(
                    f"class {label} has no point in this data set: give labels of every class, or cond=None"
                )
            self._of_class[label] = Empirical(self.data[own])
        return self._of_class[label]

    def to(self, device: torch.device | str) -> Empirical:
        return Empirical(self.data.to(device), None if self.labels is None else self.labels.to(device))

    def _groups(self, cond: Tensor | None) -> list[tuple[Tensor, Empirical]]:
        """The rows of each class in a batch, and the points that they see; empty when all see all."""
        if cond is None or self.labels is None:
            return []
        return [((cond == c).nonzero()[:, 0], self.of_class(c)) for c in cond.unique().tolist()]

    def _log_density(self, x: Tensor, levels: Levels, cond: Tensor | None) -> Tensor:
        if groups := self._groups(cond):
            parts = [own._log_density(x[rows], levels.rows(rows), None) for rows, own in groups]
            return torch.cat(parts)[_back(groups)]
        columns = [logits.logsumexp(1, keepdim=True) + shared for logits, shared in self._logits(x, levels)]
        return torch.cat(columns, dim=1) - math.log(len(self.data))

    def _weighted(
        self, x: Tensor, levels: Levels, x0: Tensor, eps: Tensor, cond: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if groups := self._groups(cond):
            parts = [own._weighted(x[r], levels.rows(r), x0[r], eps[r], None) for r, own in groups]
            of_x0, of_eps = (torch.cat(part)[_back(groups)] for part in zip(*parts, strict=True))
            return of_x0, of_eps
        # At sigma = 0 the noise of a state off the data set is infinite; 0 is its value on the data set.
        inverse = torch.where(levels.sigma > 0, 1 / levels.sigma.clamp_min(FLOOR), 0.0)
        eps_x = eps * (inverse[:, None] if levels.paired else inverse)
        eps_y = eps_x * (levels.alpha[:, None] if levels.paired else levels.alpha)
        shares = (logits.softmax(1) for logits, _ in self._logits(x, levels))
        if x0.shape[1] == 1:
            mean = self._average(next(shares))
            return x0 * mean, eps_x * x - eps_y * mean
        on_x0 = on_eps = torch.zeros((), dtype=torch.float64, device=x.device)
        for t, share in enumerate(shares):
            on_x0 = on_x0 + x0[:, t, None] * share
            on_eps = on_eps + eps_y[:, t, None] * share
        return self._average(on_x0), eps_x.sum(1, keepdim=True) * x - self._average(on_eps)

    def _logits(self, x: Tensor, levels: Levels) -> Iterator[tuple[Tensor, Tensor]]:
        """log N(x; alpha y_n, sigma² I), a level at a time: a part (B, N), and a part (B, 1) that all points share."""
        products = torch.cat([x @ rows.double().T for rows in self._data_blocks()], dim=1)
        square = x.square().sum(1, keepdim=True)
        for alpha, sigma in levels.each():
            variance = (sigma**2).clamp_min(FLOOR)
            shared = -0.5 * (square / variance + self.dim * (2 * math.pi * variance).log())
            yield products * (alpha / variance) - 0.5 * alpha**2 / variance * self.norms, shared

    def _average(self, weights: Tensor) -> Tensor:
        """Σ_n weights[:, n] y_n: (B, d)."""
        total = torch.zeros((), dtype=torch.float64, device=weights.device)
        start = 0
        for rows in self._data_blocks():
            total = total + weights[:, start : start + len(rows)] @ rows.double()
            start += len(rows)
        return total


def _back(groups: Sequence[tuple[Tensor, Empirical]]) -> Tensor:
    """The permutation that puts rows taken group by group back in order."""
    return torch.cat([rows for rows, _ in groups]).argsort()
