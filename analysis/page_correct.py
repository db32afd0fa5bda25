"""A correction's section of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from noiseshift.analysis.checks import headed, kept, listed
from noiseshift.analysis.correct import choice, figures
from noiseshift.analysis.page_parts import (
    UNCHECKED,
    Column,
    Section,
    drawings,
    manifest,
    picture,
    protocol,
    table,
)

from noiseshift.correction.methods import current_name
from noiseshift.reading import read_csv

if TYPE_CHECKING:
    import pandas as pd

PART = ("part of a correction", "run `noiseshift correct` again")


def corrected(anchor: str, name: str, folder: Path) -> Section:
    """The section of a folder that `correct` wrote: its figures are drawn again from its tables."""
    about = manifest(folder)
    methods = _read(folder / "methods.csv")
    distance = next(c for c in methods if c.startswith(("FD-", "FID")) and " " not in c)
    read_by = list(about["estimators"])
    shifts = _read(folder / f"shift-{read_by[0]}.csv")
    chosen = current_name(about["chosen"][0])
    reason = about["chosen"][1]
    base = methods.iloc[0]
    what = f"{about['checkpoint']['name']}, {about['sampler']}"
    moved = int(((methods["change high"] < 0) | (methods["change low"] > 0)).sum())
    lines = (
        headed(
            kept(about),
            choice(about, chosen, reason),
        ),
        f"Without a correction the rms shift is {_size(base, read_by[0])} in t (by {read_by[0]}) and {distance} is "
        f"{base[distance]:.2f}; {moved} of {len(methods) - 1} methods change {distance} by more than their 95 % interval.",
        "A correction that reads the level with the same estimator that judges it is circular in that column: judge a "
        f"reduction by an estimator that the method does not use. {UNCHECKED}",
    )
    samples = "The same seeds and classes under every method."
    return Section(
        anchor,
        f"Corrections of {what}",
        lines,
        "not run",
        [
            *drawings(anchor, figures(methods, shifts, distance=distance, estimator=read_by[0])),
            *picture(folder / "figures" / "samples.png", samples),
        ],
        [table("Methods (scale 0 = unguided)", methods, list(_columns(methods, distance, read_by)))],
        (),
        list(protocol(about)),
        about.get("command", ""),
        "" if "command" in about else "This folder did not keep its command line; the protocol below has its settings.",
        {"folder": name, "what": f"correct: {what}", "controls": "not run", "largest": f"chosen: {chosen}"},
        listed(kept(about)),
    )


def _read(path: Path) -> pd.DataFrame:
    """A table by method. Folders of version 0.1 have some methods under former names."""
    frame = read_csv(path, *PART)
    named = [column for column in ("method", "kind") if column in frame]
    return frame.assign(**{column: frame[column].map(current_name) for column in named})


def _size(row: pd.Series, name: str) -> str:
    """The rms shift; where 0 is not ruled out, only what it is below. Folders of versions before 0.2 have no interval."""
    low, high = (row.get(f"rms {end} {name}", float("nan")) for end in ("low", "high"))
    return f"below {high:.4f}" if low == 0 else f"{row[f'rms {name}']:.4f}"


def _columns(methods: pd.DataFrame, distance: str, estimators: list[str]) -> Iterator[Column]:
    yield "method", "method", "what was done; none is the model as it is"
    yield "nfe", "NFE", "calls of the denoiser per sample"
    yield "level calls", "level calls", "calls of the level estimator per sample"
    for name in estimators:
        yield f"rms {name}", f"rms δ, {name}", f"root mean square of the shift in t, its own error taken out, by {name}"
        yield (
            f"reduction {name}",
            f"reduction (%), {name}",
            f"how much less that is than without, in %, by {name} (paired, 95 %)",
        )
    yield distance, distance, "distance to the real data, without what few samples add to it (95 %)"
    if f"{distance} plain" in methods:
        yield f"{distance} plain", f"{distance}, plain", "the distance as everybody prints it"
    yield "change", "change", f"what the method adds to {distance} (paired, 95 %); below 0 is better"
    yield next((c for c in methods if c.startswith("IS") and " " not in c), ""), "IS", "Inception Score (95 %)"
