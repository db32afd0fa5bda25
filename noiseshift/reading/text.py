"""JSON, YAML and other text, of limited size and depth."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from noiseshift.reading.boundary import MB, Name, ReadingError, opened, reading, size_of

if TYPE_CHECKING:
    import pandas as pd

TEXT = 64 * MB
"""Largest JSON file."""

CARD = 4 * MB
"""Largest YAML file: its parser takes seconds a megabyte."""

NODES = 1_000_000
"""Most values of a JSON file."""

WORDS = 250_000
"""Most values of a YAML file, aliases counted as often as they are used."""

LONG, LONG_KEYS = 18, 1000
"""Letters of a whole number from 2^61 on, and how many keys of a YAML file may be as long."""

DEEP = 100
"""Most levels of lists within lists."""


def read_text(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError, *, most: int = TEXT) -> str:
    """A UTF-8 file of limited size.

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, too large or no UTF-8.
        most: The largest size, in bytes.
    """
    with opened(path, what, remedy, error) as file:
        size = size_of(file)
        if size > most:
            raise error(f"{path} is {size / MB:,.0f} MB, too large for a {what}: {remedy}")
        text = file.read(size).decode("utf-8")  # no more of one that grows meanwhile
    return io.StringIO(text, newline=None).getvalue()


def read_json(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> Any:
    """What a JSON file holds: at most 64 MB and a million values, no more than 100 levels deep.

    Args:
        path: The file.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, damaged, too large or nested too deeply.
    """
    text = read_text(path, what, remedy, error)
    with reading(path, what, remedy, error):
        return bounded(json.loads(text))


def read_yaml(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError) -> Any:
    """What a YAML file of plain values holds; aliases are followed as far as the whole stays small. None for an empty document.

    Args:
        path: The file, at most 4 MB.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, damaged, too large or nested too deeply.
    """
    import yaml

    text = read_text(path, what, remedy, error, most=CARD)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    with reading(path, what, remedy, error):
        _count_events(yaml.parse(text, loader))
        root = yaml.compose(text, loader)
        if root is None:
            return None
        bounded(root, parts=_yaml_parts, most=WORDS)
        _count_long_keys(root)
        # The nodes are few enough now, whatever their aliases and merges refer to.
        return yaml.load(text, loader)


def _count_events(events: Iterator[Any]) -> None:
    """Raise ValueError before anything is built of a text that is too long or too deep."""
    import yaml

    depth = 0
    for number, event in enumerate(events):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEP or number > WORDS:
            raise ValueError("too much of it")


def _count_long_keys(root: Any) -> None:
    """Raise ValueError where many keys are long whole numbers: such can be chosen to hash alike, and each is then compared with all
    others."""
    import yaml

    found = 0
    seen = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        waiting += _yaml_parts(node)
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            found += key.tag.endswith(":int") and len(key.value) >= LONG
    if found > LONG_KEYS:
        raise ValueError("too many long numbers as keys")


def _yaml_parts(node: Any) -> Collection[Any]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def bounded(root: Any, *, parts: Any = _parts, most: int = NODES, deep: int = DEEP) -> Any:
    """`root`, when it is a tree that can be walked. Otherwise printing or comparing it could take for ever.

    Args:
        root: A value of nested lists and mappings, or anything else that `parts` takes apart.
        parts: Gives the values inside a value, none for a leaf.
        most: Largest number of values, counted as often as they are referred to.
        deep: Largest number of levels.

    Raises:
        ValueError: It is larger or deeper, or holds itself.
    """
    known: dict[int, tuple[int, int]] = {}  # id -> values in all, levels
    open_: set[int] = set()
    stack = [root]
    while stack:
        value = stack[-1]
        inside = parts(value)
        if id(value) in known or not inside:
            stack.pop()
            continue
        if id(value) in open_:
            counted = [known.get(id(part), (1, 0)) for part in inside]
            size = 1 + sum(n for n, _ in counted)
            depth = 1 + max(d for _, d in counted)
            if size > most or depth > deep:
                raise ValueError(f"{size} values, {depth} levels deep")
            known[id(value)] = size, depth
            open_.discard(id(value))
            stack.pop()
            continue
        open_.add(id(value))
        waiting = [part for part in inside if id(part) not in known and parts(part)]
        if any(id(part) in open_ for part in waiting):
            raise ValueError("it holds itself")
        if len(open_) > deep:
            raise ValueError(f"more than {deep} levels deep")
        stack.extend(waiting)
    return root


def read_csv(path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError, **how: Any) -> pd.DataFrame:
    """A CSV file of at most 64 MB.

    Args:
        path: The file, in UTF-8.
        what: What it should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when it is missing, damaged or too large.
        **how: Keywords of `pandas.read_csv`.
    """
    import pandas as pd

    text = read_text(path, what, remedy, error)
    with reading(path, what, remedy, error):
        return pd.read_csv(io.StringIO(text), **how)


def read_words(
    text: str | None, path: Name, what: str, remedy: str, error: type[ReadingError] = ReadingError
) -> dict[str, Any]:
    """The mapping that a header's JSON text describes.

    Args:
        text: The JSON; None where the header has no such entry.
        path: The file whose header it is, for the message.
        what: What the file should be, as in `reading`.
        remedy: What to do, as in `reading`.
        error: What to raise when the text is no mapping, or too large or deep.
    """
    with reading(path, what, remedy, error):
        values = bounded(json.loads(text or ""))
        if not isinstance(values, dict):
            raise TypeError
        return values
