"""What the same command would go on from, were this process stopped now: nothing else is promised to whoever stops it."""

from __future__ import annotations

from pathlib import Path

_kept: dict[Path, str] = {}


def keeps(place: Path, what: str) -> None:
    """Note that `place` holds something to go on from, as long as it is there.

    Args:
        place: A file or a folder.
        what: A clause, such as "finished batches are kept".
    """
    _kept[place.absolute()] = what


def kept() -> list[str]:
    """What is there to go on from, in words."""
    return sorted({what for place, what in _kept.items() if place.exists()})


def forget() -> None:
    """Begin with nothing: another command in this process."""
    _kept.clear()
