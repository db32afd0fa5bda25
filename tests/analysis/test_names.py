"""A name may hold anything: it is letters wherever it is written, and nothing fails of it after a measurement."""

import html
import re

import matplotlib as mpl
import numpy as np
import pytest
import torch
from noiseshift.analysis import compare as figures
from noiseshift.analysis import compare_tables, drawing, names, samples, tables, terminal
from noiseshift.analysis.after import spared
from noiseshift.analysis.page_parts import drawings
from noiseshift.analysis.report import page
from reports import report_of
from rich.console import Console

import noiseshift as ns
from noiseshift.shift.controls import Check, Controls
from noiseshift.studies.compare import compare

mpl.use("Agg")
TIMES = np.array([0.6, 0.3, 0.1])
NAMES = [
    "[red]alarm[/red]",
    "[/]",
    "[bold",
    "a\\",
    ":100: :smile:",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "two\nlines\r",
    "$x^2$ and $\\frac{1$",
    "_hidden",
    "\\input{/etc/passwd} % & _ # { } ~ ^",
    "<script>alert(1)</script> & \"'",
    "a|b `c` *d* [e](f)",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "+1",
    "-1",
    "名前 größe δ ‮abc",
    "bytes \udcff",
    "x" * 300,
    "",
]
WORDS = [name for name in NAMES if "\udcff" not in name]
"""Those that pandas takes."""


def run(name, shift=0.02):
    rng = np.random.default_rng(0)
    real, states = TIMES + 0.01 * rng.standard_normal((100, 3)), TIMES + shift + 0.01 * rng.standard_normal((100, 3))
    report = report_of(TIMES, states, real)
    about = {"checkpoint": {"name": name}, "sampler": "euler:9", "guidance": None, "seed": 0, "samples": 100}
    controls = Controls((Check("null", True, name), Check(name, None, name)))
    pictures = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    return ns.Run(about | {"nfe": 9, "seconds": 1.0}, {"network": report}, controls, pictures, None)


@pytest.fixture(scope="module")
def comparison():
    """Runs of all these names beside each other."""
    return compare({name: run(name) for name in WORDS}, "network")


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:20] for name in NAMES])
def test_a_terminal_shows_the_letters(name, capsys):
    console = terminal.screen()
    terminal.print_heading(console, name, name)
    table = terminal.numbers_table(name, (name,))
    table.add_row(names.plain(name))
    console.print(table)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\r" not in shown
    assert names.plain(name)[:8].strip() in shown.splitlines()[0]


def test_terminal_tables_show_all_names(comparison, capsys):
    terminal.screen().print(compare_tables.terminal_table(comparison))
    tables.print_run(comparison.runs["[/]"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert all(names.plain(name)[:7] in shown for name in WORDS)


def test_every_figure_is_drawn(comparison, tmp_path, caplog):
    with drawing.style():
        for draw in (figures.plot_shift_nfe, figures.plot_heat, figures.plot_phase):
            with spared("it"):
                draw(comparison).figure.savefig(tmp_path / "x.png")
    assert not caplog.records


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:20] for name in NAMES])
def test_tex_reads_no_command(name):
    commands = r"\\(textbackslash|textasciitilde|textasciicircum|textquotedbl|textbar|textless|textgreater)\{\}"
    bare = re.sub(commands, "", names.in_latex(name)).replace(r"$\delta$", "")
    assert not re.search(r"[\\_%&#${}~^]", re.sub(r"\\[_%&#${}]", "", bare))


def test_tables_keep_their_columns(comparison):
    lines = compare_tables.markdown_table(comparison).splitlines()
    assert len(lines) == 2 + len(WORDS)
    assert len({len(re.sub(r"\\.", "", line).split("|")) for line in lines}) == 1
    assert "<script" not in re.sub(r"\\.", "", "\n".join(lines))
    rows = [line for line in compare_tables.latex_table(comparison).splitlines() if "euler" in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {6}


def test_a_page_holds_no_script_of_a_name(comparison):
    text = page({f"folder {NAMES[10]}": comparison}, title=NAMES[10])
    text.encode("utf-8")
    assert "<script>alert" not in text
    shown = html.unescape(re.sub(r"<[^>]*>", "", text))
    assert all(name in shown for name in WORDS if not re.search("[<\udcff\r]", name))


def test_what_fails_after_a_measurement_is_said_and_left_out(tmp_path, caplog):
    def broken():
        raise RuntimeError("no\nfont")

    pictures = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    drawn = drawing.save_each([("a", broken, ""), ("b", lambda: samples.plot_samples(pictures), "")], tmp_path)
    assert {path.stem for path in drawn} == {"b"}
    assert [record.getMessage() for record in caplog.records] == [
        "the figure a was left out (RuntimeError: no font); the numbers are saved"
    ]
    assert [drawing.caption for drawing in drawings("x", [("a", broken, "A")])] == []


def test_an_interruption_is_not_spared():
    with pytest.raises(KeyboardInterrupt), spared("the figure"):
        raise KeyboardInterrupt


def test_numbers_are_never_cut(capsys, monkeypatch):
    for columns in ("40", "20", "0", "1", "x", "-5", ""):
        monkeypatch.setenv("COLUMNS", columns)
        tables.print_run(run("net"))
        shown = capsys.readouterr().out
        assert "…" not in shown[: shown.index("● resolved")]


@pytest.mark.parametrize("width", [80, 120])
def test_a_long_name_takes_more_lines_and_is_never_cut(width):
    """`nag=1` and `nag-score=0.5` were both "na…" in 80 columns."""
    table = terminal.names_table("read", "method", ("NFE", "δ", "reduction", "95 %", "FD-fashion", "change", "95 %"))
    methods = ("nag=1", "nag-score=0.5", "cfg=0.5,nag=1", "epsilon-scaling=1.005:0.01")
    for name in methods:
        table.add_row(name, "20+19", "< 0.0164", "+14 %", "+13 +16", "1.38", "-0.28 ●", "-0.33 -0.23")
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table)
    shown = captured.get()
    assert "…" not in shown
    assert "".join(line[:8].strip() for line in shown.splitlines()[4:]).startswith("nag=1nag-scor") or width > 80
    for word in ("< 0.0164", "+13 +16", "-0.33 -0.23"):
        assert shown.count(word) == len(methods)
