"""Trainings resume only their own: what a training is made of is kept beside its state, and compared before it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from noiseshift import distributed
from noiseshift.diffusion.identity import differences
from noiseshift.reading import reading
from noiseshift.training import states

STATE = "state.pt"
MADE = (STATE, "log.jsonl", "ema-*.pt", "model.safetensors", "model.yaml", "loss.png", "samples.png")
"""What a training and its command write."""


def kept_state(folder: Path, about: Mapping[str, Any], *, restart: bool = False) -> dict[str, Any] | None:
    """The state of the training in `folder`, if it is the one that is asked for; None where there is none,
    or none that can be read.

    Args:
        folder: where the training keeps its state.
        about: what the training that is asked for is made of, in plain values; `about["settings"]["steps"]` may be more than
            that of a finished one.
        restart: move what is there aside, into `previous-1`, `previous-2`, …, and start anew.

    Raises:
        ValueError: for a state of another training; the message says what differs.
    """
    if restart:
        _move_aside(folder)
    state = states.kept_state(folder)
    if state is None:
        return None
    if "about" not in state:
        raise ValueError(f"{folder} holds a training that does not say what it was made of: {REMEDY}")
    with resumable(folder):
        before = json.loads(state["about"])
        planned = int(before["settings"]["steps"])
        step = int(state["step"])
        if not 0 <= step <= planned:
            raise ValueError(f"it is at step {step} of {planned}")
    _require_same(folder, before, json.loads(as_text(about)), planned, step)
    return state


def resumable(folder: Path) -> AbstractContextManager[None]:
    """Around code that takes a state up: one that cannot be is an error in a line."""
    return reading(folder / STATE, "state of this training", "start anew with --restart")


REMEDY = "give another folder, or start anew with --restart"


def as_text(about: Mapping[str, Any]) -> str:
    """What a training is made of, as its state keeps it under `about`."""
    return json.dumps(about, sort_keys=True)


def _require_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], planned: int, step: int) -> None:
    wanted = now["settings"]["steps"]
    if step == planned <= wanted:
        now = {**now, "settings": {**now["settings"], "steps": planned}}
    if other := differences(before, now):
        first = f", or finish its {planned} steps first" if step < planned else ""
        raise ValueError(f"{folder} holds a training with other settings ({other}): {REMEDY}{first}")


def _move_aside(folder: Path) -> None:
    """What a training left in its folder goes to a sub-folder of its own; what is not a training's stays."""
    left = [path for name in MADE for path in sorted(folder.glob(name))]
    if left and distributed.joined()[0] == 0:
        place = next(path for k in range(1, len(left) + 10**6) if not (path := folder / f"previous-{k}").exists())
        place.mkdir()
        for path in left:
            path.rename(place / path.name)
    distributed.wait()  # nobody reads what another is about to move
