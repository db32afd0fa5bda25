"""Audits of pipelines as they ran: the time that the network got, and the level of the first state."""

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

import noiseshift as ns

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    """Says nothing; what matters is what it is asked."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_states, timestep):
        return (torch.zeros_like(hidden_states),)


class Pipe:
    """The loop of diffusers' pipelines, with each of their habits of handing over the time as an option."""

    def __init__(self, scheduler, cast=None, share=False, reverse=False, off=0):
        self.scheduler, self.transformer = scheduler, Net()
        self.cast, self.share, self.reverse, self.off = cast, share, reverse, off

    def time(self, t):
        t = torch.as_tensor(t).expand(2) + self.off
        t = t if self.cast is None else t.to(self.cast)
        t = t / 1000 if self.share else t
        return 1 - t if self.reverse else t

    def __call__(self, latents, steps=10, image=None, strength=1.0):
        self.scheduler.set_timesteps(steps)
        labels = self.scheduler.timesteps
        if image is not None:
            begin = steps - int(steps * strength)
            labels = labels[begin:]
            if hasattr(self.scheduler, "set_begin_index"):
                self.scheduler.set_begin_index(begin)
            noise = getattr(self.scheduler, "scale_noise", None) or self.scheduler.add_noise
            latents = (
                noise(image, labels[:1], latents) if "scale" in noise.__name__ else noise(image, latents, labels[:1])
            )
        else:
            latents = (
                latents * self.scheduler.init_noise_sigma if hasattr(self.scheduler, "init_noise_sigma") else latents
            )
        for t in labels:
            seen = latents
            if hasattr(self.scheduler, "scale_model_input"):
                seen = self.scheduler.scale_model_input(latents, t)
            output = self.transformer(hidden_states=seen, timestep=self.time(t))[0]
            latents = self.scheduler.step(output, t, latents, return_dict=False)[0]
        return latents


def noise(seed=0):
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def watched(pipe, *args, **kwargs):
    with ns.observe(pipe) as seen:
        pipe(*args, **kwargs)
    return seen.audit()


def names(audit):
    return {finding.name for finding in audit.findings if not finding.note}


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_time_that_the_network_got_is_compared_in_labels(share, reverse):
    flow = FlowMatchEulerDiscreteScheduler()
    pipe = Pipe(flow, share=share or reverse, reverse=reverse)
    assert names(watched(pipe, noise())) == set()
    half = Pipe(flow, cast=torch.bfloat16, share=share or reverse, reverse=reverse)
    found = watched(half, noise())
    assert "half-precision" in names(found)
    assert found.levels[0].handed_as == "bfloat16"
    if not (share or reverse):
        flow.set_timesteps(10)
        assert found.table().handed.tolist() == flow.timesteps.bfloat16().double().tolist()


def test_an_audit_of_what_ran_is_the_audit_of_the_scheduler():
    for scheduler in (DDIMScheduler(clip_sample=False, timestep_spacing="linspace"), EulerDiscreteScheduler()):
        seen, alone = watched(Pipe(scheduler), noise(), 13).table(), ns.audit(scheduler, 13).table()
        for column in ("label", "state_log_snr", "reached_log_snr", "lands_off_log_snr"):
            assert seen[column].tolist() == pytest.approx(alone[column].tolist(), abs=1e-6, nan_ok=True)
    assert "step" not in vars(scheduler)
    assert "add_noise" not in vars(scheduler)


def test_a_label_that_a_loop_moves_is_seen():
    found = watched(Pipe(DDIMScheduler(clip_sample=False, timestep_spacing="trailing"), off=-1), noise())
    assert found.table().handed.tolist() == [label - 1 for label in found.table().label]
    assert "moved-labels" in names(found)
    assert "half-precision" not in names(found)


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler(), DDIMScheduler()])
def test_an_image_that_is_noised_to_its_level_starts_well_and_another_does_not(scheduler):
    image = torch.linspace(-1, 1, 16).expand(2, 4, 16, 16).contiguous()
    found = watched(Pipe(scheduler), noise(), 10, image, 0.6)
    assert found.levels[0].begin == 4
    assert not names(found) & {"image-start", "first-state", "first-level"}

    class FlowMatchWrong(type(scheduler)):  # a flow is known by its name
        def add_noise(self, original_samples, noise, timesteps):
            return super().add_noise(original_samples, 1.2 * noise, timesteps)

        def scale_noise(self, sample, timestep, noise):
            return super().scale_noise(sample, timestep, 1.2 * noise)

    if not hasattr(scheduler, "scale_noise"):
        del FlowMatchWrong.scale_noise
    else:
        del FlowMatchWrong.add_noise
    assert "image-start" in names(watched(Pipe(FlowMatchWrong.from_config(scheduler.config)), noise(), 10, image, 0.6))


def test_a_hand_over_at_the_wrong_place_is_read_off_the_first_state():
    """A second stage that begins anew with the first one's half-finished states."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    assert "first-state" not in names(watched(Pipe(scheduler), noise()))
    found = watched(Pipe(scheduler), 0.5 * noise())
    said = {finding.name: finding for finding in found.findings}["first-state"]
    assert "sigma = 0.5" in said.sentence or "sigma = 0.4" in said.sentence
    assert said.size == pytest.approx(2 * 0.693, abs=0.2)


def test_nothing_seen_says_so_and_real_pipelines_are_audited(tmp_path):
    with ns.observe(DDIMScheduler()) as seen:
        pass
    with pytest.raises(ValueError, match="nothing was seen"):
        seen.audit()
    import tiny_pipelines

    pipe = tiny_pipelines.dit(tmp_path / "dit")
    pipe.set_progress_bar_config(disable=True)
    with ns.observe(pipe) as seen:
        pipe(
            [0, 1],
            num_inference_steps=4,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        )
    found = seen.audit()
    assert isinstance(pipe, diffusers.DiTPipeline)
    assert found.levels[0].handed_as in ("int64", "float32")
    assert found.table().handed.tolist() == found.table().label.tolist()
    assert {"first-level"} <= names(found)
