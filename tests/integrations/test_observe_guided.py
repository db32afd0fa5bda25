"""Guided pipelines: the residual reads what the network said under its condition, not the guided mixture."""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

import noiseshift as ns


def autoencoder():
    return AutoencoderKL(
        block_out_channels=(8,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        latent_channels=4, norm_num_groups=4, sample_size=8,
    ).eval()  # fmt: skip


def dit():
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(transformer.proj_out_2.weight, std=0.5)
    pipe = DiTPipeline(transformer, autoencoder(), DDIMScheduler(clip_sample=False, steps_offset=1))
    run = {"class_labels": [1, 2, 3, 4], "guidance_scale": 4.0, "num_inference_steps": 10, "output_type": "np"}
    return pipe, run, transformer


def stable_diffusion(scheduler):
    pytest.importorskip("transformers")  # diffusers does not hand the pipeline out without
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12, norm_num_groups=4, attention_head_dim=4,
    ).eval()  # fmt: skip
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(
        vae=autoencoder(), unet=unet, scheduler=scheduler, **parts, requires_safety_checker=False
    )
    given, empty = 30 * torch.randn(2, 4, 6, 12, generator=torch.Generator().manual_seed(3))
    run = {"prompt_embeds": given, "negative_prompt_embeds": empty, "guidance_scale": 7.5, "num_inference_steps": 10}
    return pipe, run | {"output_type": "np", "height": 8, "width": 8}, unet


CASES = {
    "dit": dit,
    "sd-ddim": lambda: stable_diffusion(DDIMScheduler(clip_sample=False, steps_offset=1)),
    "sd-euler": lambda: stable_diffusion(EulerDiscreteScheduler(steps_offset=1)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_conditional_half_is_recorded_and_its_own_samples_calibrate_it(case):
    pipe, run, network = CASES[case]()
    pipe.set_progress_bar_config(disable=True)
    recorded, calls = [], []
    network.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((kwargs, output[0])), with_kwargs=True
    )
    with ns.observe(pipe, points=100) as seen:
        original = seen.record
        seen.record = lambda x, t, prediction: (recorded.append((x, t, prediction)), original(x, t, prediction))
        pipe(**run, generator=torch.Generator().manual_seed(0))
    assert len(calls) == 10
    assert len(recorded) >= 9  # a first state at t = 1 has no level to read
    for (x, _, prediction), (_, output) in zip(recorded, calls[-len(recorded) :], strict=True):
        own = output[:4, :4] if case == "dit" else output[4:]
        assert len(x) == 4
        torch.testing.assert_close(prediction.eps, own, rtol=1e-4, atol=1e-4)
        other = output[4:, :4] if case == "dit" else output[:4]
        assert not torch.allclose(own, other, atol=1e-3)
    # On the recorded states the replayed network predicts what it predicted in the run.
    final_samples = seen.final_samples()
    assert final_samples.x.shape == (4, 4, 8, 8)
    for x, t, prediction in recorded:
        replayed = final_samples.model(x, t, final_samples.cond)
        torch.testing.assert_close(replayed.eps, prediction.eps, rtol=1e-3, atol=1e-3)
    report = seen.report()
    assert report.estimator == "residual-content"
    assert list(report.table().n.unique()) == [4]
    # Real samples have no class or text of these: the network cannot be evaluated on them.
    with pytest.raises(ValueError, match="pass model="):
        seen.report(torch.randn(8, 4, 8, 8))
