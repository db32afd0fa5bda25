"""What distances are taken between: features of images, and their moments. `extractors` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from noiseshift.reading import read_arrays, reading
from noiseshift.writing import changed, replaced_file
from noiseshift.writing.signatures import FEATURES, sign_arrays, signed_features

Array = np.ndarray

CONDITION = 1e-4
"""The least over the largest diagonal element of a covariance's factor, below which the factor is not used."""


@dataclass(frozen=True)
class Features:
    """What an extractor computed of a set of images.

    Attributes:
        extractor: its name.
        values: (N, d) float64.
        probs: (N, K) class probabilities; None where it has none.
        blocks: how many parts of equal length, one after another, a distance is averaged over; 1 takes all features together.
    """

    extractor: str
    values: Array
    probs: Array | None = None
    blocks: int = 1

    def __len__(self) -> int:
        return len(self.values)

    @property
    def moments(self) -> Moments:
        return moments_of(self.values)

    @cached_property
    def kernel_within(self) -> Array:
        """(N,) KID's kernel of each row with the others: computed once for a reference that many sets are compared with."""
        from noiseshift.evaluation.kernel import sums_within

        return sums_within(self.values)

    def parts(self) -> list[Features]:
        """The features block by block."""
        return [Features(self.extractor, part) for part in np.split(self.values, self.blocks, axis=1)]

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write an npz: extractor, values and, where there are any, probs. Raises PlaceError (a ValueError) where a file that
        noiseshift did not make is there, unless `overwrite`.

        Args:
            path: an .npz.
            overwrite: replace whatever is there.
        """
        arrays: dict[str, Any] = {"extractor": np.array(self.extractor), "values": self.values.astype("f4")}
        if self.probs is not None:
            arrays["probs"] = self.probs.astype("f4")
        if self.blocks > 1:
            arrays["blocks"] = np.array(self.blocks)
        with replaced_file(path, signed_features, overwrite=overwrite) as fresh:
            with fresh.open("wb") as file:
                np.savez_compressed(file, **arrays)
            sign_arrays(fresh, FEATURES)

    @classmethod
    def load(cls, path: str | Path) -> Features:
        """What `save` wrote, in float64 again; a file that was changed in its run folder is said on the log. Raises ReadingError
        where it is damaged."""
        what, remedy = "features of a run", "measure it again"
        found = read_arrays(path, what, remedy)
        changed(Path(path).parent, Path(path).name)
        with reading(path, what, remedy):
            values = found["values"].astype("f8").reshape(len(found["values"]), -1)
            probs = found["probs"].astype("f8").reshape(len(values), -1) if "probs" in found else None
            return cls(str(found["extractor"]), values, probs, int(found["blocks"]) if "blocks" in found else 1)

    @classmethod
    def concatenate(cls, parts: Sequence[Features]) -> Features:
        """One set from several of the same extractor, in order."""
        probs = [part.probs for part in parts if part.probs is not None]
        values = np.concatenate([part.values for part in parts])
        return cls(parts[0].extractor, values, np.concatenate(probs) if probs else None, parts[0].blocks)


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features.

    Attributes:
        mean: (d,).
        cov: (d, d), unbiased.
        n: how many samples; None where a file does not say.
    """

    mean: Array
    cov: Array
    n: int | None = None

    @cached_property
    def root(self) -> Array:
        """The symmetric square root of the covariance."""
        values, axes = np.linalg.eigh(self.cov)
        return (axes * np.sqrt(values.clip(0))) @ axes.T

    @cached_property
    def factor(self) -> Array | None:
        """The lower L of cov = L Lᵀ, or None where that is singular or nearly so."""
        try:
            lower = np.linalg.cholesky(self.cov)
        except np.linalg.LinAlgError:
            return None
        diagonal = np.diagonal(lower)
        return np.asfortranarray(lower) if diagonal.min() > CONDITION * diagonal.max() else None


def moments_of(values: Array) -> Moments:
    """Mean and unbiased covariance of values (n, d)."""
    mean = values.mean(0)
    n = len(values)
    centred = values - mean
    return Moments(mean, centred.T @ centred / max(1, n - 1), n)
