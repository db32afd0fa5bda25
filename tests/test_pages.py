"""The pages hold what they promise: figures that a command makes, tables that are linked, every column of a report explained."""

import fnmatch
import re
from pathlib import Path

from noiseshift.analysis.page_measure import RESIDUAL_COLUMNS, SHIFT_COLUMNS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
EVERYTHING = "\n".join([*PAGES.values(), (ROOT / "README.md").read_text()])
LONGEST = 45
"""Rows of a table in a page; longer ones are CSV files in docs/data."""


def test_every_figure_is_shown_and_its_command_is_named():
    shown = set(re.findall(r"figures/([\w.-]+\.png)", EVERYTHING))
    named = re.findall(r"^\| `([\w.*-]+\.png)`", (ROOT / "benchmarks/README.md").read_text(), re.MULTILINE)
    there = {path.name for path in (DOCS / "figures").iterdir()}
    assert there == shown
    without = [name for name in there if not any(fnmatch.fnmatch(name, pattern) for pattern in named)]
    assert not without, f"say in the table of benchmarks/README.md which command makes {', '.join(without)}"


def test_every_table_of_data_is_linked():
    linked = set(re.findall(r"data/([\w.-]+\.csv)", "\n".join(PAGES.values())))
    assert {path.name for path in (DOCS / "data").iterdir()} == linked


def test_long_tables_are_not_in_a_page():
    for name, text in PAGES.items():
        rows = max((len(table.splitlines()) for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)), default=0)
        assert rows <= LONGEST, f"{name}: a table of {rows} rows belongs into docs/data"


def test_every_column_of_a_report_is_explained_and_linked_to_the_glossary():
    page = PAGES["start/report.md"]
    heads = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")]
    linked = " ".join(re.findall(r"\[([^]]+)\]\([^)]*glossary\.md#", " ".join(heads)))
    for _, heading, _ in (*SHIFT_COLUMNS, *RESIDUAL_COLUMNS):
        word = heading.removesuffix(" from")
        assert word in linked or word in ("to", "n"), (
            f"{heading} is on no line of the page, or has no link to the glossary"
        )


def test_the_first_command_of_the_readme_is_the_one_that_its_figure_is_of():
    text = (ROOT / "README.md").read_text()
    command = re.search(r"bin/noiseshift (measure [^\n]*)", text)[1]
    assert command in PAGES["index.md"]
    assert "--controls" in command
    assert text.index(command) < text.index("readme-shift.png")
