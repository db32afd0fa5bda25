"""Latent and text-conditioned folders: every one built and saved by diffusers, loaded here, evaluated and sampled like there."""

import json
import os
import runpy
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner
from limits import limited
from noiseshift.cli import main
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

import noiseshift as ns
from noiseshift.checkpoints.diffusers.conditions import Conditions
from noiseshift.diffusion.samplers import sample
from noiseshift.networks.transformer import Transformer, TransformerConfig

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
def test_the_unconditional_branch_is_the_one_of_their_guidance(name, saved, loaded):
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
    unconditional, known = checkpoint.model.predict(
        x, torch.tensor(0.5), CLASSES, [ns.Branch(condition=False), ns.Branch(condition=True)]
    )
    assert float((unconditional.x0 - known.x0).abs().max()) > 1e-3
    torch.testing.assert_close(checkpoint.model(x, torch.tensor(0.5)).x0, unconditional.x0)


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


def test_a_shifted_flow_is_conditioned_on_the_sigmas_it_visits(saved, loaded):
    for name in ("stable_diffusion_3", "flux"):
        pipe, checkpoint = saved(name)[0], loaded(name)
        x = noise(checkpoint)
        their_pictures(name, pipe, x, 5)
        steps = list(sample(checkpoint.model, x, None, update=checkpoint.sampler(5), cond=CLASSES))
        t_cond = torch.stack([step.t for step in steps[:-1]])
        torch.testing.assert_close(t_cond.float(), pipe.scheduler.sigmas[:-1], rtol=0, atol=1e-6)
        assert not torch.allclose(t_cond.diff(), t_cond.diff().mean(), rtol=0.01)  # shifted: not even


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_mode_derivatives_go_through_every_network(name, loaded):
    """What Fokker–Planck needs: no fallback to differences, which half their digits would be lost in."""
    checkpoint = loaded(name)
    x, along = noise(checkpoint, 1), noise(checkpoint, 1, seed=1)
    cond = CLASSES[:1] if checkpoint.classes else None

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
def test_measure_runs_to_the_end(name, saved, loaded, pictures, tmp_path):
    folder, words = saved(name)[1], []
    if name in TEXTS:
        (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
        words = ["--prompts", tmp_path / "prompts.txt", "--size", 16]
    if name in ("stable_diffusion_3", "flux"):  # hundreds of tokens of padding, which take time
        bank = loaded(name).model.network.bank
        Conditions(bank.hidden[:, :6], bank.pooled, 3).save(tmp_path / "short.safetensors")
        words = ["--embeddings", tmp_path / "short.safetensors", "--size", 16]
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


def test_fokker_planck_reads_latents(loaded, pictures):
    checkpoint = loaded("dit")
    data = checkpoint.encode(ns.data.load_images(pictures))
    times = ns.estimators.time_grid(checkpoint.model.schedule, 4, 0.05, 0.95)
    estimator = ns.estimators.FokkerPlanck(checkpoint.model, times)
    level = checkpoint.model.schedule(torch.tensor(0.4)).like(data.floats)
    x = level.alpha * data.floats[:2] + level.sigma * noise(checkpoint, 2)
    assert torch.isfinite(estimator(x, data.labels[:2]).mean).all()


@pytest.fixture
def official(tmp_path):
    """A DiT state dict of four channels, as DiT and SiT on latents have them, and an autoencoder's folder."""
    torch.manual_seed(0)
    net = Transformer(
        TransformerConfig(size=8, channels=4, patch=2, width=16, depth=1, heads=2, classes=3, out_channels=8)
    )
    torch.save(tiny.shaken(net).state_dict(), tmp_path / "model.pt")
    (tmp_path / "model.yaml").write_text("family: dit\nheads: 2\n")
    tiny.autoencoder(scaling_factor=0.18215).save_pretrained(tmp_path / "vae")
    return tmp_path / "model.pt"


SHORT = ("--sampler", "ddim:4", "--samples", 4, "--points", 2, "--estimator", "residual", "--no-progress")


def test_an_official_file_with_an_autoencoder(official, pictures):
    checkpoint = ns.load(official, vae=official.parent / "vae")
    assert checkpoint.autoencoder.scale == 0.18215
    done = run(
        "measure",
        official,
        "--vae",
        official.parent / "vae",
        "--data",
        pictures,
        *SHORT,
        "--out",
        official.parent / "o",
    )
    assert done.exit_code == 0, done.output
    assert ns.Run.load(official.parent / "o").pictures.shape == (4, 3, 16, 16)


def test_an_official_file_on_latents_without_an_autoencoder(official, pictures):
    whole = ns.load(official, vae=official.parent / "vae").encode(ns.data.load_images(pictures))
    latents = official.parent / "latents.npz"
    np.savez(latents, latents=whole.pixels.numpy(), labels=whole.labels.numpy())
    read = ns.data.load_images(latents)
    assert torch.equal(read.floats, whole.pixels)
    done = run("measure", official, "--data", latents, *SHORT, "--out", official.parent / "o")
    assert done.exit_code == 0, done.output
    kept = ns.Run.load(official.parent / "o").pictures
    assert (kept.shape, kept.dtype) == (
        (4, 4, 8, 8),
        torch.float32,
    )  # latents: no preview that a distance could be taken of
    refused = run("measure", official, "--data", pictures, *SHORT, "--out", official.parent / "p")
    assert refused.exit_code == 1
    assert "--vae" in refused.output


def test_an_estimator_is_trained_on_encoded_pictures(official, pictures):
    words = ("--vae", official.parent / "vae", "--data", pictures, "--steps", 2, "--batch", 4, "--no-progress")
    out = official.parent / "level.safetensors"
    done = run("train-estimator", official, *words, "--out", out)
    assert done.exit_code == 0, done.output
    assert ns.estimators.Network.load(out).network.config.channels == 4


def test_embeddings_come_back_as_they_were_saved(tmp_path):
    whole = Conditions(torch.randn(4, 5, 6), torch.randn(4, 7), 3)
    whole.save(tmp_path / "e.safetensors")
    np.savez(tmp_path / "e.npz", **{k: v.numpy() for k, v in load_file(tmp_path / "e.safetensors").items()})
    for name in ("e.safetensors", "e.npz"):
        back = Conditions.read(tmp_path / name)
        assert back.digest == whole.digest
        assert (back.count, back.has_null) == (3, True)
    np.savez(tmp_path / "bad.npz", prompt_embeds=np.zeros((3, 5, 6)), negative_prompt_embeds=np.zeros((1, 5, 5)))
    with pytest.raises(ns.CheckpointError, match="alike"):
        Conditions.read(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("dit", {"prompts": ["a cat"]}, "no text"),
        ("stable_diffusion", {"prompts": []}, "at least one"),
        ("stable_diffusion", {"prompts": ["a"], "embeddings": "e.npz"}, "one of them"),
        ("stable_diffusion", {"embeddings": "nothing.npz"}, "no embeddings"),
        ("stable_diffusion", {"embeddings": Conditions(torch.zeros(1, 2, 3), None, 1)}, "its own text encoders"),
        ("stable_diffusion", {"size": 15}, "multiples of 2 "),
        ("dit", {"vae": "nowhere"}, "missing"),
    ],
)
def test_what_does_not_fit_is_named(name, options, says, saved):
    with pytest.raises(ns.CheckpointError, match=says) as refusal:
        ns.load(saved(name)[1], **options)
    assert "\n" not in str(refusal.value)


def test_a_text_model_says_that_it_needs_a_text(saved, pictures):
    folder = saved("stable_diffusion")[1]
    t_cond = run("info", folder)
    assert t_cond.exit_code == 0, t_cond.output
    assert "StableDiffusionPipeline" in t_cond.output
    assert "16×16" in t_cond.output
    assert len(t_cond.output) < 3000
    refused = run("measure", folder, "--size", 16, "--data", pictures, *SHORT)
    assert refused.exit_code == 1
    assert "--prompts" in refused.output


def test_a_pipeline_with_a_part_of_its_own_making_is_not_run(saved, tmp_path):
    """The index names classes; only the known ones are looked up, and none in the folder."""
    folder = tmp_path / "pipe"
    shutil.copytree(saved("stable_diffusion")[1], folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["evil", "Evil"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "text_encoder" / "evil.py").write_text("raise SystemExit('owned')")
    with pytest.raises(ns.CheckpointError, match="Evil cannot be run"):
        ns.load(folder, prompts=["a cat"])


def closed_form(steps, exponent):
    """DDIM's linear map of a Gaussian, variance by variance, and the level most likely under what it leaves at the last
    conditioning step: effective / conditioning sigma there."""
    signal = np.arange(1, 257) ** -exponent
    table = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    variance = np.ones(256)
    t_cond = np.round(np.arange(1000, 0, -1000 / steps)).astype(int) - 1
    for step, after in zip(t_cond, t_cond[:-1] - 1000 // steps, strict=False):
        cumulative, following = table[step], table[after]
        eps = np.sqrt(1 - cumulative) / (cumulative * signal + 1 - cumulative)
        x0 = (1 - np.sqrt(1 - cumulative) * eps) / np.sqrt(cumulative)
        variance = variance * (np.sqrt(following) * x0 + np.sqrt(1 - following) * eps) ** 2
    log_nsr = np.log(1 / table[t_cond[-1]] - 1)
    levels = log_nsr + np.linspace(-1, 1, 4001)
    share = 1 / (1 + np.exp(levels))[:, None]
    total = share * signal + 1 - share
    likelihood = -(np.log(total) + variance / total).sum(1)
    return np.exp((levels[likelihood.argmax()] - log_nsr) / 2)


def test_the_shift_of_a_solver_alone_is_read_off_a_real_pipeline():
    """An exact Gaussian in a DDIMPipeline: what `observe` reads is what arithmetic says."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "pipelines.py"))
    scheduler = diffusers.DDIMScheduler(**script["UNCLIPPED"], timestep_spacing="trailing")
    found = script["ratios"](script["watched"](scheduler, 50, exponent=1.0, samples=64, points=2)).iloc[-1]
    expected = closed_form(50, 1.0)
    assert expected == pytest.approx(0.868, abs=0.001)
    assert found["step"] == 19
    assert found["half"] < 0.06
    assert found["ratio"] == pytest.approx(expected, abs=2 * found["half"])


def without_a_tensor(tensors):
    return {name: part for name, part in tensors.items() if name != sorted(tensors)[len(tensors) // 2]}


def with_another(tensors):
    return tensors | {"nobody.knows.weight": torch.zeros(2)}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("change", [without_a_tensor, with_another])
def test_weights_that_are_not_those_of_the_configuration_are_refused(name, change, saved, tmp_path):
    """The libraries leave what is missing at random and drop what they do not know, and say nothing."""
    folder = saved(name)[1]
    prompts = PROMPTS if name in TEXTS else None
    files = [file.relative_to(folder) for file in sorted(folder.glob("*/*.safetensors"))]
    if change is with_another:  # transformers' own checkpoints hold tensors that are no part of an encoder
        files = [file for file in files if not file.parts[0].startswith("text")]
    assert len(files) >= 2
    for number, file in enumerate(files):
        copy = tmp_path / f"{number}" / "pipe"
        shutil.copytree(folder, copy)
        save_file(change(load_file(copy / file)), copy / file, metadata={"format": "pt"})
        with pytest.raises(ns.CheckpointError, match=f"{file.parts[0]}: its weights") as error:
            ns.load(copy, prompts=prompts)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "edit"),
    [
        ("transformer", {"num_layers": 3}),
        ("transformer", {"attention_bias": False}),
        ("transformer", {"norm_elementwise_affine": True}),
        ("vae", {"layers_per_block": 2}),
        ("vae", {"use_quant_conv": False}),
        ("vae", {"mid_block_add_attention": False}),
    ],
)
def test_a_configuration_that_is_not_that_of_the_weights_is_refused(part, edit, saved, tmp_path):
    copy = tmp_path / "pipe"
    shutil.copytree(saved("dit")[1], copy)
    config = copy / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | edit))
    with pytest.raises(ns.CheckpointError, match=f"{part}: its weights"):
        ns.load(copy)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="names of open files are not Windows'")
@pytest.mark.parametrize("kind", ["a pipe", "another file"])
def test_what_takes_the_place_of_a_folder_s_files_is_not_read(kind, saved, tmp_path, monkeypatch):
    """diffusers and transformers open by name what was looked at before: networks, text encoders, tokenizers, and autoencoders."""
    transformers = pytest.importorskip("transformers")
    folder = shutil.copytree(saved("stable_diffusion")[1], tmp_path / "pipe")
    replaced = []

    def replacing(whole, part):
        load = whole.from_pretrained

        def from_pretrained(name, **options):
            real = folder / part
            real.rename(folder / "real")
            real.mkdir()
            for each in (folder / "real").iterdir():
                os.mkfifo(real / each.name) if kind == "a pipe" else (real / each.name).write_text("{}")
            found = load(name, **options)
            shutil.rmtree(real)
            (folder / "real").rename(real)
            replaced.append(part)
            return found

        monkeypatch.setattr(whole, "from_pretrained", from_pretrained)

    replacing(diffusers.UNet2DConditionModel, "unet")
    replacing(diffusers.AutoencoderKL, "vae")
    replacing(transformers.CLIPTextModel, "text_encoder")
    replacing(transformers.CLIPTokenizer, "tokenizer")
    with limited(60):
        found = ns.load(folder, prompts=PROMPTS, size=2 * tiny.SIDE)
    assert {"unet", "text_encoder", "tokenizer", "vae"} <= set(replaced)
    wanted = ns.load(saved("stable_diffusion")[1], prompts=PROMPTS, size=2 * tiny.SIDE)
    x, t = noise(found), torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(found.model(x, t, CLASSES).eps, wanted.model(x, t, CLASSES).eps)
    assert torch.equal(found.decode(x), wanted.decode(x))


@pytest.mark.parametrize("most", [None, 0], ids=["small", "large"])
def test_small_weights_of_a_folder_are_read_as_a_whole_and_no_bar_is_shown(most, saved, monkeypatch, capfd):
    """A file that is cut off while it is mapped into memory would end the process."""
    import safetensors.torch

    modeling = pytest.importorskip("transformers.modeling_utils")
    folder = saved("stable_diffusion")[1]
    capfd.readouterr()  # of saving it
    mapped = []
    if most is not None:
        monkeypatch.setattr("noiseshift.reading.arrays.AT_ONCE", most)
    for module, name in ((safetensors.torch, "load_file"), (modeling, "safe_open")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, real=real, **more: mapped.append(given) or real(*given, **more)
        )
    ns.load(folder, prompts=PROMPTS, size=2 * tiny.SIDE)
    assert len(mapped) == (0 if most is None else 3), "the network, the autoencoder and the text encoder"
    assert capfd.readouterr().err == ""
    assert modeling.logging.is_progress_bar_enabled()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_in_a_network_s_folder_is_refused_by_name(saved, tmp_path):
    folder = shutil.copytree(saved("ldm")[1], tmp_path / "pipe")
    os.mkfifo(folder / "unet" / "more.json")
    with limited(20), pytest.raises(ns.checkpoints.CheckpointError, match=r"more\.json.*it is a pipe, no file"):
        ns.load(folder)


@pytest.mark.parametrize("kind", ["a folder", "a file"])
def test_what_is_written_to_while_it_is_loaded_is_refused(kind, saved, official, monkeypatch):
    """A training saves over it: its hash would be of other weights than its answers."""
    place = official if kind == "a file" else saved("ldm")[1]
    weights = place if kind == "a file" else place / "unet" / "diffusion_pytorch_model.safetensors"
    assert ns.load(place).hash
    hashed = ns.checkpoints.loading.sha256
    monkeypatch.setattr(ns.checkpoints.loading, "sha256", lambda path: [hashed(path), weights.touch()][0])
    with pytest.raises(ns.checkpoints.CheckpointError, match="was changed while it was read: try again when nothing"):
        ns.load(place)
