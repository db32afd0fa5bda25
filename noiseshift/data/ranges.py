"""What black and white are: numbers become pixels only where the file, or the user, says so."""

from __future__ import annotations

from typing import Literal

import numpy as np

Array = np.ndarray

Range = tuple[float, float] | Literal["none"] | None
"""What black and white are in the data, "none" for numbers that the network takes as they are, None where nobody said."""

DIM = 1 / 4
"""A 16-bit set that never comes above this share of white was most likely made with fewer bits."""

DARK = 32
"""8-bit sets whose largest value is below this are read as they are, and it is said."""


def to_bytes(values: Array, limits: tuple[float, float]) -> Array:
    """Numbers between black and white → uint8, rounded to the nearest.

    Args:
        values: Numbers of any type and shape.
        limits: What black and white are in them.

    Raises:
        ValueError: A number lies outside by more than 0.1 % of the range.
    """
    low, high = _checked(values, limits)
    return np.rint((values.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def to_unit(values: Array, limits: tuple[float, float]) -> Array:
    """Numbers between black and white → float32, black at -1 and white at 1.

    Args:
        values: Numbers of any type and shape.
        limits: What black and white are in them.

    Raises:
        ValueError: A number lies outside by more than 0.1 % of the range.
    """
    low, high = _checked(values, limits)
    return ((values.astype(np.float64) - low) * (2 / (high - low)) - 1).astype(np.float32)


def _checked(values: Array, limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    slack = 1e-3 * (high - low)  # resizing overshoots a little
    if values.min() < low - slack or values.max() > high + slack:
        raise ValueError(
            f"the values go from {values.min():g} to {values.max():g}, outside --range {low:g},{high:g}: give the range "
            "that holds them"
        )
    return low, high


def refuse_dim(least: float, most: float, white: float, where: str) -> None:
    """Raise where numbers are too small to be certain of their white.

    Args:
        least: The smallest number of the set.
        most: The largest.
        white: What white would be, 65535 for 16 bits.
        where: The file or folder, for the message.

    Raises:
        ValueError: The largest number is under a quarter of white, and the numbers are not all alike.
    """
    if least < most < white * DIM:
        raise ValueError(
            f"the largest value in {where} is {most:g}, where white would be {white:g}: say what black and white are with "
            f"--range 0,{most:g} or --range 0,{white:g}"
        )


def within(least: float, most: float, limits: tuple[float, float], where: str) -> tuple[str, ...]:
    """A remark on numbers that reach neither near black nor near white, in a tuple; empty where they reach both.

    Args:
        least: The smallest number of the set.
        most: The largest.
        limits: What black and white are said to be.
        where: The file or folder, for the message.

    Raises:
        ValueError: The numbers take up less than a 64th of the range and are not all alike: it is another set's.
    """
    low, high = limits
    if least < most and most - least < (high - low) / 64:
        raise ValueError(
            f"the values in {where} go from {least:g} to {most:g} only, in --range {low:g},{high:g}: give their own range"
        )
    reached = least - low < (high - low) / 4 and high - most < (high - low) / 4
    return () if reached else (f"values from {least:g} to {most:g}",)


def dark(least: float, most: float) -> tuple[str, ...]:
    """A remark on 8-bit numbers that are all small, in a tuple; empty where there is nothing to remark.

    Args:
        least: The smallest number of the set.
        most: The largest; remarked on below 32, unless all numbers are alike.
    """
    return (f"no brighter than {most:g} of 255 (is that white? --range 0,{most:g})",) if least < most < DARK else ()


def unsaid(values: Array, where: str) -> ValueError:
    """The error for numbers whose black and white nobody said. It is returned, not raised.

    Args:
        values: The numbers, or their extremes, from which the likely range is guessed for the message.
        where: The file or folder, for the message.
    """
    low, high = float(values.min()), float(values.max())
    usual = ((0, 1), (-1, 1), (-0.5, 0.5), (0, 255), (0, 65535))
    likely = next(
        (f"{a},{b}" for a, b in sorted(usual, key=lambda ends: ends[1] - ends[0]) if a <= low and high <= b), ""
    )
    return ValueError(
        f"{where} holds pictures from {low:g} to {high:g} and does not say what black and white are: give --range BLACK,WHITE"
        f"{f' (perhaps {likely})' if likely else ''}, or --range none where the network takes these numbers as they are"
    )
