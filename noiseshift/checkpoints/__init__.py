"""Reading checkpoints from disk into models, without ever running what is in them.

Cards and errors cost nothing to import; torch comes in with `load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from noiseshift.checkpoints.card import FAMILIES, Card, CheckpointError, TimeInput

if TYPE_CHECKING:
    from noiseshift.checkpoints.loading import BUNDLED, Checkpoint, load

__all__ = ["BUNDLED", "FAMILIES", "Card", "Checkpoint", "CheckpointError", "TimeInput", "load"]


def __getattr__(name: str) -> Any:
    if name in ("BUNDLED", "Checkpoint", "load"):
        from noiseshift.checkpoints import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
