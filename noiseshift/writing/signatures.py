"""Files that say of themselves that noiseshift made them: by a word in their metadata, which other readers pass over."""

from __future__ import annotations

import zipfile
from pathlib import Path

SIGNATURE = "noiseshift"
GENERATOR = f'<meta name="generator" content="{SIGNATURE}'


def signed_picture(path: Path) -> bool:
    """A .png whose text chunk `Software` is ours."""
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as picture:
        return str(picture.info.get("Software", "")).startswith(SIGNATURE)


def signed_arrays(path: Path) -> bool:
    """An .npz whose zip comment is ours."""
    with zipfile.ZipFile(path) as file:
        return file.comment.startswith(SIGNATURE.encode())


def sign_arrays(path: Path) -> None:
    """Put our comment into an .npz."""
    with zipfile.ZipFile(path, "a") as file:
        file.comment = SIGNATURE.encode()


def signed_samples(path: Path) -> bool:
    """A picture or arrays of ours, by suffix."""
    return signed_picture(path) if path.suffix.lower() == ".png" else signed_arrays(path)


def signed_page(path: Path) -> bool:
    """An .html page that names us as its generator."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return GENERATOR in file.read(4096)


def signed_estimator(path: Path) -> bool:
    """A .safetensors file with the header of a level estimator."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return "noiseshift.level" in (file.metadata() or {})
