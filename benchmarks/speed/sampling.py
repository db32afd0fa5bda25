"""Sampling, guidance and readings, against forwards of the same network."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from harness import Row, ratios

import noiseshift as ns
from noiseshift.diffusion.models import FULL, NOISE_UNCONDITIONAL, UNCONDITIONAL
from noiseshift.estimators.instrument import calibrate
from noiseshift.studies import pace
from noiseshift.studies.readers import build, read_times, split

ROWS, STEPS = 64, 12


def rows(repeats: int) -> Iterator[Row]:
    checkpoint = ns.load()
    model, cond = checkpoint.model, torch.arange(ROWS) % 10
    x = torch.randn(ROWS, *checkpoint.shape, generator=torch.Generator().manual_seed(0))
    times = ns.time_grid(model, STEPS)
    model.halving.rows = None

    @torch.inference_mode()
    def forwards(branches=(FULL,)):
        for t in times[:-1]:
            for branch in branches:
                model.predict(x, t, cond, (branch,))

    def sampled(guided):
        for _ in ns.sample(guided, x, times, cond=cond):
            pass

    yield Row(
        f"{STEPS} Euler steps over as many bare forwards", ratios(lambda: sampled(model), forwards, repeats), 1.02
    )
    yield from _guided(model, sampled, forwards, repeats)
    yield from _rows_a_forward(checkpoint, repeats)
    yield from _readings(checkpoint, repeats)


def _guided(model, sampled, forwards, repeats: int) -> Iterator[Row]:
    guided = {
        "NAG": (ns.noise_awareness(0.5), (FULL, NOISE_UNCONDITIONAL), 2.05),
        "CFG + NAG": (
            ns.classifier_free(1.0) + ns.noise_awareness(0.5),
            (FULL, UNCONDITIONAL, NOISE_UNCONDITIONAL),
            3.05,
        ),
    }
    for at_once in (None, 32):
        model.halving.rows = at_once
        how = "by default" if at_once is None else f"{at_once} rows at once"
        for name, (guidance, branches, bound) in guided.items():
            wrapped = functools.partial(sampled, ns.Guided(model, guidance))
            yield Row(f"{name} over unguided, {how}", ratios(wrapped, forwards, repeats), bound)
            in_turn = functools.partial(forwards, branches)
            yield Row(f"{name} over its branches in turn, {how}", ratios(wrapped, in_turn, repeats), 1.03)
    model.halving.rows = None


def _rows_a_forward(checkpoint, repeats: int) -> Iterator[Row]:
    """What the trial chose, against the best of all sizes, by processor time a row."""
    from harness import seconds

    protocol = ns.Protocol("euler:50", batch=512)
    chosen = pace.fastest(pace._trial(checkpoint, protocol))
    x = torch.randn(512, *checkpoint.shape, generator=torch.Generator().manual_seed(0))
    cond, sizes = torch.arange(512) % 10, (8, 16, 32, 64, 128, 256, 512)

    @torch.inference_mode()
    def through(size: int) -> None:
        for start in range(0, 512, size):
            checkpoint.model(x[start : start + size], torch.tensor(0.5), cond[start : start + size])

    cost = [{size: seconds(lambda size=size: through(size)) for size in sizes} for _ in range(max(2, repeats // 2))]
    values = [each[chosen] / min(each.values()) for each in cost]
    yield Row("a row at the rows that the trial chose, over the best size", values, 1.05, note=f"chosen: {chosen}")


def _readings(checkpoint, repeats: int) -> Iterator[Row]:
    """Reading 8 of 50 steps' states beside sampling them: what calibrated instruments cost a run."""
    data = split(ns.data.reference(), checkpoint)[0]
    for name, bound in (("residual", 1.05), ("network", 1.10)):
        protocol = ns.Protocol("euler:50", samples=16, estimators={name: None}, calibration_rows=16)
        times = read_times(checkpoint.model, protocol)
        estimator = build(checkpoint, protocol, data, times)[name]
        instrument = calibrate(estimator, data[:16].floats, times, cond=data[:16].labels)
        cond = torch.arange(16) % 10
        x = torch.randn(16, *checkpoint.shape, generator=torch.Generator().manual_seed(0))
        grid = protocol.solver.grid(checkpoint.model)

        def plain(x=x, grid=grid, cond=cond):
            for _ in ns.sample(checkpoint.model, x, grid, cond=cond):
                pass

        def read(content, x=x, grid=grid, cond=cond, instrument=instrument):
            ns.measure(ns.sample(checkpoint.model, x, grid, cond=cond), instrument, cond=cond, content=content)

        yield Row(f"{name} reading of 50 steps, without content", ratios(lambda: read(False), plain, repeats), bound)
        note = "the run's own final samples, re-noised: 8 more forwards of 50" if name == "residual" else ""
        yield Row(
            f"{name} reading of 50 steps, with content", ratios(lambda: read(True), plain, repeats), bound, note=note
        )
