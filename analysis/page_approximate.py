"""An approximation's section of the page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from noiseshift.analysis.approximate import answer, figures
from noiseshift.analysis.checks import headed, kept, listed
from noiseshift.analysis.drawing import Figure
from noiseshift.analysis.page_parts import UNCHECKED, Section, drawings, manifest, protocol, table

from noiseshift.reading import read_arrays, read_table

COLUMNS = (
    ("estimator", "estimator", "what read the level"),
    ("t", "t", "the level that the error was added at"),
    ("ratio", "σ_e / σ", "standard deviation of the injected error, in those of the state's noise"),
    ("measured", "δ", "measured shift in t"),
    ("low", "95 % from", "lower end of δ's bootstrap interval, in t"),
    ("high", "to", "upper end of δ's bootstrap interval, in t"),
    ("resolved", "resolved", "whether that interval excludes 0"),
    ("sigma", "sigma", "exact root: the level whose σ the state has"),
    ("snr", "snr", "exact root: the level whose signal-to-noise ratio the state has"),
    ("posterior", "posterior", "exact root: what a posterior over t reads, for Gaussian data of the same spectrum"),
    ("first_order", "first order", "Statement 1"),
    ("error", "error", "first order / δ − 1"),
)


PART = ("part of an approximation", "run `noiseshift approx` again")


def approximated(anchor: str, name: str, folder: Path) -> Section:
    """The section of a folder that `approx` wrote: its figures are drawn again from its tables."""
    about = manifest(folder)
    injected = read_table(folder / "injected.parquet", *PART)
    first, second, short = answer(injected)
    return Section(
        anchor,
        f"Statement 1 on {about['checkpoint']['name']}",
        (headed(kept(about), first), second, UNCHECKED),
        "not run",
        list(drawings(anchor, _figures(folder, injected))),
        [table("Injected errors: measured and predicted shifts in t", injected, COLUMNS)],
        (),
        list(protocol(about)),
        about.get("command", ""),
        "" if "command" in about else "This folder did not keep its command line; the protocol below has its settings.",
        {"folder": name, "what": f"approx: {about['checkpoint']['name']}", "controls": "not run", "largest": short},
        listed(kept(about)),
    )


def _figures(folder: Path, injected: pd.DataFrame) -> list[Figure]:
    """The study's figures; of its runs those that the first estimator reads, since a page of both is a long one."""
    paths = read_table(folder / "paths.parquet", *PART)
    paths = paths[paths.estimator == injected.estimator.iloc[0]] if len(paths) else paths
    return list(figures(injected, paths, read_arrays(folder / "spectra.npz", *PART)))
