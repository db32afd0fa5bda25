"""Latent and text-conditioned folders: every one built and saved by diffusers, loaded here, asked and sampled like there."""

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from torch.nn.attention import SDPBackend, sdpa_kernel

import noiseshift as ns
from noiseshift.checkpoints.autoencoder import encoded
from noiseshift.samplers import sample

TEXTS = ("stable_diffusion", "stable_diffusion_v", "stable_diffusion_xl", "stable_diffusion_3", "flux")
FAMILIES = ("dit", "ldm", *TEXTS)
PROMPTS = ["a red cat", "a dog on grass", "blue"]
MAKERS = {
    "stable_diffusion_v": lambda path: tiny.stable_diffusion(
        path, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    **{name: getattr(tiny, name) for name in FAMILIES if name != "stable_diffusion_v"},
}
CLASSES = torch.tensor([0, 1, 2])


@pytest.fixture(scope="module", autouse=True)
def silent():
    """Their progress bars, and what transformers says of optional packages."""
    import diffusers

    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    yield
    diffusers.logging.enable_progress_bar()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name → (their pipeline, the folder it was saved to), each built once."""
    made = {}

    def get(name):
        if name in TEXTS:
            pytest.importorskip("transformers")
        if name not in made:
            path = tmp_path_factory.mktemp(name) / "pipe"
            pipe = MAKERS[name](path)
            pipe.set_progress_bar_config(disable=True)
            made[name] = pipe, path
        return made[name]

    return get


@pytest.fixture(scope="module")
def loaded(saved):
    made = {}

    def get(name):
        if name not in made:
            options = {"prompts": PROMPTS, "size": 2 * tiny.SIDE} if name in TEXTS else {}
            made[name] = ns.load(saved(name)[1], **options)
        return made[name]

    return get


def noise(checkpoint, rows=3, seed=0):
    return torch.randn(rows, *checkpoint.shape, generator=torch.Generator().manual_seed(seed))


def by_hand(name, pipe, x, step):
    """Their network at state x of integer step `step`, called as their pipeline calls it: (alpha, sigma), output."""
    if name in ("dit", "ldm"):
        cumulative = pipe.scheduler.alphas_cumprod.double()[step]
        if name == "dit":
            said = pipe.transformer(x, timestep=torch.full((3,), step), class_labels=CLASSES).sample[:, :4]
        else:
            said = pipe.unet(x, step).sample
        return (float(cumulative**0.5), float((1 - cumulative) ** 0.5)), said
    if name in ("stable_diffusion_3", "flux"):
        sigma, t = step / 1000, torch.full((3,), float(step))
        if name == "flux":
            hidden, pooled, text_ids = pipe.encode_prompt(PROMPTS, device="cpu")
            said = pipe.transformer(
                hidden_states=pipe._pack_latents(x, *x.shape),
                timestep=t / 1000,
                guidance=torch.full((3,), 3.5),
                pooled_projections=pooled,
                encoder_hidden_states=hidden,
                txt_ids=text_ids,
                img_ids=pipe._prepare_latent_image_ids(3, tiny.SIDE // 2, tiny.SIDE // 2, "cpu", torch.float32),
                return_dict=False,
            )[0]
            return (1 - sigma, sigma), pipe._unpack_latents(said, 16, 16, pipe.vae_scale_factor)
        hidden, _, pooled, _ = pipe.encode_prompt(PROMPTS, None, None)
        said = pipe.transformer(x, timestep=t, encoder_hidden_states=hidden, pooled_projections=pooled).sample
        return (1 - sigma, sigma), said
    return by_unet(name, pipe, x, step)


def by_unet(name, pipe, x, step):
    cumulative = pipe.scheduler.alphas_cumprod.double()[step]
    alpha, sigma = float(cumulative**0.5), float((1 - cumulative) ** 0.5)
    options = {}
    if name == "stable_diffusion_xl":
        hidden, _, pooled, _ = pipe.encode_prompt(PROMPTS, device="cpu")
        sizes = pipe._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, 16)
        options = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes.repeat(3, 1)}}
        pipe.scheduler.set_timesteps(1000)
        label = pipe.scheduler.timesteps[pipe.scheduler.timesteps.long() == step][0]
        seen = pipe.scheduler.scale_model_input(x / alpha, label)  # their states are x0 + sigma eps
        torch.testing.assert_close(seen, x, rtol=1e-4, atol=1e-5)
    else:
        hidden, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    return (alpha, sigma), pipe.unet(x, step, encoder_hidden_states=hidden, **options).sample


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("step", [1, 50, 500, 950])
def test_a_folder_predicts_what_its_network_says(name, step, saved, loaded):
    pipe, checkpoint = saved(name)[0], loaded(name)
    x = noise(checkpoint)
    with torch.no_grad():
        (alpha, sigma), said = by_hand(name, pipe, x, step)
        t = step / 1000 if name in ("stable_diffusion_3", "flux") else (step + 1) / 1000
        found = checkpoint.model(x, torch.tensor(t, dtype=torch.float64), CLASSES if checkpoint.classes else None)
    torch.testing.assert_close(
        (float(found.level.alpha), float(found.level.sigma)), (alpha, sigma), rtol=1e-6, atol=1e-7
    )
    spaces = {"epsilon": found.eps, "velocity": found.velocity, "v_prediction": found.v}
    torch.testing.assert_close(spaces[checkpoint.model.predicts], said, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TEXTS)
def test_the_class_blind_branch_is_what_their_guidance_calls_unconditional(name, saved, loaded):
    pipe, checkpoint = saved(name)[0], loaded(name)
    bank = checkpoint.model.network.bank
    if name == "flux":
        null = pipe.encode_prompt([""], device="cpu")[0]
    elif name == "stable_diffusion_3":
        null = pipe.encode_prompt("a", None, None)[1]
    else:
        null = pipe.encode_prompt("a", "cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)[1]
    torch.testing.assert_close(bank.hidden[-1:], null, rtol=1e-4, atol=1e-4)
    if name == "stable_diffusion_xl":
        assert not bank.hidden[-1].any()
    x = noise(checkpoint)
    blind, known = checkpoint.model.predict(
        x, torch.tensor(0.5), CLASSES, [ns.Branch(condition=False), ns.Branch(condition=True)]
    )
    assert float((blind.x0 - known.x0).abs().max()) > 1e-3
    torch.testing.assert_close(checkpoint.model(x, torch.tensor(0.5)).x0, blind.x0)


def their_pictures(name, pipe, x, steps):
    if name in ("dit", "ldm"):
        options = {"generator": torch.Generator().manual_seed(0), "num_inference_steps": steps, "output_type": "np"}
        if name == "dit":
            return pipe([0, 1, 2], guidance_scale=1.0, **options).images
        return pipe(batch_size=3, **options).images
    latents = pipe._pack_latents(x, *x.shape) if name == "flux" else x
    options = {"guidance_scale": 3.5 if name == "flux" else 1.0, "height": 16, "width": 16, "output_type": "np"}
    return pipe(PROMPTS, latents=latents, num_inference_steps=steps, **options).images


@pytest.mark.parametrize("name", FAMILIES)
def test_own_scheduler_draws_their_pictures(name, saved, loaded):
    """The whole way: their scheduler through ours, our decoding, from the same latents, guidance off."""
    pipe, checkpoint = saved(name)[0], loaded(name)
    x = noise(checkpoint)
    theirs = torch.from_numpy(their_pictures(name, pipe, x.clone(), 4)).permute(0, 3, 1, 2)
    cond = CLASSES if checkpoint.classes else None
    *_, last = sample(checkpoint.model, x, None, update=checkpoint.sampler(4), cond=cond)
    ours = (checkpoint.decode(last.x) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert float(theirs.std()) > 0.01


def test_a_shifted_flow_is_told_the_sigmas_it_visits(saved, loaded):
    for name in ("stable_diffusion_3", "flux"):
        pipe, checkpoint = saved(name)[0], loaded(name)
        x = noise(checkpoint)
        their_pictures(name, pipe, x, 5)
        steps = list(sample(checkpoint.model, x, None, update=checkpoint.sampler(5), cond=CLASSES))
        told = torch.stack([step.t for step in steps[:-1]])
        torch.testing.assert_close(told.float(), pipe.scheduler.sigmas[:-1], rtol=0, atol=1e-6)
        assert not torch.allclose(told.diff(), told.diff().mean(), rtol=0.01)  # shifted: not even


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_mode_derivatives_go_through_every_network(name, loaded):
    """What Fokker–Planck needs: no fallback to differences, which half their digits would be lost in."""
    checkpoint = loaded(name)
    x, along = noise(checkpoint), noise(checkpoint, seed=1)
    cond = CLASSES if checkpoint.classes else None

    def x0(y):
        return checkpoint.model(y, torch.tensor(0.4), cond).x0

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        slope = torch.func.jvp(x0, (x,), (along,))[1]
        difference = (x0(x + 1e-3 * along) - x0(x - 1e-3 * along)) / 2e-3
    torch.testing.assert_close(slope, difference, rtol=0.02, atol=0.02 * float(difference.abs().max()))


@pytest.mark.parametrize("name", ["dit", "ldm", "stable_diffusion", "stable_diffusion_3", "flux"])
def test_the_autoencoder_is_used_as_the_pipeline_uses_it(name, saved, loaded):
    pipe, checkpoint = saved(name)[0], loaded(name)
    coder = getattr(pipe, "vae", None) or pipe.vqvae
    x = noise(checkpoint)
    shift = coder.config.get("shift_factor") or 0.0
    with torch.no_grad():
        theirs = coder.decode(x / coder.config.scaling_factor + shift).sample
        pictures = torch.rand(5, 3, 16, 16) * 2 - 1
        found = coder.encode(pictures)
        mean = found.latents if name == "ldm" else found.latent_dist.mean
    torch.testing.assert_close(checkpoint.decode(x), theirs, rtol=1e-4, atol=1e-4)
    states = checkpoint.autoencoder.encode(pictures)
    torch.testing.assert_close(states, (mean - shift) * coder.config.scaling_factor, rtol=1e-4, atol=1e-5)


@pytest.fixture
def pictures(tmp_path):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear") * 255
    np.savez(tmp_path / "real.npz", images=smooth.to(torch.uint8).numpy(), labels=np.arange(24) % 3)
    return tmp_path / "real.npz"


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("name", FAMILIES)
def test_measure_runs_to_the_end(name, saved, pictures, tmp_path):
    folder, words = saved(name)[1], []
    if name in TEXTS:
        (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
        words = ["--prompts", tmp_path / "prompts.txt", "--size", 16]
    if name == "dit":  # five classes, of which the pictures show three
        np.savez(pictures, images=ns.data.load_images(pictures).pixels.numpy(), labels=np.arange(24) % 5)
    done = run(
        *("measure", folder, *words, "--data", pictures, "--sampler", "own:4", "--samples", 8, "--points", 2),
        *("--estimator", "residual", "--out", tmp_path / "out", "--no-progress"),
    )
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "out" / "samples.npz") as found:
        assert found[found.files[0]].shape[0] == 8
    table = ns.Run.load(tmp_path / "out").reports["residual"].table()
    assert len(table) == 2
    assert np.isfinite(table["raw"]).all()


@pytest.mark.parametrize("name", ["dit", "stable_diffusion_xl"])
def test_fokker_planck_reads_them(name, loaded, pictures):
    checkpoint = loaded(name)
    data = encoded(ns.data.load_images(pictures), checkpoint)
    estimator = ns.estimators.FokkerPlanck(
        checkpoint.model, ns.estimators.time_grid(checkpoint.model.schedule, 6, 0.05, 0.95)
    )
    level = checkpoint.model.schedule(torch.tensor(0.4)).like(data.floats)
    x = level.alpha * data.floats[:3] + level.sigma * noise(checkpoint)
    posterior = estimator(x, data.labels[:3])
    assert torch.isfinite(posterior.mean).all()
