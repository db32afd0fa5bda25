"""Where a run's shift lies: which parts of its states are read, and which groups its samples are of."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.data.pictures import read_picture
from noiseshift.diffusion.identity import identity
from noiseshift.estimators.parts import Parts, bands, frames, region
from noiseshift.reading import MB, open_ordinary, read_text, reading, regular
from noiseshift.shift.groups import Groups, measure_groups
from noiseshift.shift.parts import PartReport
from noiseshift.shift.report import ShiftReport

LABELS = ("class", "prompt")
FRAME = "frame"


@dataclass(frozen=True, eq=False)
class Mask:
    """A region of the states.

    Attributes:
        inside: (h, w) bool, True inside; of the states' size, or of a multiple of it for latents.
        name: what it is called, for people.
    """

    inside: Tensor
    name: str = "mask"

    def describe(self) -> dict[str, str]:
        """For a manifest."""
        return {"name": self.name, "sha256": hashlib.sha256(self.inside.numpy().tobytes()).hexdigest()}


@dataclass(frozen=True)
class Grouping:
    """Groups of classes or prompts, from a table.

    Attributes:
        kind: what the groups are, such as the heading of the table's column.
        of: class or prompt, by its name or number → its group.
    """

    kind: str
    of: Mapping[str, str]

    def describe(self) -> dict[str, str]:
        """For a manifest."""
        return {"kind": self.kind, "identity": identity(dict(self.of))}


By = str | Grouping


def read_mask(path: str | Path) -> Mask:
    """A picture, white inside. Raises ReadingError, or ValueError where it is none."""
    with reading(path, *PICTURE):
        file = open_ordinary(regular(path, *PICTURE))
    with file:
        try:
            picture = read_picture(file)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
    values = torch.from_numpy(picture.values.astype("float64")).mean(-1)
    white = picture.white or max(float(values.max()), 1.0)
    return Mask(values > white / 2, Path(path).name)


PICTURE = ("mask", "give a picture, white inside")


GROUPS = ("table of groups", "give a CSV file")


def no_grouping(by: str) -> str:
    """Why nothing is grouped by this word, and what to do."""
    if by == "size":
        remedy = "measure a run of each (--size), and give them to noiseshift compare"
        return f"there is no grouping by 'size', since all samples of a run have one: {remedy}"
    return f"there is no grouping by {by!r}: choose class, prompt, frame, or a table as FILE.csv:COLUMN"


def read_grouping(path: str | Path, column: str) -> Grouping:
    """A CSV file with a column `class` or `prompt`, of names or numbers, and the `column` of their groups. Raises ReadingError,
    or ValueError where a column is missing.

    Args:
        path: of the CSV file, at most a megabyte.
        column: of the groups.
    """
    with reading(path, *GROUPS):  # a field may be longer than csv reads
        rows = list(csv.DictReader(io.StringIO(read_text(path, *GROUPS, most=MB))))
    heads = list(rows[0]) if rows else []
    key = next((name for name in LABELS if name in heads), None)
    if key is None or column not in heads:
        there = ", ".join(map(str, heads)) or "(none)"
        raise ValueError(f"{path} has the columns {there}: give one called class or prompt, and one called {column!r}")
    for number, row in enumerate(rows, 1):
        if row[key] is None or row[column] is None:
            raise ValueError(f"{path}: row {number} has fewer fields than its head: give each a {key} and a {column}")
    return Grouping(column, {str(row[key]).strip(): str(row[column]).strip() for row in rows})


def require_grouping(by: By | None) -> None:
    """Raise ValueError for a word that is no grouping."""
    if isinstance(by, str) and by not in (*LABELS, FRAME):
        raise ValueError(no_grouping(by))


def describe(bands: bool, mask: Mask | None, by: By | None) -> dict[str, Any]:
    """What a fingerprint says of them; nothing where nothing is asked for.

    Args:
        bands: whether Haar bands are read.
        mask: a region, or None.
        by: a grouping of samples or frames, or None.
    """
    grouped = {} if by is None else {"by": by if isinstance(by, str) else by.describe()}
    return ({"bands": True} if bands else {}) | ({} if mask is None else {"mask": mask.describe()}) | grouped


def parts_of(shape: Sequence[int], *, by_band: bool, mask: Mask | None, by: By | None) -> Parts | None:
    """The parts of states of this shape that are read, or None. Raises ValueError where states have not such parts.

    Args:
        shape: of one state.
        by_band: whether Haar bands are read.
        mask: a region, or None.
        by: a grouping, of which frames are parts of a state; or None.
    """
    found = [bands(shape)] if by_band else []
    found += [] if mask is None else [region(mask.inside, shape)]
    found += [frames(shape)] if by == FRAME else []
    return Parts.joined(found) if found else None


def groups_of(checkpoint: Checkpoint, by: By | None, sampled: Tensor | None, real: Images | None) -> Groups | None:
    """The groups of a run's samples and of the real states that calibrate.

    Args:
        checkpoint: gives the names of classes and prompts.
        by: the grouping, or None.
        sampled: (N,) classes of the samples, or None.
        real: the real states; None where there are none yet.

    Raises:
        ValueError: for a checkpoint without classes, a class that the table leaves out, or too few samples of a group.
    """
    if by is None or by == FRAME:
        return None
    if sampled is None:
        raise ValueError(f"{checkpoint.name} has no classes or prompts to group by: leave --by out")
    kind = by if isinstance(by, str) else by.kind
    names = [_group(checkpoint, by, label) for label in range(checkpoint.classes)]
    shown = None if real is None or real.labels is None else [names[k] for k in real.labels.tolist()]
    return Groups(kind, [names[k] for k in sampled.tolist()], shown)


def _group(checkpoint: Checkpoint, by: By, label: int) -> str:
    listed = checkpoint.card.class_names
    name = listed[label] if label < len(listed) else str(label)
    if isinstance(by, str):
        return name
    found = by.of.get(name, by.of.get(str(label)))
    if found is None:
        raise ValueError(f"the table says nothing of {name!r} (number {label}) under {by.kind}: add a row for it")
    return found


def parts_table(
    reports: Mapping[str, ShiftReport], parts: PartReport | None, groups: Groups | None
) -> pd.DataFrame | None:
    """The shift by parts and by groups, one table under another; None where nothing was asked for.

    Args:
        reports: of whole states, by estimator.
        parts: the report by parts, or None.
        groups: which samples go together, or None.
    """
    tables = [] if parts is None else [parts.table()]
    tables += [] if groups is None else [measure_groups(reports, groups)]
    return pd.concat(tables, ignore_index=True) if tables else None
