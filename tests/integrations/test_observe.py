"""Taps on real diffusers pipelines, and the folders that they save."""

import numpy as np
import pytest
import tiny_pipelines
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, EulerDiscreteScheduler

import noiseshift as ns
from noiseshift.checkpoints import CheckpointError
from noiseshift.diffusion.samplers import Scheduled
from noiseshift.integrations import Recorder


def unet(classes=None):
    return tiny_pipelines.unet(block_out_channels=(16, 16), num_class_embeds=classes)


@pytest.fixture
def quiet(monkeypatch):
    for pipeline in (DDPMPipeline, DDIMPipeline):
        monkeypatch.setattr(pipeline, "progress_bar", lambda self, iterable=None, total=None: iterable)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_saved_pipeline_loads_and_predicts_what_its_network_says(kind, tmp_path):
    """Constructed and saved by diffusers, loaded by us: equal to 1e-5 at several t."""
    network = unet()
    scheduler = DDPMScheduler(prediction_type=kind, beta_schedule="squaredcos_cap_v2")
    DDPMPipeline(network, scheduler).save_pretrained(tmp_path / "pipe")
    checkpoint = ns.load(tmp_path / "pipe")
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    for step in (0, 10, 500, 990):
        with torch.no_grad():
            said = network(x, step).sample
        alpha, sigma = (scheduler.alphas_cumprod[step] ** 0.5, (1 - scheduler.alphas_cumprod[step]) ** 0.5)
        if kind == "epsilon":
            eps = said
        else:
            eps = alpha * said + sigma * x if kind == "v_prediction" else (x - alpha * said) / sigma
        found = checkpoint.model(x, torch.tensor((step + 1) / 1000, dtype=torch.float64))
        scale = float(eps.abs().max())
        torch.testing.assert_close(found.eps / scale, eps / scale, rtol=1e-5, atol=1e-5)


def test_a_class_conditional_folder_needs_its_class(tmp_path):
    DDPMPipeline(unet(classes=5), DDPMScheduler()).save_pretrained(tmp_path / "pipe")
    checkpoint = ns.load(tmp_path / "pipe")
    assert checkpoint.classes == 5
    x = torch.zeros(2, 1, 8, 8)
    a, b = (checkpoint.model(x, torch.tensor(0.5), torch.tensor([c, c])).eps for c in (0, 3))
    assert not torch.equal(a, b)


def test_folders_that_cannot_be_read_say_so_in_a_line(tmp_path):
    def refused(folder):
        with pytest.raises(CheckpointError) as caught:
            ns.load(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "model_index.json" in refused(tmp_path / "empty")
    pipe = tmp_path / "pipe"
    DDPMPipeline(unet(), DDPMScheduler()).save_pretrained(pipe)
    weights = pipe / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "is damaged or no network" in refused(pipe)
    weights.unlink()
    assert "safe_serialization" in refused(pipe)
    weights.write_bytes(whole)
    config = pipe / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("DDPMScheduler", "os.system"))
    assert "no scheduler" in refused(pipe)
    config.write_text("{")
    assert "damaged or no JSON" in refused(pipe)
    index = pipe / "model_index.json"
    index.write_text(index.read_text().replace("UNet2DModel", "UNet2DConditionModel"))
    assert "those of a UNet2DModel" in refused(pipe)


def test_a_pipeline_is_observed_at_its_own_states_and_levels(quiet, tmp_path):
    pipe = DDIMPipeline(unet(), DDIMScheduler(clip_sample=False))
    seen = []

    with ns.observe(pipe, points=100) as observed:
        original = observed.record
        observed.record = lambda x, t, prediction: seen.append((x, t, prediction)) or original(x, t, prediction)
        pipe(batch_size=2, num_inference_steps=5, generator=torch.Generator().manual_seed(0), output_type="np")
    assert "step" not in vars(pipe.scheduler)
    # The same states as our own run of the same scheduler from the same noise.
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe.save_pretrained(tmp_path / "pipe")
    model = ns.load(tmp_path / "pipe").model
    update = ns.from_diffusers(DDIMScheduler(clip_sample=False), 5)
    sigma = float(model.schedule(torch.tensor(1.0)).sigma)
    ours = [step for step in ns.sample(model, sigma * x, None, update=update) if step.prediction is not None]
    inside = [step for step in ours if 0 < float(step.t) < 1]
    assert len(seen) >= len(inside) == 5
    for (state, t, prediction), step in zip(seen, inside, strict=True):
        assert float(t) == pytest.approx(float(step.t), abs=1e-6)
        torch.testing.assert_close(state, step.x, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(prediction.eps, step.prediction.eps, rtol=1e-3, atol=1e-3)


def test_an_observed_pipeline_reports_its_shift(quiet, tmp_path):
    pipe = DDPMPipeline(unet(), DDPMScheduler(clip_sample=False))
    pipe.save_pretrained(tmp_path / "pipe")
    model = ns.load(tmp_path / "pipe").model
    real = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    estimator = ns.targets.Gaussian(torch.zeros(64), torch.full((64,), 0.5)).estimator(model.schedule)
    with ns.observe(pipe, {"exact": estimator}, points=3) as seen:
        for _ in range(2):
            pipe(batch_size=4, num_inference_steps=6, generator=torch.Generator().manual_seed(0), output_type="np")
    assert len(seen.report(real).table()) == 3
    table = seen.report(real, estimator="residual", model=model).table()
    assert list(table.n) == [8, 8, 8]
    assert np.isfinite(table.raw).all()
    np.testing.assert_allclose(table["shift"], seen.report(real, estimator="residual").table()["shift"], atol=1e-4)
    with pytest.raises(ValueError, match="did not read"):
        seen.report(real, estimator="network")


def test_an_exact_model_read_through_a_tap_has_no_shift_of_the_taps_making(quiet):
    """Euler's states are variance exploding and its inputs scaled: the tap must undo both."""
    variances = 4.0 / torch.arange(1, 65, dtype=torch.float64)
    target = ns.targets.Gaussian(torch.zeros(64, dtype=torch.float64), variances)
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing")
    schedule = ns.Discrete(scheduler.alphas_cumprod)
    model, estimator = target.model(schedule), target.estimator(schedule)
    scheduler.set_timesteps(40)
    levels = Scheduled.of(scheduler).levels()
    x = torch.randn(128, 64, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    real = target.sample(256, torch.Generator().manual_seed(1)).float()
    with ns.observe(scheduler, {"exact": estimator}, points=6) as seen:
        for label, (_, sigma) in zip(scheduler.timesteps, levels, strict=True):
            t_cond = schedule.time_of_log_snr(-2 * torch.tensor(sigma).log())
            level = schedule(t_cond)
            answer = model(x * float(level.alpha), t_cond)
            scheduler.scale_model_input(x, label)
            x = scheduler.step(answer.eps.float(), label, x).prev_sample
    table = seen.report(real).table()
    usable = table[table.slope >= 0.5]
    assert len(usable) >= 3
    assert float(usable["shift"].abs().max()) < 0.02


def test_a_plain_loop_is_recorded_state_by_state():
    target = ns.targets.Gaussian(torch.zeros(64, dtype=torch.float64), torch.linspace(0.1, 2, 64).double())
    model = target.model(ns.Linear())
    recorder = Recorder(ns.Linear(), {"exact": target.estimator(ns.Linear())})
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    for step in ns.sample(model, x, ns.time_grid(model, 6)):
        recorder.record(step.x, step.t, step.prediction)
    real = target.sample(64, torch.Generator().manual_seed(1)).float()
    report = recorder.report(real)
    direct = ns.measure(
        ns.sample(model, x, ns.time_grid(model, 6)), target.estimator(ns.Linear()), report.calibration, content=False
    )
    np.testing.assert_allclose(report.table()["shift"], direct.table()["shift"])
    with pytest.raises(ValueError, match="nothing was recorded"):
        Recorder(ns.Linear()).report(real)
