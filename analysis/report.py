"""One self-contained HTML page from run folders: the answer, figures, tables, controls and the protocol to repeat it.

A folder of any kind becomes a `Section`; the template knows nothing else. Numbers come from the reports' tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from noiseshift.analysis.page_approximate import approximated
from noiseshift.analysis.page_compare import compared
from noiseshift.analysis.page_correct import corrected
from noiseshift.analysis.page_measure import measured
from noiseshift.analysis.page_parts import Section

from noiseshift.reading import reading
from noiseshift.studies.compare import Comparison
from noiseshift.studies.folders import Run
from noiseshift.writing import added, changed

Source = Run | Comparison | Path


def page(folders: Mapping[str, Source], title: str = "Noise shift") -> str:
    """The page of runs by name: a `Run`, a `Comparison`, or the path of a folder that `correct` or `approx` wrote.

    Raises FileNotFoundError for a folder of another kind or with a part missing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    sections = [_section(f"run{k}", name, source) for k, (name, source) in enumerate(folders.items(), 1)]
    environment = Environment(
        loader=PackageLoader("noiseshift.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("report.html").render(title=title, sections=sections)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # a file's name may hold bytes that are no text


def read_folder(folder: Path) -> Source:
    """A measurement as a `Run`, a comparison as a `Comparison`; a correction's or an approximation's folder as it is.
    Raises FileNotFoundError."""
    if (folder / "comparison.json").exists():
        return Comparison.load(folder)
    if (folder / "methods.csv").exists() or (folder / "injected.parquet").exists():
        if not (folder / "run.json").exists():
            raise FileNotFoundError(f"no run.json in {folder}: the folder is not whole, run the command again")
        changed(folder)
        added(folder)
        return folder
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give folders that `noiseshift measure` wrote")
    if (folder / "pairs.csv").exists():
        raise FileNotFoundError(f"no comparison.json in {folder}: run `noiseshift compare` again, which keeps its runs")
    for name in ("shift.parquet", "run.json", "report.json", "posteriors.npz", "samples.npz"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"no {name} in {folder}: give a whole folder that measure, compare, correct or approx wrote"
            )
    return Run.load(folder)


def _section(anchor: str, name: str, source: Source) -> Section:
    with reading(name, "whole folder of a run", "run the command that wrote it again"):
        if isinstance(source, Run):
            return measured(anchor, name, source)
        if isinstance(source, Comparison):
            return compared(anchor, name, source)
        return (corrected if (source / "methods.csv").exists() else approximated)(anchor, name, source)
