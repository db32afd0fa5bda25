"""Answers that ship with the package: what `noiseshift measure` without arguments needs beside its own sampling.

Calibrations and the content control's final samples depend on nothing of a run but its checkpoint, images, levels, solver
and seed, so those of the bundled model's default run are made once, by `benchmarks/shipped.py`. A file is known by everything
that is in the cache folder's key, but for our source and the libraries' versions: from one to the next they change numbers by
rounding. Where a change of ours changes more, the tests of this module fail until the files are made again; and a shipped
calibration is used only where the instrument still reads a few of its states as it did.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noiseshift.data import ASSETS, Images
from noiseshift.estimators.instrument import Instrument, calibrate
from noiseshift.reading import read_arrays

FOLDER = ASSETS

ROUNDING = ("software", "rows at once")
"""What of a key changes numbers by rounding alone."""

CHECKED = 4
"""States that an instrument must still read as it did."""

SAME = 1e-3
"""Of a single state's spread: how far a reading may be from what it was. Rounding moves it by a hundredth of that."""


def load(kind: str, about: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """The arrays of this kind that ship with the package under `about`, or None.

    Args:
        kind: such as "calibration".
        about: as in `kept.load`.
    """
    place, words = _place(kind, about)
    if not place.is_file():
        return None
    arrays = read_arrays(place, "file of the package", "install noiseshift again")
    return arrays if str(arrays.pop("about", "")) == words else None


def save(kind: str, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays for `load` in single precision; returns the file.

    Args:
        kind: such as "calibration".
        about: as in `kept.save`.
        arrays: by name.
    """
    place, words = _place(kind, about)
    exact = ("times", "grid", "fit")
    short = {name: _single(array) if name not in exact else array for name, array in arrays.items()}
    written: dict[str, Any] = {"about": np.array(words), **short}
    np.savez_compressed(place, **written)
    return place


def agrees(instrument: Instrument, data: Images, device: str, seed: int) -> bool:
    """Whether an instrument reads the first states of its calibration as it did when that was made.

    Args:
        instrument: with a calibration that was made before.
        data: the images of its calibration.
        device: where the network computes.
        seed: of its noise.
    """
    was = instrument.calibration
    rows = data[:CHECKED]
    cond = None if rows.labels is None else rows.labels.to(device)
    times = torch.from_numpy(was.times)
    now = calibrate(instrument.estimator, rows.floats.to(device), times, cond=cond, seed=seed, slope_rows=CHECKED)
    off = np.abs(now.calibration.real.t - was.real.t[:CHECKED]) / was.spread
    return bool((off < SAME).all())


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _place(kind: str, about: Mapping[str, Any]) -> tuple[Path, str]:
    words = json.dumps({name: value for name, value in about.items() if name not in ROUNDING}, sort_keys=True)
    return FOLDER / f"shipped-{kind}-{hashlib.sha256(words.encode()).hexdigest()[:16]}.npz", words
