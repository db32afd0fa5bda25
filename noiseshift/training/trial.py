"""How long a training will take, by its first steps in a folder that is thrown away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

STEPS = 6
"""Steps that are taken; the first sets up and is not counted."""


class Training(Protocol):
    """Starts a training in a folder; `report` is called as (step, loss) after each step."""

    def __call__(self, folder: Path, *, report: Callable[[int, float], None]) -> object: ...


@dataclass(frozen=True)
class Trial:
    """A training's first steps.

    Attributes:
        steps: of the whole training.
        seconds: of one step.
        before: seconds before the first one.
    """

    steps: int
    seconds: float
    before: float

    @property
    def hours(self) -> float:
        """Of the whole training on this device."""
        return (self.before + self.steps * self.seconds) / 3600


class _EnoughError(Exception):
    """Ends the trial."""


def trial(train: Training, steps: int) -> Trial:
    """Take the first steps of a training and time them.

    Args:
        train: starts it.
        steps: of the whole training.
    """
    ends = [time.perf_counter()]

    def report(step: int, loss: float) -> None:
        ends.append(time.perf_counter())
        if len(ends) > STEPS:
            raise _EnoughError

    with tempfile.TemporaryDirectory() as folder:
        try:
            train(Path(folder) / "trial", report=report)
        except _EnoughError:
            pass
    taken = np.diff(ends)
    each = float(np.median(taken[1:] if len(taken) > 1 else taken))
    return Trial(steps, each, max(0.0, float(taken[0]) - each))
