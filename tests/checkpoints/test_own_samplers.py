"""`own:N` is the loop of a folder's own pipeline: its states are the pipeline's, or it is refused in one line."""

import json
import sys

import diffusers
import pytest
import tiny_pipelines as tiny
import torch

import noiseshift as ns
from noiseshift.diffusion.samplers import per_sample_noise, sample

STEPS, ROWS = 6, 2
OPTIONS = [
    {},
    {"timestep_spacing": "trailing"},
    {"steps_offset": 1},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    {"variance_type": "fixed_large"},
]
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "LCMScheduler", "PNDMScheduler")


def generators():
    return [torch.Generator().manual_seed(7 + row) for row in range(ROWS)]


def folder(path, pipeline, scheduler):
    """A folder as one may have it: its index names a scheduler that its pipeline would exchange."""
    getattr(diffusers, pipeline)(tiny.shaken(tiny.unet()), scheduler).save_pretrained(path)
    scheduler.save_pretrained(path / "scheduler")
    index = path / "model_index.json"
    words = json.loads(index.read_text()) | {"scheduler": ["diffusers", type(scheduler).__name__]}
    index.write_text(json.dumps(words))
    return path


def native(path, pipeline, start, monkeypatch):
    """The states that the folder's own pipeline steps from."""
    pipe = getattr(diffusers, pipeline).from_pretrained(path)
    pipe.set_progress_bar_config(disable=True)
    states = []
    kind = type(pipe.scheduler)
    step = kind.step

    def watched(self, output, timestep, state, *args, **kwargs):
        states.append(state.clone())
        return step(self, output, timestep, state, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "step", watched)
        patch.setattr(sys.modules[type(pipe).__module__], "randn_tensor", lambda *args, **kwargs: start.clone())
        pipe(batch_size=ROWS, num_inference_steps=STEPS, generator=generators(), output_type="np")
    return states


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("pipeline", ["DDPMPipeline", "DDIMPipeline"])
@pytest.mark.filterwarnings("ignore")
def test_own_takes_the_pipelines_own_steps(pipeline, name, tmp_path, monkeypatch):
    diffusers.logging.set_verbosity_error()
    start = torch.randn(ROWS, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for number, options in enumerate(OPTIONS):
        kind = getattr(diffusers, name)
        if options.keys() - kind().config.keys():
            continue
        path = folder(tmp_path / str(number), pipeline, kind(**options))
        if pipeline == "DDPMPipeline" and name == "PNDMScheduler":
            continue  # the pipeline hands its step a generator, which it does not take
        checkpoint = ns.load(path)
        own = ns.solver(f"own:{STEPS}").bound(checkpoint)
        assert own.scheduler == ("DDIMScheduler" if pipeline == "DDIMPipeline" else name)
        size = float(checkpoint.model.schedule(torch.tensor(1.0, dtype=torch.float64)).sigma)
        noise = per_sample_noise(generators())
        steps = list(sample(checkpoint.model, size * start, None, update=own.update(), noise=noise))
        states = native(path, pipeline, start, monkeypatch)
        assert len(steps) == len(states) + 1
        for step, state in zip(steps, states, strict=False):
            assert float((step.x - state).norm()) < 1e-3 * float(state.norm())


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "LMSDiscreteScheduler"])
def test_a_pipeline_that_does_not_scale_its_first_noise_has_no_sampler_of_its_own(name, tmp_path):
    checkpoint = ns.load(folder(tmp_path / "pipe", "DDPMPipeline", getattr(diffusers, name)()))
    with pytest.raises(ValueError, match=f"write diffusers/{name}:9"):
        ns.solver("own:9").bound(checkpoint)
    assert ns.solver(f"diffusers/{name}:9").bound(checkpoint).update().steps == 9


def test_an_audit_is_of_the_scheduler_that_the_pipeline_makes(tmp_path):
    path = folder(tmp_path / "pipe", "DDIMPipeline", diffusers.PNDMScheduler())
    assert len(ns.audit(path, 6).table()) == 6  # PNDM takes 15
