"""Turn a training folder into what the wheel carries: averaged weights in float16, and their card.

    python benchmarks/assets/pack_models.py sit  runs/sit
    python benchmarks/assets/pack_models.py ddpm runs/ddpm

Writes `noiseshift/assets/fashion-<which>.safetensors` and `.yaml`. `--snapshot ema-1600.pt` packs an early average
instead, under `--name`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import click
import torch
import yaml
from safetensors.torch import save_file

from noiseshift.data import ASSETS

NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
CARDS = {
    "sit": {
        "family": "sit",
        "schedule": {"kind": "linear"},
        "prediction": "velocity",
        "time": {"zero": "data", "scale": 1000.0},
    },
    "ddpm": {
        "family": "dit",
        "schedule": {"kind": "discrete", "beta_start": 1e-4, "beta_end": 0.02, "steps": 1000},
        "prediction": "epsilon",
        "time": {"zero": "data", "scale": 1000.0, "offset": -1.0},
    },
}


def _plan(log: list[dict[str, int]]) -> list[tuple[int, int]]:
    """(planned steps, last step under that plan), in order."""
    last = {row["steps"]: row["step"] for row in log}
    return sorted(last.items(), key=lambda item: item[1])


@click.command()
@click.argument("which", type=click.Choice(list(CARDS)))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--snapshot", help="An averaged snapshot in the folder instead of the last state.")
@click.option("--name", help="File name; fashion-<which> by default.")
@click.option("--out", type=click.Path(path_type=Path), default=ASSETS)
def main(which: str, folder: Path, snapshot: str | None, name: str | None, out: Path) -> None:
    kept = torch.load(folder / (snapshot or "state.pt"), weights_only=True)
    state = kept if snapshot else kept["ema"]
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    step = int(snapshot.removeprefix("ema-").removesuffix(".pt")) if snapshot else kept["step"]
    name = name or f"fashion-{which}"
    path = out / f"{name}.safetensors"
    save_file({k: v.half().contiguous() for k, v in state.items()}, path)
    path.chmod(0o644)  # safetensors writes for its owner only
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    settings = {k: v for k, v in log[-1].items() if k not in ("step", "loss")}
    provenance = {
        "made by": f"python benchmarks/assets/train_models.py {which} --steps {settings['steps']}",
        "packed at commit": commit.strip(),
        "data": "Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747), 60,000 training images",
        "licence": "MIT; the data's licence is in LICENSE-fashion-mnist",
        "steps": step,
        # A training may have been cut short or prolonged: what was planned, and up to where it went that way.
        "plan": [f"of {total} steps, to {last}" for total, last in _plan(log)],
        "training loss": round(next(row["loss"] for row in reversed(log) if row["step"] <= max(step, 500)), 4),
        "settings": settings,
    }
    card = {
        **CARDS[which],
        "heads": 4,
        "estimator": f"fashion-{which}-estimator.safetensors",
        "data": "fashion-heldout",
        "class_names": NAMES,
        "provenance": provenance,
    }
    (out / f"{name}.yaml").write_text(yaml.safe_dump(card, sort_keys=False, width=110))


if __name__ == "__main__":
    main()
