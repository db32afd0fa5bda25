"""One network of a diffusers folder: its configuration is JSON, its weights safetensors, its class diffusers' own."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from noiseshift import reading
from noiseshift.checkpoints.card import CheckpointError
from noiseshift.checkpoints.diffusers.reading_weights import quietly, without_mapping


def config_of(path: Path) -> dict[str, Any]:
    """The settings of a network's folder."""
    return read_json(path / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """A file's settings. Raises CheckpointError when it is missing or holds none."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing: save the whole pipeline with save_pretrained")
    values = reading.read_json(path, "JSON", "save the pipeline again", CheckpointError)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no settings: save the pipeline again")
    return values


def weights_in(path: Path) -> Path:
    """The first file of a network's weights. Raises CheckpointError when there is no safetensors file."""
    found = sorted(path.glob("*.safetensors"))
    if not found:
        raise CheckpointError(f"no *.safetensors in {path}: save the pipeline with safe_serialization=True")
    return found[0]


def load_part(path: Path, kind: str) -> Any:
    """A diffusers network, in float32 on the CPU, ready to be evaluated.

    Args:
        path: The folder of its configuration and weights.
        kind: Its class in diffusers, by name.

    Raises:
        CheckpointError: No safetensors, a configuration that claims more than the weights show, or weights that do not load.
    """
    import logging

    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    options = {"use_safetensors": True, "low_cpu_mem_usage": False, "output_loading_info": True}
    variant = _variant(weights_in(path))
    _require_plausible(path)
    network = getattr(diffusers, kind)
    try:
        with (
            reading.folder_while_open(path, "network", "save the pipeline again", CheckpointError) as name,
            quietly(diffusers),
        ):
            made, info = network.from_pretrained(name, variant=variant, **options, **without_mapping(network, name))
    except CheckpointError:
        raise
    except Exception as error:  # diffusers raises many kinds for damaged folders
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise CheckpointError(f"{path} does not load as a {kind}: {reason}") from None
    require_all(path, info["missing_keys"], info["unexpected_keys"])
    return made.float().eval()


def require_all(path: Path, missing: Collection[str], unexpected: Collection[str] = ()) -> None:
    """Refuse weights that are not those of the configuration: libraries leave what is missing at random, and drop what they do not
    know, in silence.

    Args:
        path: The network's folder, for the message.
        missing: Names of its tensors that the files have not.
        unexpected: Names of tensors in the files that it has not.

    Raises:
        CheckpointError: There are some of either.
    """
    for names, what in ((missing, "lack"), (unexpected, "hold what its configuration does not know:")):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
            raise CheckpointError(
                f"{path}: its weights {what} {some}: save the pipeline again, configuration and weights together"
            )


LAYERS = ("layers_per_block", "num_layers", "num_single_layers", "transformer_layers_per_block")
WIDTHS = (
    "block_out_channels",
    "cross_attention_dim",
    "joint_attention_dim",
    "num_attention_heads",
    "attention_head_dim",
)


def _require_plausible(path: Path) -> None:
    """Raise CheckpointError for a configuration of more layers than there are tensors, or wider ones than any of them:
    diffusers would build it, whatever size it claims."""
    from safetensors import safe_open

    shapes = []
    with reading.reading(path, "network", "save the pipeline again", CheckpointError):
        for each in path.glob("*.safetensors"):
            with (
                reading.opened(each, "network", "save the pipeline again", CheckpointError) as file,
                reading.named_while_open(file, each) as name,
                safe_open(name, "pt") as weights,
            ):
                shapes += [weights.get_slice(key).get_shape() for key in weights.keys()]
    widest = max((n for shape in shapes for n in shape), default=0)
    config = config_of(path)
    for names, most in ((LAYERS, len(shapes)), (WIDTHS, widest)):
        for name in names:
            if any(number > most for number in _numbers(config.get(name))):
                raise CheckpointError(f"{path}: its {name} is more than its weights show: save the pipeline again")


def _numbers(value: Any) -> list[float]:
    """The numbers in a value, and in lists within it."""
    if isinstance(value, list | tuple):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) else []


def _variant(weights: Path) -> str | None:
    """`fp16` for diffusion_pytorch_model.fp16.safetensors, sharded or not."""
    found = re.fullmatch(r"[^.]+\.([^.]+?)(-\d+-of-\d+)?\.safetensors", weights.name)
    return found[1] if found else None
