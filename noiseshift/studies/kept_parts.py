"""What of a run was made before, or will be by the runs before it, so that a dry run does not count it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.studies import kept, shipped
from noiseshift.studies.calls import calls_a_sample
from noiseshift.studies.content import content_rows, finer_solver
from noiseshift.studies.kept_calibration import about_calibration, about_checks
from noiseshift.studies.kept_samples import about_samples
from noiseshift.studies.pace import known_pace
from noiseshift.studies.parts import parts_of
from noiseshift.studies.protocol import Protocol, as_it_reads
from noiseshift.studies.readers import read_times, split
from noiseshift.studies.sampling import guided


@dataclass(frozen=True)
class Keepable:
    """What the cache folder keeps of a part of a measurement.

    Attributes:
        part: its name in `cost.parts`.
        kind: of what is kept, such as "preflight".
        about: everything that decides it.
    """

    part: str
    kind: str
    about: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Equal for what is kept once for two runs."""
        return json.dumps([self.kind, self.about], sort_keys=True)

    def is_there(self) -> bool:
        """Whether an earlier run left it, or the package has it."""
        return (kept.load(self.kind, self.about) or shipped.load(self.kind, self.about)) is not None


def kept_parts(
    checkpoint: Checkpoint, protocol: Protocol, data: Images | None, planned: Collection[str] = ()
) -> frozenset[str]:
    """The parts of a measurement, by their names in `cost.parts`, that earlier runs left in the cache folder or that ship with the
    package: its checks, calibrations, and the final samples of the content control.

    Args:
        checkpoint: what would be measured.
        protocol: how.
        data: held-out real images, or None. Pictures of a latent model are not encoded for this: nothing is found.
        planned: identities of what runs before this one will leave.
    """
    found = keepable(checkpoint, protocol, data)
    missing = {entry.part for entry in found if entry.identity not in planned and not entry.is_there()}
    return frozenset(entry.part for entry in found) - missing


def kept_of_correction(checkpoint: Checkpoint, protocol: Protocol, data: Images) -> frozenset[str]:
    """The parts of a correction that were made before: its estimators are calibrated whole, and read off its own final samples.

    Args:
        checkpoint: what would be sampled.
        protocol: how.
        data: held-out real images.
    """
    found = kept_parts(checkpoint, replace(protocol, estimators=dict.fromkeys(protocol.estimators)), data)
    fitted = {"residual: fitting"} if "residual: calibrating" in found else set()
    return (found | fitted) - {"content control"}


def keepable(checkpoint: Checkpoint, protocol: Protocol, data: Images | None) -> list[Keepable]:
    """What of a measurement the cache folder keeps for later runs.

    Args:
        checkpoint: what would be measured.
        protocol: how.
        data: as in `kept_parts`.
    """
    if data is None or checkpoint.autoencoder is not None:
        return []
    protocol = protocol.bound(checkpoint)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    times = read_times(guided(checkpoint, protocol), protocol)
    found = _calibrations(checkpoint, protocol, split(data, checkpoint)[0], times)
    checks = about_checks(checkpoint, data, protocol.device, protocol.samples)
    if checks is not None:
        found.append(Keepable("preflight", "preflight", checks))
    return found + _content(checkpoint, protocol)


def _calibrations(checkpoint: Checkpoint, protocol: Protocol, real: Images, times: Tensor) -> list[Keepable]:
    """Of the estimators whose calibration is kept. What is read by parts is calibrated anew."""
    parts = parts_of(checkpoint.shape, by_band=protocol.bands, mask=protocol.mask, by=protocol.by)
    found = []
    for name in protocol.estimators:
        about = about_calibration(checkpoint, protocol, real, times, name)
        if about is not None and (name != "residual" or parts is None):
            found.append(Keepable(f"{name}: calibrating", "calibration", about))
    return found


def _content(checkpoint: Checkpoint, protocol: Protocol) -> list[Keepable]:
    """The content control's final samples, batch by batch; none where one of them is not kept."""
    finer = finer_solver(checkpoint, protocol)
    if finer is None:
        return []
    rows = known_pace(checkpoint, protocol, protocol.samples * calls_a_sample(checkpoint, protocol))
    last = content_rows(protocol)
    batches = [range(start, min(start + protocol.batch, last)) for start in range(0, last, protocol.batch)]
    found = []
    for batch in batches:
        about = about_samples(as_it_reads(checkpoint), protocol, finer, batch, rows)
        if about is None:
            return []
        found.append(Keepable("content control", "samples", about))
    return found
