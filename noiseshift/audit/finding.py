"""One thing that is wrong with a sampler's levels, and how far apart two levels must be for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

SEEN = 0.02
"""Differences in log-SNR below this are not spoken of: SASolver's levels are read to about 0.01."""


PURE = 2 * math.log(1000)
"""Log-SNR beyond which a level counts as pure noise, or data: 0.1 % of the amplitude is the other."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or a note.

    Attributes:
        name: one word for it, for `--accept` and tables.
        sentence: what was found, with numbers.
        remedy: the option to set, or what else to do.
        size: how large it is, in log-SNR; infinite where a level is missing, NaN of a note.
        steps: the step counts at which it was found.
    """

    name: str
    sentence: str
    remedy: str
    size: float
    steps: tuple[int, ...] = ()

    @property
    def note(self) -> bool:
        """Whether it is no fault of the sampler's, and only to be known."""
        return math.isnan(self.size)


def clipped(log_snr: pd.Series) -> pd.Series:
    """Levels as far as a network could tell them apart."""
    return log_snr.clip(-PURE, PURE)
