"""Networks of text pipelines that take more than a state, a time and a text: a guidance scale, or a masked picture."""

import json
import math

import diffusers
import pytest
import tiny_pipelines as tiny
import torch

import noiseshift as ns
from noiseshift.checkpoints.diffusers.conditions import Conditions

TEXTS = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))


def saved(path, unet, scheduler):
    parts = {"unet": unet, "vae": tiny.autoencoder(scaling_factor=0.18215), "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(path / name)
    index = {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index}))
    return path


def embedded(scale, width):
    """A guidance scale as the pipelines of latent consistency models embed it (diffusers' get_guidance_scale_embedding)."""
    angles = 1000 * scale * torch.exp(torch.arange(width // 2) * -(math.log(10000.0) / (width // 2 - 1)))
    return torch.cat([angles.sin(), angles.cos()])[None]


def load(path):
    return ns.load(path, embeddings=Conditions(TEXTS, None, 2), size=2 * tiny.SIDE)


@pytest.fixture(scope="module")
def consistency(tmp_path_factory):
    unet = tiny.shaken(tiny.text_unet(time_cond_proj_dim=8))
    return unet, saved(tmp_path_factory.mktemp("lcm") / "pipe", unet, diffusers.LCMScheduler())


def test_a_consistency_model_is_given_its_guidance(consistency):
    unet, path = consistency
    checkpoint = load(path)
    x, step = torch.randn(2, 4, tiny.SIDE, tiny.SIDE), 499
    scale = embedded(6.5, 8)
    label = torch.tensor([0, 1])
    with torch.no_grad():
        expected = unet(x, step, encoder_hidden_states=TEXTS[label], timestep_cond=scale.expand(2, -1)).sample
        other = unet(x, step, encoder_hidden_states=TEXTS[label], timestep_cond=scale.expand(2, -1) * 0).sample
    found = checkpoint.model(x, torch.tensor((step + 1) / 1000, dtype=torch.float64), label).eps
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, other, atol=1e-3)
    assert ns.models.UNCONDITIONAL not in checkpoint.model.branches
    assert checkpoint.card.provenance["distilled guidance"] == 7.5


def test_it_is_read_at_the_levels_that_it_was_distilled_at(consistency):
    checkpoint = load(consistency[1])
    steps = (checkpoint.model.levels * 1000 - 1).round().int().tolist()
    assert steps == list(range(19, 1000, 20))
    times = checkpoint.sampler(4).conditioning_times(checkpoint.model.schedule)
    assert all(float(checkpoint.model.snap(t)) == pytest.approx(float(t)) for t in times)


def test_a_consistency_model_is_measured_to_the_end(consistency):
    checkpoint = load(consistency[1])
    data = ns.data.Images(torch.randn(16, 4, tiny.SIDE, tiny.SIDE), torch.arange(16) % 2)
    run = ns.run(checkpoint, ns.Protocol("own:4", samples=4, points=2, estimators={"residual": None}), data)
    assert len(run.table())


def test_other_schedulers_leave_all_levels(tmp_path):
    path = saved(tmp_path / "pipe", tiny.text_unet(), diffusers.EulerDiscreteScheduler(timestep_spacing="trailing"))
    assert len(load(path).model.levels) == 1000


def test_a_tcd_model_is_read_at_its_own_levels(tmp_path):
    path = saved(tmp_path / "pipe", tiny.text_unet(), diffusers.TCDScheduler(beta_schedule="scaled_linear"))
    checkpoint = load(path)
    assert len(checkpoint.model.levels) == 50
    steps = checkpoint.sampler(4)
    times = steps.conditioning_times(checkpoint.model.schedule)
    assert (times * 1000 - 1).round().int().tolist() == [999, 759, 499, 259]
    assert all(float(checkpoint.model.snap(t)) == pytest.approx(float(t)) for t in times)


def test_a_turbo_model_is_run_at_the_four_levels_that_it_was_distilled_at(tmp_path):
    scheduler = diffusers.EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing")
    checkpoint = load(saved(tmp_path / "pipe", tiny.text_unet(), scheduler))
    times = checkpoint.sampler(4).conditioning_times(checkpoint.model.schedule)
    assert (times * 1000 - 1).round().int().tolist() == [999, 749, 499, 249]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A consistency model of pixels, with classes, as its pipeline is saved."""
    unet = tiny.unet(in_channels=3, out_channels=3, num_class_embeds=3)
    scheduler = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=40, clip_denoised=False)
    pipe = diffusers.ConsistencyModelPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    path = tmp_path_factory.mktemp("cm") / "pipe"
    pipe.save_pretrained(path)
    return pipe, ns.load(path)


def test_a_consistency_model_of_pixels_is_its_schedulers_function(pixels):
    pipe, checkpoint = pixels
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
    pipe.scheduler.set_timesteps(4)
    for place in (1, 3):
        sigma, step = pipe.scheduler.sigmas[place], pipe.scheduler.timesteps[place]
        skip, out = pipe.scheduler.get_scalings_for_boundary_condition(sigma)
        with torch.no_grad():
            expected = skip * x + out * pipe.unet(x / (sigma**2 + 0.25).sqrt(), step, class_labels=label).sample
        t = checkpoint.model.schedule.time_of_sigma(sigma.double())
        torch.testing.assert_close(checkpoint.model(x, t, label).x0, expected, rtol=1e-4, atol=1e-4)
    assert len(checkpoint.model.levels) == 40
    ends = [float(checkpoint.model.schedule(t).sigma) for t in checkpoint.model.levels[[0, -1]]]
    assert ends == pytest.approx([0.002, 80.0], rel=1e-4)


def test_its_own_sampler_draws_its_pipelines_pictures(pixels):
    pipe, checkpoint = pixels
    start = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = pipe(batch_size=2, num_inference_steps=1, latents=start, class_labels=[0, 2], output_type="pt").images
    noise = [torch.Generator().manual_seed(i) for i in range(2)]
    *_, last = ns.sample(
        checkpoint.model, 80 * start, None, update=checkpoint.sampler(1), cond=torch.tensor([0, 2]), noise=noise
    )
    torch.testing.assert_close((last.x / 2 + 0.5).clamp(0, 1), theirs, rtol=1e-4, atol=1e-4)


def test_a_consistency_model_of_pixels_is_measured_to_the_end(pixels):
    data = ns.data.Images(torch.randn(16, 3, 8, 8).clamp(-1, 1), torch.arange(16) % 3)
    run = ns.run(pixels[1], ns.Protocol("own:2", samples=4, points=2, estimators={"residual": None}), data)
    assert len(run.table())


def test_an_inpainting_network_is_refused_with_the_reason(tmp_path):
    unet = tiny.text_unet()
    wide = diffusers.UNet2DConditionModel.from_config({**unet.config, "in_channels": 9})
    path = saved(tmp_path / "pipe", wide, diffusers.DDIMScheduler())
    with pytest.raises(ns.CheckpointError, match=r"takes 5 channels beside the state \(a mask") as caught:
        load(path)
    assert "\n" not in str(caught.value)
