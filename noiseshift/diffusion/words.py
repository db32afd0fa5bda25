"""Words of solvers and schedulers, NAME:STEPS,option=value,…, taken apart and written. Importing this costs nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

SOLVERS = (
    "euler:N, heun:N, edm:N (variance-exploding models), ddim:N, ddim:N:ETA, ddpm:N, em:N, "
    "flow-sde:N[,a=A], cps:N[,eta=ETA], precise:N[,eta=ETA], diffusers/SCHEDULER:N[,OPTION=VALUE,...], "
    "own:N (a diffusers folder's)"
)
"""The words that `noiseshift.solver` reads."""

LARGEST = 1e6
"""No scale of guidance or other number of a word is larger: a float32 state would overflow."""


def scheduler_word(word: str) -> tuple[str, int | None, dict[str, Any]]:
    """A scheduler of diffusers as `diffusers/SCHEDULER[:N][,option=value,...]` names it: its class, steps if any, options.

    Raises:
        ValueError: for another word, in one line.
    """
    head, *settings = split(word)
    found = re.fullmatch(r"diffusers/(\w+)(?::(\d{1,9}))?", head)
    if found is None:
        raise ValueError(f"{word!r} names no scheduler: write diffusers/SCHEDULER[:STEPS][,option=value,...]")
    return found[1], int(found[2]) if found[2] else None, options_of(word, settings)


def split(word: str) -> list[str]:
    """A word at its commas; those inside brackets and quotes belong to a value."""
    return re.findall(r"(?:\[[^\]]*\]|\"[^\"]*\"|[^,])+", word) or [word]


def options_of(word: str, settings: Sequence[str]) -> dict[str, Any]:
    """`timestep_spacing=linspace`, … → {"timestep_spacing": "linspace"}.

    Args:
        word: the whole word, which an error repeats.
        settings: its parts after the first comma, each name=value.

    Raises:
        ValueError: a part that is no name=value, or a name that comes twice.
    """
    pairs = [setting.partition("=") for setting in settings]
    if re.search(r",\s*(,|$)", word) or not all(name.strip().isidentifier() and equals for name, equals, _ in pairs):
        raise ValueError(f"{word!r}: write options as name=value, joined by commas")
    names = [name.strip() for name, *_ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{word!r}: an option is given twice")
    return {name: value_of(text.strip()) for name, (*_, text) in zip(names, pairs, strict=True)}


_PYTHON = {"True": True, "False": False, "None": None}


def value_of(text: str) -> Any:
    """A number, true, false, null or a list, as JSON or Python writes them; anything else is a text."""
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number of too many digits, or too deep
        return text


def value_in_words(value: Any) -> str:
    """What `value_of` reads as `value`."""
    plain = isinstance(value, str) and value_of(value) == value and not set(value) & set(',[]"= ')
    return value if plain else json.dumps(value, separators=(",", ":"))


def plain_options(scheduler: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a word writes them, in the order of their names.

    Args:
        scheduler: the class's name, for an error.
        options: by name; numbers, texts, true, false, None, and lists of these.

    Raises:
        ValueError: another kind of value.
    """
    try:
        return {name: json.loads(json.dumps(options[name])) for name in sorted(options)}
    except (TypeError, ValueError):
        raise ValueError(f"options of {scheduler} are numbers, texts, true, false, null or lists of these") from None


def number_in_words(value: float) -> str:
    """A number as a word writes it: 1 for 1.0."""
    return repr(float(value)).removesuffix(".0")


def finite_number(text: str) -> float:
    """A number that a network's state can be multiplied by. Raises ValueError for nan, infinity and larger ones."""
    number = float(text)
    if not abs(number) <= LARGEST:
        raise ValueError(f"{text}: write a finite number of at most {LARGEST:g}")
    return number


def interval_of(text: str) -> tuple[float, float]:
    """`0:0.6`, two rising times in [0, 1]. Raises ValueError for anything else."""
    low, high = (finite_number(part) for part in text.split(":"))
    if not 0 <= low < high <= 1:
        raise ValueError(f"{text}: write LOW:HIGH, two times that rise between 0 and 1")
    return low, high
