"""Preflight on wrong readings of the bundled checkpoints and on data that are not theirs; prints a table.

    python benchmarks/preflight.py           # three minutes on one core

Eight wrong cards and seven wrong data sets, and the right ones of both models. A wrong one must fail and the right reading be
named, but for the enlarged pictures, which are only said; a right one must pass.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import yaml

import noiseshift as ns
from noiseshift.data import ASSETS, Images
from noiseshift.shift.preflight import preflight

NOISE_FIRST = {"zero": "noise", "scale": 1000.0}
CARDS: dict[str, tuple[str, dict[str, Any]]] = {
    "flow, right": ("fashion-sit", {}),
    "DDPM, right": ("fashion-ddpm", {}),
    "flow, time runs the other way": ("fashion-sit", {"time": NOISE_FIRST}),
    "flow, time in 0 … 1": ("fashion-sit", {"time": {"zero": "data", "scale": 1.0}}),
    "flow, epsilon for velocity": ("fashion-sit", {"prediction": "epsilon"}),
    "flow, cosine for linear": ("fashion-sit", {"schedule": {"kind": "cosine"}}),
    "DDPM, v for epsilon": ("fashion-ddpm", {"prediction": "v_prediction"}),
    "DDPM, x0 for epsilon": ("fashion-ddpm", {"prediction": "x0"}),
    "DDPM, linear for its betas": ("fashion-ddpm", {"schedule": {"kind": "linear"}}),
    "DDPM, steps reversed": ("fashion-ddpm", {"time": NOISE_FIRST | {"offset": -1.0}}),
}


def data_sets() -> dict[str, Images]:
    real = ns.data.reference()
    pixels, labels = real.pixels[:512], real.labels[:512]
    order = torch.randperm(28, generator=torch.Generator().manual_seed(0))
    return {
        "the same pictures upside down": Images(pixels.flip(2), labels),
        "on their side": Images(pixels.transpose(2, 3).contiguous(), labels),
        "negatives": Images(255 - pixels, labels),
        "rows shuffled": Images(pixels[:, :, order], labels),
        "enlarged from half the size": Images(enlarged(pixels), labels),
        "classes counted from 1, 10 as 0": Images(pixels, (labels + 1) % 10),
        "classes in the order of their names": Images(pixels, torch.tensor([8, 9, 5, 3, 2, 6, 7, 1, 0, 4])[labels]),
    }


def enlarged(pixels: torch.Tensor) -> torch.Tensor:
    small = torch.nn.functional.avg_pool2d(pixels.float(), 2)
    return torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear").round().to(torch.uint8)


def line(name: str, found: Any, seconds: float) -> str:
    verdict = "passed" if found.passed else "; ".join(f"**{c.name}**: {c.sentence}" for c in found.failures)
    return f"| {name} | {verdict} | {seconds:.1f} |"


def main() -> None:
    print("| what is read | preflight | seconds |\n|---|---|---|")
    real = ns.data.reference()
    for name, (stem, changes) in CARDS.items():
        card = yaml.safe_load((ASSETS / f"{stem}.yaml").read_text()) | changes
        started = time.perf_counter()
        found = preflight(ns.load(ASSETS / f"{stem}.safetensors", card=card), real)
        print(line(name, found, time.perf_counter() - started), flush=True)
    for name, data in data_sets().items():
        started = time.perf_counter()
        print(line(name, preflight(ns.load(), data), time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main()
