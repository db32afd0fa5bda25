"""Tensors and arrays out of what a pickle says of them, every number checked against the bytes that are there."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseshift.checkpoints.unpickling.guarded import Name

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "UntypedStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
SHARED = 4096
"""Elements up to which a tensor may repeat its storage's (as `expand` does)."""


def empty(size: int) -> tuple[Tensor, memoryview]:
    """Room for `size` bytes, and the view of it that a file is read into."""
    raw = torch.empty(size, dtype=torch.uint8)
    room: Any = raw.numpy()
    return raw, memoryview(room)


@dataclass
class Storage:
    """The numbers of one storage, in one row."""

    values: Tensor

    @classmethod
    def of(cls, raw: Tensor, kind: Any, count: Any) -> Storage:
        """`count` numbers of the storage class `kind` in the bytes `raw`. Raises ValueError when these are not as many."""
        dtype = DTYPES[kind.last] if isinstance(kind, Name) else None
        if dtype is None or not _whole(count) or count * dtype.itemsize != len(raw):
            raise ValueError("a storage is not as large as it claims")
        return cls(raw.view(dtype))


def _whole(*numbers: Any) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def tensor(storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2. torch's own would let the storage grow to whatever size is claimed."""
    return _view(_storage(storage).values, offset, size, stride)


def tensor_of_dtype(
    storage: Storage, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, kind: Any, *_: Any
) -> Tensor:
    """torch._utils._rebuild_tensor_v3: bytes, and the dtype that they are of."""
    dtype = getattr(torch, kind.last) if isinstance(kind, Name) else None
    if not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor is of no dtype")
    return _view(_storage(storage).values.view(torch.uint8).view(dtype), offset, size, stride)


def _storage(storage: Any) -> Storage:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    return storage


def _view(values: Tensor, offset: Any, size: Any, stride: Any) -> Tensor:
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > 64:
        raise ValueError("a tensor's shape is none")
    if not _whole(offset, *size, *stride) or max(size, default=0) > 1 << 48:
        raise ValueError("a tensor's shape is none")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else 0
    if (0 not in size and last >= len(values)) or math.prod(size) > max(len(values), SHARED):
        raise ValueError("a tensor is larger than its storage")
    return torch.empty(size, dtype=values.dtype) if 0 in size else values.as_strided(size, stride, offset)


def parameter(data: Any, *_: Any) -> Any:
    """torch._utils._rebuild_parameter, without what asks for gradients."""
    return data


class Kind:
    """A plain numeric dtype; its state may turn its bytes around, and nothing else."""

    def __init__(self, name: Any, *_: Any):
        if not isinstance(name, str) or not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248]|c(8|16))", name):
            raise ValueError("an array is of no plain number")
        self.dtype = np.dtype(name)

    def build(self, state: Any) -> None:
        order, rest = (state[1], state[2:5]) if isinstance(state, tuple) and len(state) >= 5 else (None, ())
        if order not in ("<", ">", "=", "|") or any(part is not None for part in rest):
            raise ValueError("an array is of no plain number")
        self.dtype = self.dtype.newbyteorder(order) if order in "<>" else self.dtype


def array(_: Any, shape: Any = (), __: Any = b"b") -> np.ndarray:
    """numpy's _reconstruct: an empty array, which its state fills."""
    return np.zeros(0, np.int8)


def fill_array(made: np.ndarray, state: Any) -> None:
    """An array's state: version, shape, dtype, whether columns come first, bytes. Raises ValueError when they do not fit."""
    _, shape, kind, fortran, raw = state
    if not isinstance(kind, Kind) or not isinstance(shape, tuple) or not _whole(*shape) or len(shape) > 32:
        raise ValueError("an array's shape is none")
    if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * kind.dtype.itemsize:
        raise ValueError("an array is not as large as it claims")
    # A plain dtype, and just as many bytes: numpy copies them.
    made.__setstate__((1, shape, kind.dtype, bool(fortran), raw))  # type: ignore[arg-type]


def array_of(raw: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """numpy's _frombuffer."""
    made = np.zeros(0, np.int8)
    fill_array(made, (1, shape, kind, order == "F", bytes(raw) if isinstance(raw, bytes | bytearray) else raw))
    return made


def scalar(kind: Any, raw: Any) -> Any:
    """numpy's scalar: one number."""
    if not isinstance(kind, Kind) or not isinstance(raw, bytes) or len(raw) != kind.dtype.itemsize:
        raise ValueError("a number is none")
    return np.frombuffer(raw, kind.dtype)[0]
