"""What text-conditioned networks are given: prompts encoded once into a bank, and named by their place in it.

A text checkpoint so has classes like any other: class i is prompt i, the null class is what the pipeline's own
classifier-free guidance takes for unconditional (the empty prompt; zeros in SDXL).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noiseshift.checkpoints.card import CheckpointError
from noiseshift.checkpoints.diffusers.parts import require_all
from noiseshift.checkpoints.diffusers.reading_weights import quietly, without_mapping
from noiseshift.reading import folder_while_open, read_arrays, read_safetensors, reading
from noiseshift.writing import replaced_file, write_tensors
from noiseshift.writing.signatures import PROMPTS, signed_prompts

# From transformers, by name: nothing else in a folder's index is imported.
ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
AT_ONCE = 16
"""Prompts encoded in one batch."""


@dataclass(frozen=True)
class Conditions:
    """Embeddings of prompts, by place. A row beyond `count` is the null condition.

    Attributes:
        hidden: (count or count + 1, L, D), a vector of D numbers for each of L tokens.
        pooled: (the same rows, E), a vector for the whole prompt; None where the network takes none.
        count: Number of prompts.
        names: The prompts' texts; empty where only their embeddings are known.
    """

    hidden: Tensor
    pooled: Tensor | None
    count: int
    names: tuple[str, ...] = ()

    @property
    def has_null(self) -> bool:
        return len(self.hidden) > self.count

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers, hexadecimal."""
        parts = [self.hidden] + ([] if self.pooled is None else [self.pooled])
        return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], names: Sequence[str] = ()) -> Conditions:
        """From arrays under diffusers' names.

        Args:
            tensors: prompt_embeds (P, L, D), pooled_prompt_embeds (P, E) where the network takes it, and for the null condition
                negative_prompt_embeds (1, L, D) and negative_pooled_prompt_embeds (1, E). Others are not read.
            names: The P texts, where they are known.

        Raises:
            CheckpointError: prompt_embeds is missing, shapes do not agree, or only one of the two null arrays is there.
        """
        hidden = tensors.get("prompt_embeds")
        pooled = tensors.get("pooled_prompt_embeds")
        if hidden is None or hidden.ndim != 3 or (pooled is not None and pooled.shape[:-1] != hidden.shape[:1]):
            raise CheckpointError(
                "embeddings must hold prompt_embeds (P, L, D), and pooled_prompt_embeds (P, E) where the network takes it"
            )
        whole, nulls = _joined(hidden, tensors.get("negative_prompt_embeds"))
        if pooled is None:
            return cls(whole, None, len(hidden), tuple(names))
        joined, pooled_nulls = _joined(pooled, tensors.get("negative_pooled_prompt_embeds"))
        if nulls != pooled_nulls:
            raise CheckpointError("embeddings must hold both negative_prompt_embeds and negative_pooled_prompt_embeds")
        return cls(whole, joined, len(hidden), tuple(names))

    @classmethod
    def read(cls, path: str | Path) -> Conditions:
        """What `save` wrote, or an .npz with the names of `of`. Raises CheckpointError."""
        what, remedy = "embeddings", "give a .safetensors or .npz file"
        with reading(path, what, remedy, CheckpointError):
            if Path(path).suffix == ".npz":
                tensors = {name: torch.from_numpy(part) for name, part in read_arrays(path, what, remedy).items()}
            else:
                tensors = read_safetensors(path, what, remedy)[0]
            try:
                return cls.of(tensors)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the embeddings to a .safetensors file that `read`, and --embeddings, take.

        Args:
            path: Where to write. The prompts' texts are not written.
            overwrite: Replace any file that is there, not only encoded prompts of ours.

        Raises:
            PlaceError: A ValueError: something else is there.
        """
        with replaced_file(path, signed_prompts, overwrite=overwrite) as fresh:
            parts = {name: part.contiguous() for name, part in self._named().items()}
            write_tensors(fresh, parts, {PROMPTS: ""})

    def _named(self) -> dict[str, Tensor]:
        named = {"prompt_embeds": self.hidden[: self.count]}
        if self.pooled is not None:
            named["pooled_prompt_embeds"] = self.pooled[: self.count]
        if self.has_null:
            named |= {f"negative_{name}": part for name, part in self._null().items()}
        return named

    def _null(self) -> dict[str, Tensor]:
        last = slice(self.count, None)
        pooled = {} if self.pooled is None else {"pooled_prompt_embeds": self.pooled[last]}
        return {"prompt_embeds": self.hidden[last], **pooled}


def _joined(rows: Tensor, null: Tensor | None) -> tuple[Tensor, bool]:
    if null is None:
        return rows.float(), False
    null = null.reshape(-1, *rows.shape[1:])[:1] if null.numel() % rows[0].numel() == 0 else null
    if null.shape[1:] != rows.shape[1:]:
        raise CheckpointError(
            f"negative embeddings are {tuple(null.shape)}, the prompts' {tuple(rows.shape)}: alike needed"
        )
    return torch.cat([rows, null]).float(), True


class Bank(nn.Module):
    """Embeddings by place: label (B,) → hidden (B, L, D), pooled (B, E) or None. They follow the network's device."""

    def __init__(self, conditions: Conditions | None):
        super().__init__()
        self.hidden: Tensor | None
        self.pooled: Tensor | None
        self.register_buffer("hidden", None if conditions is None else conditions.hidden, persistent=False)
        self.register_buffer("pooled", None if conditions is None else conditions.pooled, persistent=False)

    def forward(self, label: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raises ValueError while there are no prompts."""
        if self.hidden is None:
            raise ValueError(
                "this network is conditioned on a text: give --prompts FILE, one prompt per line, or --embeddings FILE"
            )
        return self.hidden[label], None if self.pooled is None else self.pooled[label]


@torch.no_grad()
def encode_prompts(folder: Path, index: Mapping[str, Any], network: nn.Module, prompts: Sequence[str]) -> Conditions:
    """The prompts as the folder's own pipeline encodes them, with its text encoders, which are dropped afterwards.

    Args:
        folder: Of the pipeline, with its text encoders and tokenizers.
        index: What its model_index.json says.
        network: Its network, whose configuration the pipeline asks for.
        prompts: One or more texts.

    Raises:
        CheckpointError: transformers is missing, or an encoder is missing or of an unknown kind.
    """
    if not prompts or isinstance(prompts, str):
        raise CheckpointError("prompts must be a list of at least one text")
    pipeline = _pipeline(folder, index, network)
    parts = [_encode(pipeline, list(prompts[i : i + AT_ONCE])) for i in range(0, len(prompts), AT_ONCE)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Conditions.of(joined, prompts)


def _pipeline(folder: Path, index: Mapping[str, Any], network: nn.Module) -> Any:
    """The folder's pipeline with nothing but what its `encode_prompt` needs."""
    import diffusers

    kind = str(index["_class_name"])
    made = getattr(diffusers, kind)
    given: dict[str, Any] = {"vae": None, "scheduler": None}
    given["transformer" if "transformer" in index else "unet"] = network
    texts = [name for name in index if name.startswith(("text_encoder", "tokenizer"))]
    given |= {name: _text_part(folder / name, index[name]) for name in sorted(texts)}
    if kind == "StableDiffusionPipeline":
        given |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if kind == "StableDiffusionXLPipeline":
        given["force_zeros_for_empty_prompt"] = bool(index.get("force_zeros_for_empty_prompt", True))
    return made(**given)


def _text_part(path: Path, entry: Sequence[Any]) -> Any:
    """A text encoder or tokenizer, None where the pipeline was saved without it."""
    name = entry[1]
    if name is None:
        return None
    if name not in (*ENCODERS, *TOKENIZERS):
        raise CheckpointError(
            f"{path}: a {name} cannot be run here: encode the prompts elsewhere and give --embeddings"
        )
    try:
        import transformers
    except ImportError:
        raise CheckpointError(
            "prompts are encoded by transformers: pip install 'noiseshift[text]', or give --embeddings FILE"
        ) from None
    missing: Collection[str] = ()
    kind = getattr(transformers, name)
    options = {"use_safetensors": True, "output_loading_info": True} if name in ENCODERS else {}
    try:
        with (
            folder_while_open(path, name, "save the pipeline again", CheckpointError) as folder,
            quietly(transformers),
        ):
            if name in ENCODERS:
                options |= without_mapping(kind, folder)
            part = kind.from_pretrained(folder, local_files_only=True, **options)
        if name in ENCODERS:
            part, info = part
            missing = info["missing_keys"]
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many kinds for damaged folders
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise CheckpointError(f"{path} does not load as a {name}: {reason}") from None
    require_all(path, missing)
    return part.float().eval() if name in ENCODERS else part


def _encode(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Under diffusers' names, a null row for every call."""
    kind = type(pipeline).__name__
    if kind == "FluxPipeline":
        # Its guidance is distilled; where it is run with a negative prompt, that is the empty one.
        hidden, pooled, _ = pipeline.encode_prompt(prompts, device="cpu")
        null, pooled_null, _ = pipeline.encode_prompt([""], device="cpu")
        found = (hidden, null, pooled, pooled_null)
    else:
        others = {"prompt_2": None, "prompt_3": None} if kind == "StableDiffusion3Pipeline" else {}
        options = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True, **others}
        found = pipeline.encode_prompt(prompts, device="cpu", **options)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return {name: part[:1] if name.startswith("negative") else part for name, part in zip(names, found, strict=False)}
