"""diffusers folders (`save_pretrained`): pixel, latent and text-conditioned pipelines.

Weights come from safetensors alone and are rebuilt by diffusers' own classes; no code in the folder is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from noiseshift.checkpoints.card import Card, CheckpointError
from noiseshift.checkpoints.diffusers.autoencoder import Autoencoder
from noiseshift.checkpoints.diffusers.conditions import Bank, Conditions, encode_prompts
from noiseshift.checkpoints.diffusers.lora import Lora, merge
from noiseshift.checkpoints.diffusers.networks import (
    Boundary,
    ClassTransformer,
    JointTransformer,
    PackedTransformer,
    PlainUnet,
    TextUnet,
    differentiable,
)
from noiseshift.checkpoints.diffusers.parts import load_part
from noiseshift.checkpoints.diffusers.recognising import TEXT, Found, recognise, refuse_more_inputs
from noiseshift.checkpoints.diffusers.scheduling import (
    CONSISTENCY,
    convention,
    known_levels,
    own_sampler,
    read_scheduler,
    time_input,
)
from noiseshift.checkpoints.diffusers.single_file import (
    autoencoder_of,
    network_of,
    pipeline_of,
    prediction_of,
    scheduler_of,
)
from noiseshift.diffusion.samplers import Scheduled
from noiseshift.diffusion.schedules import describe
from noiseshift.networks.model import NetworkModel

FLUX_SIDE = 128
"""Latents a side of the pictures that Flux draws unless another is given; its configuration names no size."""
FLUX_GUIDANCE = 3.5
"""What FluxPipeline tells a guidance-distilled network unless another is given."""
UNET_GUIDANCE = 7.5
"""What StableDiffusionPipeline gives a network that was distilled under guidance, unless another is given."""


@dataclass(frozen=True)
class Folder:
    """What a folder holds.

    Attributes:
        model: Its network, on the schedule of its scheduler.
        card: The card that its configuration makes.
        autoencoder: The latent model's; None for a model of pixels.
        sampler: Makes its own scheduler with n steps, at the pipeline's own times.
    """

    model: NetworkModel
    card: Card
    autoencoder: Autoencoder | None
    sampler: Callable[[int], Scheduled]


@dataclass(frozen=True)
class Wanted:
    """What is asked of a pipeline beside what lies in it.

    Attributes:
        vae: An autoencoder's folder, in place of its own.
        prompts: Texts that its own encoders encode; class i is then prompt i.
        embeddings: In place of prompts, a file of them or `Conditions`.
        size: Pixels per side, or (height, width); None for what the configuration says.
        loras: Merged into the network, in order.
    """

    vae: str | Path | None = None
    prompts: Sequence[str] | None = None
    embeddings: str | Path | Conditions | None = None
    size: int | tuple[int, int] | None = None
    loras: Sequence[Lora] = ()


def read_folder(path: Path, wanted: Wanted) -> Folder:
    """The model in a folder and the card that its configuration makes.

    Args:
        path: Of a pipeline, or of a state that its training kept beside one.
        wanted: Beside it.

    Raises:
        CheckpointError: Another kind of pipeline, a missing or damaged part, weights that are no safetensors, or an option that
            does not fit.
    """
    found = recognise(path)
    coder = _autoencoder(found, wanted.vae)
    network = load_part(found.part, found.network)
    more = int(network.config["in_channels"]) - int(network.config.get("out_channels") or 1 << 16)
    refuse_more_inputs(path, more)
    added = merge(network, found.pipeline, wanted.loras, prompts=wanted.prompts is not None)
    conditions = _conditions(found, network, wanted.prompts, wanted.embeddings)
    return _assembled(found, network, coder, read_scheduler(found), conditions, wanted.size, added)


def read_single_file(path: Path, tensors: Mapping[str, Tensor], wanted: Wanted, *, card: Card | None = None) -> Folder:
    """The model in a single file of Stable Diffusion's layout.

    Args:
        path: The file, which is not read again.
        tensors: What it holds, as `single_file.tensors_of` gives it.
        wanted: Beside it; prompts are refused, as a single file holds no tokenizer.
        card: Says what it predicts, and how attention is split, where the tensors do not show it.

    Raises:
        CheckpointError: A file that takes more than a text, or lacks a part, or an option that does not fit.
    """
    if wanted.prompts is not None:
        raise CheckpointError(
            "a single file holds no tokenizer: encode the prompts with its text encoder in diffusers and give --embeddings"
        )
    first, last = (tensors[f"model.diffusion_model.{name}.weight"] for name in ("input_blocks.0.0", "out.2"))
    refuse_more_inputs(path, first.shape[1] - len(last))
    pipeline = pipeline_of(tensors)
    prediction = prediction_of(tensors, card)
    network = network_of(tensors, card)
    coder = Autoencoder.load(wanted.vae) if wanted.vae is not None else autoencoder_of(tensors, pipeline)
    found = Found(path, {}, pipeline, "UNet2DConditionModel", path / "unet")
    added = merge(network, pipeline, wanted.loras, prompts=False)
    conditions = _conditions(found, network, None, wanted.embeddings)
    scheduler = scheduler_of(tensors, pipeline, prediction)
    return _assembled(found, network, coder, scheduler, conditions, wanted.size, added)


def _assembled(
    found: Found,
    network: Any,
    coder: Autoencoder | None,
    scheduler: Any,
    conditions: Conditions | None,
    size: int | tuple[int, int] | None,
    added: list[dict[str, Any]],
) -> Folder:
    """The model and card that these parts make; `added` says which LoRAs are in the network."""
    shape = _shape(found, network, coder, size)
    adapter, classes, null = _adapted(found, network, conditions, coder, shape)
    if type(scheduler).__name__ == CONSISTENCY:
        adapter = Boundary(adapter, scheduler.config.sigma_data, scheduler.config.sigma_min)
    schedule, prediction, time = convention(found, scheduler)
    model = NetworkModel(
        differentiable(adapter),
        schedule,
        prediction,
        time_input(time, schedule),
        classes=classes,
        class_dropout=null,
        noise_dropout=False,
        shape=shape,
        levels=known_levels(schedule, scheduler),
    )
    card = Card(
        "diffusers",
        describe(schedule),
        prediction,
        time,
        classes=classes or None,
        class_names=() if conditions is None else conditions.names,
        provenance=_provenance(found, scheduler, coder, conditions, adapter) | ({"lora": added} if added else {}),
    )
    return Folder(model, card, coder, own_sampler(found, scheduler, network, shape))


def _autoencoder(found: Found, vae: str | Path | None) -> Autoencoder | None:
    if vae is not None:
        return Autoencoder.load(vae)
    inside = next((name for name in ("vae", "vqvae") if (found.index.get(name) or [None, None])[1]), None)
    return None if inside is None else Autoencoder.load(found.path / inside)


def _conditions(
    found: Found, network: nn.Module, prompts: Sequence[str] | None, embeddings: str | Path | Conditions | None
) -> Conditions | None:
    if prompts is None and embeddings is None:
        return None
    if found.pipeline not in TEXT:
        raise CheckpointError(f"{found.path.name} is a {found.pipeline}, which takes no text: leave the prompts out")
    if prompts is not None and embeddings is not None:
        raise CheckpointError("prompts and embeddings were both given: give one of them")
    if prompts is not None:
        return encode_prompts(found.path, found.index, network, prompts)
    assert embeddings is not None
    return embeddings if isinstance(embeddings, Conditions) else Conditions.read(embeddings)


def _shape(
    found: Found, network: Any, coder: Autoencoder | None, size: int | tuple[int, int] | None
) -> tuple[int, int, int]:
    """(C, H, W) of a state, for pictures of `size` pixels per side, or (height, width), or those that the pipeline draws."""
    channels = int(network.config["in_channels"])
    side = network.config.get("sample_size")
    if found.network == "FluxTransformer2DModel":
        channels = channels // 4
        side = FLUX_SIDE
    if size is not None:
        factor = 1 if coder is None else coder.factor
        step = factor * (2 if found.network in ("FluxTransformer2DModel", "SD3Transformer2DModel") else 1)
        sides = (size, size) if isinstance(size, int) else size
        if any(pixels < step or pixels % step for pixels in sides):
            given = "x".join(map(str, sides)) if len(set(sides)) > 1 else str(sides[0])
            raise CheckpointError(
                f"{found.path.name} draws pictures of multiples of {step} pixels per side, not {given}"
            )
        side = [pixels // factor for pixels in sides]
    if side is None:
        raise CheckpointError(f"{found.path.name}: the network's configuration names no sample_size: give --size")
    height, width = (side, side) if isinstance(side, int) else side
    if coder is not None and coder.channels != channels:
        raise CheckpointError(
            f"the autoencoder has {coder.channels} channels, {found.path.name} {channels}: give its own"
        )
    return channels, int(height), int(width)


def _adapted(
    found: Found, network: Any, conditions: Conditions | None, coder: Autoencoder | None, shape: tuple[int, int, int]
) -> tuple[nn.Module, int, bool]:
    """The network called as ours are, its classes, and whether it has a null class."""
    config = network.config
    if found.network == "UNet2DModel":
        classes = int(config["num_class_embeds"] or 0)
        return PlainUnet(network, classes), classes, False
    if found.network == "DiTTransformer2DModel":
        return ClassTransformer(network), int(config["num_embeds_ada_norm"]), True
    _check_conditions(found, config, conditions)
    bank = Bank(conditions)
    count, null = (0, False) if conditions is None else (conditions.count, conditions.has_null)
    if found.network == "SD3Transformer2DModel":
        return JointTransformer(network, bank), count, null
    if found.network == "FluxTransformer2DModel":
        return PackedTransformer(network, bank, FLUX_GUIDANCE if config["guidance_embeds"] else None), count, null
    guidance = None if config.get("time_cond_proj_dim") is None else UNET_GUIDANCE
    # Such a network has its guidance inside, and is never asked without the text.
    return TextUnet(network, bank, _sizes(found, config, coder, shape), guidance), count, null and guidance is None


def _sizes(
    found: Found, config: Mapping[str, Any], coder: Autoencoder | None, shape: tuple[int, int, int]
) -> tuple[int, ...] | None:
    """SDXL's size conditions for an uncropped picture, as its pipeline makes them."""
    if found.pipeline != "StableDiffusionXLPipeline":
        return None
    factor = 8 if coder is None else coder.factor
    height, width = factor * shape[1], factor * shape[2]
    return height, width, 0, 0, height, width


def _check_conditions(found: Found, config: Mapping[str, Any], conditions: Conditions | None) -> None:
    if conditions is None:
        return
    pooled = 0 if conditions.pooled is None else conditions.pooled.shape[-1]
    if found.network == "UNet2DConditionModel":
        wanted = int(config["cross_attention_dim"])
        if found.pipeline == "StableDiffusionXLPipeline":
            wants_pooled = int(config["projection_class_embeddings_input_dim"]) - 6 * int(
                config["addition_time_embed_dim"]
            )
        else:
            wants_pooled = pooled
    else:
        wanted = int(config["joint_attention_dim"])
        wants_pooled = int(config["pooled_projection_dim"])
    if (conditions.hidden.shape[-1], pooled) != (wanted, wants_pooled):
        raise CheckpointError(
            f"{found.path.name} takes prompt_embeds of {wanted} numbers a token and pooled_prompt_embeds of "
            f"{wants_pooled}, these have {conditions.hidden.shape[-1]} and {pooled}: encode them with its own text encoders"
        )


def _provenance(
    found: Found, scheduler: Any, coder: Autoencoder | None, conditions: Conditions | None, adapter: nn.Module
) -> dict[str, Any]:
    """What `info` says of a folder, and what tells two runs of it apart."""
    facts: dict[str, Any] = {
        "pipeline": found.pipeline,
        "network": found.network,
        "scheduler": type(scheduler).__name__,
    }
    if found.part.parent != found.path:
        facts["weights"] = f"{found.part.name} of {found.part.parent.name}"
    if coder is not None:
        facts["autoencoder"] = f"{coder.kind}, {coder.factor} pixels a latent, scaling_factor {coder.scale:g}"
    if conditions is not None:
        facts["conditions"] = conditions.digest
    if getattr(adapter, "guidance", None) is not None:
        facts["distilled guidance"] = adapter.guidance
    return facts
