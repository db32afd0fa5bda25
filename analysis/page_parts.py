"""What a page is made of, whatever the folder: sections with lines, figures, tables, controls, and how to repeat them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from noiseshift.analysis import drawing, svg
from noiseshift.analysis.after import spared
from noiseshift.analysis.phrases import below

from noiseshift.reading import open_ordinary
from noiseshift.shift.controls import Check
from noiseshift.studies.folders import read_manifest

Column = tuple[str, str, str]
"""A table's column, its heading and what it means."""

UNCHECKED = "The null and level controls belong to noiseshift measure and were not run here."


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it sorts by."""

    text: str
    key: str | float
    number: bool


@dataclass(frozen=True)
class Table:
    """A caption, headings with their help, and rows."""

    caption: str
    headings: list[tuple[str, str]]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Drawing:
    """A figure as HTML, with its caption."""

    html: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One folder on the page. `verdict` is passed, failed or not run; `row` is its line of the overview; `before` are the checks
    before the first number."""

    anchor: str
    title: str
    lines: Sequence[str]
    verdict: str
    drawings: Sequence[Drawing]
    tables: Sequence[Table]
    checks: Sequence[Check]
    protocol: Sequence[tuple[str, str]]
    command: str
    command_note: str
    row: Mapping[str, str]
    before: Sequence[Check] = ()


def drawings(anchor: str, figures: Iterable[drawing.Figure]) -> Iterator[Drawing]:
    """The figures as inline SVG, in the project's style."""
    with drawing.style():
        for stem, draw, caption in figures:
            with spared(f"the figure {stem} of the page"):
                yield Drawing(svg.inline(draw().get_figure(root=True), caption, f"{anchor}-{stem}"), caption)


def picture(path: Path, caption: str) -> Iterator[Drawing]:
    """A grid of samples as it was saved; nothing where there is none."""
    if path.is_file():
        with open_ordinary(path) as file:
            address = svg.data_address(file.read())
        yield Drawing(f'<img class="plate" src="{address}" alt="{html.escape(caption)}">', caption)


def table(caption: str, frame: pd.DataFrame, columns: Sequence[Column]) -> Table:
    """The columns that the frame has, in their order. One that comes with `<name> low` and `<name> high`, or `<first word>
    low <rest>`, is shown with its interval in brackets."""
    shown = [column for column in columns if column[0] in frame]
    rows = [[_valued(name, row) for name, _, _ in shown] for row in frame.to_dict("records")]
    return Table(caption, [(heading, meaning) for _, heading, meaning in shown], rows)


def _valued(name: str, row: Mapping[Any, Any]) -> Cell:
    alone = cell(name, row[name])
    word, _, rest = name.partition(" ")
    for low, high in ((f"{name} low", f"{name} high"), (f"{word} low {rest}", f"{word} high {rest}")):
        if low in row and alone.key != "" and not pd.isna(row[low]):
            if word in SIZES and below(row[low], row[high]):  # 0 is not ruled out, and was not measured either
                return Cell(below(row[low], row[high]), alone.key, True)
            ends = ", ".join(cell(name, row[end]).text for end in (low, high))
            return Cell(f"{alone.text} [{ends}]", alone.key, True)
    return alone


SIGNED = {
    "shift",
    "low",
    "high",
    "band_low",
    "band_high",
    "joint_low",
    "joint_high",
    "content_shift",
    "solver",
    "network",
    "exact_solver",
    "shift_log_snr",
    "terminal",
    "difference",
}
SIZES = {"rms", "content", "solver", "network", "σ"}
"""First words of columns that are never below 0, where they have ends of their own."""
COUNTS = {"step", "n", "nfe", "samples", "seconds"}
ONE_DIGIT = {"psnr", "sampling seconds", "weights MB", "peak MB"}
TWO_DIGITS = ("skipped", "FD", "FID", "IS", "KID", "change", "level calls", "slope", "calibration_share")


def cell(name: str, value: Any) -> Cell:
    """A value of column `name` as it is shown and sorted."""
    if isinstance(value, str) or value is None:
        return Cell(value or "", value or "", False)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", "yes" if value else "no", False)
    if pd.isna(value):
        return Cell("–", "", True)
    if name in ("p", "p holm") and value < 1e-4:
        return Cell(f"{value:.0e}" if value else "< 1e-300", float(value), True)
    if name.startswith("difference"):
        return Cell(f"{value:+.3g}".replace("-", "−"), float(value), True)
    digits = 1 if name in ONE_DIGIT else 2 if name.startswith(TWO_DIGITS) else 4
    if name in COUNTS or name.startswith("reduction"):
        digits = 0
    text = f"{value:+.{digits}f}" if name in SIGNED or name.startswith("change") else f"{value:.{digits}f}"
    return Cell(text.replace("-", "−"), float(value), True)


def protocol(manifest: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The manifest as pairs of words; a long list is named by its length and ends."""
    from noiseshift.diffusion.guidance import in_words

    for key, value in manifest.items():
        name = f"{prefix}{key}".replace("_", " ")
        if key in ("command", "chosen", "preflight"):  # each has its own place on the page
            continue
        if key == "guidance":
            yield name, in_words(value)
        elif isinstance(value, Mapping) and value:
            yield from protocol(value, f"{name}: ")
        elif isinstance(value, list):
            yield name, _listed(value)
        elif prefix.startswith("estimators"):
            yield name, "all samples" if value is None else f"the first {value} samples"
        else:
            words = {None: "none", True: "yes", False: "no"}
            yield name, words[value] if value is None or isinstance(value, bool) else str(value)


def _listed(values: Sequence[Any]) -> str:
    """A long list of numbers by its ends, any other in full."""
    if len(values) > 20 and all(isinstance(value, int | float) for value in values):
        return f"{len(values)} values, {values[0]:.6g} … {values[-1]:.6g}"
    return ", ".join(map(str, values))


def manifest(folder: Path) -> dict[str, Any]:
    """What `run.json` says of a folder. Raises ReadingError."""
    return read_manifest(folder)
