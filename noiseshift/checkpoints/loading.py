"""`load(path)`: a file on disk becomes a model with its schedule, and nothing in the file is ever executed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noiseshift.checkpoints.beside import averages_beside, is_averaged
from noiseshift.checkpoints.card import FAMILIES, Card, CheckpointError, HoldsCode
from noiseshift.checkpoints.custom_code import as_model, call, hash_of, is_reference, network_in, read_trusted
from noiseshift.checkpoints.diffusers.autoencoder import Autoencoder
from noiseshift.checkpoints.diffusers.conditions import Conditions
from noiseshift.checkpoints.diffusers.folder import Folder, Wanted, read_folder, read_single_file
from noiseshift.checkpoints.diffusers.lora import Lora
from noiseshift.checkpoints.diffusers.recognising import is_folder, is_kept, weights_of
from noiseshift.checkpoints.diffusers.single_file import tensors_of
from noiseshift.checkpoints.files import read_content, sha256
from noiseshift.checkpoints.foreign import NoDenoiser
from noiseshift.checkpoints.formats import Content, Format, recognised
from noiseshift.checkpoints.weights import AS_AVERAGED, chosen
from noiseshift.data import ASSETS, Images
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.samplers import Scheduled
from noiseshift.networks.model import NetworkModel
from noiseshift.reading import as_text, reading, unchanged

if TYPE_CHECKING:
    from noiseshift.estimators.network import Network

BUNDLED = ("fashion-sit", "fashion-ddpm")


@dataclass(frozen=True)
class Checkpoint:
    """A model and what is known of it.

    Attributes:
        name: the file's or folder's, without its suffix.
        model: predicts, on the schedule that it was trained on.
        card: what the file's tensors do not tell.
        hash: sha256 of the file, of all shards where there are several.
        shape: of a state: (C, H, W); (d,), (C, L), (C, T, H, W), … for networks of other things than pictures.
        classes: 0 for an unconditional model, the number of prompts for one that is conditioned on a text.
        estimator: a level estimator's file, or None.
        decode: states → images in [-1, 1], the identity for models that work on pixels.
        autoencoder: a latent model's, where it is known.
        sampler: makes the n steps that a diffusers folder's own pipeline takes; None for other files.
        recognised: what it was taken for, and why.
        sampled: the model that samples, where it is not the one that estimators read with: one with a cache keeps a run's past.
        averages_beside: names of files beside this one that hold the averages of its weights.
    """

    name: str
    model: Model
    card: Card
    hash: str
    shape: tuple[int, ...]
    classes: int
    estimator: Path | None
    decode: Callable[[Tensor], Tensor]
    autoencoder: Autoencoder | None = None
    sampler: Callable[[int], Scheduled] | None = None
    recognised: str = ""
    sampled: Model | None = None
    averages_beside: tuple[str, ...] = ()

    def __repr__(self) -> str:
        conditions = f"{self.classes} conditions" if self.classes else "unconditional"
        return f"Checkpoint({self.name}, {self.card.family or 'own code'}, states {self.shape}, {conditions})"

    @property
    def latent(self) -> bool:
        """Whether states are latents, not pixels."""
        return self.autoencoder is not None or (len(self.shape) == 3 and self.shape[0] not in (1, 3))

    def encode(self, images: Images) -> Images:
        """A set of images as states of the model: pictures of a latent model go through its autoencoder; latents, and
        pixels of a model that works on pixels, stay what they are, but for its range.

        Args:
            images: (N, C, H, W); floats of the model's own shape, or of one that no picture has, are taken for states.

        Raises:
            ValueError: for pictures of another size than the autoencoder's, or without an autoencoder.
        """
        if len(self.shape) == 2 and tuple(images.pixels.shape[1:]) == (1, *self.shape):
            # An array (N, L, D) of sequences is one of grey pictures too.
            images = replace(images, pixels=images.pixels[:, 0])
        if self.card.range is not None:
            return images.scaled(*self.card.range)
        if not self.latent or _are_states(images.pixels, self.shape):
            return images
        if self.autoencoder is None:
            raise ValueError(
                f"this checkpoint works on latents {self.shape}: give its autoencoder (--vae FOLDER), or --data as an "
                ".npz with float 'latents'"
            )
        return self.autoencoder.states(images, self.shape)

    def level_estimator(self) -> Network:
        """The level estimator that the card names. Raises ValueError where it names none, or the file is none."""
        from noiseshift.estimators.network import Network

        if self.estimator is None:
            raise ValueError("this checkpoint's card names no level estimator: train one, or use --estimator residual")
        return Network.load(self.estimator)

    def to(self, device: torch.device | str, precision: str = "fp32") -> Checkpoint:
        """The same checkpoint computing on a device; states and readings stay float32.

        A Model that custom code made stays where it was put.

        Args:
            device: Where its network is moved.
            precision: "fp32", "bf16" or "fp16", by autocast.

        Raises:
            ValueError: The precision is another word, or another than fp32 for a Model that custom code made.
        """
        if isinstance(self.model, NetworkModel):
            sampled: Any = self.sampled
            moved = None if sampled is None else sampled.to(device, precision)
            return replace(self, model=self.model.to(device, precision), sampled=moved)
        if precision != "fp32":
            raise ValueError(f"{self.name} was made by custom code, which decides the precision: leave --precision out")
        return self


def _are_states(pixels: Tensor, wanted: Sequence[int]) -> bool:
    """Floats of the model's own shape, or of a shape that no picture has."""
    shape = tuple(pixels.shape[1:])
    return pixels.is_floating_point() and (shape == tuple(wanted) or len(shape) != 3 or shape[0] not in (1, 3))


def load(
    path: str | Path | None = None,
    *,
    family: str | None = None,
    card: str | Path | Mapping[str, Any] | None = None,
    vae: str | Path | None = None,
    prompts: Sequence[str] | None = None,
    embeddings: str | Path | Conditions | None = None,
    size: int | tuple[int, int] | None = None,
    lora: str | Path | Lora | Sequence[str | Path | Lora] = (),
    trust: bool = False,
) -> Checkpoint:
    """Load a checkpoint.

    Args:
        path: a bundled one by name (`fashion-sit` when None, `fashion-ddpm`); a `.pt`, `.pth` or `.safetensors` file of one
            of `formats.FORMATS`, as its authors save it (EMA weights preferred); a diffusers folder; a single file of Stable
            Diffusion; or `module:function`,
            which returns a Model, a callable of (x, time), with classes (x, time, label), and its card's values, or a Model
            and a card that says the shape.
        family: "sit", "dit", …, where the file does not say.
        card: path or mapping of what the file cannot say; `<stem>.yaml` beside the file is found by itself.
        vae: folder of a latent model's autoencoder, where it is not in the checkpoint's own folder.
        prompts: of text pipelines, encoded once: class i is then prompt i.
        embeddings: in place of prompts, a file of them or `Conditions`.
        size: pixels per side, or (height, width), where a network takes several.
        lora: LoRA files that are merged into a diffusers folder's network, each `FILE` or `FILE:SCALE`.
        trust: run the code in a file, which must be one's own; what will run is logged before.

    Returns:
        The checkpoint: a model and what is known of it.

    Raises:
        CheckpointError: in one line that names the remedy.
    """
    loras = [Lora.of(word) for word in ([lora] if isinstance(lora, str | Path | Lora) else lora)]
    coder = None if vae is None else Autoencoder.load(vae)
    request = _Request(family, card, coder, trust, Wanted(vae, prompts, embeddings, size, loras))
    if path is not None and is_reference(str(path)):
        return _of_function(str(path), request)
    file = _resolve(path)
    if file.is_dir():
        with unchanged([*file.glob("*.safetensors"), *file.glob("*/*.safetensors")], CheckpointError):
            return _of_folder(file, request)
    with unchanged([file], CheckpointError):
        return _of_file(file, request)


@dataclass(frozen=True)
class _Request:
    """What `load` was given beside the path; `coder` is the autoencoder that lies at `wanted.vae`."""

    family: str | None
    card: str | Path | Mapping[str, Any] | None
    coder: Autoencoder | None
    trust: bool
    wanted: Wanted

    def refuse_texts(self, name: str) -> None:
        """Raise CheckpointError where what is for text pipelines was given with another checkpoint."""
        if self.wanted.prompts is not None or self.wanted.embeddings is not None:
            raise CheckpointError(f"{name} is no diffusers folder: prompts and embeddings are for those")
        if self.wanted.loras:
            raise CheckpointError("LoRA files are for diffusers folders: give the folder that this one was trained on")

    def refuse_family(self, name: str, kind: str) -> None:
        """Raise CheckpointError where a family is named for what is no state dict."""
        if self.family is not None:
            raise CheckpointError(f"{name} is {kind}, and --family says what a state dict is: leave it out")


def _of_function(word: str, request: _Request) -> Checkpoint:
    request.refuse_texts(word)
    request.refuse_family(word, "a function")
    made = call(word)
    return _of_custom_code(word, made, hash_of(made, word), _given(request.card), request.coder, request.wanted.size)


def _of_folder(place: Path, request: _Request) -> Checkpoint:
    request.refuse_family(place.name, "a diffusers folder")
    with reading(place.name, "diffusers folder", "save the pipeline again", CheckpointError):
        folder = read_folder(place, request.wanted)
    whose = "model_index.json beside it" if is_kept(place) else "model_index.json"
    shown = f"a diffusers folder, by {whose}"
    return _of_pipeline(place, _sha256_of_all(weights_of(place)), folder, request.wanted.loras, shown)


def _of_file(file: Path, request: _Request) -> Checkpoint:
    try:
        # Whatever odd values in a file make of themselves, while it is followed, is one line.
        with reading(
            file.name, "checkpoint that can be followed", "give a plain state dict, and a card", CheckpointError
        ):
            content = read_trusted(file) if request.trust else read_content(file)
            if network := network_in(content):
                card = _given(request.card or _beside(file))
                return _of_custom_code(str(file), network, sha256(file), card, request.coder, request.wanted.size)
            tensors = tensors_of(content)
            if tensors is not None:
                card = _given(request.card or _beside(file))
                folder = read_single_file(file, tensors, request.wanted, card=card)
                shown = "a single file of Stable Diffusion, by model.diffusion_model.* among its keys"
                return _of_pipeline(file, sha256(file), folder, request.wanted.loras, shown)
            request.refuse_texts(file.name)
            form, shown = recognised(content)
            convention = _card(file, request.family, request.card, form, content)
            if request.wanted.size is not None:
                convention = replace(convention, size=request.wanted.size)
            model = form.build(content, convention)
    except HoldsCode as error:
        raise HoldsCode(f"{error}, or --trust it if you made it") from None
    except CheckpointError as error:
        reason = str(error)
        # A file that holds something else is another error than one whose network is not known.
        kind = NoDenoiser if isinstance(error, NoDenoiser) else CheckpointError
        raise kind(reason if reason.startswith(file.name) else f"{file.name}: {reason}") from None
    taken = _taken(content, file)
    convention = replace(convention, provenance={**convention.provenance, **taken})
    found = _checkpoint(file, sha256(file), model, convention, request.coder)
    beside = () if taken.get("weights", "").endswith(AS_AVERAGED) else averages_beside(file)
    return replace(found, recognised=f"{form.name}, by {shown}", averages_beside=beside)


def _of_pipeline(file: Path, digest: str, folder: Folder, loras: Sequence[Lora], shown: str) -> Checkpoint:
    found = _checkpoint(file, digest, folder.model, folder.card, folder.autoencoder)
    name = "+".join([found.name, *(each.name for each in loras)])
    return replace(found, name=name, sampler=folder.sampler, recognised=shown)


def _sha256_of_all(first: Path) -> str:
    """Of a network's only file of weights; of all its shards' hashes where there are several."""
    each = [sha256(path) for path in sorted(first.parent.glob("*.safetensors"))]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def _taken(content: Content, file: Path) -> dict[str, str]:
    """Which set of tensors was taken, where a file holds more than a plain state dict, or is averaged by its name."""
    try:
        found = chosen(content)
    except CheckpointError:  # EDM's objects, which hold one network
        return {}
    if not found.averaged and is_averaged(file):
        found = replace(found, name=f"{found.name or 'the whole file'}, by the file's name", averaged=True)
    return {"weights": found.shown} if found.name or found.averaged else {}


def _of_custom_code(
    name: str, made: Any, digest: str, card: Card | None, coder: Autoencoder | None, size: int | tuple[int, int] | None
) -> Checkpoint:
    try:
        model, convention = as_model(made, card, None if size is None else _states_of(size, coder))
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    found = _checkpoint(Path(name.replace(":", "-")), digest, model, convention, coder)
    return replace(found, recognised="whatever its custom code makes")


def _states_of(size: int | tuple[int, int], coder: Autoencoder | None) -> tuple[int, int]:
    """Height and width of states, for pictures of `size` pixels."""
    height, width = (size, size) if isinstance(size, int) else size
    factor = 1 if coder is None else coder.factor
    if height % factor or width % factor:
        raise CheckpointError(f"its autoencoder makes pictures of multiples of {factor} pixels, not {height}x{width}")
    return height // factor, width // factor


def _checkpoint(path: Path, digest: str, model: Model, card: Card, autoencoder: Autoencoder | None) -> Checkpoint:
    own = model.shape if isinstance(model, NetworkModel) else None
    shape = own or card.shape or getattr(model, "shape", None)
    assert shape is not None  # every loader states it
    if card.range is not None and autoencoder is not None:
        raise CheckpointError("range is for pixels: with an autoencoder the card has latents: {center, spread, range}")
    _require_its_own(path.name, card, tuple(shape))
    if autoencoder is not None and autoencoder.channels != shape[0]:
        raise CheckpointError(f"the autoencoder has {autoencoder.channels} channels, {path.name} {shape[0]}")
    if autoencoder is not None and card.latents:
        autoencoder.standardise(**card.latents)
    return Checkpoint(
        name=as_text(path.stem),
        model=model,
        card=card,
        hash=digest,
        shape=tuple(shape),
        classes=getattr(model, "classes", 0) or card.classes or 0,
        estimator=None if card.estimator is None else path.parent / card.estimator,
        decode=_decoder(card, autoencoder),
        autoencoder=autoencoder,
    )


def _require_its_own(name: str, card: Card, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError where a card, or --size, says another size than the network has."""
    sides = shape[-2:] if len(shape) > 2 else shape[1:]
    wanted = (card.size,) * len(sides) if isinstance(card.size, int) else card.size
    if wanted is not None and wanted != sides:
        said, own = ("x".join(map(str, each if len(set(each)) > 1 else each[:1])) for each in (wanted, sides))
        raise CheckpointError(f"{name} works on {own} pixels per side, not {said}: leave the size out")
    if card.size is None and card.shape not in (None, shape):
        raise CheckpointError(f"{name} works on states {shape}, its card says {card.shape}: correct shape there")


def _decoder(card: Card, autoencoder: Autoencoder | None) -> Callable[[Tensor], Tensor]:
    if autoencoder is not None:
        return autoencoder.decode
    return _as_they_are if card.range is None else functools.partial(_unit, *card.range)


def _as_they_are(x: Tensor) -> Tensor:
    """Pixels, and states that no autoencoder is known of."""
    return x


def _unit(low: float, high: float, x: Tensor) -> Tensor:
    """Pixels of a network for which black is `low` and white `high`, in [-1, 1]."""
    return (x - low) * (2 / (high - low)) - 1


def _resolve(path: str | Path | None) -> Path:
    name = "fashion-sit" if path is None else str(path)
    found = ASSETS / f"{name}.safetensors" if name in BUNDLED else Path(name)
    if found.is_dir() and is_kept(found) and not is_folder(found):
        raise CheckpointError(
            f"{found} is a training's state, whose schedule its own folder does not say: give the folder in which the training "
            f"saved its pipeline, or put its model_index.json and scheduler into {found.resolve().parent}"
        )
    if found.is_dir() and not is_folder(found):
        raise CheckpointError(f"{found} is a folder without model_index.json: give a .pt or .safetensors file")
    if not found.exists():
        raise CheckpointError(
            f"no checkpoint at {name}: give a .pt or .safetensors file, or one of {', '.join(BUNDLED)}"
        )
    return found


def _card(
    path: Path, family: str | None, card: str | Path | Mapping[str, Any] | None, form: Format, content: Content
) -> Card:
    """The card that was given, or lies beside the file, completed by what the file itself tells, or the family's usual one."""
    if family is not None and family not in FAMILIES:
        raise CheckpointError(f"unknown family {family!r}: choose from {', '.join(FAMILIES)}")
    in_file = form.card(content)
    given = _given(card or _beside(path), in_file)
    found = given or (in_file if in_file and family in (None, in_file.family) else _usual(family, form))
    if given and family not in (None, found.family):
        raise CheckpointError(f"the card says {found.family}, not {family}: leave --family out, or correct the card")
    if (family or found.family) not in form.families or found.family not in form.families:
        raise CheckpointError(f"this is {form.name}, no {family or found.family} file: use --family {form.families[0]}")
    return found


def _beside(path: Path) -> Path | None:
    """The card of a file, where there is one."""
    card = path.with_suffix(".yaml")
    return card if card.exists() else None


def _given(card: str | Path | Mapping[str, Any] | None, in_file: Card | None = None) -> Card | None:
    """The card that was given, completed by what the file itself tells."""
    if card is None:
        return None
    return Card.from_dict(card, in_file) if isinstance(card, Mapping) else Card.read(card, in_file)


def _usual(family: str | None, form: Format) -> Card:
    if family is None:
        choice = " or ".join(form.families)
        raise CheckpointError(f"this is {form.name}: say which with --family {choice}, or with a card")
    return FAMILIES[family]
