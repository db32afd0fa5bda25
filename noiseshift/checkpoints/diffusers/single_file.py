"""Single files of Stable Diffusion's original layout (1.x, 2.x, XL): network and autoencoder by diffusers' own `from_single_file`.

What that would look up on a hub, the configuration, is read off the tensors' shapes here, so nothing is fetched. Which of several
conventions a file was trained by (2.x: epsilon or v) no tensor shows: that is for a card.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from noiseshift.checkpoints.card import Card, CheckpointError
from noiseshift.checkpoints.diffusers.autoencoder import Autoencoder

UNET = "model.diffusion_model."
CODER = "first_stage_model."
EMA = "model_ema."
FIRST = f"{UNET}input_blocks.0.0.weight"
HEADS, HEAD_CHANNELS = 8, 64
"""Of 1.x, which fixes the number of heads; of 2.x and XL, which fix their width."""
SCALES = {"StableDiffusionPipeline": 0.18215, "StableDiffusionXLPipeline": 0.13025}
"""What their autoencoders' latents are multiplied by."""
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def tensors_of(content: Mapping[Any, Any]) -> Mapping[str, Tensor] | None:
    """The tensors of such a file, averaged ones in the network where there are any; None for another file."""
    inner = content.get("state_dict", content)
    if not isinstance(inner, Mapping) or not isinstance(inner.get(FIRST), Tensor):
        return None
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    for key in [key for key in tensors if key.startswith(UNET)]:
        # LitEma names its averages after the parameters, dots left out.
        average = tensors.get(EMA + key.removeprefix("model.").replace(".", ""))
        tensors[key] = tensors[key] if average is None else average
    return tensors


def pipeline_of(tensors: Mapping[str, Tensor]) -> str:
    """The pipeline that it is of. Raises CheckpointError for others of this layout (a refiner, an upscaler)."""
    added = tensors.get(f"{UNET}label_emb.0.0.weight")
    if added is None:
        return "StableDiffusionPipeline"
    if _context(tensors) != 2048:
        raise CheckpointError("it is a refiner or another network that takes more than a text: those are not read")
    return "StableDiffusionXLPipeline"


def prediction_of(tensors: Mapping[str, Tensor], card: Card | None) -> str:
    """What it predicts: as its card or a mark in it says, epsilon for 1.x and XL.

    Args:
        tensors: Of the file, as `tensors_of` gives them.
        card: Its prediction counts before anything in the file.

    Raises:
        CheckpointError: A file of 2.x without a card or a mark.
    """
    if card is not None:
        return card.prediction
    if "v_pred" in tensors:
        return "v_prediction"
    if _context(tensors) == 1024:
        raise CheckpointError(
            "a file of Stable Diffusion 2 does not say what it predicts: give a card, {family: stable-diffusion, prediction: "
            "v_prediction} (768 pixels) or epsilon (512)"
        )
    return "epsilon"


def network_of(tensors: Mapping[str, Tensor], card: Card | None) -> Any:
    """The UNet2DConditionModel in it, in float32.

    Args:
        tensors: Of the file, as `tensors_of` gives them.
        card: Its heads or head_channels count before those of the official networks.

    Raises:
        CheckpointError: The tensors are none of such a network, or some are missing.
    """
    import diffusers

    return _built(diffusers.UNet2DConditionModel, tensors, {"unet_config": {"params": _unet(tensors, card)}})


def autoencoder_of(tensors: Mapping[str, Tensor], pipeline: str) -> Autoencoder | None:
    """Its autoencoder, None where it has none.

    Args:
        tensors: Of the file, as `tensors_of` gives them.
        pipeline: As `pipeline_of` names it: it says by what latents are multiplied.

    Raises:
        CheckpointError: Tensors of the autoencoder are missing.
    """
    import diffusers

    if f"{CODER}encoder.conv_in.weight" not in tensors:
        return None
    network = _built(diffusers.AutoencoderKL, tensors, {"scale_factor": SCALES[pipeline], "unet_config": None})
    return Autoencoder(network)


def scheduler_of(tensors: Mapping[str, Tensor], pipeline: str, prediction: str) -> Any:
    """The scheduler that its kind is sampled with: DDIM as in the first scripts, for XL Euler.

    Args:
        tensors: Of the file; a key `ztsnr` among them rescales the betas to an end without signal.
        pipeline: As `pipeline_of` names it.
        prediction: "epsilon", "x0" or "v_prediction".

    Raises:
        CheckpointError: It predicts anything else.
    """
    import diffusers

    kinds = {"epsilon": "epsilon", "x0": "sample", "v_prediction": "v_prediction"}
    if prediction not in kinds:
        raise CheckpointError(f"a Stable Diffusion file predicts one of {', '.join(kinds)}, not {prediction}")
    zero = {"rescale_betas_zero_snr": True} if "ztsnr" in tensors else {}
    given = {**BETAS, "prediction_type": kinds[prediction], "steps_offset": 1, "timestep_spacing": "leading", **zero}
    if pipeline == "StableDiffusionXLPipeline":
        return diffusers.EulerDiscreteScheduler(**given)
    return diffusers.DDIMScheduler(**given, clip_sample=False, set_alpha_to_one=False)


def _built(kind: Any, tensors: Mapping[str, Tensor], params: Mapping[str, Any]) -> Any:
    """The part of a diffusers class, with the configuration that the tensors make."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    original = {"model": {"params": {"first_stage_config": {"params": {"ddconfig": _coder(tensors)}}, **params}}}
    try:
        made = kind.from_single_file(
            dict(tensors),
            original_config=original,
            local_files_only=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
        )
    except Exception as error:  # diffusers raises many kinds for damaged files
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise CheckpointError(f"it does not load as a {kind.__name__}: {reason}") from None
    # diffusers leaves what a file lacks as it was drawn.
    lacking = sorted(set(made.state_dict()) - set(_CONVERTERS[kind.__name__](tensors, made.config)))
    if lacking:
        raise CheckpointError(
            f"it lacks {len(lacking)} tensors of a {kind.__name__}, first {lacking[0]}: fetch it again"
        )
    return made.float().eval()


def _unet_names(tensors: Mapping[str, Tensor], config: Any) -> Mapping[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    found: Mapping[str, Tensor] = convert_ldm_unet_checkpoint(dict(tensors), config)
    return found


def _coder_names(tensors: Mapping[str, Tensor], config: Any) -> Mapping[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    found: Mapping[str, Tensor] = convert_ldm_vae_checkpoint(dict(tensors), config)
    return found


_CONVERTERS = {"UNet2DConditionModel": _unet_names, "AutoencoderKL": _coder_names}


def _unet(tensors: Mapping[str, Tensor], card: Card | None) -> dict[str, Any]:
    """The UNet's settings, under the names of the original configuration."""
    levels = _levels(tensors)
    width = len(tensors[FIRST])
    depths = [max(depth for _, depth in level) for level in levels]
    linear = _linear(tensors)
    middle = _depth(tensors, "middle_block.1")
    deep = [*depths[:-1], depths[-1] or middle]
    found: dict[str, Any] = {
        "in_channels": tensors[FIRST].shape[1],
        "out_channels": len(tensors[f"{UNET}out.2.weight"]),
        "model_channels": width,
        "channel_mult": [level[-1][0] // width for level in levels],
        "num_res_blocks": len(levels[0]),
        "attention_resolutions": [2**place for place, depth in enumerate(depths) if depth],
        "transformer_depth": middle if set(deep) <= {0, middle} else [max(depth, 1) for depth in deep],
        "context_dim": _context(tensors),
        "use_linear_in_transformer": linear,
    }
    channels = (card and card.head_channels) or (HEAD_CHANNELS if linear else None)
    heads = (card and card.heads) or (None if channels else HEADS)
    found |= {"num_heads": heads} if heads else {"num_head_channels": channels}
    added = tensors.get(f"{UNET}label_emb.0.0.weight")
    return found | ({} if added is None else {"num_classes": "sequential", "adm_in_channels": added.shape[1]})


def _levels(tensors: Mapping[str, Tensor]) -> list[list[tuple[int, int]]]:
    """At every resolution, of each block its channels and its layers of attention."""
    levels: list[list[tuple[int, int]]] = [[]]
    for place in range(1, 100):
        block = f"input_blocks.{place}"
        if f"{UNET}{block}.0.op.weight" in tensors:
            levels.append([])
            continue
        last = tensors.get(f"{UNET}{block}.0.out_layers.3.weight")
        if last is None:
            break
        levels[-1].append((len(last), _depth(tensors, f"{block}.1")))
    if not all(levels):
        raise CheckpointError("its blocks are not those of a Stable Diffusion UNet: give it as a diffusers folder")
    return levels


def _depth(tensors: Mapping[str, Tensor], block: str) -> int:
    start = f"{UNET}{block}.transformer_blocks."
    return len({key.removeprefix(start).partition(".")[0] for key in tensors if key.startswith(start)})


def _attention(tensors: Mapping[str, Tensor], end: str) -> Tensor:
    found = next((value for key, value in tensors.items() if key.startswith(UNET) and key.endswith(end)), None)
    if found is None:
        raise CheckpointError("its UNet attends to no text: give it as a diffusers folder")
    return found


def _linear(tensors: Mapping[str, Tensor]) -> bool:
    return _attention(tensors, ".proj_in.weight").ndim == 2


def _context(tensors: Mapping[str, Tensor]) -> int:
    return int(_attention(tensors, ".attn2.to_k.weight").shape[1])


def _coder(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The autoencoder's settings, of 1.x where there is none."""
    first = tensors.get(f"{CODER}encoder.conv_in.weight")
    if first is None:
        return {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "z_channels": 4, "in_channels": 3, "out_ch": 3}
    sides = []
    for place in range(100):
        last = tensors.get(f"{CODER}encoder.down.{place}.block.0.conv2.weight")
        if last is None:
            break
        sides.append(len(last) // len(first))
    blocks = {key.split(".")[5] for key in tensors if key.startswith(f"{CODER}encoder.down.0.block.")}
    return {
        "ch": len(first),
        "ch_mult": sides,
        "num_res_blocks": len(blocks),
        "z_channels": len(tensors[f"{CODER}encoder.conv_out.weight"]) // 2,
        "in_channels": first.shape[1],
        "out_ch": len(tensors[f"{CODER}decoder.conv_out.weight"]),
    }
