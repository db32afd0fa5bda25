"""Out of memory: the rows of a call are halved until they fit, and the run goes on. On the CPU, where a system gives memory
that it has not and then ends the process, no more rows are taken at once than are sure to fit.

Networks answer every row for itself and every sample draws noise of its own, so how many rows go through at once decides
no number but for rounding.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from noiseshift.calling import by_statement

Answer = TypeVar("Answer")

_SIGNS = re.compile(
    "out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|bad_alloc|could not (create|execute) a primitive$",
    re.IGNORECASE | re.MULTILINE,
)
"""What the allocators of torch's CPU and MPS parts, oneDNN, LAPACK, CUDA, cuBLAS and cuDNN say in a RuntimeError, which is all they
raise."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was raised from, is that of a full memory: by its type, or a RuntimeError of
    torch's own parts with their words. What Python code raises by itself is not, whatever its text says."""
    if error is None:
        return False
    by_class = isinstance(error, MemoryError | torch.OutOfMemoryError)
    inside = isinstance(error, RuntimeError) and not by_statement(error)
    by_message = inside and _SIGNS.search(str(error)) is not None
    return by_class or by_message or is_out_of_memory(error.__cause__)


COPIES = 1000
"""How many times its own state a network's answer takes: 100 for a small transformer on 28 × 28 pixels, 1,000 for SiT-XL/2 on its
latents and for ADM's UNet on 256 × 256."""
FEWEST = 32
"""No network on states takes less: one that this does not leave room for is not begun."""


def memory_of(device: str | torch.device) -> int:
    """Bytes of memory that a device has in all: an accelerator's own, or this machine's."""
    device = torch.device(device)
    if device.type == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(device).total_memory)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else UNKNOWN
    return min(whole, *map(_number_in, _LIMITS))


UNKNOWN = 1 << 62
"""Memory where it is not known: nothing is refused."""
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""What a container may have."""


def _number_in(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return UNKNOWN


def free_memory() -> int:
    """Bytes that this machine could still give, as far as it says."""
    try:
        words = Path("/proc/meminfo").read_text(encoding="ascii").split()
        return 1024 * int(words[words.index("MemAvailable:") + 1])
    except (OSError, ValueError, IndexError):
        return UNKNOWN


def require_memory(size: float, what: str, remedy: str, device: str | torch.device = "cpu") -> None:
    """Raise ValueError where `what` takes more bytes than a device has, or on the CPU than are free.

    Args:
        size: bytes.
        what: names it, at the start of the message.
        remedy: what to do instead, at its end.
        device: "cpu", "cuda:0", …; of an accelerator the whole memory counts, not what is free.
    """
    there = memory_of(device)
    if torch.device(device).type == "cpu":
        there = min(there, free_memory())
    if size > there:
        raise ValueError(f"{what} takes at least {size / 2**30:,.0f} GB, {device} has {there / 2**30:,.0f}: {remedy}")


def rows_at_once(states: Tensor, who: str) -> int:
    """How many rows of these states are sure to fit into half of the memory, at least 1; on an accelerator all, since it says when
    it is full. It depends on the machine and not on what else runs there, so that a run which goes on rounds as before.

    Args:
        states: The batch (B, …), on the device that will compute.
        who: What computes, for the message, such as "the network".

    Raises:
        MemoryError: Not even one row can.
    """
    if states.device.type != "cpu" or not len(states):
        return max(1, len(states))
    row = states[0].numel() * max(4, states.element_size())
    there = memory_of("cpu")
    if FEWEST * row > there:
        raise MemoryError(
            f"memory is full: {who} on a state of {states[0].numel():,} numbers takes at least {FEWEST * row / 2**30:,.0f} GB, "
            f"there are {there / 2**30:,.0f}: take a smaller --size"
        )
    return max(1, there // 2 // (COPIES * row)) if row else len(states)


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

    def __call__(self, function: Callable[..., Answer], *batch: Tensor | None, most: int | None = None) -> list[Answer]:
        """The answers to one part of `batch` after another: one answer where all fit.

        Args:
            function: called with parts of `batch`.
            batch: tensors of equal length or None, the states first.
            most: how many rows go through at once where `rows` does not say it; None for all.

        Raises:
            MemoryError: a single row does not fit.
        """
        states = next(part for part in batch if part is not None)
        rows = len(states)
        sure = rows_at_once(states, self.who)
        answers: list[Answer] = []
        done = 0
        while done < rows or not answers:
            size = min(sure, rows - done, self.limit or rows, self.rows or most or rows)
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
