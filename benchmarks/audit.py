"""`noiseshift audit` over every scheduler of the installed diffusers as it is made by default, and over the configurations that
well-known checkpoints ship: which findings, at which step counts.

    python benchmarks/audit.py        # writes docs/data/audit.csv; a minute

A row a configuration: the finding's size, the largest over the step counts, and those that have it, where not all do.
"""

import warnings
from pathlib import Path

import diffusers
import pandas as pd

import noiseshift as ns
from noiseshift.audit import Finding

STEPS = (4, 10, 20, 50)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SHIPPED = {
    "Stable Diffusion 1.5 (PNDM)": ("PNDMScheduler", SD | {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "Stable Diffusion 2.1 (DDIM)": (
        "DDIMScheduler",
        SD | {"set_alpha_to_one": False, "clip_sample": False, "prediction_type": "v_prediction"},
    ),
    "Stable Diffusion XL (Euler)": ("EulerDiscreteScheduler", SD | {"timestep_spacing": "leading"}),
    "SDXL, DPM++ 2M Karras": ("DPMSolverMultistepScheduler", SD | {"use_karras_sigmas": True}),
    "SDXL Turbo (Euler ancestral)": ("EulerAncestralDiscreteScheduler", SD | {"timestep_spacing": "trailing"}),
    "Stable Diffusion 3 (flow, shift 3)": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "FLUX.1 dev (flow, dynamic)": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True}),
    "FLUX.1 schnell (flow, shift 1)": ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0}),
    "HunyuanVideo (flow, shift 7)": ("FlowMatchEulerDiscreteScheduler", {"shift": 7.0}),
    "Wan 2.1 (UniPC, flow)": (
        "UniPCMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    ),
    "Sana (DPM++, flow)": (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    ),
}
CSV = Path(__file__).parent.parent / "docs" / "data" / "audit.csv"


def row(name, kind, options):
    try:
        found = ns.audit(kind(**options), STEPS)
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        return name, f"not followed: {' '.join(str(error).split()).split('followed: ')[-1]}"
    return name, "; ".join(map(in_words, found.findings)) or "nothing"


def in_words(finding: Finding) -> str:
    steps = "" if len(finding.steps) == len(STEPS) else f", {'/'.join(map(str, finding.steps))}"
    return f"{finding.name} (note{steps})" if finding.note else f"{finding.name} ({size(finding.size)}{steps})"


def size(value):
    return "∞" if value == float("inf") else f"{value:.2g}"


def schedulers():
    for name in sorted(n for n in dir(diffusers) if n.endswith("Scheduler")):
        try:
            kind = getattr(diffusers, name)
            kind.step  # noqa: B018  a class that lacks a package says so here
        except (ImportError, AttributeError):
            continue
        yield name, kind


def main():
    warnings.simplefilter("ignore")
    found = [row(name, getattr(diffusers, kind), options) for name, (kind, options) in SHIPPED.items()]
    found += [row(name, kind, {}) for name, kind in schedulers()]
    columns = ["scheduler", f"findings (size in log-SNR; at so many steps of {', '.join(map(str, STEPS))})"]
    pd.DataFrame(found, columns=columns).to_csv(CSV, index=False)
    print(f"{len(found)} rows in {CSV}")


if __name__ == "__main__":
    main()
