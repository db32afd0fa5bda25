"""`noiseshift measure` to the end on a trained checkpoint of every format; writes docs/data/formats-measured.csv.

    python benchmarks/formats/measure_formats.py --out runs/formats [--only StableDiffusion]   # an hour on a CPU core
        [--edm CLONE] [--edm2 CLONE] [--guided-diffusion CLONE]                         # NVlabs's and openai's sources

In the environment of .ci/parity-files, with transformers, smalldiffusion, flow_matching and azula. Each checkpoint is
a small network of the format's own library, trained for a few hundred steps on 16×16 Fashion-MNIST by that library's
loss (diffusers': as its training scripts do) and saved by its code, so that a level, a time or a scale read wrongly would
show as a shift. The networks are poor and the autoencoders untrained: the figures compare nothing. "failed checks" are those
before the measurement: each is a false alarm. "said" are the checks that could not tell.

A checkpoint and a row are kept in OUT when they are made, and a later run takes them from there; one format that fails does not
stop the others. OUT/formats-measured.csv holds the rows so far.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import sys
import traceback
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
COLUMNS = (
    *("format", "noiseshift measure …", "ε error", "t", "δ", "δ low", "δ high", "slope", "resolved"),
    *("failed checks", "said"),
)
SAMPLES = 64
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


def row(name: str, words: list[str], out: Path, wrong: float) -> dict[str, str]:
    """The table's line: the readable step in the middle, how many steps are resolved, and which checks did not pass."""
    measured = ns.Run.load(out)
    checks = () if measured.preflight is None else measured.preflight.checks
    checked = "none" if checks else "not checked"
    table = measured.reports["residual"].table().dropna(subset=["shift"])
    found = {
        "format": name,
        "noiseshift measure …": " ".join(Path(word).name if Path(word).is_absolute() else word for word in words),
        "ε error": f"{wrong:.3f}",
        "resolved": f"{int(table['resolved'].sum())} of {len(table)}",
        "failed checks": ", ".join(check.name for check in checks if check.passed is False) or checked,
        "said": ", ".join(check.name for check in checks if check.passed is None) or checked,
    }
    if not table.empty:
        at = table.iloc[len(table) // 2]
        found |= {"t": f"{at['t']:.2f}", "δ": f"{at['shift']:.3f}", "slope": f"{at['slope']:.2f}"}
        found |= {"δ low": f"{at['low']:.3f}", "δ high": f"{at['high']:.3f}"}
    return found


def made(name: str, job: Job) -> dict[str, str]:
    """A checkpoint of this format, trained, saved, read and measured; what an earlier run made of it is used."""
    known = job.folder / "made.json"
    held_out = pictures(ns.data.reference())
    if not known.exists():
        torch.manual_seed(0)
        words = FORMATS[name](job)
        known.write_text(json.dumps(words))
    words = json.loads(known.read_text())
    real = chosen(held_out) if "--embeddings" in words else held_out
    path = write(job.folder / "real.npz", real)
    shown = ["--data", path, "--estimator", "residual", "--samples", SAMPLES, "--out", "measured", "--no-progress"]
    run(job.folder, "measure", *words, *shown)
    with contextlib.chdir(job.folder):  # where a user's module and its weights lie
        sys.path.insert(0, str(job.folder))
        return row(name, words, job.folder / "measured", error(words, real))


def write_csv(rows: list[dict[str, str]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def sources_option(name: str) -> Any:
    return click.option(f"--{name}", type=click.Path(exists=True, path_type=Path), help="A clone of its sources.")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/formats"), show_default=True)
@click.option("--only", default="", help="Formats whose name holds this.")
@click.option("--steps", default=600, show_default=True, help="Of training.")
@click.option("--data", default="/usr/share/datasets/fashion-mnist", show_default=True)
@sources_option("edm")
@sources_option("edm2")
@sources_option("guided-diffusion")
def main(out: Path, only: str, steps: int, data: str, **sources: Path | None) -> None:
    images = pictures(ns.data.load_idx(data, "train"))
    rows: list[dict[str, str]] = []
    for number, name in enumerate(FORMATS):
        if name in NEEDS and sources[NEEDS[name]] is None:
            print(f"{name}: left out, give --{NEEDS[name].replace('_', '-')}", file=sys.stderr)
            continue
        folder = (out / f"{number:02d}-{steps}").resolve()
        kept = folder / "row.json"
        if not kept.exists() and only in name:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                found = made(name, Job(folder, images, steps, {k: v for k, v in sources.items() if v}))
            except (Exception, SystemExit) as fault:  # the other formats are made all the same
                traceback.print_exc()
                print(f"{name}: {fault}", file=sys.stderr, flush=True)
                continue
            kept.write_text(json.dumps(found))
            print(f"{name}: {found}", flush=True)
        if kept.exists():
            rows.append(json.loads(kept.read_text()))
            write_csv(rows, out / "formats-measured.csv")
    failed = [found["format"] for found in rows if found["failed checks"] != "none"]
    print(f"{len(rows)} of {len(FORMATS)} formats, false alarms on {len(failed)}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
