"""`noiseshift measure` to the end on a trained checkpoint of every format; writes docs/data/formats-measured.csv.

    python benchmarks/formats/measure_formats.py --out runs/formats [--only StableDiffusion]   # an hour on a CPU core
        [--edm CLONE] [--edm2 CLONE] [--guided-diffusion CLONE]                         # NVlabs's and openai's sources

In the environment of .ci/parity-files, with transformers, smalldiffusion, flow_matching and azula. Each checkpoint is
a small network of the format's own library, trained for some minutes on drawn shapes of 8×8 (16×16 for latents) by that library's
loss (diffusers': as its training scripts do) and saved by its code, so that a level, a time or a scale read wrongly would
show as a shift. The shapes are easy enough that the networks learn them; the autoencoders are untrained, and the figures compare
nothing. Each check has a column: "failed" is a false alarm unless the network itself is to blame, "said" one that could not tell.

A checkpoint and a row are kept in OUT when they are made, and a later run takes them from there; one format that fails does not
stop the others. OUT/formats-measured.csv holds the rows so far. --checks runs the checks again on what is there.
"""

from __future__ import annotations

import csv
import json
import math
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
from job import LARGE, SIDE, Job, chosen, run, shapes, write

import noiseshift as ns

FORMATS: dict[str, Callable[[Job], list[str]]] = {
    "noiseshift train": own,
    "DiT .pt": latents_of("dit"),
    "SiT .pt": latents_of("sit"),
    "REPA .pt": latents_of("repa"),
    "DDPMPipeline": lambda job: folder_of(job, pixel_unet, times=2),
    "LDMPipeline": tiny("ldm", times=2),
    "DiTPipeline": lambda job: folder_of(job, class_transformer, times=8),
    "StableDiffusionPipeline, epsilon": tiny("stable_diffusion", True, 2),
    "StableDiffusionPipeline, v, zero terminal SNR": tiny(
        "stable_diffusion", True, 2, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    ),
    "StableDiffusionXLPipeline": tiny("stable_diffusion_xl", True, 2),
    "StableDiffusion3Pipeline": tiny("stable_diffusion_3", True, 3),
    "FluxPipeline": tiny("flux", True, 3),
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
CHECKS = (
    *(
        "shape",
        "range",
        "classes",
        "denoises",
        "conditioning",
        "contrast",
        "fine detail",
        "class order",
        "its data",
        "time",
    ),
    "samples",
)
VERDICTS = {True: "passed", False: "failed", None: "said"}
COLUMNS = (
    *("format", "noiseshift measure …", "ε error", "linear", "t", "δ", "δ low", "δ high", "slope", "resolved"),
    *CHECKS,
)
SAMPLES = 64
NEEDS = {"guided-diffusion": "guided_diffusion", "EDM .pkl": "edm", "EDM2 .pkl": "edm2"}


def row(name: str, words: list[str], out: Path) -> dict[str, str]:
    """The table's line: the network's error beside the linear denoiser's where noise is as large as the signal, the readable
    step in the middle, how many steps are resolved, and the verdict of each check."""
    measured = ns.Run.load(out)
    assert measured.preflight is not None
    table = measured.reports["residual"].table().dropna(subset=["shift"])
    found = {
        "format": name,
        "noiseshift measure …": " ".join(Path(word).name if Path(word).is_absolute() else word for word in words),
        "resolved": f"{int(table['resolved'].sum())} of {len(table)}",
    }
    found |= verdicts(measured.preflight.as_dict())
    if not table.empty:
        at = table.iloc[len(table) // 2]
        found |= {"t": f"{at['t']:.2f}", "δ": f"{at['shift']:.3f}", "slope": f"{at['slope']:.2f}"}
        found |= {"δ low": f"{at['low']:.3f}", "δ high": f"{at['high']:.3f}"}
    return found


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    """The columns of a preflight, as JSON has it."""
    middle = min(found["errors"], key=lambda level: abs(math.log(level["scale"])))
    errors = {"ε error": f"{middle['error']:.3f}", "linear": f"{middle['linear']:.3f}"}
    return errors | {check["name"]: VERDICTS[check["passed"]] for check in found["checks"]}


def checked_again(folder: Path) -> dict[str, str]:
    """A row that is there, with the verdicts of the code as it is now; that on the run's own samples needs a run."""
    words = json.loads((folder / "made.json").read_text())
    place = words.index("--sampler")
    shown = run(folder, "info", *words[:place], *words[place + 2 :], "--data", "real.npz", "--json")
    found = json.loads(shown)["preflight"]
    for check in found["checks"]:
        if check["passed"] is not True:
            print(
                f"{folder.name} {VERDICTS[check['passed']]} {check['name']}: {check['sentence']}",
                file=sys.stderr,
                flush=True,
            )
    row: dict[str, str] = json.loads((folder / "row.json").read_text())
    return {key: value for key, value in row.items() if key not in CHECKS or key == "samples"} | verdicts(found)


def made(name: str, job: Job) -> dict[str, str]:
    """A checkpoint of this format, trained, saved, read and measured; what an earlier run made of it is used."""
    known = job.folder / "made.json"
    if not known.exists():
        torch.manual_seed(0)
        words = FORMATS[name](job)
        known.write_text(json.dumps(words))
    words = json.loads(known.read_text())
    latent = any((job.folder / place).exists() for place in ("vae", "pipeline/vae", "pipeline/vqvae"))
    real = shapes(2000, LARGE if latent else SIDE, seed=2)
    path = write(job.folder / "real.npz", chosen(real) if "--embeddings" in words else real)
    shown = ["--data", path, "--estimator", "residual", "--samples", SAMPLES, "--out", "measured", "--no-progress"]
    run(job.folder, "measure", *words, *shown)
    return row(name, words, job.folder / "measured")


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
@click.option("--steps", default=250, show_default=True, help="Of training.")
@click.option("--checks", is_flag=True, help="Only run the checks again, on the checkpoints that are there.")
@sources_option("edm")
@sources_option("edm2")
@sources_option("guided-diffusion")
def main(out: Path, only: str, steps: int, checks: bool, **sources: Path | None) -> None:
    data = shapes(20000, SIDE, seed=1), shapes(10000, LARGE, seed=1)
    rows: list[dict[str, str]] = []
    for number, name in enumerate(FORMATS):
        if name in NEEDS and sources[NEEDS[name]] is None:
            print(f"{name}: left out, give --{NEEDS[name].replace('_', '-')}", file=sys.stderr)
            continue
        folder = (out / f"{number:02d}-{steps}").resolve()
        kept = folder / "row.json"
        if checks and kept.exists() and only in name:
            kept.write_text(json.dumps(checked_again(folder)))
        if not checks and not kept.exists() and only in name:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                found = made(name, Job(folder, *data, steps, {k: v for k, v in sources.items() if v}))
            except (Exception, SystemExit) as fault:  # the other formats are made all the same
                traceback.print_exc()
                print(f"{name}: {fault}", file=sys.stderr, flush=True)
                continue
            kept.write_text(json.dumps(found))
            print(f"{name}: {found}", flush=True)
        if kept.exists():
            rows.append(json.loads(kept.read_text()))
            write_csv(rows, out / "formats-measured.csv")
    failed = [found["format"] for found in rows if "failed" in (found.get(name) for name in CHECKS)]
    print(f"{len(rows)} of {len(FORMATS)} formats, false alarms on {len(failed)}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
