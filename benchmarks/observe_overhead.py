"""What watching a pipeline costs: the same runs with and without `ns.observe`, in turns, in one process.

    python benchmarks/observe_overhead.py           # a DDPMPipeline of 32×32, 6.5 M parameters; minutes on a CPU

Printed: the ratio of the two processor times, median and quartiles over pairs of runs. Without estimators only the sizes of the
predicted noises are kept, which is all that the residual report needs.
"""

from __future__ import annotations

import time

import click
import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import noiseshift as ns


def pipeline(width: int) -> DDPMPipeline:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(width, 2 * width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    pipe = DDPMPipeline(unet.eval(), DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seconds(pipe: DDPMPipeline, steps: int, batch: int) -> float:
    started = time.process_time()  # of this process alone: what else the machine does is left out
    pipe(batch_size=batch, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), output_type="np")
    return time.process_time() - started


@click.command()
@click.option("--width", default=64, show_default=True)
@click.option("--steps", default=50, show_default=True)
@click.option("--batch", default=4, show_default=True)
@click.option("--pairs", default=9, show_default=True)
def main(width: int, steps: int, batch: int, pairs: int) -> None:
    pipe = pipeline(width)
    click.echo(f"{sum(p.numel() for p in pipe.unet.parameters()) / 1e6:.1f} M parameters, {steps} steps of {batch}")
    seconds(pipe, 2, batch)
    ratios = []
    for k in range(pairs):
        times = {}
        # Turn about, so that a machine that slows down slows both.
        for watched in ((False, True), (True, False))[k % 2]:
            if watched:
                with ns.observe(pipe):
                    times[watched] = seconds(pipe, steps, batch)
            else:
                times[watched] = seconds(pipe, steps, batch)
        ratios.append(times[True] / times[False])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    click.echo(f"watched / bare: {middle:.3f} [{low:.3f}, {high:.3f}] over {pairs} pairs")


if __name__ == "__main__":
    main()
