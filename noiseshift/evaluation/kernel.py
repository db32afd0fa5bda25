"""KID (Bińkowski et al., arXiv 1801.01401): the kernel (x·y/d + 1)³ summed over all pairs of rows, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray

BLOCK = 512
"""Rows whose kernel with as many others is held at once: of a set with itself, half of the pairs of blocks are left out."""


@dataclass(frozen=True)
class KernelSums:
    """Sums of the kernel (x·y/d + 1)³.

    Attributes:
        a_a: (n,) of each row of `a` with the other rows of `a`.
        a_b: (n,) of each row of `a` with `b`.
        b_b: (m,) of each row of `b` with the other rows of `b`.
        b_a: (m,) of each row of `b` with `a`.
    """

    a_a: Array
    a_b: Array
    b_b: Array
    b_a: Array

    @property
    def distance(self) -> float:
        """The unbiased squared MMD."""
        n, m = len(self.a_a), len(self.b_b)
        return float(self.a_a.sum() / (n * (n - 1)) + self.b_b.sum() / (m * (m - 1)) - 2 * self.a_b.sum() / (n * m))


def kernel_distance(a: Array, b: Array) -> float:
    """KID: the unbiased squared MMD with the kernel (x·y/d + 1)³, over all pairs of rows of a (n, d) and b (m, d).

    Args:
        a: features (n, d).
        b: features (m, d).
    """
    return kernel_sums(a, b).distance


def kernel_sums(a: Array, b: Array, *, within: Array | None = None) -> KernelSums:
    """The kernel's sums over all pairs, in blocks, so that memory does not grow with their number.

    Args:
        a: features (n, d).
        b: features (m, d).
        within: (m,) `sums_within` of b, where they are known.
    """
    a_b, b_a = _sums(_tensor(a), _tensor(b))
    return KernelSums(sums_within(a), a_b, sums_within(b) if within is None else within, b_a)


def sums_within(values: Array) -> Array:
    """(n,) kernel of each row of values (n, d) with the other rows: the same whatever they are compared with."""
    rows = _tensor(values)
    return _sums_within(rows) - _own(rows)


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def _sums(x: Tensor, y: Tensor) -> tuple[Array, Array]:
    rows, columns = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            kernel = _kernel(x[i : i + BLOCK], y[j : j + BLOCK])
            rows[i : i + BLOCK] += kernel.sum(1)
            columns[j : j + BLOCK] += kernel.sum(0)
    return rows.numpy(), columns.numpy()


def _sums_within(x: Tensor) -> Array:
    """(n,) of each row with all rows of its own set: the kernel is symmetric, so each pair of blocks is computed once."""
    rows = torch.zeros(len(x), dtype=torch.float64)
    for i in range(0, len(x), BLOCK):
        for j in range(i, len(x), BLOCK):
            kernel = _kernel(x[i : i + BLOCK], x[j : j + BLOCK])
            rows[i : i + BLOCK] += kernel.sum(1)
            if j > i:
                rows[j : j + BLOCK] += kernel.sum(0)
    return rows.numpy()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    plain = torch.addmm(torch.ones((), dtype=x.dtype), x, y.T, alpha=1 / x.shape[1])
    return plain.square().mul_(plain)


def _own(x: Tensor) -> Array:
    kernel: Array = ((x.square().sum(1) / x.shape[1] + 1) ** 3).numpy()
    return kernel
