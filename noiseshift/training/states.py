"""What a training resumes from: `state.pt` in its folder, with the log's rows inside, so that the two cannot part.

A state that cannot be read is put aside and said: the training begins anew, and its seeds make it repeat itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from noiseshift import distributed
from noiseshift.checkpoints.files import read_content
from noiseshift.diffusion.memory import is_out_of_memory
from noiseshift.reading import read_text
from noiseshift.writing.unfinished import keeps
from noiseshift.writing.whole import remove_temporaries, whole_file, write_text

KEPT = "the training is kept as of its last save"

Log = list[dict[str, Any]]
"""A row for each state that was kept: its step, the mean loss since the one before, and settings."""


def save_tensors(state: Mapping[str, Any], path: Path) -> None:
    """`torch.save`, whole or not at all, to the same bytes under any name.

    Args:
        state: tensors and plain values.
        path: a file that takes its name once it is whole.
    """
    with whole_file(path) as fresh, fresh.open("wb") as file:
        write_tensors(state, file)  # to a file, since a path's name would become part of the archive


def write_tensors(state: Mapping[str, Any], file: IO[bytes]) -> None:
    """`torch.save` to an open file. Where the disk is full, or the user stopped it, that is what is raised: torch says something
    else on top.

    Args:
        state: tensors and plain values.
        file: open for writing bytes.
    """
    import torch

    try:
        torch.save(dict(state), file)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError | KeyboardInterrupt):
            cause = cause.__context__
        raise cause or error from None


def keep_state(folder: Path, state: Mapping[str, Any], log: Log) -> None:
    """Write `state.pt` with the log's rows, and `log.jsonl`.

    Args:
        folder: is made where it is not there.
        state: what is needed to go on.
        log: a row per report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({**state, "log": [dict(row) for row in log]}, folder / "state.pt")
    keeps(folder / "state.pt", KEPT)
    _write_log(folder, log)


def kept_state(folder: Path) -> dict[str, Any] | None:
    """What `keep_state` wrote, with the log's rows under `log`; None where nothing is, or nothing that can be read.
    What a killed process was writing there is removed."""
    path = folder / "state.pt"
    first = distributed.joined()[0] == 0
    for name in (path, folder / "log.jsonl") if first else ():
        remove_temporaries(name)
    if not path.exists():
        return None
    try:
        state = dict(read_content(path))
        step = int(state["step"])
    except (ValueError, KeyError, TypeError) as error:
        if is_out_of_memory(error) or is_out_of_memory(error.__context__):
            raise  # it may be sound
        logging.getLogger("noiseshift").warning(
            "%s cannot be read: it is now %s, and the training begins anew", path, _put_aside(path).name
        )
        return None
    if not isinstance(state.get("log"), list) or not all(isinstance(row, dict) for row in state["log"]):
        state["log"] = [row for row in read_log(folder) if row["step"] <= step]
    keeps(path, KEPT)
    if first:
        _write_log(folder, state["log"])  # a process may have been killed between its two files
    return state


def _put_aside(path: Path) -> Path:
    """Rename a file that cannot be read. It is not removed: another program may know what it is."""
    number = next(n for n in range(1, 10**6) if not (path.parent / f"unreadable-{n}.pt").exists())
    return path.rename(path.parent / f"unreadable-{number}.pt")


def _write_log(folder: Path, rows: Log) -> None:
    write_text(folder / "log.jsonl", "".join(json.dumps(dict(row)) + "\n" for row in rows))


def read_log(folder: Path) -> Log:
    """The rows of `log.jsonl`, those that can be read: a line may have been cut off."""
    path = folder / "log.jsonl"
    rows: Log = []
    for line in read_text(path, "log", "remove it").splitlines() if path.exists() and path.stat().st_size else ():
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if _is_row(row):
                rows.append(row)
    return rows


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and all(isinstance(row.get(key), int | float) for key in ("step", "loss"))
