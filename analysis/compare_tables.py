"""Tables of a comparison: for the terminal, a spreadsheet, LaTeX and Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from noiseshift.analysis.baseline import against, delta_of
from noiseshift.analysis.names import in_latex, in_markdown, plain
from noiseshift.analysis.phrases import below
from noiseshift.analysis.terminal import names_table

from noiseshift.studies.compare import COSTS, Comparison

if TYPE_CHECKING:
    from rich.table import Table


def paper_table(found: Comparison) -> pd.DataFrame:
    """The comparison as text, a row per run: values with their 95 % intervals, as a paper prints them."""
    table = found.table
    distance = found.distance()
    columns: dict[str, list[str]] = {
        "checkpoint": list(table.checkpoint),
        "sampler": list(table.sampler),
        "guidance": list(table.guidance),
        "NFE": [_whole(value) for value in table.nfe],
        f"rms {delta_of(found.baseline)}": _sizes(table, "rms"),
        f"last {delta_of(found.baseline)}": [_interval(row, "terminal", 4, signed=True) for _, row in table.iterrows()],
        "content δ": _sizes(table, "content"),
    }
    if table.solver.notna().any():
        columns |= {name: _sizes(table, name) for name in ("solver", "network")}
    if distance is not None:
        columns[distance] = [_interval(row, distance, 2) for _, row in table.iterrows()]
        columns |= _plain(table, distance)
        score = next((c for c in table.columns if c.startswith("IS") and " " not in c), None)
        if score:
            columns[score] = [_interval(row, score, 2) for _, row in table.iterrows()]
            columns |= _plain(table, score)
    if "variant" in table:
        columns |= {"variant": list(table.variant)} | _costs(table)
    return pd.DataFrame(columns, index=pd.Index(table.run, name="run"))


def _costs(table: pd.DataFrame) -> dict[str, list[str]]:
    """What is left in the samples of each variant, and what it costs."""
    left = {"σ end": _sizes(table, "σ end")} if "σ end" in table else {}
    costs = [column for column in COSTS if column in table]
    return left | {
        column: [_number(value, 2 if column == "skipped" else 1) for value in table[column]] for column in costs
    }


def _sizes(table: pd.DataFrame, name: str) -> list[str]:
    """Sizes, which are never below 0, with their intervals; where one holds 0, only what it is below."""
    return [_below(row, name) or _interval(row, name, 4) for row in table.to_dict("records")]


def _below(row: Mapping[Any, Any], name: str) -> str:
    return below(row.get(f"{name} low", float("nan")), row.get(f"{name} high", float("nan")))


def _plain(table: pd.DataFrame, name: str) -> dict[str, list[str]]:
    """A column of the values that everybody prints, with the bias of few samples in them."""
    column = f"{name} plain"
    return {f"{name} (plain)": [_number(v, 2) for v in table[column]]} if column in table else {}


def terminal_table(found: Comparison) -> Table:
    """The same for 80 columns; bold: the least rms δ and whatever is not resolved from it."""
    best = found.best("rms")
    rows = found.table
    distance = found.distance()
    letter = delta_of(found.baseline)
    headings = (
        "NFE",
        f"rms {letter}",
        "95 % interval",
        f"last {letter}",
        *([plain(distance)] if distance else []),
    )
    title = f"shift read by {found.estimator}, t = {found.span[1]:.3g} … {found.span[0]:.3g}{against(found.baseline)}"
    table = names_table(title, "run", headings)
    for row in rows.to_dict("records"):
        cells = [
            plain(row["run"]),
            _whole(row["nfe"]),
            _below(row, "rms") or _number(row["rms"], 4),
            f"{_number(row['rms low'], 4)} {_number(row['rms high'], 4)}",
            _number(row["terminal"], 4, signed=True),
        ]
        cells += [_number(row[distance], 2)] if distance else []
        table.add_row(*cells, style="bold" if row["run"] in best else None)
    return table


def latex_table(found: Comparison) -> str:
    """A booktabs table with intervals; in bold the best rms δ and distance with all that are not resolved from them."""
    table = paper_table(found)
    distance = found.distance()
    bold = {f"rms {delta_of(found.baseline)}": found.best("rms")} | (
        {distance: found.best(distance)} if distance else {}
    )
    marked = table.map(in_latex)
    for column, runs in bold.items():
        marked.loc[list(runs), column] = [rf"\textbf{{{cell}}}" for cell in marked.loc[list(runs), column]]
    marked.columns = [in_latex(name) for name in marked.columns]
    styled = marked.style.hide(axis="index")
    body = styled.to_latex(hrules=True, column_format="lll" + "r" * (len(marked.columns) - 3))
    return (
        f"% noiseshift compare: shift read by {plain(found.estimator)}, 95 % intervals in brackets; rms over t = "
        f"{found.span[1]:.3g} to {found.span[0]:.3g}{against(found.baseline)}.\n"
        "% Bold: the best, and every run whose difference from it is not resolved (Holm over all pairs, 5 %).\n"
        f"{body}"
    )


def markdown_table(found: Comparison) -> str:
    """A Markdown table of the same text."""
    table = paper_table(found).reset_index(drop=True)
    head = [in_markdown(name) for name in table.columns]
    rows = [[*map(in_markdown, row[:3]), *row[3:]] for row in table.values.tolist()]  # the first three are names
    lines = [head, ["---", "---", "---", *["--:"] * (len(head) - 3)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _number(value: float, digits: int, *, signed: bool = False) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def _whole(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.0f}"


def _interval(row: Any, name: str, digits: int, *, signed: bool = False) -> str:
    value, low, high = (row.get(column, float("nan")) for column in (name, f"{name} low", f"{name} high"))
    if pd.isna(value):
        return "–"
    ends = "" if pd.isna(low) else f" [{', '.join(_number(end, digits, signed=signed) for end in (low, high))}]"
    return _number(value, digits, signed=signed) + ends
