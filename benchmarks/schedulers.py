"""Every scheduler of the installed diffusers: which are followed, under which options, and where their arithmetic goes.

    python benchmarks/schedulers.py docs/reference/schedulers.md

Writes a table: a scheduler's family, how far the level it reaches lies from the next label, which the network is
conditioned on (the largest over 13 steps, in log-SNR), and where a run ends; or the line that refuses it. Takes a minute.
"""

import sys
import warnings
from pathlib import Path

import diffusers

import noiseshift as ns
from noiseshift.diffusion.samplers import reached_levels

STEPS = 13
OPTIONS = {
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "use_karras_sigmas": (True,),
    "use_exponential_sigmas": (True,),
    "use_beta_sigmas": (True,),
    "use_flow_sigmas": (True,),
    "final_sigmas_type": ("sigma_min",),
    "set_alpha_to_one": (False,),
    "interpolation_type": ("log_linear",),
}
HEAD = f"""# Schedulers

Every scheduler of diffusers {diffusers.__version__} is either followed as its own loop runs it or refused in one line.
`tests/diffusion/test_schedulers.py` holds this for all of their options. The network is conditioned on the level of the timestep's
*label*. Where the scheduler's arithmetic lands elsewhere, the sampler shifts even with a perfect network. That shift is left in,
for the measurement to find.

Made by `benchmarks/schedulers.py`, with {STEPS} steps. "Off by" is the largest distance in log-SNR between the level that a
step reaches and the next label; stochastic schedulers are read to 0.01. "Ends at" is the last state's sigma over alpha;
0 is data.

| scheduler | options | family | off by | ends at |
|---|---|---|---|---|
"""


def rows(name, kind):
    known = kind.__init__.__wrapped__.__code__.co_varnames if hasattr(kind.__init__, "__wrapped__") else ()
    settings = [{}, *({key: value} for key, values in OPTIONS.items() if key in known for value in values)]
    for options in settings:
        given = options | ({"prediction_type": "flow_prediction"} if "use_flow_sigmas" in options else {})
        said = ", ".join(f"{key}={value}" for key, value in options.items()) or "as made"
        try:
            scheduler = kind(**given)
            update = ns.from_diffusers(scheduler, STEPS)
        except (ValueError, TypeError, NotImplementedError) as error:
            yield f"| {name} | {said} | refused | {_why(name, error)} | |"
            if not options:
                return
            continue
        conditioning, reached = reached_levels(scheduler, STEPS)
        alpha, sigma = update.end
        off = float((conditioning - reached).abs().max())
        yield f"| {name} | {said} | {type(update.family).__name__.lower()} | {off:.2f} | {sigma / alpha:.2g} |"


def _why(name, error):
    line = " ".join(str(error).split()).split("followed: ")[-1].split(" as it is set: ")[-1]
    return line.replace("|", "/")


def main(path):
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    lines = []
    for name in sorted(n for n in dir(diffusers) if n.endswith("Scheduler")):
        try:
            kind = getattr(diffusers, name)
            kind.step  # noqa: B018  a class that lacks a package says so here
        except ImportError as error:
            lines.append(f"| {name} | as made | refused | {_why(name, error)} | |")
            continue
        except AttributeError:
            continue
        lines += rows(name, kind)
    Path(path).write_text(HEAD + "\n".join(lines) + "\n")
    print(f"{len(lines)} rows in {path}")


if __name__ == "__main__":
    main(sys.argv[1])
