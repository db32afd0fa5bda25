"""Classes: numbers from 0 that a checkpoint is conditioned on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from noiseshift.data.images import Images

Array = np.ndarray


def natural(word: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts 2 before 10, and else as training code sorts folders, by their letters' codes: B before a."""
    parts = re.split(r"([0-9]+)", word)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], word


def as_labels(values: Array, count: int, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as a file holds them → int64 (count,), and their names in natural order where they are words, else none.

    Args:
        values: Numbers or words (count,), or one-hot rows (count, K) of zeros and ones, which are read as their places.
        count: Number of images.
        where: The file, for the message.

    Raises:
        ValueError: Anything that is no class (fractions, NaN, negative numbers), or another number of labels than `count`.
    """
    if values.ndim == 2 and values.shape[1] > 1 and len(values) == count:
        values = _places(values, where)
    if values.size != count:
        raise ValueError(f"{where} has {count} images but {values.size} labels: give one label per image, or none")
    flat = _numbers(values.reshape(-1))
    if flat.dtype.kind == "U":
        names = sorted({str(word) for word in flat}, key=natural)
        places = {name: place for place, name in enumerate(names)}
        return torch.tensor([places[str(word)] for word in flat]), tuple(names)
    if flat.dtype.kind not in "uifb":
        raise ValueError(f"{where} has labels of type {flat.dtype}: give whole numbers from 0")
    if flat.dtype.kind == "f" and not bool(np.all(np.isfinite(flat) & (flat == np.floor(flat)))):
        wrong = flat[~(np.isfinite(flat) & (flat == np.floor(flat)))][0]
        raise ValueError(f"{where} has the label {wrong:g}, which is no class: give whole numbers from 0")
    if flat.min() < 0 or flat.max() >= 2**31:
        wrong = flat.min() if flat.min() < 0 else flat.max()
        raise ValueError(f"{where} has the label {wrong:.15g}, which is no class: give whole numbers from 0")
    return torch.from_numpy(flat.astype(np.int64)), ()


def _numbers(flat: Array) -> Array:
    """Labels that are written as words, where every word is a number, as these numbers; bytes as the words that they spell."""
    if flat.dtype.kind == "S":
        flat = np.char.decode(flat, "utf-8", "replace")
    if flat.dtype.kind != "U":
        return flat
    try:
        return flat.astype(np.float64)
    except ValueError:
        return flat


def _places(rows: Array, where: str) -> Array:
    if rows.dtype.kind not in "uifb" or not np.all((rows == 0) | (rows == 1)) or not np.all(rows.sum(1) == 1):
        raise ValueError(
            f"{where} has labels of shape {rows.shape} that are not one-hot: give one label per image, or none"
        )
    return rows.argmax(1)


def for_checkpoint(images: Images, classes: int, names: Sequence[str] = ()) -> Images:
    """The set with its labels as a checkpoint counts them.

    Class folders are matched by name where the card names classes. Otherwise there must be a folder per class, or folders
    that are called by numbers whose order and value agree. ImageNet's own folders (n01440764) have a known order. For a
    checkpoint without classes the set stays as it is.

    Args:
        images: The set.
        classes: How many the checkpoint has (or prompts), without the null class; 0 for an unconditional one.
        names: Its classes by name, in its order, where its card says; else empty.

    Raises:
        ValueError: Labels are missing, are no class of the checkpoint's, or are not certain.
    """
    if not classes:
        return images
    if images.labels is None and classes == 1:
        return replace(images, labels=torch.zeros(len(images), dtype=torch.int64))
    if images.labels is None:
        raise ValueError("the checkpoint is conditional: give --data with labels (classes, or places of prompts)")
    if images.names:
        return _named(images, classes, names)
    least, most = int(images.labels.min()), int(images.labels.max())
    if least < 0 or most >= classes:
        counted = "they seem to be counted from 1, subtract 1" if (least, most) == (1, classes) else ""
        raise ValueError(
            f"--data has labels from {least} to {most}, the checkpoint classes or prompts from 0 to {classes - 1}: "
            + (counted or "number them as it was trained on them")
        )
    return images


def _named(images: Images, classes: int, names: Sequence[str]) -> Images:
    """Class folders of the set → the checkpoint's classes."""
    assert images.labels is not None
    for spelt in (_composed, _folded):
        if (order := _places_of(images.names, names, spelt)) is not None:
            return replace(images, labels=torch.tensor(order)[images.labels])
    if signed := next((name for name in images.names if re.fullmatch(r"[+-][0-9.]+", name)), None):
        raise ValueError(
            f"the class folder {signed} is no class: call the folders by whole numbers from 0, or by words"
        )
    numbers = [int(name) if name.isdecimal() else None for name in images.names]
    counted = numbers == list(range(len(numbers)))
    wordnet = len(images.names) == classes and all(re.fullmatch(r"n[0-9]{8}", name) for name in images.names)
    if names and not counted and not wordnet:
        known = {_folded(name) for name in names}
        other = next((name for name in images.names if _folded(name) not in known), None)
        if other is None:
            raise ValueError(
                "class folders or the card's classes differ by capitals only, so that which is which is not known: call the "
                "folders exactly as the card's class_names"
            )
        raise ValueError(
            f"the class folder {other} is none of the card's classes ({', '.join(names[:3])}, …): call the folders by those "
            "names, or give an .npz with labels"
        )
    if len(images.names) > classes or (len(images.names) < classes and not counted):
        raise ValueError(
            f"--data has {len(images.names)} class folders ({_few(images.names)}), the checkpoint {classes} classes or "
            "prompts: which is which is not known; give a folder per class, or an .npz with labels"
        )
    return images


def _composed(name: str) -> str:
    """Accents as one letter: some file systems write them as two."""
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _places_of(folders: Sequence[str], names: Sequence[str], spelt: Callable[[str], str]) -> list[int] | None:
    """The place of each folder among the card's classes; None unless each is one of them, and no two are the same."""
    known = {spelt(name): place for place, name in enumerate(names)}
    found = [known[spelt(name)] for name in folders if spelt(name) in known]
    return found if len(known) == len(names) > 0 and len(folders) == len(set(found)) else None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"


def labels_in_words(labels: Tensor | None, names: Sequence[str]) -> str:
    """The classes in words, for one line.

    Args:
        labels: (N,), or None where the set has none.
        names: Class folders in the order of their labels; empty where labels do not come from folders.
    """
    if labels is None:
        return "no classes"
    if not names:
        return f"labels {int(labels.min())} … {int(labels.max())}"
    words = sorted(names) != list(names)
    return f"{len(names)} classes in the order {_few(names)}{' (by number; as words they sort otherwise)' if words else ''}"
