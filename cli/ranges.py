"""Option types that click has not: numbers that are numbers."""

from __future__ import annotations

import math
from typing import Any

import click

SEED = click.IntRange(0, 2**64 - 1)
SAMPLES = click.IntRange(2, 10_000_000)
CALIBRATION = click.IntRange(8, 10_000_000)
POINTS = click.IntRange(1, 10_000)
BATCH = click.IntRange(1, 1_000_000)
STEPS = click.IntRange(1, 100_000_000)
SIZE = click.IntRange(1, 16_384)


class Finite(click.FloatRange):
    """A range of floats without nan, which every comparison lets pass, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = 0.0  # click says what is wrong with it
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return super().convert(value, param, ctx)


SHARE = Finite(0, 1)
DECAY = Finite(0, 1, max_open=True)
RATE = Finite(0, 1, min_open=True)
