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

SIDE, LARGE = 8, 16
"""Of a picture for networks of pixels, and for those of latents, whose autoencoder halves it."""

PROMPTS = {"a dot": 1, "a bar": 2, "a cross": 4}
"""Spelt with the letters that tests/tiny_pipelines.py's tokenizer knows, and their classes among `shapes`."""

COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.2, 0.2), (0.2, 0.6, 1.0))


@dataclass
class Job:
    """Where a checkpoint is made, from what, by how much training; `images` are for networks of pixels, `large` of latents."""

    folder: Path
    images: ns.data.Images
    large: ns.data.Images
    steps: int
    sources: dict[str, Path]

    def fit(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        data: ns.data.Images | None = None,
        times: float = 1,
        rate: float = 2e-3,
    ) -> Any:
        """The network after Adam, whose rate falls to nil, for `times` the job's steps; `loss` takes states and labels."""
        steps = round(times * self.steps)
        data = data or self.images
        states, labels = data.floats, data.labels
        assert labels is not None
        network.requires_grad_(True).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)
            rows = torch.randint(len(states), (64,))
            value = loss(states[rows], labels[rows])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        return network.eval()


def shapes(count: int, side: int, seed: int) -> ns.data.Images:
    """Pictures that a small network learns in minutes: a square, dot, bar, pole or cross of one of three colours, anywhere near
    the middle; classes 0 … 4 on black, 5 … 9 the same with black and colour exchanged."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    rows, columns = ((0.25 + 0.5 * torch.rand(count, 1, 1, generator=generator)) * side - 0.5 for _ in range(2))
    place = torch.arange(side, dtype=torch.float32)
    down, across = (place[:, None] - rows).abs(), (place - columns).abs()

    def within(distance: Tensor, size: float) -> Tensor:
        return (size + 0.5 - distance).clamp(0, 1).expand(count, side, side)

    bar, pole = within(down, side / 8), within(across, side / 8)
    square, dot = within(torch.maximum(down, across), side / 4), within((down**2 + across**2).sqrt(), side / 4)
    drawn = torch.stack([square, dot, bar, pole, torch.maximum(bar, pole)], 1)[torch.arange(count), labels % 5]
    drawn = torch.where((labels >= 5)[:, None, None], 1 - drawn, drawn)
    colours = torch.tensor(COLOURS)[torch.randint(len(COLOURS), (count,), generator=generator)]
    return ns.data.Images((255 * drawn[:, None] * colours[:, :, None, None]).round().to(torch.uint8), labels)


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


def run(folder: Path, *words: object) -> str:
    """What a command says on stdout."""
    line = [sys.executable, "-W", "ignore", "-m", "noiseshift", *map(str, words)]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}\n{done.stdout}{done.stderr}")
    return done.stdout
