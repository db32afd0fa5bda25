"""Where a command may write, asked before it does anything: a place that it may not is bad usage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from noiseshift.writing import PlaceError, check_file, check_folder

FOLDER = (
    "Run folder. Only an earlier run of this command, to which nothing was added, is replaced; runs/<checkpoint>-<sampler>-"
    "<guidance>-<seed>-<hash> by default."
)
TRAINING = "Folder of this training alone; the same command goes on from what is there."

OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace --out even where noiseshift did not make it.")


def folder(out: str | Path | None, kind: str, *, adding: bool = False) -> None:
    """Refuse a folder that the command `kind` may not write; None is a default, decided later."""
    try:
        if out is not None:
            check_folder(out, kind, adding=adding)
    except PlaceError as error:
        raise click.UsageError(f"--out {error}") from None


def run_folder(out: str | None, kind: str, name: str) -> Path:
    """--out, or a folder of this name below runs/, either of which the command `kind` may write."""
    chosen = Path(out or f"runs/{name}")
    folder(chosen, kind)
    return chosen


def training(out: Path, kind: str, *, restart: bool) -> None:
    """Refuse a folder that the training `kind` may not write, or whose model another program made."""
    from noiseshift.writing.signatures import signed_checkpoint

    folder(out, kind, adding=True)
    try:
        check_file(out / "model.safetensors", signed_checkpoint, overwrite=restart)
    except PlaceError:
        raise click.UsageError(
            f"--out {out / 'model.safetensors'} was not made by this version's {kind}: move it away, or start anew with --restart"
        ) from None


def file(
    out: str | Path | None, ours: Callable[[Path], bool], *, overwrite: bool, suffixes: tuple[str, ...] = ()
) -> None:
    """Refuse a file that may not be written."""
    try:
        if out is not None:
            check_file(out, ours, overwrite=overwrite, suffixes=suffixes)
    except PlaceError as error:
        raise click.UsageError(f"--out {error}") from None
