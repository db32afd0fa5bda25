"""The content control takes final samples of a finer run: those of a coarse one would be read as a shift of their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from noiseshift.analysis.answer import answer

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint
from noiseshift.diffusion import solvers
from noiseshift.studies.content import ROWS, finer_solver
from noiseshift.studies.cost import parts

SIZE = 64
SPREAD = torch.arange(1, SIZE + 1, dtype=torch.float64) ** -1.5


def checkpoint(counted=None):
    """A perfect model of smooth data, which coarse solvers make smoother."""
    exact = ns.targets.Gaussian(torch.zeros(SIZE, dtype=torch.float64), SPREAD).model(ns.Linear())

    def said(x, t, cond):
        if counted is not None:
            counted.append(len(x))
        return exact(x, t).x0

    return Checkpoint(
        "mine", ns.wrap(said, ns.Linear(), predicts="x0"), Card("callable"), "0" * 64, (SIZE,), 0, None, lambda x: x
    )


DATA = ns.data.Images((SPREAD.sqrt() * torch.randn(600, SIZE, generator=torch.Generator().manual_seed(0))).float())
PROTOCOL = ns.Protocol("euler:8", samples=96, estimators={"residual": None}, points=3, batch=40, calibration_rows=256)


@pytest.fixture(scope="module")
def measured():
    return ns.run(checkpoint(), PROTOCOL, DATA)


def bias(run):
    """How far the content control's shift is from the shift against the data, which a perfect model's is; near the data."""
    last = run.reports["residual"].table().iloc[-1]
    return float(last.content_shift - last["shift"]), float(last.content_high - last.content_low) / 2


def test_a_perfect_model_is_alike_against_data_and_against_its_content(measured):
    coarse, _ = bias(ns.run(checkpoint(), replace(PROTOCOL, content_steps=1), DATA))
    fine, half = bias(measured)
    assert abs(fine) < 1.5 * half
    assert abs(fine) < 0.6 * abs(coarse)


def test_it_is_said_whose_final_samples_they_are(measured):
    assert measured.manifest["content"] == "final samples of heun:16 from the same seeds"
    assert "heun:16 from the same seeds, re-noised" in answer(measured).lines[1]
    assert len(measured.reports["residual"].content) == ROWS
    assert "was content" not in " ".join(answer(measured).lines)


@pytest.mark.parametrize(
    ("word", "finer"),
    [
        ("euler:8", "heun:16"),
        ("heun:6", "heun:24"),
        ("em:5", "em:20"),
        ("ddim:5:1", "ddim:20:1"),
        ("ddpm:5", "ddpm:20"),
        (
            "diffusers/DDIMScheduler:13,timestep_spacing=linspace",
            "diffusers/DDIMScheduler:52,timestep_spacing=linspace",
        ),
        ("diffusers/DDIMScheduler:400", None),  # a table of 1,000 steps has no 1,600
    ],
)
def test_every_solver_has_a_finer_one_or_says_none(word, finer):
    found = finer_solver(ns.load("fashion-ddpm"), ns.Protocol(word))
    assert (None if found is None else found.name) == finer


def test_where_there_is_no_finer_one_the_runs_own_are_named():
    custom = solvers.Custom(6, "mine", lambda: ns.samplers.euler)
    run = ns.run(checkpoint(), replace(PROTOCOL, solver=custom, samples=12), DATA[:80])
    assert run.manifest["content"] == "the run's own final samples"
    assert len(run.reports["residual"].content) == 12


def test_batches_do_not_change_it_and_its_calls_are_foreseen():
    calls = []
    small = replace(PROTOCOL, samples=12, calibration_rows=20)
    run = ns.run(checkpoint(calls), small, DATA[:80])
    foreseen = {part.name: part.calls for part in parts(checkpoint(), small, 80)}
    assert foreseen["content control"] == 12 * 31
    assert sum(foreseen.values()) == pytest.approx(sum(calls), rel=0.02)
    again = ns.run(checkpoint(), replace(small, batch=5), DATA[:80])
    assert np.allclose(run.reports["residual"].content.t, again.reports["residual"].content.t, atol=1e-6)
