"""What a measurement will cost before it is made: network calls, FLOP and hours, part by part.

Calls are counted as the run makes them. Those of Fokker–Planck depend on the states, and are counted on one of pure noise; those of
the score mixture are of narrow posteriors. A
call's FLOP are counted by torch on one state, its seconds timed on a few. A multiply and an add are two FLOP: SiT-XL/2 takes
237 GFLOP per call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.diffusion.models import Prediction
from noiseshift.diffusion.samplers import Step
from noiseshift.estimators.score_mixture import NEAR_CALLS
from noiseshift.shift.preflight import HANDED, preflight_calls
from noiseshift.shift.refinement import FACTORS
from noiseshift.studies.calls import BlankModel, calls_a_sample
from noiseshift.studies.content import content_rows, finer_solver
from noiseshift.studies.measure import CONTROL_ROWS
from noiseshift.studies.own_samples import own_rows
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import ASKING, RESIDUAL_ROWS, SLOPE_ROWS, read_times
from noiseshift.studies.sampling import guided, labels
from noiseshift.studies.solver_share import DRAWS, REFINED, refined_calls

AT_ONCE, TIMED_FLOP = 64, 1e11
"""The network is timed on as many states at once as a run may give it, and on fewer where those are more than so many FLOP."""

FORWARD_MODE = 2.0
"""A forward-mode derivative, which half precision needs, runs each matrix product twice: for the value and for the slope."""


@dataclass(frozen=True)
class Part:
    """A part of a run.

    Attributes:
        name: what it does.
        calls: of the network, on one state.
        weight: what a call costs there, in units of a plain one.
    """

    name: str
    calls: int
    weight: float = 1.0


@dataclass(frozen=True)
class Cost:
    """What a run will cost.

    Attributes:
        parts: of the run.
        flop: of one call.
        seconds: of one call on the protocol's device, in batches as timed.
        kept: names of parts that are left out, since they were made before.
    """

    parts: tuple[Part, ...]
    flop: float
    seconds: float
    kept: tuple[str, ...] = ()

    @property
    def total_flop(self) -> float:
        return sum(part.calls * part.weight for part in self.parts) * self.flop

    def without(self, names: Collection[str]) -> Cost:
        """The cost where the parts of these names were made before."""
        left = tuple(part for part in self.parts if part.name not in names)
        return replace(self, parts=left, kept=tuple(part.name for part in self.parts if part.name in names))

    def hours(self, devices: int = 1) -> float:
        """Hours on `devices` like the one that was timed, which share the batches."""
        return sum(part.calls * part.weight for part in self.parts) * self.seconds / 3600 / devices


def estimate(checkpoint: Checkpoint, protocol: Protocol, held_out: int | None, *, timed: int | None = None) -> Cost:
    """The cost of a measurement before it is made.

    Not counted: decoding, the estimator networks of g_φ's kind, the exact model of the controls; each is small beside
    the rest, or is no network.

    Args:
        checkpoint: what would be measured.
        protocol: how.
        held_out: how many real images there are.
        timed: how many states the network is timed on; None: as many as go through it at once in a run, a few of a large network.

    Returns:
        The cost, part by part.
    """
    protocol = protocol.bound(checkpoint)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    flop, seconds = one_call(checkpoint, protocol, timed)
    return Cost(tuple(parts(checkpoint, protocol, held_out)), flop, seconds)


def parts(checkpoint: Checkpoint, protocol: Protocol, held_out: int | None) -> list[Part]:
    """The calls of each part of a run; parts without any are left out.

    Args:
        checkpoint: what is sampled.
        protocol: what is done with it.
        held_out: how many real images there are, None without any.
    """
    points = len(read_times(guided(checkpoint, protocol), protocol))
    calls = calls_a_sample(checkpoint, protocol)
    own = own_rows(protocol) if held_out is None else (0, 0)
    half = own[0] if held_out is None else held_out // 2
    checks = HANDED * 2 if held_out is None else preflight_calls(protocol.samples, held_out, checkpoint.classes)
    found = [
        Part("sampling", protocol.samples * calls),
        Part("own samples", sum(own) * calls),
        Part("preflight", checks),
    ]
    if protocol.controls:
        found.append(Part("finer steps", min(REFINED, protocol.samples) * refined_calls(checkpoint, protocol)))
    fine = finer_solver(checkpoint, protocol) if held_out is not None else None
    content = content_rows(protocol) if fine else 0 if held_out is None else protocol.samples
    if fine:
        found.append(Part("content control", content * calls_a_sample(checkpoint, replace(protocol, solver=fine))))
    for name, limit in protocol.estimators.items():
        per_reading = calls_a_reading(checkpoint, name)
        most = min(protocol.rows, half)
        rows = min(limit or most, half)
        read = min(limit or protocol.samples, protocol.samples)
        calibrating = points * per_reading * (rows + 2 * min(SLOPE_ROWS, rows))
        # The sampler's own prediction serves a reading, unless only some of a batch's rows are read, or a cache made it.
        predicted = name == "residual" and limit is None and checkpoint.sampled is None
        if name == "residual":
            calibrating += 2 * points * min(RESIDUAL_ROWS, half)
        weight = weight_of(name, protocol)
        found += [
            Part(f"{name}: calibrating", calibrating, weight),
            Part(f"{name}: reading", points * per_reading * read * (0 if predicted else 1), weight),
            Part(f"{name}: content control", points * per_reading * min(read, content), weight),
        ]
        if protocol.controls:
            test_rows = min(limit or most, own[1] if held_out is None else most, CONTROL_ROWS)
            drawn = min(rows, DRAWS)
            exact = drawn + 2 * min(SLOPE_ROWS, drawn) + read
            finer = 0 if predicted or not refined_calls(checkpoint, protocol) else len(FACTORS) * min(REFINED, read)
            found.append(Part(f"{name}: controls", points * per_reading * (2 * test_rows + exact + finer), weight))
    return [part for part in found if part.calls]


def weight_of(name: str, protocol: Protocol) -> float:
    """What a call of an estimator costs, in units of a plain one.

    Args:
        name: of the estimator.
        protocol: says the precision.
    """
    return FORWARD_MODE if name == "fokker-planck" and protocol.precision != "fp32" else 1.0


def calls_a_reading(checkpoint: Checkpoint, name: str) -> int:
    """Calls that reading a state takes, where the state comes without a prediction.

    Args:
        checkpoint: whose network may be asked.
        name: of the estimator.
    """
    if name not in ASKING:
        return int(name == "residual")
    if name == "score-mixture":
        return NEAR_CALLS
    counting = BlankModel(checkpoint.model)
    t = torch.tensor(0.3, dtype=torch.float64)
    noise = torch.randn(1, *checkpoint.shape, generator=torch.Generator().manual_seed(0))
    x = checkpoint.model.schedule(t).mix(torch.zeros_like(noise), noise)
    ASKING[name](counting.model)(x, step=Step(0, t, x))
    return counting.rows


def one_call(checkpoint: Checkpoint, protocol: Protocol, rows: int | None = None) -> tuple[float, float]:
    """(FLOP, seconds) of the unguided model on one state.

    Args:
        checkpoint: on its device.
        protocol: says the device and the batch.
        rows: how many states it is timed on; None: as many as go through it at once in a run.
    """
    from torch.utils.flop_counter import FlopCounterMode

    shape = checkpoint.shape
    device = protocol.device
    most = min(rows or AT_ONCE, protocol.batch)
    x = torch.randn(most, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    cond = labels(checkpoint, range(most), device)
    t = torch.tensor(0.5, device=device)

    def call(n: int) -> Prediction:
        return checkpoint.model(x[:n], t, None if cond is None else cond[:n])

    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            call(1)
        flop = float(counter.get_total_flops())
        timed = most if rows else max(1, min(most, int(TIMED_FLOP / max(flop, 1))))
        return flop, seconds_of(lambda: call(timed).eps) / timed


def seconds_of(work: Callable[[], Tensor]) -> float:
    """Elapsed seconds of a piece of work: the least of three times, after one that sets up.

    Args:
        work: gives a tensor, which is waited for.
    """
    work()
    elapsed = []
    for _ in range(3):
        started = time.perf_counter()
        float(work().flatten()[0])  # waits for the device
        elapsed.append(time.perf_counter() - started)
    return min(elapsed)
