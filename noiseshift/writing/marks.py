"""`noiseshift.json` in a folder says that noiseshift made it, which command, and which of its files are ours.

A folder is replaced only where this mark, or what version 0.1 left in its place, names the same command, and where it holds
nothing that the mark does not list.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from noiseshift.reading import ReadingError, opened, read_json
from noiseshift.writing.whole import is_temporary, write_text

MARK = "noiseshift.json"
IGNORED = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file browsers leave behind. It goes with the folder."""

ADDED = ("report.html", "figures/*.png", "figures/*.pdf")
_OLD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "approx": (("ratios", "versions"), ("run.json", "summary.json", "*.parquet", "spectra.npz", *ADDED)),
    "correct": (("methods", "versions"), ("run.json", "methods.csv", "shift-*.csv", *ADDED)),
    "measure": (
        ("checkpoint", "sampler", "versions", "samples"),
        (
            *("run.json", "summary.json", "shift.parquet", "report.json", "posteriors.npz", "samples.npz"),
            *("features.npz", "controls/*.json", "controls/*.parquet", "controls/solver/*", *ADDED),
        ),
    ),
}
"""Folders of version 0.1, which had no mark: by command, what their run.json holds and which files they consist of."""


@dataclass(frozen=True)
class Mark:
    """What `noiseshift.json` in a folder says.

    Attributes:
        kind: The command that made the folder, such as "measure".
        files: Its files by their paths relative to the folder, with slashes.
        old: Whether version 0.1 made it, which left no mark; `files` are then those of its names that are there.
        digests: SHA-256 of files that numbers are read from, by path; empty in folders of earlier versions.
    """

    kind: str
    files: frozenset[str]
    old: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)


def read_mark(folder: Path) -> Mark | None:
    """The folder's mark; None where noiseshift did not make it."""
    about = _json(folder / MARK)
    if about is None:
        return _old_mark(folder)
    kind = about.get("kind")
    files = about.get("files")
    if not isinstance(kind, str) or not isinstance(files, list):
        return None
    listed = frozenset(str(file) for file in files)
    found = about.get("sha256")
    digests = found if isinstance(found, dict) else {}
    return Mark(kind, listed, digests={name: str(digests[name]) for name in sorted(listed & digests.keys())})


@functools.cache
def own_version() -> str:
    """The version of noiseshift, read once in a process."""
    return metadata.version("noiseshift")


def write_mark(
    folder: Path, kind: str, files: Iterable[str] | None = None, digests: Mapping[str, str] | None = None
) -> None:
    """Mark a folder as made by noiseshift.

    Args:
        folder: An existing folder; its `noiseshift.json` is replaced, whole or not at all.
        kind: The command, such as "measure".
        files: Its files relative to it; None takes all that it holds.
        digests: SHA-256 of those that shall be found unchanged, as `digests.digests` gives them.
    """
    listed = sorted(contents(folder) - {MARK} if files is None else set(files))
    about: dict[str, Any] = {"kind": kind, "version": own_version(), "files": listed}
    if digests:
        about["sha256"] = dict(digests)
    write_text(folder / MARK, json.dumps(about, indent=1) + "\n")


def adopt(folder: str | Path, files: Iterable[str | Path]) -> None:
    """Files that were added to a run folder later, such as a page or figures, become part of it. Nothing happens to a folder
    without a mark.

    Args:
        folder: The run folder.
        files: The added files, inside `folder`.

    Raises:
        ValueError: A file is not inside `folder`.
    """
    folder = Path(folder)
    mark = read_mark(folder)
    added = {Path(file).relative_to(folder).as_posix() for file in files}
    if mark is not None and not added <= mark.files:
        write_mark(folder, mark.kind, mark.files | added, mark.digests)


def contents(folder: Path) -> set[str]:
    """Everything that is not a folder, and every empty folder (with a slash at its end), relative, links not followed."""
    found: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        inner = Path(parent).relative_to(folder)
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found |= {(inner / name).as_posix() for name in (*files, *links)}
        if not folders and not files and parent != os.fspath(folder):
            found.add(inner.as_posix() + "/")
    return found


def strangers(folder: Path, mark: Mark) -> list[str]:
    """What others put into a folder of ours: files that its mark does not list, and links.

    Args:
        folder: The folder; links in it are not followed.
        mark: Its mark, as `read_mark` gives it.

    Returns:
        Their paths relative to it, sorted. What file browsers leave behind and unfinished files do not count.
    """
    found = []
    for name in sorted(contents(folder)):
        path = folder / name
        ours = name in mark.files or name == MARK or path.name in IGNORED or is_temporary(path)
        ours |= name.endswith("/") and any(file.startswith(name) for file in mark.files)
        if not ours or path.is_symlink():
            found.append(name)
    return found


def remove_run(folder: Path) -> bool:
    """Remove a marked folder's own files, and the folder where nothing else is left. The mark goes last, so that a removal
    that was cut short can be taken up. Returns whether all is gone."""
    mark = read_mark(folder)
    if mark is None:
        return False
    if mark.old:  # so that a removal that is cut short still knows the files
        write_mark(folder, mark.kind, mark.files)
    foreign = set(strangers(folder, mark))
    for name in contents(folder) - foreign - {MARK}:
        _remove(folder / name)
    if foreign:
        return False
    for parent, folders, _ in os.walk(folder, topdown=False):
        for name in folders:
            os.rmdir(os.path.join(parent, name))
    (folder / MARK).unlink(missing_ok=True)
    folder.rmdir()
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _refuse(error: OSError) -> None:
    raise error


def _json(path: Path) -> dict[str, Any] | None:
    try:
        about = read_json(path, "mark", "remove it")
    except ReadingError:
        return None
    return about if isinstance(about, dict) else None


def _old_mark(folder: Path) -> Mark | None:
    about = _json(folder / "run.json")
    if about is None:
        return _old_comparison(folder) or _old_training(folder)
    versions = about.get("versions")
    if not isinstance(versions, dict) or "noiseshift" not in versions:
        return None
    for kind, (keys, files) in _OLD.items():
        if all(key in about for key in keys):
            return Mark(kind, _matching(folder, files), old=True)
    return None


def _old_comparison(folder: Path) -> Mark | None:
    about = _json(folder / "comparison.json")
    if about is None or not {"estimator", "span", "runs"} <= set(about):
        return None
    return Mark("compare", _matching(folder, ("comparison.json", "table.*", "pairs.csv", *ADDED)), old=True)


def _old_training(folder: Path) -> Mark | None:
    """A folder of `train` or `finetune`, whose log has the settings of the training in each line, or of `train_estimator`."""
    try:
        with opened(folder / "log.jsonl", "log", "remove it") as log:
            about = json.loads(log.readline(100_000))
    except (OSError, ValueError):
        return None
    if isinstance(about, dict) and set(about) == {"step", "loss"} and (folder / "state.pt").exists():
        return Mark("train-estimator", _matching(folder, ("state.pt", "log.jsonl")), old=True)
    if not isinstance(about, dict) or not {"step", "loss", "noise_dropout", "learning_rate"} <= set(about):
        return None
    files = ("state.pt", "log.jsonl", "ema-*.pt", "model.safetensors", "model.yaml", "loss.png", "samples.png")
    return Mark("train", _matching(folder, files), old=True)


def _matching(folder: Path, patterns: tuple[str, ...]) -> frozenset[str]:
    return frozenset(
        name
        for name in contents(folder)
        if any(fnmatch.fnmatchcase(name, p) and name.count("/") == p.count("/") for p in patterns)
    )
