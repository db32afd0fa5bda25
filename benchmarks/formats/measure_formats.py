"""`noiseshift measure` to the end on a trained checkpoint of every format; prints the table of docs/reference/formats.md.

    python benchmarks/formats/measure_formats.py --out runs/formats [--only StableDiffusion]   # an hour on a CPU core
        [--edm CLONE] [--edm2 CLONE] [--guided-diffusion CLONE]                         # NVlabs's and openai's sources

In the environment of .ci/parity-files, with transformers, smalldiffusion, flow_matching and azula. Each checkpoint is
a small network of the format's own library, trained for a few hundred steps on 16×16 Fashion-MNIST by that library's
loss (diffusers': as its training scripts do) and saved by its code, so that a level, a time or a scale read wrongly would
show as a shift. The networks are poor and the autoencoders untrained: the figures compare nothing. The last column names the checks
before the measurement that failed: each is a false alarm.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from from_diffusers import class_transformer, folder_of, pixel_unet, tiny
from from_files import adm, edm, k_diffusion, latents_of, lucidrains, own, torchcfm
from from_objects import azula, flow_matching, smalldiffusion
from job import SIDE, Job, chosen, pictures, run, write

import noiseshift as ns

FORMATS: dict[str, Callable[[Job], list[str]]] = {
    "noiseshift train": own,
    "DiT .pt": latents_of("dit"),
    "SiT .pt": latents_of("sit"),
    "REPA .pt": latents_of("repa"),
    "DDPMPipeline": lambda job: folder_of(job, pixel_unet),
    "LDMPipeline": tiny("ldm"),
    "DiTPipeline": lambda job: folder_of(job, class_transformer),
    "StableDiffusionPipeline, epsilon": tiny("stable_diffusion", True),
    "StableDiffusionPipeline, v, zero terminal SNR": tiny(
        "stable_diffusion", True, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "StableDiffusionXLPipeline": tiny("stable_diffusion_xl", True),
    "StableDiffusion3Pipeline": tiny("stable_diffusion_3", True),
    "FluxPipeline": tiny("flux", True),
    "denoising-diffusion-pytorch": lucidrains,
    "guided-diffusion": adm,
    "torchcfm": torchcfm,
    "k-diffusion image_v1": k_diffusion(
        "image_v1", mapping_out=64, depths=[1, 1], channels=[32, 64], self_attn_depths=[False, True]
    ),
    "k-diffusion image_transformer_v1": k_diffusion("image_transformer_v1", patch_size=[2, 2], depth=3, width=128),
    "EDM .pkl": edm("edm"),
    "EDM2 .pkl": edm("edm2"),
    "smalldiffusion, module:function": smalldiffusion,
    "flow_matching, module:function": flow_matching,
    "azula, module:function": azula,
}  # fmt: skip
NEEDS = {"guided-diffusion": "guided_diffusion", "EDM .pkl": "edm", "EDM2 .pkl": "edm2"}


def error(words: list[str], real: ns.data.Images) -> float:
    """Mean squared error of the noise predicted for real states at t = 0.5, as the checkpoint is read here."""

    options: dict[str, Any] = {
        k[2:]: v for k, v in itertools.pairwise(words) if k in ("--family", "--vae", "--embeddings")
    }
    checkpoint = ns.load(words[0], **options, size=SIDE if "--size" in words else None)
    data = checkpoint.encode(real[:256])
    t = checkpoint.model.snap(torch.tensor(0.5, dtype=torch.float64))
    level, noise = checkpoint.model.schedule(t).like(data.floats), torch.randn_like(data.floats)
    with torch.inference_mode():
        x = level.mix(data.floats, noise)
        found = checkpoint.model(x, t, data.labels if checkpoint.classes else None).eps
    return float((found - noise).square().mean())


def row(name: str, words: list[str], out: Path, wrong: float) -> str:
    """A line of the table: the readable step in the middle, and how many steps are resolved."""
    measured = ns.Run.load(out)
    checks = (
        "none" if measured.preflight is None else ", ".join(c.name for c in measured.preflight.failures) or "passed"
    )
    table = measured.reports["residual"].table().dropna(subset=["shift"])
    shown = " ".join(Path(word).name if Path(word).is_absolute() else word for word in words)
    if table.empty:
        return f"| {name} | `{shown}` | {wrong:.3f} | not readable | | | {checks} |"
    at = table.iloc[len(table) // 2]
    shift = f"{at['shift']:+.3f} [{at['low']:+.3f}, {at['high']:+.3f}] at t = {at['t']:.2f}".replace("-", "−")
    resolved = f"{int(table['resolved'].sum())} of {len(table)}"
    return f"| {name} | `{shown}` | {wrong:.3f} | {shift} | {at['slope']:.2f} | {resolved} | {checks} |"


def sources_option(name: str) -> Any:
    return click.option(f"--{name}", type=click.Path(exists=True, path_type=Path), help="A clone of its sources.")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/formats"), show_default=True)
@click.option("--only", help="Formats whose name holds this.")
@click.option("--steps", default=600, show_default=True, help="Of training.")
@click.option("--samples", default=64, show_default=True)
@click.option("--data", default="/usr/share/datasets/fashion-mnist", show_default=True)
@sources_option("edm")
@sources_option("edm2")
@sources_option("guided-diffusion")
def main(out: Path, only: str | None, steps: int, samples: int, data: str, **sources: Path | None) -> None:
    images, held_out = pictures(ns.data.load_idx(data, "train")), pictures(ns.data.reference())
    print(
        "| format | `noiseshift measure` … | ε error | δ, 95 % interval | slope | resolved | failed checks |\n"
        "|---|---|---|---|---|---|---|"
    )
    for number, (name, make) in enumerate(FORMATS.items()):
        if only and only not in name:
            continue
        if name in NEEDS and sources[NEEDS[name]] is None:
            print(f"{name}: left out, give --{NEEDS[name].replace('_', '-')}", file=sys.stderr)
            continue
        folder = (out / f"{number:02d}").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        words = make(Job(folder, images, steps, {k: v for k, v in sources.items() if v}))
        real = chosen(held_out) if "--embeddings" in words else held_out
        path = write(folder / "real.npz", real)
        shown = ["--data", path, "--estimator", "residual", "--samples", samples, "--out", "measured", "--no-progress"]
        run(folder, "measure", *words, *shown)
        (folder / "made.json").write_text(json.dumps({"format": name, "words": words, "steps": steps}))
        with contextlib.chdir(folder):  # where a user's module and its weights lie
            wrong = error(words, real)
        print(row(name, words, folder / "measured", wrong), flush=True)


if __name__ == "__main__":
    main()
