"""The card beside an asset: how it was made, from what, under which licence, and what was measured on it."""

from __future__ import annotations

import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import yaml

DATA = "Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747), {part}"
LICENCE = "MIT, see LICENSE-fashion-mnist"


def card(what: str, part: str, command: str, figures: dict[str, Any] | None = None) -> dict[str, Any]:
    """What to say of an asset made by `command` from the images named by `part`."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    about: dict[str, Any] = {
        "what": what,
        "data": DATA.format(part=part),
        "made by": command,
        "commit": commit.stdout.strip(),
        "date": date.today().isoformat(),
        "licence": LICENCE,
    }
    return about | ({"measured": figures} if figures else {})


def write_card(asset: Path, about: dict[str, Any]) -> None:
    """Put the card beside the asset, as `<name>.yaml`."""
    asset.with_suffix(".yaml").write_text(yaml.safe_dump(about, sort_keys=False, width=110, allow_unicode=True))
