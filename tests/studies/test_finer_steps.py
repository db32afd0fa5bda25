"""More steps of a scheduler of diffusers: the same levels, and the solver's part of a shift from them."""

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.checkpoints.card import Card
from noiseshift.checkpoints.loading import Checkpoint
from noiseshift.diffusion.samplers import from_diffusers
from noiseshift.shift.refinement import Refinement
from noiseshift.studies.calls import calls_a_sample
from noiseshift.studies.finer_steps import finer_steps, passes_through
from noiseshift.studies.sampling import sampler_run
from noiseshift.studies.solver_share import _refinements, refined_calls

diffusers = pytest.importorskip("diffusers")

DIM = 64
SPECTRUM = torch.arange(1, DIM + 1).double() ** -1.5
TARGET = ns.targets.Gaussian(torch.zeros(DIM).double(), 0.25 * SPECTRUM / SPECTRUM.mean())
FLOW = "use_flow_sigmas=True,prediction_type=flow_prediction"


def checkpoint_on(schedule, model=None):
    model = model or TARGET.model(schedule)
    return Checkpoint("exact", model, Card("callable"), "0" * 64, (DIM,), 0, None, lambda x: x)


def protocol_of(word, checkpoint, samples=64):
    return ns.Protocol(ns.solver(f"diffusers/{word}").bound(checkpoint), samples)


TABLE, STRAIGHT = ns.Discrete.from_betas(), ns.Linear()


@pytest.mark.parametrize(
    ("word", "schedule", "counts", "order"),
    [
        ("DDIMScheduler:25", TABLE, (25, 50, 100), 1),
        ("DDIMScheduler:20", TABLE, (20, 40, 100), 1),  # 80 do not divide 1,000
        ("DDIMScheduler:20,timestep_spacing=trailing", TABLE, (20, 40, 100), 1),
        ("EulerDiscreteScheduler:10,use_karras_sigmas=True", TABLE, (10, 19, 37), 1),
        ("HeunDiscreteScheduler:10", TABLE, (10, 19, 37), 2),
        ("DPMSolverMultistepScheduler:10", TABLE, (10, 20, 40), 2),
        ("DDPMScheduler:25", TABLE, (25, 50, 100), 1),
        ("FlowMatchEulerDiscreteScheduler:10,shift=3.0", STRAIGHT, (10, 19, 37), 1),
        (f"UniPCMultistepScheduler:10,{FLOW}", STRAIGHT, (10, 20, 40), 2),
    ],
)
def test_more_steps_pass_through_the_same_levels(word, schedule, counts, order):
    checkpoint = checkpoint_on(schedule)
    found = finer_steps(checkpoint, protocol_of(word, checkpoint))
    assert found is not None
    assert tuple(start.args[1].steps for start in found.starts) == counts
    assert found.order == order


@pytest.mark.parametrize(
    ("word", "schedule"),
    [
        ("DDIMScheduler:40", TABLE),
        ("DDIMScheduler:900", TABLE),
        ("DDIMScheduler:20,timestep_spacing=linspace", TABLE),  # its steps are of 50 labels, which lie 52.6 apart
        ("DDIMScheduler:200,timestep_spacing=trailing", TABLE),
        ("LCMScheduler:4", TABLE),
        ("TCDScheduler:4", TABLE),
        ("FlowMatchEulerDiscreteScheduler:10,stochastic_sampling=True", STRAIGHT),
    ],
)
def test_where_no_finer_steps_do_there_are_none(word, schedule):
    checkpoint = checkpoint_on(schedule)
    protocol = protocol_of(word, checkpoint)
    assert finer_steps(checkpoint, protocol) is None
    assert refined_calls(checkpoint, protocol) == 0


def test_the_same_label_at_another_level_is_no_finer_step():
    coarse, fine = (from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler(), n) for n in (10, 19))
    assert passes_through(coarse, fine, STRAIGHT)
    fine.scheduler.sigmas[2] *= 0.98
    assert not passes_through(coarse, fine, STRAIGHT)


def test_the_calls_of_all_three_runs_are_counted():
    checkpoint = checkpoint_on(TABLE)
    assert refined_calls(checkpoint, protocol_of("DDIMScheduler:20", checkpoint)) == 160
    heun = protocol_of("HeunDiscreteScheduler:10", checkpoint)
    assert refined_calls(checkpoint, heun) == 19 + 37 + 73
    assert calls_a_sample(checkpoint, heun) == 19


def refined(checkpoint, protocol, times):
    estimator = TARGET.estimator(checkpoint.model.schedule)
    real = TARGET.sample(200, torch.Generator().manual_seed(3))
    instruments = {"exact": ns.calibrate(estimator, real, torch.tensor(times, dtype=torch.float64), seed=0)}
    run = sampler_run(checkpoint.model, checkpoint, protocol, range(protocol.samples))
    report = ns.measure(run, instruments, content=False)["exact"]
    return _refinements(checkpoint, protocol, instruments, lambda *_: None)["exact"].split(report)


@pytest.mark.parametrize(
    ("word", "schedule", "times", "shifted"),
    [
        ("DDIMScheduler:10", TABLE, (0.401, 0.201), True),
        ("DDPMScheduler:10", TABLE, (0.401, 0.201), False),  # its noise is drawn anew in each run
        ("FlowMatchEulerDiscreteScheduler:11", STRAIGHT, None, True),
    ],
)
def test_a_perfect_network_is_given_no_part(word, schedule, times, shifted):
    checkpoint = checkpoint_on(schedule)
    protocol = protocol_of(word, checkpoint)
    if times is None:
        times = protocol.solver.update().times(schedule)[[5, 8]].tolist()
    table = refined(checkpoint, protocol, times)
    assert ((table.network_low <= 0) & (table.network_high >= 0)).all(), table
    if shifted:
        assert ((table.solver_low > 0) | (table.solver_high < 0)).any(), table


def test_a_network_that_leaves_noise_is_given_its_part():
    exact = TARGET.model(TABLE)

    def leaving(x, t, cond):
        said = exact(x, t, cond)
        return said.x0 + 0.2 * said.level.sigma * said.eps

    checkpoint = checkpoint_on(TABLE, ns.wrap(leaving, TABLE, predicts="x0"))
    table = refined(checkpoint, protocol_of("DDIMScheduler:25", checkpoint), (0.401, 0.201))
    assert (table.network_low > 0).any(), table


def test_parts_under_other_factors_are_arithmetic():
    """δ = 0.02 + 0.04 / n² of n times the steps."""
    times = np.array([0.5])
    from reports import report_of

    flat = np.ones((20, 1))
    runs = np.stack([flat * (0.5 + 0.02 + 0.04 / n**2) for n in (1, 2, 5)])
    report = report_of(times, runs[0], flat * 0.5, slope=flat)
    row = Refinement("exact", 2, runs, report.calibration, (1, 2, 5)).split(report).iloc[0]
    assert row.network == pytest.approx(0.02)
    assert row.solver == pytest.approx(0.04)
    drawn = Refinement("exact", 2, runs, report.calibration, (1, 2, 5))._draws(report)
    np.testing.assert_allclose(drawn.gap, 0, atol=1e-12)
