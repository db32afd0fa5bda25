"""Image sets: folders of pictures, npz files, MNIST-style idx folders, and the bundled reference set.

Images are kept as uint8 (N, C, H, W) and become floats in [-1, 1] only where they are used. Latents are kept as floats,
in the scale that their network works on.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ASSETS = Path(__file__).parent / "assets"
_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class Images:
    """uint8 pixels, or float latents, (N, C, H, W) and int64 labels (N,), or None where the set has none."""

    pixels: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | Tensor) -> Images:
        return Images(self.pixels[index], None if self.labels is None else self.labels[index])

    @cached_property
    def sha256(self) -> str:
        """Of the pixels and labels: what a run that was calibrated on them depends on."""
        digest = hashlib.sha256(str((self.pixels.dtype, tuple(self.pixels.shape))).encode())
        for part in (self.pixels, self.labels):
            if part is not None:
                digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def floats(self) -> Tensor:
        """float32 in [-1, 1], (N, C, H, W); latents as they are."""
        return to_float(self.pixels)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0 … 255 → float32 in [-1, 1]; floats are latents, and stay."""
    return pixels.float() if pixels.is_floating_point() else pixels.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Floats in [-1, 1] → uint8, by the rule of DiT, SiT and EDM: clip(127.5 x + 128)."""
    return (127.5 * images + 128).clamp(0, 255).to(torch.uint8)


def load_images(source: str | Path) -> Images:
    """Read an image set: a folder of pictures (class = sub-folder), an `.npz`, or a folder with MNIST-style idx files.

    npz: `images` or `arr_0`, uint8 (N, H, W, C) or (N, C, H, W) with C = 1 or 3, or `latents`, floats (N, C, H, W) scaled
    as the network takes them; labels in `labels` or `arr_1`.
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
    """MNIST-style files of `folder`, gzipped or not: `split` is "train" or "t10k".

    Raises FileNotFoundError when they are missing, ValueError when they are damaged.
    """
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        path = next(Path(folder).glob(f"{split}-{kind}-ubyte*"), None)
        if path is None:
            raise FileNotFoundError(f"no {split}-{kind}-ubyte[.gz] in {folder}")
        arrays.append(_read_idx(path))
    pixels, labels = arrays
    if len(pixels) != len(labels):
        raise ValueError(f"{folder} has {len(pixels)} {split} images but {len(labels)} labels: get both again")
    return Images(torch.from_numpy(pixels[:, None].copy()), torch.from_numpy(labels.astype(np.int64)))


def _read_idx(path: Path) -> np.ndarray:
    """The idx format: two zero bytes, 8 for uint8, the number of axes; each axis's length, big-endian; the values."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if len(raw) < 4 or raw[:3] != b"\0\0\x08":
            raise ValueError("its first bytes are wrong")
        shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole idx file of bytes ({error}): get it again") from None


def reference() -> Images:
    """The bundled held-out images: Fashion-MNIST test images (MIT licence), 28×28, ten classes in equal number."""
    return _load_npz(ASSETS / "fashion-heldout.npz")


def _load_npz(path: Path) -> Images:
    try:
        # Opened here: numpy leaves a damaged archive open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile raise many kinds for damaged archives, and for a lone .npy
        raise ValueError(f"{path} is not a readable .npz of plain arrays ({_first_line(error)})") from None
    labels = arrays.get("labels", arrays.get("arr_1"))
    if "latents" in arrays:
        pixels = _latents(arrays["latents"], path)
    else:
        pixels = _pictures(arrays.get("images", arrays.get("arr_0")), path)
    if labels is not None and labels.size != len(pixels):
        raise ValueError(f"{path} has {len(pixels)} images but {labels.size} labels: give one label an image, or none")
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    return Images(tensor, None if labels is None else torch.from_numpy(labels.astype(np.int64).reshape(-1)))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _latents(states: np.ndarray, path: Path) -> np.ndarray:
    if states.dtype.kind != "f" or states.ndim != 4 or len(states) == 0 or not np.isfinite(states).all():
        raise ValueError(
            f"{path} needs finite float latents (N, C, H, W) under 'latents', scaled as the network takes them"
        )
    return states.astype(np.float32)


def _pictures(pixels: np.ndarray | None, path: Path) -> np.ndarray:
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or len(pixels) == 0:
        raise ValueError(f"{path} needs uint8 images (N, H, W, C) or (N, C, H, W) under 'images' or 'arr_0'")
    return _channels_first(pixels, path)


def _channels_first(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.shape[1] in (1, 3):
        return pixels
    if pixels.shape[3] in (1, 3):
        return pixels.transpose(0, 3, 1, 2)
    raise ValueError(f"{path} holds images of shape {pixels.shape[1:]}: give them 1 or 3 channels")


def _load_folder(folder: Path) -> Images:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _PICTURES)
    if not files:
        raise ValueError(f"no pictures ({', '.join(sorted(_PICTURES))}) under {folder}")
    classes = sorted({p.parent for p in files})
    labels = torch.tensor([classes.index(p.parent) for p in files]) if len(classes) > 1 else None
    return Images(_read_pictures(files), labels)


def _read_pictures(files: Sequence[Path]) -> Tensor:
    arrays = [_read_picture(path) for path in files]
    channels = max(array.shape[2] for array in arrays)
    for path, array in zip(files, arrays, strict=True):
        if array.shape[:2] != arrays[0].shape[:2]:
            sizes = f"{array.shape[:2]}, the first picture {arrays[0].shape[:2]}"
            raise ValueError(f"{path} has size {sizes}: resize them alike")
    # A grey picture among coloured ones is a coloured one whose channels agree.
    stacked = np.stack([np.broadcast_to(array, (*array.shape[:2], channels)) for array in arrays])
    return torch.from_numpy(stacked.transpose(0, 3, 1, 2).copy())


def _read_picture(path: Path) -> np.ndarray:
    """(H, W, 1) for a grey picture, (H, W, 3) for any other."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            array = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{path} is not a readable picture ({error}): repair or remove it") from None
    return array[:, :, None] if array.ndim == 2 else array
