"""Noise that never repeats: what is drawn for a sample depends on (seed, stream, index) and on nothing else.

Every sample index has a generator of its own, so neither batch size nor device count nor resume point changes its noise.
The generators are Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), a bijection of a
256-bit counter under a 128-bit key, laid out as

    key = (seed, stream),  counter = index · 2¹⁹² + position,  each of seed, stream and index in 0 … 2⁶⁴ - 1.

The layout is injective. Two indices of one seed and stream read disjoint parts of one permutation, so no 256-bit block of
theirs is the same; other seeds and streams are other permutations. Normal numbers are drawn in float64 and rounded to
float32 once.

torch's own CPU generator cannot be keyed so: `manual_seed` keeps 32 bits. What draws by torch alone, as diffusers'
schedulers do, takes a `torch_generator`, whose whole state of 19,968 bits is filled from Philox.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

# Independent uses of one seed. The numbers are part of what makes a run repeatable: never renumber.
INITIAL, SAMPLING, CALIBRATION, CONTENT, NULL, POSITIVE, FITTING, PERTURBING = range(8)
TRAINING, LEVEL_TRAINING, HELD_OUT, TARGET, PROBING, POLISHING = range(8, 14)
PREFLIGHT = 14
STREAMS = range(15)
"""All of the above."""

Source = np.random.Generator | torch.Generator
"""What one sample's noise is drawn from: `generator` makes numpy's; a user's own torch.Generator is as good."""

_WORD = 1 << 64
_TWISTER = slice(24, 24 + 8 * 624)
"""Where torch keeps the 624 words of its Mersenne Twister in a CPU generator's state."""


def generator(index: int, *, seed: int, stream: int) -> np.random.Generator:
    """The generator of one sample index.

    Args:
        index: of the sample within the run, in 0 … 2⁶⁴ - 1.
        seed: the run's, in that range.
        stream: keeps kinds of noise apart, in that range. Distinct triples draw distinct noise.

    Raises:
        ValueError: a number out of range.
    """
    key = np.array([_word("seed", seed), _word("stream", stream)], np.uint64)
    counter = np.array([0, 0, 0, _word("sample index", index)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def generators(indices: Iterable[int], *, seed: int, stream: int) -> list[np.random.Generator]:
    """One generator for each sample index; see `generator`.

    Args:
        indices: of the samples within a run, at least 0.
        seed: the run's.
        stream: keeps kinds of noise apart, one of the constants of this module.
    """
    return [generator(index, seed=seed, stream=stream) for index in indices]


def _word(name: str, value: int) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise ValueError(f"the {name} must be a whole number, got {value!r}") from None
    if not 0 <= value < _WORD:
        raise ValueError(f"the {name} must be in 0 … 2^64 - 1, got {value}")
    return value


def normal(sources: Sequence[Source], shape: Sequence[int]) -> Tensor:
    """Standard normal (len(sources), *shape), float32 on the CPU, row i drawn from source i.

    Args:
        sources: a generator per row.
        shape: of one row.
    """
    drawn = np.empty((len(sources), math.prod(shape)))
    for row, source in zip(drawn, sources, strict=True):
        if isinstance(source, torch.Generator):
            row[:] = torch.randn(len(row), generator=source, device=source.device).cpu()
        else:
            source.standard_normal(out=row)
    return torch.from_numpy(drawn).float().reshape(len(sources), *shape)


def torch_generator(source: Source) -> torch.Generator:
    """A torch CPU generator for what draws by torch alone, its whole state taken from the next 312 words of `source`.

    A torch.Generator is handed back as it is.
    """
    if isinstance(source, torch.Generator):
        return source
    words = np.frombuffer(source.bytes(4 * 624), "<u4")
    made = torch.Generator()
    state = made.manual_seed(int(words[0])).get_state()
    state[_TWISTER] = torch.from_numpy(words.astype("<u8").view(np.uint8))
    return made.set_state(state)
