"""Reading checkpoints from disk into models, without ever running what is in them."""

from noiseshift.checkpoints.card import FAMILIES, Card, CheckpointError, TimeInput
from noiseshift.checkpoints.loading import BUNDLED, Checkpoint, load

__all__ = ["BUNDLED", "FAMILIES", "Card", "Checkpoint", "CheckpointError", "TimeInput", "load"]
