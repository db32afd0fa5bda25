"""Shift of solvers alone: real diffusers pipelines whose network is an exact Gaussian's, watched by `ns.observe`.

    python benchmarks/pipelines.py                  # pictures' spectrum, minutes
    python benchmarks/pipelines.py --exponent 1     # a flatter one: the same solvers shift more, and the other way

No model errs here, so every shift is the solver's. Data are Gaussian pictures of 16×16 whose k-th variance is
k^-exponent; the level is read by the exact posterior, calibrated on real samples. Printed for each pipeline: the last
steps that are read, and there effective / conditioning sigma (sigma over alpha; 1 is no shift, below 1 less noise)
with half its 95 % interval. How far, and which way, a solver shifts hangs on the data's spectrum: a figure without it
cannot be compared.
"""

from __future__ import annotations

import click
import diffusers
import numpy as np
import pandas as pd
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

import noiseshift as ns

SIDE = 16
TABLE = {"beta_start": 1e-4, "beta_end": 0.02}
UNCLIPPED = {**TABLE, "clip_sample": False}
CASES = [
    *[("DDIM trailing", diffusers.DDIMScheduler(**UNCLIPPED, timestep_spacing="trailing"), n) for n in (13, 50, 250)],
    *[("DDIM leading", diffusers.DDIMScheduler(**UNCLIPPED, timestep_spacing="leading"), n) for n in (4, 50)],
    ("DDIM linspace", diffusers.DDIMScheduler(**UNCLIPPED, timestep_spacing="linspace"), 13),
    ("DDPM leading", diffusers.DDPMScheduler(**UNCLIPPED, timestep_spacing="leading"), 250),
    ("DDPM trailing", diffusers.DDPMScheduler(**UNCLIPPED, timestep_spacing="trailing"), 250),
    ("DPM++ linspace", diffusers.DPMSolverMultistepScheduler(**TABLE), 50),
]


class Exact(ModelMixin, ConfigMixin):
    """In place of a UNet2DModel: the noise that a Gaussian's exact denoiser predicts."""

    @register_to_config
    def __init__(self, sample_size: int = SIDE, in_channels: int = 1, exponent: float = 1.5):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # a pipeline asks its network for a device and a dtype
        self.target = gaussian(sample_size, exponent)
        self.model = self.target.model(ns.Discrete.from_betas(**{**TABLE, "steps": 1000}))

    def forward(self, x: Tensor, timestep: Tensor | int) -> diffusers.models.unets.unet_2d.UNet2DOutput:
        t = (torch.as_tensor(timestep, dtype=torch.float64) + 1) / 1000
        eps = self.model(x.double(), t).eps
        return diffusers.models.unets.unet_2d.UNet2DOutput(sample=eps.to(x.dtype))


def gaussian(side: int = SIDE, exponent: float = 1.5) -> ns.targets.Gaussian:
    variances = torch.arange(1, side**2 + 1, dtype=torch.float64) ** -exponent
    return ns.targets.Gaussian(torch.zeros(side**2, dtype=torch.float64), variances)


def watched(
    scheduler: diffusers.SchedulerMixin, steps: int, *, exponent: float = 1.5, samples: int = 128, points: int = 9
) -> pd.DataFrame:
    """The shift table of a pipeline's own run, by the exact posterior."""
    network = Exact(exponent=exponent)
    kind = diffusers.DDIMPipeline if isinstance(scheduler, diffusers.DDIMScheduler) else diffusers.DDPMPipeline
    pipe = kind(network, scheduler)
    pipe.set_progress_bar_config(disable=True)
    schedule = network.model.schedule
    real = network.target.sample(2 * samples, torch.Generator().manual_seed(1)).reshape(-1, 1, SIDE, SIDE).float()
    with ns.observe(pipe, {"exact": network.target.estimator(schedule)}, schedule=schedule, points=points) as seen:
        generator = torch.Generator().manual_seed(0)
        pipe(batch_size=samples, num_inference_steps=steps, generator=generator, output_type="np")
    return seen.report(real).table()


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Effective / conditioning sigma over alpha, and half the interval of its logarithm, a row per step read."""
    return pd.DataFrame(
        {
            "step": (1000 * table["t"]).round().astype(int) - 1,
            "ratio": np.exp(-table["shift_log_snr"] / 2),
            "half": (table["log_snr_high"] - table["log_snr_low"]) / 4,
        }
    )


@click.command()
@click.option("--exponent", default=1.5, show_default=True)
@click.option("--samples", default=128, show_default=True)
def main(exponent: float, samples: int) -> None:
    print(f"{'pipeline':16s} {'steps':>5s}   the last three steps read")
    for name, scheduler, steps in CASES:
        found = ratios(watched(scheduler, steps, exponent=exponent, samples=samples))
        cells = "  ".join(f"t={row.step:3.0f} {row.ratio:5.3f}±{row.half:.3f}" for row in found.tail(3).itertuples())
        print(f"{name:16s} {steps:5d}   {cells}", flush=True)


if __name__ == "__main__":
    main()
