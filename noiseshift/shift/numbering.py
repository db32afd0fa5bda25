"""Are a data set's classes numbered as the network learned them? Its noise error under other classes tells.

A network of the right data whose classes are counted otherwise denoises nearly as well, and its samples are like the data. Only a
picture's own class tells: a network that learned it has less error under it than under another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from noiseshift.diffusion.models import Model
from noiseshift.estimators.instrument import Array
from noiseshift.shift.controls import Check
from noiseshift.shift.denoising import checked_times, noise_errors

SCALE = 1.6
"""Noise over signal, in spreads of the data, at which classes are tried: there they lower a trained network's error most."""

MOST = 16
"""Classes that are all tried; of more only shifted and otherwise sorted numbers are."""

CLEAR, WRONG = 2.0, 3.5
"""Standard errors by which the data's own numbers are better, and by which others are."""

LEAST = 0.01
"""Share of the error that other numbers must take away: a network that hardly heeds its classes shows less."""

FEWEST = 8
"""Rows that are enough to try a network's classes on."""

SECOND = 64
"""Rows of two classes that seem exchanged, on which that is tried again: a choice among all pairs proves nothing by itself."""

NAME = "class order"


def numbering(
    model: Model, x0: Tensor, cond: Tensor, classes: int, *, more: tuple[Tensor, Tensor] | None = None
) -> Check:
    """Compare the noise error under the data's classes with that under others.

    Args:
        model: conditional; called `numbering_calls` times.
        x0: (N, …) real data.
        cond: (N,) their classes.
        classes: how many the model has.
        more: other rows and their classes, on which two classes that seem exchanged are tried; none are without.

    Returns:
        Passed where its own class lowers a row's error; failed where other numbers lower it; None where neither is certain.
    """
    if classes < 2 or len(x0) < FEWEST:
        return Check(NAME, None, "not checked: there are too few classes or rows")
    tried = _Tried(model, x0, cond, classes)
    exchanged = None if more is None or tried.every is None else _exchanged(tried, *more)
    said = "the data's classes are not numbered as the network learned them: "
    remedy = "; number them as in training, or name them in the card (class_names)"
    other = (cond + 1 + torch.arange(len(cond), device=cond.device) % (classes - 1)) % classes
    under_other = tried.under(other)
    if _certainty(under_other - tried.own) > CLEAR:
        if exchanged is not None:
            return Check(NAME, False, said + exchanged + remedy)
        less = 100 * (1 - tried.own.mean() / under_other.mean())
        return Check(NAME, True, f"a state's own class leaves {less:.0f} % less noise error than another class does")
    found = _better(tried) or exchanged
    if found is None:
        unknown = (
            "another class denoises a state as well as its own: whether they are numbered as in training is not known"
        )
        return Check(NAME, None, unknown)
    return Check(NAME, False, said + found + remedy)


def numbering_calls(classes: int, rows: int, more: int) -> int:
    """How often `numbering` calls a network of so many classes, whatever it finds.

    Args:
        classes: of the network.
        rows: on which all classes are tried.
        more: other rows, of which some are tried under two classes.
    """
    if classes < 2 or rows < FEWEST:
        return 0
    if classes > MOST:
        return (2 + len(_usual(classes))) * rows
    return classes * rows + 2 * min(SECOND, more)


def unjudged() -> Check:
    """The check of a network that does not denoise, whatever classes it is given."""
    return Check(NAME, None, "not judged: the network does not denoise these data")


class _Tried:
    """The noise error of each row under any classes, at one level: of all at once where they are few."""

    def __init__(self, model: Model, x0: Tensor, cond: Tensor, classes: int):
        self.model = model
        self.x0 = x0
        self.cond = cond
        spread = float(x0.flatten(1).double().std(0).square().mean().sqrt())
        self.times = model.snap(checked_times(model.schedule, spread, (SCALE,)))[:1]
        self.every: Array | None = None
        if classes <= MOST:
            self.every = np.stack([self._errors(torch.full_like(cond, k)) for k in range(classes)], 1)
        self.own = self.under(cond)
        self.usual = {
            words: self.under(torch.tensor(order, device=cond.device)[cond]) for words, order in _usual(classes).items()
        }

    def under(self, cond: Tensor) -> Array:
        """(N,) errors under these classes (N,)."""
        if self.every is None:
            return self._errors(cond)
        return self.every[np.arange(len(cond)), cond.cpu().numpy()]

    def _errors(self, cond: Tensor) -> Array:
        return noise_errors(self.model, self.x0, self.times, cond)[:, 0]


def _certainty(gain: Array) -> float:
    """How many standard errors the mean gain (N,) is above 0."""
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    return float(gain.mean() / error) if error > 0 else 0.0


def _better(tried: _Tried) -> str | None:
    """Numbers that fit certainly better than the data's own, in words."""
    gains = {words: tried.own - errors for words, errors in tried.usual.items()}
    best = max(gains, key=lambda words: _certainty(gains[words]))
    if _is_better(gains[best], tried.own):
        return best
    return None if tried.every is None else _by_class(tried.every, tried.cond.cpu().numpy())


def _is_better(gain: Array, own: Array) -> bool:
    """Whether what errors (N,) lose is certain, and not next to nothing."""
    return len(gain) > 1 and _certainty(gain) > WRONG and bool(gain.mean() > LEAST * own.mean())


def _exchanged(tried: _Tried, x0: Tensor, cond: Tensor) -> str | None:
    """Two classes that the network has the other way round, in words: those that seem so by the rows tried, if other rows say it
    for certain."""
    assert tried.every is not None
    classes = tried.every.shape[1]
    given = tried.cond.cpu().numpy()
    # A class of no rows may be either's; of one row it hangs on chance, and is tried again like the others.
    gains = {
        (a, b): np.concatenate([(tried.every[given == k, k] - tried.every[given == k, j]) for k, j in ((a, b), (b, a))])
        for a, b in itertools.combinations(range(classes), 2)
    }
    seeming = {pair: gain.sum() / math.sqrt(len(gain)) for pair, gain in gains.items() if len(gain) > 1}
    if not seeming:
        return None
    pair = max(seeming, key=lambda pair: float(seeming[pair]))
    theirs = torch.isin(cond, torch.tensor(pair, device=cond.device))
    # Others fill up what is wanting, so that what a run costs does not depend on what is found.
    rows = torch.argsort(~theirs, stable=True)[:SECOND]
    own = cond[rows]
    swapped = torch.where(theirs[rows], sum(pair) - own, own)
    errors, under_other = (
        noise_errors(tried.model, x0[rows], tried.times, labels)[:, 0][theirs[rows].cpu().numpy()]
        for labels in (own, swapped)
    )
    if len(errors) < FEWEST or not _is_better(errors - under_other, errors):
        return None
    return f"classes {pair[0]} and {pair[1]} are exchanged"


def _usual(classes: int) -> Mapping[str, list[int]]:
    """Usual other numbers, by the data's: counted from 1, or of folders that were sorted as words."""
    every = range(classes)
    places = {name: place for place, name in enumerate(sorted(str(k + 1) for k in every))}
    return {
        "they fit when each is one larger": [(k + 1) % classes for k in every],
        "they fit when each is one smaller": [(k - 1) % classes for k in every],
        "they fit when class folders are sorted as words (1, 10, 2)": [places[str(k + 1)] for k in every],
        "they fit when class folders are sorted as words (0, 1, 10, 2)": np.argsort(
            sorted(every, key=str), kind="stable"
        ).tolist(),
    }


def _by_class(every: Array, cond: Array) -> str | None:
    """From errors (N, K) under each class, which class of the network each of the data's is. A row is judged by what the
    others of its class choose, so that choosing the least of K errors is no gain; and a class that suits every row is none."""
    apart = every - every.mean(0)
    rows = np.arange(len(cond))
    counts = np.bincount(cond, minlength=every.shape[1])
    sums = np.stack([apart[cond == k].sum(0) for k in range(every.shape[1])])
    judged = counts[cond] > 1
    chosen = (sums[cond] - apart)[judged].argmin(1)
    gain = apart[rows, cond][judged] - apart[judged][np.arange(len(chosen)), chosen]
    if not _is_better(gain, every[rows, cond]):
        return None
    best = {int(k): int(sums[k].argmin()) for k in np.flatnonzero(counts)}
    moved = [f"{k} is denoised best as {found}" for k, found in best.items() if found != k]
    return "class " + ", ".join(moved[:3]) + (", …" if len(moved) > 3 else "")
