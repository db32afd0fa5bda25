"""What the other studies will cost before they are made; `cost` counts a measurement.

Corrections are walked once on a model that knows nothing, so that their calls are those of the run. What is no call of the
network but a network of its own (the level estimator, the extractor) is timed on a few states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from noiseshift.approximation.injection import LEVELS
from noiseshift.checkpoints import Checkpoint
from noiseshift.correction.counting import CountingLevel
from noiseshift.correction.methods import Method, MethodContext, guided_method, unguided
from noiseshift.estimators.residual import plain
from noiseshift.evaluation import Extractor, extract
from noiseshift.shift.preflight import SAMPLES, preflight_calls
from noiseshift.studies.approximate import PATH_SLOPE_ROWS, Plan, runs
from noiseshift.studies.calls import BlankModel, calls_a_sample
from noiseshift.studies.cost import Cost, Part, calls_a_reading, estimate, one_call, seconds_of, weight_of
from noiseshift.studies.folders import pictures_of
from noiseshift.studies.grid import Cell
from noiseshift.studies.kept_parts import keepable, kept_parts
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import RESIDUAL_ROWS, SLOPE_ROWS, read_times
from noiseshift.studies.sampling import labels, sampler_run

TIMED = 32
"""States that the level estimator and the extractor are timed on."""


def sampling_cost(checkpoint: Checkpoint, protocol: Protocol) -> Cost:
    """Of samples alone.

    Args:
        checkpoint: what would be sampled.
        protocol: how.
    """
    protocol = protocol.bound(checkpoint)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    calls = protocol.samples * calls_a_sample(checkpoint, protocol)
    return Cost((Part("sampling", calls),), *one_call(checkpoint, protocol))


def correction_cost(
    checkpoint: Checkpoint,
    protocol: Protocol,
    methods: Sequence[Method],
    held_out: int,
    measured: int = 512,
    extractor: Extractor | None = None,
) -> Cost:
    """Of a correction. Intervals of distances are not counted: they grow with the samples' number, not with the network.

    Args:
        checkpoint: what would be sampled.
        protocol: how.
        methods: as `correct` takes them; the unguided one is added.
        held_out: how many real images there are.
        measured: how many of the samples are read.
        extractor: what computes the features, or None.
    """
    protocol = protocol.bound(checkpoint)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    flop, seconds = one_call(checkpoint, protocol)
    level = _level_weight(checkpoint, protocol, seconds)
    every = [unguided(), *(method for method in methods if method.name != "none")]
    found = [Part("preflight", preflight_calls(protocol.samples, held_out, checkpoint.classes))]
    found += _calibrating(checkpoint, protocol, held_out, level)
    points = len(read_times(checkpoint.model, protocol))
    read = min(measured, protocol.samples)
    # A batch of which only some rows are read brings no predictions for them.
    partial = read % protocol.batch if read < protocol.samples else 0
    for method in every:
        walk = _walked(checkpoint, protocol, method)
        found.append(Part(method.name, protocol.samples * walk.calls))
        found.append(Part(f"{method.name}: level estimator", protocol.samples * walk.level_calls, level))
        if "residual" in protocol.estimators:
            found.append(Part(f"{method.name}: residual", points * (partial if walk.predicts else read)))
    found += _reading(checkpoint, protocol, len(every) * points * read, level)
    found += _reading(checkpoint, protocol, len(every) * points * read, level, "content control")
    if extractor is not None:
        weight = _feature_seconds(checkpoint, extractor) / seconds
        found.append(Part("features", len(every) * protocol.samples, weight))
    return Cost(tuple(part for part in found if part.calls), flop, seconds)


def comparison_cost(cells: Sequence[Cell], extractor: Extractor | None = None) -> Mapping[str, Cost]:
    """Of every run of a grid by its name, as if none of them were there. What other runs left in the cache folder is not counted,
    nor what a run before leaves there: checks of one checkpoint are made once.

    Args:
        cells: the runs of the grid.
        extractor: what computes features, or None.
    """
    found = {}
    planned: set[str] = set()
    for cell in cells:
        cost = estimate(cell.checkpoint, cell.protocol, None if cell.data is None else len(cell.data))
        cost = cost.without(kept_parts(cell.checkpoint, cell.protocol, cell.data, planned))
        planned.update(entry.identity for entry in keepable(cell.checkpoint, cell.protocol, cell.data))
        if extractor is not None:
            weight = _feature_seconds(cell.checkpoint, extractor) / cost.seconds
            cost = replace(cost, parts=(*cost.parts, Part("features", cell.protocol.samples, weight)))
        found[cell.name] = cost
    return found


def approximation_cost(checkpoint: Checkpoint, plan: Plan, held_out: int) -> Cost:
    """Of a study of Statement 1. The exact denoiser is not counted: it is no network.

    Args:
        checkpoint: what would be sampled.
        plan: what is injected and which runs are followed.
        held_out: how many real images there are.
    """
    checkpoint = checkpoint.to(plan.device, plan.precision)
    first = plan.protocol(plan.solvers[0])
    flop, seconds = one_call(checkpoint, first)
    level = _level_weight(checkpoint, first, seconds)
    half = held_out // 2
    times = torch.unique(checkpoint.model.snap(torch.tensor(plan.times, dtype=torch.float64)))
    rows = min(plan.rows, half)
    found = [Part("preflight", preflight_calls(SAMPLES, held_out, checkpoint.classes))]
    found += _fitting(plan.estimators, len(times), half)
    found += _reading(checkpoint, first, len(times) * rows * (LEVELS + len(plan.ratios)), level, "injecting")
    for solver in plan.solvers:
        followed = _following(checkpoint, plan, plan.protocol(solver), half, level)
        found += [replace(part, name=f"{solver.name}, {part.name}") for part in followed]
    return Cost(tuple(part for part in found if part.calls), flop, seconds)


def _following(checkpoint: Checkpoint, plan: Plan, protocol: Protocol, half: int, level: float) -> list[Part]:
    """One solver's runs beside fine ones, by the network and by the exact model, whose states bring no prediction of it."""
    points = len(read_times(checkpoint.model, protocol))
    rows = min(plan.rows, half)
    calibrating = points * (rows + 2 * min(PATH_SLOPE_ROWS, rows))
    read = 2 * points * plan.samples
    return [
        *_fitting(plan.estimators, points, half),
        *_reading(checkpoint, protocol, calibrating, level, "calibrating"),
        Part("runs", plan.samples * _followed(checkpoint, plan, protocol)),
        *_reading(checkpoint, protocol, read, level),
        *_reading(checkpoint, protocol, read, level, "reading the exact model"),
    ]


def _fitting(estimators: Iterable[str], points: int, half: int) -> list[Part]:
    """What fits the residual's curve at so many levels."""
    calls = 2 * points * min(RESIDUAL_ROWS, half)
    return [Part("residual: fitting", calls)] if "residual" in estimators else []


def _calibrating(checkpoint: Checkpoint, protocol: Protocol, held_out: int, level: float) -> list[Part]:
    half = held_out // 2
    points = len(read_times(checkpoint.model, protocol))
    rows = min(protocol.rows, half)
    found = _fitting(protocol.estimators, points, half)
    readings = points * (rows + 2 * min(SLOPE_ROWS, rows))
    return found + _reading(checkpoint, protocol, readings, level, "calibrating")


def _reading(
    checkpoint: Checkpoint, protocol: Protocol, readings: int, level: float, stage: str = "reading"
) -> list[Part]:
    """A part an estimator that reads so many states. The residual reads the sampler's own predictions, where they are there."""
    found = []
    for name in protocol.estimators:
        calls = calls_a_reading(checkpoint, name)
        if name == "residual" and stage == "reading":
            calls = 0
        weight = level if name == "network" else weight_of(name, protocol)
        found.append(Part(f"{name}: {stage}", readings * (1 if name == "network" else calls), weight))
    return found


@dataclass(frozen=True)
class _Walk:
    """One sample under a method.

    Attributes:
        calls: of the network.
        level_calls: of the level estimator.
        predicts: whether its steps bring the network's own prediction for their conditioning time.
    """

    calls: int
    level_calls: int
    predicts: bool


def _walked(checkpoint: Checkpoint, protocol: Protocol, method: Method) -> _Walk:
    if method.kind == "closed-loop":  # its scale comes from a run; its calls are those of NAG at most
        method = guided_method(nag=1.0)
    counting = BlankModel(checkpoint.model)
    level = CountingLevel(lambda x, t, cond: t.expand(len(x)))
    gradient = CountingLevel(lambda x, t: -x.square().flatten(1).sum(1))
    built = method.make(MethodContext(counting.model, gradient, level, other=counting.model))
    here = replace(protocol, device="cpu")
    *steps, _last = sampler_run(built.model, checkpoint, here, range(1), update=built.update)
    predicts = all(step.prediction is not None and plain(step.prediction) is not None for step in steps)
    return _Walk(counting.rows, level.rows + gradient.rows, predicts)


def _followed(checkpoint: Checkpoint, plan: Plan, protocol: Protocol) -> int:
    """Network calls of one sample: its solver's own run and the fine one."""
    counting = BlankModel(checkpoint.model)
    here = replace(plan, device="cpu")
    for run in runs(checkpoint, counting.model, here, protocol.solver, range(1), labels(checkpoint, range(1))):
        for _ in run:
            pass
    return counting.rows


def _level_weight(checkpoint: Checkpoint, protocol: Protocol, seconds: float) -> float:
    """Seconds of the level estimator a state, over those of the network; 0 without one."""
    if checkpoint.estimator is None:
        return 0.0
    network = checkpoint.level_estimator()
    x = torch.randn(TIMED, *checkpoint.shape, generator=torch.Generator().manual_seed(0)).to(protocol.device)
    return seconds_of(lambda: network(x, None).mean) / TIMED / seconds


def _feature_seconds(checkpoint: Checkpoint, extractor: Extractor) -> float:
    """Seconds of a sample's features, with its decoding."""
    x = torch.randn(TIMED, *checkpoint.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)

    @torch.inference_mode()
    def made() -> Tensor:
        return torch.from_numpy(extract(pictures_of(checkpoint.decode(x)), extractor).values)

    return seconds_of(made) / TIMED
