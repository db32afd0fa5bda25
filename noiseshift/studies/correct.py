"""`noiseshift correct` from end to end: what each correction does to the shift, to image quality and to the cost.

Every method draws the same samples from the same seeds. The shift is read off the first of them, by estimators that the
method does not use where possible; distances are taken over all of them; differences are paired.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.correction.alternatives import (
    EstimatedLevel,
)
from noiseshift.correction.counting import CountingLevel, CountingModel
from noiseshift.correction.methods import Method, MethodContext, unguided
from noiseshift.data import Images
from noiseshift.diffusion.schedules import describe
from noiseshift.estimators.instrument import Instrument, Instruments, calibrate
from noiseshift.evaluation import (
    Extractor,
    Features,
    Jackknife,
    Moments,
    evaluate,
    extract,
    jackknife,
    warn_of_no_interval,
)
from noiseshift.shift.reading import BatchReadings, assemble, read_run
from noiseshift.shift.report import ShiftReport
from noiseshift.shift.summary import content_rms, reduction, rms_draws, rms_shift, terminal_shift
from noiseshift.studies import protocol as protocols
from noiseshift.studies.checking import checked
from noiseshift.studies.folders import pictures_of, versions
from noiseshift.studies.pace import set_pace
from noiseshift.studies.protocol import Protocol
from noiseshift.studies.readers import calibrated, on_device, read_times, split
from noiseshift.studies.room import require_reference, require_room
from noiseshift.studies.sampling import Progress, calls_a_sample, in_batches, labels, sampler_run
from noiseshift.studies.shards import Shards
from noiseshift.writing import whole_folder


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one method did.

    Attributes:
        method: which.
        reports: by estimator.
        features: of all samples.
        quality: the table of `evaluate`.
        distance: its jackknife.
        nfe: rows that the network computed per sample.
        level_calls: the same of the level estimator.
        seconds: of sampling, reading and computing features; NaN where a resumed run found batches finished.
        pictures: the first samples, uint8.
    """

    method: Method
    reports: dict[str, ShiftReport]
    features: Features
    quality: pd.DataFrame
    distance: Jackknife
    nfe: float
    level_calls: float
    seconds: float
    pictures: Tensor

    def __repr__(self) -> str:
        return f"Outcome({self.method.name}, NFE {self.nfe:g}, read by {', '.join(self.reports)})"


@dataclass(frozen=True, eq=False)
class Correction:
    """What corrections do to the shift and to the distance.

    Attributes:
        manifest: what decides the numbers, and versions.
        outcomes: one per method, the unguided one first.
        reference: what their quality was compared with.
    """

    manifest: dict[str, Any]
    outcomes: list[Outcome]
    reference: Features | Moments

    def __repr__(self) -> str:
        methods = ", ".join(outcome.method.name for outcome in self.outcomes)
        return f"Correction({self.manifest['checkpoint']['name']} under {self.manifest['sampler']}: {methods}; see .table())"

    def table(self) -> pd.DataFrame:
        """A row per method: its kind and scale, NFE, level estimator's calls, seconds; by each estimator e the rms shift
        `rms <e>` (noise taken out), the terminal one, the content-controlled rms, and the reduction against `none` in %
        with its paired interval; the distance with its interval, its paired change against `none` (without what few samples
        add to it), and whatever else the extractor gives."""
        return self._table().copy()

    @functools.lru_cache(maxsize=1)  # noqa: B019 figures and files use the same bootstrap many times
    def _table(self) -> pd.DataFrame:
        base = self.outcomes[0]
        return pd.DataFrame([self._row(outcome, base) for outcome in self.outcomes])

    def _row(self, outcome: Outcome, base: Outcome) -> dict[str, Any]:
        method = outcome.method
        row: dict[str, Any] = {"method": method.name, "kind": method.kind, "scale": method.scale, "nfe": outcome.nfe}
        row |= {"level calls": outcome.level_calls, "seconds": outcome.seconds}
        for name, report in outcome.reports.items():
            reduced = reduction(report, base.reports[name])
            row |= {
                f"rms {name}": rms_shift(report),
                f"rms low {name}": float(np.quantile(rms_draws(report), 0.025)),
                f"rms high {name}": float(np.quantile(rms_draws(report), 0.975)),
                f"terminal {name}": terminal_shift(report),
                f"content {name}": content_rms(report),
                f"reduction {name}": 100 * reduced.value,
                f"reduction low {name}": 100 * reduced.low,
                f"reduction high {name}": 100 * reduced.high,
            }
        for metric in outcome.quality.itertuples():
            row |= {
                metric.metric: metric.value,
                f"{metric.metric} low": metric.low,
                f"{metric.metric} high": metric.high,
                f"{metric.metric} plain": metric.plain,
            }
        paired = outcome.distance.minus(base.distance)
        return row | {"change": paired.value, "change low": paired.low, "change high": paired.high}

    def shifts(self, estimator: str) -> pd.DataFrame:
        """The estimator's shift tables of all methods, with a column `method`."""
        return pd.concat([o.reports[estimator].table().assign(method=o.method.name) for o in self.outcomes])

    def save(self, folder: str | Path) -> Path:
        """`run.json`, `methods.csv` and `shift-<estimator>.csv`, whole or not at all. Returns the folder.

        Raises PlaceError (a ValueError) where something else than an earlier correction is there.
        """
        with whole_folder(folder, "correct") as fresh:
            self.write(fresh)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """Write the correction's files into a fresh folder."""
        about = self.manifest | {"chosen": self.chosen()}
        (folder / "run.json").write_text(json.dumps(about, indent=2, default=str) + "\n")
        self.table().to_csv(folder / "methods.csv", index=False)
        for each in self.outcomes[0].reports:
            self.shifts(each).to_csv(folder / f"shift-{each}.csv", index=False)

    def chosen(self) -> tuple[str, str]:
        """The method of the least distance among those whose gain over `none` is resolved, and the reason in words."""
        table = self.table()
        distance = self.outcomes[0].quality.metric.iloc[0]
        better = table[table["change high"] < 0]
        if better.empty:
            return "none", f"no method lowers {distance} by more than its paired 95 % interval"
        best = better.loc[better[distance].idxmin()]
        estimator = next(iter(self.outcomes[0].reports))
        return best.method, (
            f"{distance} {best[distance]:.2f} against {table[distance].iloc[0]:.2f}, paired change {best.change:+.2f} "
            f"[{best['change low']:+.2f}, {best['change high']:+.2f}]; {_words(best, estimator)}"
        )


def _words(method: pd.Series, estimator: str) -> str:
    reduction, low, high = (method[f"reduction {end}{estimator}"] for end in ("", "low ", "high "))
    if np.isnan(reduction):
        return f"no shift is resolved that it could reduce (by {estimator})"
    ends = "no interval" if np.isnan(low) else f"95 % {low:+.0f} … {high:+.0f}"
    return f"reduction of the shift {reduction:+.0f} % ({ends}, by {estimator})"


def run(
    checkpoint: Checkpoint,
    protocol: Protocol,
    methods: Sequence[Method],
    data: Images,
    extractor: Extractor,
    reference: Features | Moments,
    *,
    measured: int = 512,
    against: Checkpoint | None = None,
    small: bool = False,
    strict: bool = False,
    shards: Callable[[str], Shards] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Correction:
    """Every method on the protocol's samples, the unguided model first (added when it is not there).

    Args:
        checkpoint: what `load` gives.
        protocol: solver, samples, estimators, seed; it has no guidance of its own.
        methods: see `noiseshift.correction.methods`.
        data: held-out real images.
        extractor: what computes the features for distances.
        reference: features or moments of real images.
        measured: how many of the samples are read.
        against: what domain guidance and autoguidance guide away from.
        small: allow no more samples than features.
        strict: stop where a check before the study fails.
        shards: called as shards(name); keeps finished batches of a method.
        progress: called as (stage, done, total).

    Returns:
        The correction, with its table and the method to choose.

    Raises:
        ValueError: before anything is sampled, a method needs what the checkpoint lacks, or there are no more samples than
            features, unless `small`; there are no data, or a check fails under `strict`.
    """
    if data is None:
        raise ValueError("a correction is judged by real images: give held-out ones")
    started = time.time()
    protocol = protocol.bound(checkpoint)
    require_reference(checkpoint, extractor, reference, protocol.samples, small=small)
    warn_of_no_interval(protocol.samples, reference)
    require_room(checkpoint, protocol, None, final_samples=0)
    if protocol.guidance is not None:
        raise ValueError("correct takes its guidance from --nag, --cfg and --method")
    methods = [unguided(), *(m for m in methods if m.name != "none")]
    about = _manifest(checkpoint, protocol, methods, data, extractor, measured, against)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    kept = [shards(method.name) if shards else None for method in methods]
    pace = set_pace(checkpoint, protocol, protocol.samples * calls_a_sample(checkpoint, protocol), kept[0])
    held_out = split(data, checkpoint)
    checks = checked(
        checkpoint, data, device=protocol.device, samples=protocol.samples, strict=strict, progress=progress
    )
    times = read_times(checkpoint.model, protocol)
    instruments = _instruments(checkpoint, protocol, held_out[0], times, measured)
    x0, _ = on_device(protocol.device, held_out[0][: protocol.rows])
    context = _context(checkpoint, x0, times, protocol)
    if against is not None:
        context = replace(context, other=_alike(against, checkpoint).to(protocol.device, protocol.precision).model)
    for method in methods:
        if method.kind != "closed-loop":
            method.make(context)  # refuses now what would fail after hours
    outcomes: list[Outcome] = []
    for method, batches in zip(methods, kept, strict=True):
        if batches is not None:
            batches.rows = pace
        if outcomes:
            context = replace(context, pilot=next(iter(outcomes[0].reports.values())))
        outcome = _one(
            checkpoint,
            protocol,
            method,
            context,
            instruments,
            extractor,
            reference,
            batches,
            progress,
        )
        outcomes.append(outcome)
    about = (
        {"preflight": checks.as_dict()}
        | about
        | {"data read as": data.about, "seconds": round(time.time() - started, 1)}
    )
    return Correction(about, outcomes, reference)


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


def _context(checkpoint: Checkpoint, x0: Tensor, times: Tensor, protocol: Protocol) -> MethodContext:
    if checkpoint.estimator is None:
        return MethodContext(checkpoint.model)
    network = checkpoint.level_estimator()
    return MethodContext(
        checkpoint.model,
        network.log_prob,
        EstimatedLevel(network, calibrate(network, x0, times, seed=protocol.seed, slope_rows=2)),
    )


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
    every = labels(checkpoint, range(protocol.samples))
    every = None if every is None else every.to(protocol.device)
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
        against: a checkpoint whose samples are a line of the table, or None.
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
