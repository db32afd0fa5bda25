"""Loops written by hand: each state meets the level that its network was handed, or is left out in one line."""

import itertools
import math

import diffusers
import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.integrations.called import NetworkCall
from noiseshift.integrations.pairing import is_of, require_label, require_time
from noiseshift.integrations.pipeline import MOST_CALLS

TABLE = {"beta_start": 1e-4, "beta_end": 0.02}
X0 = 0.5 * torch.sign(torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
SCHEDULERS = {
    "ddim": lambda: diffusers.DDIMScheduler(**TABLE, clip_sample=False, timestep_spacing="trailing"),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**TABLE, timestep_spacing="trailing"),
    "dpm": lambda: diffusers.DPMSolverMultistepScheduler(**TABLE, timestep_spacing="trailing"),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**TABLE, timestep_spacing="trailing"),
    "flow": diffusers.FlowMatchEulerDiscreteScheduler,
}


FLOWS = {
    name: lambda kind=kind: getattr(diffusers, kind)(prediction_type="flow_prediction", use_flow_sigmas=True)
    for name, kind in (("unipc, flow", "UniPCMultistepScheduler"), ("dpm, flow", "DPMSolverMultistepScheduler"))
}
"""As Wan and Sana have them: their configuration has betas too, which nothing was trained on."""


class Exact(torch.nn.Module):
    """It knows the one picture, and keeps the times that it was handed."""

    def __init__(self, scheduler):
        super().__init__()
        flow = scheduler.config.get("use_flow_sigmas")
        self.table = None if flow else getattr(scheduler, "alphas_cumprod", None)
        self.handed = []

    def forward(self, sample, timestep):
        label = float(timestep)
        self.handed.append(label)
        if self.table is None:
            return (sample - X0) / max(label / 1000, 1e-6)
        log_snr = np.interp(label, range(1000), torch.logit(self.table.double()).numpy())
        alpha, sigma = (1 / (1 + math.exp(-log_snr))) ** 0.5, (1 / (1 + math.exp(log_snr))) ** 0.5
        return (sample - alpha * X0) / sigma


class Loop:
    """A network and a scheduler, and how a loop that somebody wrote calls them."""

    def __init__(self, name, steps):
        self.scheduler = (SCHEDULERS | FLOWS)[name]()
        self.scheduler.set_timesteps(steps)
        self.unet = Exact(self.scheduler)
        self.x = self.noise(1) * float(getattr(self.scheduler, "init_noise_sigma", 1.0))

    def noise(self, seed):
        """Noise that has nothing of the picture, so that a state's level is read to rounding."""
        drawn = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
        left = drawn - (drawn * X0).mean((1, 2, 3), keepdim=True) / X0.square().mean() * X0
        return left / left.square().mean((1, 2, 3), keepdim=True).sqrt()

    def seen(self, x, label):
        scale = getattr(self.scheduler, "scale_model_input", None)
        return x if scale is None else scale(x, label)

    def step(self, label, answer=None):
        answer = self.unet(self.seen(self.x, label), label) if answer is None else answer
        self.x = self.scheduler.step(answer, label, self.x, return_dict=False)[0]


def watched(loop, run):
    """The tap, and (conditioning log-SNR, log-SNR of the state, error of the predicted picture) of what it recorded."""
    rows = []
    with torch.no_grad(), ns.observe(loop, points=100) as seen:
        record = seen.record

        def recorded(x, t, prediction):
            share = float((x * X0).mean() / X0.square().mean())
            held = 2 * math.log(max(share, 1e-6) / float((x - share * X0).square().mean().sqrt()))
            error = None if prediction is None else float((prediction.x0 - X0).square().mean().sqrt())
            rows.append((float(seen.schedule.log_snr(t)), held, error))
            record(x, t, prediction)

        seen.record = recorded
        run(loop)
    return seen, rows


def plain(loop):
    for label in loop.scheduler.timesteps:
        loop.step(label)


def every_second(loop):
    for label in loop.scheduler.timesteps[::2]:
        loop.step(label)


def resampled(loop):
    """RePaint's: a step, noise again, the step again."""
    for k, label in enumerate(loop.scheduler.timesteps[:3]):
        before = loop.x
        for again in (True, True, False):
            loop.step(label)
            if again:
                loop.x = before + 1e-3 * loop.noise(k)


def another_time(loop):
    for label in loop.scheduler.timesteps:
        loop.step(label, loop.unet(loop.seen(loop.x, label), 0.9 * label))


def the_next_label(loop):
    labels = [*loop.scheduler.timesteps, loop.scheduler.timesteps[-1]]
    for label, after in itertools.pairwise(labels):
        loop.step(label, loop.unet(loop.seen(loop.x, label), after))


def another_state(loop):
    for label in loop.scheduler.timesteps:
        loop.step(label, loop.unet(loop.seen(loop.x.flip(-1), label), label))


def second_order_by_hand(loop):
    """Adams and Bashforth's weights, of answers to two states."""
    for label in loop.scheduler.timesteps:
        first = loop.unet(loop.seen(loop.x, label), label)
        second = loop.unet(loop.seen(loop.x.flip(-1), label), label)
        loop.step(label, 1.5 * second - 0.5 * first)


COUNTED = ("euler", "dpm", "unipc", "flow")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_loop_as_a_pipeline_runs_it_is_recorded_whole(name):
    seen, rows = watched(Loop(name, 10), plain)
    assert len(rows) == 9  # the first is pure noise
    assert not seen.unpaired
    assert all(abs(conditioning - held) < 0.2 and error < 0.01 for conditioning, held, error in rows if held > -4)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flows_states_are_read_on_its_own_schedule_whatever_the_scheduler(name):
    loop = Loop(name, 10)
    seen, rows = watched(loop, plain)
    assert isinstance(seen.schedule, ns.Linear)
    assert not seen.unpaired
    np.testing.assert_allclose(seen.times, loop.scheduler.timesteps.double() / 1000, atol=1e-9)
    assert all(abs(conditioning - held) < 0.2 and error < 0.01 for conditioning, held, error in rows if held > -4)


@pytest.mark.parametrize("run", [every_second, resampled])
@pytest.mark.parametrize("name", COUNTED)
def test_a_scheduler_that_counts_otherwise_than_its_loop_is_left_out(name, run):
    """It steps from the level that it counts, while the network is handed the loop's: neither is the state's."""
    loop = Loop(name, 20)
    seen, rows = watched(loop, run)
    assert not rows
    assert "by its own count" in seen.unpaired[0]


def test_a_scheduler_without_a_count_steps_as_it_is_told_and_the_state_that_comes_is_read():
    """DDIM steps by its own stride, so a loop that skips has states with more noise than their labels: that is the shift."""
    loop = Loop("ddim", 20)
    seen, rows = watched(loop, every_second)
    assert not seen.unpaired
    labels = np.array(loop.unet.handed[1:], dtype=int)
    table = torch.logit(loop.unet.table.double()).numpy()
    np.testing.assert_allclose([conditioning for conditioning, *_ in rows], table[labels], atol=1e-3)
    assert all(held < conditioning - 0.5 for conditioning, held, _ in rows if held > -4)


def test_a_step_that_is_tried_first_is_no_second_state():
    """For a preview of the picture, say: twice the states would make intervals too narrow by a third."""

    def previewed(loop):
        for label in loop.scheduler.timesteps:
            answer = loop.unet(loop.x, label)
            loop.scheduler.step(answer, label, loop.x)
            loop.step(label, answer)

    seen, rows = watched(Loop("ddim", 10), previewed)
    assert len(rows) == 9
    assert not seen.unpaired
    assert set(seen._counts.values()) == {4}
    assert len(seen.final_samples().x) == 4


@pytest.mark.parametrize("run", [another_time, the_next_label, another_state])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_network_that_was_called_at_another_time_or_state_is_left_out(name, run):
    seen, rows = watched(Loop(name, 10), run)
    assert len(rows) <= 1  # the next label of the last is its own
    assert "the network was called" in seen.unpaired[0]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_answers_to_two_states_are_no_guidance(name):
    seen, rows = watched(Loop(name, 10), second_order_by_hand)
    assert len(rows) == len(seen.unpaired) == 9
    assert all(error is None for *_, error in rows)


def test_calls_without_a_step_are_not_kept_without_end():
    loop = Loop("ddim", 4)

    def run(loop):
        for _ in range(3 * MOST_CALLS):
            loop.unet(loop.x, loop.scheduler.timesteps[1])
        assert len(seen_calls(loop)) == MOST_CALLS
        plain(loop)

    def seen_calls(loop):
        return loop.scheduler.step.before.__self__._calls

    seen, rows = watched(loop, run)
    assert len(rows) == 3
    assert len(seen.unpaired) == 1
    assert f"called {MOST_CALLS} times or more" in seen.unpaired[0]


def call(time, states=None):
    class Network(torch.nn.Module):
        def forward(self, sample, timestep):
            return sample

    return NetworkCall(Network(), (states, time), {}, states)


@pytest.mark.parametrize(
    ("time", "label", "count"),
    [
        (981, 981.0, 1000),
        (torch.tensor(0.981), 981.0, 1000),
        (torch.tensor([0.019]).repeat(3), 981.0, 1000),
        (torch.tensor(981.0).bfloat16(), 981.0, 1000),
        (torch.tensor([981]), 981.4, 1000),
        (torch.tensor(-0.3), 981.0, 1000),  # a unit that is not known
        (torch.tensor([0.0, 981.0]), 981.0, 1000),  # one a token
        (torch.tensor(1.09), 1.09, None),
        (torch.tensor(math.exp(4 * 1.09)), 1.09, None),  # sigma
        (None, 981.0, 1000),
    ],
)
def test_times_in_the_units_of_networks_pass(time, label, count):
    require_time(call(time), label, count)


@pytest.mark.parametrize(
    ("time", "label", "count"),
    [
        (980, 981.0, 1000),
        (torch.tensor(980.9), 981.0, 1000),
        (torch.tensor(0.95), 981.0, 1000),
        (torch.tensor(0.05), 981.0, 1000),  # counted down
        (torch.tensor(970.0).half(), 981.0, 1000),
        (torch.tensor(970.0).bfloat16(), 981.0, 1000),
        (torch.tensor(0.5), 1.09, None),
        (torch.tensor(7), 8.0, 10),
    ],
)
def test_times_of_another_level_do_not(time, label, count):
    with pytest.raises(ValueError, match="where the scheduler's label is"):
        require_time(call(time), label, count)


def test_a_state_is_known_beside_an_image_and_unlike_forms_are_not_judged():
    sample, other = torch.randn(2, 2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    for states in (sample, 3 * sample.half(), torch.cat([sample, other], 1), torch.cat([other, sample], 1)):
        assert is_of(call(0, states), slice(0, 2), sample)
        assert is_of(call(0, torch.cat([states, states])), slice(2, 4), sample)
    assert is_of(call(0, other), slice(0, 2), sample) is False
    assert is_of(call(0, sample.flatten(1)), slice(0, 2), sample) is None
    assert is_of(call(0, [sample]), slice(0, 2), sample) is None


def test_a_timestep_that_half_precision_rounded_is_the_label():
    labels = [981.0, 961.0]
    for timestep in (981, torch.tensor(981.0).bfloat16(), torch.tensor([981.0, 981.0])):
        require_label(labels, 0, timestep)
    for place, timestep in ((1, 981), (0, torch.tensor([981.0, 961.0])), (2, 961), (-1, 961)):
        with pytest.raises(ValueError, match="the scheduler was called for"):
            require_label(labels, place, timestep)


def test_sigmas_above_one_are_no_levels_of_a_flow():
    loop = Loop("flow", 4)
    loop.scheduler.set_timesteps(sigmas=[80.0, 5.0, 0.5, 0.1])
    seen, rows = watched(loop, plain)
    assert not rows
    assert "exceed 1" in seen.unpaired[0]
