"""EDM and EDM2 pickles into models: preconditioner and network are rebuilt from what the file says they were made with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noiseshift.checkpoints.card import Card, CheckpointError
from noiseshift.checkpoints.persistence import Record
from noiseshift.networks.edm2_unet import Edm2Config, Edm2Unet
from noiseshift.networks.edm_precondition import Edm, ImprovedDdpm, Preconditioned, VarianceExploded, VariancePreserved
from noiseshift.networks.edm_unet import DhariwalUnet, SongUnet, UnetConfig, configured
from noiseshift.networks.model import NetworkModel
from noiseshift.schedules import VarianceExploding

ADM = {"model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3, "attn_resolutions": (32, 16, 8)}
NETWORKS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "SongUNet": lambda settings: SongUnet(configured(UnetConfig, settings)),
    "DhariwalUNet": lambda settings: DhariwalUnet(configured(UnetConfig, settings, ADM)),
    "UNet": lambda settings: Edm2Unet(configured(Edm2Config, settings)),
}
# The preconditioner's class and settings by its name in the file.
PRECONDITIONERS: Mapping[str, tuple[Callable[..., Preconditioned], tuple[str, ...]]] = {
    "EDMPrecond": (Edm, ("sigma_data",)),
    "Precond": (Edm, ("sigma_data",)),  # EDM2's
    "VPPrecond": (VariancePreserved, ("beta_d", "beta_min")),
    "VEPrecond": (VarianceExploded, ()),
    "iDDPMPrecond": (ImprovedDdpm, ("C_1", "C_2")),
}
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
    except (RuntimeError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
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
    """How EDM2's encoder standardises: x = z scale + bias, a number a channel; nothing for a model of pixels."""
    encoder = content.get("encoder")
    state = encoder.state if isinstance(encoder, Record) else {}
    scale, bias = state.get("scale"), state.get("bias")
    if not (isinstance(scale, np.ndarray) and isinstance(bias, np.ndarray)):
        return {}
    return {"center": (-bias / scale).tolist(), "spread": (1 / scale).tolist()}


@_readable()
def build(content: Mapping[Any, Any], card: Card) -> NetworkModel:
    """The model in a pickle. Raises CheckpointError for a network of another kind, or tensors that do not fit."""
    record: Record = content["ema"]
    inner = _network(record)
    if inner.class_name not in NETWORKS:
        raise CheckpointError(f"its network is a {inner.class_name}: those that can be read are {', '.join(NETWORKS)}")
    settings, state = inner.settings, inner.tensors()
    with torch.device("meta"):
        network = NETWORKS[inner.class_name](settings)
    network.load_state_dict({k: v.float() for k, v in state.items() if not k.startswith(TRAINING_ONLY)}, assign=True)
    wrapped = _preconditioned(record, network)
    schedule = card.build_schedule()
    levels = None if wrapped.levels is None else _times(schedule, wrapped.levels)
    channels, side = (int(record.settings[name]) for name in ("img_channels", "img_resolution"))
    return NetworkModel(
        wrapped,
        schedule,
        card.predicts,
        lambda t: schedule.coefficients(t)[1],
        classes=wrapped.classes,
        class_dropout=float(settings.get("label_dropout") or 0) > 0,
        noise_dropout=False,
        shape=(channels, side, side),
        levels=levels,
    )


def _preconditioned(record: Record, network: nn.Module) -> Preconditioned:
    if record.class_name not in PRECONDITIONERS:
        known = ", ".join(PRECONDITIONERS)
        raise CheckpointError(f"it is a {record.class_name}: those that can be read are {known}")
    make, names = PRECONDITIONERS[record.class_name]
    settings = record.settings
    if "img_channels" not in settings or "img_resolution" not in settings:
        raise CheckpointError("its preconditioner does not say how it was made: the file is damaged, fetch it again")
    given = {name.lower(): float(settings[name]) for name in names if name in settings}
    return make(network, int(settings.get("label_dim") or 0), **given)


def _times(schedule: Any, sigmas: Tensor) -> Tensor:
    """The times of the noise scales that a network knows."""
    assert isinstance(schedule, VarianceExploding)
    inside = sigmas.clamp(schedule.sigma_min, schedule.sigma_max)
    found: Tensor = schedule.time_of_sigma(inside)
    return found
