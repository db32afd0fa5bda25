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


def test_an_inpainting_network_is_refused_with_the_reason(tmp_path):
    unet = tiny.text_unet()
    wide = diffusers.UNet2DConditionModel.from_config({**unet.config, "in_channels": 9})
    path = saved(tmp_path / "pipe", wide, diffusers.DDIMScheduler())
    with pytest.raises(ns.CheckpointError, match=r"takes 5 channels beside the state \(a mask") as caught:
        load(path)
    assert "\n" not in str(caught.value)
