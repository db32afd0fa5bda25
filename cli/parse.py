"""Words of the command line become objects here, and nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import click

from noiseshift import distributed
from noiseshift.diffusion.words import finite_number, interval_of


def parse_solver(text: str) -> Any:
    """`euler:50` and the like → `noiseshift.diffusion.solvers.Solver`. Raises ValueError naming what exists."""
    from noiseshift.diffusion.solvers import solver

    return solver(text)


def parse_estimators(text: str) -> dict[str, int | None]:
    """`network,fokker-planck:32` → {"network": None, "fokker-planck": 32}: how many samples each reads, None for all."""
    from noiseshift.studies.protocol import ESTIMATORS, EXPENSIVE

    found: dict[str, int | None] = {}
    for word in text.split(","):
        name, _, rows = word.strip().partition(":")
        if name not in ESTIMATORS:
            raise ValueError(f"unknown estimator {name!r}: choose from {', '.join(ESTIMATORS)}")
        if rows and (not rows.isdigit() or int(rows) < 8):
            raise ValueError(f"{word!r}: after the colon comes how many samples it reads, at least 8")
        found[name] = int(rows) if rows else EXPENSIVE.get(name)
    return found


def parse_guidance(text: str) -> Any:
    """`cfg=1.5,nag=0.5@0:0.6` → Guidance; scale 0 = unguided, @LOW:HIGH the times at which it guides.

    Raises ValueError naming what exists."""
    from noiseshift.diffusion.guidance import classifier_free, noise_awareness
    from noiseshift.diffusion.models import Guidance

    kinds = {"cfg": classifier_free, "nag": noise_awareness}
    guidance = Guidance()
    for word in text.split(","):
        name, _, given = word.strip().partition("=")
        scale, _, interval = given.partition("@")
        try:
            made = kinds[name](finite_number(scale), **({"interval": interval_of(interval)} if "@" in given else {}))
        except (KeyError, ValueError):
            raise ValueError(
                f"{word!r} is no guidance: write cfg=SCALE or nag=SCALE (0 = unguided), joined by commas, each with "
                "@LOW:HIGH for the times between 0 and 1 at which it guides"
            ) from None
        guidance = guidance + made
    return guidance


def parse_named_guidance(text: str) -> tuple[str, Any]:
    """The word itself, with its Guidance; `none` is None. Raises ValueError naming what exists."""
    return text, None if text == "none" else parse_guidance(text)


def parse_prompts(path: str) -> list[str]:
    """The lines of a text file; an empty line is the empty prompt, the last one's end of line starts none.

    Raises ValueError for a file that cannot be read or has no line."""
    from noiseshift.reading import MB, read_text

    lines = read_text(path, "text of prompts", "write one prompt per line", most=MB).splitlines()
    return [line.strip() for line in lines]


def parse_variant(text: str) -> Any:
    """`bf16`, `steps=10`, `cache=first-block:0.1` … → `noiseshift.studies.variants.Variant`. Raises ValueError."""
    from noiseshift.studies.variants import variant

    return variant(text)


def parse_by(text: str) -> Any:
    """`class`, `prompt`, `frame`, or FILE.csv:COLUMN → what `Protocol.by` takes. Raises ValueError naming the remedy."""
    from noiseshift.studies.parts import FRAME, LABELS, Grouping, no_grouping, read_grouping

    if text in (*LABELS, FRAME):
        return text
    path, _, column = text.rpartition(":")
    if not path:
        raise ValueError(no_grouping(text))
    found: Grouping = read_grouping(path, column)
    return found


def parse_mask(path: str) -> Any:
    """A picture → `noiseshift.studies.parts.Mask`, white inside. Raises ValueError naming the remedy."""
    from noiseshift.studies.parts import read_mask

    return read_mask(path)


def parse_numbers(text: str) -> tuple[float, ...]:
    """`0.1,0.2` → (0.1, 0.2). Raises ValueError for a word that is no number."""
    try:
        return tuple(finite_number(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r}: write finite numbers joined by commas") from None


def parse_levels(text: str) -> tuple[float, ...]:
    """Numbers strictly between 0 (data) and 1 (noise), each once. Raises ValueError."""
    numbers = parse_numbers(text)
    if not all(0 < number < 1 for number in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"{text!r}: write levels between 0 (data) and 1 (noise), each once")
    return numbers


def parse_ratios(text: str) -> tuple[float, ...]:
    """Numbers above 0, each once. Raises ValueError."""
    numbers = parse_numbers(text)
    if not all(number > 0 for number in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"{text!r}: write ratios above 0, each once")
    return numbers


def parse_counts(text: str) -> tuple[int, ...]:
    """`4,10,50` → (4, 10, 50), step counts of at least 1, each once. Raises ValueError."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= MOST_STEPS for word in words):
        raise ValueError(f"{text!r}: write step counts of 1 … {MOST_STEPS}, joined by commas")
    return tuple(dict.fromkeys(map(int, words)))


MOST_STEPS = 1000
"""An audit of more steps than a training has levels says nothing."""


def parse_picture(text: str) -> tuple[int, int]:
    """`768x1024` → (768, 1024), height and width in pixels; one number is both. Raises ValueError."""
    words = text.lower().replace("×", "x").split("x")
    if len(words) not in (1, 2) or not all(
        word.isascii() and word.isdigit() and 0 < int(word) <= 65536 for word in words
    ):
        raise ValueError(f"{text!r}: write height and width in pixels, such as 768x1024")
    return int(words[0]), int(words[-1])


def parse_range(text: str) -> tuple[float, float] | str:
    """`0,1` → (0.0, 1.0), what black and white are; `none` → "none". Raises ValueError for anything else."""
    if text == "none":
        return text
    numbers = parse_numbers(text)
    if len(numbers) != 2 or not -float("inf") < numbers[0] < numbers[1] < float("inf"):
        raise ValueError(f"{text!r}: write what black and white are in the data, such as 0,1 or -1,1, or none")
    return numbers[0], numbers[1]


def parse_method(text: str) -> Any:
    """`nag=0.5`, `projection`, `epsilon-scaling=1.005` … → `noiseshift.correction.methods.Method`. Raises ValueError."""
    from noiseshift.cli.streams import warn

    from noiseshift.correction.methods import current_name
    from noiseshift.correction.words import method

    if (current := current_name(text)) != text:
        warn(f"the method {text} is called {current} now; the old word is read until the next release")
    return method(current)


def guided_methods(nag: tuple[float, ...], cfg: tuple[float, ...]) -> list[Any]:
    """NAG alone at each scale, CFG alone at each, and every pair."""
    words = [f"nag={w:g}" for w in nag if w] + [f"cfg={c:g}" for c in cfg if c]
    words += [f"cfg={c:g},nag={w:g}" for c in cfg for w in nag if c and w]
    return [parse_method(word) for word in words]


EXTRACTORS = (
    "fashion, inception, dinov2, clip, effnet-lite0, wavelet-packets (no weights), states (the numbers themselves), or a "
    "TorchScript file"
)


def parse_extractor(name: str, weights: str | None, device: str = "cpu", *, trust: bool = False) -> Any:
    """One of `EXTRACTORS`, or the path of a TorchScript file, which is run where it is trusted → a
    `noiseshift.evaluation.Extractor` on a device."""
    from noiseshift import evaluation

    makers: dict[str, Callable[[], Any]] = {
        "fashion": evaluation.ClassifierFeatures,
        "inception": lambda: evaluation.InceptionFeatures(weights),
        "effnet-lite0": evaluation.EfficientNetLite,
        "wavelet-packets": evaluation.WaveletPackets,
        "states": evaluation.StateFeatures,
        **{
            each: functools.partial(evaluation.FidelityFeatures, each, weights, trust=trust)
            for each in ("dinov2", "clip")
        },
    }
    found = makers[name]() if name in makers else evaluation.ModuleFeatures(name, trust=trust)
    if hasattr(found, "network"):
        found.network.to(device)
    return found


def parse_device(text: str) -> str:
    """cpu, or an accelerator that this machine has; `cuda` under torchrun is each process's own. Raises ValueError."""
    device = distributed.own_device(text)
    if device == "cpu":
        return device
    import torch

    try:
        kind, index = torch.device(device).type, torch.device(device).index or 0
    except RuntimeError:
        raise ValueError(f"{text!r} is no device: write cpu, cuda, cuda:1 or mps") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if index >= there.get(kind, 0):
        raise ValueError(f"torch {torch.__version__} finds no {device} here: use --device cpu, or a torch built for it")
    return device


class Parsed(click.ParamType):
    """A command-line word that one of the functions above understands; bad usage is exit code 2."""

    def __init__(self, name: str, function: Any):
        self.name = name
        self.function = function

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.function(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SOLVER = Parsed("NAME:STEPS", parse_solver)
ESTIMATOR = Parsed("NAMES", parse_estimators)
GUIDANCE = Parsed("KIND=SCALE", parse_guidance)
NAMED_GUIDANCE = Parsed("KIND=SCALE", parse_named_guidance)
NUMBERS = Parsed("NUMBERS", parse_numbers)
LEVELS = Parsed("NUMBERS", parse_levels)
RATIOS = Parsed("NUMBERS", parse_ratios)
RANGE = Parsed("BLACK,WHITE", parse_range)
COUNTS = Parsed("NUMBERS", parse_counts)
PICTURE = Parsed("N or HxW", parse_picture)
METHOD = Parsed("METHOD", parse_method)
PROMPTS = Parsed("FILE", parse_prompts)
VARIANT = Parsed("NAME", parse_variant)
BY = Parsed("KEY", parse_by)
MASK = Parsed("FILE", parse_mask)
DEVICE = Parsed("NAME", parse_device)


def config(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    """`--config file.yaml` sets defaults; options on the command line win. Unknown keys are bad usage."""
    if path is None:
        return
    from noiseshift.cli.config import read

    params = [param for param in ctx.command.params if param.name not in ("config", "help")]
    names = {
        opt.lstrip("-"): param for param in params for opt in (param.name or "", *param.opts, *param.secondary_opts)
    }
    values = read(path)
    unknown = set(values) - set(names)
    if unknown:
        raise click.BadParameter(f"{path}: unknown {', '.join(sorted(unknown))}")
    given: dict[str, Any] = {}
    for key, value in values.items():
        param = names[key]
        if param.name in given:
            raise click.BadParameter(f"{path}: {key} is there under two names: keep one")
        several = getattr(param, "multiple", False) or param.nargs != 1
        if isinstance(value, list) and not several:
            raise click.BadParameter(f"{path}: {key} takes one value, not a list")
        usable(value if isinstance(value, list) else [value])
        if f"--{key}" in param.secondary_opts:  # no-progress: true is progress: false
            value = _negated(str(value), f"{path}: {key}")
        given[str(param.name)] = [value] if several and not isinstance(value, list) else value
    ctx.default_map = given | dict(ctx.default_map or {})


def _negated(word: str, where: str) -> str:
    try:
        return "false" if click.BOOL.convert(word, None, None) else "true"
    except click.BadParameter:
        raise click.BadParameter(f"{where} takes true or false") from None


def usable(words: Iterable[str]) -> None:
    """Refuse what no option can mean: an empty word, which as a path is the working directory, and a NUL."""
    for word in words:
        if not word or "\0" in word or (word.startswith("--") and word.endswith("=")):
            raise click.UsageError("an option or argument is empty: give it a value, or leave it out")
