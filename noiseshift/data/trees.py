"""Folders and zips of pictures: which files are pictures, and which folders are classes."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from noiseshift.data.kinds import START, WRITE, in_words, remedy_in_words
from noiseshift.data.labels import natural
from noiseshift.data.pictures import SUFFIXES
from noiseshift.reading import open_ordinary

Part = Literal["held-out", "train"]
"""Which part of a data set is wanted where it comes in parts."""

Place = tuple[str, ...]
"""A path under the set's root, as its parts."""

PARTS: dict[str, Part] = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("test", "testing", "testset", "val", "valid", "validation", "dev", "eval"), "held-out"),
    **dict.fromkeys(("heldout", "held-out", "held_out", "holdout"), "held-out"),
}

PICTURES = {"image", "images", "img", "imgs", "jpegimages", "pictures"}
TARGETS = {"label", "labels", "mask", "masks", "annotations", "segmentation", "seg", "gt", "groundtruth", "depth"}
"""Names of folders that hold pictures, and pictures that say something of these."""

JUNK = {"__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "lost+found", "$recycle.bin"}
JUNK |= {"system volume information", "icon\r"}

LARGEST = 1 << 28
"""Bytes of one picture's file in a zip."""


@dataclass(frozen=True)
class File:
    """A file of the set and how it is opened.

    Attributes:
        place: Its path under the set's root, as its parts.
        open: Opens it for reading bytes.
    """

    place: Place
    open: Callable[[], BinaryIO]


@dataclass(frozen=True)
class Tree:
    """All files and folders of the set but hidden ones and what file managers leave behind.

    Attributes:
        root: The folder or zip, for messages.
        files: In no certain order.
        folders: Paths under the root, without the root itself; empty folders too.
    """

    root: str
    files: list[File]
    folders: set[Place]


@dataclass(frozen=True)
class Layout:
    """The pictures of a set in order, their classes, and what had to be assumed.

    Attributes:
        files: The pictures, in natural order of their paths.
        labels: The class of each, counted from 0; None where the set has none.
        names: The class folders in the order of their labels; empty where labels do not come from folders.
        remarks: What was assumed or left out, in a few words each.
    """

    files: list[File]
    labels: list[int] | None
    names: tuple[str, ...]
    remarks: tuple[str, ...]


def junk(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by a file manager."""
    return name.startswith(".") or name.casefold() in JUNK


def folder_tree(root: Path) -> Tree:
    """What lies in a folder; links to folders are followed, once."""
    files, folders, seen = [], set[Place](), set[str]()
    for where, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(where)
        inner[:] = [] if real in seen else [name for name in inner if not junk(name)]
        if real in seen:
            continue
        seen.add(real)
        place = Path(where).relative_to(root).parts
        folders.add(place)
        paths = [Path(where) / name for name in names if not junk(name)]
        files += [File((*place, path.name), _opener(path)) for path in paths if path.is_file()]
    return Tree(str(root), files, folders - {()})


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: open_ordinary(path)


def zip_tree(archive: zipfile.ZipFile, root: Path) -> Tree:
    """What lies in a zip.

    Args:
        archive: It must stay open while its files are read. A file over 256 MB raises ValueError when it is opened.
        root: Its path, for messages.
    """
    files, folders = [], set[Place]()
    for info in archive.infolist():
        place = PurePosixPath(info.filename.replace("\\", "/")).parts
        if any(junk(name) for name in place):
            continue
        folders |= {place[:depth] for depth in range(1, len(place) + info.is_dir())}
        if not info.is_dir():
            files.append(File(place, _unzipper(archive, info)))
    return Tree(str(root), files, folders)


def _unzipper(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    def opened() -> BinaryIO:
        if info.file_size > LARGEST:
            raise ValueError(f"holds {info.file_size:,} bytes, too many for a picture: unpack the zip yourself")
        with archive.open(info) as file:
            return io.BytesIO(file.read(LARGEST))

    return opened


def arrange(tree: Tree, part: Part) -> Layout:
    """The set's pictures and classes.

    A class is a folder; a folder that holds nothing but one folder is passed through; of a set that comes in parts (train,
    test) the wanted one is taken where there is one. An EDM-style dataset.json gives the labels instead.

    Args:
        tree: All files of the set.
        part: The part that is wanted of a set that comes in parts.

    Raises:
        ValueError: There are no pictures, or it is not certain which folders are classes.
    """
    pictures = sorted((f for f in tree.files if _is_picture(f)), key=lambda file: _order(file.place))
    if not pictures:
        raise ValueError(_none_in(tree))
    listed = next((file for file in tree.files if file.place == ("dataset.json",)), None)
    remarks = _left_out(len(tree.files) - len(pictures) - (listed is not None))
    if listed is not None:
        return Layout(pictures, _listed(listed, pictures, tree.root), (), (*remarks, "labels of its dataset.json"))
    root: Place = ()
    while True:
        tops = _tops(pictures, root, tree.root)
        chosen = tops[0] if len(tops) == 1 else _chosen(tops, part, _path(tree.root, root))
        if chosen is None:
            break
        if len(tops) > 1:
            remarks = (*remarks, f"its part {chosen}")
        elif part_of(chosen) not in (None, part):
            remarks = (
                *remarks,
                f"its part {chosen}, for want of a {'training' if part == 'train' else 'held-out'} one",
            )
        root = (*root, chosen)
        pictures = [file for file in pictures if file.place[: len(root)] == root]
    if not tops:
        return Layout(pictures, None, (), remarks)
    _require_clear(tree, pictures, root, tops)
    if any(len(file.place) > len(root) + 2 for file in pictures):
        remarks = (*remarks, "pictures of deeper folders with their class")
    labels = {name: label for label, name in enumerate(tops)}
    return Layout(pictures, [labels[file.place[len(root)]] for file in pictures], tuple(tops), remarks)


def _none_in(tree: Tree) -> str:
    """The error for a set without pictures: what it holds, and what to do."""
    kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    none = f"no pictures ({kinds}) under {tree.root}"
    if not tree.files:
        return f"{none}: it is empty, give another folder"
    one_of_each = {
        PurePosixPath(file.place[-1]).suffix: file for file in sorted(tree.files, key=lambda file: file.place)
    }
    remedies = (remedy for file in one_of_each.values() if (remedy := remedy_in_words(file.place[-1], _start(file))))
    return f"{none}: it holds {in_words(file.place[-1] for file in tree.files)}; {next(remedies, WRITE)}"


def _start(file: File) -> bytes:
    try:
        with file.open() as opened:
            return opened.read(START)
    except Exception:  # damaged or not to be read: its name must do
        return b""


def _is_picture(file: File) -> bool:
    return PurePosixPath(file.place[-1]).suffix.lower() in SUFFIXES


def _order(place: Place) -> list[object]:
    return [natural(name) for name in place]


def _left_out(others: int) -> tuple[str, ...]:
    return (f"{others} other file{'s' if others > 1 else ''} left out",) if others else ()


def _path(root: str, place: Place) -> str:
    return str(Path(root, *place))


def _tops(pictures: Sequence[File], root: Place, where: str) -> list[str]:
    """The folders right under `root` that hold pictures, in natural order. Raises ValueError where pictures lie beside."""
    depth = len(root)
    tops = {file.place[depth] for file in pictures if len(file.place) > depth + 1}
    if tops and any(len(file.place) == depth + 1 for file in pictures):
        raise ValueError(
            f"{_path(where, root)} holds pictures both beside and inside its folders ({_few(tops)}): which are classes "
            "is not certain; move them into folders, or give one folder"
        )
    return sorted(tops, key=natural)


def part_of(name: str) -> Part | None:
    """The part of a set that a folder is called after: val, val2017, train_images, Test-Set, testA."""
    word, _, rest = _NOT_LETTERS.sub(" ", name).strip().casefold().partition(" ")
    stem = word if rest in {"", *PICTURES, "set", "data", "split"} else ""
    domain = name[:-1].casefold() if name[-1:] in ("A", "B") else ""  # of a set that is translated into another
    return PARTS.get(name.casefold()) or PARTS.get(stem) or PARTS.get(domain)


def parts_in(names: Sequence[str]) -> dict[str, Part]:
    """The folders that are called after parts: each by itself, or all by one name and a part (seg_train, seg_test).

    Args:
        names: of folders side by side.
    """
    alone = {name: part for name in names if (part := part_of(name)) is not None}
    split = [_NOT_LETTERS.sub(" ", name).casefold().split() for name in names]
    words = [next((word for word in each if word in PARTS), "") for each in split]
    common = {tuple(word for word in each if word != part) for each, part in zip(split, words, strict=True)}
    if len(alone) > 1 or len(common) > 1 or len(set(words)) < 2 or "" in words:
        return alone
    return {name: PARTS[word] for name, word in zip(names, words, strict=True)}


_NOT_LETTERS = re.compile(r"[^A-Za-z]+")


def _chosen(tops: Sequence[str], part: Part, where: str) -> str | None:
    """The wanted part of a set that comes in parts, None for one that does not."""
    names = {name.casefold() for name in tops}
    if names & PICTURES and names & TARGETS:
        raise ValueError(
            f"{where} holds pictures and what belongs to them ({_few(tops)}): give the folder of the pictures"
        )
    known = parts_in(tops)
    if len(known) < 2:
        return None
    wanted = [name for name in known if known[name] == part]
    if len(wanted) == 1 and len(known) == len(tops):
        return wanted[0]
    raise ValueError(
        f"{where} comes in parts ({_few(tops)}): give one of them, such as {Path(where, next(iter(known)))}"
    )


def _require_clear(tree: Tree, pictures: Sequence[File], root: Place, tops: Sequence[str]) -> None:
    """Raise ValueError where the folders under `root` need not be the classes."""
    depth = len(root)
    where = _path(tree.root, root)
    inner = parts_in(sorted({name for file in pictures for name in file.place[depth + 1 : -1]}))
    if len({name.casefold() for name in inner}) > 1:
        raise ValueError(
            f"the classes of {where} come in parts ({_few(inner)}): give a folder of one part, a folder per class"
        )
    beside = {place[depth] for place in tree.folders if place[:depth] == root and len(place) > depth} - set(tops)
    if beside:
        raise ValueError(
            f"{where} has class folders without a picture ({_few(beside)}), so that the others' numbers are not certain: fill "
            "or remove them"
        )


def _few(names: Collection[str]) -> str:
    ordered = sorted(names, key=natural)
    return ", ".join(ordered[:4]) + (", …" if len(ordered) > 4 else "")


def _listed(file: File, pictures: Sequence[File], where: str) -> list[int] | None:
    """Labels as EDM's dataset tool writes them: {"labels": [["00000/img00000000.png", 6], …]}, or null."""
    try:
        with file.open() as opened:
            rows = json.load(opened).get("labels")
        known = None if rows is None else {PurePosixPath(name).parts: label for name, label in rows}
    except Exception as error:  # a damaged zip fails in as many ways as damaged JSON
        raise ValueError(f"{where}: dataset.json is not as EDM's dataset tool writes it ({error}): repair it") from None
    if known is None:
        return None
    return [_label(known.get(picture.place), picture.place, where) for picture in pictures]


def _label(label: object, place: Place, where: str) -> int:
    if not isinstance(label, int) or label < 0:
        raise ValueError(
            f"{where}: dataset.json gives {'/'.join(place)} the label {label}: give each a whole number from 0"
        )
    return label
