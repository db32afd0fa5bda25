"""`noiseshift audit`: a sampler's levels without a network."""

from __future__ import annotations

import json
from typing import Any, Literal

import click
from noiseshift.cli import light_imports, parse, places, ranges, streams


@click.command()
@click.argument("target")
@click.option("--steps", type=parse.COUNTS, help="Step counts, joined by commas; the word's own, or 4,10,20,50.")
@click.option("--strength", type=ranges.RATE, help="Start from an image, at this strength in (0, 1].")
@click.option(
    "--size",
    type=parse.PICTURE,
    help="Pixels of the picture, height and width, where levels depend on it (use_dynamic_shifting); 1024x1024 by default.",
)
@click.option(
    "--dtype", type=click.Choice(["bf16", "fp16"]), help="What the time argument is cast to before the network gets it."
)
@click.option("--sigmas", type=parse.NUMBERS, help="Custom sigmas, as the scheduler's set_timesteps takes them.")
@click.option("--timesteps", type=parse.NUMBERS, help="Custom timesteps, likewise.")
@click.option(
    "--tolerance",
    type=ranges.Finite(0),
    default=0.02,
    show_default=True,
    help="Exit with code 1 where a finding is larger than this, in log-SNR. An end above zero noise is always larger.",
)
@click.option("--accept", multiple=True, help="A finding that is known, by its name; may be given several times.")
@click.option("--out", type=click.Path(), help="Folder for audit.csv, findings.json and audit.png.")
@click.option("--json", "as_json", is_flag=True, help="Findings and rows as JSON on stdout.")
def command(
    target: str,
    steps: tuple[int, ...] | None,
    strength: float | None,
    size: tuple[int, int] | None,
    dtype: Literal["bf16", "fp16"] | None,
    sigmas: tuple[float, ...] | None,
    timesteps: tuple[float, ...] | None,
    tolerance: float,
    accept: tuple[str, ...],
    out: str | None,
    as_json: bool,
) -> None:
    """Audit the noise levels of TARGET: what the network is conditioned on, what the states hold, where
    each step lands.

    TARGET is a diffusers folder, its scheduler_config.json, or diffusers/NAME[:STEPS][,OPTION=VALUE,...]. No weights are
    read. Each finding names the option to set.

    \b
    noiseshift audit diffusers/DDIMScheduler --steps 4,13,50
    noiseshift audit diffusers/DDIMScheduler:13,timestep_spacing=linspace --json
    noiseshift audit diffusers/DPMSolverMultistepScheduler:20,final_sigmas_type=sigma_min --accept last-level
    noiseshift audit diffusers/FlowMatchEulerDiscreteScheduler,shift=3.0 --dtype bf16
    noiseshift audit diffusers/FlowMatchEulerDiscreteScheduler,use_dynamic_shifting=true --size 768x1024
    noiseshift audit ./my-pipeline --strength 0.6 --out runs/audit
    """
    places.folder(out, "audit")
    with light_imports.without_garbage():
        light_imports.import_schedulers()
        from noiseshift.analysis.after import spared
        from noiseshift.analysis.audit import print_audit

        from noiseshift.audit import audit

        if out is not None:
            import matplotlib.pyplot  # noqa: F401 the figure's, here for the same reason

    found = audit(target, steps, strength=strength, size=size, dtype=dtype, sigmas=sigmas, timesteps=timesteps)
    beyond = found.beyond(tolerance, accept)
    if out is not None:
        _write(found, out)
    if as_json:
        summary = found.summary() | {"tolerance": tolerance, "beyond": [finding.name for finding in beyond]}
        streams.answered(json.dumps(summary), out)
    elif out is None:
        print_audit(found)
    else:
        with spared("the table on the terminal"):
            print_audit(found)
        streams.written(out, "/ (audit.csv, findings.json, audit.png)")
    if beyond:
        click.get_current_context().exit(1)


def _write(found: Any, out: str) -> None:
    from noiseshift.analysis.audit import plot_audit

    from noiseshift.writing import claimed, whole_file, whole_folder

    with claimed(out, "audit"), whole_folder(out, "audit") as fresh:
        found.save(fresh)
        with whole_file(fresh / "audit.png") as path:
            plot_audit(found).figure.savefig(path, dpi=150)
