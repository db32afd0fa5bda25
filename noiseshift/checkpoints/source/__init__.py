"""What the Python beside a checkpoint says of it: parsed, never imported or run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from noiseshift.checkpoints.source.files import sources
from noiseshift.checkpoints.source.networks import Near, Network, nearest, network_of
from noiseshift.checkpoints.source.training import Training, training_of


@dataclass(frozen=True)
class Beside:
    """What the code beside a checkpoint says.

    Attributes:
        network: The class whose parameters have the checkpoint's names; None where none fits.
        training: What it shows of the training.
        near: Where none fits, the class that has most of them.
    """

    network: Network | None
    training: Training
    near: Near | None = None


def beside(file: Path, names: Collection[str], prefix: str = "") -> Beside | None:
    """What the code in the working directory, where the file lies below it, or else in the file's own folder says.

    Args:
        file: the checkpoint.
        names: of its tensors.
        prefix: what stands before those of all weights.

    Returns:
        What was found, None where there is no code.
    """
    here = Path.cwd()
    folder = here if here in file.resolve().parents else file.resolve().parent
    found = sources(folder)
    if not found:
        return None
    network = network_of(found, names, prefix, file)
    near = [each for each in found if file.name in each.text or (network is not None and each is network.source)]
    return Beside(network, training_of(found, near), None if network else nearest(found, names, prefix))
