"""Networks without memory for their weights, which come from a file or are only counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FILLS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class _Undrawn(TorchFunctionMode):
    """Draws nothing on the "meta" device: torch imports its compiler for that, which takes seconds."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS:
            filled: Tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if filled.is_meta:
                return filled
        return func(*args, **kwargs)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Networks that are made inside have shapes and no weights."""
    with torch.device("meta"), _Undrawn():
        yield
