"""DiT, SiT and REPA state dicts into models. They share their keys: the card says which convention they were trained in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from noiseshift.checkpoints.card import Card, CheckpointError, TimeInput
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.transformer import Transformer, config_from_state
from noiseshift.schedules import Discrete


def is_repa(state: Mapping[str, Tensor]) -> bool:
    """REPA alone has projectors, which serve its training only (arXiv 2410.06940)."""
    return any(key.startswith("projectors.") for key in state)


def is_transformer(state: Mapping[str, Tensor]) -> bool:
    """Whether these are a DiT's keys, which SiT and REPA share."""
    return "x_embedder.proj.weight" in state or any(key.startswith("blocks.") for key in state)


def transformer_model(state: Mapping[str, Tensor], card: Card) -> NetworkModel:
    """The model in `state`, computing in float32 and counting t = 0 as data.

    Raises CheckpointError when the tensors are not such a network's.
    """
    state = {k: v.float() for k, v in state.items() if not k.startswith("projectors.")}
    try:
        config = config_from_state(state, heads=card.heads, classes=card.classes)
        # Shapes only: the weights are the file's own tensors, whatever sizes it claims.
        with torch.device("meta"):
            network = Transformer(config)
        network.load_state_dict(state, assign=True)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:200]
        raise CheckpointError(
            f"the tensors do not fit a {card.family} network, use another --family: {reason}"
        ) from None
    schedule = card.build_schedule()
    return NetworkModel(
        network,
        schedule,
        card.predicts,
        time_input(card.time),
        classes=config.classes,
        class_dropout=config.class_dropout,
        noise_dropout=config.noise_dropout,
        shape=(config.channels, config.size, config.size),
        sign=-1.0 if card.time.zero == "noise" and card.prediction == "velocity" else 1.0,
        levels=schedule.times if isinstance(schedule, Discrete) else None,
    )


def time_input(time: TimeInput) -> Callable[[Tensor], Tensor]:
    """t, with 0 = data → the number that the network's time embedding was trained on."""
    return lambda t: time.scale * (t if time.zero == "data" else 1 - t) + time.offset
