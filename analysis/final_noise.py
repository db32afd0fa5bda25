"""What is left in the finished samples, in words and columns."""

from __future__ import annotations

import math
from typing import Any

from noiseshift.analysis.page_parts import Column

from noiseshift.studies.folders import Run

RESIDUAL_COLUMNS: tuple[Column, ...] = (
    ("space", "space", "pictures; or latents, and decoded ones where the autoencoder is there"),
    (
        "reader",
        "reader",
        "wavelet: finest Haar band; constant-pixel: coordinates that never vary; level: the level estimator, of re-noised samples",
    ),
    ("sigma", "σ end", "standard deviation of the noise that is left, in the data's units"),
    ("low", "95 % from", "lower end of its interval"),
    ("high", "to", "upper end of its interval"),
    ("floor", "floor", "the least σ that would be significant"),
    ("psnr", "PSNR", "of that noise against the range of the pictures, in dB; higher is cleaner"),
    ("verdict", "verdict", "noise; none seen; or smoother than the real data"),
    ("samples", "samples", "how many final samples were read"),
)


def residual_line(run: Run) -> str:
    """One line for the terminal and the page; empty for a run that was not read."""
    found = run.residual_noise
    if found is None or found.empty:
        return ""
    parts = [_of(row) for row in found.to_dict("records")]
    return f"Left in the final samples: {'; '.join(parts)}."


def _of(row: dict[str, Any]) -> str:
    name = f"{row['space']} by {row['reader']}"
    if row["verdict"] == "smoother":
        return f"{name} smoother than real data"
    if row["verdict"] == "none seen" and not math.isfinite(row["floor"]):
        return f"{name} not readable from so few samples"
    if row["verdict"] == "none seen":
        return f"{name} no noise above σ = {row['floor']:.3g}"
    if not math.isfinite(row["sigma"]):
        return f"{name} noise of more than σ = {row['low']:.3g}"
    decibel = f", PSNR {row['psnr']:.1f} dB" if math.isfinite(row["psnr"]) else ""
    return f"{name} noise of σ = {row['sigma']:.3g} (95 % {row['low']:.3g} … {row['high']:.3g}{decibel})"
