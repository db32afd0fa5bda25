"""Image sets: folders of pictures, npz files, MNIST-style idx folders, and the bundled reference set.

Images are kept as uint8 (N, C, H, W) and become floats in [-1, 1] only where they are used.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ASSETS = Path(__file__).parent / "assets"
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class Images:
    """uint8 pixels (N, C, H, W) and int64 labels (N,), or None where the set has none."""

    pixels: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor) -> Images:
        return Images(self.pixels[index], None if self.labels is None else self.labels[index])

    @property
    def floats(self) -> Tensor:
        """float32 in [-1, 1], (N, C, H, W)."""
        return to_float(self.pixels)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0 … 255 → float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] → uint8, by the rule of DiT, SiT and EDM: clip(127.5 x + 128)."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)


def load_images(source: str | Path) -> Images:
    """Read an image set: a folder of pictures (class = sub-folder), an `.npz`, or a folder with MNIST-style idx files.

    npz: `images` or `arr_0`, uint8 (N, H, W, C) or (N, C, H, W) with C = 1 or 3; labels in `labels` or `arr_1`.
    Raises FileNotFoundError or ValueError with the remedy.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"no image set at {path}: give a folder of pictures, an .npz or a folder of idx files")
    if path.is_file():
        return _load_npz(path)
    if any(path.glob("train-images-idx3-ubyte*")):
        return load_idx(path, "train")
    return _load_folder(path)


def load_idx(folder: str | Path, split: str) -> Images:
    """MNIST-style files of `folder`: `split` is "train" or "t10k". Raises FileNotFoundError when they are missing."""
    arrays = []
    for kind, offset in (("images-idx3", 16), ("labels-idx1", 8)):
        path = next(Path(folder).glob(f"{split}-{kind}-ubyte*"), None)
        if path is None:
            raise FileNotFoundError(f"no {split}-{kind}-ubyte[.gz] in {folder}")
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        arrays.append(np.frombuffer(raw, np.uint8, offset=offset))
    images, labels = arrays
    side = int((len(images) // len(labels)) ** 0.5)
    pixels = torch.from_numpy(images.reshape(-1, 1, side, side).copy())
    return Images(pixels, torch.from_numpy(labels.astype(np.int64)))


def reference() -> Images:
    """The bundled held-out images: Fashion-MNIST test images (MIT licence), 28×28, ten classes in equal number."""
    return _load_npz(ASSETS / "fashion-heldout.npz")


def _load_npz(path: Path) -> Images:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npz of plain arrays ({error})") from None
    pixels = arrays.get("images", arrays.get("arr_0"))
    labels = arrays.get("labels", arrays.get("arr_1"))
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise ValueError(f"{path} needs uint8 images (N, H, W, C) or (N, C, H, W) under 'images' or 'arr_0'")
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[1] not in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    return Images(tensor, None if labels is None else torch.from_numpy(labels.astype(np.int64).reshape(-1)))


def _load_folder(folder: Path) -> Images:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _PICTURES)
    if not files:
        raise ValueError(f"no pictures ({', '.join(sorted(_PICTURES))}) under {folder}")
    classes = sorted({p.parent for p in files})
    labels = torch.tensor([classes.index(p.parent) for p in files]) if len(classes) > 1 else None
    return Images(_read_pictures(files), labels)


def _read_pictures(files: Sequence[Path]) -> Tensor:
    from PIL import Image

    arrays = []
    for path in files:
        with Image.open(path) as picture:
            array = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
        arrays.append(array[:, :, None] if array.ndim == 2 else array)
        if arrays[-1].shape != arrays[0].shape:
            raise ValueError(f"{path} is {arrays[-1].shape}, the first picture is {arrays[0].shape}: resize them alike")
    return torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).copy())
