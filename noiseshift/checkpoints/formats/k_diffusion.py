"""k-diffusion's training files (.pth) and slim ones (.safetensors): their config rebuilds the network, by their own code.

Networks denoise x = x0 + sigma eps under Karras et al.'s preconditioning (arXiv 2206.00364); the dropped class, where
there are classes, is the last row of their embedding.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from noiseshift.checkpoints.card import Card, CheckpointError
from noiseshift.checkpoints.files import METADATA, state_of
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.shapes import shapes_only
from noiseshift.reading import bounded

LARGEST = 1 << 16
"""Pixels a side."""


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, sigma), with the factors of arXiv 2206.00364, table 1.

    Args:
        network: F, called with the state (B, C, H, W) and sigma (B,).
        sigma_data: Standard deviation of the data.
        classes: Whether F takes a label, as class_cond.
    """

    def __init__(self, network: nn.Module, sigma_data: float, *, classes: bool):
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data
        self.classes = classes

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor, known: Tensor | None = None) -> Tensor:
        noise = sigma[:, None, None, None]
        data = self.sigma_data
        total = noise**2 + data**2
        answer = self.network(x / total.sqrt(), sigma, **({"class_cond": label} if self.classes else {}))
        return x * data**2 / total + answer * noise * data / total.sqrt()


def recognise(content: Mapping[Any, Any]) -> str | None:
    """Whether there is a k-diffusion config beside the tensors."""
    config = _config(content)
    return None if config is None else f"its config of an {str(config['model']['type'])[:40]}"


def card_of(content: Mapping[Any, Any]) -> Card | None:
    """The card that the config makes. Raises CheckpointError where it lacks the range of sigmas, or the size."""
    config = _config(content)
    if config is None:
        return None
    model = config["model"]
    size = model.get("input_size")
    if not isinstance(size, list | tuple) or len(set(size)) != 1 or size[0] not in range(1, LARGEST):
        raise CheckpointError(f"its config must have a square input_size, got {size!r}: give another file")
    low, high, data = (model.get(name, usual) for name, usual in _SIGMAS.items())
    if not all(isinstance(number, int | float) for number in (low, high, data)) or not 0 < low < high or data <= 0:
        raise CheckpointError(f"its config must have sigma_min below sigma_max, got {low!r}, {high!r}: correct it")
    return Card(
        family="k-diffusion",
        schedule={"kind": "variance-exploding", "sigma_min": low, "sigma_max": high},
        prediction="x0",
        size=size[0],
    )


_SIGMAS = {"sigma_min": None, "sigma_max": None, "sigma_data": 1.0}


def build(content: Mapping[Any, Any], card: Card) -> NetworkModel:
    """The model.

    Args:
        content: What the file holds: the tensors, and k-diffusion's config beside them.
        card: With the schedule; its size comes before the config's.

    Raises:
        CheckpointError: k-diffusion is not installed, or the tensors are not its network's.
    """
    config = _config(content)
    assert config is not None  # it was recognised by it
    state = {key: value.float() for key, value in state_of(content).items()}
    network = _network(config, state)
    rows = getattr(network, "class_emb", None)
    classes = 0 if rows is None else rows.num_embeddings - 1
    side = config["model"]["input_size"][0]
    height, width = card.sides or (side, side)
    schedule = card.build_schedule()
    return NetworkModel(
        Denoiser(network, config["model"].get("sigma_data", _SIGMAS["sigma_data"]), classes=classes > 0),
        schedule,
        card.predicts,
        lambda t: schedule.coefficients(t)[1],
        classes=classes,
        class_dropout=classes > 0 and config.get("dataset", {}).get("cond_dropout_rate", 0.1) > 0,
        noise_dropout=False,
        shape=(config["model"]["input_channels"], height, width),
    )


def _config(content: Mapping[Any, Any]) -> dict[str, Any] | None:
    """What their load_config takes, from a training file or a slim file's metadata."""
    config = content.get("config")
    words = content.get(METADATA)
    if config is None and isinstance(words, Mapping):
        try:
            config = bounded(json.loads(words.get("config", "null")))
        except (ValueError, RecursionError):
            return None
    model = config.get("model") if isinstance(config, dict) else None
    return config if isinstance(model, dict) and "type" in model else None


def _network(config: dict[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Their network, filled. Built without memory first: a config may claim any size, the tensors have theirs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports
            theirs: Any = importlib.import_module("k_diffusion.config")
    except ImportError as error:
        raise CheckpointError(
            f"k-diffusion builds its network, and cannot be imported ({error}): pip install k-diffusion"
        ) from None
    model = config["model"]
    more = [name for name in ("mapping_cond_dim", "unet_cond_dim", "cross_cond_dim") if model.get(name)]
    if more:
        raise CheckpointError(f"its network takes more than a level and a class ({more[0]}): wrap it in a function")
    depths = model.get("depths", model.get("depth", 0))
    if not all(isinstance(n, int) and n <= len(state) for n in (depths if isinstance(depths, list) else [depths])):
        raise CheckpointError(f"its config claims depths of {str(depths)[:60]}, more than it has tensors: correct it")
    try:
        whole = theirs.load_config(config)
        with shapes_only():
            shapes = {key: value.shape for key, value in theirs.make_model(whole).state_dict().items()}
        if shapes != {key: value.shape for key, value in state.items()}:
            wrong = sorted(
                key for key in {**shapes, **state} if shapes.get(key) != getattr(state.get(key), "shape", None)
            )
            raise ValueError(f"{wrong[0]} differs")
        network: nn.Module = theirs.make_model(whole)
        network.load_state_dict(state)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # their UNet's attention drops out even in evaluation: answers would be random
    except Exception as error:  # their code, on what may be anybody's config
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(
            f"its config and tensors are not a network of this k-diffusion ({reason}): install the version that trained it"
        ) from None
    return network
