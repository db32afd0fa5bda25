"""The main job from end to end: sample a checkpoint, read the shift of its states, run the controls.

A `Protocol` says everything that decides the numbers; `run` turns a checkpoint and a protocol into a `Run`. Batches are
kept as they finish when a folder is given, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.checkpoints.diffusers.caching import Cached
from noiseshift.data import Images
from noiseshift.diffusion.models import Model
from noiseshift.estimators.instrument import DATA, OWN, Instruments
from noiseshift.estimators.parts import Parts
from noiseshift.evaluation import Extractor, Features, extract
from noiseshift.shift import controls as control
from noiseshift.shift.parts import PartCalibration, PartReport, Watching
from noiseshift.shift.reading import BatchReadings, assemble, read_run
from noiseshift.shift.report import ShiftReport
from noiseshift.studies.calls import calls_a_sample
from noiseshift.studies.checking import checked, with_samples
from noiseshift.studies.content import OWN_SAMPLES, content_in_words, finer_solver, with_content
from noiseshift.studies.final_noise import finished
from noiseshift.studies.folders import Run, pictures_of, versions
from noiseshift.studies.own_samples import against_own, own_samples, refuse_what_needs_data
from noiseshift.studies.pace import set_pace
from noiseshift.studies.parts import groups_of, parts_of, parts_table
from noiseshift.studies.protocol import Protocol, fingerprint
from noiseshift.studies.readers import calibrated_with_parts, on_device, read_times, split, warn_of_absent_classes
from noiseshift.studies.room import require_room
from noiseshift.studies.sampling import Progress, all_labels, guided, in_batches, labels, sampler_run
from noiseshift.studies.shards import Shards
from noiseshift.studies.solver_share import shares_of

CONTROL_ROWS = 400
"""Real images that the null and the level control read, at most."""

PICTURES = 64
"""How many samples a run keeps to be looked at."""


def run(
    checkpoint: Checkpoint,
    protocol: Protocol,
    data: Images | None,
    *,
    extractor: Extractor | None = None,
    shards: Shards | None = None,
    strict: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Run:
    """Measure the noise shift of a checkpoint.

    Args:
        checkpoint: what `load` gives.
        protocol: what decides the numbers: solver, samples, estimators, seed.
        data: held-out real images; half of them calibrates, the other half serves the controls. None where there are
            none: the shift is then read against re-noised final samples of the run itself, of other indices than those
            measured, and says so.
        extractor: where given, the run keeps the features of its samples, from which distances are taken.
        shards: keeps finished batches, so that an interrupted run resumes.
        strict: stop where a check before the measurement fails.
        progress: called as (stage, done, total).

    Returns:
        The run: reports, answer, controls, the first pictures.

    Raises:
        ValueError: the data do not fit the checkpoint, an estimator is not available, or a check fails under `strict`.
    """
    started = time.perf_counter()
    protocol = protocol.bound(checkpoint)
    _require(checkpoint, protocol, data, shards, extractor)
    about = fingerprint(checkpoint, protocol, data, extractor)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    model = guided(checkpoint, protocol)
    set_pace(checkpoint, protocol, protocol.samples * calls_a_sample(checkpoint, protocol), shards)
    times = read_times(model, protocol)
    parts = parts_of(checkpoint.shape, by_band=protocol.bands, mask=protocol.mask, by=protocol.by)
    held_out = None if data is None else split(data, checkpoint)
    checks = checked(
        checkpoint, data, device=protocol.device, samples=protocol.samples, strict=strict, progress=progress
    )
    held_out = held_out or own_samples(checkpoint, model, protocol, shards, progress)
    instruments, by_part = _calibrated(checkpoint, protocol, parts, held_out[0], data is None, times, progress)
    measured = _measure(model, checkpoint, instruments, by_part, protocol, extractor, shards, progress)
    checks = with_samples(checks, measured.final, None if data is None else held_out[0], strict=strict)
    found = _controls(checkpoint, instruments, measured.reports, held_out, protocol, progress)
    groups = groups_of(checkpoint, protocol.by, labels(checkpoint, range(protocol.samples)), held_out[0])
    pictures = pictures_of(checkpoint.decode(measured.final))
    said = _said(checkpoint, protocol, instruments, data, time.perf_counter() - started) | measured.cost
    return Run(
        manifest={"preflight": checks.as_dict()} | about | said,
        reports=measured.reports,
        controls=found,
        pictures=pictures,
        labels=labels(checkpoint, range(len(pictures))),
        features=measured.features,
        parts=parts_table(measured.reports, measured.parts, groups),
        residual_noise=None if data is None else finished(checkpoint, protocol, measured.final, held_out[0]),
    )


def _require(
    checkpoint: Checkpoint,
    protocol: Protocol,
    data: Images | None,
    shards: Shards | None,
    extractor: Extractor | None,
) -> None:
    """Raise ValueError or MemoryError for what cannot be measured, before any work."""
    if protocol.samples < 2:
        raise ValueError("a shift needs at least 2 samples: ask for more")
    require_room(checkpoint, protocol, shards, final_samples=protocol.samples if extractor else PICTURES)
    groups_of(checkpoint, protocol.by, labels(checkpoint, range(protocol.samples)), None)
    if data is None:
        refuse_what_needs_data(protocol)


def _calibrated(
    checkpoint: Checkpoint,
    protocol: Protocol,
    parts: Parts | None,
    real: Images,
    own: bool,
    times: Tensor,
    progress: Progress,
) -> tuple[Instruments, PartCalibration | None]:
    """The instruments, and what reads parts of the states; `own` says that the states they are calibrated on are no data."""
    warn_of_absent_classes(real, labels(checkpoint, range(protocol.samples)))
    instruments, by_part = calibrated_with_parts(checkpoint, protocol, parts, real, times, progress)
    if not own:
        return instruments, by_part
    return against_own(instruments), None if by_part is None else replace(by_part, baseline=OWN)


@dataclass(frozen=True)
class _Measured:
    """What sampling and reading gave: reports, the first 64 final states, the features of all where there is an extractor, the
    shift by parts where they are read, and what a manifest says of the cost."""

    reports: dict[str, ShiftReport]
    final: Tensor
    features: Features | None
    parts: PartReport | None
    cost: dict[str, float]


def _measure(
    model: Model,
    checkpoint: Checkpoint,
    instruments: Instruments,
    by_part: PartCalibration | None,
    protocol: Protocol,
    extractor: Extractor | None,
    shards: Shards | None,
    progress: Progress,
) -> _Measured:
    """Sample and read all batches."""
    resumed = shards is not None and shards.begun
    started = time.perf_counter()
    _forget_peak(protocol.device)
    every = all_labels(checkpoint, protocol)
    finer = finer_solver(checkpoint, protocol)
    content = content_in_words(instruments, finer) == OWN_SAMPLES

    def make(indices: range) -> BatchReadings:
        steps = sampler_run(model, checkpoint, protocol, indices)
        watch = None if by_part is None else Watching(by_part, None if every is None else every[indices.start :])
        passing = steps if watch is None else watch.passing(steps)
        batch = read_run(passing, instruments, cond=every, start=indices.start, content=content, seed=protocol.seed)
        batch = batch if watch is None else replace(batch, parts=watch.rows())
        return batch if extractor else batch.keeping(PICTURES - indices.start)

    batches: list[BatchReadings] = []
    first: list[Tensor] = []
    features: list[Features] = []
    for batch in in_batches(protocol, make, shards, progress, "sampling"):
        batches.append(batch.keeping(0))
        if not len(batch.final):
            continue
        first.append(batch.final[: max(0, PICTURES - sum(map(len, first)))])
        if extractor:
            features.append(extract(pictures_of(checkpoint.decode(batch.final)), extractor))
    reports = assemble(batches, instruments)
    if finer is not None and not content and content_in_words(instruments, finer):
        reports = with_content(reports, checkpoint, instruments, protocol, finer, shards, progress)
    rows = [batch.parts for batch in batches if batch.parts is not None]
    parts = None if by_part is None else PartReport(batches[0].steps, np.concatenate(rows), by_part)
    cost = {} if resumed else {"sampling seconds": round(time.perf_counter() - started, 2), **_skipped(checkpoint)}
    cost |= _memory(checkpoint, protocol.device)
    return _Measured(reports, torch.cat(first), Features.concatenate(features) if features else None, parts, cost)


def _controls(
    checkpoint: Checkpoint,
    instruments: Instruments,
    reports: Mapping[str, ShiftReport],
    held_out: tuple[Images, Images],
    protocol: Protocol,
    progress: Progress,
) -> control.Controls | None:
    """The controls, where the protocol has them."""
    if not protocol.controls:
        return None
    rows = held_out[1][: min(protocol.rows, CONTROL_ROWS)]
    progress("controls", 0, 3)
    x0, cond = on_device(protocol.device, rows)
    null, null_check = control.null_control(instruments, x0, cond, seed=protocol.seed)
    progress("controls", 1, 3)
    level, level_check = control.level_control(instruments, x0, cond, seed=protocol.seed)
    progress("controls", 2, 3)
    shares, solver = shares_of(checkpoint, protocol, instruments, reports, held_out, progress)
    checks = (null_check, level_check, control.share_check(shares), control.content_check(reports))
    return control.Controls(checks, null, level, solver, shares)


def _skipped(checkpoint: Checkpoint) -> dict[str, float]:
    """The share of the attentions that a cache left out in this process; nothing without one. Said where that is none."""
    if not isinstance(checkpoint.sampled, Cached):
        return {}
    share = checkpoint.sampled.skipping.share
    if share == 0:
        logging.getLogger("noiseshift").warning(
            "cache=%s skipped nothing in this run: give it another value, or more steps", checkpoint.sampled.kind
        )
    return {"skipped": round(share, 4)}


def _forget_peak(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _memory(checkpoint: Checkpoint, device: str) -> dict[str, float]:
    """Megabytes: of the weights that sample, and the most that a CUDA device held while sampling."""
    sampling: Any = checkpoint.sampled.model if isinstance(checkpoint.sampled, Cached) else checkpoint.model
    network = getattr(sampling, "network", None)
    if not isinstance(network, torch.nn.Module):
        return {}
    found = {"weights MB": round(sum(_bytes(part) for part in network.parameters()) / 1e6, 2)}
    if torch.device(device).type == "cuda":
        found["peak MB"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return found


def _bytes(weights: Tensor) -> int:
    """What they take: quantised ones are held in several tensors."""
    names = weights.__tensor_flatten__()[0] if hasattr(weights, "__tensor_flatten__") else ()
    parts = [getattr(weights, name) for name in names] or [weights]
    return sum(part.numel() * part.element_size() for part in parts)


def _said(
    checkpoint: Checkpoint, protocol: Protocol, instruments: Instruments, data: Images | None, seconds: float
) -> dict[str, object]:
    """What a manifest says beside the fingerprint."""
    return {
        "content": content_in_words(instruments, finer_solver(checkpoint, protocol)),
        "baseline": OWN if data is None else DATA,
        "data read as": OWN if data is None else data.about,
        "nfe": calls_a_sample(checkpoint, protocol),
        "noise": "one Philox generator a sample index; classes balanced, sample i of class i mod classes",
        "versions": versions(),
        "seconds": round(seconds, 1),
    }
