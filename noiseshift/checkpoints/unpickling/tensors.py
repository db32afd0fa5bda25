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
from noiseshift.reading import require_room

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
    require_room(size)
    raw = torch.empty(size, dtype=torch.uint8)
    room: Any = raw.numpy()
    return raw, memoryview(room)


@dataclass
class Storage:
    """The numbers of one storage, in one row."""

    values: Tensor

    @classmethod
    def of(cls, raw: Tensor, kind: Any, count: Any) -> Storage:
        """The numbers of a storage in its bytes.

        Args:
            raw: uint8 (bytes,); it is viewed, not copied.
            kind: The storage class as a `Name`, such as torch.FloatStorage.
            count: How many numbers.

        Raises:
            ValueError: The bytes are not as many.
        """
        dtype = DTYPES[kind.last] if isinstance(kind, Name) else None
        if dtype is None or not _whole(count) or count * dtype.itemsize != len(raw):
            raise ValueError("a storage is not as large as it claims")
        return cls(raw.view(dtype))


def _whole(*numbers: Any) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def tensor(storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2. torch's own would let the storage grow to whatever size is claimed.

    Args:
        storage: The numbers.
        offset: Place of the first, counted in numbers.
        size: The tensor's shape.
        stride: Numbers between neighbours, for each axis.
        *_: Whether it asks for gradients, hooks and metadata, none of which is used.

    Raises:
        ValueError: The numbers in the pickle are none, or go beyond the storage.
    """
    return _view(_storage(storage).values, offset, size, stride)


def tensor_of_dtype(
    storage: Storage, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, kind: Any, *_: Any
) -> Tensor:
    """torch._utils._rebuild_tensor_v3: bytes, and the dtype that they are of.

    Args:
        storage: The bytes.
        offset: Place of the first number, counted in numbers of the dtype.
        size: The tensor's shape.
        stride: Numbers between neighbours, for each axis.
        grad: Not used.
        hooks: Not used.
        kind: The dtype as a `Name`.
        *_: Metadata, not used.

    Raises:
        ValueError: There is no such dtype, or the numbers go beyond the storage.
    """
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
    """torch._utils._rebuild_parameter, without what asks for gradients.

    Args:
        data: The tensor, returned as it is.
        *_: Whether it asks for gradients, and hooks; not used.
    """
    return data


class Kind:
    """A plain numeric dtype; its state may turn its bytes around, and nothing else.

    Args:
        name: As numpy writes it: "f4", "<i8", "c16", …
        *_: What numpy's dtype takes beside; not used.

    Raises:
        ValueError: The name is of no plain number.
    """

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
    """numpy's _reconstruct: an empty array, which its state fills.

    Args:
        _: The array's class, not used.
        shape: Not used: the state has it.
        __: The type of the numbers, not used.
    """
    return np.zeros(0, np.int8)


def fill_array(made: np.ndarray, state: Any) -> None:
    """Give an array its state.

    Args:
        made: The array, changed in place.
        state: Version, shape, dtype as a `Kind`, whether columns come first, bytes.

    Raises:
        ValueError: They do not fit each other.
    """
    _, shape, kind, fortran, raw = state
    if not isinstance(kind, Kind) or not isinstance(shape, tuple) or not _whole(*shape) or len(shape) > 32:
        raise ValueError("an array's shape is none")
    if not isinstance(raw, bytes) or len(raw) != math.prod(shape) * kind.dtype.itemsize:
        raise ValueError("an array is not as large as it claims")
    # A plain dtype, and just as many bytes: numpy copies them.
    made.__setstate__((1, shape, kind.dtype, bool(fortran), raw))  # type: ignore[arg-type]


def array_of(raw: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """numpy's _frombuffer.

    Args:
        raw: The bytes.
        kind: The dtype as a `Kind`.
        shape: Of the array.
        order: "F" where columns come first, else "C".

    Raises:
        ValueError: The bytes are not as many as the shape says.
    """
    made = np.zeros(0, np.int8)
    fill_array(made, (1, shape, kind, order == "F", bytes(raw) if isinstance(raw, bytes | bytearray) else raw))
    return made


def scalar(kind: Any, raw: Any) -> Any:
    """numpy's scalar: one number.

    Args:
        kind: Its dtype as a `Kind`.
        raw: Its bytes.

    Raises:
        ValueError: The bytes are not one number.
    """
    if not isinstance(kind, Kind) or not isinstance(raw, bytes) or len(raw) != kind.dtype.itemsize:
        raise ValueError("a number is none")
    return np.frombuffer(raw, kind.dtype)[0]
