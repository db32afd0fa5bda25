"""A scheduler rehearsed before it runs: which level each of its steps makes of an exact state and an exact prediction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from noiseshift.diffusion.families import Pair
from noiseshift.diffusion.scheduler_steps import advance, name_of, refused
from noiseshift.diffusion.steps import PerSampleNoise

if TYPE_CHECKING:
    from noiseshift.diffusion.schedulers import Scheduled


def rehearse(update: Scheduled, width: int) -> list[Pair]:
    """(alpha, sigma) that each step of a scheduler makes of an exact state and an exact prediction.

    What is drawn is known, because the same generator draws it again, so that the levels are exact. Where a step mixes in
    noise of earlier ones, its size is read from `width` numbers per row.

    Raises ValueError when a step fails, is not finite, or draws from torch's global generator.

    Args:
        update: with its timesteps set.
        width: numbers a row, a multiple of 4, where what is drawn is not known.
    """
    reached, exact = _walk(update, EXACT)
    return reached if exact else _walk(update, width)[0]


EXACT = 2**9
"""Numbers a row that are enough where the noise is known."""


def _walk(update: Scheduled, width: int) -> tuple[list[Pair], bool]:
    """The levels of `rehearse`, and whether all that was drawn is known."""
    scheduler = update._fresh()
    before = torch.get_rng_state()
    # Orthogonal signs: the state's two coefficients come apart exactly, and clipping to [-1, 1] changes nothing.
    # Opposite rows under equal noise: their difference is free of it, their sum is nothing else.
    x0 = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(1, width // 2)
    eps = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]], dtype=torch.float64).repeat(1, width // 4)
    sources = [torch.Generator().manual_seed(0) for _ in range(2)]
    noise = PerSampleNoise(sources)
    reached = []
    known = True
    try:
        for index, own in enumerate(update.levels()):
            upcoming = _upcoming(sources[0], width)
            output = update.family.answer(x0, eps, own, own)
            state = advance(scheduler, output, index, own[0] * x0 + own[1] * eps, noise).double()
            pair, exact = _split(state, x0, eps, upcoming)
            reached.append(pair)
            known = known and exact
    except Exception as error:
        raise refused(scheduler, update.steps, error) from None
    finally:
        unseeded = not torch.equal(before, torch.get_rng_state())
        torch.set_rng_state(before)
    if unseeded:
        raise ValueError(
            f"{name_of(scheduler)} is no scheduler that can be followed: it draws noise that is not seeded"
        )
    if not all(math.isfinite(a) and math.isfinite(s) and a > 0 for a, s in reached):
        raise ValueError(
            f"{name_of(scheduler)} is no scheduler that can be followed in {update.steps} steps as it is set: a state is not "
            f"finite{_zero_snr(update)}"
        )
    return reached, known


def _upcoming(source: torch.Generator, width: int) -> Tensor:
    """(2, width) the numbers that a generator draws next, in float64 and in float32, which are different ones."""
    rows = []
    for dtype in (torch.float64, torch.float32):
        ahead = torch.Generator().set_state(source.get_state())
        rows.append(torch.randn((1, width), generator=ahead, dtype=dtype).double())
    return torch.cat(rows)


def _split(state: Tensor, x0: Tensor, eps: Tensor, upcoming: Tensor) -> tuple[Pair, bool]:
    """(alpha, sigma) of a state whose two rows are opposite but for what was drawn, and whether that was `upcoming`."""
    drawn, given = (state[0] + state[1]) / 2, (state[0] - state[1]) / 2
    signal = float((given * x0[0]).mean())
    old = (given - signal * x0[0]).square().mean()
    shares = (upcoming @ drawn) / upcoming.square().sum(1)
    left = drawn - shares[:, None] * upcoming
    best = int(left.square().sum(1).argmin())
    known = bool(left[best].norm() <= 1e-3 * drawn.norm() + 1e-9)
    fresh = shares[best].square() if known else drawn.square().mean()
    return (signal, float((old + fresh).sqrt())), known


def _zero_snr(update: Scheduled) -> str:
    table = getattr(update.scheduler, "alphas_cumprod", None)
    if table is not None and float(table[-1]) == 0 and update.family.kind == "epsilon":
        return "; a zero-terminal-SNR table needs prediction_type=v_prediction or sample"
    return ""
