"""Preflight on wrong readings of the bundled checkpoints and on data that are not theirs; prints a table.

    python benchmarks/preflight.py              # four minutes on one core
    python benchmarks/preflight.py --orders 20  # small faults, and the right ones, on so many other orders of the data

Eight wrong cards and seven wrong data sets, and the right ones of both models. A wrong one must fail and the right reading be
named, but for the enlarged pictures, which are only said; a right one must pass.

With --orders: which rows are tried hangs on the data's order, so how often a small fault (a time that is off by some steps of
1,000, two classes exchanged, less contrast) is caught by its check, on how many orders. Samples are not drawn there.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click
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


EACH = 4
"""Times and contrasts are tried on every fourth order only: whether they are caught hangs little on it."""

OFFSET = {"fashion-sit": 0.0, "fashion-ddpm": -1.0}
"""What the right cards add to 1,000 t."""


def retimed(stem: str, offset: float = 0.0, scale: float = 1.0) -> ns.Checkpoint:
    """A bundled checkpoint whose card has another time."""
    card = yaml.safe_load((ASSETS / f"{stem}.yaml").read_text())
    card["time"] = {"zero": "data", "scale": 1000.0 * scale, "offset": OFFSET[stem] + offset}
    return ns.load(ASSETS / f"{stem}.safetensors", card=card)


def exchanged(data: Images, a: int, b: int) -> Images:
    assert data.labels is not None
    order = torch.arange(10)
    order[[a, b]] = torch.tensor([b, a])
    return Images(data.pixels, order[data.labels])


def contrasted(data: Images, about: float) -> Images:
    """0.8 of the contrast, about a value from 0 (black) to 255."""
    return Images((about + 0.8 * (data.pixels.float() - about)).round().to(torch.uint8), data.labels)


def small_faults(stem: str, data: Images, order: int) -> Iterator[tuple[str, str, ns.Checkpoint, Images]]:
    """(fault, the check that is to find it, checkpoint, data); none for the right one."""
    yield "none", "", ns.load(stem), data
    a, b = list(itertools.combinations(range(10), 2))[7 * order % 45]
    yield "two classes exchanged", "class order", ns.load(stem), exchanged(data, a, b)
    if order % EACH:
        return
    for offset in (-10, -5, -2, 2, 5, 10):
        yield f"time off by {offset:+d} of 1,000", "conditioning", retimed(stem, offset), data
    for scale in (0.98, 1.02):
        yield f"time times {scale}", "conditioning", retimed(stem, scale=scale), data
    for word, about in (("grey", 127.5), ("black", 0.0)):
        yield f"0.8 of the contrast, about {word}", "contrast", ns.load(stem), contrasted(data, about)


def orders(count: int) -> None:
    """How often each small fault is caught, and what is found where there is none."""
    real = ns.data.reference()
    caught: Counter[tuple[str, str]] = Counter()
    tried: Counter[tuple[str, str]] = Counter()
    for number in range(count):
        rows = torch.randperm(len(real), generator=torch.Generator().manual_seed(number))
        for stem in OFFSET:
            for fault, check, checkpoint, data in small_faults(stem, real[rows], number):
                found = preflight(checkpoint, data, samples=0)
                names = [each.name for each in found.failures]
                caught[fault, stem] += check in names if check else bool(names)
                tried[fault, stem] += 1
                others = [each for each in found.failures if each.name != check]
                print(number, stem, fault, names, *(each.sentence for each in others), file=sys.stderr, flush=True)
        print("| fault | fashion-sit | fashion-ddpm |\n|---|---|---|")
        for fault in dict.fromkeys(name for name, _ in caught):
            shown = " | ".join(f"{caught[fault, stem]} of {tried[fault, stem]}" for stem in OFFSET)
            print(f"| {fault} | {shown} |", flush=True)


@click.command()
@click.option("--orders", "count", default=0, help="Of the data, on which small faults are tried.")
def main(count: int) -> None:
    if count:
        orders(count)
        return
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
