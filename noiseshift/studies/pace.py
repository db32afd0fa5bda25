"""How many rows go through a network at once: what a short trial on its device shows to be fastest.

A large batch is no gain where its activations leave the processor's cache: 256 rows of a small transformer take up to twice as long
a row as 32 do. Numbers depend on it by rounding only; finished batches of an interrupted run go on with their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from noiseshift import distributed
from noiseshift.checkpoints import Checkpoint
from noiseshift.networks.model import NetworkModel
from noiseshift.studies import kept
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.shards import Shards

SIZES = (16, 32, 64, 128, 256, 512)

WORTH, SHARE = 10_000, 40
"""A trial is made for a run that asks for so many rows at least, and goes through one in so many of them at most."""

NEAR, LOST = 1.03, 1.25
"""The fewest rows within the first factor of the fastest are taken; the trial ends at the second."""


def set_pace(checkpoint: Checkpoint, protocol: Protocol, calls: int, shards: Shards | None = None) -> int | None:
    """Let the checkpoint's network take as many rows at once as is fastest.

    Args:
        checkpoint: on its device.
        protocol: names the device and the precision.
        calls: about how many rows the run asks for; few are not worth a trial.
        shards: finished batches of an interrupted run, whose rows are taken again.

    Returns:
        The rows, or None where the network takes whatever it is given.
    """
    model = checkpoint.model
    if not isinstance(model, NetworkModel):
        return None
    model.halving.rows = None
    if shards is not None and shards.rows:
        model.halving.rows = shards.rows
    elif calls >= WORTH:
        first = distributed.joined()[0] == 0
        model.halving.rows = distributed.first(_rows(checkpoint, model, protocol, calls // SHARE) if first else None)
    if shards is not None:
        shards.rows = model.halving.rows
    return model.halving.rows


def _rows(checkpoint: Checkpoint, model: NetworkModel, protocol: Protocol, budget: int) -> int:
    """As it was found before for such a network on such a device, or found now; anew where more can be tried than then."""
    about = _about(checkpoint, model, protocol)
    found = kept.load("rows", about)
    if found is not None and int(found["rows"]) in SIZES and int(found["budget"]) >= min(budget, 2 * sum(SIZES)):
        return int(found["rows"])
    rows = fastest(_trial(checkpoint, protocol), budget)
    kept.save("rows", about, {"rows": np.array(rows), "budget": np.array(budget)})
    return rows


def known_pace(checkpoint: Checkpoint, protocol: Protocol, calls: int) -> int | None:
    """The rows that an earlier run found; None where none did, or where `set_pace`, which has the arguments, sets none.

    Args:
        checkpoint: on its device.
        protocol: names the device and the precision.
        calls: about how many rows the run asks for.
    """
    if not isinstance(checkpoint.model, NetworkModel) or calls < WORTH:
        return None
    found = kept.load("rows", _about(checkpoint, checkpoint.model, protocol))
    return None if found is None else int(found["rows"])


def _about(checkpoint: Checkpoint, model: NetworkModel, protocol: Protocol) -> dict[str, object]:
    """What decides how many rows at once are fastest."""
    about = {"network": _architecture(model), "shape": list(checkpoint.shape), "device": _device(protocol.device)}
    return about | {"precision": protocol.precision, "threads": torch.get_num_threads()}


def fastest(seconds: Callable[[int], float], budget: int = 2 * sum(SIZES)) -> int:
    """The fewest rows whose seconds a row are near the least.

    Args:
        seconds: of a call with so many rows.
        budget: rows that are spent on it; each size is tried twice.
    """
    cost: dict[int, float] = {}
    for size in SIZES:
        budget -= 2 * size
        if cost and budget < 0:
            break
        try:
            cost[size] = min(seconds(size) for _ in range(2)) / size
        except MemoryError:
            break
        if cost[size] > LOST * min(cost.values()):
            break
    return next(size for size in cost if cost[size] <= NEAR * min(cost.values()))


def _trial(checkpoint: Checkpoint, protocol: Protocol) -> Callable[[int], float]:
    classes = checkpoint.classes
    device = protocol.device
    t = torch.tensor(0.5, dtype=torch.float64, device=device)

    @torch.inference_mode()
    def seconds(rows: int) -> float:
        x = torch.randn(rows, *checkpoint.shape, generator=torch.Generator().manual_seed(0)).to(device)
        cond = torch.arange(rows, device=device) % classes if classes else None
        started = time.perf_counter()
        found = checkpoint.model(x, t, cond)
        float(found.eps.flatten()[0])  # waits for the device
        return time.perf_counter() - started

    seconds(1)  # the first call sets up
    return seconds


def _architecture(model: NetworkModel) -> list[object]:
    return [type(model.network).__name__, *([name, *part.shape] for name, part in model.network.named_parameters())]


def _device(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(torch.device(device))
    return device
