"""Options that several commands share: for each group a decorator that adds them, and the fields that they fill.

What a command was given, its own class `Given`, inherits the fields of its groups, and `taking(Given)` hands it all as one object.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from noiseshift.cli import parse, places, ranges

from noiseshift.diffusion.words import SOLVERS

if TYPE_CHECKING:
    from noiseshift.checkpoints import Checkpoint
    from noiseshift.training.train import TrainingConfig

Given = TypeVar("Given")


def taking(kind: type[Given]) -> Callable[[Callable[[Given], None]], Callable[..., None]]:
    """Everything that a command was given, as one object of this class, which has a field for each."""

    def taken(function: Callable[[Given], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**given: Any) -> None:
            function(kind(**given))

        return command

    return taken


@dataclass(frozen=True)
class Source:
    """A checkpoint as the command line names it, with what else `load` was given."""

    checkpoint: str | None
    given: Mapping[str, Any]

    def load(self) -> Checkpoint:
        """The checkpoint. Raises CheckpointError naming the remedy."""
        from noiseshift.checkpoints import load

        return load(self.checkpoint, **self.given)


_SIZE = click.option(
    "--size",
    type=ranges.SIDES,
    help="Pixels per side, or height and width (512x768), where a network takes several.",
)
_EMBEDDINGS = click.option(
    "--embeddings",
    type=click.Path(),
    help="Encoded prompts: .safetensors or .npz with prompt_embeds (P, L, D), …",
)
_PROMPTS = click.option(
    "--prompts", type=parse.PROMPTS, help="Text pipelines: a file, one prompt per line; class i is line i."
)
_VAE = click.option("--vae", type=click.Path(), help="Latent models: the folder of their autoencoder.")
PIPELINE = ("vae", "prompts", "embeddings", "size")


def pipeline_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--vae, --prompts, --embeddings and --size, as one `pipeline`: those of them that were given, for every checkpoint."""

    @functools.wraps(function)
    def gathered(*args: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in PIPELINE}
        return function(*args, pipeline={name: value for name, value in given.items() if value is not None}, **options)

    wrapped: Callable[..., Any] = gathered
    for wrap in (_SIZE, _EMBEDDINGS, _PROMPTS, _VAE):
        wrapped = wrap(wrapped)
    return wrapped


LOADED_WITH = ("family", "card", "vae", "prompts", "embeddings", "size", "lora", "trust")


def checkpoint_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """CHECKPOINT (a file, a folder, a bundled name, or module:function), --family, --card, --vae, --prompts, --embeddings,
    --size, --lora and --trust, as one `source`."""

    @functools.wraps(function)
    def gathered(checkpoint: str | None, **options: Any) -> Any:
        given = {name: options.pop(name) for name in LOADED_WITH}
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
        _SIZE,
        _EMBEDDINGS,
        _PROMPTS,
        click.option(
            "--trust", is_flag=True, default=None, help="Run the code in the file: only for one that you made yourself."
        ),
        _VAE,
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


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What `device_options` adds."""

    seed: int
    device: str
    precision: Literal["fp32", "bf16"]
    progress: bool


@dataclass(frozen=True, kw_only=True)
class RunOptions(DeviceOptions):
    """What `run_options` adds."""

    sampler: Any
    guidance: Any
    batch: int


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


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the images are, and what black and white are in them."""

    data: str | None
    limits: Any


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

restart_option = click.option("--restart", is_flag=True, help="Start anew; a training that is there is moved aside.")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(DeviceOptions):
    """What `training_options` and `device_options` add."""

    out: Path
    restart: bool
    batch: int
    noise_dropout: float
    class_dropout: float
    ema: float

    def config(self, steps: int, rate: float) -> TrainingConfig:
        """How such a training goes, over so many steps, at this rate of its plateau."""
        from noiseshift.training.train import TrainingConfig

        return TrainingConfig(
            steps,
            self.batch,
            rate,
            ema=self.ema,
            noise_dropout=self.noise_dropout,
            class_dropout=self.class_dropout,
            precision=self.precision,
            seed=self.seed,
        )


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
