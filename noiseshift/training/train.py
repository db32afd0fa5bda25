"""Training with noise-condition dropout: the network also learns a noise-unconditional branch.

Each row's noise condition is replaced by the learned null with probability `noise_dropout`, its class by the null class
with probability `class_dropout`, independently (Zhong, Jiang, Tao et al., arXiv 2510.12497; Ho & Salimans, 2207.12598).
The time is uniform, so the noise-unconditional branch averages over a flat prior on t, which the score-mixture estimator relies on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from noiseshift import distributed
from noiseshift.data import Images
from noiseshift.diffusion.identity import identity
from noiseshift.diffusion.noise import TRAINING, generator, torch_generator
from noiseshift.diffusion.schedules import Discrete, Schedule, describe
from noiseshift.networks.transformer import Transformer
from noiseshift.training.accumulating import Gradients
from noiseshift.training.resuming import as_text, kept_state, resumable
from noiseshift.training.room import require_room
from noiseshift.training.states import Log, keep_state, save_tensors
from noiseshift.writing import claimed, jointly

Target = Literal["velocity", "epsilon"]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The learning rate rises, holds, then falls linearly to 0.

    Attributes:
        steps: gradient steps.
        batch: images per step.
        learning_rate: of the plateau.
        warmup: share of the steps in which the rate rises.
        cooldown: share in which it falls.
        weight_decay: of both optimisers, Muon and AdamW.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights.
        noise_dropout: share of rows that lack the noise condition.
        class_dropout: share of rows that lack the class.
        precision: "fp32" or "bf16".
        snapshots: shares of the steps after which averaged weights are kept.
        seed: of the batches, the times and the noise.
    """

    steps: int = 10_000
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.02
    cooldown: float = 0.3
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    noise_dropout: float = 0.15
    class_dropout: float = 0.1
    precision: Literal["fp32", "bf16"] = "fp32"
    snapshots: tuple[float, ...] = (0.05, 0.2)
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at a step, warm-up, plateau, cool-down."""
        done = step / self.steps
        return self.learning_rate * min(1.0, (step + 1) / (1 + self.warmup * self.steps), (1 - done) / self.cooldown)


@dataclass(frozen=True)
class Objective:
    """What the network learns.

    Attributes:
        schedule: the path between data and noise.
        predicts: the target's space.
        time_input: t → the number that the time embedding is given.
        sign: -1 for velocities that point from noise to data.
    """

    schedule: Schedule
    predicts: Target
    time_input: Callable[[Tensor], Tensor]
    sign: float = 1.0

    def batch(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(x_t, target, time input) for data x0 (B, C, H, W) at fresh uniform times.

        Args:
            x0: data (B, C, H, W).
            generator: draws times and noise.
        """
        t = torch.rand(len(x0), generator=generator)
        if isinstance(self.schedule, Discrete):
            steps = len(self.schedule.times)
            t = ((t * steps).floor() + 1) / steps
        level = self.schedule(t).like(x0)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        x = level.mix(x0, eps)
        target = eps if self.predicts == "epsilon" else level.dalpha * x0 + level.dsigma * eps
        return x, self.sign * target, self.time_input(t.double()).to(x0)


class Average:
    """Exponential moving average of a network's state, with the usual ramp so that early steps count.

    Args:
        network: whose state it starts from.
        decay: of one step, once the ramp is over, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in a network's state.

        Args:
            network: the trained one.
            step: how many steps were taken; the decay is at most (1 + step) / (10 + step).
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            self.state[key].lerp_(value, weight)

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state that was kept. Raises ValueError for one of another network."""
        wanted = {name: (part.shape, part.dtype) for name, part in self.state.items()}
        if {name: (part.shape, part.dtype) for name, part in state.items()} != wanted:
            raise ValueError("its averaged weights are another network's")
        self.state = {name: part.to(self.state[name].device) for name, part in state.items()}


def train(
    network: Transformer,
    objective: Objective,
    images: Images,
    config: TrainingConfig,
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    every: int = 500,
    restart: bool = False,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, Tensor]:
    """Train `network` on `images` and return its averaged state.

    Writes `state.pt`, `log.jsonl` and an averaged `ema-<step>.pt` at each snapshot to `folder`. A training that was
    interrupted goes on there, and a finished one that is asked for more steps; under torchrun each rank takes its share of
    every batch, drawn as one process would have drawn it, and the first writes.

    Args:
        network: what is trained; its weights are where a new training starts.
        objective: what it learns.
        images: labelled images (N, C, H, W).
        config: how it is trained.
        folder: where its state is kept.
        device: where it is trained.
        every: steps between two states.
        restart: start anew where the folder holds another training, which is moved aside.
        report: called as (step, loss) every step.

    Raises:
        ValueError: for a set without labels, a batch that the ranks cannot share, a loss that is not finite, or a folder
            that holds a training of other settings, data, network or objective, or what is no training's (PlaceError), or
            where another process trains (BusyError).
        MemoryError: a single row does not fit.
    """
    with jointly(claimed(folder, "train", adding=True)):
        return train_in(
            Path(folder), network, objective, images, config, device=device, every=every, restart=restart, report=report
        )


def train_in(
    folder: Path,
    network: Transformer,
    objective: Objective,
    images: Images,
    config: TrainingConfig,
    *,
    device: str | torch.device = "cpu",
    every: int = 500,
    restart: bool = False,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, Tensor]:
    """As `train`, in a folder that is held already.

    Args:
        folder: held by `claimed`.
        network: is trained in place.
        objective: what it is trained to predict.
        images: with labels.
        config: steps, batch, rates, seed.
        device: where.
        every: steps between two kept states.
        restart: begin again although a state is there.
        report: called as (step, loss).

    Returns:
        The averaged weights.
    """
    if images.labels is None:
        raise ValueError("training is class-conditional: give labelled images")
    require_room(network.config, images, config.batch, device)
    rank = distributed.joined()[0]
    share = distributed.share(config.batch)
    about = describe_training(network, objective, images, config)
    kept = kept_state(folder, about, restart=restart)
    network.to(device).train()
    optimizers = _optimizers(network, config)
    average = Average(network, config.ema)
    first, log = _begin(kept, folder, network, optimizers, average)
    loss_of = partial(_loss, distributed.parallel(network), config)
    gradients = Gradients(network)
    snapshots = {round(part * config.steps) for part in config.snapshots}
    losses: list[float] = []
    for step in range(first, config.steps):
        loss = gradients(loss_of, _rows(objective, images, config, network.config.classes, step, device, share))
        losses.append(float(distributed.mean(loss)))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"the loss is {losses[-1]} at step {step}: lower the learning rate")
        _descend(network, optimizers, config, step)
        average.update(network, step)
        report(step, losses[-1])
        if rank:
            continue
        if step + 1 in snapshots:
            save_tensors(average.state, folder / f"ema-{step + 1}.pt")
        if (step + 1) % every == 0 or step + 1 == config.steps:
            log.append({"step": step + 1, "loss": sum(losses) / len(losses), **asdict(config)})
            _save(folder, about, network, optimizers, average, step + 1, log)
            losses = []
    return average.state


def _rows(
    objective: Objective,
    images: Images,
    config: TrainingConfig,
    null_class: int,
    step: int,
    device: str | torch.device,
    share: slice,
) -> list[Tensor]:
    """A share of a step's states, targets, time inputs, classes and whether they keep the noise condition."""
    # One generator per step: a resumed run draws what an uninterrupted one would have drawn.
    source = torch_generator(generator(step, seed=config.seed, stream=TRAINING))
    batch = images[torch.randint(len(images), (config.batch,), generator=source)]
    assert batch.labels is not None
    x, target, time = objective.batch(batch.floats, source)
    known = torch.rand(len(x), generator=source) >= config.noise_dropout
    dropped = torch.rand(len(x), generator=source) < config.class_dropout
    labels = torch.where(dropped, null_class, batch.labels)
    return [part[share].to(device) for part in (x, target, time, labels, known)]


def _loss(
    network: nn.Module, config: TrainingConfig, x: Tensor, target: Tensor, time: Tensor, labels: Tensor, known: Tensor
) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        output = network(x, time, labels, known)
    # A learned variance, as DiT's second half of channels, is left as it is.
    return (output[:, : x.shape[1]].float() - target).square().mean()


def _optimizers(network: nn.Module, config: TrainingConfig) -> Sequence[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest: it reaches AdamW's loss of step 250 near step 210, at 5 % more a step."""
    matrices = [
        p for name, p in network.named_parameters() if name.startswith("blocks.") and p.ndim == 2 and p.requires_grad
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in chosen]
    adamw = torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=config.weight_decay)
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adamw, muon]


def _descend(
    network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], config: TrainingConfig, step: int
) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
    nn.utils.clip_grad_norm_(network.parameters(), config.clip)
    for optimizer in optimizers:
        optimizer.step()


def describe_training(
    network: Transformer, objective: Objective, images: Images, config: TrainingConfig
) -> dict[str, Any]:
    """What a training is made of, in plain values: a state of another one is not gone on with.

    Args:
        network: with its starting weights.
        objective: what it is trained to predict.
        images: what it is trained on.
        config: steps, batch, rates, seed.
    """
    return {
        "settings": asdict(config),
        "network": asdict(network.config),
        "starting weights": identity(network.state_dict()),
        "trained": [name for name, parameter in network.named_parameters() if parameter.requires_grad],
        "predicts": objective.predicts,
        "schedule": describe(objective.schedule),
        "objective": identity(objective),
        "data": {"images": len(images), "sha256": images.sha256},
    }


def _begin(
    kept: Mapping[str, Any] | None,
    folder: Path,
    network: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: Average,
) -> tuple[int, Log]:
    """The first step and the log: of a training that the folder kept, which is put back into its parts, or of a new one."""
    if kept is None:
        return 0, Log()
    with resumable(folder):
        network.load_state_dict(kept["network"])
        for optimizer, saved in zip(optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        average.take(kept["ema"])
        return int(kept["step"]), kept["log"]


def _save(
    folder: Path,
    about: Mapping[str, Any],
    network: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: Average,
    step: int,
    log: Log,
) -> None:
    state = {
        "about": as_text(about),
        "network": network.state_dict(),
        "ema": average.state,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
    }
    keep_state(folder, state, log)
