"""Files of denoising-diffusion-pytorch: its Trainer's, a GaussianDiffusion's state dict, or its Unet's alone, in 1-D too.

A GaussianDiffusion keeps its schedule and its loss weights in the file, so these say how they were trained. Pictures in
[0, 1] become [-1, 1] before its network sees them (auto_normalize), as ours are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from noiseshift.checkpoints.card import Card, CheckpointError, TimeInput
from noiseshift.checkpoints.files import state_of
from noiseshift.checkpoints.formats.rebuilt import filled, fitting, model_of, sized
from noiseshift.checkpoints.weights import chosen
from noiseshift.diffusion.schedules import Discrete
from noiseshift.networks.lucidrains import CURRENT, Former, Unet, UnetConfig, config_from_state
from noiseshift.networks.model import NetworkModel

LONGEST = 100_000
"""Steps of a schedule; a longer table is no schedule."""
KNOTS = 2049
"""Entries of the table of a continuous schedule."""
SIGMA_DATA = 0.5
"""Of ElucidatedDiffusion, as it comes."""


def recognise(content: Mapping[Any, Any]) -> str | None:
    """Whether a file holds this library's Unet, by itself, in a GaussianDiffusion or in its Trainer's file."""
    state = state_of(content)
    network = _network(state)
    if not {"init_conv.weight", "mid_block1.block1.proj.weight", "final_conv.weight"} <= set(network):
        return None
    shown = "init_conv, downs.*, ups.* among its keys"
    if chosen(content).averaged and "betas" in state:
        shown += ", averaged, in its Trainer's file"
    if isinstance(content.get("version"), str):
        shown += f" of version {content['version'][:20]}"
    inputs, outputs = network["init_conv.weight"].shape[1:2], network["final_conv.weight"].shape[:1]
    if outputs and inputs == (2 * outputs[0],):
        shown += "; its self-condition is given zeros"
    if _is_weighted(network):
        return shown + "; it answers with noise, data and the weights of both (WeightedObjectiveGaussianDiffusion)"
    if "betas" in state and "loss_weight" not in state:
        shown += "; what it predicts is not in it, and the noise is taken: a card's prediction says another"
    return shown


def card_of(content: Mapping[Any, Any]) -> Card | None:
    """The card that the buffers of a GaussianDiffusion make; None for a Unet alone."""
    state = state_of(content)
    if "betas" not in state:
        return None
    # Before version 1.5 the weight (p2_loss_weight) did not depend on the objective, which was the noise by default.
    betas = state["betas"].double()
    weight = state.get("loss_weight", torch.ones_like(betas)).double()
    if betas.ndim != 1 or betas.shape != weight.shape or not 2 <= len(betas) <= LONGEST:
        raise CheckpointError("its betas and loss_weight are no schedule: give another file")
    # Not its alphas_cumprod: float32 rounds a number near 1 to what is 0.1 % of the first step's noise.
    table = (1 - betas).cumprod(0)
    prediction = "x0" if _is_weighted(_network(state)) else _objective(weight, table / (1 - table))
    return Card(
        family="lucidrains",
        schedule={"kind": "discrete", "alphas_cumprod": table.tolist()},
        prediction=prediction,
        time=TimeInput("data", float(len(table)), -1.0),
    )


def _objective(weight: Tensor, snr: Tensor) -> str:
    """What a network learned, by the weights of its loss: 1, SNR or SNR / (1 + SNR), each times min(1, γ / SNR) for some
    γ where min-SNR weighting was on (Hang et al., arXiv 2303.09556). Raises CheckpointError when they are none of these."""
    usual = {"epsilon": torch.ones_like(snr), "x0": snr, "v_prediction": snr / (1 + snr)}
    for prediction, plain in usual.items():
        share = weight / plain
        gamma = share[0] * snr[0]
        if torch.allclose(share, (gamma / snr).clamp(max=1), rtol=1e-3, atol=0):
            return prediction
    raise CheckpointError(
        "its loss_weight is none of GaussianDiffusion's: give module:function, which builds the model"
    )


def build(content: Mapping[Any, Any], card: Card) -> NetworkModel:
    """The model.

    Args:
        content: What the file holds: a state dict, or what their Trainer saved around it.
        card: With size, and heads where no tensor shows them.

    Raises:
        CheckpointError: The tensors are no such Unet's, an old version is not named, or no size is said.
    """
    state = state_of(content)
    network = _network(state)
    former = CURRENT
    if any(".fn.fn." in key for key in network):
        signals = network["init_conv.weight"].ndim == 3
        # The network with classes and that of signals keep these names to this day.
        if not (signals or "null_classes_emb" in network) or "final_res_block.block1.norm.g" not in network:
            former = _former(content, signals)
        network = {key.replace(".fn.norm.", ".norm.").replace(".fn.fn.", "."): v for key, v in network.items()}
    with fitting(card):
        config = config_from_state(network, heads=card.heads, former=former)
        unet = filled(lambda: Unet(config), network)
    if config.fourier and "betas" not in state:
        return _continuous(unet, config, card)
    if _is_weighted(network):
        unet, card = _weighted(unet, config, card), replace(card, prediction="x0")
    return model_of(
        unet,
        card,
        shape=sized(card, config.channels, len(config.widths) - 2, config.axes),
        classes=config.classes,
        class_dropout=config.classes > 0,
    )


def _former(content: Mapping[Any, Any], signals: bool) -> Former:
    """What an old version did otherwise; its Trainer's files have the version. Raises CheckpointError without."""
    # A network of signals normalised groups up to 2.0 under the same names, whatever its blocks were.
    ends = (2, 0, 0) if signals else (1, 8, 0)
    before, last = ("2.0", "1.9") if signals else ("1.8", "1.7")
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", str(content.get("version", "")))
    if found is None:
        raise CheckpointError(
            f"its network is of a version before {before}, of which several share their names: save it with the version that "
            "trained it, torch.save({'model': state, 'version': '1.6.4'}, path)"
        )
    version = tuple(int(part) for part in found.groups())
    if not (1, 0, 0) <= version < ends:
        raise CheckpointError(
            f"its network is of no version from 1.0 to {last}, as the file says ({found[0]}): give module:function"
        )
    return Former(
        standardised=version < (1, 7, 2),
        clamped=version == (1, 7, 1),
        centred=version < (1, 7, 0),
        averaged=version < (1, 7, 4) and not signals,
    )


def _continuous(unet: nn.Module, config: UnetConfig, card: Card) -> NetworkModel:
    """A network with learned frequencies and no schedule beside it: of ContinuousTimeGaussianDiffusion, its kind of v, or
    ElucidatedDiffusion, as the card says by what its time is and what it predicts. Raises CheckpointError where it does not."""
    kinds = {"epsilon": _linear_log_snr, "v_prediction": _cosine_log_snr}
    shape = sized(card, config.channels, len(config.widths) - 2, config.axes)
    if card.time.conditioning == "log_sigma/4":
        own = replace(card, schedule={"kind": "variance-exploding"}, prediction="x0")
        return model_of(Preconditioned(unet), own, shape=shape)
    if card.time.conditioning != "log_snr" or card.prediction not in kinds:
        raise CheckpointError(
            "no schedule lies in the file: give a card with time: {conditioning: log_snr} and prediction: epsilon "
            "(ContinuousTimeGaussianDiffusion) or v_prediction (its kind of v), or with time: {conditioning: log_sigma/4} "
            "(ElucidatedDiffusion)"
        )
    t = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
    # alpha² + sigma² = 1 at all times.
    rows = {
        "times": t.tolist(),
        "log_snr": kinds[card.prediction](t).tolist(),
        "log_norm": torch.zeros_like(t).tolist(),
    }
    return model_of(unet, replace(card, schedule={"kind": "tabulated", **rows}), shape=shape)


class Preconditioned(nn.Module):
    """D = c_skip x + c_out F(c_in x, log sigma / 4) of states x0 + sigma eps (Karras et al., arXiv 2206.00364, table 1)."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        sigma = (4 * t).exp().reshape(-1, *[1] * (x.ndim - 1))
        total = (sigma.square() + SIGMA_DATA**2).sqrt()
        answer: Tensor = self.unet(x / total, t, label, known)
        return SIGMA_DATA**2 / total.square() * x + sigma * SIGMA_DATA / total * answer


def _is_weighted(network: Mapping[str, Tensor]) -> bool:
    """Whether it answers with the noise, the data, and two numbers that weigh them."""
    first, last = network["init_conv.weight"], network["final_conv.weight"]
    return bool(last.ndim > 1 and last.shape[0] == 2 * first.shape[1] + 2)


def _weighted(unet: nn.Module, config: UnetConfig, card: Card) -> nn.Module:
    schedule = card.build_schedule()
    if not isinstance(schedule, Discrete):
        raise CheckpointError(
            "it answers with noise, data and the weights of both, which takes its table: give a schedule of kind discrete in a card"
        )
    return Weighted(unet, config.channels, schedule(schedule.times).alpha.square())


class Weighted(nn.Module):
    """The data, of a network that answers with the noise, the data and two numbers: by softmax of these, the data that follow from
    the noise and the data themselves, as WeightedObjectiveGaussianDiffusion samples.

    Args:
        unet: Called with the step as its time.
        channels: Of a state.
        alphas_cumprod: (N,) of the steps.
    """

    alphas_cumprod: Tensor

    def __init__(self, unet: nn.Module, channels: int, alphas_cumprod: Tensor):
        super().__init__()
        self.unet = unet
        self.parts = (channels, channels, 2)
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)

    def forward(self, x: Tensor, t: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        noise, data, weights = self.unet(x, t, label, known).split(self.parts, dim=1)
        share = weights.softmax(1)
        kept = self.alphas_cumprod[t.round().long()].reshape(-1, *[1] * (x.ndim - 1))
        by_noise = (x - (1 - kept).sqrt().to(x) * noise) / kept.sqrt().to(x)
        return share[:, :1] * by_noise + share[:, 1:] * data


def _linear_log_snr(t: Tensor) -> Tensor:
    return -torch.expm1(1e-4 + 10 * t.square()).log()


def _cosine_log_snr(t: Tensor) -> Tensor:
    u = (t + 0.008) / 1.008 * math.pi / 2
    return -(u.cos() ** -2 - 1).clamp_min(1e-5).log()


def _network(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The Unet in a GaussianDiffusion, under `model.` or what a fork calls it (`denoise_fn.`), or a Unet alone."""
    first = "init_conv.weight"
    prefixes = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    prefix = prefixes[0] if len(prefixes) == 1 and first not in state else "model."
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inside or dict(state)
