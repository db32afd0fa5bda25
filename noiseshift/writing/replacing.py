"""Folders that are whole or absent, and places that one process holds while it works."""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from noiseshift import distributed
from noiseshift.writing.digests import digests
from noiseshift.writing.locks import BusyError, locked
from noiseshift.writing.marks import MARK, Mark, contents, read_mark, remove_run, write_mark
from noiseshift.writing.places import PlaceError, check_file, check_folder
from noiseshift.writing.whole import named_where_full, remove_temporaries, temporary, whole_file

_NOTHING = Mark("", frozenset())
_LEFT = re.compile(r"\.(?P<name>.+)\.(?:(?:new|old)-[0-9a-f]{8}(?:\.[A-Za-z0-9]+)?|lock)")
"""What a killed process may leave of a place NAME: unfinished, moved aside, locked."""


@contextmanager
def claimed(folder: str | Path, kind: str, *, adding: bool = False) -> Iterator[Path]:
    """Hold a folder that a command may write, with what killed processes left of it put in order.

    With `adding` the folder is made and marked at once, and goes again where nothing is added. Yields its real path.

    Args:
        folder: Where to write, as in `check_folder`.
        kind: The command.
        adding: The folder is added to, not replaced.

    Raises:
        PlaceError: The folder may not be written.
        BusyError: Another process holds it.
    """
    place = check_folder(folder, kind, adding=adding)
    with _held(place) as first:
        if first:
            _recover(place)
            check_folder(folder, kind, adding=adding)
        if not (first and adding):
            yield place
            return
        _begin(place, kind)
        try:
            yield place
        finally:
            if contents(place) == {MARK} and not (read_mark(place) or _NOTHING).files:
                remove_run(place)


@contextmanager
def claimed_file(
    path: str | Path, ours: Callable[[Path], bool], *, overwrite: bool = False, suffixes: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Hold a file's place as `claimed` does a folder's. Yields its real path.

    Args:
        path: Where to write.
        ours: Whether noiseshift made the file that is there.
        overwrite: Allow any ordinary file to be replaced.
        suffixes: The allowed suffixes with their dots; empty allows all.

    Raises:
        PlaceError: The file may not be written.
        BusyError: Another process holds it.
    """
    place = check_file(path, ours, overwrite=overwrite, suffixes=suffixes)
    with _held(place) as first:
        if first:
            remove_temporaries(place)
        yield place


@contextmanager
def replaced_file(path: str | Path, ours: Callable[[Path], bool], *, overwrite: bool = False) -> Iterator[Path]:
    """A file to write to, which takes the name `path` once all is written; on an error what was there stays.

    Args:
        path: The name that the file gets.
        ours: Whether noiseshift made the file that is there.
        overwrite: Allow any ordinary file to be replaced.

    Raises:
        PlaceError: A file that is not ours is there; it is left as it is. Where it came only meanwhile, the new one is kept under
            another name, which the error says.
        BusyError: Another process holds the place.
    """
    with claimed_file(path, ours, overwrite=overwrite) as place, whole_file(place) as fresh:
        yield fresh
        try:
            check_file(path, ours, overwrite=overwrite)
        except PlaceError as error:
            raise PlaceError(f"{error}; the new one is in {_keep(fresh, place)}") from None


@contextmanager
def jointly(claim: AbstractContextManager[Path]) -> Iterator[None]:
    """Under torchrun the first process enters `claim` and the others wait; all fail where it does."""
    with ExitStack() as stack:
        error: Exception | None = None
        if distributed.joined()[0] == 0:
            try:
                stack.enter_context(claim)
            except (ValueError, OSError) as caught:
                error = caught
        error = distributed.first(error)
        if error is not None:
            raise error
        yield


@contextmanager
def whole_folder(folder: str | Path, kind: str) -> Iterator[Path]:
    """A fresh folder to write to; once all is written it takes the name `folder`, and the place of an earlier run of `kind`,
    which is moved aside until the new one stands.

    Args:
        folder: The name that the folder gets.
        kind: The command, which the mark names.

    Raises:
        PlaceError: Something else is there, and is left as it is. Where it came only while the run went on, the new run is
            kept under another name, which the error says.
        BusyError: Another process holds the place.
    """
    with claimed(folder, kind) as place:
        fresh = temporary(place)
        fresh.mkdir()  # not tempfile's, which only its owner could read
        kept = False
        try:
            with named_where_full(place):
                yield fresh
                write_mark(fresh, kind, digests=digests(fresh, contents(fresh)))
            try:
                check_folder(place, kind)  # it may have changed while the run went on
                _swap(fresh, place)
            except (PlaceError, OSError) as error:
                kept = True
                reason = f"{place} cannot be replaced ({error.strerror})" if isinstance(error, OSError) else error
                raise PlaceError(f"{reason}; the new run is in {_keep(fresh, place)}") from None
        finally:
            if not kept:
                shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def merged_folder(folder: str | Path, kind: str, last: str) -> Iterator[Path]:
    """A fresh folder to write to; once all is written its files go into `folder`, which keeps what else is in it.

    Args:
        folder: The folder that is added to, made where there is none.
        kind: The command, which the mark names. Files of its earlier run that are not written again are removed.
        last: The file without which the folder is not read: it is away while the others change, and comes last.

    Raises:
        PlaceError: The folder may not be written.
        BusyError: Another process holds it.
    """
    with claimed(folder, kind, adding=True) as place:
        if read_mark(place) is None:
            _begin(place, kind)
        fresh = temporary(place)
        fresh.mkdir()
        try:
            with named_where_full(place):
                yield fresh
            names = contents(fresh)
            old = (read_mark(place) or _NOTHING).files
            write_mark(place, kind, names | old)
            for name in (last, *(old - names)):
                (place / name).unlink(missing_ok=True)
            for name in sorted(names, key=lambda name: name == last):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(fresh / name, place / name)
            write_mark(place, kind, names, digests(place, names))
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _held(place: Path) -> Iterator[bool]:
    """The lock, in a folder that exists; folders that were made for it go again where nothing was written."""
    made = [parent for parent in place.parents if not parent.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(place) as first:
            yield first
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def _begin(place: Path, kind: str) -> None:
    """A folder that is added to, made and marked, and in order inside."""
    made = not place.exists()
    place.mkdir(exist_ok=True)
    mark = read_mark(place) or _NOTHING
    try:
        write_mark(place, kind, mark.files, mark.digests)
    except OSError:
        if made:
            with suppress(OSError):
                place.rmdir()
        raise
    for name in {match["name"] for path in place.iterdir() if (match := _LEFT.fullmatch(path.name))}:
        with suppress(BusyError, PlaceError), locked(place / name) as first:
            if first:
                _recover(place / name)


def _recover(place: Path) -> None:
    """Put in order what killed processes left: an old run that was moved aside comes back, or goes; the unfinished goes."""
    asides = _asides(place)
    if asides and not place.exists():
        asides.pop().rename(place)
        _say(f"{place}: an earlier process was stopped while it replaced this run; the old one is back")
    for aside in asides:
        _dispose(aside, place)
    remove_temporaries(place)
    remove_temporaries(place / MARK)


def _asides(place: Path) -> list[Path]:
    """Old runs of this name that were moved aside, the latest last."""
    pattern = re.compile(rf"\.{re.escape(place.name)}\.old-[0-9a-f]{{8}}")
    found = [path for path in place.parent.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def _swap(fresh: Path, place: Path) -> None:
    if not place.exists():
        fresh.rename(place)
        return
    if not any(place.iterdir()):
        shutil.copymode(place, fresh)
        os.replace(fresh, place)
        return
    mark = read_mark(place)
    if mark is not None and mark.old:
        write_mark(place, mark.kind, mark.files)
    aside = place.parent / f".{place.name}.old-{uuid.uuid4().hex[:8]}"
    place.rename(aside)
    try:
        fresh.rename(place)
    except BaseException:
        aside.rename(place)
        raise
    _dispose(aside, place)


def _dispose(aside: Path, place: Path) -> None:
    """Remove an old run. What is not ours in it stays, under a name that can be seen, and so does what may not be removed: the new
    run stands."""
    try:
        if not any(aside.iterdir()):
            aside.rmdir()
        elif not remove_run(aside):
            _say(f"{place}: the old run held what noiseshift did not write; it is in {_keep(aside, place)}")
    except OSError as error:
        _say(f"{place}: the old run could not be removed ({error.strerror}); it is in {_keep(aside, place)}")


def _keep(folder: Path, place: Path) -> Path:
    """Give a folder or a file beside `place` a name that can be seen, where that is allowed. Returns where it is."""
    number = next(n for n in range(1, 10**6) if not os.path.lexists(f"{place}.kept-{n}"))
    try:
        return folder.rename(place.parent / f"{place.name}.kept-{number}")
    except OSError:
        return folder


def _say(words: str) -> None:
    logging.getLogger("noiseshift").warning("%s", words)
