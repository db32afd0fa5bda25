"""A measurement's section of the page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from noiseshift.analysis import drawing, parts, plots, svg
from noiseshift.analysis.after import spared
from noiseshift.analysis.answer import answer, content_of, worst
from noiseshift.analysis.baseline import against, columns_against
from noiseshift.analysis.checks import listed
from noiseshift.analysis.final_noise import RESIDUAL_COLUMNS, residual_line
from noiseshift.analysis.page_parts import Column, Drawing, Section, Table, drawings, protocol, table
from noiseshift.analysis.phrases import NOT_READABLE, at, chance, delta
from noiseshift.analysis.samples import plot_states

from noiseshift.studies.folders import Run

SHIFT_COLUMNS: tuple[Column, ...] = (
    ("estimator", "estimator", "what read the level"),
    ("step", "step", "index of the sampler's step, from 0 at pure noise"),
    ("t", "conditioning t", "the time that the network is conditioned on: 1 is noise, 0 is data"),
    ("shift", "δ", "noise shift in t; above 0 the state is noisier than the conditioning level"),
    ("low", "95 % from", "lower end of δ's interval at this level, in t"),
    ("high", "to", "upper end of δ's interval at this level, in t"),
    ("band_low", "band from", "lower end of the band that holds δ at all levels at once, at 95 %, in t"),
    ("band_high", "to", "upper end of that band, in t"),
    ("floor", "floor", "detection floor: the least |δ| that is significant, in t"),
    ("verdict", "verdict", f"resolved: |δ| above the floor, at this level alone; not readable: {NOT_READABLE}"),
    ("calibration_share", "calibration", "the calibration's part of δ's variance: more samples do not lower it"),
    ("content_shift", "content δ", "δ against final samples, re-noised (the protocol's `content` says whose), in t"),
    ("solver", "solver δ", "what finer steps of the same network take away of δ, in t"),
    ("network", "network δ", "what they leave, in t"),
    ("exact_solver", "exact model δ", "δ of an exact model through the same solver, in t"),
    ("whose", "whose", "the part that both experiments find with one sign; open where they do not agree"),
    ("shift_log_snr", "Δλ", "the same shift in log-SNR; below 0 is noisier"),
    ("slope", "slope", "how far the reading moves when the level does: 1 is faithful, outside 0.5 … 2 unreadable"),
)


def measured(anchor: str, name: str, run: Run) -> Section:
    found = answer(run)
    about = run.manifest
    checks = () if run.controls is None else run.controls.checks
    row = {"folder": name, "what": f"{about['checkpoint']['name']}, {about['sampler']}", "controls": found.verdict}
    if found.estimator is not None:
        read = run.reports[found.estimator].table()
        top = worst(read)
        largest = f"δ {delta(top['shift'])} at {at(top.t)}, by {found.estimator}" if top.resolved else "none resolved"
        largest = f"{largest}{against(run.baseline)}"
        row |= {"resolved": f"{int(read.resolved.sum())} of {len(read)} levels", "largest": largest}
        row |= {"any shift": f"{'yes' if run.answer.significant else 'not significant'}, {chance(run.answer.run.p)}"}
    command, note = _command(about)
    return Section(
        anchor,
        f"{about['checkpoint']['name']}, {about['sampler']}",
        [line for line in (*found.lines, *parts.lines(run), residual_line(run)) if line],
        found.verdict,
        [*drawings(anchor, _figures(run)), *_samples(anchor, run)],
        [
            table(
                f"Every reading{against(run.baseline)}", _readings(run), columns_against(run.baseline, SHIFT_COLUMNS)
            ),
            *_by_part(run),
            *_left(run),
        ],
        checks,
        list(protocol(about)),
        command,
        note,
        row,
        listed(run.preflight),
    )


def _by_part(run: Run) -> Iterator[Table]:
    """The shift by parts and groups, each kind as each estimator reads it."""
    if run.parts is not None and not run.parts.empty:
        for kind, rows in run.parts.groupby("kind", sort=False):
            yield table(f"δ by {kind}{against(run.baseline)}", rows, parts.COLUMNS)


def _left(run: Run) -> Iterator[Table]:
    """What is left in the finished samples."""
    if run.residual_noise is None or run.residual_noise.empty:
        return
    names = {
        "low": "sigma_low",
        "high": "sigma_high",
    }  # ends of a spread: no signed shifts, as those names mean elsewhere
    columns = [(names.get(name, name), heading, meaning) for name, heading, meaning in RESIDUAL_COLUMNS]
    yield table("Residual noise of the final samples", run.residual_noise.rename(columns=names), columns)


def _readings(run: Run) -> pd.DataFrame:
    """All estimators' tables with the solver's and the network's parts beside them, and the verdict in words."""
    frames = []
    for name, report in run.reports.items():
        frame = report.table().assign(estimator=name)
        if run.controls is not None and not run.controls.shares.empty:
            parts = run.controls.shares[run.controls.shares.estimator == name]
            for column in ("solver", "network", "exact_solver", "whose") if len(parts) else ():
                frame[column] = parts[column].to_numpy()
        frame["verdict"] = [
            "not readable" if pd.isna(row["shift"]) else "resolved" if row["resolved"] else "not resolved"
            for row in frame.to_dict("records")
        ]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _figures(run: Run) -> Iterator[drawing.Figure]:
    first = next(iter(run.reports.values()))
    own = against(run.baseline)
    yield (
        "shift",
        lambda: plots.plot_shift(run.reports),
        f"The shift δ against the conditioning level{own}, with 95 % bands. Filled points are resolved, hollow ones are not; "
        "the grey band is the first estimator's detection floor.",
    )
    if run.controls is not None and not run.controls.shares.empty:
        yield (
            "solver",
            lambda: plots.plot_solver(run),
            "The whole shift; what finer steps of the same network take away (the solver's part) and leave (the network's); and "
            f"the shift of an exact model through the same solver{own}.",
        )
    if any(report.content is not None for report in run.reports.values()):
        yield (
            "content",
            lambda: plots.plot_content_shift(run.reports),
            f"The same against {content_of(run)}, re-noised: another baseline, which has the content of generated samples.",
        )
    yield from parts.figures(run)
    yield (
        "posteriors",
        lambda: plots.plot_posteriors(first)[0],
        f"Where the readings of single states lie, by {first.estimator}; dotted: the conditioning level{own}.",
    )
    yield (
        "logsnr",
        lambda: plots.plot_shift_log_snr(run.reports),
        f"The shift in log-SNR: below 0 is noisier than the conditioning level{own}.",
    )


def _samples(anchor: str, run: Run) -> list[Drawing]:
    """Pictures as they are; other states in the figure that suits them, where there is one."""
    caption = f"The first {len(run.pictures)} samples of the run."
    if not run.pictures.is_floating_point():
        with spared("the samples on the page"):
            return [Drawing(f'<img class="pixels" src="{svg.picture_grid(run.pictures)}" alt="{caption}">', caption)]
    return list(drawings(anchor, [("samples", lambda: plot_states(run.pictures), caption)]))


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
    if about.get("calibration_rows"):
        words += ["--calibration", str(about["calibration_rows"])]
    words += ["--estimator", ",".join(estimators), *(["--controls"] if about["controls"] else [])]
    missing = "--data, --device and the checkpoint's path" + (" and --guidance" if about["guidance"] else "")
    return shlex.join(words), f"Rebuilt from run.json, which did not keep {missing}."
