"""What a command makes, in its folder: the numbers or the network first, then pictures and a page of them, which may fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

    from noiseshift.checkpoints import Card
    from noiseshift.studies.approximate import Study
    from noiseshift.studies.folders import Run
    from noiseshift.studies.outcomes import Correction

Found = TypeVar("Found", "Run", "Correction", "Study")


def save_with_page(found: Found, folder: Path, kind: str, draw: Callable[[Found, Path], list[Path]]) -> list[Path]:
    """A study's whole folder.

    Args:
        found: the study.
        folder: its place, which is claimed.
        kind: the command that made it.
        draw: saves its figures into a folder.

    Returns:
        The figures' paths, of the folder before it was in its place.
    """
    from noiseshift.analysis.after import spared
    from noiseshift.analysis.report import page

    from noiseshift.studies.folders import Run
    from noiseshift.writing import whole_folder, write_text

    with whole_folder(folder, kind) as fresh:
        found.write(fresh)
        figures = draw(found, fresh / "figures")
        with spared("report.html"):
            write_text(fresh / "report.html", page({str(folder): found if isinstance(found, Run) else fresh}))
    return figures


def save_network(folder: Path, state: Mapping[str, Tensor], card: Card) -> Path:
    """A trained network with its card, and pictures of its training and of its samples; returns the network's path."""
    from noiseshift.analysis.after import spared
    from noiseshift.analysis.training import save_pictures

    from noiseshift.checkpoints.saving import save_trained
    from noiseshift.studies.draw import preview

    path = save_trained(folder / "model.safetensors", state, card)
    with spared("a picture of the training"):
        save_pictures(*preview(path), folder)
    return path
