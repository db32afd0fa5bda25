"""Corrections by word: `nag=0.5`, `projection`, `epsilon-scaling=1.005:0.01`; `WORDS` has them all.

A help text shows `WORDS`, so torch is imported with the first word that is read, and not before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from noiseshift.diffusion.words import finite_number, interval_of

if TYPE_CHECKING:
    from noiseshift.correction.methods import Method

WORDS = (
    "cfg=W,nag=W,dog=W,autoguidance=W (added up, each with @LOW:HIGH for the times at which it guides; the last two need "
    "--against), nag-epsilon=W, nag-score=W (t ≤ 0.6), "
    "classifier-nag=W, level-nag=W, closed-loop[=LARGEST], projection, nlc, epsilon-scaling=B[:K], time-shift=WINDOW, tsg=W, "
    "tsr=K[:SPREAD], dcw=LOW[:HIGH] (own samplers of pictures)"
)

ADDED_UP = ("cfg", "nag", "classifier-nag", "dog", "autoguidance")
"""Guidances that one method may add up, in the order of `methods.guided_method`."""


def method(word: str | Method) -> Method:
    """The method that a word names; a method itself is handed back.

    Args:
        word: one of `WORDS`, or as it was called in version 0.1.

    Raises:
        ValueError: for a word that names none, in one line that says what exists.
    """
    if not isinstance(word, str):
        return word
    from noiseshift.correction.methods import current_name

    kind, _, value = current_name(word).partition("=")
    try:
        added_up = kind in ADDED_UP
        scales, intervals = _scales(word) if added_up else ([], {})
        numbers = scales if added_up else [finite_number(part) for part in value.split(":") if value]
        maker = partial(_makers(word)[kind], intervals=intervals) if intervals else _makers(word)[kind]
        inspect.signature(maker).bind(*numbers)
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{word!r} is no method: choose from {WORDS}") from None
    return maker(*numbers)


def _scales(word: str) -> tuple[list[float], dict[str, tuple[float, float]]]:
    """`cfg=1,nag=0.5@0:0.6` → the scale of each of `ADDED_UP`, 0 where it is not named, and the intervals that are. Raises
    ValueError for a kind named twice, and an interval that is none."""
    pairs = [part.partition("=") for part in word.split(",")]
    given = {kind: scale.partition("@") for kind, _, scale in pairs}
    scales = {kind: finite_number(scale) for kind, (scale, _, _) in given.items()}
    if not set(scales) <= set(ADDED_UP) or len(scales) < len(pairs):
        raise ValueError(word)
    intervals = {kind: interval_of(times) for kind, (_, at, times) in given.items() if at}
    return [scales.get(kind, 0.0) for kind in ADDED_UP], intervals


def _makers(word: str) -> Mapping[str, Callable[..., Method]]:
    """By kind, what makes a method of the numbers after it."""
    from noiseshift.correction import methods

    return {
        **dict.fromkeys(ADDED_UP, partial(methods.guided_method, name=word)),
        "nag-epsilon": lambda scale: methods.guided_method(nag=scale, space="epsilon", name=word),
        "nag-score": lambda scale: methods.guided_method(nag=scale, space="score", name=word),
        "level-nag": methods.level_nag,
        "closed-loop": methods.closed_loop,
        "projection": methods.projection,
        "nlc": methods.noise_level_correction,
        "epsilon-scaling": methods.epsilon_scaling,
        "time-shift": methods.time_shift,
        "tsg": methods.time_step_guidance,
        "tsr": methods.score_rescaling,
        "dcw": methods.wavelets,
    }
