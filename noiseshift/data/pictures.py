"""One picture file → numbers: grey or colour, at the depth that it has."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Pillow

Array = np.ndarray

SUFFIXES = {".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pbm"}
SUFFIXES |= {".pnm", ".jp2", ".j2k", ".jpx", ".jpe", ".avif", ".dib", ".tga"}

ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


@dataclass(frozen=True)
class Picture:
    """A decoded file.

    Attributes:
        values: (H, W, 1) where it is grey, (H, W, 3) where it is coloured, in the file's own numbers.
        white: What white is in these numbers, None where the format does not say.
        remarks: What was done to it that a user should know of.
    """

    values: Array
    white: int | None
    remarks: frozenset[str]


def read_picture(opened: BinaryIO) -> Picture:
    """Decode a picture. Raises ValueError, in one line, for anything that is none, is damaged or is huge."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(opened) as picture:
                return _decoded(picture)
    except _Refused:
        raise
    except UnidentifiedImageError:  # its message names an object of ours
        raise ValueError("is not a readable picture (of no known kind): repair or remove it") from None
    except Exception as error:  # a decoder may fail in any way on a stranger's bytes
        raise ValueError(f"is not a readable picture ({_line(error)}): repair or remove it") from None


class _Refused(ValueError):
    """A picture that is whole, and cannot be used."""


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _decoded(picture: Pillow) -> Picture:
    remarks = set()
    if getattr(picture, "n_frames", 1) > 1:
        remarks.add("the first frame of several")
    tile = getattr(picture, "tile", None)
    raw = str(tile[0].args) if tile else ""  # how the bytes lie in the file, gone after loading
    kind = picture.format
    inverted = picture.format == "TIFF" and getattr(picture, "tag_v2", {}).get(262) == 0
    picture.load()
    picture = _turned(picture, remarks)
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep(picture, kind, inverted, remarks)
    if ";16" in raw:
        remarks.add("from 16 bit")
    # Neither a palette nor WebP can say that a picture is grey.
    mute = picture.mode in ("P", "PA") or kind == "WEBP" or "LA;16" in raw
    if picture.mode in ALPHA or "transparency" in picture.info:
        picture = _opaque(picture)
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode == "L":
        return Picture(np.asarray(picture)[:, :, None], 255, frozenset(remarks))
    if picture.mode not in ("RGB", "P"):
        remarks.add(f"from {picture.mode}")
    values = np.asarray(picture.convert("RGB"))
    grey = mute and bool((values == values[:, :, :1]).all())
    return Picture(values[:, :, :1] if grey else values, 255, frozenset(remarks))


def _turned(picture: Pillow, remarks: set[str]) -> Pillow:
    from PIL import ImageOps

    if picture.getexif().get(0x0112, 1) not in range(2, 9):  # 1 is upright, others mean nothing
        return picture
    remarks.add("turned as their EXIF says")
    return ImageOps.exif_transpose(picture)


def _deep(picture: Pillow, kind: str | None, inverted: bool, remarks: set[str]) -> Picture:
    """More than 8 bit, which is always grey here."""
    values = np.asarray(picture)[:, :, None]
    values = values.astype(values.dtype.newbyteorder("="))
    # Mode I holds 32 bits; only PNG and PGM say that their white is 65535 in it.
    white = 65535 if ";16" in picture.mode or (picture.mode == "I" and kind in ("PNG", "PPM")) else None
    if inverted and white:
        values = (white - values.astype(np.int64)).astype(np.uint16)
    if not np.isfinite(values).all():
        raise _Refused("holds NaN or infinity: repair or remove it")
    return Picture(values, white, frozenset(remarks | {"from 16 bit" if white else f"from {values.dtype}"}))


def _opaque(picture: Pillow) -> Pillow:
    """Without its alpha channel, which must not matter: what lies behind a see-through part is not known."""
    grey = picture.mode in ("L", "LA", "La", "1")
    full = picture.convert("RGBA")
    if full.getchannel("A").getextrema() != (255, 255):
        raise _Refused("has see-through parts: flatten it onto the background that the training pictures had")
    return full.getchannel("R") if grey else full.convert("RGB")
