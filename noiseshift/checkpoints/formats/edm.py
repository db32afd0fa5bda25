"""EDM and EDM2 pickles into models: preconditioner and network are rebuilt from what the file says they were made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noiseshift.checkpoints.card import Card, CheckpointError
from noiseshift.checkpoints.unpickling.persistence import Record
from noiseshift.diffusion.schedules import VarianceExploding
from noiseshift.networks.edm2_unet import Edm2Config, Edm2Unet
from noiseshift.networks.edm_precondition import Edm, ImprovedDdpm, Preconditioned, VarianceExploded, VariancePreserved
from noiseshift.networks.edm_unet import DhariwalUnet, SongUnet, UnetConfig, configured
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.shapes import shapes_only

ADM = {"model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3, "attn_resolutions": (32, 16, 8)}
NETWORKS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "SongUNet": lambda settings: SongUnet(configured(UnetConfig, settings)),
    "DhariwalUNet": lambda settings: DhariwalUnet(configured(UnetConfig, settings, ADM)),
    "UNet": lambda settings: Edm2Unet(configured(Edm2Config, settings)),
}
# The preconditioner's class by its name in the file, and its settings: their names there and here.
PRECONDITIONERS: Mapping[str, tuple[Callable[..., Preconditioned], Mapping[str, str]]] = {
    "EDMPrecond": (Edm, {"sigma_data": "sigma_data", "sigma_min": "sigma_min", "sigma_max": "sigma_max"}),
    "Precond": (Edm, {"sigma_data": "sigma_data"}),  # EDM2's
    "VPPrecond": (
        VariancePreserved,
        {"beta_d": "beta_d", "beta_min": "beta_min", "M": "steps", "epsilon_t": "epsilon_t"},
    ),
    "VEPrecond": (VarianceExploded, {"sigma_min": "sigma_min", "sigma_max": "sigma_max"}),
    "iDDPMPrecond": (ImprovedDdpm, {"C_1": "c_1", "C_2": "c_2", "M": "steps"}),
}
MOST_STEPS = 100_000
TRAINING_ONLY = ("map_augment.",)
"""Tensors that serve the augmentation of training data; at zero augmentation they add nothing."""


def recognise(content: Mapping[Any, Any]) -> str | None:
    """EDM's mark: a persistent object under 'ema'."""
    record = content.get("ema")
    return f"a persistent {record.class_name} under 'ema'" if isinstance(record, Record) else None


@contextmanager
def _readable() -> Iterator[None]:
    """Whatever a damaged description makes of itself is one line."""
    try:
        yield
    except CheckpointError:
        raise
    except (RuntimeError, ValueError, TypeError, ArithmeticError, AttributeError, LookupError) as error:
        reason = next(iter(reversed(str(error).splitlines())), type(error).__name__).strip()[:200]
        raise CheckpointError(f"its description of itself cannot be followed: {reason}") from None


@_readable()
def card(content: Mapping[Any, Any]) -> Card:
    """What the file says of itself: the noise scales of its preconditioner."""
    record: Record = content["ema"]
    wrapped = _preconditioned(record, nn.Identity())
    low, high = wrapped.sigmas
    family = "edm2" if record.class_name == "Precond" else "edm"
    schedule = {"kind": "variance-exploding", "sigma_min": low, "sigma_max": high}
    return Card(family, schedule, "x0", latents=_latents(content), provenance={"network": _network(record).class_name})


def _network(record: Record) -> Record:
    """The raw network inside a preconditioner."""
    return record.part("unet" if record.class_name == "Precond" else "model")


def _latents(content: Mapping[Any, Any]) -> dict[str, list[float]]:
    """How EDM2's encoder standardises: x = z scale + bias, a number per channel, of pictures from 0 to 1, not from -1 as their
    autoencoder's training had them; nothing for a model of pixels."""
    encoder = content.get("encoder")
    state = encoder.state if isinstance(encoder, Record) else {}
    scale = state.get("scale")
    bias = state.get("bias")
    if not (isinstance(scale, np.ndarray) and isinstance(bias, np.ndarray)):
        return {}
    if scale.shape != bias.shape or not bool((scale > 0).all()):
        raise CheckpointError("its encoder does not scale every channel: the file is damaged, fetch it again")
    return {"center": (-bias / scale).tolist(), "spread": (1 / scale).tolist(), "range": [0.0, 1.0]}


@_readable()
def build(content: Mapping[Any, Any], card: Card) -> NetworkModel:
    """The model in a pickle.

    Args:
        content: What the file holds: the averaged network is under 'ema'.
        card: With a variance-exploding schedule, such as the one that the file itself makes.

    Raises:
        CheckpointError: A network of another kind, another schedule, or tensors that do not fit.
    """
    record: Record = content["ema"]
    inner = _network(record)
    if inner.class_name not in NETWORKS:
        raise CheckpointError(f"its network is a {inner.class_name}: those that can be read are {', '.join(NETWORKS)}")
    settings = inner.settings
    state = _single(inner.tensors())
    shape = _shape(record, inner, len(state))
    with shapes_only():
        network = NETWORKS[inner.class_name](settings)
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith(TRAINING_ONLY)}, assign=True)
    wrapped = _preconditioned(record, network)
    schedule = card.build_schedule()
    if not isinstance(schedule, VarianceExploding):
        raise CheckpointError("its states are x0 + sigma eps: give its card a variance-exploding schedule, or none")
    levels = None if wrapped.levels is None else _times(schedule, wrapped.levels)
    return NetworkModel(
        wrapped,
        schedule,
        card.predicts,
        lambda t: schedule.coefficients(t)[1],
        classes=wrapped.classes,
        class_dropout=float(settings.get("label_dropout") or 0) > 0,
        noise_dropout=False,
        shape=shape,
        levels=levels,
    )


def _single(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32. EDM2 keeps them in half precision and divides its gains by the root of a fan-in in it: what its
    networks answer has that rounding, up to 5e-4 of a gain, so here the gains get it."""
    found = {name: tensor.float() for name, tensor in state.items()}
    for name, gain in state.items():
        scaled = name.replace("emb_gain", "emb_linear.weight").replace("out_gain", "out_conv.weight")
        if gain.dtype == torch.float16 and gain.ndim == 0 and scaled in state and scaled != name:
            root = math.sqrt(state[scaled][0].numel())
            found[name] = (gain / root).float() * root
    return found


def _preconditioned(record: Record, network: nn.Module) -> Preconditioned:
    if record.class_name not in PRECONDITIONERS:
        known = ", ".join(PRECONDITIONERS)
        raise CheckpointError(f"it is a {record.class_name}: those that can be read are {known}")
    make, names = PRECONDITIONERS[record.class_name]
    given = {ours: float(record.settings[name]) for name, ours in names.items() if name in record.settings}
    if not 2 <= given.get("steps", MOST_STEPS) <= MOST_STEPS:
        raise CheckpointError(f"it claims {given['steps']:g} noise levels: the file is damaged, fetch it again")
    return make(network, int(record.settings.get("label_dim") or 0), **given)


def _shape(record: Record, inner: Record, tensors: int) -> tuple[int, int, int]:
    """(C, H, W) of a state, where preconditioner and network agree, and the network is no larger than its tensors show."""
    outer = record.settings
    settings = inner.settings
    if "img_channels" not in outer or "img_resolution" not in outer:
        raise CheckpointError("its preconditioner does not say how it was made: the file is damaged, fetch it again")
    channels = int(outer["img_channels"])
    side = int(outer["img_resolution"])
    built = (settings.get("in_channels", settings.get("img_channels")), settings.get("img_resolution"))
    if built != (channels, side) or (settings.get("label_dim") or 0) != (outer.get("label_dim") or 0):
        raise CheckpointError("its preconditioner was made for another network: the file is damaged, fetch it again")
    if len(settings.get("channel_mult", ())) * (1 + int(settings.get("num_blocks", 1))) > tensors:
        raise CheckpointError("it describes more blocks than it has tensors: the file is damaged, fetch it again")
    return channels, side, side


def _times(schedule: VarianceExploding, sigmas: Tensor) -> Tensor:
    """The times of those noise scales that a network knows and the schedule reaches."""
    low, high = schedule.sigma_min, schedule.sigma_max
    times = ((sigmas / low).log() / math.log(high / low)).round(decimals=12)  # 0 and 1 at its ends, not nearly
    return times[(times >= 0) & (times <= 1)]
