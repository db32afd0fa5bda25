"""One call of a scheduler's own `step`: which calls are inside a step, what it draws from, what is said where it fails."""

import diffusers
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.noise import generators, normal
from noiseshift.diffusion.scheduler_steps import advance, internal_of, log_snr, name_of, refused
from noiseshift.diffusion.steps import PerSampleNoise, Step, finite, no_noise, predict_at


def of(name, steps, **options):
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize(
    ("scheduler", "inside"),
    [
        (of("DDIMScheduler", 3), [False] * 3),
        (of("HeunDiscreteScheduler", 3), [False, True, False, True, False]),
        (of("DPMSolverSinglestepScheduler", 4), [False, True, False, False]),
        (of("PNDMScheduler", 6), [False, True, True, True] * 3 + [False] * 3),
        (of("PNDMScheduler", 3, skip_prk_steps=True), [False, True, False, False]),
        (of("PNDMScheduler", 2, skip_prk_steps=True), [False, True, False]),
        (of("PNDMScheduler", 1, skip_prk_steps=True), [False]),
    ],
    ids=lambda each: type(each).__name__,
)
def test_which_evaluations_are_inside_a_step(scheduler, inside):
    assert internal_of(scheduler) == inside


def test_log_snr_is_finite_at_the_ends():
    assert log_snr((0.6, 0.3)) == pytest.approx(2 * torch.log(torch.tensor(2.0)).item())
    assert log_snr((1.0, 0.0)) == -log_snr((0.0, 1.0)) == pytest.approx(138.155, abs=1e-2)


def test_what_a_scheduler_fails_of_is_one_line():
    scheduler = of("DDIMScheduler", 3)
    assert name_of(scheduler) == "DDIMScheduler"
    start = "DDIMScheduler is no scheduler that can be followed in 3 steps as it is set: "
    assert str(refused(scheduler, 3, ValueError("two\n lines"))) == f"{start}two lines"
    assert str(refused(scheduler, 3, IndexError())) == f"{start}IndexError"
    assert len(str(refused(scheduler, 3, ValueError("x" * 999)))) == len(start) + 160


def test_rows_draw_from_their_own_generators_and_without_any_the_remedy_is_named():
    state, output = torch.zeros(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)

    def moved(rows):
        scheduler = of("DDPMScheduler", 5)
        noise = PerSampleNoise(generators(rows, seed=0, stream=1))
        return advance(scheduler, output[: len(rows)], 0, state[: len(rows)], noise)

    torch.testing.assert_close(moved(range(3))[1:], moved(range(1, 3)))
    assert not torch.equal(moved(range(3))[0], moved(range(3))[1])
    with pytest.raises(ValueError, match="this sampler is stochastic: pass noise="):
        advance(of("DDPMScheduler", 5), output, 0, state, no_noise)
    with pytest.raises(ValueError, match="got 2 for 3 samples"):
        advance(of("DDPMScheduler", 5), output, 0, state, PerSampleNoise(generators(range(2), seed=0, stream=1)))


def test_unclip_steps_to_its_next_label():
    """Alone it would take one step of 1000: the state would hardly move."""
    state, output = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    noise = PerSampleNoise(generators(range(1), seed=0, stream=1))
    for index in (0, 4):
        scheduler = of("UnCLIPScheduler", 5, prediction_type="epsilon", clip_sample=False)
        label = scheduler.timesteps[index]
        after = None if index == 4 else scheduler.timesteps[index + 1]
        found = advance(scheduler, output, index, state, PerSampleNoise(generators(range(1), seed=0, stream=1)))
        own = scheduler.step(
            output, label, state, prev_timestep=after, generator=noise.torch_generators, return_dict=False
        )[0]
        noise = PerSampleNoise(generators(range(1), seed=0, stream=1))
        torch.testing.assert_close(found, own)


def test_states_that_are_not_finite_are_counted_by_row():
    x = torch.zeros(4, 2, 3)
    assert finite(x, torch.tensor(0.5), "x") is x
    x[1, 0, 0] = torch.nan
    x[3] = torch.inf
    with pytest.raises(ValueError, match=r"the state is not finite at t = 0\.2500 in 2 of 4 rows: try"):
        finite(x, torch.tensor(0.25), "the state")


def test_noise_of_rows_is_like_the_state_and_goes_on():
    x = torch.zeros(3, 2, 4, dtype=torch.float64)
    noise, sources = PerSampleNoise(generators(range(3), seed=0, stream=1)), generators(range(3), seed=0, stream=1)
    for _ in range(2):
        torch.testing.assert_close(noise(x), normal(sources, (2, 4)).to(x))
    with pytest.raises(ValueError, match="got 3 for 2 samples"):
        noise(x[:2])


def test_a_state_is_of_the_run_and_of_its_first_sample_unless_it_says_otherwise():
    step = Step(0, torch.tensor(1.0), torch.zeros(1))
    assert (step.internal, step.first, step.prediction) == (False, 0, None)


@pytest.mark.parametrize("predicts", ["x0", "epsilon"])
def test_an_answer_that_is_not_finite_names_the_time_and_the_rows(predicts):
    def broken(x, t, cond):
        return torch.where(torch.arange(len(x))[:, None] == 1, torch.nan, 0.5 * x)

    model, x = ns.wrap(broken, ns.Linear(), predicts=predicts), torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"the model's answer is not finite at t = 0\.5000 in 1 of 3 rows"):
        predict_at(model, x, torch.tensor(0.5), None)
