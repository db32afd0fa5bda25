"""One generator a sample index: what is drawn for sample i never depends on batch size, device count or resume point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

# Independent uses of one seed. The numbers are part of what makes a run repeatable: never renumber.
INITIAL, SAMPLING, CALIBRATION, CONTENT, NULL, POSITIVE, FITTING, PERTURBING = range(8)


def generators(indices: Iterable[int], *, seed: int, stream: int) -> list[torch.Generator]:
    """One CPU generator for each sample index, independent across indices and across `stream`s of the same seed."""
    states = (np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0] for index in indices)
    return [torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states]


def normal(sources: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal (len(sources), *shape), float32, row i drawn from source i."""
    return torch.stack([torch.randn(*shape, generator=source) for source in sources])
