"""Where image sets come from."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noiseshift.data.arrays import REMEDY, WHAT, channels_in_words, load_arrays
from noiseshift.data.idx import find_idx, load_files, load_idx, load_part
from noiseshift.data.images import Images
from noiseshift.data.kinds import START, other_kind
from noiseshift.data.labels import labels_in_words
from noiseshift.data.pictures import Picture, read_picture
from noiseshift.data.ranges import DIM, Range, dark, refuse_dim, to_bytes, unsaid
from noiseshift.data.trees import File, Part, Tree, arrange, folder_tree, zip_tree
from noiseshift.reading import check_zip, open_ordinary, opened, reading, regular, require_room, size_of

__all__ = ["ASSETS", "Part", "load_idx", "load_images", "reference"]

ASSETS = Path(__file__).parent.parent / "assets"


def load_images(source: str | Path, *, limits: Range = None, part: Part = "held-out") -> Images:
    """Read an image set, and say in `Images.about` what was assumed.

    A folder or a .zip of pictures, each class a sub-folder, classes in natural order (2 before 10). An .npz: `images` or
    `arr_0`, uint8 (N, H, W, C) or (N, C, H, W), or `latents`, floats (N, ...) scaled as the network takes them; labels in
    `labels` or `arr_1`. An .npy of images. A folder with MNIST-style idx files, or one of them.

    Args:
        source: Path of the set.
        limits: What black and white are in the numbers, where the files do not say: (0, 1) for floats from 0 to 1. "none"
            for floats that the network takes as they are. 8- and 16-bit pictures say it themselves.
        part: Which part is wanted of a set that comes in a training and a held-out part.

    Raises:
        FileNotFoundError: There is nothing at `source`.
        ValueError: The set is damaged or can be read in more than one way; the message names the remedy.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no image set at {path}: give a folder of pictures, an .npz or a folder of idx files")
    found = _load(path, limits, part)
    return replace(found, about=_account(found))


def reference() -> Images:
    """The bundled held-out images: Fashion-MNIST test images (MIT licence), 28×28, ten classes in equal number."""
    found = load_arrays(ASSETS / "fashion-heldout.npz", None, "held-out")
    return replace(found, about="the bundled Fashion-MNIST images: 2,000 pictures, 10 classes, grey 28×28")


def _load(path: Path, limits: Range, part: Part) -> Images:
    if path.is_file():
        if "idx3-ubyte" in path.name:
            return load_files(path)
        if path.suffix.lower() == ".zip":
            return _load_zip(path, limits, part)
        with opened(path, WHAT, REMEDY) as file:
            start = file.read(START)
        what = other_kind(path, start)
        if what is not None:
            raise ValueError(f"{path} is {what}")
        if start.startswith(b"PK") and not _holds_arrays(path):
            return _load_zip(path, limits, part)
        return load_arrays(path, limits, part)
    idx = find_idx(path)
    return load_part(idx, part) if idx else _load_tree(folder_tree(path), limits, part)


def _holds_arrays(path: Path) -> bool:
    """Whether a zip, whatever its name ends in, is an .npz."""
    if path.suffix.lower() == ".npz":
        return True
    with opened(path, WHAT, REMEDY) as file, zipfile.ZipFile(file) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _load_zip(path: Path, limits: Range, part: Part) -> Images:
    what, remedy = "zip of pictures", "get it again"
    with reading(path, what, remedy):
        file = open_ordinary(regular(path, what, remedy))
    with file:
        with reading(path, what, remedy):
            archive = zipfile.ZipFile(file)
        check_zip(archive, size_of(file))
        return _load_tree(zip_tree(archive, path), limits, part)


def _load_tree(tree: Tree, limits: Range, part: Part) -> Images:
    layout = arrange(tree, part)
    pixels, remarks = _stacked(tree.root, layout.files, limits)
    labels = None if layout.labels is None else torch.tensor(layout.labels)
    return Images(pixels, labels, layout.names, ", ".join((*layout.remarks, *remarks)))


def _stacked(root: str, files: Sequence[File], limits: Range) -> tuple[Tensor, tuple[str, ...]]:
    """All pictures as uint8 (N, C, H, W), and what was done to them."""
    pictures = _read_all(root, files)
    places = [f"{root}/{'/'.join(file.place)}" for file in files]
    for place, picture in zip(places, pictures, strict=True):
        if picture.values.shape[:2] != pictures[0].values.shape[:2]:
            sizes = f"{picture.values.shape[:2]}, the first picture {pictures[0].values.shape[:2]}"
            raise ValueError(f"{place} has size {sizes}: resize them alike")
    if limits is None:
        _require_known_range(root, pictures)
    channels = {picture.values.shape[2] for picture in pictures}
    height, width = pictures[0].values.shape[:2]
    stacked = np.empty((len(pictures), max(channels), height, width), np.uint8)
    for row, place, picture in zip(stacked, places, pictures, strict=True):
        # A grey picture among coloured ones is a coloured one whose channels agree.
        row[:] = _bytes(picture, limits, place).transpose(2, 0, 1)
    counts = Counter(remark for picture in pictures for remark in picture.remarks)
    remarks = [r if n == len(pictures) else f"{r} ({n} of them)" for r, n in sorted(counts.items())]
    if len(channels) > 1:
        remarks.append(f"{sum(p.values.shape[2] == 1 for p in pictures)} grey ones among coloured ones")
    if limits is None:
        remarks += dark(int(stacked.min()), int(stacked.max()))
    return torch.from_numpy(stacked), tuple(remarks)


def _read_all(root: str, files: Sequence[File]) -> list[Picture]:
    """Every file decoded. Raises ValueError naming the damaged ones."""
    found, damaged = [], []
    largest = 0
    for number, file in enumerate(files):
        try:
            with file.open() as content:
                found.append(read_picture(content))
        except Exception as error:  # a damaged zip fails in as many ways as a damaged picture
            damaged.append(f"{root}/{'/'.join(file.place)} {error}")
        if found and found[-1].values.nbytes > largest:
            largest = found[-1].values.nbytes
            _require_room(root, 2 * largest * (len(files) - number))  # each once more, where all are put together
    if damaged:
        more = f" (and {len(damaged) - 1} more such files)" if len(damaged) > 1 else ""
        raise ValueError(damaged[0] + more)
    return found


def _require_room(root: str, size: int) -> None:
    """Raise ValueError where pictures, which a few bytes of a file may unpack to, are more than memory has free."""
    try:
        require_room(size)
    except MemoryError:
        raise ValueError(
            f"{root} takes {size / 2**30:,.0f} GB as numbers, more than is free here: give fewer or smaller pictures"
        ) from None


def _require_known_range(root: str, pictures: Sequence[Picture]) -> None:
    """Raise ValueError where it is not certain what white is."""
    unknown = [picture.values for picture in pictures if picture.white is None]
    if unknown:
        raise unsaid(np.array([min(v.min() for v in unknown), max(v.max() for v in unknown)]), root)
    short = [picture.values.max() for picture in pictures if picture.white == 255 and "from 16 bit" in picture.remarks]
    if short and 0 < max(short) < 255 * DIM and len(short) == len(pictures):
        raise ValueError(
            f"the largest value in {root} is about {257 * int(max(short))}, where white would be 65535, and of 16-bit colours "
            "only the upper half is read: write them with 8 bit"
        )
    deep = [picture.values for picture in pictures if picture.white == 65535]
    if deep:
        refuse_dim(float(min(v.min() for v in deep)), float(max(v.max() for v in deep)), 65535, root)


def _bytes(picture: Picture, limits: Range, place: str) -> np.ndarray:
    white = picture.white or 255
    if limits == "none":
        raise ValueError(f"{place} is a picture, which needs a range: leave --range out, or give BLACK,WHITE")
    if limits is None and white == 255:
        return picture.values
    try:
        return to_bytes(picture.values, limits or (0, white))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _account(images: Images) -> str:
    """What was read, in one line."""
    shape = images.pixels.shape[1:]
    thing = "pictures" if len(shape) == 3 and shape[0] in (1, 3) else "states"
    parts = [
        f"{len(images):,} {thing}",
        labels_in_words(images.labels, images.names),
        channels_in_words(shape),
        images.about,
    ]
    copies = _copies(images.pixels)
    if copies:
        parts.append("all alike" if copies == len(images) - 1 else f"{copies:,} copies of others")
    return ", ".join(part for part in parts if part)


def _copies(pixels: Tensor) -> int:
    """How many pictures are equal to an earlier one."""
    rows = pixels.contiguous().numpy()
    return len(rows) - len({hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows})
