"""Preflight: what is checked before a number is printed. Does the checkpoint, as it was read, denoise these data?

A wrong card, another data set or a rounded time still gives a shift with a narrow interval. So the checkpoint, the data and what
the network is handed are checked on the data themselves, for about 5 % of a default run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from noiseshift.calling import error_in_words
from noiseshift.checkpoints import Checkpoint
from noiseshift.data import Images, misfit
from noiseshift.diffusion.bounded import Bounded
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.noise import PREFLIGHT, generators, normal
from noiseshift.diffusion.samplers import ddim, sample, time_grid
from noiseshift.networks.model import NetworkModel
from noiseshift.reading import as_text
from noiseshift.shift.contrast import contrast
from noiseshift.shift.controls import Check
from noiseshift.shift.denoising import SCALES, denoised
from noiseshift.shift.detail import detail
from noiseshift.shift.likeness import Likeness, likeness
from noiseshift.shift.numbering import numbering, numbering_calls, unjudged
from noiseshift.shift.recalling import better_call, remedied
from noiseshift.shift.rereading import ReadAs, better_reading
from noiseshift.shift.retiming import passes, retiming

FITTED, EVALUATED, LIKE = 256, 32, 128
"""Rows of the data that fit the linear denoiser, that both denoise, and that samples are compared with."""

SAMPLES, FEWEST, STEPS = 48, 16, 10
"""Samples that are drawn, the fewest that are compared, and DDIM's steps."""

ENERGY, POOR, CHANCE = 0.03, 0.1, 0.01
"""Samples are of other data where their energy distance is larger than the first, and chance is below the last. Right models
of the bundled data read -.01 … .003, the same pictures upside down .036. The second is of a network that is worse than the linear
denoiser at a level: its samples are poor, .05 of its own data, others are seen from .13 on."""

DIVERGED = 3.0
"""Spread of samples over that of the data, above which their steps diverge: samples of other data have .5 … 2, those of strangers'
networks that denoise well, from noise that is 157 times the data, 120 … 2,500."""

FILLED = 0.9
"""Share of the range that all pictures together have."""

HANDED = 3
"""Times at which it is looked what the network is handed."""

ROUNDED = 1e-5
"""Relative error of the time argument that is a shift of its own."""


_NO_ERRORS = pd.DataFrame(columns=["t", "scale", "error", "linear", "worse", "slope", "slope_error"])


@dataclass(frozen=True)
class Preflight:
    """What the checks before a measurement found.

    Attributes:
        checks: each with its outcome: True, False, or None where it only says something.
        errors: noise error by level, of the model and of a linear denoiser; see `denoising.error_table`. Empty where the
            data do not fit the model.
        likeness: how far the model's samples are from the data, or None where they were not compared.
        reading: another way to read the checkpoint that fits better, or None.
    """

    checks: tuple[Check, ...]
    errors: pd.DataFrame
    likeness: Likeness | None = None
    reading: ReadAs | None = None

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
            "errors": [_plain(row) for row in self.errors.to_dict("records")],
            "likeness": None if self.likeness is None else _plain(asdict(self.likeness)),
            "reading": None if self.reading is None else asdict(self.reading),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Preflight:
        """What `as_dict` gave."""
        like = found["likeness"]
        reading = found["reading"]
        return cls(
            tuple(Check(**check) for check in found["checks"]),
            pd.DataFrame(found["errors"], columns=_NO_ERRORS.columns),
            None if like is None else Likeness(**{name: np.nan if v is None else v for name, v in like.items()}),
            None if reading is None else ReadAs(**reading),
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self.checks))

    def __repr__(self) -> str:
        failed = ", ".join(check.name for check in self.failures)
        return f"Preflight({f'FAILED: {failed}' if failed else 'passed'}, {len(self.checks)} checks)"


def preflight(checkpoint: Checkpoint, data: Images | None, *, device: str = "cpu", samples: int = SAMPLES) -> Preflight:
    """Check a checkpoint, as it was read, on real data.

    Args:
        checkpoint: as `load` gave it.
        data: held-out images of what it was trained on, with labels where it takes classes; pictures of a latent model are
            encoded. None: only what the network is handed for the time is checked.
        device: where the checkpoint computes.
        samples: how many samples are compared with the data, 48 at most; none are where fewer than 16 are asked for.

    Returns:
        The checks: the data's shape, range and classes; noise errors against a linear denoiser (with the best-fitting other
        reading where they are bad), at other times and under other classes; the data's contrast and fine detail; samples against
        the data; what the network is handed for the time.
    """
    if data is None:
        return _without_data(checkpoint, device)
    data = checkpoint.encode(data)
    fit = _data_checks(checkpoint, data)
    if any(check.passed is False for check in fit):
        return Preflight(tuple(fit), _NO_ERRORS)
    rows = _Rows.of(checkpoint, data, device)
    model = checkpoint.model
    half = min(EVALUATED, len(rows) // 2)
    held_out, rest = rows[:half], rows[half:]
    fitted = rest[:FITTED].x0
    with remedied(model, rows[:2].x0, model.snap(torch.tensor(0.5)), rows[:2].cond, checkpoint.classes):
        found = denoised(model, fitted, held_out.x0, held_out.cond)
    errors = found.table
    right = not errors.worse.any()
    reading = None if right else better_reading(model, fitted, held_out.x0, held_out.cond)
    alike = rows[:LIKE]
    drawn = min(samples, SAMPLES, len(rows))
    least = ENERGY if right else POOR
    like, its_data = _its_data(model, alike.x0, alike.cond, drawn, least, denoises=right)
    numbered = _numbered(checkpoint, held_out, rest, denoises=right)
    time = retiming(model, held_out.x0, torch.tensor(errors.t), found.errors, held_out.cond, denoises=right)
    checks = (
        *fit,
        _denoises(errors, reading),
        time,
        contrast(
            errors.scale.to_numpy(),
            found.slopes,
            not right or len(checkpoint.shape) != 3,
            filled=_fills(checkpoint, data),
        ),
        detail(errors),
        *numbered,
        its_data,
        handed(model, rows[:2].x0, rows[:2].cond, checkpoint.classes),
    )
    return Preflight(checks, errors, like, reading)


@dataclass(frozen=True)
class _Rows:
    """Real states with their classes, which are None for a model without."""

    x0: Tensor
    cond: Tensor | None

    @classmethod
    def of(cls, checkpoint: Checkpoint, data: Images, device: str) -> _Rows:
        """The data, in an order of their own: files lie class by class."""
        rows = data[torch.from_numpy(np.random.default_rng(0).permutation(len(data)))]
        cond = None if rows.labels is None or not checkpoint.classes else rows.labels.to(device)
        return cls(rows.floats.to(device), cond)

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, part: slice) -> _Rows:
        return _Rows(self.x0[part], None if self.cond is None else self.cond[part])


def _numbered(checkpoint: Checkpoint, held_out: _Rows, rest: _Rows, *, denoises: bool) -> tuple[Check, ...]:
    """Whether the classes are numbered as the checkpoint learned them; no check of one that takes none.

    A network that was read wrongly fits any classes by chance: one thing at a time. The calls are made all the same, so that
    what a run costs does not depend on what is found.
    """
    if held_out.cond is None or rest.cond is None:
        return ()
    more = (rest.x0, rest.cond)
    found = numbering(checkpoint.model, held_out.x0, held_out.cond, checkpoint.classes, more=more)
    return (found if denoises else unjudged(),)


def _without_data(checkpoint: Checkpoint, device: str) -> Preflight:
    """What can be checked of a checkpoint alone."""
    x = normal(generators(range(2), seed=0, stream=PREFLIGHT), checkpoint.shape).to(device)
    cond = torch.zeros(2, dtype=torch.int64, device=device) if checkpoint.classes else None
    skipped = "no data were given: range, classes, denoising and samples were not checked"
    checks = (
        *_weights_check(checkpoint),
        Check("data", None, skipped),
        handed(checkpoint.model, x, cond, checkpoint.classes),
    )
    return Preflight(checks, _NO_ERRORS)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has them: it has no NaN."""
    return {name: None if isinstance(v, float) and not np.isfinite(v) else v for name, v in values.items()}


def preflight_calls(samples: int, rows: int, classes: int = 0) -> int:
    """Network calls of a preflight that finds nothing wrong, where a run draws so many samples and has so many real rows.

    Args:
        samples: of the run.
        rows: of the real images.
        classes: of the checkpoint; 0 for an unconditional one.
    """
    drawn = min(samples, SAMPLES, rows)
    held_out = min(EVALUATED, rows // 2)
    errors = (len(SCALES) + passes()) * held_out + numbering_calls(classes, held_out, rows - held_out)
    return errors + (STEPS * drawn if drawn >= FEWEST else 0) + HANDED * 2


def _data_checks(checkpoint: Checkpoint, data: Images) -> list[Check]:
    checks = [*_weights_check(checkpoint), _shape_check(checkpoint, data), _range_check(checkpoint, data)]
    return [*checks, _class_check(checkpoint, data)] if checkpoint.classes else checks


def _weights_check(checkpoint: Checkpoint) -> list[Check]:
    """A word on averages that lie in other files; none where there are none."""
    if not checkpoint.averages_beside:
        return []
    others = ", ".join(map(as_text, checkpoint.averages_beside[:3]))
    return [Check("weights", None, f"{checkpoint.name} holds the weights as they trained, their averages: {others}")]


def _shape_check(checkpoint: Checkpoint, data: Images) -> Check:
    has = tuple(data.pixels.shape[1:])
    if wrong := misfit(has, checkpoint.shape):
        return Check("shape", False, wrong)
    if len(data) < 16:
        return Check("shape", False, f"{len(data)} rows are too few to check anything: give at least 16, better 1,000")
    return Check("shape", True, f"{len(data):,} rows of {has}")


def _range_check(checkpoint: Checkpoint, data: Images) -> Check:
    low, high = (float(end) for end in torch.aminmax(data.floats))
    text = f"values from {low:.3g} to {high:.3g}"
    if not np.isfinite([low, high]).all():
        return Check("range", False, "the data hold numbers that are not finite: repair them")
    if low == high:
        return Check("range", False, f"all values are {low:.3g}: these are no data")
    black, white = checkpoint.card.range or (-1.0, 1.0)
    slack = 5e-4 * (white - black)
    if not checkpoint.latent and len(checkpoint.shape) == 3 and (low < black - slack or high > white + slack):
        return Check("range", False, f"{text}: pictures are floats in [{black:g}, {white:g}], scale these data to that")
    if not data.pixels.is_floating_point() and int(data.pixels.max()) <= 1:
        return Check("range", False, "bytes of 0 and 1 only: pictures are 0 … 255, multiply these by 255")
    if not _fills(checkpoint, data):
        more = "less than nine tenths of the range: right where training had it so, else they were scaled or dimmed"
        return Check("range", None, f"{text}, {more}")
    return Check("range", True, text)


def _fills(checkpoint: Checkpoint, data: Images) -> bool:
    """Whether pictures have both black and white among them; true of states that are no pictures."""
    low, high = (float(end) for end in torch.aminmax(data.floats))
    black, white = checkpoint.card.range or (-1.0, 1.0)
    return checkpoint.latent or len(checkpoint.shape) != 3 or high - low >= FILLED * (white - black)


def _class_check(checkpoint: Checkpoint, data: Images) -> Check:
    if data.labels is None:
        return Check("classes", False, "the checkpoint is conditional and the data have no labels: give labelled data")
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= checkpoint.classes:
        text = f"labels run from {low} to {high}, the checkpoint's classes from 0 to {checkpoint.classes - 1}"
        return Check("classes", False, f"{text}: number the classes as it was trained on them")
    present = len(data.labels.unique())
    enough = None if 2 * present < checkpoint.classes else True
    return Check("classes", enough, f"{present:,} of {checkpoint.classes:,} classes are in the data")


def _denoises(errors: pd.DataFrame, reading: ReadAs | None) -> Check:
    middle = errors.iloc[len(errors) // 2]
    text = f"noise error {middle.error:.3f} at t = {middle.t:.2f} (linear denoiser {middle.linear:.3f}, none 1)"
    worse = int(errors.worse.sum())
    if not worse:
        return Check("denoises", True, f"{text}; better than the linear denoiser at all {len(errors)} levels")
    text = f"{text}; worse than the linear denoiser at {worse} of {len(errors)} levels"
    if reading is not None:
        remedy = (
            f"read with {reading.sentence()} it does ({1 / reading.ratio:.1f} times less error than the linear one)"
        )
        return Check(
            "denoises", False, f"this checkpoint, as it was read, does not denoise these data: {text}; {remedy}"
        )
    if 2 * worse > len(errors):
        causes = "check range, time direction, schedule, prediction and the data; or it learned little"
        return Check(
            "denoises", False, f"this checkpoint, as it was read, does not denoise these data: {text}; {causes}"
        )
    return Check("denoises", None, f"{text}: a model that was trained little, or other data than its own")


def _likeness(model: Model, data: Tensor, cond: Tensor | None, count: int) -> Likeness:
    """Samples of the model, of the same classes as the data, against the data."""
    noise = normal(generators(range(count), seed=1, stream=PREFLIGHT), data.shape[1:]).to(data)
    x = model.schedule(torch.tensor(1.0)).like(noise).sigma * noise
    steps = sample(model, x, time_grid(model, STEPS), update=ddim(0.0), cond=None if cond is None else cond[:count])
    *_, last = steps
    return likeness(last.x, data)


def _its_data(
    model: Model, data: Tensor, cond: Tensor | None, count: int, least: float, *, denoises: bool = True
) -> tuple[Likeness | None, Check]:
    """Samples against the data; they are of others from an energy distance of `least` on.

    A few steps of DDIM make poor samples of some networks that are right, or samples that diverge. So where a network denoises at
    every level, and its samples are far from the data, they are drawn once more with predicted data kept within the data's range:
    only where these are far too, the data are others.
    """
    name = "its data"
    if count < FEWEST:
        return None, Check(name, None, f"samples were not compared with the data: fewer than {FEWEST}")
    try:
        found = first = _likeness(model, data, cond, count)
        if denoises and _far(first, least):
            low, high = (float(end) for end in torch.aminmax(data))
            found = _likeness(Bounded(model, low, high), data, cond, count)
    except ValueError as error:  # a model that was read wrongly may not be sampled at all
        return None, Check(name, False, f"no samples could be drawn to compare with the data: {error}")
    text = (
        f"energy distance {found.energy:.3f} of the samples to the data (p = {found.p:.3f}), spread {found.spread:.2f}"
    )
    if found is not first:
        text = f"{text}, with predicted data kept within their range; without, {_drawn_freely(first)}"
    elif first.spread > DIVERGED:
        text = f"{text}; {_drawn_freely(first)}"
    if _far(found, least):
        remedy = "give the data that it was trained on"
        return found, Check(name, False, f"the samples are not like these data: {text}; {remedy}")
    return found, Check(name, True, text)


def _far(found: Likeness, least: float) -> bool:
    return not np.isfinite(found.energy) or (found.energy > least and found.p <= CHANCE)


def _drawn_freely(found: Likeness) -> str:
    """What samples are whose predicted data are not kept within a range."""
    if found.spread <= DIVERGED:
        return f"{found.energy:.3f} and {found.spread:.2f}"
    why = "as near pure noise an error of the network is multiplied by 1 / alpha"
    return f"they diverge in {STEPS} steps (spread {found.spread:,.0f}), {why}"


def _cannot_be_called(model: Model, x: Tensor, t: Tensor, cond: Tensor | None, classes: int, error: Exception) -> Check:
    way = better_call(model, x, t, cond, classes)
    text = f"the network cannot be called on states {tuple(x.shape[1:])}: {error_in_words(error)}"
    return Check("time", False, f"{text}; {way}" if way else text)


def _called_once(model: Model, x: Tensor, cond: Tensor | None, classes: int) -> Check:
    """Of a model that is no network of ours: whether it can be called."""
    t = model.snap(torch.tensor(0.5, dtype=torch.float64))
    try:
        with torch.no_grad():
            model(x, t, cond)
    except Exception as error:  # anybody's code fails in its own way
        return _cannot_be_called(model, x, t, cond, classes, error)
    return Check("time", None, f"{type(model).__name__} hands the time over by itself: not checked")


def handed(model: Model, x: Tensor, cond: Tensor | None, classes: int = 0) -> Check:
    """What the network is handed for the time, against what is meant.

    Args:
        model: its network is called three times.
        x: (B, …) any states.
        cond: (B,) classes, or None.
        classes: how many the checkpoint has.
    """
    if not isinstance(model, NetworkModel):
        return _called_once(model, x, cond, classes)
    times = torch.unique(model.snap(torch.linspace(0.123456, 0.789123, HANDED, dtype=torch.float64)))
    seen: list[Tensor] = []
    hook = model.network.register_forward_pre_hook(lambda network, args: seen.append(args[1].detach().flatten()[0]))
    try:
        with torch.no_grad():
            for t in times:
                model(x, t, cond)
    except Exception as error:  # anybody's network fails in its own way
        return _cannot_be_called(model, x, times[0], cond, classes, error)
    finally:
        hook.remove()
    meant = torch.stack([model.time_input(t.reshape(1)).flatten()[0] for t in times]).double()
    given = torch.stack(seen).cpu()
    off = ((given.double() - meant).abs() / meant.abs().clamp_min(1)).max()
    k = int((given.double() - meant).abs().argmax())
    text = f"{str(given.dtype).removeprefix('torch.')}, {float(given[k]):.7g} where {float(meant[k]):.7g} is meant"
    if float(off) > ROUNDED:
        return Check(
            "time", False, f"the network is handed {text}: rounding is a shift of its own, give the time float32"
        )
    return Check("time", True, text)
