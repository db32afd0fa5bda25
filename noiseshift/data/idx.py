"""MNIST-style idx files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from noiseshift.data.images import Images
from noiseshift.data.labels import as_labels
from noiseshift.data.trees import Part
from noiseshift.reading import gunzip, opened, reading, require_room, size_of

KINDS = ("images-idx3", "labels-idx1")
IMAGES = "*images?idx3-ubyte*"


def find_idx(path: Path) -> dict[str, Path]:
    """The image files of a set by their split ("train", "t10k", …), in `path`, or where torchvision puts them under it; each may
    lie in a folder of its own name, as some archives unpack."""
    for folder in (path, path / "raw", *sorted(path.glob("*/raw"))):
        named = sorted((*folder.glob(IMAGES), *folder.glob(f"*idx3-ubyte*/{IMAGES}")), reverse=True)
        found = {_split(file.name): file for file in named if file.is_file()}
        if found:
            return found
    return {}


def _split(name: str) -> str:
    return name[: name.index("images")].rstrip("-_.")


def load_part(found: dict[str, Path], part: Part) -> Images:
    """The wanted part of the splits that are there, or the only one.

    Args:
        found: Image files by their split, as `find_idx` gives them; not empty.
        part: "train", or "held-out" for any other split.

    Raises:
        ValueError: Several splits could be meant.
    """
    wanted = [name for name in found if ("train" in name) == (part == "train")]
    chosen = wanted or list(found)
    if len(chosen) > 1:
        raise ValueError(
            f"{found[chosen[0]].parent} holds {', '.join(sorted(chosen))}: give the images file of one of them"
        )
    remark = f"the {chosen[0]} files" + (
        "" if wanted else f", for want of {'training' if part == 'train' else 'held-out'} ones"
    )
    return load_files(found[chosen[0]], remark)


def load_files(path: Path, remark: str = "") -> Images:
    """An images file and the labels file beside it.

    Args:
        path: The images file, gzipped or not. The labels file has its name with labels-idx1 for images-idx3.
        remark: What was assumed, for `Images.about`.

    Raises:
        FileNotFoundError: One of the files is missing.
        ValueError: A file is damaged, or the numbers of images and labels differ.
    """
    beside = path.with_name(_labels_of(path.name))
    other = beside.with_suffix("") if beside.suffix == ".gz" else beside.with_name(f"{beside.name}.gz")
    inside = path.parent.with_name(_labels_of(path.parent.name)) / beside.name  # each in a folder of its name
    labels = next((each for each in (beside, other, inside) if each.is_file()), None)
    pixels = _read(path)
    if pixels.ndim != 3 or not pixels.size:
        raise ValueError(f"{path} holds no pictures (shape {pixels.shape}): get it again")
    if labels is None:
        raise FileNotFoundError(f"no {beside.name.removesuffix('.gz')}[.gz] in {path.parent}")
    found = _read(labels)
    if len(pixels) != len(found):
        split = _split(path.name)
        raise ValueError(f"{path.parent} has {len(pixels)} {split} images but {len(found)} labels: get both again")
    return Images(torch.from_numpy(pixels[:, None].copy()), as_labels(found, len(pixels), str(labels))[0], about=remark)


def _labels_of(name: str) -> str:
    return name.replace("images", "labels").replace("idx3", "idx1")


def load_idx(folder: str | Path, split: str) -> Images:
    """MNIST-style files of a folder.

    Args:
        folder: The folder, or the one in which torchvision put its `raw` folder. Files may be gzipped.
        split: "train" or "t10k".

    Raises:
        FileNotFoundError: They are missing.
        ValueError: They are damaged.
    """
    found = find_idx(Path(folder)).get(split)
    if found is None:
        raise FileNotFoundError(f"no {split}-{KINDS[0]}-ubyte[.gz] in {folder}")
    return load_files(found)


def _content(path: Path, what: str, remedy: str) -> bytes:
    with opened(path, what, remedy) as file:
        require_room(size_of(file))
        return file.read()


def _read(path: Path) -> np.ndarray:
    """The idx format: two zero bytes, 8 for uint8, the number of axes; each axis's length, big-endian; the values."""
    what, remedy = "whole idx file of bytes", "get it again"
    raw = _content(path, what, remedy)
    if raw.startswith(b"\x1f\x8b"):  # by its bytes: a browser may have unpacked what is called .gz
        raw = gunzip(path, what, remedy)
    with reading(path, what, remedy):
        if len(raw) < 4 or raw[:3] != b"\0\0\x08":
            raise ValueError("its first bytes are wrong")
        shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
