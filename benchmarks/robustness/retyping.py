"""Sound files whose values are of another type or shape: lists where numbers are due, NaN, nested, huge, odd letters, missing.

`retyped(content, name, source)` changes one or two values of a JSON, JSON-lines, YAML, CSV, parquet or npz file, by its name.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import yaml

VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", " ", "nan", "1e3", "-1", [], [1], [[1]], {}, {"a": 1}, {"a": {"b": [1]}}),
    *(0, -1, 1, 2, 1e-320, 0.5, 1e300, float("nan"), float("inf"), -float("inf"), 2**31, 2**63, 2**64, 10**30, 10**400),
    *(
        "\u202e\u0000",
        "\ud83d\ude00",
        "=1+1",
        "../../x",
        "/dev/zero",
        "a" * 5000,
        "\x1b[2J",
        "$x$",
        "<b>",
        "{{x}}",
        "%s",
    ),
    *([None] * 3, ["a", 1, None], list(range(50)), {"": ""}, {"1": 1}, "2024-13-45", "none", "None"),
)


def retyped(content: bytes, name: str, source: random.Random) -> bytes | None:
    """The file with values of another type; None for files of other kinds."""
    change = CHANGES.get(PurePath(name).suffix)
    try:
        return None if change is None else change(content, source)
    except (ValueError, TypeError, OverflowError, yaml.YAMLError):  # a value that this format cannot hold
        return None


def _json(content: bytes, source: random.Random) -> bytes:
    return json.dumps(_changed(json.loads(content), source)).encode()


def _lines(content: bytes, source: random.Random) -> bytes:
    rows = [json.loads(line) for line in content.decode().splitlines()]
    return "".join(json.dumps(row) + "\n" for row in _changed(rows, source)).encode()


def _yaml(content: bytes, source: random.Random) -> bytes:
    return yaml.safe_dump(_changed(yaml.safe_load(content), source), allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )


def _changed(root: Any, source: random.Random) -> Any:
    """The tree with one or two of its values replaced, removed or renamed."""
    for _ in range(source.choice((1, 1, 2))):
        places = list(_places(root))
        if not places:
            return source.choice(VALUES)
        holder, key = source.choice(places)
        way = source.random()
        if way < 0.75 or isinstance(holder, list):
            holder[key] = source.choice(VALUES)
        elif way < 0.9:
            del holder[key]
        else:
            holder[f"{key}x"] = holder.pop(key)
    return root


def _places(value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _frame(frame: pd.DataFrame, source: random.Random) -> pd.DataFrame:
    column = source.choice(list(frame))
    way = source.randrange(6)
    if way == 0:
        return frame.drop(columns=[column])
    if way == 1:
        return frame.iloc[: source.choice((0, 1, len(frame) // 2))]
    if way == 2:
        return frame.rename(columns={column: str(source.choice(VALUES))[:80]})
    if way == 3:
        return pd.concat([frame, frame], ignore_index=True)
    value = source.choice(VALUES)
    if way == 4:
        return frame.assign(**{column: [value] * len(frame)})
    changed = frame.astype({column: object})
    if len(changed):
        changed.at[changed.index[source.randrange(len(changed))], column] = value
    return changed


def _csv(content: bytes, source: random.Random) -> bytes:
    return _frame(pd.read_csv(io.BytesIO(content)), source).to_csv(index=False).encode("utf-8", "surrogatepass")


def _parquet(content: bytes, source: random.Random) -> bytes:
    made = io.BytesIO()
    frame = _frame(pd.read_parquet(io.BytesIO(content)), source)
    try:
        frame.to_parquet(made)
    except Exception as error:  # pyarrow's own errors, for a column of mixed types
        raise ValueError from error
    return made.getvalue()


def _arrays(content: bytes, source: random.Random) -> bytes:
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file.files}
    name = source.choice(list(arrays))
    values = arrays[name]
    ways: tuple[Callable[[], Any], ...] = (
        lambda: values.astype(source.choice(("f8", "f2", "i1", "u8", "c16", "U3", "?"))),
        lambda: values.reshape(-1),
        lambda: values[..., None],
        lambda: values[:0] if values.ndim else np.zeros(0),
        lambda: values[:1] if values.ndim else values,
        lambda: np.full(values.shape, source.choice((np.nan, np.inf, -1e300, 0.0))),
        lambda: np.array("x"),
        lambda: np.float64(3),
        lambda: values.T,
    )
    if source.random() < 0.15:
        del arrays[name]
    else:
        arrays[name] = source.choice(ways)()
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": _json,
    ".jsonl": _lines,
    ".yaml": _yaml,
    ".csv": _csv,
    ".parquet": _parquet,
    ".npz": _arrays,
}
