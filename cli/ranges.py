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


class Sides(click.ParamType):
    """Pixels per side, or height and width: 512, or 512x768."""

    name = "size"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "N or HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int | tuple):
            return value
        sides = str(value).lower().replace("×", "x").split("x")
        if len(sides) > 2:
            self.fail(f"{value} is no size: give 512, or height and width as 512x768", param, ctx)
        found = tuple(SIZE(side, param, ctx) for side in sides)
        return found[0] if len(found) == 1 else found


SIDES = Sides()
