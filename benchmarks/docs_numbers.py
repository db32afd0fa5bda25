"""Are the numbers of the pages those of their tables, and the tables those that the code makes?

    python benchmarks/docs_numbers.py              # both; about four minutes of processor time
    python benchmarks/docs_numbers.py --only-read  # the pages against the tables alone, a second

*Read*: every decimal number of a page under docs/ that links to tables in docs/data/ must be a cell of one of them, rounded to the
digits that the page shows, or stand in a table of the page that names its command. What is neither is listed by page. *Made*: each
table that a command makes within a minute is made again in a scratch folder and compared, cell by cell: exact where there is no
sampling, within 2 % or 0.0005 elsewhere, since processors round differently. Exits with 1 where a cell differs or a number has no
source.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MADE = {
    "explanation-shift": "benchmarks/explanation_figures.py --only shift",
    "explanation-controls": "benchmarks/explanation_figures.py --only controls",
    "explanation-statement": "benchmarks/explanation_figures.py --only statement",
    "explanation-nag": "benchmarks/explanation_figures.py --only nag",
    "explanation-limits": "benchmarks/explanation_figures.py --only limits",
    "question-solver-exact": "benchmarks/questions/solver.py exact",
    "question-schedule-exact": "benchmarks/questions/schedule.py exact",
    "question-harm": "benchmarks/questions/harm.py",
    "question-reader": "benchmarks/questions/reader.py",
}
"""Tables and the commands that make them again here. The others' commands stand on their pages; they take minutes to hours."""
NUMBER = re.compile(r"(?<![\w.:/-])[+\-−]?\d*\.\d+(?![\w.]|-\d)")
LINK = re.compile(r"\]\(([\w./-]*data/[\w.-]+\.csv)\)")
COMMAND = re.compile(r"`[^`]*(?:python|noiseshift|tests/)[^`]*`|^(?:python|noiseshift) ", re.MULTILINE)
CODE = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|\$\$.*?\$\$|\\\(.*?\\\)|\d+\.\d+\.\d+|arXiv \d+\.\d+|abs/\d+\.\d+|versions? \d\.\d",
    re.DOTALL,
)
OTHER = {
    "how-to/audit.md": {"0.02": "the default of --tolerance"},
    "reference/formats.md": {
        **dict.fromkeys(("1.7", "1.8", "2.0", "2.3", "1.9"), "versions of a library"),
        **dict.fromkeys(("6.5", "1.009", "0.995", "1.042"), "benchmarks/observe_overhead.py"),
        **dict.fromkeys(
            ("1.6", "1.1", "1.2", ".07", ".56", ".035", ".039", ".03", ".023", ".012", ".069"),
            "benchmarks/formats/measure_formats.py",
        ),
    },
    "reports/corrections/training.md": {".0151": "docs/data/corrections-bundled-em20.csv"},
    "reports/findings.md": {
        **dict.fromkeys(("0.95", "0.54"), "benchmarks/findings.py, the slope in its tables"),
        **dict.fromkeys(
            ("92.9", "89.2"), "benchmarks/assets/pack_models.py; noiseshift sample --sampler euler:50 --samples 2000"
        ),
    },
    "reports/controls.md": {
        **dict.fromkeys(("88.5", "72.5", "96.0"), "benchmarks/run_answer.py --estimators 1 --errors 3 --errors 4"),
        **dict.fromkeys(("0.15", "0.18"), "benchmarks/oracle.py; its limit, and version 0.1"),
        "3.68": "tests/diffusion/test_samplers.py",
        **dict.fromkeys(("1.294", "1.407", "1.475", "1.39", "1.45"), "tests/diffusion/test_schedulers.py"),
        **dict.fromkeys(("1.022", "0.981", "0.923", "0.868"), "tests/diffusion/test_samplers.py, DDIM on a Gaussian"),
        **dict.fromkeys(("-.0104", "+.0046"), "an audit of version 0.1"),
        **dict.fromkeys((".0001", "93.6"), "benchmarks/solver_share.py"),
        **dict.fromkeys(("1.9", "3.8", "0.78", "1.16", "2.5", "7.5"), "benchmarks/solver_share.py --noise 40"),
        **dict.fromkeys(
            ("4.6", "4.9", "5.0", "5.2", "5.6", "7.0", "1.3", "1.4", "2.2", "97.2"), "benchmarks/run_answer.py"
        ),
        **dict.fromkeys(("+.0181", "+.0098", ".0012", "-.0003", "-.0218", "-.0322"), "benchmarks/solver_share.py"),
    },
    "reports/statement-1.md": {
        **dict.fromkeys(("0.95", "0.75"), "a level, and an injected error over σ_t"),
        "+0.11": "noiseshift approx --rows 200 --samples 64",
        **dict.fromkeys(
            ("+.0876", "+.0197", ".0183", ".0212", ".0247", ".0067", "+.063", "+.0008", "-.0003", "+.0019"),
            "noiseshift approx fashion-ddpm --rows 200 --samples 64 --sampler ddim:20",
        ),
    },
    "how-to/checkpoint-variants.md": {"0.68": "a level"},
    "tutorials/strangers.md": {
        **dict.fromkeys(
            ("-8.6", "+3.7", "-7.8", "-7.2", "+5.5", "-5.8"),
            "benchmarks/wild/table.py: means of the samples in its .npz",
        ),
        "7.5": "noiseshift info of the wrapper with beta_max = 20",
        **dict.fromkeys((".202", ".657"), "noiseshift info of a network written after the tutorial's code"),
    },
    "reports/corrections/perfect.md": {"0.95": "a level"},
    "reports/questions/emoji.md": {"4.0": "a licence"},
    "reports/questions/solver.md": {"0.6": "a level"},
    "reports/questions/schedule.md": {"0.5": "a level"},
    "reports/questions/diversity.md": {"2.303": "log 10"},
}
"""Numbers that no linked table holds, and where they come from."""
SETTINGS = {"explanation/shift.md", "explanation/estimators.md"}
"""Pages whose decimals are settings of their figure, not results."""


def numbers(text: str) -> list[str]:
    return [found.replace("−", "-") for found in NUMBER.findall(text)]


def cells(page: Path) -> list[float]:
    """Every number in the tables that a page links to."""
    found: list[float] = []
    for link in LINK.findall(page.read_text()):
        table = pd.read_csv(page.parent / link, keep_default_na=False)
        for column in table:
            found += pd.to_numeric(table[column], errors="coerce").dropna().tolist()
            found += [float(n) for text in table[column].astype(str) for n in numbers(text)]
    return found


def units(text: str) -> list[float]:
    """By what cells may be multiplied: a share may be written in per cent, and small numbers in the powers of ten of a head."""
    powers = {int(found.translate(RAISED)) for found in re.findall(r"10⁻([⁰¹²³⁴-⁹]+)", text)}
    return [1, 100, *(10.0**power for power in sorted(powers))]


RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def known(number: str, values: list[float], scales: Sequence[float] = (1, 100)) -> bool:
    """Whether a value, in one of the units, rounds to the number as it is written; a change may be written without its sign."""
    digits, size = len(number.split(".")[1]), abs(float(number))
    half = 0.5000001 * 10.0**-digits
    return any(abs(abs(value) * unit - size) <= half for value in values for unit in scales)


def unsourced(page: Path) -> list[str]:
    """Decimals of a page that no linked table holds, and no table of its own whose section names a command."""
    text = page.read_text()
    own = [float(n) for line in text.splitlines() if line.startswith("|") for n in numbers(line)]
    values, scales = cells(page), units(text)
    found = []
    for section in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        commanded = COMMAND.search(section) and not LINK.search(section)
        for line in CODE.sub(" ", section).splitlines():
            if line.startswith("|") and commanded:
                continue
            allowed = values if line.startswith("|") else [*values, *own]
            found += [number for number in numbers(line) if not known(number, allowed, scales)]
    return found


def differing(name: str, fresh: Path) -> list[str]:
    """Cells of a table that was made again which are not those that the pages have."""
    kept, made = pd.read_csv(DOCS / "data" / f"{name}.csv"), pd.read_csv(fresh)
    if list(kept) != list(made) or len(kept) != len(made):
        return [f"{name}: {len(made)} rows of {list(made)}, not {len(kept)} of {list(kept)}"]
    found = []
    for column in kept:
        for row, (a, b) in enumerate(zip(kept[column], made[column], strict=True)):
            alike = a == b or (pd.isna(a) and pd.isna(b))
            if not alike and not (isinstance(a, float) and abs(a - b) <= max(0.0005, 0.02 * abs(a))):
                found.append(f"{name}, row {row}, {column}: {b}, the pages have {a}")
    return found


def remade() -> list[str]:
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for folder in ("data", "figures"):
            (Path(scratch) / folder).mkdir()
        for name, command in MADE.items():
            paths = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT / "benchmarks/questions")])
            done = subprocess.run(
                [sys.executable, *command.split()],
                cwd=ROOT,
                env=os.environ | {"NOISESHIFT_DOCS": scratch, "PYTHONPATH": paths},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                found.append(f"{command}: exit code {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
                continue
            cells_off = differing(name, Path(scratch) / "data" / f"{name}.csv")
            click.echo(f"{name}: {'as the pages have it' if not cells_off else f'{len(cells_off)} cells differ'}")
            found += cells_off
    return found


@click.command()
@click.option("--only-read", is_flag=True, help="Do not make tables again.")
def main(only_read: bool) -> None:
    faults = []
    for page in sorted(DOCS.rglob("*.md")):
        name = page.relative_to(DOCS).as_posix()
        if LINK.search(page.read_text()) and name not in SETTINGS:
            faults += [
                f"{name}: {number} is in no table that it links to"
                for number in unsourced(page)
                if number not in OTHER.get(name, {})
            ]
    faults += [] if only_read else remade()
    click.echo("\n".join(faults) or "every number has its table")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
