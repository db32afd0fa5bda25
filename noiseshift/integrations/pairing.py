"""Whether a step's timestep, the scheduler's own count and the network's calls speak of one state.

Pipelines call their network on the scheduler's state at the scheduler's label. A loop written by hand may skip steps of a
scheduler that counts by itself, call the network at another time, or on a state in between.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from noiseshift.integrations.called import NetworkCall

ROUNDED = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Relative error of rounding to a half precision, which pipelines round their times to."""

ALIKE = 0.999
"""Cosine of a network's input and the scheduler's state, which half precision keeps above."""

UNKNOWN = 0.25
"""A time that is further from the label than this share of the training steps, in all units, is of a unit that is not known."""


def require_label(labels: list[float], place: int, timestep: Any) -> None:
    """Raise ValueError where a step was called with another timestep than the one that the scheduler itself is at.

    Args:
        labels: the scheduler's timesteps.
        place: where it counts itself.
        timestep: what its step was handed, one or one a token.
    """
    if not 0 <= place < len(labels):
        raise ValueError(f"the scheduler was called for step {place} of {len(labels)}")
    own = labels[place]
    given = torch.as_tensor(timestep).detach().double().flatten().cpu()
    off = (given - own).abs()
    if len(given) and float(off.max()) > ROUNDED[torch.bfloat16] * abs(own) + 1e-3:
        raise ValueError(
            f"the scheduler was called for a step at {float(given[off.argmax()]):g}, and is at {own:g} by its own count: give "
            "every step its turn, or set its timesteps to those that are taken"
        )


def require_time(call: NetworkCall, label: float, count: int | None) -> None:
    """Raise ValueError where a network was called at another time than the label.

    Networks take labels, their share of the training steps, or one less that; where labels are ¼ log sigma, sigma too. A time
    in a unit that is none of these, or one a token, is not judged.

    Args:
        call: of the network.
        label: the scheduler's.
        count: of the training steps; None where labels are no places in a table.
    """
    time = call.time()
    if isinstance(time, bool) or not isinstance(time, Tensor | int | float):
        return
    value = torch.as_tensor(time).detach().flatten().cpu()
    if not len(value) or bool((value != value[0]).any()):
        return
    handed = float(value[0])
    scale = float(count or 1)
    off = min(abs(way - label) for way in _units(handed, count))
    if off > _rounding(value.dtype, label, scale) and not (count and off > UNKNOWN * scale):
        raise ValueError(f"the network was called at {handed:g} where the scheduler's label is {label:g}")


def _units(handed: float, count: int | None) -> list[float]:
    """The labels that a network's time may stand for."""
    if count is None:
        return [handed, *([0.25 * math.log(handed)] if handed > 0 else [])]
    return [handed, count * handed, count * (1 - handed)]


def _rounding(dtype: torch.dtype, label: float, scale: float) -> float:
    """How far a label may move when it is written in a dtype."""
    if not dtype.is_floating_point:
        return 0.0 if label == round(label) else 1.0
    return ROUNDED.get(dtype, 1e-5) * max(abs(label), scale)


def is_of(call: NetworkCall, part: slice, sample: Tensor) -> bool | None:
    """Whether a network was called on the scheduler's state; None where its input is of another form.

    An image or a mask may stand beside the state, before or behind it.

    Args:
        call: of the network.
        part: the rows of its batch that are asked of.
        sample: (B, …) the state.
    """
    given = call.first()
    if not isinstance(given, Tensor) or given.ndim != sample.ndim or given[part].shape[0] != len(sample):
        return None
    given = given[part].detach()
    if any(has < needs for has, needs in zip(given.shape[1:], sample.shape[1:], strict=True)):
        return None
    places = [
        [slice(0, needs)] if has == needs else [slice(0, needs), slice(has - needs, has)]
        for has, needs in zip(given.shape[1:], sample.shape[1:], strict=True)
    ]
    return any(_proportional(given[(slice(None), *place)], sample) for place in itertools.product(*places))


def _proportional(x: Tensor, y: Tensor) -> bool:
    x, y = (z.float().flatten() for z in (x, y.to(x.device)))
    return bool((x @ y) >= ALIKE * x.norm() * y.norm())
