"""`noiseshift correct` from end to end: what each correction does to the shift, to image quality and to the cost.

Every method draws the same samples from the same seeds. The shift is read off the first of them, by estimators that the
method does not use where possible; distances are taken over all of them; differences are paired.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.correction.alternatives import EstimatedLevel
from noiseshift.correction.counting import CountingLevel, CountingModel
from noiseshift.correction.methods import Method, MethodContext, each_once, unguided
from noiseshift.correction.words import method
from noiseshift.data import Images
from noiseshift.diffusion.schedules import describe
from noiseshift.estimators.instrument import Instrument, Instruments, calibrate
from noiseshift.evaluation import (
    Extractor,
    Features,
    Moments,
    evaluate,
    extract,
    jackknife,
    warn_of_no_interval,
)
from noiseshift.shift.reading import BatchReadings, assemble, read_run
from noiseshift.studies import protocol as protocols
from noiseshift.studies.calls import calls_a_sample
from noiseshift.studies.checking import checked
from noiseshift.studies.folders import pictures_of, versions
from noiseshift.studies.outcomes import Correction, Outcome
from noiseshift.studies.pace import set_pace
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import calibrated, on_device, read_times, split
from noiseshift.studies.room import require_reference, require_room
from noiseshift.studies.sampling import Progress, all_labels, in_batches, sampler_run
from noiseshift.studies.shards import Shards


def run(
    checkpoint: Checkpoint,
    protocol: Protocol,
    methods: Sequence[Method | str],
    data: Images,
    extractor: Extractor,
    reference: Features | Moments,
    *,
    measured: int = 512,
    against: Checkpoint | None = None,
    small: bool = False,
    strict: bool = False,
    shards: Mapping[str, Shards] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Correction:
    """Every method on the protocol's samples, the unguided model first (added when it is not there).

    Args:
        checkpoint: what `load` gives.
        protocol: solver, samples, estimators, seed; it has no guidance of its own.
        methods: or their words, see `noiseshift.method`.
        data: held-out real images.
        extractor: what computes the features for distances.
        reference: features or moments of real images.
        measured: how many of the samples are read.
        against: what domain guidance and autoguidance guide away from.
        small: allow no more samples than features.
        strict: stop where a check before the study fails.
        shards: by method, what keeps its finished batches; see `shards_of`.
        progress: called as (stage, done, total).

    Returns:
        The correction, with its table and the method to choose.

    Raises:
        ValueError: before anything is sampled, a method needs what the checkpoint lacks, or there are no more samples than
            features, unless `small`; there are no data, or a check fails under `strict`.
    """
    started = time.perf_counter()
    protocol = protocol.bound(checkpoint)
    _require(checkpoint, protocol, data, extractor, reference, small)
    chosen = each_once([unguided(), *(m for m in map(method, methods) if m.name != "none")])
    about = _manifest(checkpoint, protocol, chosen, data, extractor, measured, against)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    kept = [None if shards is None else shards[each.name] for each in chosen]
    pace = set_pace(checkpoint, protocol, protocol.samples * calls_a_sample(checkpoint, protocol), kept[0])
    real = split(data, checkpoint)[0]
    checks = checked(
        checkpoint, data, device=protocol.device, samples=protocol.samples, strict=strict, progress=progress
    )
    instruments, context = _prepared(checkpoint, protocol, chosen, real, measured, against)
    outcomes: list[Outcome] = []
    for each, batches in zip(chosen, kept, strict=True):
        if batches is not None:
            batches.rows = pace
        if outcomes:
            context = replace(context, pilot=next(iter(outcomes[0].reports.values())))
        outcomes.append(_one(checkpoint, protocol, each, context, instruments, extractor, reference, batches, progress))
    spent = {"data read as": data.about, "seconds": round(time.perf_counter() - started, 1)}
    return Correction({"preflight": checks.as_dict()} | about | spent, outcomes, reference)


def _require(
    checkpoint: Checkpoint,
    protocol: Protocol,
    data: Images | None,
    extractor: Extractor,
    reference: Features | Moments,
    small: bool,
) -> None:
    """Raise ValueError where a correction cannot be judged, or does not fit, before any work."""
    if data is None:
        raise ValueError("a correction is judged by real data: give held-out ones")
    require_reference(checkpoint, extractor, reference, protocol.samples, small=small)
    warn_of_no_interval(protocol.samples, reference)
    require_room(checkpoint, protocol, None, final_samples=0)
    if protocol.guidance is not None:
        raise ValueError("correct takes its guidance from --nag, --cfg and --method")


def _prepared(
    checkpoint: Checkpoint,
    protocol: Protocol,
    methods: Sequence[Method],
    real: Images,
    measured: int,
    against: Checkpoint | None,
) -> tuple[dict[str, Instrument], MethodContext]:
    """What reads the samples, and what methods are made of: with it every method is made once, so that what would fail after
    hours is refused now."""
    times = read_times(checkpoint.model, protocol)
    instruments = _instruments(checkpoint, protocol, real, times, measured)
    context = _context(checkpoint, real, times, protocol, against)
    for each in methods:
        if each.kind != "closed-loop":
            each.make(context)
    return instruments, context


def shards_of(folder: str | Path, about: Mapping[str, Any], methods: Sequence[Method]) -> dict[str, Shards]:
    """What keeps the finished batches of the unguided model and of each method, by name.

    Args:
        folder: of the correction.
        about: its `fingerprint`.
        methods: as `run` takes them.
    """
    return {each.name: Shards(folder, about, part={each.name: each.describe()}) for each in (unguided(), *methods)}


def _alike(other: Checkpoint, checkpoint: Checkpoint) -> Checkpoint:
    """The other checkpoint, if the two can answer for the same states."""
    same = describe(other.model.schedule) == describe(checkpoint.model.schedule)
    if other.shape != checkpoint.shape or not same:
        raise ValueError(
            f"{other.name} works on other states or another schedule: guide away from one of the same kind"
        )
    return other


def _instruments(
    checkpoint: Checkpoint, protocol: Protocol, data: Images, times: Tensor, measured: int
) -> dict[str, Instrument]:
    """The protocol's estimators, each calibrated on as many rows and reading the first `measured` samples."""
    whole = replace(protocol, estimators=dict.fromkeys(protocol.estimators))
    found = calibrated(checkpoint, whole, data, times)
    return {name: replace(each, limit=measured) for name, each in found.items()}


def _context(
    checkpoint: Checkpoint, real: Images, times: Tensor, protocol: Protocol, against: Checkpoint | None
) -> MethodContext:
    """What methods are made of: the model, the level estimator where there is one, and the model to guide away from."""
    other = None
    if against is not None:
        other = _alike(against, checkpoint).to(protocol.device, protocol.precision).model
    if checkpoint.estimator is None:
        return MethodContext(checkpoint.model, other=other)
    network = checkpoint.level_estimator()
    x0, _ = on_device(protocol.device, real[: protocol.rows])
    level = EstimatedLevel(network, calibrate(network, x0, times, seed=protocol.seed, slope_rows=2))
    return MethodContext(checkpoint.model, network.log_prob, level, other=other)


def _one(
    checkpoint: Checkpoint,
    protocol: Protocol,
    method: Method,
    context: MethodContext,
    instruments: Instruments,
    extractor: Extractor,
    reference: Features | Moments,
    shards: Shards | None,
    progress: Progress,
) -> Outcome:
    """Sample and read all batches; of a picture only its features are kept."""
    counted = CountingModel(context.model)
    other = None if context.other is None else CountingModel(context.other)
    gradient, level = (function and CountingLevel(function) for function in (context.log_prob, context.effective_level))
    built = method.make(replace(context, model=counted, other=other, log_prob=gradient, effective_level=level))
    every = all_labels(checkpoint, protocol)
    require_room(checkpoint, protocol, shards, final_samples=protocol.samples)
    sampled = 0
    started = time.perf_counter()

    def make(indices: range) -> BatchReadings:
        nonlocal sampled
        steps = sampler_run(built.model, checkpoint, protocol, indices, update=built.update)
        batch = read_run(steps, instruments, cond=every, start=indices.start, seed=protocol.seed)
        sampled += len(indices)
        return batch

    batches: list[BatchReadings] = []
    seen: list[Features] = []
    first: list[Tensor] = []
    for batch in in_batches(protocol, make, shards, progress, method.name):
        pictures = pictures_of(checkpoint.decode(batch.final))
        batches.append(batch.keeping(0))
        seen.append(extract(pictures, extractor))
        first.append(pictures[: max(0, 64 - sum(map(len, first)))])
    seconds = float("nan") if shards and shards.begun else time.perf_counter() - started
    if not sampled:  # all batches were found finished: what a sample costs is counted on one more
        make(range(1))
    network_calls, level_calls = (_calls(sampled, *pair) for pair in ((counted, other), (gradient, level)))
    features = Features.concatenate(seen)
    distance = jackknife(features, reference, seed=protocol.seed)
    return Outcome(
        method,
        assemble(batches, instruments),
        features,
        evaluate(features, reference, seed=protocol.seed, allow_small=True, distance=distance),
        distance,
        network_calls,
        level_calls,
        seconds,
        torch.cat(first),
    )


def _calls(samples: int, *counters: CountingModel | CountingLevel | None) -> float:
    """Rows a sample."""
    return sum(counter.rows for counter in counters if counter) / samples


def fingerprint(
    checkpoint: Checkpoint,
    protocol: Protocol,
    data: Images,
    extractor: Extractor,
    measured: int,
    against: Checkpoint | None,
) -> dict[str, Any]:
    """Everything that decides a correction's numbers, but the methods: each describes itself.

    Args:
        checkpoint: what is corrected.
        protocol: of the runs.
        data: held-out real images.
        extractor: of the distance.
        measured: how many of the samples are read for their shift.
        against: what domain guidance and autoguidance guide away from, or None.
    """
    return {
        **protocols.fingerprint(checkpoint, protocol, data, extractor),
        "measured": measured,
        # A closed loop follows what the first estimator reads of the unguided run.
        "pilot": next(iter(protocol.estimators)),
        "against": None if against is None else protocols.describe_checkpoint(against),
    }


def _manifest(
    checkpoint: Checkpoint,
    protocol: Protocol,
    methods: Sequence[Method],
    data: Images,
    extractor: Extractor,
    measured: int,
    against: Checkpoint | None,
) -> dict[str, Any]:
    return {
        **fingerprint(checkpoint, protocol, data, extractor, measured, against),
        "methods": [method.name for method in methods],
        "made": {method.name: method.describe()["make"] for method in methods},
        "versions": versions(),
    }
