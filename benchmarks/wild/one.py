"""One case of `table.py`, in the folder of its checkout: prints its row as JSON, and keeps both samplers' samples."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import re
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import CASES, Case, Own
from torch import Tensor

import noiseshift as ns
from noiseshift.checkpoints.custom_code import networks_in
from noiseshift.checkpoints.inspection import contents_of
from noiseshift.checkpoints.wrapper import wrapper

UNUSED = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.utils", "wandb", "cv2")
"""What repositories' modules import beside their network, and the network does not call."""

DRAWN = {4: 3, 3: 64, 2: 400}
"""Samples that are drawn from one noise, by the axes of a batch: pictures, paths, points."""


def data_of(name: str, mnist: Path) -> ns.data.Images | None:
    """The held-out data of a case, or None."""
    if name == "none":
        return None
    if name == "fashion":
        return ns.data.reference()
    if name == "swiss-roll":
        from make_data import make_swiss_roll

        np.random.seed(0)  # noqa: NPY002 -- of their code
        return ns.data.Images(make_swiss_roll(4000))
    if name == "signals":
        return ns.data.Images(torch.from_numpy(np.load("data/signals.npy")).float())
    if name == "fashion-32":  # two pixels of black around
        given = ns.data.reference()
        return ns.data.Images(torch.nn.functional.pad(torch.as_tensor(given.pixels), (2, 2, 2, 2)), given.labels)
    if name == "circle":  # eight points of it
        angle = 2 * math.pi * torch.arange(4000) / 8
        return ns.data.Images(torch.stack([angle.cos(), angle.sin()], 1))
    if name == "states":
        return ns.data.Images(torch.load("code/states.pt", weights_only=True)["data"].float())
    if name == "digits":
        return ns.data.Images(digits())
    if name == "moons":
        return ns.data.Images(two_moons(4000))
    if name == "names":
        return names()
    found = ns.data.load_images(mnist)[:1000]
    if name == "mnist":
        return found
    from PIL import Image

    grown = [np.array(Image.fromarray(p[0].numpy()).resize((32, 32), Image.Resampling.BILINEAR)) for p in found.pixels]
    return ns.data.Images(torch.from_numpy(np.stack(grown))[:, None], found.labels)


def two_moons(count: int) -> Tensor:
    """(count, 2) points as scikit-learn's `make_moons(noise=0.05)` draws them."""
    draw = torch.Generator().manual_seed(0)
    angle = torch.linspace(0, math.pi, count // 2)
    upper, lower = torch.stack([angle.cos(), angle.sin()], 1), torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    return torch.cat([upper, lower]) + 0.05 * torch.randn(count, 2, generator=draw)


def digits() -> Tensor:
    """(N, 4) of the draws that joker7822's training reads."""
    with Path("numbers4.csv").open(encoding="utf-8") as file:
        rows = [json.loads(row["本数字"]) for row in csv.DictReader(file)]
    return torch.tensor([row for row in rows if len(row) == 4], dtype=torch.float32)


def names() -> ns.data.Images:
    """Every eighth of giljorge's latents, normalised as its training does."""
    held = torch.load("src/checkpoints/latents.pt", weights_only=True)
    return ns.data.Images(((held["z"] - held["mean"]) / held["std"])[::8])


def parity(model: Any, own: Own, shape: tuple[int, ...], low: float, high: float, label: Tensor | None) -> float:
    """Largest difference of states and predicted noise, over their times, from their own code."""
    torch.manual_seed(0)
    x0, eps = torch.rand(8, *shape) * (high - low) + low, torch.randn(8, *shape)
    worst = 0.0
    for theirs, t in own.times:
        now = torch.tensor(t, dtype=torch.float64)
        x = own.noised(x0, eps, theirs)
        states = (model.schedule(now).mix(x0, eps) - x).abs().max()
        answers = (model(x, now, label).eps - own.predicted(x, theirs, label)).abs().max()
        worst = max(worst, float(states), float(answers))
    return worst


def both_samplers(case: Case, model: Any, own: Own, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Their own sampler's samples, and ours, from the same noise; what theirs draws on its way is drawn here too."""
    count = DRAWN[1 + len(shape)]
    label = torch.arange(count) % model.classes if model.classes else None
    start = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))
    drawn = [torch.Generator().manual_seed(2) for _ in range(2)]
    theirs = own.sample(start, label, lambda x: torch.randn(x.shape, generator=drawn[0]))
    if own.replay is not None:
        return theirs, own.replay(model)(start, label, lambda x: torch.randn(x.shape, generator=drawn[1]))
    return theirs, replayed(case, model, start, label, lambda x: torch.randn(x.shape, generator=drawn[1]))


def replayed(case: Case, model: Any, x: Tensor, label: Tensor | None, z: Any) -> Tensor:
    """Our model through the update that theirs takes, written in levels."""
    if case.sampler.startswith("ddpm"):
        times = model.levels.flip(0)
        bars = model.schedule(times.double()).alpha ** 2
        for i, t in enumerate(times[: len(times) - case.first]):
            before = bars[i + 1] if i + 1 < len(bars) else torch.tensor(1.0)
            alpha = (bars[i] / before).float()
            eps = model(x, t, label).eps
            x = (x - (1 - alpha) / (1 - bars[i]).sqrt().float() * eps) / alpha.sqrt()
            x = (
                x + (1 - alpha).sqrt() * z(x)
                if case.stochastic and (case.to_the_end or i + 1 < len(times) - case.first)
                else x
            )
        return x
    if case.wrapper == "opennumerics":
        return backward(model, x, z)
    grid = torch.linspace(1, 0, 51, dtype=torch.float64)
    if case.sampler.startswith("euler"):
        *_, last = ns.sample(model, x, grid, update=ns.euler, cond=label)
    else:  # Euler's steps in sigma
        *_, last = ns.sample(model, x * model.schedule(grid[0]).sigma, grid, update=ns.ddim(0.0), cond=label)
    return last.x


def backward(model: Any, x: Tensor, z: Any) -> Tensor:
    """Euler–Maruyama of the backward SDE in 200 steps, with the β of the schedule."""
    for i in range(200):
        t = torch.tensor(1 - i / 200, dtype=torch.float64)
        _, slope = torch.func.jvp(lambda u: -2 * model.schedule.coefficients(u)[0].log(), (t,), (torch.ones_like(t),))
        beta = float(slope)
        x = x + (beta * x / 2 + beta * model(x, t).score) / 200 + (beta / 200) ** 0.5 * z(x)
    return x


def protocol_of(case: Case, checkpoint: ns.Checkpoint, controls: bool = False) -> ns.Protocol:
    """Of every case: 48 samples, up to four levels."""
    # A residual is one number of d squares: of few coordinates it says nothing, and the likelihood along t is asked instead.
    estimator = "residual" if math.prod(checkpoint.shape) >= 64 else "fokker-planck"
    return ns.Protocol(case.sampler, samples=48, points=4, estimators={estimator: None}, batch=48, controls=controls)


def measured(case: Case, checkpoint: ns.Checkpoint, data: ns.data.Images | None) -> dict[str, Any]:
    """The checks and the shift in the middle of those that can be read."""
    run = ns.run(checkpoint, protocol_of(case, checkpoint), data)
    failed = "; ".join(f"{check.name}: {check.sentence}" for check in run.preflight.failures)
    rows = run.table().to_dict("records")
    readable = [row for row in rows if np.isfinite([row["shift"], row["low"], row["high"]]).all()]
    shown = "not readable at any level"
    if readable:
        row = readable[len(readable) // 2]
        shown = f"{row['shift']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] at t = {row['t']:.2f}"
    return {
        "checks": f"failed: {failed}" if failed else "passed",
        "shift": shown,
        "answer": str(run.answer),
        "table": rows,
    }


def filled_in(kept: str, written: str) -> list[str]:
    """Lines of a wrapper that have a part that `info --write-wrapper` did not write; comments aside.

    A line of the card is as many parts as it has entries, since where a line ends depends on what else there is room for.
    """
    known = {part for line in written.splitlines() for part in parts_of(line)}
    lines = [line for line in kept.splitlines() if line and not line.startswith('"""')]
    return [line.strip() for line in lines if not set(parts_of(line)) <= known]


def parts_of(line: str) -> list[str]:
    """A line's entries, without its comment."""
    code = line.partition("  #")[0].strip().removesuffix(",")
    return re.split(r', (?=")', code)


class _Unused(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        return object


def _own(case: Case, network: Any) -> Own:
    """Their code's functions; what their modules import besides is not there."""
    absent = [module for module in UNUSED if importlib.util.find_spec(module.partition(".")[0]) is None]
    sys.modules |= {module: _Unused(module) for module in absent}
    assert case.own is not None
    found = case.own(network)
    for module in absent:
        del sys.modules[module]
    return found


def main(name: str, mnist: Path, out: Path) -> None:
    case = next(case for case in CASES if case.wrapper == name)
    checkpoint = ns.load(f"{name}:model")
    model, started = checkpoint.model, time.time()
    (network,) = networks_in(model.network.fn)
    own = _own(case, network)
    low, high = checkpoint.card.range or (-1.0, 1.0)
    label = torch.arange(8) % checkpoint.classes if checkpoint.classes else None
    with torch.no_grad():
        apart = parity(model, own, checkpoint.shape, low, high, label)
        theirs, ours = both_samplers(case, model, own, checkpoint.shape)
    np.savez(out / f"{name}.npz", theirs=checkpoint.decode(theirs).numpy(), ours=checkpoint.decode(ours).numpy())
    found = measured(case, checkpoint, data_of(case.data, mnist))
    written = wrapper(name, contents_of(case.file))
    by_hand = filled_in(Path(importlib.import_module(name).__file__ or "").read_text(), written)
    found |= {"lines filled in": len(by_hand), "filled in": "; ".join(by_hand)}
    found |= {"parity": f"{apart:.0e}", "samples apart": f"{float((theirs - ours).abs().max()):.0e}"}
    print(json.dumps(found | {"seconds": round(time.time() - started)}, default=str))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
