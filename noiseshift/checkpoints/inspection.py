"""What a checkpoint file says by itself, where no format of ours builds its network: names, shapes and buffers, nothing run.

A file of anybody's own training holds a state dict; its schedule is often in it as buffers, under one of a dozen names. What it
cannot say (the network's code, the range of its data, which way its time runs) is left to a person; see `wrapper`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from noiseshift.checkpoints.card import LONGEST, CheckpointError
from noiseshift.checkpoints.files import read_content
from noiseshift.checkpoints.source.settings import settings_in
from noiseshift.checkpoints.weights import TIME, Weights, chosen

Read = Callable[[Tensor], Tensor]

_ALPHA_BAR = (
    r"(alphas?_?cum_?prod|alphas?_?bars?(_t)?|alphabars?(_t)?|alphas?_?hats?|alphas?_?prod|cumprod_alphas?|a_?bars?)"
)
_NOISE = rf"(sqrt_?(one_?minus|1_?minus|1m|om)_?{_ALPHA_BAR}|sqrtmab|sqrt_?1mab)"
TABLES: tuple[tuple[str, str, Read], ...] = (
    # Betas first: float32 rounds an alpha-bar near 1 to what is 0.1 % of the first step's noise.
    ("betas", r"betas?(_t)?", lambda table: (1 - table).cumprod(0)),
    ("square roots of betas", r"sqrt_?betas?(_t)?", lambda table: (1 - table.square()).cumprod(0)),
    ("alphas", r"alphas?(_t)?", lambda table: table.cumprod(0)),
    ("alphas_cumprod", _ALPHA_BAR, lambda table: table),
    ("their square roots", rf"(sqrt_?{_ALPHA_BAR}|sqrtab)", lambda table: table.square()),
    ("noise scales", _NOISE, lambda table: 1 - table.square()),
    ("squared noise scales", rf"(one_?minus|1_?minus)_?{_ALPHA_BAR}", lambda table: 1 - table),
)
"""Names that schedules are kept under, what they hold, and how they become alphas_cumprod."""

_CLASS = re.compile(r"label|class|(^|[._])(y|c|cond|context)_?(emb\w*|table)|cemb|null_", re.IGNORECASE)
_HEAD = re.compile(r"(^|\.)(head|final|last|out|output)(_?(layer|linear|proj|fc))?\.weight$", re.IGNORECASE)
_FREQUENCIES = re.compile(r"(^|[._])(W|freqs?|frequencies|omegas?|weights?|B|inv_freq)$")


@dataclass(frozen=True)
class Table:
    """A schedule that lies in a file.

    Attributes:
        name: of the buffer that it was read from.
        alphas_cumprod: (N,) float64, falling.
    """

    name: str
    alphas_cumprod: Tensor

    @property
    def card(self) -> dict[str, Any]:
        """As a card describes it."""
        return {"kind": "discrete", "alphas_cumprod": self.alphas_cumprod.tolist()}


@dataclass(frozen=True)
class Contents:
    """What a file says by itself.

    Attributes:
        path: the file.
        weights: which set of tensors is the network's, in words.
        averaged: whether they are averages over the training.
        tensors: the network's, by name, without `prefix`.
        prefix: what stands before each of their names, "" for nothing.
        schedule: the schedule in its buffers, or None.
        names: of all tensors, as they lie in the set.
        settings: numbers and words that lie beside them.
    """

    path: Path
    weights: str
    averaged: bool
    tensors: Mapping[str, Tensor]
    prefix: str
    schedule: Table | None
    names: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(value.numel() for value in self.tensors.values())

    @property
    def axes(self) -> int | None:
        """Spatial axes of a state, by the convolutions: 0 where all layers are linear, None where there are no layers."""
        ranks = {value.ndim for value in self._layers().values()}
        # Of weights with three axes, layer norms over pictures have as many as convolutions of signals.
        found = next((rank for rank in (5, 4, 3, 2) if rank in ranks), None)
        return None if found is None else found - 2

    @property
    def inputs(self) -> int | None:
        """Channels that the first layer takes, features where all are linear; a time may be among these."""
        layers = list(self._of_axes().values())
        if not layers:
            return None
        first = int(layers[0].shape[1])
        # Linear layers may lie in another order than they are called in: what another one makes is no state.
        hidden = self.axes == 0 and any(layer.shape[0] == first for layer in layers[1:])
        return self.outputs if hidden and any(layer.shape[1] == self.outputs for layer in layers) else first

    @property
    def outputs(self) -> int | None:
        """Channels of the answer, or features."""
        layers = self._of_axes()
        if not layers:
            return None
        last = list(layers)[-1]
        heads = [
            key for key in layers if self.axes == 0 and _HEAD.search(key) and key.count(".") <= last.count(".") + 1
        ]
        least = min((key.count(".") for key in heads), default=0)
        named = [key for key in heads if key.count(".") == least]
        key = named[-1] if named else last
        bias = self.tensors.get(key.removesuffix("weight") + "bias")
        # A transposed convolution has its channels out second: a bias tells them of any layer.
        return int(layers[key].shape[0] if bias is None or bias.ndim != 1 else len(bias))

    @property
    def channels(self) -> int | None:
        """Channels of one state, or features: a network may take more (its time, a label as an image), or answer more (its
        variance)."""
        if self.inputs is None or self.outputs is None:
            return None
        return self.outputs if self.axes == 0 else min(self.inputs, self.outputs)

    @property
    def size(self) -> int | None:
        """Pixels a side, where a layer norm over whole pictures shows them."""
        if self.axes != 2:
            return None
        sides = [
            v.shape[-1] for k, v in self.tensors.items() if v.ndim == 3 and v.shape[-1] == v.shape[-2] and "weight" in k
        ]
        return max(sides, default=None)

    @property
    def steps(self) -> int | None:
        """Rows of an embedding that is indexed by time, or None."""
        rows = [len(value) for key, value in self._embeddings(TIME) if len(value) >= 10 and not _CLASS.search(key)]
        return max(rows, default=None)

    @property
    def time(self) -> str:
        """How the network takes its time, as far as it shows."""
        if self.steps:
            return f"an embedding of {self.steps:,} rows: whole numbers 0 … {self.steps - 1}"
        named = [key for key in self.tensors if TIME.search(key)]
        if any(
            _FREQUENCIES.search(key)
            and self.tensors[key].ndim <= 2
            and self.tensors[key].shape[0] < 2048
            and not key.endswith("weight")
            for key in named
        ):
            return "frequencies of a Fourier embedding: any number"
        return (
            "layers on an embedding that is computed: any number, or steps"
            if named
            else "no layer of its own is named so"
        )

    @property
    def rows(self) -> int | None:
        """Rows of an embedding of classes, or None."""
        found = [len(value) for _, value in self._embeddings(_CLASS)]
        return found[0] if found else None

    def facts(self) -> dict[str, str]:
        """For people, a line each."""
        table = self.schedule
        found = {
            "weights": self.weights,
            "parameters": f"{self.parameters:,} in {len(self.tensors)} tensors",
            "prefix": f"{self.prefix} before every name" if self.prefix else "none",
            "states": self._states(),
            "time": self.time,
            "classes": "no embedding of classes" if self.rows is None else _classes(self.rows),
            "schedule": "no buffers of one: it is in the training's code",
        }
        if table is not None:
            ends = f"{float(table.alphas_cumprod[0]):.6g} … {float(table.alphas_cumprod[-1]):.4g}"
            found["schedule"] = (
                f"{len(table.alphas_cumprod):,} steps, by its buffer {table.name}; alphas_cumprod {ends}"
            )
        return found

    def _states(self) -> str:
        kind = ("features", "channels of a signal", "channels", "channels of a video")[self.axes or 0]
        size = f" of {self.size}×{self.size}" if self.size else ""
        others = self.inputs != self.outputs if self.axes == 0 else (self.inputs or 0) > (self.outputs or 0)
        more = ", others than the state's among them" if others else ""
        return f"{self.inputs} {kind}{size} in{more}; {self.outputs} out"

    def _of_axes(self) -> dict[str, Tensor]:
        axes = self.axes
        return {key: value for key, value in self._layers().items() if axes is not None and value.ndim == axes + 2}

    def _layers(self) -> dict[str, Tensor]:
        """Weights of layers that are neither of time nor of classes, in the file's order."""
        return {
            key: value
            for key, value in self.tensors.items()
            if 2 <= value.ndim <= 5 and key.endswith("weight") and not TIME.search(key) and not _CLASS.search(key)
        }

    def _embeddings(self, kind: re.Pattern[str]) -> list[tuple[str, Tensor]]:
        """Tables that are indexed: weights without a bias beside them, in a network whose layers have biases."""
        if not any(
            key.removesuffix("weight") + "bias" in self.tensors for key in self.tensors if key.endswith("weight")
        ):
            return []
        return [
            (key, value)
            for key, value in self.tensors.items()
            if kind.search(key)
            and value.ndim == 2
            and key.endswith("weight")
            and key.removesuffix("weight") + "bias" not in self.tensors
        ]


def contents_of(path: str | Path) -> Contents:
    """What a file says by itself. Raises CheckpointError when it cannot be read, or holds no network's tensors."""
    path = Path(path)
    content = read_content(path)
    found = chosen(content)
    state = {_bare(key): value for key, value in _whole(content, found).items()}
    prefix = _prefix(state)
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    contents = Contents(
        path, found.shown, found.averaged, tensors, prefix, schedule_in(state), tuple(state), settings_in(content)
    )
    if contents.axes is None:
        raise CheckpointError("it holds tensors, but no network's weights: give a file with a model's state dict")
    return contents


def _whole(content: Mapping[Any, Any], found: Weights) -> Mapping[str, Tensor]:
    """The state dict that a set of weights was found in, with what lies beside them: a network may have a part called net."""
    place: Any = content
    for name in found.name.split("/") if found.name else ():
        place = place.get(name) if isinstance(place, Mapping) else None
    if not isinstance(place, Mapping):
        return found.state
    tensors = {str(key): value for key, value in place.items() if isinstance(value, Tensor)}
    return tensors or found.state


def _bare(key: str) -> str:
    return key.removeprefix("module.")


def schedule_in(state: Mapping[str, Tensor]) -> Table | None:
    """The schedule among a state dict's buffers, whatever prefix it is under; None where there is none."""
    rows = {key: value.double() for key, value in state.items() if value.ndim == 1 and 2 <= len(value) <= LONGEST}
    for _, pattern, read in TABLES:
        for key, value in rows.items():
            if re.fullmatch(pattern, key.rpartition(".")[2], re.IGNORECASE) and _falls(table := read(value)):
                return Table(key, table)
    return None


def _falls(table: Tensor) -> bool:
    """Whether these are alphas_cumprod. One that starts at 1, before any noise, is not a step that a network knows."""
    return bool((table.diff() < 0).all() and 0 < table[0] < 1 and table[-1] >= 0)


def _prefix(state: Mapping[str, Tensor]) -> str:
    """What stands before the names of all weights (not of buffers), such as `denoise_fn.`."""
    keys = [key for key, value in state.items() if value.ndim > 1]
    if not keys:
        raise CheckpointError("it holds no weights: give a file with a model's state dict")
    first = keys[0]
    found = ""
    for place in (match.end() for match in re.finditer(r"\.", first)):
        if not all(key.startswith(first[:place]) for key in keys) or place == len(first):
            break
        found = first[:place]
    # A network that is one Sequential has that name itself: only what holds a name of two parts more is a wrapper's.
    return found if all(len(key.removeprefix(found).split(".")) > 1 for key in keys) else ""


def _classes(rows: int) -> str:
    return f"an embedding of {rows:,} rows: {rows:,} classes, or {rows - 1:,} and a null class"
