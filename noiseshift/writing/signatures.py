"""Files that say of themselves that noiseshift made them: by a word in their metadata, which other readers pass over."""

from __future__ import annotations

import zipfile
from pathlib import Path

from noiseshift.reading import named_while_open, open_ordinary

SIGNATURE = "noiseshift"
CHECKPOINT, ESTIMATOR, CLASSIFIER, PROMPTS = (
    f"{SIGNATURE}.{kind}" for kind in ("checkpoint", "level", "classifier", "prompts")
)
"""Keys of a .safetensors header, by what the file holds: one kind never replaces another."""
GENERATOR = f'<meta name="generator" content="{SIGNATURE}'


def signed_picture(path: Path) -> bool:
    """A .png whose text chunk `Software` is ours."""
    from PIL import Image

    with open_ordinary(path) as file, Image.open(file, formats=["PNG"]) as picture:
        return str(picture.info.get("Software", "")).startswith(SIGNATURE)


def signed_arrays(path: Path, words: str = SIGNATURE) -> bool:
    """Whether an .npz has our zip comment.

    Args:
        path: The .npz.
        words: The whole comment: SIGNATURE of samples, FEATURES of features.
    """
    with open_ordinary(path) as file, zipfile.ZipFile(file) as archive:
        return archive.comment == words.encode()


def sign_arrays(path: Path, words: str = SIGNATURE) -> None:
    """Put our comment into an .npz.

    Args:
        path: An existing .npz, changed in place.
        words: The comment, in place of any other.
    """
    with zipfile.ZipFile(path, "a") as file:
        file.comment = words.encode()


FEATURES = f"{SIGNATURE} features"


def signed_features(path: Path) -> bool:
    """An .npz of features of ours."""
    return signed_arrays(path, FEATURES)


def signed_samples(path: Path) -> bool:
    """A picture or arrays of ours, by suffix."""
    return signed_picture(path) if path.suffix.lower() == ".png" else signed_arrays(path)


def signed_page(path: Path) -> bool:
    """An .html page that names us as its generator."""
    return GENERATOR in _start(path, 16384)


def signed_figure(path: Path) -> bool:
    """A .png or .pdf of ours."""
    if path.suffix == ".png":
        return signed_picture(path)
    with open_ordinary(path) as file:
        return f"/Creator ({SIGNATURE}".encode() in file.read()


def signed_table(path: Path) -> bool:
    """A .tex or .md whose first line names us."""
    return SIGNATURE in _start(path, 800).partition("\n")[0]


def signed_checkpoint(path: Path) -> bool:
    """A .safetensors file that `checkpoints.saving.save` wrote."""
    return _in_header(path, CHECKPOINT)


def signed_estimator(path: Path) -> bool:
    """A .safetensors file with the header of a level estimator."""
    return _in_header(path, ESTIMATOR)


def signed_classifier(path: Path) -> bool:
    """A .safetensors file with the header of an image classifier."""
    return _in_header(path, CLASSIFIER)


def signed_prompts(path: Path) -> bool:
    """A .safetensors file of encoded prompts that we wrote."""
    return _in_header(path, PROMPTS)


def _start(path: Path, size: int) -> str:
    with open_ordinary(path) as file:
        return file.read(size).decode("utf-8", "replace")


def _in_header(path: Path, word: str) -> bool:
    from safetensors import safe_open

    with open_ordinary(path) as file, named_while_open(file, path) as name, safe_open(name, "np") as opened:
        return word in (opened.metadata() or {})
