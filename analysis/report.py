"""One self-contained HTML page from run folders: the answer, figures, tables, controls and the protocol to repeat it.

A folder of any kind becomes a `Section`; the template knows nothing else. Numbers come from the reports' tables.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from noiseshift.analysis import plots, svg
from noiseshift.analysis.answer import answer, at, delta, worst

from noiseshift.controls import Check
from noiseshift.runs import Run

Column = tuple[str, str, str]
"""A table's column, its heading and what it means."""

SHIFT_COLUMNS: tuple[Column, ...] = (
    ("estimator", "estimator", "what read the level"),
    ("step", "step", "index of the sampler's step, from 0 at pure noise"),
    ("t", "told t", "the level the network was told: 1 is noise, 0 is data"),
    ("shift", "δ", "noise shift in t; above 0 the state is noisier than told"),
    ("low", "95 % from", "lower end of δ's bootstrap interval, in t"),
    ("high", "to", "upper end of δ's bootstrap interval, in t"),
    ("floor", "floor", "detection floor: the least |δ| that can be told from 0, in t"),
    ("verdict", "verdict", "resolved: |δ| above the floor; not readable: slope not within ½ … 2"),
    ("content_shift", "content δ", "δ against the run's own finals, noised again, in t"),
    ("solver", "solver δ", "δ of an exact model through the same solver, in t"),
    ("network", "network's share", "δ minus solver δ, sample by sample, in t"),
    ("shift_log_snr", "Δλ", "the same shift in log-SNR; below 0 is noisier"),
    ("slope", "slope", "how far the reading moves when the level does: 1 is faithful, outside 0.5 … 2 unreadable"),
)


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
    """One folder on the page. `verdict` is passed, failed or not run; `row` is its line of the overview."""

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


def page(folders: Mapping[str, Run | Path], title: str = "Noise shift") -> str:
    """The page of runs by name: a `Run`, or the path of a folder that `measure`, `correct` or `approx` wrote.

    Raises FileNotFoundError for a folder of another kind or with a part missing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    sections = [_section(f"run{k}", name, source) for k, (name, source) in enumerate(folders.items(), 1)]
    environment = Environment(
        loader=PackageLoader("noiseshift.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(title=title, sections=sections)


def read_folder(folder: Path) -> Run | Path:
    """A measurement as a `Run`; a correction's or an approximation's folder as it is. Raises FileNotFoundError."""
    if (folder / "methods.csv").exists() or (folder / "injected.parquet").exists():
        if not (folder / "run.json").exists():
            raise FileNotFoundError(f"no run.json in {folder}: the folder is not whole, run the command again")
        return folder
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give folders that `noiseshift measure` wrote")
    for name in ("shift.parquet", "run.json", "report.json", "posteriors.npz", "samples.npz"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"no {name} in {folder}: give a whole folder that measure, correct or approx wrote, or measure again"
            )
    return Run.load(folder)


def _section(anchor: str, name: str, source: Run | Path) -> Section:
    if isinstance(source, Run):
        return _measured(anchor, name, source)
    return (_corrected if (source / "methods.csv").exists() else _approximated)(anchor, name, source)


def _measured(anchor: str, name: str, run: Run) -> Section:
    found = answer(run)
    about = run.manifest
    checks = () if run.controls is None else run.controls.checks
    row = {"folder": name, "what": f"{about['checkpoint']['name']}, {about['sampler']}", "controls": found.verdict}
    if found.estimator is not None:
        table = run.reports[found.estimator].table()
        top = worst(table)
        largest = f"{delta(top['shift'])} at {at(top.t)}, by {found.estimator}" if top.resolved else "none resolved"
        row |= {"resolved": f"{int(table.resolved.sum())} of {len(table)} levels", "largest": largest}
    command, note = _command(about)
    return Section(
        anchor,
        f"{about['checkpoint']['name']}, {about['sampler']}",
        found.lines,
        found.verdict,
        list(_drawings(anchor, run)),
        [_table("Every reading", _readings(run), SHIFT_COLUMNS)],
        checks,
        list(_protocol(about)),
        command,
        note,
        row,
    )


def _readings(run: Run) -> pd.DataFrame:
    """All estimators' tables with the exact model's shift and the difference beside them, and the verdict in words."""
    frames = []
    for name, report in run.reports.items():
        frame = report.table().assign(estimator=name)
        if run.controls is not None and name in run.controls.solver:
            alone = run.controls.solver[name]
            frame["solver"], frame["network"] = alone.table()["shift"], (report - alone).table().difference
        frame["verdict"] = [
            "not readable" if pd.isna(row["shift"]) else "resolved" if row["resolved"] else "not resolved"
            for row in frame.to_dict("records")
        ]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _drawings(anchor: str, run: Run) -> Iterator[Drawing]:
    first = next(iter(run.reports.values()))
    figures: list[tuple[str, Any, str]] = [
        (
            "shift",
            lambda: plots.plot_shift(run.reports),
            "The shift δ against the told level, with 95 % bands. Filled points "
            "are resolved, hollow ones are not; the grey band is the first estimator's detection floor.",
        ),
        (
            "content",
            lambda: plots.plot_content_shift(run.reports),
            "The same against the run's own finals, noised again: what "
            "generated content does to an estimator at a right level is taken out.",
        ),
        (
            "posteriors",
            lambda: plots.plot_posteriors(first)[0],
            f"Where the readings of single states lie, by {first.estimator}; dotted: the told level.",
        ),
        (
            "logsnr",
            lambda: plots.plot_shift_log_snr(run.reports),
            "The shift in log-SNR: below 0 is noisier than told.",
        ),
    ]
    if run.controls is not None and run.controls.solver:
        figures.insert(
            1,
            (
                "solver",
                lambda: plots.plot_solver(run),
                "The whole shift, what an exact model shows through the "
                "same solver, and their paired difference, the network's share.",
            ),
        )
    with plots.style():
        for stem, draw, caption in figures:
            yield Drawing(svg.inline(draw().figure, caption, f"{anchor}-{stem}"), caption)
    grid = svg.picture_grid(run.pictures)
    caption = f"The first {len(run.pictures)} samples of the run."
    yield Drawing(f'<img class="pixels" src="{grid}" alt="{caption}">', caption)


def _corrected(anchor: str, name: str, folder: Path) -> Section:
    about, methods = json.loads((folder / "run.json").read_text()), pd.read_csv(folder / "methods.csv")
    metric = next(c for c in methods if c.startswith(("FD-", "FID")) and not c.endswith((" low", " high")))
    read_by = about["estimators"][0] if isinstance(about["estimators"], list) else next(iter(about["estimators"]))
    chosen, reason = about["chosen"]
    base = methods.iloc[0]
    moved = int(((methods["change high"] < 0) | (methods["change low"] > 0)).sum())
    rms = base[f"rms {read_by}"]
    lines = (
        f"On {about['checkpoint']['name']} under {about['sampler']} the method to choose is {chosen}: {reason}.",
        f"Without a correction the rms shift is {rms:.4f} in t (by {read_by}) and {metric} is {base[metric]:.2f}; "
        f"{moved} of {len(methods) - 1} methods change {metric} by more than their 95 % interval.",
        "A correction that reads the level with the same estimator that judges it is circular in that column: believe a "
        "reduction when a second estimator confirms it. The null and level controls belong to `measure` and were not run here.",
    )
    columns = [(c, c, "") for c in methods if c != "seconds"]
    command, note = _command(about)
    row = {"folder": name, "what": f"correct: {about['checkpoint']['name']}, {about['sampler']}", "controls": "not run"}
    return Section(
        anchor,
        f"Corrections of {about['checkpoint']['name']}, {about['sampler']}",
        lines,
        "not run",
        list(_pictures(folder, ("shift", "trade", "scales", "samples"))),
        [
            _table(
                f"Methods (scale 0 = unguided; rms in t, reductions in %, change: paired change of {metric})",
                methods,
                columns,
            )
        ],
        (),
        list(_protocol(about)),
        command,
        note,
        row | {"largest": f"chosen: {chosen}"},
    )


def _approximated(anchor: str, name: str, folder: Path) -> Section:
    about, table = json.loads((folder / "run.json").read_text()), pd.read_parquet(folder / "injected.parquet")
    seen = table[table.resolved]
    roots = [c for c in ("sigma", "snr", "posterior", "first_order") if c in table]
    error = {c: float((seen[c] / seen.measured - 1).abs().median()) for c in roots}
    nearest = min(error, key=lambda c: error[c]) if len(seen) else ""
    first = (
        f"Of {len(table)} injected errors {len(seen)} make a shift that is resolved; Statement 1's first order misses it by "
        f"{100 * error['first_order']:.0f} % (median)."
        if len(seen)
        else f"None of {len(table)} injected errors makes a shift that is resolved."
    )
    short = f"first order off by {100 * error['first_order']:.0f} %" if nearest else "none resolved"
    second = (
        f"The nearest prediction is `{nearest}`, off by {100 * error[nearest]:.0f} %."
        if nearest
        else "No prediction can be judged."
    )
    lines = (first, second, "The null and level controls belong to `measure` and were not run here.")
    drawn = [f"{kind}-{e}" for e in table.estimator.unique() for kind in ("injected", "predicted", "error")]
    command, note = _command(about)
    return Section(
        anchor,
        f"Statement 1 on {about['checkpoint']['name']}",
        lines,
        "not run",
        list(_pictures(folder, drawn)),
        [
            _table(
                "Injected errors: measured and predicted shifts in t",
                table,
                [(c, c.replace("_", " "), "") for c in table],
            )
        ],
        (),
        list(_protocol(about)),
        command,
        note,
        {"folder": name, "what": f"approx: {about['checkpoint']['name']}", "controls": "not run", "largest": short},
    )


def _pictures(folder: Path, stems: Sequence[str]) -> Iterator[Drawing]:
    """The folder's own figures, as they were saved."""
    for stem in stems:
        path = folder / "figures" / f"{stem}.png"
        if path.exists():
            data = base64.b64encode(path.read_bytes()).decode()
            caption = f"figures/{stem}.pdf"
            yield Drawing(f'<img class="plate" src="data:image/png;base64,{data}" alt="{caption}">', caption)


def _table(caption: str, frame: pd.DataFrame, columns: Sequence[Column]) -> Table:
    shown = [(name, heading, meaning) for name, heading, meaning in columns if name in frame]
    cells = [
        [_cell(name, value) for name, value in zip(frame.columns, row, strict=True)] for row in frame.to_numpy(object)
    ]
    order = [frame.columns.get_loc(name) for name, _, _ in shown]
    return Table(
        caption, [(heading, meaning) for _, heading, meaning in shown], [[row[k] for k in order] for row in cells]
    )


SIGNED = {"shift", "low", "high", "content_shift", "solver", "network", "shift_log_snr"}


def _cell(name: str, value: Any) -> Cell:
    if isinstance(value, str) or value is None:
        return Cell(value or "", value or "", False)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", "yes" if value else "no", False)
    if pd.isna(value):
        return Cell("–", "", True)
    if name in ("step", "n", "nfe"):
        return Cell(f"{value:.0f}", float(value), True)
    digits = 2 if name == "slope" or name.startswith(("FD", "FID", "IS", "KID", "change", "reduction")) else 4
    text = f"{value:+.{digits}f}" if name in SIGNED or name.startswith("change") else f"{value:.{digits}f}"
    return Cell(text.replace("-", "−"), float(value), True)


def _protocol(manifest: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The manifest as pairs of words; a long list is named by its length and ends."""
    for key, value in manifest.items():
        name = f"{prefix}{key}".replace("_", " ")
        if key in ("command", "chosen"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _protocol(value, f"{name}: ")
        elif isinstance(value, list) and len(value) > 20:
            yield name, f"{len(value)} values, {value[0]:.6g} … {value[-1]:.6g}"
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value))
        elif prefix.startswith("estimators"):
            yield name, "all samples" if value is None else f"the first {value} samples"
        else:
            yield (
                name,
                {None: "none", True: "yes", False: "no"}.get(value, str(value))
                if value is None or isinstance(value, bool)
                else str(value),
            )


def _command(about: Mapping[str, Any]) -> tuple[str, str]:
    """The command line that made a folder, or for folders that did not keep it, one rebuilt from the protocol."""
    if "command" in about:
        return about["command"], ""
    if "points" not in about:
        return "", "This folder did not keep its command line; the protocol below has its settings."
    words = ["noiseshift", "measure", about["checkpoint"]["name"], "--sampler", about["sampler"]]
    estimators = [name if n is None else f"{name}:{n}" for name, n in about["estimators"].items()]
    for option in ("samples", "batch", "points", "seed", "precision"):
        words += [f"--{option}", str(about[option])]
    words += ["--estimator", ",".join(estimators), *(["--controls"] if about["controls"] else [])]
    missing = "--data, --device and the checkpoint's path" + (" and --guidance" if about["guidance"] else "")
    return shlex.join(words), f"Rebuilt from run.json, which did not keep {missing}."
