"""Averages in files of their own: guided-diffusion keeps `ema_0.9999_010000.pt` beside `model010000.pt`, others `unet_ema.pt`
beside `unet.pt`."""

from __future__ import annotations

import re
from pathlib import Path

from noiseshift.checkpoints.weights import averages

RATE = re.compile(r"0\.\d+")
"""The decay of an average in a file's name."""
NO_WORDS = re.compile(r"model|net|ema|emas|avg|averaged?|swa|shadow|polyak|only")
"""What a name says of the kind of its weights, and not of which training or step they are."""


def is_averaged(file: Path) -> bool:
    """Whether a file's name says that averaged weights are in it.

    Args:
        file: A checkpoint.
    """
    return averages(re.sub(r"[^A-Za-z0-9.]+", "_", file.stem))


def averages_beside(file: Path) -> tuple[str, ...]:
    """The names of files in the same folder that hold the averages of this one's weights, by their names.

    Args:
        file: A checkpoint; none are beside one that is averaged itself.
    """
    if is_averaged(file):
        return ()
    others = (other for other in file.parent.glob(f"*{file.suffix}") if other != file and is_averaged(other))
    return tuple(sorted(other.name for other in others if _whose(other) == _whose(file)))


def _whose(file: Path) -> list[str]:
    """What training and step a name speaks of: its words and numbers without those of the weights' kind."""
    words = re.findall(r"[a-z]+|\d+", RATE.sub("", file.stem).lower())
    return sorted(word for word in words if not NO_WORDS.fullmatch(word))
