"""The runs of `noiseshift compare`: a grid of checkpoints, solvers and guidances, each run in a folder of its own."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from noiseshift import distributed
from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.diffusion.identity import differences
from noiseshift.diffusion.models import Guidance
from noiseshift.diffusion.solvers import Solver
from noiseshift.evaluation import Extractor
from noiseshift.studies.checking import checked
from noiseshift.studies.folders import Run
from noiseshift.studies.measure import run as measure
from noiseshift.studies.protocol import Protocol, fingerprint
from noiseshift.studies.readers import available
from noiseshift.studies.sampling import Progress
from noiseshift.studies.shards import Shards
from noiseshift.studies.variants import Variant
from noiseshift.writing import claimed, jointly
from noiseshift.writing.unfinished import keeps

KEPT = "finished runs are kept"


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        name: what it is called; its sub-folder too.
        checkpoint: what is sampled.
        protocol: how.
        data: the real images that it is read against; None for its own final samples.
    """

    name: str
    checkpoint: Checkpoint
    protocol: Protocol
    data: Images | None


def grid(
    checkpoints: Sequence[Checkpoint],
    solvers: Sequence[Solver | str],
    guidances: Mapping[str, Guidance | None],
    data: Images | None,
    like: Protocol,
    *,
    estimators: Mapping[str, int | None] | None = None,
) -> list[Cell]:
    """A cell for every combination, named after what it combines.

    Args:
        checkpoints: what is sampled.
        solvers: or their words.
        guidances: by what each is called in a name; "none" stands in no name.
        data: the real images that all are read against; None for each run's own final samples.
        like: a protocol with everything else.
        estimators: how many samples each reads, None for all; without it those that a checkpoint and the data allow.

    Returns:
        The cells, for `run_grid`.
    """
    cells = []
    for checkpoint, solver, (name, guidance) in itertools.product(checkpoints, solvers, guidances.items()):
        readers = estimators or available(checkpoint, data)
        protocol = replace(like, solver=solver, guidance=guidance, estimators=readers)
        parts = [checkpoint.name, protocol.solver.name, *([name] if name != "none" else [])]
        cells.append(Cell(_folder_name(*parts), checkpoint, protocol, data))
    return cells


def varied(cell: Cell, variant: Variant, with_lora: Callable[[Checkpoint, str], Checkpoint]) -> Cell:
    """The cell of a variant.

    Args:
        cell: what is varied.
        variant: how.
        with_lora: loads a checkpoint anew with a LoRA file merged into it: one that is merged cannot be taken out again.

    Returns:
        The cell, named after both.

    Raises:
        ValueError: the checkpoint cannot be changed so.
    """
    checkpoint = cell.checkpoint if variant.lora is None else with_lora(cell.checkpoint, variant.lora)
    changed, protocol = variant(checkpoint, cell.protocol)
    return replace(cell, name=_folder_name(cell.name, variant.name), checkpoint=changed, protocol=protocol)


def _folder_name(*parts: str) -> str:
    """Parts joined to a name that any file system takes."""
    return "-".join(parts).translate(str.maketrans(":/,=", "----"))


def run_grid(
    cells: Sequence[Cell],
    folder: str | Path,
    *,
    extractor: Extractor | None = None,
    strict: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Run]:
    """Every cell's run, in its own sub-folder: one that is there already, of the same protocol, is read and not made.

    Args:
        cells: the runs of the grid, each under a name of its own.
        folder: holds a sub-folder per run.
        extractor: what computes features, for distances; None for none.
        strict: stop, before the first run, where a check of any cell's checkpoint on its data fails.
        progress: called as (stage, done, total).

    Returns:
        The runs, by name.

    Raises:
        ValueError: two cells of one name.
        PlaceError: `folder` or a sub-folder is no place for them.
    """
    if len({cell.name for cell in cells}) < len(cells):
        raise ValueError("two runs of this grid have the same name: name each combination once")
    if strict:
        _check_all(cells, progress)
    found = {}
    with jointly(claimed(folder, "compare", adding=True)):
        for done, cell in enumerate(cells):
            progress("runs", done, len(cells))
            place = Path(folder) / cell.name
            with jointly(claimed(place, "measure")):
                found[cell.name] = _one(cell, place, extractor, progress)
    progress("runs", len(cells), len(cells))
    return found


def _check_all(cells: Sequence[Cell], progress: Progress) -> None:
    """Raise ValueError where a check of any cell's checkpoint on its data fails."""
    for cell in {id(cell.checkpoint): cell for cell in cells}.values():
        device = cell.protocol.device
        checkpoint = cell.checkpoint.to(device, cell.protocol.precision)
        checked(checkpoint, cell.data, device=device, strict=True, progress=progress)


def _one(cell: Cell, folder: Path, extractor: Extractor | None, progress: Progress) -> Run:
    about = fingerprint(cell.checkpoint, cell.protocol, cell.data, extractor)
    shards = Shards(folder, about)
    run = _kept(folder, about)
    if run is not None:
        keeps(folder, KEPT)
        shards.clear()  # a process may have been killed when its run stood, and its batches too
        return run
    run = measure(
        cell.checkpoint,
        cell.protocol,
        cell.data,
        extractor=extractor,
        shards=shards,
        progress=lambda stage, done, total: progress(f"{cell.name}: {stage}", done, total),
    )
    distributed.wait()  # the first changes the folder only when all have looked at it
    if distributed.joined()[0] == 0:
        run.save(folder)
        keeps(folder, KEPT)
    shards.clear()
    return run


def _kept(folder: Path, about: Mapping[str, Any]) -> Run | None:
    """The run that is there, where it is of the same protocol and can be read."""
    if not (folder / "run.json").exists():
        return None
    try:
        run = Run.load(folder)
    except MemoryError:
        raise
    except Exception as error:  # whatever zip, parquet and JSON raise about a damaged file
        words = " ".join(str(error).split())[:120]
        logging.getLogger("noiseshift").warning("%s cannot be read (%s): it is made again", folder, words)
        return None
    if run.changed:
        return None  # which was said
    other = _other(run.manifest, about)
    if other:
        logging.getLogger("noiseshift").warning("%s holds another run (%s): it is made again", folder, other)
    return None if other else run


def _other(manifest: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """What a kept run differs in from the one that is asked for, in words; empty where it is the same."""
    given = {key: value for key, value in about.items() if key != "extractor" or value}  # features may be there unasked
    return differences({key: manifest[key] for key in given if key in manifest}, json.loads(json.dumps(given)))
