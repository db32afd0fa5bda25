"""What every maker of a checkpoint is given, and what it may call."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import noiseshift as ns

SIDE = 16
PROMPTS = {"a sandal": 5, "a bag": 8, "a boot": 9}
"""Spelt with the letters that tests/tiny_pipelines.py's tokenizer knows, and their classes in Fashion-MNIST."""


@dataclass
class Job:
    """Where a checkpoint is made, from what, by how much training."""

    folder: Path
    images: ns.data.Images
    steps: int
    sources: dict[str, Path]

    def fit(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        data: ns.data.Images | None = None,
        times: int = 1,
    ) -> Any:
        """The network after Adam, whose rate falls to nil, for `times` the job's steps; `loss` takes states and labels."""
        steps = times * self.steps
        data = data or self.images
        states, labels = data.floats, data.labels
        assert labels is not None
        network.requires_grad_(True).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 - step / steps)
            rows = torch.randint(len(states), (64,))
            value = loss(states[rows], labels[rows])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        return network.eval()


def pictures(images: ns.data.Images, side: int = SIDE) -> ns.data.Images:
    """In colour and of another size."""
    small = nn.functional.interpolate(images.pixels.float(), size=(side, side), mode="area").round().to(torch.uint8)
    return ns.data.Images(small.expand(-1, 3, -1, -1).contiguous(), images.labels)


def write(path: Path, images: ns.data.Images) -> Path:
    assert images.labels is not None
    np.savez(path, images=images.pixels.numpy(), labels=images.labels.numpy())
    return path


def chosen(images: ns.data.Images) -> ns.data.Images:
    """The classes that PROMPTS name, counted as the prompts are."""
    assert images.labels is not None
    places = torch.full((10,), -1)
    places[list(PROMPTS.values())] = torch.arange(len(PROMPTS))
    labels = places[images.labels]
    return ns.data.Images(images.pixels[labels >= 0], labels[labels >= 0])


def run(folder: Path, *words: object) -> None:
    line = [sys.executable, "-W", "ignore", "-m", "noiseshift", *map(str, words)]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}\n{done.stdout}{done.stderr}")
