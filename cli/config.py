"""`--config file.yaml`: options by name, one value or a list each, read as the words they would be on the command line.

No type is guessed (a date, a sexagesimal or an octal number would be), no alias is followed, nothing is nested.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import yaml

from noiseshift.reading import open_ordinary

LARGEST = 1_000_000
"""Bytes of a file that could be written by hand."""

NOTHING = ("", "~", "null", "Null", "NULL")
"""Plain scalars that YAML reads as no value."""


def read(path: str) -> dict[str, str | list[str]]:
    """The options of a YAML file. Raises click.BadParameter, which names the file and the line."""
    try:
        if not Path(path).is_file():
            raise click.BadParameter(f"{path} is no regular file: write lines of option: value into one")
        if Path(path).stat().st_size > LARGEST:
            raise click.BadParameter(f"{path} is larger than a file of options can be: name the right one")
        found: dict[str, str | list[str] | None] = {}
        with open_ordinary(path) as file:
            text = file.read(LARGEST).decode("utf-8-sig")
        for key, value, line in _pairs(yaml.parse(text, Loader=yaml.SafeLoader)):
            if key in found:
                raise click.BadParameter(f"{path}, line {line}: {key} is there twice: keep one")
            found[key] = value
    except _Unfit as error:
        raise click.BadParameter(f"{path}, {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise click.BadParameter(f"{path}{where} is not YAML: write it as lines of option: value") from None
    return {key: value for key, value in found.items() if value is not None}


class _Unfit(Exception):
    """YAML, but no options."""

    def __init__(self, event: yaml.Event, remedy: str):
        super().__init__(f"line {_line(event)}: {remedy}")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _pairs(events: Iterator[yaml.Event]) -> Iterator[tuple[str, str | list[str] | None, int]]:
    """Key, value and line of every entry of the one mapping that the file holds. Nothing here calls itself: a file cannot be
    too deep."""
    begun = False
    for event in events:
        if isinstance(event, yaml.MappingStartEvent) and not begun:
            begun = True
        elif isinstance(event, yaml.ScalarEvent) and begun:
            yield event.value, _value(next(events), events), _line(event)
        elif isinstance(event, yaml.NodeEvent) and not (isinstance(event, yaml.ScalarEvent) and event.value == ""):
            raise _Unfit(event, "write lines of option: value" if not begun else "an option's name is a plain word")
        elif isinstance(event, yaml.DocumentStartEvent) and begun:
            raise _Unfit(event, "only one document can be read: remove the other")


def _value(event: yaml.Event, events: Iterator[yaml.Event]) -> str | list[str] | None:
    if isinstance(event, yaml.ScalarEvent):
        return None if event.style is None and event.value in NOTHING else event.value
    if not isinstance(event, yaml.SequenceStartEvent):
        raise _Unfit(event, "a value is a word or a list of words: write it out, without nesting or aliases")
    words: list[str] = []
    for item in events:
        if isinstance(item, yaml.SequenceEndEvent):
            break
        if not isinstance(item, yaml.ScalarEvent):
            raise _Unfit(item, "a list holds words: write it out, without nesting or aliases")
        words.append(item.value)
    return words
