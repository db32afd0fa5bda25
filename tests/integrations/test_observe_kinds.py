"""Kinds of guided pipelines: three parts, perturbed parts, calls of their own, two networks, a part of the run, video."""

import functools
import inspect
import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)

import noiseshift as ns

pytest.importorskip("transformers")
ROWS, WIDTH = 2, 12
VIDEO_CODER = {"dim_mult": [1] * 4, "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
NONE = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "image_encoder")


def rows(*shape, seed=3):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


GIVEN, EMPTY = rows(2, ROWS, 6, WIDTH)
PICTURE = rows(ROWS, 3, 8, 8).clamp(-1, 1)
MASK = (rows(ROWS, 1, 8, 8) > 0).float()


def autoencoder():
    return AutoencoderKL(
        block_out_channels=(8,), down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        latent_channels=4, norm_num_groups=4, sample_size=8,
    ).eval()  # fmt: skip


def shaken(network):
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def unet(channels=4, **config):
    return shaken(UNet2DConditionModel(
        sample_size=8, in_channels=channels, out_channels=4, layers_per_block=1, block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, norm_num_groups=4, attention_head_dim=4, **config,
    ))  # fmt: skip


def stable(name, channels=4, scheduler=None, **parts):
    kind = getattr(diffusers, name)
    parts = {**{key: None for key in NONE if key in kind.__init__.__code__.co_varnames}, **parts}
    scheduler = scheduler or DDIMScheduler(clip_sample=False, steps_offset=1)
    return kind(vae=autoencoder(), unet=unet(channels), scheduler=scheduler, requires_safety_checker=False, **parts)


def large(name, **parts):
    kind = getattr(diffusers, name)
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    network = unet(**added, projection_class_embeddings_input_dim=WIDTH + 24)
    none = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return kind(vae=autoencoder(), unet=network, scheduler=EulerDiscreteScheduler(steps_offset=1), **none, **parts)


def flow(**options):
    return FlowMatchEulerDiscreteScheduler(**options)


def wan(boundary=None):
    def net():
        return shaken(diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=WIDTH,
            freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=32,
        ))  # fmt: skip

    coder = diffusers.AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    second = {"transformer_2": net(), "boundary_ratio": boundary} if boundary else {}
    return diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=coder, scheduler=flow(shift=3.0), transformer=net(), **second
    )


def flux():
    net = shaken(diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    ))  # fmt: skip
    none = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return diffusers.FluxPipeline(vae=autoencoder(), transformer=net, scheduler=flow(use_dynamic_shifting=True), **none)


def qwen():
    net = shaken(diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    ))  # fmt: skip
    coder = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4, **VIDEO_CODER
    )
    return diffusers.QwenImagePipeline(
        vae=coder, transformer=net, text_encoder=None, tokenizer=None, scheduler=flow(use_dynamic_shifting=True)
    )


def sd3():
    net = shaken(diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WIDTH, caption_projection_dim=16, pooled_projection_dim=WIDTH, pos_embed_max_size=16,
    ))  # fmt: skip
    none = dict.fromkeys(
        ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    )
    return diffusers.StableDiffusion3Pipeline(vae=autoencoder(), transformer=net, scheduler=flow(shift=3.0), **none)


def ltx():
    net = shaken(diffusers.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, patch_size=1, patch_size_t=1, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, num_layers=1, caption_channels=WIDTH,
    ))  # fmt: skip
    eight, one, half, never = (8,) * 4, (1,) * 5, (True, True, False, False), (False,) * 4
    coder = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=eight, decoder_block_out_channels=eight, layers_per_block=one,
        decoder_layers_per_block=one, spatio_temporal_scaling=half, decoder_spatio_temporal_scaling=half,
        decoder_inject_noise=(False,) * 5, upsample_residual=never, upsample_factor=(1,) * 4, patch_size=1, patch_size_t=1,
    )  # fmt: skip
    return diffusers.LTXPipeline(
        vae=coder, transformer=net, text_encoder=None, tokenizer=None, scheduler=flow(use_dynamic_shifting=True)
    )


TEXT = {"prompt_embeds": GIVEN, "negative_prompt_embeds": EMPTY, "output_type": "latent"}
SIZE = {"height": 8, "width": 8}
POOLED = {"pooled_prompt_embeds": GIVEN[:, 0], "negative_pooled_prompt_embeds": EMPTY[:, 0]}
ONES = torch.ones(ROWS, 6, dtype=torch.long)
MASKS = {"prompt_embeds_mask": ONES, "negative_prompt_embeds_mask": ONES}
ATTEND = {"prompt_attention_mask": ONES.bool(), "negative_prompt_attention_mask": ONES.bool()}
FROM = {"image": PICTURE, "strength": 0.6}
PAINT = {**SIZE, **FROM, "mask_image": MASK, "guidance_scale": 5.0}
VIDEO = {"height": 16, "width": 16, "num_frames": 5, "guidance_scale": 5.0}
LONG = {"height": 32, "width": 32, "num_frames": 9, "guidance_scale": 3.0, **ATTEND}
SKIP = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.9}


def pag():
    return stable("StableDiffusionPAGPipeline", pag_applied_layers=["mid"])


def pix2pix():
    return stable("StableDiffusionInstructPix2PixPipeline", 8)


def euler_from_image():
    return stable("StableDiffusionImg2ImgPipeline", scheduler=EulerDiscreteScheduler(steps_offset=1))


CASES = {
    "sd rescaled": (
        lambda: stable("StableDiffusionPipeline"),
        {**SIZE, "guidance_scale": 7.5, "guidance_rescale": 0.7},
    ),
    "sd image to image": (lambda: stable("StableDiffusionImg2ImgPipeline"), {**FROM, "guidance_scale": 7.5}),
    "sd image to image, euler": (euler_from_image, {**FROM, "guidance_scale": 7.5}),
    "sd inpaint, 9 channels": (lambda: stable("StableDiffusionInpaintPipeline", 9), {**PAINT, "strength": 1.0}),
    "sd inpaint, 4 channels": (lambda: stable("StableDiffusionInpaintPipeline", 4), PAINT),
    "pix2pix": (pix2pix, {"image": PICTURE, "guidance_scale": 7.5, "image_guidance_scale": 1.5}),
    "pix2pix, more image": (pix2pix, {"image": PICTURE, "guidance_scale": 1.2, "image_guidance_scale": 3.0}),
    "pag": (pag, {**SIZE, "guidance_scale": 5.0, "pag_scale": 3.0}),
    "pag alone, fading": (pag, {**SIZE, "guidance_scale": 1.0, "pag_scale": 3.0, "pag_adaptive_scale": 0.008}),
    "sdxl": (lambda: large("StableDiffusionXLPipeline"), {**SIZE, **POOLED, "guidance_scale": 5.0}),
    "sdxl, first half": (
        lambda: large("StableDiffusionXLPipeline"),
        {**SIZE, **POOLED, "guidance_scale": 5.0, "denoising_end": 0.5},
    ),
    "sdxl, second half": (
        lambda: large("StableDiffusionXLImg2ImgPipeline"),
        {**POOLED, "guidance_scale": 5.0, "denoising_start": 0.5, "image": rows(ROWS, 4, 8, 8)},
    ),
    "wan": (wan, VIDEO),
    "wan, two networks": (lambda: wan(0.5), {**VIDEO, "guidance_scale_2": 3.0}),
    "flux, true guidance": (flux, {**SIZE, **POOLED, "true_cfg_scale": 3.0}),
    "flux": (flux, {**SIZE, "pooled_prompt_embeds": GIVEN[:, 0]}),
    "qwen": (qwen, {"height": 32, "width": 32, **MASKS, "true_cfg_scale": 4.0}),
    "sd3": (sd3, {**SIZE, **POOLED, "guidance_scale": 5.0}),
    "sd3, a layer skipped": (sd3, {**SIZE, **POOLED, "guidance_scale": 5.0, **SKIP}),
    "ltx": (ltx, LONG),
    "ltx, rescaled": (ltx, {**LONG, "guidance_rescale": 0.5}),
}


def watched(pipe, run, steps=6, times=1):
    """(the observer, what it recorded, (label, state, what the network said of GIVEN) of every step by the pipeline's own hand)."""
    pipe.set_progress_bar_config(disable=True)
    calls, steps_taken, recorded = [], [], []
    hooks = [
        part.register_forward_hook(lambda net, args, kwargs, out: calls.append((kwargs, out[0])), with_kwargs=True)
        for part in (getattr(pipe, name, None) for name in ("unet", "transformer", "transformer_2"))
        if part is not None
    ]
    kind = type(pipe.scheduler)
    step = kind.step

    @functools.wraps(step)
    def own(self, output, timestep, sample, *args, **kwargs):
        steps_taken.append((float(timestep), sample.clone(), [*calls]))
        calls.clear()
        return step(self, output, timestep, sample, *args, **kwargs)

    kind.step = own
    try:
        with ns.observe(pipe, points=100) as seen:
            record = seen.record
            seen.record = lambda x, t, prediction: (recorded.append((x, t, prediction)), record(x, t, prediction))
            for k in range(times):
                pipe(**run, num_inference_steps=steps, generator=torch.Generator().manual_seed(k))
    finally:
        kind.step = step
        for hook in hooks:
            hook.remove()
    return seen, recorded, steps_taken


def said_of_the_prompt(calls, given):
    """What the network answered where it was given the prompt, the whole of it (not a call with a layer skipped)."""
    for kwargs, output in calls:
        if kwargs.get("skip_layers"):
            continue
        text = kwargs["encoder_hidden_states"]
        for k in range(len(text) // len(given)):
            part = slice(k * len(given), (k + 1) * len(given))
            if torch.equal(text[part], given):
                return output[part]
    raise AssertionError("the network was never given the prompt")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_states_meet_their_levels_and_the_conditions_own_answer(case):
    make, run = CASES[case]
    pipe = make()
    run = {**TEXT, **run}
    if case == "flux":
        del run["negative_prompt_embeds"]
    seen, recorded, steps = watched(pipe, run)
    flows = "FlowMatch" in type(pipe.scheduler).__name__
    inside = [step for step in steps if step[0] < (1000 if flows else 999)]  # pure noise has no level to read
    assert not seen.unpaired
    assert len(recorded) == len(inside) >= 2
    for (x, t, prediction), (label, state, calls) in zip(recorded, inside, strict=True):
        level = seen.schedule(t)
        if flows:
            assert float(t) == pytest.approx(label / 1000, abs=1e-6)
            ratio = 1.0
        else:
            table = pipe.scheduler.alphas_cumprod.double().numpy()
            scale = np.interp(
                label, range(1000), ((1 - table) / table) ** 0.5
            )  # as diffusers reads a label between two
            abar = 1 / (1 + scale**2)
            assert float(level.sigma) / float(level.alpha) == pytest.approx(scale, rel=0.01)
            ratio = math.sqrt(abar) if "Euler" in type(pipe.scheduler).__name__ else 1.0
        torch.testing.assert_close(x, ratio * state, rtol=1e-3, atol=1e-4)
        own = said_of_the_prompt(calls, GIVEN)
        own = prediction.eps - prediction.x0 - own if flows else prediction.eps - own
        torch.testing.assert_close(own, torch.zeros_like(own), rtol=1e-3, atol=1e-3 * float(prediction.eps.abs().max()))
    final = seen.final_samples()
    if final is None:
        assert case == "sdxl, first half"
        return
    if final.model is None:
        assert "image or a mask" in seen.without_model, seen.without_model
        with pytest.raises(ValueError, match="image or a mask"):
            seen.report()
        return
    for x, t, prediction in recorded:
        again = final.model(x, t, final.cond)
        torch.testing.assert_close(again.eps, prediction.eps, rtol=1e-3, atol=1e-3 * float(prediction.eps.abs().max()))


@pytest.mark.filterwarnings("ignore")
def test_runs_of_two_sizes_are_refused_in_a_line():
    pipe = stable("StableDiffusionPipeline")
    pipe.set_progress_bar_config(disable=True)
    with ns.observe(pipe) as seen:
        for side in (8, 16):
            pipe(**TEXT, height=side, width=side, num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="runs of one size"):
        seen.report()


@pytest.mark.filterwarnings("ignore")
def test_a_step_that_somebody_put_in_its_place_before_is_followed():
    pipe = stable("StableDiffusionPipeline")
    own = pipe.scheduler.step
    pipe.scheduler.step = lambda *given, **more: own(*given, **more)
    seen, recorded, _ = watched(pipe, {**TEXT, **SIZE, "guidance_scale": 5.0})
    assert len(recorded) == 6
    assert not seen.unpaired


STOCHASTIC = {
    "DDIMScheduler": {"eta": 0.8},
    "DDPMScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "KDPM2AncestralDiscreteScheduler": {},
    "LCMScheduler": {},
    "TCDScheduler": {"eta": 0.8},
}


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.filterwarnings("ignore")
def test_an_observed_run_is_the_run_that_was_asked_for(name):
    """Pipelines ask a step's signature whether it takes a generator and eta."""
    pipe = stable("StableDiffusionImg2ImgPipeline", scheduler=getattr(diffusers, name)())
    pipe.set_progress_bar_config(disable=True)
    run = {**TEXT, **FROM, **STOCHASTIC[name], "guidance_scale": 5.0, "num_inference_steps": 6}
    signatures = [inspect.signature(getattr(pipe.scheduler, method)) for method in ("step", "add_noise")]
    alone = pipe(**run, generator=torch.Generator().manual_seed(1)).images
    with ns.observe(pipe), ns.observe(pipe):
        assert [inspect.signature(getattr(pipe.scheduler, method)) for method in ("step", "add_noise")] == signatures
        observed = pipe(**run, generator=torch.Generator().manual_seed(1)).images
    assert torch.equal(observed, alone)


class Emptying(torch.nn.Module):
    """Like a network with adapters: it takes a list, and empties it."""

    def __init__(self, network, fails):
        super().__init__()
        self.network = network
        self.fails = fails
        self.config, self.dtype, self.add_embedding = (
            network.config,
            network.dtype,
            getattr(network, "add_embedding", None),
        )

    def forward(self, sample, timestep, encoder_hidden_states, residuals, **kwargs):
        if self.fails and not residuals:
            raise RuntimeError("nothing to add")
        found = self.network(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return (found + sum(residuals.pop() for _ in range(len(residuals))),)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_network_that_cannot_be_asked_again_is_no_model(fails):
    network = Emptying(unet(), fails)
    pipe = type("Pipe", (), {"unet": network, "scheduler": DDIMScheduler(clip_sample=False)})()
    pipe.scheduler.set_timesteps(5)
    x = torch.randn(ROWS, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    added = rows(2, ROWS, 4, 8, 8)
    with torch.no_grad(), ns.observe(pipe, points=100) as seen:
        for t in pipe.scheduler.timesteps:
            said = pipe.unet(x, t, encoder_hidden_states=GIVEN, residuals=[*added])[0]
            x = pipe.scheduler.step(said, t, x).prev_sample
    assert len(seen.times) >= 4
    assert seen.final_samples().model is None
    assert ("nothing to add" if fails else "it answers otherwise") in seen.without_model
    with pytest.raises(ValueError, match="cannot be called as in the run: called again on a state of the run"):
        seen.report()


LAYER = {"indices": [0], "fqn": "mid_block.attentions.0.transformer_blocks"}
GUIDERS = {
    "ClassifierFreeGuidance": {},
    "AdaptiveProjectedGuidance": {},
    "ClassifierFreeZeroStarGuidance": {"zero_init_steps": 0},
    "TangentialClassifierFreeGuidance": {},
    "PerturbedAttentionGuidance": {
        "perturbed_guidance_config": {**LAYER, "skip_attention": False, "skip_attention_scores": True, "skip_ff": False}
    },
    "SkipLayerGuidance": {
        "skip_layer_config": LAYER,
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 1.0,
    },
}


def modular(guider):
    """A modular SDXL from prompt embeddings to latents."""
    blocks = diffusers.modular_pipelines.StableDiffusionXLAutoBlocks()
    for name in ("text_encoder", "decode", "ip_adapter"):
        blocks.sub_blocks.pop(name)
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    network = unet(**added, projection_class_embeddings_input_dim=WIDTH + 24)
    pipe = blocks.init_pipeline()
    scheduler = EulerDiscreteScheduler(steps_offset=1)
    pipe.update_components(unet=network, vae=autoencoder(), scheduler=scheduler, guider=guider)
    return pipe


@pytest.mark.parametrize("name", GUIDERS)
@pytest.mark.filterwarnings("ignore")
def test_modular_pipelines_and_their_guiders_are_followed_or_refused(name):
    options = {
        key: diffusers.hooks.LayerSkipConfig(**value) if isinstance(value, dict) else value
        for key, value in GUIDERS[name].items()
    }
    pipe = modular(getattr(diffusers.guiders, name)(**options))
    seen, recorded, steps = watched(
        pipe, {key: TEXT[key] for key in TEXT if "embeds" in key} | {**SIZE, **POOLED}, steps=5
    )
    inside = steps[1:]  # the first is pure noise
    assert len(recorded) == len(inside) == 4
    assert sum(prediction is None for *_, prediction in recorded) == len(seen.unpaired)
    for (x, t, prediction), (_, state, calls) in zip(recorded, inside, strict=True):
        level = seen.schedule(t)
        torch.testing.assert_close(x, float(level.alpha) * state, rtol=1e-3, atol=1e-4)
        if prediction is not None:
            own = said_of_the_prompt(calls, GIVEN)  # the call that nothing is skipped in comes first
            torch.testing.assert_close(prediction.eps, own, rtol=1e-3, atol=1e-3 * float(own.abs().max()))
    assert len(seen.unpaired) < 4 or name == "ClassifierFreeZeroStarGuidance"
