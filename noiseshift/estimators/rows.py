"""Many states at many levels as one long batch, in chunks that fit in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROWS, NUMBERS = 1024, 1 << 22
"""Most rows, and most numbers of their states, in one chunk."""


def over_levels(
    evaluate: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, times: Tensor, cond: Tensor | None
) -> Tensor:
    """evaluate(x, t, cond) for every state x (B, …) at every one of its times (B, G), rows in one batch after another;
    what it returns a row, (rows, …), comes back as (B, G, …).

    Args:
        evaluate: called as (x, t, cond) with rows of each.
        x: states (B, …).
        times: (B, G), in [0, 1].
        cond: (B,) classes, or None.
    """
    rows, levels = times.shape
    state = torch.arange(rows, device=x.device).repeat_interleave(levels)
    t = times.reshape(-1).to(x.device)
    parts = []
    size = max(1, min(ROWS, NUMBERS // max(1, x[0].numel())))
    for part in torch.arange(rows * levels, device=x.device).split(size):
        chosen = state[part]
        parts.append(evaluate(x[chosen], t[part], None if cond is None else cond.to(x.device)[chosen]))
    joined = torch.cat(parts)
    return joined.reshape(rows, levels, *joined.shape[1:])
