"""The pages hold what they promise: figures that a command makes, tables that are linked, every column of a report explained."""

import fnmatch
import re
import runpy
from pathlib import Path

import pytest
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


FOLDERS = "|".join(path.name for start in (ROOT, ROOT / "noiseshift") for path in start.iterdir() if path.is_dir())


def test_every_file_that_a_page_or_our_code_names_is_there():
    """From the repository's root or the package's. The changelog names what was, too."""
    pages = [path for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md")) if path.name != "CHANGELOG.md"]
    code = ("noiseshift", "cli", "analysis", "benchmarks", "tests")
    missing = []
    for path in (*pages, *(path for folder in code for path in (ROOT / folder).rglob("*.py"))):
        named = re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]+\.(?:py|md))\b", path.read_text())
        gone = [name for name in named if not (ROOT / name).exists() and not (ROOT / "noiseshift" / name).exists()]
        missing += [f"{path.relative_to(ROOT)}: {name}" for name in gone]
    assert not missing, "\n".join(missing)


def test_the_first_command_of_the_readme_is_the_one_that_its_figure_is_of():
    text = (ROOT / "README.md").read_text()
    command = re.search(r"bin/noiseshift (measure [^\n]*)", text)[1]
    assert command in PAGES["index.md"]
    assert "--controls" in command
    assert text.index(command) < text.index("readme-shift.png")


def test_formulas_need_no_font_of_mathematical_letters():
    """Browsers look for italic letters of formulas in one, and leave gaps where none is installed."""
    pytest.importorskip("latex2mathml")
    hooks = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
    made = hooks["on_page_content"](r'<span class="arithmatex">\(p(t \mid x) = \sigma_t \log w\)</span>')
    letters = re.findall(r"<mi([^>]*)>([^<]*)</mi>", made)
    assert [letter for _, letter in letters] == ["p", "t", "x", "&#x003C3;", "t", "log", "w"]
    assert all(("italic" in style) is (letter != "log") for style, letter in letters)
    assert "<mo>|</mo>" in made
