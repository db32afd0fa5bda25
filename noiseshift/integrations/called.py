"""How a pipeline called its network: enough to call it the same way on other states, or why that cannot be done."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

TIMES = ("timestep", "timesteps", "time", "t")
"""What networks call their time."""

PLAIN = (str, int, float, bool, type(None), torch.dtype)


class PerRow(NamedTuple):
    """A condition with a row for each sample.

    Attributes:
        value: (B, …).
    """

    value: Tensor


class Repeated(NamedTuple):
    """What stands in a list once for every sample, and is the same for all.

    Attributes:
        value: one of them.
    """

    value: Any


class NetworkCall(NamedTuple):
    """One call of a network.

    Attributes:
        network: which.
        args: given by place.
        kwargs: given by name.
        output: what it returned.
    """

    network: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    def arguments(self) -> dict[str, Any]:
        """Its arguments by name."""
        named = inspect.signature(unwrapped(self.network).forward).bind(*self.args, **self.kwargs).arguments
        return {**named, **named.pop("kwargs", {})}

    def first(self) -> Any:
        """Its first argument: the states."""
        return next(iter(self.arguments().values()), None)

    def time(self) -> Any:
        """What it was given as the time, or None."""
        arguments = self.arguments()
        return next((arguments[name] for name in TIMES if name in arguments), None)


class HowCalled(NamedTuple):
    """A call without its state and conditions.

    Attributes:
        first: the network's name for its input.
        label: its `timestep`, None where it takes none.
        scale: its input over the scheduler's state.
        given: everything else; what stands in a dictionary has the name "dictionary.name".
    """

    first: str
    label: Any
    scale: Tensor
    given: dict[str, Any]

    def arguments(self, inputs: Tensor, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call.

        Args:
            inputs: (B, …) the network's own.
            given: conditions by name, as in the attribute.
        """
        found: dict[str, Any] = {self.first: inputs}
        if self.label is not None:
            each = isinstance(self.label, Tensor) and self.label.ndim
            found["timestep"] = self.label.expand(len(inputs), *self.label.shape[1:]) if each else self.label
        for name, value in given.items():
            value = [value.value] * len(inputs) if isinstance(value, Repeated) else value
            outer, _, inner = name.partition(".")
            if inner:
                found.setdefault(outer, {})[inner] = value
            else:
                found[name] = value
        return found


def how_called(call: NetworkCall, part: slice, sample: Tensor) -> HowCalled:
    """Of some rows of a call.

    Args:
        call: of the network.
        part: the rows of its batch that had the condition.
        sample: (B, …) the scheduler's state that they belong to.

    Raises:
        ValueError: the network was given more of the state than the state, or something that cannot be split by rows.
    """
    arguments = call.arguments()
    rows = len(tensor_of(call.output))
    first = next(iter(arguments))
    states = arguments.pop(first)
    if not isinstance(states, Tensor) or states[part].shape != sample.shape:
        raise ValueError("it was given more than the state, an image or a mask beside it")
    mine = dict(_flat(arguments, rows, part))
    label = mine.pop("timestep", None)
    scale = (states[part].float() * sample).sum() / sample.float().square().sum()
    return HowCalled(first, label.value[:1] if isinstance(label, PerRow) else label, scale, mine)


def _flat(arguments: Mapping[str, Any], rows: int, part: slice) -> Iterator[tuple[str, Any]]:
    for name, value in arguments.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{name}.{inner}", found) for inner, found in _flat(value, rows, part))
        elif isinstance(value, Tensor) and value.ndim and len(value) == rows:
            yield name, PerRow(value[part].detach())
        elif isinstance(value, list) and len(value) == rows and _plain(value) and all(v == value[0] for v in value):
            yield name, Repeated(value[0])
        elif isinstance(value, Tensor) or not value or _plain(value):
            yield name, value
        else:
            raise ValueError(f"its {name} is a {type(value).__name__}")


def _plain(value: Any) -> bool:
    """Numbers and words, alone or in tuples and lists: the size of a grid of tokens."""
    return isinstance(value, PLAIN) or (isinstance(value, (tuple, list)) and all(_plain(part) for part in value))


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside torch.compile, DistributedDataParallel, PEFT and the like, whose own forward names its arguments.

    Args:
        network: wrapped or not.
    """
    for name in ("_orig_mod", "module", "base_model", "model"):
        kinds = {p.kind for p in inspect.signature(network.forward).parameters.values()}
        if not kinds <= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            break
        inner = network._modules.get(name)
        network = network if inner is None else unwrapped(inner)
    return network


def tensor_of(output: Any) -> Tensor:
    """A network's answer as one tensor.

    Args:
        output: a tensor, a tuple or an output whose first is one, or a list of one a sample.

    Raises:
        ValueError: it is none of these.
    """
    found = output if isinstance(output, Tensor) else output[0]
    if isinstance(found, list) and found and isinstance(found[0], Tensor):
        return torch.stack(found)
    if not isinstance(found, Tensor):
        raise ValueError(f"the network returns a {type(found).__name__}")
    return found
