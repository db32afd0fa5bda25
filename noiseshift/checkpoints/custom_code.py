"""Models that custom code makes: `module:function`, and files whose code the user trusts."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from noiseshift.calling import CodeError, calling, undisturbed
from noiseshift.checkpoints.card import Card, CheckpointError, HoldsCode
from noiseshift.checkpoints.files import read_content
from noiseshift.checkpoints.formats.rebuilt import model_of
from noiseshift.checkpoints.unpickling.pickles import names_in
from noiseshift.checkpoints.weights import averages
from noiseshift.diffusion.conventions import Calling, TimeInput
from noiseshift.diffusion.models import Model, checked
from noiseshift.diffusion.parts import InParts
from noiseshift.diffusion.schedules import describe
from noiseshift.diffusion.wrapping import CallableModel

FAMILY = "callable"


def is_reference(name: str) -> bool:
    """Whether a checkpoint's name is `module:function` and not a file."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None and not Path(name).exists()


def see_working_directory() -> None:
    """Let modules in the working directory be imported, last: none of them takes the place of a library."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _refuse_other(where: str) -> None:
    """Raise CheckpointError where a module of the working directory is meant, and a library of its name would be imported."""
    name = where.partition(".")[0]
    here = [path for path in (Path(f"{name}.py"), Path(name, "__init__.py")) if path.exists()]
    found = importlib.util.find_spec(name) if here else None
    if found is not None and found.origin is not None and not any(_same(found.origin, path) for path in here):
        raise CheckpointError(f"{where}: an installed module is called {name} too ({found.origin}): rename {here[0]}")


def _same(a: str | Path, b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def call(reference: str) -> Any:
    """What `module:function` returns; the module is looked for from the working directory on.

    Raises CheckpointError when there is no such module or function; what the function itself raises is passed on in one line.
    """
    where, _, name = reference.partition(":")
    see_working_directory()
    _refuse_other(where)
    with _reported(), undisturbed(), calling(f"importing {where}"):
        try:
            module = importlib.import_module(where)
        except ImportError as error:
            remedy = f"run from the folder that {where} lies in, or install it"
            raise CheckpointError(f"{reference}: {error}: {remedy}") from None
    if not hasattr(module, name):
        raise CheckpointError(f"{reference}: {where} has no {name}: name a function that returns the model")
    function = getattr(module, name)
    with _reported(), undisturbed(), calling(reference):
        return function()


def read_trusted(path: Path) -> Any:
    """Everything in a file whose code the user trusts: the code is run, and named before, on the log.

    Raises CheckpointError when the file is damaged or its code fails.
    """
    try:
        return read_content(path)
    except HoldsCode:
        names = names_in(path)
    logging.getLogger("noiseshift").warning(
        "trusted: loading %s imports, and may call, %s", path.name, ", ".join(names)
    )
    see_working_directory()
    with _reported(), undisturbed(), calling(f"{path.name}: its code"):
        return torch.load(path, map_location="cpu", weights_only=False)


@contextmanager
def _reported() -> Iterator[None]:
    """While a checkpoint is made, what the user's code raises is said of the checkpoint."""
    try:
        yield
    except CodeError as error:
        raise CheckpointError(str(error)) from error


def network_in(content: Any) -> nn.Module | None:
    """The network that a trusted file holds whole, by itself or among other things; averaged ones preferred."""
    if isinstance(content, Mapping):
        held = {str(key): part for key, part in content.items() if isinstance(part, nn.Module)}
        content = next((held[key] for key in sorted(held, key=lambda key: not averages(key))), None)
    return content if isinstance(content, nn.Module) else None


class Called(nn.Module):
    """A user's callable, called as its card says where `NetworkModel` calls its networks: (x, time, label, known).

    Label `classes` asks for the unconditional prediction; it becomes the null class that the card names, or None. Where that is
    0, which stands for the first class otherwise, the network's classes start at 1.

    Args:
        fn: The callable; where it is a network, it becomes a part of this module.
        classes: How many, without the null class; 0 for none.
        time: The dtype and shape that it takes the time in; the number itself is made before.
        calling: The order of its arguments, its answer and its null class.
    """

    def __init__(self, fn: Callable[..., Any], classes: int, time: TimeInput, calling: Calling):
        super().__init__()
        self.fn = fn
        self.classes = classes
        self.time = time
        self.calling = calling.completed(labelled=classes > 0)

    def forward(self, x: Tensor, time: Tensor, label: Tensor, known: Tensor) -> Tensor:
        time = self.time.shaped(time)
        null = label == self.classes
        if self.calling.null_class != "none" or not bool(null.any()):
            answer: Tensor = self.calling(self.fn, x, time, self._named(label, null))
            return answer
        answer = torch.empty_like(x)
        for rows, given in ((null, None), (~null, label[~null])):
            if bool(rows.any()):
                answer[rows] = checked(self.calling(self.fn, x[rows], time[rows], given), x[rows], "the network")
        return answer

    def _named(self, label: Tensor, null: Tensor) -> Tensor:
        number = self.calling.null_class
        if not isinstance(number, int):
            return label
        return torch.where(null, number, label + 1 if number == 0 else label)


def as_model(made: Any, card: Card | None, sides: tuple[int, int] | None = None) -> tuple[Model, Card]:
    """A model of what custom code made, and its card. Networks in it are set to evaluation, without gradients.

    Args:
        made: A Model, a callable (with a card), or either in a pair with the card's values.
        card: Comes before the pair's values; None where nobody gave one.
        sides: Height and width of a state, in place of those that the card says.

    Raises:
        CheckpointError: It is anything else, the shape of a state is not given, or `sides` are and it has none.
    """
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping):
        made, card_values = made
        card = card or Card.from_dict({"family": FAMILY, **card_values})
    if sides is not None:
        card = _resized(card, sides)
    for network in networks_in(made):
        network.eval().requires_grad_(False)
    if isinstance(made, Model):
        _refuse_shifted(made, card)
        ours = type(made).__module__.startswith("noiseshift.")
        return made if ours else InParts(made), _card_of(made, card)
    if not callable(made):
        raise CheckpointError(f"it is a {type(made).__name__}: return a noiseshift Model, or a callable and its card")
    if card is None or card.shape is None:
        raise CheckpointError(
            "a callable needs a card of its schedule, prediction, time and shape: --card, or return (callable, card)"
        )
    classes = card.classes or 0
    network = Called(made, classes, card.time, card.calling)
    model = model_of(network, card, shape=card.shape, classes=classes, class_dropout=card.null_class is not None)
    return model, card


def _refuse_shifted(model: Model, card: Card | None) -> None:
    """Raise CheckpointError where a wrapped model takes one of the classes for none: it is handed labels as they are."""
    null = model.calling.null_class if isinstance(model, CallableModel) else None
    if card is not None and isinstance(null, int) and 0 <= null < (card.classes or 0):
        raise CheckpointError(
            f"null_class {null} is one of the classes 0 … {(card.classes or 0) - 1}: return (network, card) with null_class in the "
            "card, where 0 says that classes start at 1"
        )


def _resized(card: Card | None, sides: tuple[int, int]) -> Card:
    if card is None or card.shape is None:
        raise CheckpointError(
            "a size goes with a card that says the shape of a state: return (model, {'shape': [3, 32, 32]})"
        )
    if len(card.shape) < 3:
        raise CheckpointError(
            f"its states {card.shape} are no pictures or video: leave the size out, or change the shape where the model is made"
        )
    return replace(card, shape=(*card.shape[:-2], *sides), size=None)


def _card_of(model: Model, card: Card | None) -> Card:
    """The card of a Model, which knows its schedule and space by itself."""
    shape = card.shape if card else getattr(model, "shape", None)
    if shape is None:
        raise CheckpointError("how large is a state? return (model, {'shape': [3, 32, 32]})")
    classes = (card and card.classes) or getattr(model, "classes", None) or None
    return replace(
        card or Card(FAMILY),
        schedule=describe(model.schedule),
        prediction=model.predicts,
        shape=tuple(shape),
        classes=classes,
        range=(card and card.range) or getattr(model, "range", None),
    )


def hash_of(made: Any, source: str) -> str:
    """SHA-256 of the code that made a model and of every tensor in the networks it holds, hexadecimal: other weights, another
    hash.

    Args:
        made: What the code made; see `networks_in`.
        source: `module:function`, whose module's text is hashed, or the words themselves where it has none.
    """
    digest = hashlib.sha256(_source(source))
    for network in networks_in(made):
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def networks_in(made: Any) -> list[nn.Module]:
    """The networks in an object: itself, its attributes, the variables that its functions use."""
    return list(_networks(made, set()))


def _source(reference: str) -> bytes:
    try:
        return inspect.getsource(sys.modules[reference.partition(":")[0]]).encode()
    except (KeyError, OSError, TypeError):
        return reference.encode()


def _networks(made: Any, seen: set[int]) -> Iterator[nn.Module]:
    if id(made) in seen:
        return
    seen.add(id(made))
    if isinstance(made, Called) and not isinstance(made.fn, nn.Module):
        yield from _networks(made.fn, seen)
        return
    if isinstance(made, nn.Module):
        yield made
        return
    for part in _parts(made):
        ours = type(part).__module__.startswith("noiseshift")
        if ours or callable(part) or isinstance(part, list | tuple | dict):
            yield from _networks(part, seen)


def _parts(made: Any) -> list[Any]:
    if isinstance(made, list | tuple):
        return [*made]
    if isinstance(made, dict):
        return [*made.values()]
    if isinstance(made, functools.partial):
        return [made.func, *made.args, *made.keywords.values()]
    if inspect.isfunction(made):
        used = inspect.getclosurevars(made)
        return [*used.nonlocals.values(), *used.globals.values()]
    return [*getattr(made, "__dict__", {}).values(), getattr(made, "__self__", None), getattr(made, "__func__", None)]
