"""Whether a place may be written, decided before any work.

A folder may be made where nothing is, filled where it is empty, and replaced where its mark says that the same command made
it and nobody else put anything into it. A file may be replaced where it says that noiseshift made it, or with `overwrite`.
Nothing else is touched.
"""

from __future__ import annotations

import functools
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from noiseshift.writing.marks import MARK, Mark, read_mark, strangers
from noiseshift.writing.whole import is_temporary

LONGEST = 200
"""Bytes of a name: temporary names, which are longer, must fit into 255."""


class PlaceError(ValueError):
    """This place may not be written."""


def check_folder(folder: str | Path, kind: str, *, adding: bool = False) -> Path:
    """The real path of a folder that a command may write. Nothing is touched.

    Args:
        folder: Where to write; it need not exist yet.
        kind: The command. An earlier run of the same command may be replaced.
        adding: The folder is added to, not replaced, and may also hold what is not ours.

    Returns:
        The path with the links of its folders followed.

    Raises:
        PlaceError: The folder may not be written; says why and what to do.
    """
    place = _real(folder)
    if not place.exists():
        return place
    if not place.is_dir():
        raise PlaceError(f"{folder} is a file: give a folder that does not exist yet")
    _refuse_protected(place, folder)
    try:
        # A mark that was not finished is what a process leaves that was killed at its very beginning.
        empty = all(is_temporary(path, MARK) for path in place.iterdir())
        mark = None if empty else read_mark(place)
        foreign = [] if mark is None or adding else strangers(place, mark)
    except OSError as error:
        raise PlaceError(f"{folder} cannot be read ({error.strerror}): give another folder") from None
    if not empty:
        _refuse_foreign(place, folder, kind, mark, foreign)
    _refuse_anothers(place, folder)
    if adding or not empty:
        _refuse_closed_inside(place, folder, deep=not adding)
    return place


def check_file(
    path: str | Path, ours: Callable[[Path], bool], *, overwrite: bool = False, suffixes: tuple[str, ...] = ()
) -> Path:
    """The real path of a file that may be written: none is there, or noiseshift made it, or `overwrite`. Nothing is touched.

    Args:
        path: Where to write.
        ours: Whether noiseshift made the file that is there. Where it raises, it did not.
        overwrite: Allow any ordinary file to be replaced.
        suffixes: The allowed suffixes with their dots; empty allows all.

    Returns:
        The path with the links of its folders followed.

    Raises:
        PlaceError: The file may not be written; says why and what to do.
    """
    place = _real(path)
    if suffixes and place.suffix not in suffixes:
        raise PlaceError(f"{path} must end in {' or '.join(suffixes)}")
    if not place.exists():
        return place
    if place.is_dir():
        raise PlaceError(f"{path} is a folder: name a file, for example {Path(path) / ('x' + (suffixes or ('',))[0])}")
    if not place.is_file():
        raise PlaceError(f"{path} is a device or a pipe: name a file")
    _refuse_anothers(place, path)
    if not overwrite and not _says(ours, place):
        raise PlaceError(
            f"{path} is there, and noiseshift did not make it: give another name, or overwrite it (--overwrite, overwrite=True)"
        )
    return place


def _says(ours: Callable[[Path], bool], place: Path) -> bool:
    try:
        return ours(place)
    except Exception:  # a damaged or strange file is not known to be ours, whatever its reader raises
        return False


def _real(given: str | Path) -> Path:
    """The path with its folders' links followed. Refuses what names no folder or file of its own."""
    words = os.fspath(given)
    if not words.strip() or "\0" in words:
        raise PlaceError("the place to write to has no name: give one with --out")
    if words.startswith("~"):
        raise PlaceError(f"{words} begins with ~, which the shell did not replace: write the path out")
    bare = words.rstrip("/" + (os.altsep or "")) or "/"
    head, name = os.path.split(bare)
    if name in ("", ".", ".."):
        raise PlaceError(f"{words} is a folder that other things live in: name a new one inside it, as in {words}/run")
    if len(os.fsencode(name)) > LONGEST:
        raise PlaceError(f"the name {name[:40]}… is too long: take one of at most {LONGEST} bytes")
    place = Path(os.path.realpath(head or ".")) / name
    try:
        _refuse_link_to_nothing(Path(head or "."), words)
        if place.is_symlink():
            raise PlaceError(f"{words} is a link to {os.path.realpath(place)}: name the real place")
        _refuse_closed(place.parent, words)
    except OSError as error:
        raise PlaceError(f"{words} cannot be written ({error.strerror}): give another place") from None
    return place


def _refuse_link_to_nothing(head: Path, given: str) -> None:
    """A folder that is a link to nothing: what it names may be a disk that is not mounted, and results written in its place would
    be hidden once it is."""
    for folder in (head, *head.parents):
        if folder.is_symlink() and not folder.exists():
            target = os.path.realpath(folder)
            raise PlaceError(
                f"{folder} is a link to {target}, which is not there: make that first, or give another place"
            )


def _refuse_closed(parent: Path, given: str) -> None:
    """A place whose folder cannot be made or written."""
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise PlaceError(f"{parent} is a file: {given} cannot be inside it")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PlaceError(f"{parent} cannot be written by you: give a place that can, not {given}")


def _refuse_anothers(place: Path, given: str | Path) -> None:
    """Something of another user's in a folder of everybody's (as /tmp is), from where only its owner may take it away."""
    parent = place.parent.stat()
    me = os.geteuid() if hasattr(os, "geteuid") else 0
    if parent.st_mode & stat.S_ISVTX and me not in (0, parent.st_uid, place.stat().st_uid):
        raise PlaceError(f"{given} is another user's, who alone may replace it there: give another place")


def _refuse_closed_inside(place: Path, given: str | Path, *, deep: bool) -> None:
    """A folder that may not be added to or, `deep`, whose contents may not be removed: another user's, as a rule."""
    inner = (path for path in place.rglob("*") if path.is_dir() and not path.is_symlink()) if deep else ()
    for folder in (place, *inner):
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PlaceError(f"{given} may not be changed by you ({folder} is closed to you): give another place")


def _refuse_protected(place: Path, given: str | Path) -> None:
    """Folders that are never a run, even when they are empty."""
    for name, find in (
        ("the working directory", os.getcwd),
        ("the home", functools.partial(os.path.expanduser, "~")),
        ("temporary files", tempfile.gettempdir),
    ):
        try:
            known = Path(os.path.realpath(find()))
        except OSError:  # it was deleted, or there is none
            continue
        if any(_same(place, folder) for folder in (known, *known.parents)):
            inside = "" if _same(place, known) else "a parent of "
            raise PlaceError(f"{given} is {inside}{name}: give a folder of its own, as in {given}/run")
    if os.path.ismount(place):
        raise PlaceError(f"{given} is a mount point: give a folder inside it, as in {given}/run")


def _same(a: Path, b: Path) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def _refuse_foreign(place: Path, given: str | Path, kind: str, mark: Mark | None, foreign: list[str]) -> None:
    if mark is None:
        names = sorted(path.name for path in place.iterdir())
        raise PlaceError(
            f"{given} holds what noiseshift {kind} did not write ({_some(names)}): give a folder that does not exist yet"
        )
    if mark.kind != kind and not (mark.old and mark.kind == "train" and kind == "finetune"):
        raise PlaceError(f"{given} is a run of noiseshift {mark.kind}, not of {kind}: give another folder")
    if foreign:
        raise PlaceError(
            f"{given} is a run that would be replaced, and holds what noiseshift did not write ({_some(foreign)}): move that "
            "away, or give another folder"
        )


def _some(names: list[str]) -> str:
    return ", ".join(ascii(name)[1:-1] for name in names[:3]) + (", …" if len(names) > 3 else "")
