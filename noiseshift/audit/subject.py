"""What is audited: a scheduler, by itself or as a pipeline uses it. Only configurations are read, never weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiseshift.checkpoints.card import CheckpointError
from noiseshift.checkpoints.diffusers.parts import read_json
from noiseshift.checkpoints.diffusers.scheduling import CONVERTED, FIXED, MOST_STEPS
from noiseshift.diffusion import scheduler_tables
from noiseshift.diffusion.solvers import Diffusers, scheduler_word

CONFIG = "scheduler_config.json"


@dataclass(frozen=True)
class Subject:
    """A scheduler and who uses it.

    Attributes:
        scheduler: a diffusers scheduler, as it is configured.
        name: what it is called in tables.
        pipeline: the class of the pipeline that it was found in; empty where there is none.
        factor: pixels a latent.
        patch: latents a side of a network's token.
        steps: the step count that its word names, or None.
    """

    scheduler: Any
    name: str
    pipeline: str = ""
    factor: int = 8
    patch: int = 2
    steps: int | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """The scheduler's configuration."""
        return dict(self.scheduler.config)

    def setting(self, name: str, default: Any = None) -> Any:
        """An option of the scheduler, or `default` where it has none of that name.

        Args:
            name: of the option.
            default: where there is none.
        """
        return self.config.get(name, default)


def subject(target: Any) -> Subject:
    """What a target names: a scheduler, a pipeline, a diffusers folder, its scheduler_config.json, or a word such as
    "diffusers/EulerDiscreteScheduler:20,use_karras_sigmas=True".

    Raises:
        ValueError: for what names none; CheckpointError for a file that cannot be read. One line each.
    """
    if isinstance(target, str) and target.startswith("diffusers/"):
        return _of_word(target)
    if isinstance(target, Diffusers):
        return Subject(target.update().scheduler, target.name, steps=target.steps)
    if isinstance(target, str | Path):
        return _of_path(Path(target))
    if hasattr(target, "scheduler") and hasattr(target.scheduler, "config"):
        return _of_pipeline(target)
    if hasattr(target, "set_timesteps") and hasattr(target, "config"):
        return Subject(target, type(target).__name__)
    raise ValueError(f"{type(target).__name__} holds no diffusers scheduler: {_NAMES}")


_NAMES = (
    "name a scheduler, a pipeline, a diffusers folder, a scheduler_config.json, or diffusers/NAME:STEPS,option=value"
)


def _of_word(word: str) -> Subject:
    name, steps, options = scheduler_word(word)
    return Subject(scheduler_tables.configured(name, options), word, steps=steps)


def _of_path(path: Path) -> Subject:
    if path.is_dir() and (path / "model_index.json").exists():
        return _of_folder(path)
    file = path / CONFIG if path.is_dir() else path
    if not file.exists():
        raise CheckpointError(f"{path} holds no {CONFIG}: {_NAMES}")
    return Subject(_scheduler(file, {}), type(_scheduler(file, {})).__name__)


def _of_folder(path: Path) -> Subject:
    pipeline = str(read_json(path / "model_index.json").get("_class_name", ""))
    scheduler = _scheduler(path / "scheduler" / CONFIG, FIXED.get(pipeline, {}), CONVERTED.get(pipeline))
    network = next((path / part for part in ("transformer", "unet") if (path / part / "config.json").exists()), None)
    coder = path / "vae" / "config.json"
    return Subject(
        scheduler,
        f"{path.name} ({pipeline}, {type(scheduler).__name__})",
        pipeline,
        _factor(read_json(coder)) if coder.exists() else 8,
        _patch(pipeline, {} if network is None else read_json(network / "config.json")),
    )


def _of_pipeline(pipeline: Any) -> Subject:
    kind = type(pipeline).__name__
    coder = getattr(pipeline, "vae", None)
    network = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    return Subject(
        pipeline.scheduler,
        f"{kind}, {type(pipeline.scheduler).__name__}",
        kind,
        8 if coder is None else _factor(dict(coder.config)),
        _patch(kind, {} if network is None else dict(network.config)),
    )


def _scheduler(file: Path, fixed: Mapping[str, Any], converted: str | None = None) -> Any:
    """The scheduler that a configuration describes, with what its pipeline changes in it, or the one that it makes of it."""
    config = read_json(file)
    name = converted or config.get("_class_name")
    if not isinstance(name, str):
        raise CheckpointError(f"{file} names no scheduler class: save the pipeline again")
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 2 <= steps <= MOST_STEPS:
        raise CheckpointError(f"{file}: num_train_timesteps is {str(steps)[:40]}: correct it")
    kind = scheduler_tables.scheduler_class(name)
    try:
        made = kind.from_config(config)
        return kind.from_config(config, **{key: value for key, value in fixed.items() if key in made.config})
    except Exception as error:
        raise CheckpointError(f"{file}: {name} does not take it ({' '.join(str(error).split())[:160]})") from None


def _factor(config: Mapping[str, Any]) -> int:
    """Pixels a latent of an autoencoder."""
    channels = config.get("block_out_channels")
    return 2 ** (len(channels) - 1) if isinstance(channels, list | tuple) and channels else 8


def _patch(pipeline: str, config: Mapping[str, Any]) -> int:
    """Latents a side of a token; Flux's pipelines pack two by two before the network sees them."""
    patch = config.get("patch_size")
    return patch if isinstance(patch, int) and patch > 1 and not pipeline.startswith("Flux") else 2
