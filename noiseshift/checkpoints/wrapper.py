"""A wrapper to be filled in: the few lines of Python between a file that is not built here and a measurement of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from noiseshift.checkpoints.inspection import Contents
from noiseshift.writing import write_text

FILL = "# fill in"
"""What marks a line that only a person can complete."""


def write_wrapper(path: str | Path, contents: Contents) -> Path:
    """Write the wrapper of a file, as far as the file tells; returns its path.

    Raises ValueError where the path is no name of a module, or there is something already.
    """
    path = Path(path)
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"{path} is no name of a module: give one such as mine.py")
    if path.exists():
        raise ValueError(f"{path} is there already: name another place, or move it away")
    write_text(path, wrapper(path.stem, contents))
    return path


def wrapper(name: str, contents: Contents) -> str:
    """The wrapper's text, for a module of that name."""
    card = "\n".join(f"        {line}" for line in _card(contents))
    return f'''"""For `noiseshift info {name}:model --data DATA`, which checks it, then `noiseshift measure` with the same words."""

import noiseshift as ns
from my_network import Network  {FILL}: where the network's class is

FILE = {json.dumps(str(contents.path), ensure_ascii=False)}


def model():
    network = Network()  {FILL}: what it was made with
    return ns.adapters.weights(FILE, network), {{
{card}
    }}
'''


def _card(contents: Contents) -> Iterator[str]:
    """The card's lines: what the file tells, and usual values where it does not."""
    yield f'"shape": {_shape(contents)}'
    yield f'"range": [-1, 1],  {FILL}: what black and white were in its training'
    if contents.axes == 0:
        yield "# of vectors, leave range out"
    yield f'"schedule": {_schedule(contents)}'
    yield f'"prediction": "{"epsilon" if contents.schedule else "velocity"}",  {FILL}: epsilon, x0, v_prediction, velocity or score'
    yield f'"time": {_time(contents)}'
    if contents.rows:
        yield f'"classes": {contents.rows},  {FILL}: {contents.rows - 1} where the last row is a null class, and then:'
        yield f'# "null_class": {contents.rows - 1},'
    yield f'# "signature": "(t, x)", "output": "first",  {FILL}: where it is called so, or answers with a tuple'


def _shape(contents: Contents) -> str:
    size, channels = contents.size, contents.inputs
    if contents.axes == 0:
        return f"[{contents.outputs}],  {FILL}: of one state"
    sides = ", ".join([str(size)] * 2) if size else ", ".join(["28"] * (contents.axes or 2))
    mark = "" if size else f"  {FILL}: its size"
    return f"[{channels}, {sides}],{mark}"


def _schedule(contents: Contents) -> str:
    table = contents.schedule
    if table is None:
        return f'{{"kind": "linear"}},  {FILL}: or {{"kind": "discrete", "steps": 1000}}, {{"kind": "variance-exploding"}}, …'
    # Of a name that lies in a file, only what is known to be a word goes into code.
    return f"ns.adapters.schedule(FILE),  # {len(table.alphas_cumprod):,} steps, by its {table.name.rpartition('.')[2]}"


def _time(contents: Contents) -> str:
    table = contents.schedule
    if contents.steps:
        counted = "" if table else f', "scale": {contents.steps}, "offset": -1'
        return f'{{"integer": True{counted}}},  {FILL}: "column": True where its shape is (B, 1)'
    if table is not None:
        steps = len(table.alphas_cumprod)
        return f'{{"scale": {steps}, "offset": -1}},  {FILL}: steps 0 … {steps - 1}; {{}} for t from 0 to 1'
    return f'{{"zero": "noise"}},  {FILL}: where its t = 0 is; {{"scale": 1000, "offset": -1}}: steps; {{"conditioning": "sigma"}}'
