"""`noiseshift report`: run folders as one page."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Page to write; report.html in the folder of a single RUN."
)
@click.option("--title", default="Noise shift", show_default=True)
def command(runs: tuple[Path, ...], out: Path | None, title: str) -> None:
    """One self-contained HTML page of run folders: the answer in three lines, then figures, tables, controls, protocol.

    RUN is a folder that measure, compare, correct or approx wrote. The page needs no network, and prints.

    \b
    noiseshift report runs/fashion-sit-euler-50
    noiseshift report runs/fashion-sit-em-20 runs/fashion-sit-em-50 --out solvers.html
    noiseshift report runs/fashion-sit-em-20 runs/fashion-sit-em-20-correct --out both.html --title "Before and after"
    """
    if out is None and len(runs) > 1:
        raise click.UsageError("several runs make one page: say where with --out report.html")
    if out is not None and out.is_dir():
        raise click.UsageError(f"--out {out} is a folder: name the page, for example {out / 'report.html'}")
    from noiseshift.analysis.report import page, read_folder

    text = page({str(folder): read_folder(folder) for folder in runs}, title)
    path = out or runs[0] / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    click.echo(f"written: {path} ({len(text.encode()) / 1e6:.1f} MB)")
