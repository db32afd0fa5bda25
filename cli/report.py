"""`noiseshift report`: run folders as one page."""

from __future__ import annotations

from pathlib import Path

import click
from noiseshift.cli import places, streams


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Page to write; report.html in the folder of a single RUN."
)
@places.OVERWRITE
@click.option("--title", default="Noise shift", show_default=True)
def command(runs: tuple[Path, ...], out: Path | None, overwrite: bool, title: str) -> None:
    """One self-contained HTML page of run folders: the answer in three lines, then figures, tables, controls, protocol.

    RUN is a folder that measure, compare, correct or approx wrote. The page needs no network, and prints.

    \b
    noiseshift report runs/euler
    noiseshift report runs/em runs/em-50 --out solvers.html
    noiseshift report runs/em runs/em-correct --out both.html --title "Before and after"
    """
    if out is None and len(runs) > 1:
        raise click.UsageError("several runs make one page: say where with --out report.html")
    if out is not None and out.is_dir():
        raise click.UsageError(f"--out {out} is a folder: name the page, for example {out / 'report.html'}")
    path = out or runs[0] / "report.html"
    places.file(path, _ours, overwrite=overwrite)
    from noiseshift.analysis.report import page, read_folder

    from noiseshift.writing import adopt, claimed_file, replaced_file

    text = page({str(folder): read_folder(folder) for folder in runs}, title)
    with claimed_file(path, _ours, overwrite=overwrite):
        with replaced_file(path, _ours, overwrite=overwrite) as fresh:
            fresh.write_text(text, encoding="utf-8")
        if out is None:
            adopt(runs[0], [path])
    streams.written(path, f" ({len(text.encode()) / 1e6:.1f} MB)")


def _ours(page: Path) -> bool:
    """A page that names us, or that its run folder lists: pages of version 0.1 do not."""
    from noiseshift.writing.marks import read_mark
    from noiseshift.writing.signatures import signed_page

    mark = read_mark(page.parent)
    return signed_page(page) or (mark is not None and page.name in mark.files)
