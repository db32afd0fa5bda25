"""One table of all distances between samples and real images."""

from __future__ import annotations

import functools
import logging

import numpy as np
import pandas as pd

from noiseshift.evaluation.distances import density_coverage, inception_score, require_probabilities
from noiseshift.evaluation.extractors import distance_name, kernel_name, score_name
from noiseshift.evaluation.features import Features, Moments
from noiseshift.evaluation.intervals import Change, coverage_change, kernel_change, score_change
from noiseshift.evaluation.jackknifing import ENOUGH, Jackknife, jackknife

LEAST = 10
"""Samples under which no distance says anything."""

EXACT = 10
"""A reference of so many times the samples may count as exact."""


def evaluate(
    features: Features,
    reference: Features | Moments,
    *,
    seed: int = 0,
    allow_small: bool = False,
    distance: Jackknife | None = None,
) -> pd.DataFrame:
    """A row per metric: FD, and with a reference of `Features` KID, precision, recall, density and coverage; IS where there are
    probabilities.

    Args:
        features: Of the samples.
        reference: Features of real images, or their moments, which count as exact.
        seed: Of the jackknife's groups.
        allow_small: Also where there are no more samples than features.
        distance: Its `jackknife`, where it is at hand.

    Returns:
        Columns metric; value, without the bias of order 1/n, and its 95 % interval low and high (NaN where there are too few
        samples for one); plain, as everybody prints it; n; remark.

    Raises:
        ValueError: There are numbers that are not finite or features of two extractors; or, unless `allow_small`, fewer than 10
            samples or no more than features: FD would measure the count. Under 10 there is no precision or recall.
    """
    _require_alike(features, reference, 2 if allow_small else LEAST)
    if not allow_small:
        require_enough(len(features), reference)
    found = jackknife(features, reference, seed=seed) if distance is None else distance
    rows = [
        _row(
            distance_name(features.extractor),
            _positive(found.change()),
            found.plain,
            _remark(features, reference, found),
        )
    ]
    if isinstance(reference, Features):
        kernel = kernel_change(features.values, reference.values, within=reference.kernel_within)
        rows.append(_row(kernel_name(features.extractor), kernel, kernel.value))
        shares = {"precision": (features, reference), "recall": (reference, features)}
        for name, pair in shares.items() if min(map(len, shares["recall"])) >= LEAST else ():
            share = coverage_change(pair[0].values, pair[1].values, seed=seed)
            rows.append(_row(name, share, share.value))
        if min(map(len, shares["recall"])) >= LEAST:
            found_by = density_coverage(reference.values, features.values)
            for name, value in zip(("density", "coverage"), found_by, strict=True):
                rows.append(_row(name, Change(value, np.nan, np.nan), value, "no interval"))
    if features.probs is not None:
        score = score_change(features.probs)
        rows.append(_row(score_name(features.extractor), score, inception_score(features.probs)))
    return pd.DataFrame(rows).assign(n=len(features))[["metric", "value", "low", "high", "plain", "n", "remark"]]


def require_enough(n: int, reference: Features | Moments) -> None:
    """Raise ValueError for no more samples than features: their covariance is singular, and FD measures their number.

    Args:
        n: samples.
        reference: of real images.
    """
    width = _width(reference)
    if n <= width:
        raise ValueError(f"{n} samples under {width} features: FD would measure the count; give more, or say --small")


def warn_of_no_interval(n: int, reference: Features | Moments) -> None:
    """Say, before anything is sampled, that n samples are too few for an interval of the distance; see `ENOUGH`.

    Args:
        n: samples.
        reference: of real images.
    """
    least = ENOUGH * _width(reference)
    if n < least:
        logging.getLogger("noiseshift").warning(
            "%d samples give the distance no interval: take --samples %d or more", n, least
        )


def require_width(features: Features, reference: Features | Moments) -> None:
    """Raise ValueError where a reference is not of as many features.

    Args:
        features: of samples.
        reference: of real images.
    """
    seen = features.values.shape[1]
    there = reference.values.shape[1] if isinstance(reference, Features) else len(reference.mean)
    if seen != there:
        raise ValueError(
            f"{features.extractor} gives {seen:,} features, the reference has {there:,}: give one of the same extractor"
        )


def _width(reference: Features | Moments) -> int:
    """Features that a distance is taken of at once."""
    return reference.values.shape[1] // reference.blocks if isinstance(reference, Features) else len(reference.mean)


def _require_alike(features: Features, reference: Features | Moments, least: int) -> None:
    sets = (features, reference) if isinstance(reference, Features) else (features,)
    for each in sets:
        if len(each) < least:
            raise ValueError(f"{len(each)} samples are too few for any distance: give at least {least}")
        if not np.isfinite(each.values).all():
            raise ValueError(f"features of {each.extractor} hold NaN or infinity: look at the samples")
    if isinstance(reference, Features) and reference.extractor != features.extractor:
        raise ValueError(
            f"features of {features.extractor} and {reference.extractor} cannot be compared: use one extractor for both"
        )
    if features.probs is not None:
        require_probabilities(features.probs)


def _positive(change: Change) -> Change:
    """A squared distance: what its interval has below 0 says nothing."""
    return Change(*(max(0.0, end) if end == end else end for end in (change.value, change.low, change.high)))


def _remark(features: Features, reference: Features | Moments, found: Jackknife) -> str:
    """What the interval does not hold, or why there is none."""
    width = _width(reference)
    n = len(features)
    if not found.enough:
        return f"no interval: fewer than {ENOUGH} times {width} samples or real data"
    if isinstance(reference, Features):
        return ""
    if reference.n is not None and reference.n < EXACT * n:
        _warn(
            f"the reference's statistics are of {reference.n:,} samples, fewer than {EXACT} times {n:,} samples: they count as "
            "exact, and their own error is not in the interval; give the data instead"
        )
    return "reference counted as exact"


@functools.lru_cache(maxsize=64)
def _warn(message: str) -> None:
    """Once a message: many runs are compared with one reference."""
    logging.getLogger("noiseshift").warning(message)


def _row(metric: str, change: Change, plain: float, remark: str = "") -> dict[str, object]:
    return {
        "metric": metric,
        "value": change.value,
        "low": change.low,
        "high": change.high,
        "plain": float(plain),
        "remark": remark,
    }
