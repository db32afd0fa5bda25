"""Changes of one network: its time argument rounded, its forward compiled, its weights quantised. Each is a new model."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from noiseshift.diffusion.identity import identity

if TYPE_CHECKING:
    from noiseshift.networks.model import NetworkModel

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class RoundedTime:
    """A time input whose number is rounded to half precision, as a pipeline does that casts its timestep to its own dtype.

    Attributes:
        time_input: what makes the number.
        name: "bf16" or "fp16".
    """

    time_input: Callable[[Tensor], Tensor]
    name: str

    def __call__(self, t: Tensor) -> Tensor:
        number = self.time_input(t)
        return number.to(HALVES[self.name]).to(number.dtype)


def with_rounded_time(model: NetworkModel, name: str) -> NetworkModel:
    """The model, conditioned on a time that is rounded to half precision. States, weights and schedule are as they were.

    Args:
        model: Stays as it is.
        name: "bf16" or "fp16".
    """
    changed = copy.copy(model)
    changed.time_input = RoundedTime(model.time_input, name)
    return changed


class Changed(nn.Module):
    """A network that was changed in a way that its weights do not show. It is known by what it was and by what was done.

    Args:
        network: what computes.
        was: the hash of the network before, and what was done to it.
        make: makes what is called in place of the network, such as its compiled form, at the first call.
    """

    def __init__(
        self, network: nn.Module, was: Mapping[str, str], make: Callable[[nn.Module], Callable[..., Any]] | None = None
    ):
        super().__init__()
        self.network = network
        self.was = dict(was)
        self.make = make
        self._made: list[Callable[..., Any]] = []  # a list: a compiled network is no second part of this one

    def known_by(self) -> dict[str, str]:
        """What it was, and what was done: what `identity` takes in place of its parts."""
        return self.was

    def forward(self, *given: Any) -> Any:
        if not self._made:
            self._made.append(self.network if self.make is None else self.make(self.network))
        return self._made[0](*given)


def compiled(model: NetworkModel, backend: str = "inductor") -> NetworkModel:
    """The model with its network compiled by torch, when it is first called.

    Args:
        model: Stays as it is; the networks share their weights.
        backend: Of torch.compile, by name.

    Raises:
        ValueError: torch has no such backend.
    """
    from torch._dynamo import list_backends

    if backend not in list_backends(exclude_tags=None):
        raise ValueError(f"torch has no backend {backend!r} to compile for: leave it out, or choose inductor or eager")
    was = {"network": identity(model.network), "compiled": backend}
    changed = copy.copy(model)
    changed.network = Changed(model.network, was, functools.partial(torch.compile, backend=backend))
    return changed


def quantised(model: NetworkModel) -> NetworkModel:
    """The model with its linear layers' weights in int8, by torchao; activations stay. Raises ValueError where torchao is not
    installed."""
    # It warns of kernels for GPUs that it did not find.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise ValueError("int8 weights are made by torchao: pip install 'noiseshift[quantize]'") from None
    network = copy.deepcopy(model.network)
    config = Int8WeightOnlyConfig()
    quantize_(network, config)
    changed = copy.copy(model)
    changed.network = Changed(network, {"network": identity(model.network), "quantised": "int8 weights"})
    return changed
