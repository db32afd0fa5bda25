"""Data of another shape than a checkpoint's: what is to be done."""

from __future__ import annotations

import math
from collections.abc import Sequence


def misfit(has: Sequence[int], takes: Sequence[int]) -> str | None:
    """The error for data whose shape is not the checkpoint's, None where it is.

    Args:
        has: the shape of one item of the data.
        takes: the shape of a state.
    """
    found, wanted = tuple(has), tuple(takes)
    if found == wanted:
        return None
    remedy = "give data of its own size and channels"
    if sorted(found) == sorted(wanted):
        remedy = "its axes are in another order, numpy.transpose brings them into this one"
    elif math.prod(found) == math.prod(wanted):
        remedy = "it has as many numbers, numpy.reshape gives them this shape if their order is right"
    elif len(found) == len(wanted) == 3 and found[1:] == wanted[1:] and {found[0], wanted[0]} == {1, 3}:
        remedy = f"make its pictures {'grey' if wanted[0] == 1 else 'coloured'}, as they were in training"
    return f"the data are {found}, the checkpoint works on {wanted}: {remedy}"
