"""The gradient of a batch's mean loss, in parts where memory does not hold the batch: the step is the same but for rounding.

On the CPU a system gives memory that it has not, and then ends the process: there a few rows tell what a row takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from noiseshift import distributed
from noiseshift.diffusion.memory import is_out_of_memory, memory_of

FULL = "memory is full: take a smaller --batch, a smaller network, or another --device"


FEW = 8
"""Rows that tell what one takes."""


def saved_bytes(network: nn.Module, loss: Callable[..., Tensor], rows: Sequence[Tensor]) -> int:
    """Bytes that a loss keeps for its gradient, beside the network's weights.

    Args:
        network: Its parameters and buffers are not counted.
        loss: Called with the rows, once.
        rows: The tensors that the loss is given, in order.
    """
    weights = {each.untyped_storage().data_ptr() for each in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = loss(*rows)  # while it is there, no storage takes another's place
    return sum(size for place, size in kept.items() if place not in weights) if graph.requires_grad else 0


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
        if self.limit is None and rows[0].device.type == "cpu" and distributed.joined()[1] == 1:
            self._foresee(loss, rows)
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

    def _foresee(self, loss: Callable[..., Tensor], rows: Sequence[Tensor]) -> None:
        """Set the limit to the rows that fit into half of the memory, where a batch is more. It depends on the machine alone: a
        training which goes on rounds as before."""
        self.limit = len(rows[0])
        if self.limit <= FEW:
            return
        try:
            few = [each[:FEW].clone() for each in rows]  # of their own storage, whose size is counted
            row = saved_bytes(self.network, loss, few) / FEW
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return  # the attempts will find out
        fitting = int(memory_of("cpu") / 2 / max(1, row))
        if fitting < self.limit:
            self.limit = max(1, fitting)
            logging.getLogger("noiseshift").warning(
                "a step takes %d rows at a time, which this memory holds; it is of the whole batch as before",
                self.limit,
            )

    def _attempt(self, loss: Callable[..., Tensor], rows: Sequence[Tensor]) -> Tensor | None:
        """The loss, or None where memory is full: then the gradients are of some rows alone, and are not to be used."""
        count = len(rows[0])
        size = self.limit or len(rows[0])
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
