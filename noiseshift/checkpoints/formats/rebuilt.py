"""A state dict and a card into a model: what all networks that are rebuilt from shapes have in common."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from noiseshift.checkpoints.card import Card, CheckpointError, said_of_the_card
from noiseshift.diffusion.conventions import TimeInput, levels_of
from noiseshift.diffusion.schedules import Schedule
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.shapes import shapes_only


@contextmanager
def fitting(card: Card) -> Iterator[None]:
    """What goes wrong while a network is built and filled becomes a CheckpointError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on shapes that will not fit anyway
            yield
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(str(error).splitlines()[0]) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:200]
        raise CheckpointError(
            f"the tensors do not fit the {card.family} network that is built here ({reason}): noiseshift info says what they are, "
            "--write-wrapper mine.py begins the code that builds theirs"
        ) from None


def filled(build: Callable[[], nn.Module], state: Mapping[str, Tensor]) -> nn.Module:
    """A network with the tensors of a file, in float32.

    Args:
        build: Makes the network. It is called without memory for its weights.
        state: All of its tensors, by name.

    Raises:
        RuntimeError: Names or shapes do not fit.
    """
    # Shapes only: the weights are the file's own tensors, whatever sizes it claims.
    with shapes_only():
        network = build()
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return network


def model_of(
    network: nn.Module,
    card: Card,
    *,
    shape: tuple[int, ...],
    classes: int = 0,
    class_dropout: bool = False,
    noise_dropout: bool = False,
) -> NetworkModel:
    """The model of a network that is evaluated as its card says, counting t = 0 as data.

    Args:
        network: Called as `NetworkModel` calls its networks.
        card: With its schedule, prediction and time.
        shape: Of a state, (C, H, W) or another.
        classes: How many, without the null class.
        class_dropout: Whether there is a null class.
        noise_dropout: Whether there is a null embedding of the noise level.

    Raises:
        CheckpointError: The card describes no schedule, or a time that does not go with it.
    """
    schedule = card.build_schedule()
    with said_of_the_card():
        levels = levels_of(schedule, card.time)
    return NetworkModel(
        network,
        schedule,
        card.predicts,
        time_input(card.time, schedule),
        classes=classes,
        class_dropout=class_dropout,
        noise_dropout=noise_dropout,
        shape=shape,
        sign=-1.0 if card.time.zero == "noise" and card.prediction == "velocity" else 1.0,
        levels=levels,
    )


def sized(card: Card, channels: int, halvings: int, axes: int = 2) -> tuple[int, ...]:
    """The shape (C, H, W) of a state, or (C, L) of a signal, where the network takes several sizes.

    Args:
        card: Says the size, in pixels per side or height and width, or a whole shape.
        channels: C.
        halvings: How often the network halves a side.
        axes: Spatial axes of a state.

    Raises:
        CheckpointError: No size is said, one that cannot be halved so often, or another number of channels or axes.
    """
    sides = _sides(card, axes)
    if sides is None:
        unknown = "how large its pictures are" if axes == 2 else "how long its signals are"
        raise CheckpointError(f"no tensor shows {unknown}: give --size, or size in its card")
    for side in sides:
        if side % 2**halvings:
            raise CheckpointError(f"a size must be divisible by {2**halvings} here, got {side}: give another --size")
    return channels, *sides


def _sides(card: Card, axes: int) -> tuple[int, ...] | None:
    if isinstance(card.size, int):
        return (card.size,) * axes
    if card.size is not None and axes == 1:
        raise CheckpointError(
            f"its signals have a length, not {card.size[0]}x{card.size[1]}: give one number as --size"
        )
    if card.size is not None:
        return card.size
    return None if card.shape is None else card.shape[1:]


def time_input(time: TimeInput, schedule: Schedule) -> Callable[[Tensor], Tensor]:
    """t, with 0 = data → the number that the network's time embedding was trained on.

    Args:
        time: How the network counts.
        schedule: Gives the noise scale at t, where that is what it is conditioned on.
    """
    return functools.partial(time, schedule)
