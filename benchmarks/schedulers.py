"""Every scheduler of the installed diffusers: which are followed, under which options, and where their arithmetic goes.

    python benchmarks/schedulers.py            # writes docs/data/schedulers.csv and docs/reference/schedulers.md; a minute

A row a scheduler and option: its family, how far the level it reaches lies from the next label, which the network is
conditioned on (the largest over 13 steps, in log-SNR), and where a run ends; or the line that refuses it. The
page has a row a scheduler.
"""

import warnings
from pathlib import Path

import diffusers
import pandas as pd

import noiseshift as ns
from noiseshift.diffusion.samplers import reached_levels

STEPS = 13
LIMIT = 0.05
"""A distance in log-SNR above which an option is named on the page."""
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
DOCS = Path(__file__).parent.parent / "docs"
COLUMNS = ("scheduler", "options", "family", "off by", "ends at", "refused because")
HEAD = f"""# Schedulers

Every scheduler of diffusers {diffusers.__version__} is either followed as its own loop runs it or refused in one line.
`tests/diffusion/test_schedulers.py` holds this for all of their options.

The network is conditioned on the level of the timestep's *label*. Where the scheduler's arithmetic lands elsewhere, the sampler
shifts even with a perfect network. That shift is left in, for the measurement to find.

Made by `python benchmarks/schedulers.py`, with {STEPS} steps; [every option](../data/schedulers.csv).

- *Off by*: the largest distance in log-SNR between the level that a step reaches and the next label, as the scheduler is made
  by default. Stochastic schedulers are read to 0.01.
- *Ends at*: the last state's sigma over alpha. 0 is data.
- *Options that are off by more than {LIMIT}* follow with their own largest distance.

## Followed

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
            yield name, said, "refused", None, None, _why(name, error)
            if not options:
                return
            continue
        conditioning, reached = reached_levels(scheduler, STEPS)
        alpha, sigma = update.end
        off = float((conditioning - reached).abs().max())
        yield name, said, type(update.family).__name__.lower(), round(off, 2), float(f"{sigma / alpha:.2g}"), None


def _why(name, error):
    line = " ".join(str(error).split()).split("followed: ")[-1].split(" as it is set: ")[-1]
    return line.replace("|", "/")


def collected():
    found = []
    for name in sorted(n for n in dir(diffusers) if n.endswith("Scheduler")):
        try:
            kind = getattr(diffusers, name)
            kind.step  # noqa: B018  a class that lacks a package says so here
        except ImportError as error:
            found.append((name, "as made", "refused", None, None, _why(name, error)))
            continue
        except AttributeError:
            continue
        found += rows(name, kind)
    return pd.DataFrame(found, columns=COLUMNS)


def page(table):
    """The page's text: a row a scheduler, and a list of those that are refused."""
    lines = ["| scheduler | family | off by | ends at | options that are off |", "|---|---|---|---|---|"]
    refused = []
    for name, part in table.groupby("scheduler", sort=False):
        made = part.iloc[0]
        if made.family == "refused":
            refused.append(f"| `{name}` | {made['refused because']} |")
            continue
        off = part.iloc[1:][part.iloc[1:]["off by"] > LIMIT]
        named = "; ".join(f"`{row.options}` {row['off by']:.2f}" for _, row in off.iterrows())
        lines.append(f"| `{name}` | {made.family} | {made['off by']:.2f} | {made['ends at']:g} | {named} |")
    lines += ["", "## Refused", "", "| scheduler | why |", "|---|---|", *refused]
    return HEAD + "\n".join(lines) + "\n"


def main():
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    table = collected()
    table.to_csv(DOCS / "data" / "schedulers.csv", index=False)
    (DOCS / "reference" / "schedulers.md").write_text(page(table))
    print(f"{len(table)} rows")


if __name__ == "__main__":
    main()
