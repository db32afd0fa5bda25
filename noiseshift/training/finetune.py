"""Noise awareness for a checkpoint that never saw noise dropout: a short training that teaches it the null branch.

Zhong, Jiang, Tao et al., arXiv 2510.12497, do this for about 0.7 % of the training's cost. Either everything is trained,
at a small rate, or only the null embedding: then the conditional branch stays what it was, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from noiseshift.checkpoints import Checkpoint, CheckpointError
from noiseshift.data import Images, misfit, to_float
from noiseshift.diffusion.noise import HELD_OUT, generator, torch_generator
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.transformer import Transformer
from noiseshift.training.train import Objective, TrainingConfig, train_in
from noiseshift.writing import claimed, jointly

Part = Literal["all", "null"]


@dataclass(frozen=True)
class Finetuned:
    """What fine-tuning made, and the mean squared errors on held-out images.

    Attributes:
        state: the averaged state.
        conditional_before: error of the noise-conditional branch before.
        conditional_after: the same after.
        unconditional_before: error of the noise-unconditional branch before.
        unconditional_after: the same after.
    """

    state: dict[str, Tensor]
    conditional_before: float
    conditional_after: float
    unconditional_before: float
    unconditional_after: float


def finetune(
    checkpoint: Checkpoint,
    images: Images,
    held_out: Images,
    config: TrainingConfig,
    folder: str | Path,
    *,
    part: Part = "all",
    device: str | torch.device = "cpu",
    every: int = 500,
    restart: bool = False,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Finetuned:
    """Teach a checkpoint its noise-unconditional branch (arXiv 2510.12497).

    A fresh null embedding starts at the mean of the time embeddings.

    Args:
        checkpoint: a DiT, SiT or REPA network that predicts velocity or epsilon.
        images: labelled training images.
        held_out: what the errors are computed on.
        config: how it is trained.
        folder: holds the training's state, from which it resumes, as `train` does.
        part: "all", or "null" for the null embedding alone, on rows that all lack the level.
        device: where it is trained.
        every: steps between two states.
        restart: start anew; what is there is moved aside.
        report: called as (step, loss) every step.

    Returns:
        The averaged state and the errors.

    Raises:
        CheckpointError: for another network or prediction.
        ValueError: the images do not fit, the folder holds something else, or another process trains there.
    """
    if wrong := misfit(images.pixels.shape[1:], checkpoint.shape):
        raise ValueError(wrong)
    model = _trainable(checkpoint)
    network = _with_null(model)
    objective = _objective(model)
    before = [held_out_loss(network, objective, held_out, conditional=conditional) for conditional in (True, False)]
    if part == "null":
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name == "t_embedder.null")
        config = replace(config, noise_dropout=1.0, weight_decay=0.0)
    with jointly(claimed(folder, "finetune", adding=True)):
        state = train_in(
            Path(folder), network, objective, images, config, device=device, every=every, restart=restart, report=report
        )
    network.load_state_dict(state)
    network.cpu().eval()
    after = [held_out_loss(network, objective, held_out, conditional=conditional) for conditional in (True, False)]
    return Finetuned(state, before[0], after[0], before[1], after[1])


@torch.no_grad()
def held_out_loss(
    network: Transformer, objective: Objective, images: Images, *, conditional: bool, seed: int = 0
) -> float:
    """Mean squared error on images at fixed seeded times and noise.

    Args:
        network: the network.
        objective: what it learns.
        images: labelled.
        conditional: whether it is conditioned on the level.
        seed: of the times and the noise.

    Returns:
        The mean over all images.
    """
    total = 0.0
    was = network.training
    network.eval()
    for start in range(0, len(images), 128):
        rows = images[start : start + 128]
        assert rows.labels is not None
        source = torch_generator(generator(start, seed=seed, stream=HELD_OUT))
        x, target, time = objective.batch(to_float(rows.pixels), source)
        known = torch.full((len(x),), conditional)
        output = network(x, time, rows.labels, known)[:, : x.shape[1]]
        total += float((output - target).square().flatten(1).mean(1).sum())
    network.train(was)
    return total / len(images)


def _objective(model: NetworkModel) -> Objective:
    if model.predicts not in ("velocity", "epsilon"):
        raise CheckpointError(f"a model that predicts {model.predicts} cannot be fine-tuned yet: velocity or epsilon")
    return Objective(model.schedule, model.predicts, model.time_input, model.sign)


def _trainable(checkpoint: Checkpoint) -> NetworkModel:
    """The checkpoint's model. Raises CheckpointError when its network is not of the kind that is trained here."""
    model = checkpoint.model
    if not isinstance(model, NetworkModel) or not isinstance(model.network, Transformer):
        raise CheckpointError("only DiT, SiT and REPA checkpoints can be fine-tuned: give one of those")
    return model


@torch.no_grad()
def _with_null(model: NetworkModel) -> Transformer:
    """A trainable copy of the network that has a null embedding."""
    old = cast("Transformer", model.network)
    network = Transformer(replace(old.config, noise_dropout=True))
    state = {key: value.clone().float() for key, value in old.state_dict().items()}
    if "t_embedder.null" not in state:
        times = model.time_input(torch.linspace(0.01, 0.99, 99, dtype=torch.float64))
        state["t_embedder.null"] = old.t_embedder(times.float()).mean(0)
    network.load_state_dict(state)
    return network.requires_grad_(True).train()
