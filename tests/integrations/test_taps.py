"""A tap keeps its place: runs that stop early, start in the middle, or are run again, and networks that are wrapped."""

import copy
import math

import diffusers
import pytest
import torch

import noiseshift as ns
from noiseshift.integrations.called import unwrapped

X0 = 0.5 * torch.sign(torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
TABLE = {"beta_start": 1e-4, "beta_end": 0.02}


def watched(scheduler):
    """A tap whose `pairs` are (conditioning log-SNR, log-SNR of the state, whose clean picture is known)."""
    seen = ns.observe(scheduler, points=100)
    original, seen.pairs = seen.record, []

    def record(x, t, prediction):
        share = float((x * X0).mean() / X0.square().mean())
        noise = float((x - share * X0).square().mean().sqrt())
        seen.pairs.append((float(seen.schedule.log_snr(t)), 2 * math.log(share / noise)))
        original(x, t, prediction)

    seen.record = record
    return seen


def start(seed=1):
    return torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


def exact(scheduler, x, label):
    """One step with a network that knows the one picture."""
    if hasattr(scheduler, "sigmas"):
        scaled = float(scheduler.scale_model_input(torch.ones(1, dtype=torch.float64), label))
        return scheduler.step((x - X0) / math.sqrt(scaled**-2 - 1), label, x, return_dict=False)[0]
    abar = float(scheduler.alphas_cumprod[int(label)])
    return scheduler.step((x - abar**0.5 * X0) / (1 - abar) ** 0.5, label, x, return_dict=False)[0]


def image_to_image(scheduler, steps=10, strength=0.6):
    scheduler.set_timesteps(steps)
    begin = (steps - int(steps * strength)) * scheduler.order
    labels = scheduler.timesteps[begin:]
    scheduler.set_begin_index(begin)
    x = scheduler.add_noise(X0.expand(4, -1, -1, -1), start(), labels[:1])
    for label in labels:
        x = exact(scheduler, x, label)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"])
@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_a_run_that_starts_in_the_middle_is_paired_and_its_end_is_seen(name):
    scheduler = getattr(diffusers, name)(**TABLE)
    with watched(scheduler) as seen:
        image_to_image(scheduler)
        image_to_image(scheduler)
    assert len(seen.pairs) == 2 * 6
    assert all(abs(t_cond - effective) < 0.4 for t_cond, effective in seen.pairs)
    assert len(seen._ends) == 2


@pytest.mark.parametrize("reset", [True, False], ids=["set-again", "not-set-again"])
def test_runs_that_stop_early_begin_anew(reset):
    scheduler = diffusers.DDIMScheduler(**TABLE, clip_sample=False)
    scheduler.set_timesteps(20)
    with watched(scheduler) as seen:
        for seed in (1, 2):
            if reset:
                scheduler.set_timesteps(20)
            x = start(seed)
            for label in [t for t in scheduler.timesteps if 500 <= t]:
                x = exact(scheduler, x, label)
    first, second = seen.pairs[:10], seen.pairs[10:]
    assert [t_cond for t_cond, _ in first] == [t_cond for t_cond, _ in second]
    assert all(abs(effective - t_cond) < 0.6 for t_cond, effective in seen.pairs if t_cond > -6)
    assert seen.final_samples() is None


def test_pndm_in_the_middle_of_its_runge_kutta_steps_is_left_out():
    scheduler = diffusers.PNDMScheduler(**TABLE)
    scheduler.set_timesteps(10)
    x = start()
    with ns.observe(scheduler, points=100) as seen:
        for label in scheduler.timesteps[4:]:
            x = exact(scheduler, x, label)
    assert not len(seen.times)
    assert "skip_prk_steps" in seen.unpaired[0]


def unconditional(scheduler):
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).eval()  # fmt: skip
    pipe = diffusers.DDIMPipeline(net, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_scheduler_that_is_replaced_while_it_is_observed_is_said():
    pipe = unconditional(diffusers.DDIMScheduler(clip_sample=False))
    with ns.observe(pipe, points=100) as seen:
        pipe(batch_size=2, num_inference_steps=4, output_type="np")
        pipe.scheduler = diffusers.DDIMScheduler(clip_sample=False)
        pipe(batch_size=3, num_inference_steps=4, output_type="np")
    assert list(seen.report().table().n.unique()) == [2]
    assert len(seen.unpaired) == 4
    assert "another scheduler" in seen.unpaired[0]


def test_predictions_of_a_part_of_the_states_are_no_report():
    schedule = ns.Linear()
    recorder = ns.Recorder(schedule)
    x = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for t in (0.7, 0.3):
        level = schedule(torch.tensor(t, dtype=torch.float64)).like(x)
        recorder.record(x, t, ns.Prediction(x, x, level))
        recorder.record(x[:4], t)
    model = ns.wrap(lambda x, t, cond: 0 * x, schedule, predicts="x0")
    with pytest.raises(ValueError, match="known of 8 of 12 states"):
        recorder.report(torch.randn(32, 1, 4, 4, generator=torch.Generator().manual_seed(1)), model=model)


def test_a_pipeline_that_steps_a_copy_of_its_scheduler_is_said():
    """Panorama's views each have a copy."""
    scheduler = diffusers.DDIMScheduler(**TABLE, clip_sample=False)
    scheduler.set_timesteps(5)
    pipe = type("Pipe", (), {"unet": torch.nn.Identity(), "scheduler": scheduler})()
    with ns.observe(pipe) as seen:
        stepped = copy.deepcopy(scheduler)
        for t in stepped.timesteps:
            stepped.step(pipe.unet(torch.zeros(2, 1, 8, 8)), t, torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="steps a copy of it"):
        seen.report()


def test_watching_never_fails_the_run_and_says_what_it_left_out(caplog):
    scheduler = diffusers.DDIMScheduler(**TABLE, clip_sample=False)
    scheduler.set_timesteps(5)
    with ns.observe(scheduler, points=100) as seen:
        scheduler.step(torch.zeros(2, 1, 8, 8), 3, torch.zeros(2, 1, 8, 8))
    assert len(seen.unpaired) == 1
    with pytest.raises(ValueError, match="nothing was recorded"):
        seen.report(torch.zeros(8, 1, 8, 8))
    assert "none of its timesteps" in caplog.text


def test_a_step_called_by_names_runs_as_ever_and_is_seen():
    scheduler = diffusers.DDIMScheduler(**TABLE, clip_sample=False)
    scheduler.set_timesteps(5)
    state, answer = start(), start(2)
    label = scheduler.timesteps[1]
    alone = scheduler.step(model_output=answer, timestep=label, sample=state).prev_sample
    with ns.observe(scheduler, points=100) as seen:
        found = scheduler.step(sample=state, model_output=answer, timestep=label).prev_sample
        with pytest.raises(TypeError):  # the scheduler's own complaint
            scheduler.step(answer, label)
    assert torch.equal(found, alone)
    assert len(seen.times) == 1


def test_taps_stand_before_one_another_and_leave_in_any_order():
    for inner_first in (True, False):
        scheduler = diffusers.DDIMScheduler(**TABLE, clip_sample=False)
        scheduler.set_timesteps(6)
        first, second = ns.observe(scheduler, points=100), ns.observe(scheduler, points=100)
        first.__enter__()
        second.__enter__()
        x = start()
        for k, label in enumerate(scheduler.timesteps):
            x = exact(scheduler, x, label)
            if k == 2:
                (second if inner_first else first).__exit__(None, None, None)
        (first if inner_first else second).__exit__(None, None, None)
        assert "step" not in vars(scheduler)
        assert sorted([len(first.times), len(second.times)]) == [3, 6]


def test_a_copy_of_a_watched_scheduler_steps_by_itself():
    """LTX-2 copies its scheduler for the sound: both must step as if nothing watched."""
    scheduler = diffusers.EulerDiscreteScheduler(**TABLE)
    scheduler.set_timesteps(5)
    with ns.observe(scheduler, points=100) as seen:
        other = copy.deepcopy(scheduler)
        x = sound = start() * scheduler.init_noise_sigma
        for label in scheduler.timesteps:
            x, sound = exact(scheduler, x, label), exact(other, sound, label)
    torch.testing.assert_close(x, sound)
    assert len(seen.times) == 4  # the first is pure noise
    assert not seen.unpaired


def test_runs_of_unlike_batches_add_up_and_an_interrupted_one_is_refused():
    pipe = unconditional(diffusers.DDIMScheduler(clip_sample=False))
    with ns.observe(pipe, points=100) as seen:
        for rows in (2, 3):
            pipe(batch_size=rows, num_inference_steps=4, output_type="np")
    assert list(seen.report().table().n.unique()) == [5]
    assert seen.final_samples().x.shape == (5, 1, 8, 8)

    def stop(network, args, output):
        if args[1] < 500:
            raise KeyboardInterrupt

    with ns.observe(pipe, points=100) as seen:
        hook = pipe.unet.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            pipe(batch_size=2, num_inference_steps=4, output_type="np")
        hook.remove()
        pipe(batch_size=2, num_inference_steps=4, output_type="np")
    assert seen.final_samples().x.shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="differ in their times"):
        seen.report()


def test_wrapped_networks_show_their_own_signature():
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    class Network(torch.nn.Module):
        def forward(self, sample, timestep):
            return sample

    net = Network()
    assert unwrapped(Wrapper(Wrapper(net))) is net
    assert unwrapped(torch.compile(net, backend="eager")) is net
    assert unwrapped(net) is net
