"""What a scheduler of diffusers is configured with: the word's options, a folder's configuration, the checkpoint's table."""

import importlib.util

import diffusers
import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.families import family_of
from noiseshift.diffusion.scheduler_tables import configured, scheduler_class

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


def test_a_flows_folder_gives_its_states_to_another_class_and_its_shift():
    for config, shift in ((FLOW | {"shift": 3.0}, 3.0), (FLOW, 1.0)):
        found = configured("DPMSolverMultistepScheduler", config=config).config
        assert (found.use_flow_sigmas, found.prediction_type, found.flow_shift) == (True, "flow_prediction", shift)
    other = configured("DPMSolverMultistepScheduler", config={"_class_name": "DDIMScheduler", "shift": 3.0}).config
    assert not other.use_flow_sigmas
    assert configured("FlowMatchEulerDiscreteScheduler", config=FLOW | {"shift": 2.0}).config.shift == 2.0


def test_options_come_before_the_folder_and_the_folder_before_the_checkpoint():
    folder = {
        "_class_name": "DDIMScheduler",
        "beta_end": 0.01,
        "beta_schedule": "linear",
        "timestep_spacing": "trailing",
    }
    found = configured("DDIMScheduler", {"timestep_spacing": "linspace"}, config=folder).config
    assert (found.timestep_spacing, found.beta_end) == ("linspace", 0.01)
    assert (found.clip_sample, found.get("thresholding")) == (False, False)
    assert configured("DDIMScheduler", {"clip_sample": True}).config.clip_sample


def test_the_checkpoints_table_is_the_schedulers():
    schedule = ns.Discrete.from_betas(steps=50)
    found = configured("DDIMScheduler", schedule=schedule)
    torch.testing.assert_close(found.alphas_cumprod.double(), schedule.alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert found.config.num_train_timesteps == 50
    assert found.config.prediction_type == "epsilon"
    zero = ns.Discrete(torch.cat([schedule.alphas_cumprod[:-1], torch.zeros(1, dtype=torch.float64)]))
    ended = configured("DDIMScheduler", schedule=zero).config
    assert (ended.rescale_betas_zero_snr, ended.prediction_type) == (True, "v_prediction")
    assert not found.config.rescale_betas_zero_snr


def test_another_table_is_refused_unless_an_option_names_it():
    schedule = ns.Discrete.from_betas(steps=50)
    config = {"_class_name": "DDIMScheduler", "num_train_timesteps": 50, "beta_end": 0.4, "beta_start": 0.1}
    with pytest.raises(ValueError, match="DDIMScheduler has a table of its own, which is not the checkpoint's"):
        configured("DDIMScheduler", schedule=schedule, config=config)
    configured("DDIMScheduler", {"beta_end": 0.4}, schedule=schedule, config=config)


def test_without_a_table_it_is_ddpms():
    found = configured("DDIMScheduler", schedule=ns.Linear()).config
    assert (found.beta_start, found.beta_end) == (1e-4, 0.02)


def test_a_schedule_of_sigmas_gives_its_ends():
    found = configured("EDMEulerScheduler", schedule=ns.VarianceExploding(0.01, 50.0)).config
    assert (found.sigma_min, found.sigma_max) == (0.01, 50.0)


@pytest.mark.parametrize("name", ["DDIM", "DDIMSchedule", "SchedulerMixin", "UNet2DModel"])
def test_what_is_no_scheduler_is_said(name):
    with pytest.raises(ValueError, match=f"diffusers has no scheduler '{name}'"):
        scheduler_class(name)


def test_a_near_name_is_proposed():
    with pytest.raises(ValueError, match="did you mean DDIMScheduler"):
        scheduler_class("DDIMSheduler")
    with pytest.raises(ValueError, match="write for example DDIMScheduler"):
        scheduler_class("xyz")


@pytest.mark.skipif(importlib.util.find_spec("torchsde") is not None, reason="torchsde is installed")
def test_a_scheduler_that_lacks_a_package_names_it():
    with pytest.raises(ValueError, match=r"DPMSolverSDEScheduler: .*torchsde"):
        scheduler_class("DPMSolverSDEScheduler")


def test_timesteps_beside_sigmas_are_refused_with_the_reason():
    """CogView4's pipeline gives both, and only the sigmas are shifted."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    labels = np.linspace(1000, 1, 5).round().astype(np.float32)
    scheduler.set_timesteps(timesteps=labels, sigmas=labels / 1000, mu=0.7)
    with pytest.raises(
        ValueError, match=r"given \d+ where its states have sigma = 0\.\d+.*CogView4.*give it sigmas alone"
    ):
        family_of(scheduler)
    scheduler.set_timesteps(sigmas=labels / 1000, mu=0.7)
    assert family_of(scheduler)
