"""The gradient of a batch's mean loss, in parts where memory does not hold the batch: the step is the same but for rounding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from noiseshift import distributed
from noiseshift.diffusion.memory import is_out_of_memory

FULL = "memory is full: take a smaller --batch, a smaller network, or another --device"


class Gradients:
    """Sets the gradients of a network to those of a mean loss. What memory has shown to hold is kept for the next step.

    Attributes:
        limit: rows at once, None for the whole batch.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.limit: int | None = None

    def __call__(self, loss: Callable[..., Tensor], rows: Sequence[Tensor]) -> Tensor:
        """The loss without its graph.

        Args:
            loss: the mean over rows of what is minimised, given some of the rows.
            rows: tensors of equal length: the batch, or this process's share of it.

        Raises:
            MemoryError: a single row does not fit, or, under torchrun, where all must take equal parts, the whole does not.
        """
        while True:
            found = self._attempt(loss, rows)
            if found is not None:
                return found
            size = self.limit or len(rows[0])
            if size <= 1 or distributed.joined()[1] > 1:
                raise MemoryError(FULL)
            self.limit = size // 2
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            logging.getLogger("noiseshift").warning(
                "out of memory: the training takes %d rows at a time; its steps are of the whole batch as before",
                self.limit,
            )

    def _attempt(self, loss: Callable[..., Tensor], rows: Sequence[Tensor]) -> Tensor | None:
        """The loss, or None where memory is full: then the gradients are of some rows alone, and are not to be used."""
        count, size = len(rows[0]), self.limit or len(rows[0])
        self.network.zero_grad()
        total: Tensor | None = None
        try:
            for start in range(0, count, size):
                part = [each[start : start + size] for each in rows]
                found = loss(*part) * (len(part[0]) / count)
                found.backward()
                total = found.detach() if total is None else total + found.detach()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return None
        return total
