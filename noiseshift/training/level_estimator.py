"""Training of the level network, which reads the noise level of a state: on real images, noised to uniform times."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noiseshift import distributed
from noiseshift.data import Images, to_float
from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.noise import LEVEL_TRAINING, generator, torch_generator
from noiseshift.diffusion.schedules import Schedule, describe
from noiseshift.estimators.network import Network
from noiseshift.networks.level import LevelConfig, LevelNetwork, check_images, negative_log_likelihood
from noiseshift.training.accumulating import Gradients
from noiseshift.training.resuming import as_text, kept_state, resumable
from noiseshift.training.room import require_batch
from noiseshift.training.states import Log, keep_state
from noiseshift.writing import claimed, jointly


@dataclass(frozen=True)
class EstimatorTraining:
    """How to train a level network.

    Attributes:
        steps: gradient steps.
        batch: states a step.
        learning_rate: the largest one.
        width: channels of the network's first layer.
        precision: "fp32" or "bf16".
        seed: of the first weights, the times and the noise.
    """

    steps: int = 4000
    batch: int = 128
    learning_rate: float = 3e-3
    width: int = 16
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at a step: it rises over the first 5 %, then falls to nearly 0, both as a cosine (Smith & Topin,
        arXiv 1708.07120, as torch's OneCycleLR has it)."""
        low = self.learning_rate / 25
        top = self.learning_rate
        peak = 0.05 * self.steps - 1
        end = self.steps - 1
        if step < peak:
            return _cosine(low, top, step / peak)
        return _cosine(top, low / 1e4, (step - peak) / (end - peak))


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


def train_estimator(
    images: Images,
    schedule: Schedule,
    config: EstimatorTraining | None = None,
    *,
    folder: str | Path | None = None,
    device: str | torch.device = "cpu",
    every: int = 500,
    restart: bool = False,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Network:
    """Train a level network on real images noised to uniform times of `schedule`.

    A training that was interrupted goes on where its folder says, and a finished one that is asked for more steps. Each
    step draws from its own seed, so a resumed training is the uninterrupted one. Under torchrun each rank takes its share
    of every batch and the first writes.

    Args:
        images: (N, C, H, W) with H, W ≥ 4; their labels are not used.
        schedule: how they are noised.
        config: how the network is trained.
        folder: where `state.pt` is kept after each `every` steps, and `log.jsonl` grows; None keeps nothing.
        device: where the network is trained.
        every: steps between two states.
        restart: start anew where the folder holds another training, which is moved aside.
        report: called as (step, loss) every step.

    Raises:
        ValueError: for smaller images, a batch that the ranks cannot share, a loss that is not finite, or a folder that
            holds a training of other settings, images or schedule, or what is no training's (PlaceError), or where another
            process trains (BusyError).
        MemoryError: a single row does not fit.
    """
    config = config or EstimatorTraining()
    check_images(images.pixels[:1], images.pixels.shape[1])
    require_batch(images, config.batch)
    network = _fresh(LevelConfig(images.pixels.shape[1], config.width), config.seed).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.01)
    about = _describe(images, schedule, config)
    place = None if folder is None else Path(folder)
    with nullcontext() if place is None else jointly(claimed(place, "train-estimator", adding=True)):
        kept = None if place is None else kept_state(place, about, restart=restart)
        first, log = _begin(kept, place, network, optimizer)
        losses: list[float] = []
        rank = distributed.joined()[0]
        share = distributed.share(config.batch)
        gradients = Gradients(network)
        loss_of = partial(_loss, distributed.parallel(network), config)
        for step in range(first, config.steps):
            loss = gradients(loss_of, _rows(images, schedule, config, step, device, share))
            losses.append(float(distributed.mean(loss)))
            if not math.isfinite(losses[-1]):
                raise ValueError(f"the level network's loss is {losses[-1]} at step {step}: lower the learning rate")
            _descend(network, optimizer, config.rate(step))
            report(step, losses[-1])
            if place is not None and rank == 0 and ((step + 1) % every == 0 or step + 1 == config.steps):
                log.append({"step": step + 1, "loss": sum(losses) / len(losses)})
                _keep(place, about, network, optimizer, step + 1, log)
                losses = []
    return Network(network.cpu(), schedule, card={"training": asdict(config), "images": len(images)})


def _fresh(config: LevelConfig, seed: int) -> LevelNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LevelNetwork(config)


def _rows(
    images: Images,
    schedule: Schedule,
    config: EstimatorTraining,
    step: int,
    device: str | torch.device,
    share: slice,
) -> list[Tensor]:
    """A share of a step's states, and their log-SNR."""
    source = torch_generator(generator(step, seed=config.seed, stream=LEVEL_TRAINING))
    x0 = to_float(images.pixels[torch.randint(len(images), (config.batch,), generator=source)])
    # Not closer to the ends than a reading can resolve: log-SNR runs off to infinity there.
    t = torch.rand(config.batch, generator=source).clamp(1e-3, 1 - 1e-3)
    x = schedule(t).mix(x0, torch.randn(x0.shape, generator=source))
    return [part[share].to(device) for part in (x, schedule.log_snr(t))]


def _loss(network: nn.Module, config: EstimatorTraining, x: Tensor, log_snr: Tensor) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        parts = network(x)
    return negative_log_likelihood(parts, log_snr)


def _descend(network: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def _describe(images: Images, schedule: Schedule, config: EstimatorTraining) -> dict[str, Any]:
    """What a training is made of, in plain values: a state of another one is not gone on with."""
    return {
        "settings": asdict(config),
        "schedule": describe(schedule),
        "data": {"images": len(images), "pixels": identity(images.pixels)},
    }


def _begin(
    kept: Mapping[str, Any] | None, place: Path | None, network: LevelNetwork, optimizer: torch.optim.Optimizer
) -> tuple[int, Log]:
    """The first step and the log: of a training that the folder kept, which is put back into its parts, or of a new one."""
    if kept is None or place is None:
        return 0, Log()
    with resumable(place):
        network.load_state_dict(kept["network"])
        optimizer.load_state_dict(kept["optimizer"])
        return int(kept["step"]), kept["log"]


def _keep(
    folder: Path,
    about: Mapping[str, Any],
    network: LevelNetwork,
    optimizer: torch.optim.Optimizer,
    step: int,
    log: Log,
) -> None:
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    keep_state(folder, {**state, "about": as_text(about), "step": step}, log)
