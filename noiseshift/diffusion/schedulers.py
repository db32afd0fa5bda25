"""The bridge to diffusers: its schedulers as samplers, run by their own code, their states translated to a model's schedule."""

from __future__ import annotations

import copy
import difflib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noiseshift.diffusion.families import FLOW, Exploding, Flow, Pair, Preserving, family_of, require_signature, unit
from noiseshift.diffusion.models import Model
from noiseshift.diffusion.schedules import Discrete, Schedule, VarianceExploding, describe
from noiseshift.diffusion.steps import NEEDS_NOISE, Noise, PerSampleNoise, Step, finite, predict_at

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

CLEAN = 1e-5
"""Less noise than this over the signal is rounding, and read as none."""


def from_diffusers(
    scheduler: SchedulerMixin | Any, steps: int, *, timing: Mapping[str, Any] | None = None
) -> Scheduled:
    """Any diffusers scheduler as a sampler, run by its own code; see `Scheduled`.

    Args:
        scheduler: it is copied, never changed.
        steps: how many steps it is set to, at least 1.
        timing: what a pipeline also hands to its `set_timesteps`, as Flux does `sigmas` and `mu`.

    Returns:
        An update that brings its own times: sample(model, x, None, update=…).

    Raises:
        ValueError: in one line, for a scheduler that cannot be followed.
    """
    return Scheduled(scheduler, steps, timing)


def make(
    name: str,
    steps: int,
    options: Mapping[str, Any] | None = None,
    *,
    schedule: Schedule | None = None,
    config: Mapping[str, Any] | None = None,
    timing: Mapping[str, Any] | None = None,
) -> Scheduled:
    """A diffusers scheduler by its class's name, with the table of the checkpoint that it samples.

    Args:
        name: the class, such as "EulerDiscreteScheduler".
        steps: what its `set_timesteps` is given.
        options: what its constructor takes, such as {"use_karras_sigmas": True}; they come before everything else. Latents
            are not clipped (clip_sample, thresholding) unless an option says so.
        schedule: the checkpoint's. A Discrete one gives its table, a VarianceExploding one its ends; else DDPM's linear
            betas are taken.
        config: the scheduler configuration of a diffusers folder, which comes before `schedule`.
        timing: what a pipeline also hands to `set_timesteps`, as far as this one takes it.

    Raises:
        ValueError: in one line, for a name or an option that diffusers does not have, or a scheduler that cannot be followed.
    """
    scheduler = configured(name, options, schedule=schedule, config=config)
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    return Scheduled(scheduler, steps, {key: value for key, value in (timing or {}).items() if key in accepted})


def configured(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    schedule: Schedule | None = None,
    config: Mapping[str, Any] | None = None,
) -> Any:
    """The scheduler of `make`, whose timesteps are not set."""
    kind, options = scheduler_class(name), dict(options or {})
    known = set(inspect.signature(kind.__init__).parameters) - {"self", "kwargs"}
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"{name} takes no option {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    own = _of_config(config, known) if config else _of_schedule(schedule, known, options)
    given = {key: value for key, value in (_UNCLIPPED | own).items() if key in known} | options
    try:
        scheduler = kind.from_config(dict(config), **given) if config else kind(**given)
    except Exception as error:
        raise ValueError(f"{name} does not take these options: {' '.join(str(error).split())[:160]}") from None
    _require_table(scheduler, schedule, options)
    return scheduler


_UNCLIPPED = {"clip_sample": False, "thresholding": False}
_TABLE = {"beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps"}


def scheduler_class(name: str) -> Any:
    """A scheduler class of diffusers. Raises ValueError for a name that it does not have, or that lacks a package."""
    import diffusers

    try:
        kind = getattr(diffusers, name) if name.endswith("Scheduler") else None
        if kind is not None:
            inspect.signature(kind.step)
    except ImportError as error:
        raise ValueError(f"{name}: {' '.join(str(error).split())[:160]}") from None
    except (AttributeError, TypeError):
        kind = None
    if kind is None:
        close = difflib.get_close_matches(name, [n for n in dir(diffusers) if n.endswith("Scheduler")], n=1)
        hint = f"; did you mean {close[0]}?" if close else "; write for example DDIMScheduler"
        raise ValueError(f"diffusers has no scheduler {name!r}{hint}")
    return kind


def _of_config(config: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """What a folder's scheduler does not say in the words of another class: a flow's states."""
    if "FlowMatch" in str(config.get("_class_name")) and "use_flow_sigmas" in known:
        return {"use_flow_sigmas": True, "prediction_type": FLOW, "flow_shift": config.get("shift", 1.0)}
    return {}


def _of_schedule(schedule: Schedule | None, known: set[str], options: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(schedule, VarianceExploding) and "sigma_data" in known:
        return {"sigma_min": schedule.sigma_min, "sigma_max": schedule.sigma_max}
    if options.keys() & _TABLE:
        return {}
    if not isinstance(schedule, Discrete) or "trained_betas" not in known:
        return {"beta_start": 1e-4, "beta_end": 0.02}
    table = schedule.alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]])
    own = {"trained_betas": (1 - table / before).tolist(), "num_train_timesteps": len(table)}
    if float(table[-1]) == 0:  # pure noise says nothing of a noise that is predicted
        own |= {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    return own


def _require_table(scheduler: Any, schedule: Schedule | None, options: Mapping[str, Any]) -> None:
    table = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(schedule, Discrete) or table is None or options.keys() & _TABLE:
        return
    # The last entry of a zero-terminal-SNR table may be a stand-in.
    same = len(table) == len(schedule.alphas_cumprod) and torch.allclose(
        torch.logit(table[:-1].double().clamp_min(1e-12)),
        torch.logit(schedule.alphas_cumprod[:-1].clamp_min(1e-12)),
        atol=0.02,
    )
    if not same:
        raise ValueError(
            f"{_name(scheduler)} has a table of its own, which is not the checkpoint's: name its betas as options, or take "
            "another scheduler"
        )


class Scheduled:
    """A diffusers scheduler driven step by step, its states translated to the model's schedule and back.

    States of DDPM, DDIM, DPM++ and the like are variance preserving, (sqrt(abar), sqrt(1 - abar)); of Euler, Heun, EDM,
    LMS, KDPM2 variance exploding, (1, sigma); of flow-matching schedulers (1 - sigma, sigma). The network is conditioned
    on the level of the scheduler's *timestep label*; where the scheduler's arithmetic lands elsewhere (DDIM with a stride that
    does not divide its 1000 steps, labels rounded to integers), that is a shift, and it is left in for the measurement to
    find; `reached_levels` computes it in advance.

    Every scheduler is rehearsed once on two numbers and their noise before anything runs. One that fails there, draws
    noise that cannot be seeded, or lands far from the level it names is refused.

    Args:
        scheduler: a diffusers scheduler; it is copied, never changed.
        steps: what its `set_timesteps` is given.
        timing: what a pipeline also hands to `set_timesteps`.

    Attributes:
        end: (alpha, sigma) where the run ends, in the scheduler's own scaling; sigma is 0 at clean data.

    Raises:
        ValueError: for fewer than one step, and in one line for a scheduler that cannot be followed.
    """

    def __init__(self, scheduler: Any, steps: int, timing: Mapping[str, Any] | None = None):
        if steps < 1:
            raise ValueError(f"a sampler takes at least 1 step, got {steps}")
        self.steps, self.timing = steps, dict(timing or {})
        require_signature(scheduler)
        self.scheduler = scheduler
        self.scheduler = self._fresh()
        self.family = family_of(self.scheduler)
        self.end = self._checked()

    @classmethod
    def of(cls, scheduler: SchedulerMixin | Any) -> Scheduled:
        """A view of a scheduler whose timesteps are set already, as a pipeline's; for `levels`, `conditioning_times` and `read`."""
        view = cls.__new__(cls)
        view.scheduler, view.steps, view.timing = scheduler, len(scheduler.timesteps), {}
        view.family = family_of(scheduler, step=False)
        return view

    def internal(self) -> list[bool]:
        """Which of the timesteps are evaluations inside a step, and not states of the run."""
        return _internal(self.scheduler)

    def levels(self) -> list[Pair]:
        """(alpha, sigma) that the scheduler's arithmetic takes its states to have, in its own scaling, one per timestep."""
        return self.family.states(self.scheduler)

    def labels(self) -> Tensor:
        """(n,) float64 log-SNR of the timestep labels: the conditioning levels."""
        return self.family.labelled(self.scheduler)

    def conditioning_times(self, schedule: Schedule) -> Tensor:
        """(n,) float64 conditioning times, those of the labels on a model's schedule; those beyond its ends go to the ends."""
        return _times_of(schedule, self.labels())

    def times(self, schedule: Schedule) -> Tensor:
        """`conditioning_times` without internal evaluations; the last state's time, where the run ends, is not among them."""
        return self.conditioning_times(schedule)[~torch.tensor(self.internal())]

    def factors(self, schedule: Schedule) -> list[float]:
        """What turns the scheduler's own states into those of a model's schedule, one per timestep."""
        levels = self.levels()
        return [size / math.hypot(*own) for size, own in zip(_sizes(schedule, levels), levels, strict=True)]

    def read(self, output: Tensor, x: Tensor, level: Pair) -> tuple[Tensor, Tensor]:
        """(x0, eps) of a network's output, conditioned on `level`, for x = alpha x0 + sigma eps: the inverse of what `run` does."""
        return self.family.read(output, x, level)

    def run(self, model: Model, x: Tensor, cond: Tensor | None, noise: Noise) -> Iterator[Step]:
        """The steps; x (B, …) is sigma(1) eps of the model's schedule. Repeated levels within a step are internal."""
        scheduler, schedule = self._fresh(), model.schedule
        levels, times, order = self.levels(), self.conditioning_times(schedule), self.internal()
        sizes = _sizes(schedule, levels)
        alphas, sigmas = (part.tolist() for part in schedule.coefficients(times))
        state = (
            x
            / float(schedule.coefficients(torch.tensor(1.0, dtype=torch.float64))[1])
            * float(getattr(scheduler, "init_noise_sigma", 1.0))
        )
        for index, own in enumerate(levels):
            seen = self._seen(scheduler, state, index, own) * sizes[index]
            with torch.no_grad():
                prediction = predict_at(model, seen, times[index], cond)
            yield Step(index, times[index], seen, prediction, internal=order[index])
            level = alphas[index], sigmas[index]
            with torch.no_grad():
                output = self.family.answer(prediction.x0, prediction.eps, level, own)
                state = _advance(scheduler, output, index, state, noise)
        yield self._last(schedule, state)

    def _seen(self, scheduler: Any, state: Tensor, index: int, own: Pair) -> Tensor:
        """The state scaled to alpha² + sigma² = 1, by the scheduler's own arithmetic where it has one: Heun magnifies
        rounding."""
        if isinstance(self.family, Exploding):
            scaled: Tensor = scheduler.scale_model_input(state, scheduler.timesteps[index])
            return scaled
        return state / math.hypot(*own)

    def _last(self, schedule: Schedule, state: Tensor) -> Step:
        alpha, sigma = self.end
        end = torch.tensor(0.0, dtype=torch.float64) if sigma == 0 else schedule_times(schedule, [self.end])[0]
        size = 1.0 if sigma == 0 else _sizes(schedule, [self.end])[0]
        state = finite(state, end, "the scheduler's state")
        return Step(self.steps_taken, end, state * (size / math.hypot(alpha, sigma)))

    @property
    def steps_taken(self) -> int:
        """How many times the network is evaluated, internal evaluations among them."""
        return len(self.scheduler.timesteps)

    def _fresh(self) -> Any:
        # Schedulers keep a history: two runs of one update, side by side, must not share it.
        try:
            scheduler = copy.copy(self.scheduler)
            scheduler.__dict__ = copy.deepcopy({k: v for k, v in vars(self.scheduler).items() if k != "step"})
            scheduler.set_timesteps(self.steps, **self.timing)
        except Exception as error:
            raise _refused(self.scheduler, self.steps, error) from None
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # labels that were rounded to one number would start it at the second
        return scheduler

    def _checked(self) -> Pair:
        """Where the run ends; raises ValueError where the rehearsal shows that it cannot be followed."""
        levels, reached = self.levels(), rehearse(self, 2**11)
        if not hasattr(self.scheduler, "sigmas"):  # its own arithmetic is what `reached_levels` tells of
            return reached[-1] if reached[-1][1] > CLEAN * reached[-1][0] else (1.0, 0.0)
        order = self.internal()
        for k, pair in enumerate(reached[:-1]):
            if not order[k + 1] and abs(_log_snr(pair) - _log_snr(levels[k + 1])) > 0.2:
                raise ValueError(
                    f"{_name(self.scheduler)} is no scheduler that can be followed: step {k} lands at a log-SNR of "
                    f"{_log_snr(pair):.2f}, where it says {_log_snr(levels[k + 1]):.2f}"
                )
        return self._declared(reached[-1])

    def _declared(self, reached: Pair) -> Pair:
        """The end as the scheduler's last sigma has it, where its arithmetic agrees: exact, where the rehearsal rounds."""
        alpha, sigma = reached
        if sigma <= CLEAN * alpha:
            return 1.0, 0.0
        if len(self.scheduler.sigmas) > len(self.scheduler.timesteps):
            last = float(self.scheduler.sigmas[len(self.scheduler.timesteps)])
            declared = (1 - last, last) if isinstance(self.family, Flow) else (1.0, last)
            declared = unit(declared) if isinstance(self.family, Preserving) else declared
            if last > 0 and abs(_log_snr(declared) - _log_snr(reached)) < 0.1:
                return declared
        return reached


def schedule_times(schedule: Schedule, levels: Sequence[Pair]) -> Tensor:
    """The times of a schedule that have the log-SNR of each (alpha, sigma); those beyond its ends go to the ends."""
    return _times_of(schedule, torch.tensor([_log_snr(pair) for pair in levels], dtype=torch.float64))


def _sizes(schedule: Schedule, levels: Sequence[Pair]) -> list[float]:
    """sqrt(alpha² + sigma²) of a schedule at the log-SNR of each level."""
    sizes: list[float] = torch.hypot(*schedule.coefficients(schedule_times(schedule, levels))).tolist()
    return sizes


def _times_of(schedule: Schedule, log_snr: Tensor) -> Tensor:
    low, high = (float(schedule.log_snr(torch.tensor(t, dtype=torch.float64))) for t in (1.0, 0.0))
    return schedule.time_of_log_snr(log_snr.clamp(low, high))


class Following(Scheduled):
    """A scheduler by its class's name that takes the table of whatever schedule it is run on; see `make`.

    Before it meets a schedule, its table is DDPM's linear one.
    """

    def __init__(self, name: str, steps: int, options: Mapping[str, Any]):
        self._recipe = (name, steps, dict(options))
        self._met: Any = None
        self.__dict__.update(vars(make(name, steps, options)))

    def _meet(self, schedule: Schedule) -> None:
        described = describe(schedule)
        if described != self._met:
            name, steps, options = self._recipe
            self.__dict__.update(vars(make(name, steps, options, schedule=schedule)))
            self._met = described

    def conditioning_times(self, schedule: Schedule) -> Tensor:
        self._meet(schedule)
        return super().conditioning_times(schedule)

    def factors(self, schedule: Schedule) -> list[float]:
        self._meet(schedule)
        return super().factors(schedule)

    def run(self, model: Model, x: Tensor, cond: Tensor | None, noise: Noise) -> Iterator[Step]:
        self._meet(model.schedule)
        return super().run(model, x, cond, noise)


def reached_levels(scheduler: SchedulerMixin | Any, steps: int) -> tuple[Tensor, Tensor]:
    """What a scheduler's own arithmetic makes of each transition.

    From a state at the level that the scheduler takes it to have and a prediction without error, entry k says which level
    the network is conditioned on next, by the timestep's label, and which one step k lands on; internal evaluations are left
    out. Where the two differ, the sampler shifts with a perfect model. Levels are exact to
    rounding, SASolver's to about 0.01.

    Args:
        scheduler: a diffusers scheduler.
        steps: how many steps it is set to.

    Returns:
        (conditioning, reached) log-SNR, float64, both (n - 1,).

    Raises:
        ValueError: as `Scheduled` does.
    """
    update = Scheduled(scheduler, steps)
    reached = torch.tensor([_log_snr(pair) for pair in rehearse(update, 2**17)], dtype=torch.float64)
    true = ~torch.tensor(update.internal())[1:]
    return update.labels()[1:][true], reached[:-1][true]


def rehearse(update: Scheduled, width: int) -> list[Pair]:
    """(alpha, sigma) that each step of a scheduler makes of an exact state and an exact prediction.

    What is drawn is known, because the same generator draws it again, so that the levels are exact. Where a step mixes in
    noise of earlier ones, its size is read from `width` numbers per row.

    Raises ValueError when a step fails, is not finite, or draws from torch's global generator.
    """
    reached, exact = _walk(update, EXACT)
    return reached if exact else _walk(update, width)[0]


EXACT = 2**9
"""Numbers a row that are enough where the noise is known."""


def _walk(update: Scheduled, width: int) -> tuple[list[Pair], bool]:
    """The levels of `rehearse`, and whether all that was drawn is known."""
    scheduler, before = update._fresh(), torch.get_rng_state()
    # Orthogonal signs: the state's two coefficients come apart exactly, and clipping to [-1, 1] changes nothing.
    # Opposite rows under equal noise: their difference is free of it, their sum is nothing else.
    x0 = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(1, width // 2)
    eps = torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]], dtype=torch.float64).repeat(1, width // 4)
    sources = [torch.Generator().manual_seed(0) for _ in range(2)]
    noise, reached, known = PerSampleNoise(sources), [], True
    try:
        for index, own in enumerate(update.levels()):
            upcoming = _upcoming(sources[0], width)
            output = update.family.answer(x0, eps, own, own)
            state = _advance(scheduler, output, index, own[0] * x0 + own[1] * eps, noise).double()
            pair, exact = _split(state, x0, eps, upcoming)
            reached.append(pair)
            known = known and exact
    except Exception as error:
        raise _refused(scheduler, update.steps, error) from None
    finally:
        unseeded = not torch.equal(before, torch.get_rng_state())
        torch.set_rng_state(before)
    if unseeded:
        raise ValueError(f"{_name(scheduler)} is no scheduler that can be followed: it draws noise that is not seeded")
    if not all(math.isfinite(a) and math.isfinite(s) and a > 0 for a, s in reached):
        raise ValueError(
            f"{_name(scheduler)} is no scheduler that can be followed in {update.steps} steps as it is set: a state is not "
            f"finite{_zero_snr(update)}"
        )
    return reached, known


def _upcoming(source: torch.Generator, width: int) -> Tensor:
    """(2, width) the numbers that a generator draws next, in float64 and in float32, which are different ones."""
    rows = []
    for dtype in (torch.float64, torch.float32):
        ahead = torch.Generator().set_state(source.get_state())
        rows.append(torch.randn((1, width), generator=ahead, dtype=dtype).double())
    return torch.cat(rows)


def _split(state: Tensor, x0: Tensor, eps: Tensor, upcoming: Tensor) -> tuple[Pair, bool]:
    """(alpha, sigma) of a state whose two rows are opposite but for what was drawn, and whether that was `upcoming`."""
    drawn, given = (state[0] + state[1]) / 2, (state[0] - state[1]) / 2
    signal = float((given * x0[0]).mean())
    old = (given - signal * x0[0]).square().mean()
    shares = (upcoming @ drawn) / upcoming.square().sum(1)
    left = drawn - shares[:, None] * upcoming
    best = int(left.square().sum(1).argmin())
    known = bool(left[best].norm() <= 1e-3 * drawn.norm() + 1e-9)
    fresh = shares[best].square() if known else drawn.square().mean()
    return (signal, float((old + fresh).sqrt())), known


def _zero_snr(update: Scheduled) -> str:
    table = getattr(update.scheduler, "alphas_cumprod", None)
    if table is not None and float(table[-1]) == 0 and update.family.kind == "epsilon":
        return "; a zero-terminal-SNR table needs prediction_type=v_prediction or sample"
    return ""


def _log_snr(pair: Pair) -> float:
    return 2 * (math.log(max(pair[0], 1e-30)) - math.log(max(pair[1], 1e-30)))


def _name(scheduler: Any) -> str:
    return type(scheduler).__name__


def _refused(scheduler: Any, steps: int, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(
        f"{_name(scheduler)} is no scheduler that can be followed in {steps} steps as it is set: {reason[:160]}"
    )


def _advance(scheduler: Any, output: Tensor, index: int, state: Tensor, noise: Noise) -> Tensor:
    label = scheduler.timesteps[index]
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(state, label)  # some only count their steps here
    known, given = inspect.signature(scheduler.step).parameters, {}
    if "generator" in known:
        given["generator"] = _generators(noise, state)
    if "prev_timestep" in known and index + 1 < len(scheduler.timesteps):
        given["prev_timestep"] = scheduler.timesteps[
            index + 1
        ]  # as UnCLIP's pipelines do; alone it would take one step of 1000
    return scheduler.step(output, label, state, return_dict=False, **given)[0]


def _internal(scheduler: Any) -> list[bool]:
    """Which evaluations are inside a step, and not states of the run."""
    n = len(scheduler.timesteps)
    if getattr(scheduler, "order", 1) == 2:
        return [i % 2 == 1 for i in range(n)]
    if hasattr(scheduler, "order_list"):  # singlestep solvers start again from the state where the order is 1
        return [order > 1 for order in scheduler.order_list]
    if not hasattr(scheduler, "prk_timesteps"):
        return [False] * n
    # PNDM: four evaluations a Runge-Kutta step; without those its second label is evaluated twice, first for a trial state.
    runge = len(scheduler.prk_timesteps)
    return [i % 4 != 0 for i in range(runge)] + [runge == 0 and n > 2 and i == 1 for i in range(n - runge)]


class _NoGenerator:
    """Stands in for a generator: asking it for noise names the remedy, where diffusers would draw unseeded noise."""

    @property
    def device(self) -> torch.device:
        raise ValueError(NEEDS_NOISE)


def _generators(noise: Noise, x: Tensor) -> Any:
    """Schedulers draw their own noise: what they are handed for it, one generator per row."""
    if not isinstance(noise, PerSampleNoise):
        return _NoGenerator()
    noise.check(x)
    return noise.torch_generators
