"""Sampling loops of other libraries on the same network from the same noise, in turns with ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from harness import Row, ratios

import noiseshift as ns

ROWS, STEPS = 32, 12


def rows(repeats: int) -> Iterator[Row]:
    yield _pipeline(repeats)
    try:
        import azula  # noqa: F401
    except ImportError:
        return
    yield _azula(repeats)


def _pipeline(repeats: int) -> Row:
    """A small UNet of diffusers in its own DDIM pipeline, and the folder of that pipeline as it is loaded here."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
    )
    pipe = DDIMPipeline(unet, DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(Path(folder) / "pipe")
        checkpoint = ns.load(Path(folder) / "pipe")
    solver = ns.solver(f"diffusers/DDIMScheduler:{STEPS}").bound(checkpoint)
    x = torch.randn(ROWS, *checkpoint.shape, generator=torch.Generator().manual_seed(0))

    def ours():
        for step in ns.sample(checkpoint.model, x, None, update=solver.update()):
            last = step
        return last.x

    def theirs():
        return pipe(ROWS, torch.Generator().manual_seed(0), num_inference_steps=STEPS, output_type="np").images

    found = checkpoint.decode(ours()).float()
    off = float((found.clamp(-1, 1) / 2 + 0.5 - torch.from_numpy(theirs()).movedim(-1, 1)).abs().max())
    note = f"pictures of the same noise differ by at most {off:.0e}"
    return Row(f"{STEPS} steps of DDIM over diffusers' pipeline", ratios(ours, theirs, repeats), 1.0, note=note)


def _azula(repeats: int) -> Row:
    """The bundled network as a denoiser of azula's under its Euler sampler, on the same levels."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.sample import EulerSampler

    model, cond = ns.load().model, torch.arange(ROWS) % 10
    x = torch.randn(ROWS, *ns.load().shape, generator=torch.Generator().manual_seed(0))
    known = torch.ones(ROWS, dtype=torch.bool)

    class Straight:
        """The path of the bundled network, whose sigma ends a little above 0, as theirs do."""

        def __call__(self, t):
            t = t.clamp(1e-3, 1 - 1e-3)
            return 1 - t, t

    class Bundled(Denoiser):
        schedule = Straight()

        def forward(self, x_t, t, **kwargs):
            velocity = model.sign * model.network(x_t, model.time_input(t).expand(len(x_t)), cond, known)
            return DiracPosterior(mean=x_t - t * velocity)

    theirs_sampler = EulerSampler(Bundled(), steps=STEPS, silent=True)
    times = ns.time_grid(model, STEPS)

    def ours():
        for step in ns.sample(model, x, times, cond=cond):
            last = step
        return last.x

    off = float((ours() - theirs_sampler(x)).abs().max())
    note = f"final states of the same noise differ by at most {off:.0e}"
    return Row(f"{STEPS} Euler steps over azula's", ratios(ours, lambda: theirs_sampler(x), repeats), 1.0, note=note)
