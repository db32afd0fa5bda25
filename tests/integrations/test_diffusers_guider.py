"""The guider, driven as diffusers' modular pipelines drive one."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from noiseshift.integrations.diffusers_guider import NoiseAwarenessGuidance


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
        layers_per_block=1,
    ).eval()


def denoise(guider, denoiser, x, cond, uncond, *, step=1, positional=False):
    """One step of a modular denoising loop."""
    guider.set_state(step=step, num_inference_steps=4, timestep=torch.tensor(500.0))
    batches = guider.prepare_inputs({"encoder_hidden_states": (cond, uncond)})
    with torch.no_grad():
        for batch in batches:
            guider.prepare_models(denoiser)
            text = batch.encoder_hidden_states
            if positional:
                batch.noise_pred = denoiser(x, torch.tensor(500.0), text)[0]
            else:
                batch.noise_pred = denoiser(x, timestep=torch.tensor(500.0), encoder_hidden_states=text)[0]
            guider.cleanup_models(denoiser)
    return guider(batches).pred


@pytest.mark.parametrize("positional", [True, False])
def test_the_guider_mixes_the_branches_with_and_without_the_noise_condition(denoiser, positional):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 8, 8, generator=generator)
    cond, uncond = torch.randn(2, 2, 3, 8, generator=generator)
    guider = NoiseAwarenessGuidance(scale=0.7, null_timestep=-1.0, guidance_scale=2.5)
    found = denoise(guider, denoiser, x, cond, uncond, positional=positional)
    with torch.no_grad():
        full, uninformed, free = (denoiser(x, t, text)[0] for t, text in ((500.0, cond), (-1.0, cond), (500.0, uncond)))
    torch.testing.assert_close(found, full + 0.7 * (full - uninformed) + 1.5 * (full - free))
    with torch.no_grad():
        torch.testing.assert_close(denoiser(x, 500.0, cond)[0], full)  # no hook is left behind


def test_scale_0_and_steps_outside_cost_nothing(denoiser):
    x, cond = torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 8)
    plain = denoiser(x, 500.0, cond)[0]
    off = NoiseAwarenessGuidance(scale=0.0)
    assert off.num_conditions == 1
    torch.testing.assert_close(denoise(off, denoiser, x, cond, cond), plain)
    late = NoiseAwarenessGuidance(scale=1.0, start=0.5)
    torch.testing.assert_close(denoise(late, denoiser, x, cond, cond, step=1), plain)
    assert late.num_conditions == 1
    late.set_state(step=3, num_inference_steps=4, timestep=torch.tensor(1.0))
    assert late.num_conditions == 2
    assert late.new(scale=0.2).config.scale == 0.2


def test_a_denoiser_without_a_timestep_is_refused():
    class Plain(torch.nn.Module):
        def forward(self, x):
            return x

    guider, plain = NoiseAwarenessGuidance(), Plain()
    guider.set_state(step=0, num_inference_steps=1, timestep=torch.tensor(1.0))
    for _ in range(2):
        guider.prepare_models(plain)
    with pytest.raises(ValueError, match="takes no timestep"):
        plain(torch.zeros(1))
