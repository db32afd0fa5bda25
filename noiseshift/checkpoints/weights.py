"""Which of the state dicts in a training file is the network to measure: an averaged one, wherever the script put it.

Training scripts save their network under many names, by itself or beside its average (timm, ema_pytorch, Lightning and its
callbacks, AveragedModel, accelerate, DeepSpeed, BasicSR, torch_ema), and wrappers (DistributedDataParallel, torch.compile, FSDP,
activation checkpointing) put theirs into every key. Here a file becomes a list of named sets of tensors without wrappers' names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from noiseshift.checkpoints.card import CheckpointError

ANYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""What wrappers put into a key at any place."""
AVERAGED = re.compile(r"(^|[._])(emas?|avg|averaged?|averaging|swa|polyak|shadow)([._0-9]|$)", re.IGNORECASE)
RAW = re.compile(r"(^|[._])(online|current|raw|student|collected)([._0-9]|$)")
MODEL = r"(model|net|network|unet|denoiser|diffusion|dit|sit|backbone|params|module)"
USUAL = re.compile(rf"(net_)?{MODEL}(_(state(_dict)?|dict|weights|params))?|state_dict|weights|current_model_state")
"""Names of the network as it trains."""
CONTAINER = re.compile(rf"module|(online_|net_|ema_|avg_|averaged_|swa_)?{MODEL}(_ema)?|net_ema|ema")
"""Attributes under which a training object holds its network."""
SKIPPED = re.compile(
    r"(^|_)(opt|optim|schedule|optimizer|optimizers|scheduler|schedulers|sched|scaler|rng|loss|metrics|loops|discriminator|disc)(_|$|s$)"
)
TIME = re.compile(
    r"time|(^|[._])(t|te|temb|t_?emb\w*|sigma|noise_(emb|level)\w*|timestep\w*)\d*([._]|$)", re.IGNORECASE
)
"""Names of layers that take the time."""
COUNTERS = ("n_averaged", "initted", "step", "num_updates", "decay")
"""What averaging keeps beside the weights."""
POSITIONAL = "shadow_params"
"""Averages by position, in the order of the trained parameters (torch_ema, flow_matching)."""
KEPT_BY_OPTIMIZERS = re.compile(r"(ema|emas|slow|lookahead_slow|swa|averaged?)(_\w+)?|ax")
"""The averaged parameter in an optimizer's state (Lookahead, SWA, ASGD's ax), beside the moments of its gradients (exp_avg)."""
DEEPEST = 4
AS_AVERAGED = ", averaged"
"""How a set is shown that is an average."""


def averages(name: str) -> bool:
    """Whether a name says that an average is under it: ema, net_ema, emaModel, ModelEMA, swa_model.

    Args:
        name: A key, or several with dots or slashes between them.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return bool(AVERAGED.search(words.replace("/", ".")))


@dataclass(frozen=True)
class Weights:
    """One set of tensors in a file.

    Attributes:
        name: Where it lies in the file, "" for a plain state dict.
        state: The tensors by name, without what wrappers put into the names.
        averaged: Whether it is an average over the training.
    """

    name: str
    state: Mapping[str, Tensor]
    averaged: bool = False

    @property
    def shown(self) -> str:
        """For people."""
        return (self.name or "the whole file") + (AS_AVERAGED if self.averaged else "")


def chosen(content: Mapping[Any, Any], names: Iterable[str] | None = None, order: Sequence[str] = ()) -> Weights:
    """The averaged set in a file's content, or the only one that there is, or that under the usual name.

    Args:
        content: What lies in the file.
        names: The keys of the network, where it is at hand: nothing is taken off keys that fit it already.
        order: Its trained parameters in order, which averages by position are of.

    Raises CheckpointError when there is none, or there are several and no telling which is meant.
    """
    wanted = None if names is None else frozenset(names)
    sets = [part for part in _sets(content, "", wanted) if part.state]
    sets = [part for part in sets if _is_network(part.state)] or sets
    sets = [part for part in sets if part.name or not is_loose(part.state)] or sets
    if "current_model_state" in content:  # Lightning's WeightAveraging puts the averages where the weights were
        sets = [replace(part, averaged=part.averaged or part.name == "state_dict") for part in sets]
    listed = list(_listed(content, ""))
    if listed:
        where, rows = listed[0]
        raw = _one([part for part in sets if not part.averaged])
        return Weights(where, _by_position(rows, raw.state if raw else {}, order), averaged=True)
    if not sets:
        keys = ", ".join(str(key)[:40] for key in list(content)[:6]) or "none"
        raise CheckpointError(
            f"it holds no tensors of a network (its keys: {keys}): give a file with a model's state dict"
        )
    averaged = [part for part in sets if part.averaged]
    found = _one(averaged or sets)
    if found is None:
        named = ", ".join(sorted({part.name or "the file itself" for part in averaged or sets})[:6])
        kind = "averaged weights" if averaged else "weights"
        raise CheckpointError(f"it holds several {kind} ({named}): save the one to measure in a file of its own")
    if not averaged:
        _refuse_doubt(found, sets, content)
    if any(key.endswith("_flat_param") for key in found.state):
        raise CheckpointError("its parameters are FSDP's flat ones: save a full state dict")
    return found


def _refuse_doubt(found: Weights, sets: Sequence[Weights], content: Mapping[Any, Any]) -> None:
    """Raise CheckpointError where an average may lie beside what was found: tensors that no name makes a network of, or another
    set of the same keys (`target`, `slow_model`)."""
    if hidden := next(_unread(content, ""), None):
        raise CheckpointError(
            f"its averaged weights ({hidden}) are not named as a network's: save them as a state dict"
        )
    if _trains_without_schedule(content):
        raise CheckpointError(
            "its schedule-free optimizer was in training mode, where the weights are no averages: call optimizer.eval() before "
            "saving"
        )
    others = [part for part in sets if part.state.keys() == found.state.keys() and not RAW.search(part.name)]
    if twin := next((part for part in others if not _equal(part.state, found.state)), None):
        raise CheckpointError(
            f"it holds several weights ({found.name or 'the file itself'}, {twin.name}), and which are the averaged ones is not "
            "said: save the one to measure in a file of its own"
        )


def _unread(content: Any, name: str, depth: int = 0) -> Iterator[str]:
    """Where averages lie that are no set: tensors in a list, or in the state of an optimizer that averages."""
    pairs = content.items() if isinstance(content, Mapping) else enumerate(content)
    for key, value in pairs:
        where = f"{name}/{key}".removeprefix("/")
        if isinstance(value, Tensor) and value.ndim > 1 and (averages(name) or _by_optimizer(where)):
            yield name if averages(name) or _by_optimizer(name) else where
            return
        if isinstance(value, Mapping | list | tuple) and depth < 2 * DEEPEST:
            yield from _unread(value, where, depth + 1)


def _by_optimizer(where: str) -> bool:
    """Whether an optimizer keeps the averaged parameter there, beside the moments of its gradients (exp_avg)."""
    outer, *inner = where.split("/")
    return bool(SKIPPED.search(outer)) and any(KEPT_BY_OPTIMIZERS.fullmatch(key) for key in inner)


def _trains_without_schedule(content: Any, depth: int = 0) -> bool:
    """Whether an optimizer of schedulefree was saved as it trains: the weights are then between its average and its iterate."""
    if isinstance(content, Mapping):
        if content.get("train_mode") is True and "weight_sum" in content:
            return True
        content = content.values()
    elif not isinstance(content, list | tuple):
        return False
    return depth < 2 * DEEPEST and any(
        _trains_without_schedule(value, depth + 1) for value in content if not isinstance(value, Tensor)
    )


def _is_network(state: Mapping[str, Tensor]) -> bool:
    """Whether a set has any matrix: counters, tables of betas and random states have none."""
    return any(value.ndim > 1 and value.is_floating_point() for value in state.values())


def is_loose(state: Mapping[str, Tensor]) -> bool:
    """Whether none of a set's tensors is named as a layer's: a batch or a curve that was kept beside the network."""
    return not any("." in key or key in ("weight", "bias") for key in state)


def _one(sets: Sequence[Weights]) -> Weights | None:
    """The set that is meant, where it is certain: the only one, the one under a usual name, or any of equal ones."""
    usual = [part for part in sets if USUAL.fullmatch(part.name.rpartition("/")[2]) or not part.name]
    for few in (sets, usual):
        if few and all(_equal(few[0].state, part.state) for part in few[1:]):
            return few[0]
    return None


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a is b or (a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items()))


def _sets(content: Mapping[Any, Any], name: str, wanted: frozenset[str] | None, depth: int = 0) -> Iterator[Weights]:
    """Every set of tensors in the content and what lies in it."""
    own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    yield from _split(Weights(name, own, "n_averaged" in own or _inherits(name)), wanted)
    if depth == DEEPEST:
        return
    for key, value in content.items():
        if SKIPPED.search(str(key)):
            continue
        where = f"{name}/{key}" if name else str(key)
        inner = {where: value} if isinstance(value, Mapping) else _numbered(value, where)
        for place, found in inner.items():
            yield from _sets(found, place, wanted, depth + 1)


def _numbered(value: Any, where: str) -> dict[str, Mapping[Any, Any]]:
    """The sets in a list: averages of several lengths are often kept so."""
    rows = value if isinstance(value, list | tuple) else ()
    return {f"{where}/{place}": row for place, row in enumerate(rows) if isinstance(row, Mapping)}


def _inherits(name: str) -> bool:
    """Whether a set lies within what is averaged, and is not called raw itself."""
    return averages(name) and not RAW.search(name.rpartition("/")[2])


def _split(part: Weights, wanted: frozenset[str] | None) -> Iterator[Weights]:
    """A set without wrappers' names, or each of the networks that an object's state dict holds side by side."""
    state = {_bare(key): value for key, value in part.state.items() if not (key in COUNTERS and value.numel() == 1)}
    if wanted is not None and wanted == state.keys():
        yield Weights(part.name, state, part.averaged)
        return
    if wanted is not None and wanted < state.keys() and (found := _averages_beside(state, wanted)):
        yield Weights(part.name, {key: state[key] for key in wanted}, part.averaged)
        yield from _split(
            Weights(f"{part.name}/{found}".removeprefix("/"), _below(state, found), averaged=True), wanted
        )
        return
    below: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        first, _, inner = key.partition(".")
        group = below if inner and CONTAINER.fullmatch(first) else rest
        group.setdefault(first, {})[inner] = value
    # A GaussianDiffusion of lucidrains is one whole: its schedule lies beside its network. So is a network that calls a part of
    # itself `model` or `net`, as the keys of the one at hand show.
    if not below or "betas" in rest or (wanted is not None and _fits_better(wanted, state, below)):
        yield Weights(part.name, state, part.averaged)
        return
    below |= _beside(rest, below)
    for first, inside in below.items():
        alone = len(below) == 1 and first in ("module", "model", "net", "network")
        name = part.name if alone else f"{part.name}/{first}".removeprefix("/")
        averaged = (part.averaged and not RAW.search(first)) or averages(first)
        short = _undotted(inside, {key: raw for key, raw in below.items() if key != first}) if averaged else None
        yield from _split(Weights(name, short or inside, averaged), wanted)


def _averages_beside(state: Mapping[str, Tensor], wanted: frozenset[str]) -> str | None:
    """Under which name the averages of a network lie in one set with it: module.… and ema_model.module.…"""
    for first in dict.fromkeys(key.partition(".")[0] for key in state.keys() - wanted):
        if averages(first) and len({_bare(key) for key in _below(state, first)} & wanted) > len(wanted) / 2:
            return first
    return None


def _below(state: Mapping[str, Tensor], first: str) -> dict[str, Tensor]:
    """What lies below a name, without it."""
    return {key.removeprefix(f"{first}."): value for key, value in state.items() if key.startswith(f"{first}.")}


def _beside(
    rest: Mapping[str, Mapping[str, Tensor]], below: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """What else an object holds beside its networks that is one by its name (emaModel, ema_models) or by its keys (target)."""
    keys = [inside.keys() for inside in below.values() if len(inside) > 2]  # a weight and a bias are any layer's
    return {first: dict(inside) for first, inside in rest.items() if averages(first) or inside.keys() in keys}


def _fits_better(
    wanted: frozenset[str], state: Mapping[str, Tensor], below: Mapping[str, Mapping[str, Tensor]]
) -> bool:
    """Whether more of a network's keys are in a set as it is than in any part of it."""
    return len(wanted & state.keys()) > max(len(wanted & inside.keys()) for inside in below.values())


def _undotted(inside: Mapping[str, Tensor], below: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor] | None:
    """latent-diffusion's LitEma names its averages after the parameters, dots left out: `below` has the networks beside it."""
    if any("." in key for key in inside):
        return None
    for raw in below.values():
        full = {key.replace(".", ""): key for key in raw}
        if set(full) & set(inside):
            return {**raw, **{full[key]: value for key, value in inside.items() if key in full}}
    return None


def _bare(key: str) -> str:
    """The key without what wrappers put into it; `module.` is a wrapper's at the front alone."""
    parts = [part for part in key.split(".") if part not in ANYWHERE]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def _listed(content: Mapping[Any, Any], name: str, depth: int = 0) -> Iterator[tuple[str, list[Tensor]]]:
    """Averages that are listed by position, and where."""
    rows = content.get(POSITIONAL)
    if isinstance(rows, list | tuple) and rows and all(isinstance(row, Tensor) for row in rows):
        yield f"{name}/{POSITIONAL}".removeprefix("/"), list(rows)
    numbered = {}
    for key, value in content.items():
        first, _, number = str(key).removeprefix("module.").partition(".")
        if first == POSITIONAL and number.isdecimal() and isinstance(value, Tensor):
            numbered[int(number)] = value
    if numbered:
        yield f"{name}/{POSITIONAL}".removeprefix("/"), [numbered[place] for place in sorted(numbered)]
    for key, value in content.items():
        if isinstance(value, Mapping) and depth < DEEPEST and not SKIPPED.search(str(key)):
            yield from _listed(value, f"{name}/{key}".removeprefix("/"), depth + 1)


def _by_position(rows: Sequence[Tensor], raw: Mapping[str, Tensor], order: Sequence[str]) -> dict[str, Tensor]:
    """Averages under the names of the parameters they are of; what was not trained stays as it is in `raw`."""
    raw = {key: value for key, value in raw.items() if not key.startswith(POSITIONAL)}
    if order and len(order) != len(rows):
        raise CheckpointError(
            f"it averages {len(rows)} parameters, this network has {len(order)}: build the network as it was trained"
        )
    names = list(order) or _only_fit([row.shape for row in rows], {key: value.shape for key, value in raw.items()})
    return {**raw, **dict(zip(names, rows, strict=True))}


def _only_fit(rows: Sequence[Any], raw: Mapping[str, Any]) -> list[str]:
    """The keys of `raw`, in order, whose shapes are those of `rows`: matched from the front and from the back, which agree
    where only one choice is possible. Raises CheckpointError."""
    front = _matched(rows, list(raw.items()))
    back = _matched(rows[::-1], list(raw.items())[::-1])
    if front is None or back is None or front != back[::-1]:
        raise CheckpointError(
            "its averages are listed by position, and which parameter each is of is not known: save them under their names"
        )
    return front


def _matched(rows: Sequence[Any], named: list[tuple[str, Any]]) -> list[str] | None:
    found = []
    place = 0
    for shape in rows:
        while place < len(named) and named[place][1] != shape:
            place += 1
        if place == len(named):
            return None
        found.append(named[place][0])
        place += 1
    return found
