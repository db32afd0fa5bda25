"""npz and npy files: arrays whose meaning their names, types and shapes tell, or else the user."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from noiseshift.data.images import Images
from noiseshift.data.labels import as_labels
from noiseshift.data.ranges import DARK, Range, dark, refuse_dim, to_bytes, to_unit, unsaid, within
from noiseshift.data.trees import Part
from noiseshift.reading import ReadingError, names_in_arrays, read_array, read_arrays

Array = np.ndarray

WHAT = "image set (.npz or .npy of plain arrays)"
REMEDY = "write it again with numpy.savez"

STATES = ("latents", "states")
PICTURES = ("images", "arr_0", "pixels", "samples", "data", "x", "imgs", "image")
LABELS = ("labels", "arr_1", "y", "label", "targets", "target", "classes")
SPLITS: Mapping[Part, tuple[str, ...]] = {"held-out": ("test", "val", "valid"), "train": ("train",)}
OF_A_PART = ("images", "x", "data", "imgs", "image"), ("labels", "y", "targets", "label")
"""What images and labels of a part are called, before or behind its name: test_images, x_test, testX, X_test."""


@dataclass(frozen=True)
class _Stored:
    """What a file holds: the name and values of its images, and their labels where it has any."""

    name: str
    values: Array
    labels: Array | None
    remark: str = ""


@dataclass(frozen=True)
class _Shaped:
    """Values (N, ...), whether they are pictures (N, C, H, W), and what was moved."""

    values: Array
    picture: bool
    remarks: tuple[str, ...] = ()


def load_arrays(path: Path, limits: Range, part: Part) -> Images:
    """An .npz, or an .npy that holds images alone.

    Args:
        path: The file.
        limits: What black and white are in it; None where the type of the numbers must tell.
        part: Which part to take of a file that has several, such as train_images and test_images.

    Raises:
        ValueError: The file is damaged, or what it holds is not certain; names the remedy.
    """
    stored = _read(path, part)
    values, remarks = _states(stored.values, path) if stored.name in STATES else _pixels(stored.values, limits, path)
    about = ", ".join(each for each in (stored.remark, *remarks) if each)
    pixels = torch.from_numpy(np.ascontiguousarray(values))
    unit = isinstance(limits, tuple) and stored.name not in STATES and pixels.is_floating_point()
    if stored.labels is None:
        return Images(pixels, about=about, unit=unit)
    return Images(pixels, *as_labels(stored.labels, len(pixels), str(path)), about=about, unit=unit)


def _read(path: Path, part: Part) -> _Stored:
    if path.suffix.lower() == ".npy":
        return _Stored("arr_0", _native(read_array(path, WHAT, REMEDY)), None)
    images, labels, remark = _names(names_in_arrays(path, WHAT, REMEDY), part, path)
    arrays = read_arrays(path, WHAT, REMEDY, only=(images, labels))
    return _Stored(images, _native(arrays[images]), arrays.get(labels), remark)


def _names(names: Sequence[str], part: Part, path: Path) -> tuple[str, str, str]:
    """The names of the images and of their labels (empty where there are none), and which part of the set they are."""
    found = {_plain(name): name for name in reversed(names)}
    for wanted in (part, *(other for other in SPLITS if other != part)):
        for split in SPLITS[wanted]:
            images, labels = (next(_of_a_part(split, words, found), "") for words in OF_A_PART)
            if images:
                want = "" if wanted == part else f", for want of a {'training' if part == 'train' else 'held-out'} one"
                return images, labels, f"its {split} part{want}"
    if {"mu", "sigma"} <= set(names):
        raise ReadingError(f"{path} holds statistics (mu, sigma) and no images: give the images themselves")
    labels = next((found[name] for name in map(_plain, LABELS) if name in found), "")
    others = [name for name in names if name != labels]
    known = [found[name] for name in map(_plain, (*STATES, *PICTURES)) if found.get(name) in others]
    if not known and len(others) != 1:
        raise ReadingError(
            f"{path} holds {', '.join(names[:6]) or 'nothing'}: give the images, (N, H, W, C) or (N, C, H, W), under 'images' "
            "or 'arr_0', or float states under 'latents'"
        )
    taken = (known or others)[0]
    left = ", ".join(name for name in others if name != taken)
    return taken, labels, f"from {taken!r} ({left} left out)" if left else ""


def _of_a_part(split: str, words: Sequence[str], found: Mapping[str, str]) -> Iterator[str]:
    """The names that are there, of `found` by their letters, of what the words mean in a part."""
    return (found[name] for word in words for name in (split + word, word + split) if name in found)


def _native(values: Array) -> Array:
    """In the byte order of this machine, which a file need not have."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _plain(name: str) -> str:
    """X_train, x_train, trainX and train-x are spelt alike in their letters."""
    return re.sub("[^a-z0-9]", "", name.casefold())


def _states(values: Array, path: Path) -> tuple[Array, tuple[str, ...]]:
    """Floats in the scale that the network works on."""
    if values.dtype.kind != "f" or values.ndim < 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"{path} needs finite float latents (N, C, H, W) under 'latents', scaled as the network takes them"
        )
    return values.astype(np.float32), (f"as the network takes them, from {values.min():.3g} to {values.max():.3g}",)


def _pixels(values: Array, limits: Range, path: Path) -> tuple[Array, tuple[str, ...]]:
    if values.dtype.kind not in "uifb" or values.ndim < 2 or not values.size:
        raise ValueError(
            f"{path} needs numbers (N, H, W, C) or (N, C, H, W) under 'images' or 'arr_0', got {values.dtype} of shape "
            f"{values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path} holds NaN or infinity: repair or remove these images")
    shaped = _shaped(values, limits, path)
    scaled, remark = _scaled(shaped, limits, path)
    return scaled, (*shaped.remarks, *remark)


def _shaped(values: Array, limits: Range, path: Path) -> _Shaped:
    """Channels first. Three axes are grey pictures unless two of them cannot be sides; other numbers of axes no pictures."""
    if values.ndim == 2 and values.dtype.kind != "f":
        raise ValueError(
            f"{path} holds whole numbers of shape {values.shape}: give pictures (N, H, W), not rows of pixels"
        )
    if values.ndim == 3 and min(values.shape[1:]) >= 4:
        return _Shaped(values[:, None], True)
    if values.ndim != 4:
        return _Shaped(values, False)
    first, middle, last = values.shape[1:]
    if first > 4 and middle in (1, 3) and last > 4:
        raise ValueError(
            f"{path} has shape {values.shape}, in which the images seem to come last: give (N, H, W, C) or (N, C, H, W)"
        )
    if first <= 4 and last <= 4 and first in (1, 3) and last in (1, 3):
        raise ValueError(
            f"{path} has shape {values.shape}, in which channels may come first or last: give pictures that are no strips"
        )
    remarks: tuple[str, ...] = ()
    if last <= 4 and (first > 4 or last in (1, 3)):  # a last axis of 1 or 3 beside a first of 2 or 4 is no side
        values = values.transpose(0, 3, 1, 2)
        remarks = ("channels last",)
    if values.shape[1] in (2, 4) and (values.dtype.kind != "f" or isinstance(limits, tuple)):
        return _Shaped(_without_alpha(values, limits, path), True, remarks)
    return _Shaped(values, values.shape[1] in (1, 3), remarks)


def _without_alpha(values: Array, limits: Range, path: Path) -> Array:
    """What has a black and a white is grey or coloured, and a second or fourth channel says what shows through."""
    alpha = values[:, -1]
    opaque = [limits[1]] if isinstance(limits, tuple) else []
    if values.dtype.kind in "ui":
        opaque.append(np.iinfo(values.dtype).max)
    if alpha.min() < alpha.max() or alpha.max() not in opaque:
        raise ValueError(
            f"{path} has {values.shape[1]} channels, one of them not opaque: give images of 1 or 3 channels"
        )
    return values[:, :-1]


def _scaled(shaped: _Shaped, limits: Range, path: Path) -> tuple[Array, tuple[str, ...]]:
    """uint8 for whole numbers, float32 for floats."""
    values = shaped.values
    if limits == "none":
        return values.astype(np.float32), (f"as the network takes them, from {values.min():.3g} to {values.max():.3g}",)
    if limits is not None:
        scale = to_unit if values.dtype.kind == "f" else to_bytes
        said = f"black {limits[0]:g}, white {limits[1]:g}"
        reached = within(float(values.min()), float(values.max()), limits, str(path))
        return scale(values, limits), (said, *reached)
    if values.dtype.kind == "f":
        if shaped.picture:
            raise unsaid(values, str(path))
        return _states(values, path)
    if not shaped.picture:
        raise ValueError(
            f"{path} holds whole numbers of shape {values.shape}, which are no pictures (N, H, W, C) or (N, C, H, W): reshape "
            "them, say what black and white are with --range BLACK,WHITE, or give floats"
        )
    if values.dtype.kind == "b":
        return values * np.uint8(255), ("from 1 bit",)
    return _whole_numbers(values, path)


def _whole_numbers(values: Array, path: Path) -> tuple[Array, tuple[str, ...]]:
    least, most = int(values.min()), int(values.max())
    if values.dtype == np.uint8:
        if (least, most) == (0, 1):
            raise unsaid(values, str(path))
        return values, dark(least, most)
    if values.dtype == np.uint16 and most > 255:
        refuse_dim(least, most, 65535, str(path))
        return to_bytes(values, (0, 65535)), ("from 16 bit",)
    if least < 0 or most > 255 or least < most < DARK:
        raise unsaid(values, str(path))
    return values.astype(np.uint8), (f"from {values.dtype}",)


def channels_in_words(shape: Sequence[int]) -> str:
    """(C, H, W) and other shapes of one item."""
    words = {1: "grey", 3: "colour"}
    if len(shape) == 3:
        return f"{words.get(shape[0], f'{shape[0]} channels')} {shape[1]}×{shape[2]}"
    return f"shape {tuple(shape)}"
