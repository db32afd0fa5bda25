"""What of a run was made before, so that a dry run does not count it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images
from noiseshift.studies.calls import calls_a_sample
from noiseshift.studies.content import content_rows, finer_solver
from noiseshift.studies.kept_calibration import is_calibrated, is_checked
from noiseshift.studies.kept_samples import are_sampled
from noiseshift.studies.pace import known_pace
from noiseshift.studies.parts import parts_of
from noiseshift.studies.protocol import Protocol, as_it_reads
from noiseshift.studies.readers import read_times, split
from noiseshift.studies.sampling import guided


def kept_parts(checkpoint: Checkpoint, protocol: Protocol, data: Images | None) -> frozenset[str]:
    """The parts of a measurement, by their names in `cost.parts`, that earlier runs left in the cache folder or that ship with the
    package: its checks, calibrations, and the final samples of the content control.

    Args:
        checkpoint: what would be measured.
        protocol: how.
        data: held-out real images, or None. Pictures of a latent model are not encoded for this: nothing is found.
    """
    if data is None or checkpoint.autoencoder is not None:
        return frozenset()
    protocol = protocol.bound(checkpoint)
    checkpoint = checkpoint.to(protocol.device, protocol.precision)
    times = read_times(guided(checkpoint, protocol), protocol)
    real = split(data, checkpoint)[0]
    found = {f"{name}: calibrating" for name in _calibrated(checkpoint, protocol, real, times)}
    if is_checked(checkpoint, data, protocol.device, protocol.samples):
        found.add("preflight")
    if _content_is_sampled(checkpoint, protocol):
        found.add("content control")
    return frozenset(found)


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


def _calibrated(checkpoint: Checkpoint, protocol: Protocol, real: Images, times: Tensor) -> list[str]:
    """The estimators whose calibration is there. What is read by parts is calibrated anew."""
    parts = parts_of(checkpoint.shape, by_band=protocol.bands, mask=protocol.mask, by=protocol.by)
    names = [name for name in protocol.estimators if name != "residual" or parts is None]
    return [name for name in names if is_calibrated(checkpoint, protocol, real, times, name)]


def _content_is_sampled(checkpoint: Checkpoint, protocol: Protocol) -> bool:
    finer = finer_solver(checkpoint, protocol)
    if finer is None:
        return False
    rows = known_pace(checkpoint, protocol, protocol.samples * calls_a_sample(checkpoint, protocol))
    last = content_rows(protocol)
    batches = [range(start, min(start + protocol.batch, last)) for start in range(0, last, protocol.batch)]
    return all(are_sampled(as_it_reads(checkpoint), protocol, finer, batch, rows) for batch in batches)
