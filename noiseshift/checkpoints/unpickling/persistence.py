"""NVIDIA's persistent pickles (EDM, EDM2): objects come as records of class name and state, their embedded source is never run.

Such a file holds the source code of its networks and, loaded as it is meant to be, executes it. Here a fixed list of
names is known, each harmless, and everything else is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from noiseshift.checkpoints.card import CheckpointError, HoldsCode

MARK = b"torch_utils.persistence"


class Record:
    """An object of a class that is not imported: its name and state."""

    class_name = "Record"
    state: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, *args: Any, **kwargs: Any): ...

    def __setstate__(self, state: Any) -> None:
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
    """A mapping of somebody's own class, as a plain one."""

    def __setstate__(self, state: Any) -> None: ...


def _persistent(meta: Mapping[str, Any]) -> Record:
    found = Record()
    found.class_name = str(meta["class_name"])[:60]
    found.__setstate__(meta["state"])
    return found


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    """A tensor on a storage, which torch's own function would let grow to whatever size is claimed."""
    whole = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    if math.prod(size) > len(whole):
        raise ValueError("a tensor is larger than its storage")
    return whole.as_strided(size, stride, offset)


def _parameter(data: Tensor, *rest: Any) -> Tensor:
    return data


def _harmless() -> dict[str, Any]:
    import numpy as np
    from numpy._core import multiarray, numeric

    arrays: dict[str, Any] = {}
    for core in ("core", "_core"):  # as numpy 1 and 2 name them
        arrays |= {f"numpy.{core}.multiarray.{name}": getattr(multiarray, name) for name in ("_reconstruct", "scalar")}
        arrays[f"numpy.{core}.numeric._frombuffer"] = vars(numeric)["_frombuffer"]
    return {
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
        "dnnlib.util.EasyDict": Plain,
        "collections.OrderedDict": OrderedDict,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch.storage._load_from_bytes": _storage,
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "_codecs.encode": _latin,
        **arrays,
    }


def _latin(text: str, encoding: str) -> bytes:
    """How old protocols write bytes."""
    return text.encode("latin-1")


class Reader(pickle._Unpickler):
    """Knows the names of `_harmless`, and torch's modules as records.

    The standard library's own in Python: its twin in C makes room for as many objects as a file claims to remember.
    """

    def __init__(self, stream: io.BufferedIOBase):
        super().__init__(stream)
        self.known = _harmless()

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in self.known:
            return self.known[f"{module}.{name}"]
        if module.startswith("torch.nn.modules.") and "." not in name:
            return type(name, (Record,), {"class_name": name})
        raise HoldsCode(f"{module}.{name}")


def is_persistent(path: Path) -> bool:
    """Whether a file is a pickle of persistent objects, by its first megabyte."""
    with path.open("rb") as file:
        start = file.read(1 << 20)
    return start[:1] == b"\x80" and MARK in start


def read_persistent(path: Path) -> Mapping[str, Any]:
    """What is in the pickle, objects as records. Raises CheckpointError when it names code, or is damaged."""
    try:
        with path.open("rb") as file:
            content = Reader(file).load()
    except HoldsCode as error:
        raise HoldsCode(
            f"{path.name} holds code besides its networks ({str(error)[:60]}), which is not run: give another file"
        ) from None
    except Exception:  # a damaged pickle may raise anything
        raise CheckpointError(f"{path.name} is damaged or no EDM checkpoint: fetch it again") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}: give a file with a network under 'ema'")
    return content
