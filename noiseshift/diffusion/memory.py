"""Out of memory: the rows of a call are halved until they fit, and the run goes on.

Networks answer every row for itself and every sample draws noise of its own, so how many rows go through at once decides
no number but for rounding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from noiseshift.calling import by_statement

Answer = TypeVar("Answer")

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
"""What the allocators of torch's CPU and MPS parts, CUDA, cuBLAS and cuDNN say in a RuntimeError, which is all they raise."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was raised from, is that of a full memory: by its type, or a RuntimeError of
    torch's own parts with their words. What Python code raises by itself is not, whatever its text says."""
    if error is None:
        return False
    by_class = isinstance(error, MemoryError | torch.OutOfMemoryError)
    inside = isinstance(error, RuntimeError) and not by_statement(error)
    by_message = inside and any(sign.lower() in str(error).lower() for sign in _SIGNS)
    return by_class or by_message or is_out_of_memory(error.__cause__)


def memory_of(device: str | torch.device) -> int:
    """Bytes of memory that a device has in all: an accelerator's own, or this machine's."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(device).total_memory)
    if not hasattr(os, "sysconf"):
        return 1 << 62  # not known here: nothing is refused
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(size: float, what: str, remedy: str, device: str | torch.device = "cpu") -> None:
    """Raise ValueError where `what` takes more bytes than a device has.

    Args:
        size: bytes.
        what: names it, at the start of the message.
        remedy: what to do instead, at its end.
        device: "cpu", "cuda:0", …; its whole memory counts, not what is free.
    """
    there = memory_of(device)
    if size > there:
        raise ValueError(f"{what} takes at least {size / 2**30:,.0f} GB, {device} has {there / 2**30:,.0f}: {remedy}")


def joined(parts: list[Tensor]) -> Tensor:
    """Answers of parts of a batch, one after another."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Halving:
    """Calls functions on a batch at once, or on as many rows at a time as memory has shown to hold.

    What was learned is kept for the next call, and said once on the log. `who` names whose memory it is.

    Attributes:
        limit: how many rows memory has shown to hold; None while all fitted.
        rows: how many go through at once because that is fastest (`studies.pace` tries it out); None for all.
    """

    def __init__(self, who: str):
        self.who = who
        self.limit: int | None = None
        self.rows: int | None = None
        self.reported = False

    def describe(self) -> dict[str, Any]:
        """Nothing: what answers are does not depend on it."""
        return {}

    def __call__(self, function: Callable[..., Answer], *batch: Tensor | None) -> list[Answer]:
        """The answers to one part of `batch` after another, tensors of equal length or None: one answer where all fit.

        Raises MemoryError when a single row does not fit.
        """
        rows = next(len(part) for part in batch if part is not None)
        answers: list[Answer] = []
        done = 0
        while done < rows or not answers:
            size = min(rows - done, self.limit or rows, self.rows or rows)
            try:
                answers.append(function(*(part if part is None else part[done : done + size] for part in batch)))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                fits = False
            else:
                fits = True
            # Only now: the error held on to what the failed call had allocated.
            if fits:
                done += size
                self._say(rows)
            else:
                self._halve(size)
        return answers

    def _halve(self, size: int) -> None:
        if size <= 1:
            raise MemoryError(f"memory is full: {self.who} does not fit with a single row; take another --device")
        self.limit = size // 2
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _say(self, rows: int) -> None:
        if self.limit is None or self.reported:
            return
        self.reported = True
        logging.getLogger("noiseshift").warning(
            "out of memory: %s takes %d rows at a time instead of %d; the numbers do not depend on it",
            self.who,
            self.limit,
            rows,
        )
