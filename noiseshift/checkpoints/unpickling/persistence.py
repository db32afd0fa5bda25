"""NVIDIA's persistent objects (EDM, EDM2) as records of class name and state; their embedded source is never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from noiseshift.checkpoints.card import CheckpointError


class Record:
    """An object of a class that is not imported: its name and state.

    Args:
        class_name: As the pickle names it; cut at 60 characters.
        state: Its attributes by name; anything but a mapping counts as empty.
    """

    def __init__(self, class_name: str, state: Any = None):
        self.class_name = class_name[:60]
        self.state: Mapping[str, Any] = {}
        self.build(state)

    def build(self, state: Any) -> None:
        """Take a state, as pickles give it."""
        self.state = state if isinstance(state, Mapping) else {}

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments that the object was made with, over the attributes that it took from others."""
        found = self.state.get("_init_kwargs")
        own = {name: value for name, value in self.state.items() if not str(name).startswith("_")}
        return {**own, **(found if isinstance(found, Mapping) else {})}

    def part(self, name: str) -> Record:
        """A module inside a module. Raises CheckpointError when it is not there."""
        found = self._group("_modules").get(name)
        if not isinstance(found, Record):
            raise CheckpointError(f"its {self.class_name} has no {name}: the file is damaged, fetch it again")
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by their full names, as `state_dict` has them."""
        return dict(self._named(""))

    def _named(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        for group in ("_parameters", "_buffers"):
            yield from ((f"{prefix}{k}", v) for k, v in self._group(group).items() if isinstance(v, Tensor))
        for name, module in self._group("_modules").items():
            if isinstance(module, Record):
                yield from module._named(f"{prefix}{name}.")

    def _group(self, name: str) -> Mapping[str, Any]:
        found = self.state.get(name)
        return found if isinstance(found, Mapping) else {}


class Plain(dict[str, Any]):
    """A mapping of a user's class, as a plain one."""


def persistent(meta: Any) -> Record:
    """What `torch_utils.persistence._reconstruct_persistent_obj` is called with, its source left alone."""
    if not isinstance(meta["class_name"], str):
        raise ValueError("an object's class has no name")
    return Record(meta["class_name"], meta["state"])
