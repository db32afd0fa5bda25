"""Every scheduler of the installed diffusers, under each of its options: followed as its own loop runs it, or refused in a line."""

import inspect
import itertools
import math

import diffusers
import numpy as np
import pytest
import tiny_pipelines
import torch

import noiseshift as ns
from noiseshift.diffusion import schedulers
from noiseshift.diffusion.samplers import per_sample_noise, reached_levels, sample

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' own, of options that it deprecates
STEPS, ROWS = 6, 2
X0 = 0.5 * torch.sign(torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

FOLLOWED = {
    "CMStochasticIterativeScheduler",
    "CogVideoXDDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "LTXEulerAncestralRFScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
    "UniPCMultistepScheduler",
}

ONE_OF = {
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "sigmas": ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"),
}
EXTRA = {
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
    "beta_schedule": ("scaled_linear", "squaredcos_cap_v2"),
    "rescale_betas_zero_snr": (True,),
    "set_alpha_to_one": (False, True),
    "steps_offset": (1,),
    "interpolation_type": ("log_linear",),
    "timestep_type": ("continuous",),
    "algorithm_type": (
        "dpmsolver",
        "dpmsolver++",
        "sde-dpmsolver",
        "sde-dpmsolver++",
        "data_prediction",
        "noise_prediction",
    ),
    "solver_order": (1, 2, 3),
    "solver_type": ("midpoint", "heun", "bh1", "bh2", "logrho"),
    "lower_order_final": (True, False),
    "euler_at_final": (True,),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"),
    "skip_prk_steps": (True,),
    "shift": (3.0,),
    "shift_terminal": (0.1,),
    "stochastic_sampling": (True,),
    "invert_sigmas": (True,),
    "use_dynamic_shifting": (True,),
    "sigma_schedule": ("exponential",),
    "predict_x0": (False,),
    "scale_factors": ([0.5, 1.0],),
    "lambda_min_clipped": (-5.1,),
    "predictor_order": (1, 3),
    "corrector_order": (0, 1),
    "eta": (0.0,),
    "snr_shift_scale": (1.0,),
}


def classes():
    found = {}
    for name in sorted(n for n in dir(diffusers) if n.endswith("Scheduler")):
        try:
            kind = getattr(diffusers, name)
            if callable(kind.step):
                found[name] = kind
        except (ImportError, AttributeError):
            pass  # needs a package that is not here
    return found


def variants(kind):
    """The product of spacing, sigmas and final level, and every other option by itself and with the zero-SNR table."""
    known = set(inspect.signature(kind.__init__).parameters)
    spacing = [{"timestep_spacing": v} for v in ONE_OF["timestep_spacing"]] if "timestep_spacing" in known else [{}]
    final = [{"final_sigmas_type": v} for v in ONE_OF["final_sigmas_type"]] if "final_sigmas_type" in known else [{}]
    sigmas = [{}, *({v: True} for v in ONE_OF["sigmas"] if v in known)]
    for parts in itertools.product(spacing, sigmas, final):
        yield {key: value for part in parts for key, value in part.items()}
    for option, values in EXTRA.items():
        for value in values if option in known else ():
            yield {option: value}
            if option == "prediction_type" and "rescale_betas_zero_snr" in known:
                yield {option: value, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
            if option == "prediction_type" and "timestep_type" in known:
                yield {option: value, "timestep_type": "continuous", "use_karras_sigmas": True}
            if option == "prediction_type" and "use_flow_sigmas" in known:
                yield {option: value, "use_flow_sigmas": True, "flow_shift": 3.0}
            if option == "prediction_type" and "use_karras_sigmas" in known:
                yield {option: value, "use_karras_sigmas": True}


def made(kind, options):
    clips = {"clip_sample": False} if "clip_sample" in inspect.signature(kind.__init__).parameters else {}
    return kind(**clips, **options)


def is_consistency(scheduler):
    return hasattr(scheduler, "get_scalings_for_boundary_condition")


def by_sigma_data(scheduler):
    """Whether it scales what the network sees by 1 / sqrt(sigma² + sigma_data²)."""
    return hasattr(scheduler, "precondition_outputs") or is_consistency(scheduler)


def level_of(scheduler, label):
    """(alpha, sigma) that a network trained on the scheduler's table knows by a label: the test's own reading."""
    config, label = scheduler.config, float(label)
    continuous = config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction"
    if is_consistency(scheduler):
        return 1.0, math.exp(label / 250)
    if hasattr(scheduler, "precondition_outputs") or continuous:
        sigma = math.exp(4 * label)
        norm = math.hypot(1, sigma) if continuous else 1.0
        return 1 / norm, sigma / norm
    if config.get("use_flow_sigmas") or not hasattr(scheduler, "alphas_cumprod"):
        return 1 - label / config.num_train_timesteps, label / config.num_train_timesteps
    table = scheduler.alphas_cumprod.double().numpy().copy()
    if table[-1] >= table[-2]:
        table[-1] = 0  # a stand-in for 0
    table = table.clip(1e-20)
    log_snr = np.interp(label, np.arange(len(table)), np.log(table) - np.log1p(-table))
    return (1 / (1 + math.exp(-log_snr))) ** 0.5, (1 / (1 + math.exp(log_snr))) ** 0.5


def said(scheduler, seen, label):
    """What a network that knows the one picture there is says of a state, as it was trained to say it."""
    alpha, sigma = level_of(scheduler, label)
    if is_consistency(scheduler):
        skip, out = scheduler.get_scalings_for_boundary_condition(sigma)
        return (X0 - skip * seen * math.hypot(sigma, scheduler.config.sigma_data)) / out
    if hasattr(scheduler, "precondition_outputs"):
        data = scheduler.config.sigma_data
        total = math.hypot(sigma, data)
        state = seen * total  # the scheduler scaled it by 1 / total
        raw = (X0 - (data / total) ** 2 * state) * total / (sigma * data)
        return -raw if scheduler.config.prediction_type == "v_prediction" else raw
    eps = (seen - alpha * X0) / max(sigma, 1e-30)
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    return {
        "epsilon": eps,
        "sample": X0.expand_as(seen),
        "v_prediction": alpha * eps - sigma * X0,
        "flow_prediction": eps - X0,
    }[kind]


def generators(rows=ROWS):
    return [torch.Generator().manual_seed(7 + row) for row in range(rows)]


def starting(rows=ROWS):
    return torch.cat([torch.randn(1, 3, 4, 4, generator=g, dtype=torch.float64) for g in generators(rows)])


def native(scheduler, timing, steps=STEPS):
    """diffusers' own loop: what the network sees at each step, its label, and where the run ends."""
    parameters = inspect.signature(scheduler.step).parameters
    scheduler.set_timesteps(steps, **timing)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    state, more = starting() * getattr(scheduler, "init_noise_sigma", 1.0), {}
    if "generator" in parameters:
        more["generator"] = generators()
    walk = []
    for index, label in enumerate(scheduler.timesteps):
        more.pop("prev_timestep", None)
        seen = scheduler.scale_model_input(state, label) if hasattr(scheduler, "scale_model_input") else state
        walk.append((seen.double(), label))
        if "prev_timestep" in parameters and index + 1 < len(scheduler.timesteps):
            more["prev_timestep"] = scheduler.timesteps[index + 1]
        state = scheduler.step(said(scheduler, seen.double(), label), label, state, return_dict=False, **more)[
            0
        ].double()
    return walk, state


def schedule_for(scheduler):
    if by_sigma_data(scheduler):
        return ns.VarianceExploding(scheduler.config.sigma_min, scheduler.config.sigma_max)
    if scheduler.config.get("use_flow_sigmas") or not hasattr(scheduler, "alphas_cumprod"):
        return ns.Linear()
    return ns.Discrete(scheduler.alphas_cumprod)


def exact(schedule):
    return ns.wrap(lambda x, t, cond: X0.to(x).expand_as(x), schedule, predicts="x0")


def log_snr(alpha, sigma):
    return 2 * (math.log(max(alpha, 1e-10)) - math.log(max(sigma, 1e-10)))


def outcome(kind, options, steps=STEPS):
    """ "followed", a refusal's line, or what is neither; None where the class itself does not take the options."""
    try:
        scheduler = made(kind, options)
    except Exception:
        return None
    timing = {"mu": 0.7} if options.get("use_dynamic_shifting") else {}
    try:
        update = ns.from_diffusers(scheduler, steps, timing=timing)
    except ValueError as error:
        return str(error)
    schedule, before = schedule_for(scheduler), torch.get_rng_state()
    start = starting() * float(schedule(torch.tensor(1.0, dtype=torch.float64)).sigma)
    try:
        walked = list(sample(exact(schedule), start, None, update=update, noise=per_sample_noise(generators())))
    except Exception as error:
        return f"accepted, then {type(error).__name__}: {str(error)[:100]}"
    if not torch.equal(before, torch.get_rng_state()):
        return "it drew from the global generator"
    walk, end = native(scheduler, timing, steps)
    return differs(scheduler, schedule, walked, walk, end) or "followed"


def differs(scheduler, schedule, steps, walk, end):
    if len(steps) != len(walk) + 1:
        return f"{len(steps) - 1} states for {len(walk)}"
    for step, (seen, label) in zip(steps, walk, strict=False):
        alpha, sigma = level_of(scheduler, label)
        size = math.hypot(sigma, scheduler.config.sigma_data) if by_sigma_data(scheduler) else 1.0
        off = float((step.x / size - seen).norm() / seen.norm())
        if not off < 5e-4:  # float32, magnified where sigma falls by thousands in one step
            return f"state {step.index} is off by {off:.2g}"
        conditioning = max(float(schedule.log_snr(step.t)), -46.0)
        meant = min(max(log_snr(alpha, sigma), float(schedule.log_snr(1.0)), -46.0), float(schedule.log_snr(0.0)))
        if not abs(conditioning - meant) < 2e-3 * max(1, abs(meant)):
            return f"step {step.index} is conditioned on {conditioning:.3f}, its label says {meant:.3f}"
    return end_differs(schedule, steps[-1], end, _scale_of_states(scheduler, steps[-1], schedule))


def _scale_of_states(scheduler, last, schedule):
    """What turns diffusers' last state into one of the model's schedule, at the level that is said."""
    level = schedule(last.t)
    sigma = 0.0 if float(last.t) == 0 else float(level.sigma / level.alpha)
    exploding = getattr(scheduler, "init_noise_sigma", 1.0) != 1.0 and not by_sigma_data(scheduler)
    return 1 / math.hypot(1, sigma) if exploding else 1.0


def end_differs(schedule, last, end, scale):
    off = float((last.x - scale * end).norm() / end.norm())
    return f"the end is off by {off:.2g}" if not off < 1e-3 else None


@pytest.mark.parametrize("name", list(classes()))
def test_a_scheduler_is_followed_as_its_own_loop_runs_it_or_refused(name):
    found = {str(options): outcome(classes()[name], options) for options in variants(classes()[name])}
    neither = {options: said for options, said in found.items() if said not in (None, "followed") and not refused(said)}
    assert not neither
    assert ("followed" in found.values()) == (name in FOLLOWED)


SHORT = torch.linspace(1e-4, 0.02, 500).tolist()
TOGETHER = [
    (
        "PNDMScheduler",
        {"prediction_type": "v_prediction", "steps_offset": 1},
        4,
    ),  # it ends above data, by 1 % too small
    ("PNDMScheduler", {"prediction_type": "v_prediction", "steps_offset": 1, "skip_prk_steps": True}, 4),
    *((name, {"trained_betas": SHORT}, 6) for name in ("DDIMScheduler", "DDPMParallelScheduler", "TCDScheduler")),
    *((name, {"trained_betas": SHORT}, 6) for name in ("LCMScheduler", "EulerDiscreteScheduler", "PNDMScheduler")),
    *(
        (name, {"use_flow_sigmas": True, "prediction_type": kind, "num_train_timesteps": 10}, steps)
        for name in ("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler")
        for kind, steps in (("flow_prediction", 9), ("epsilon", 50))
    ),
]


@pytest.mark.parametrize(("name", "options", "steps"), TOGETHER)
def test_options_together_are_followed_or_refused_before_anything_runs(name, options, steps):
    line = outcome(classes()[name], options, steps)
    assert line == "followed" or refused(line)
    assert (line == "followed") == (name == "PNDMScheduler" and "trained_betas" not in options)


UNUSED = {"LCMScheduler", "TCDScheduler"}
"""They take an offset and use none."""
OFFSETS = {name for name, kind in classes().items() if "steps_offset" in inspect.signature(kind.__init__).parameters}


@pytest.mark.parametrize("name", sorted((FOLLOWED & OFFSETS) - UNUSED))
def test_a_label_that_training_never_used_is_refused(name):
    """With an offset the first label lies beyond the table: a network would be told it, and a model here its last level."""
    few = {"num_train_timesteps": 10, "timestep_spacing": "leading"}
    for steps, offset in ((10, 1), (5, 2)):
        for options in (few | {"steps_offset": offset}, few):
            scheduler = made(classes()[name], options)
            scheduler.set_timesteps(steps)
            line = outcome(classes()[name], options, steps)
            if float(scheduler.timesteps.max()) > 9:
                assert refused(line)
                assert "outside the training table (0 … 9)" in line
            else:
                assert "outside" not in line


def test_labels_below_the_table_are_refused_and_logarithms_are_no_places_in_it():
    with pytest.raises(ValueError, match="label 1000 lies outside"):
        ns.from_diffusers(diffusers.DDIMScheduler(steps_offset=1), 1000)
    below = diffusers.EulerDiscreteScheduler(num_train_timesteps=10, timestep_spacing="trailing")
    with pytest.raises(ValueError, match="label -1 lies outside"):
        ns.from_diffusers(below, 30)
    ns.from_diffusers(diffusers.EDMEulerScheduler(), 5)
    ns.from_diffusers(diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"), 5)


def refused(line):
    return "no scheduler that can be followed" in line and "\n" not in line and len(line) < 330


def test_an_options_word_reaches_the_scheduler_with_the_checkpoints_own_table():
    own = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    schedule = ns.Discrete(own.alphas_cumprod)
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"):
        right = ns.from_diffusers(getattr(diffusers, name).from_config(own.config), 20).times(schedule)
        folder = schedulers.make(name, 20, config=own.config, schedule=schedule)
        torch.testing.assert_close(folder.times(schedule), right)
        card = schedulers.make(name, 20, schedule=schedule)
        torch.testing.assert_close(ns.Discrete(card.scheduler.alphas_cumprod).log_snr(0.7), schedule.log_snr(0.7))
        assert float(card.labels().min()) > float(schedule.log_snr(1.0)) - 1e-2
    karras = schedulers.make("EulerDiscreteScheduler", 20, {"use_karras_sigmas": True}, schedule=schedule)
    assert not torch.allclose(karras.times(schedule), right, atol=0.01)


def test_latents_are_clipped_only_where_the_word_says_so():
    for name in ("DDIMScheduler", "DDPMScheduler", "LCMScheduler"):
        config = schedulers.make(name, 5, config={"clip_sample": True, "thresholding": True}).scheduler.config
        assert not config.get("clip_sample")
        assert not config.get("thresholding")
    assert schedulers.make("DDIMScheduler", 5, {"clip_sample": True}).scheduler.config.clip_sample


def own_spread(n, variance, table):
    """Spread of the samples of n DDPM steps on N(0, variance) with the exact denoiser: its posterior step is linear in x."""
    spread2 = 1.0
    for label in range(1000 - 1000 // n, -1, -(1000 // n)):
        here, after = float(table[label]), float(table[label - 1000 // n]) if label >= 1000 // n else 1.0
        share = here / after
        denoised = here**0.5 * variance / (here * variance + 1 - here)
        slope = after**0.5 * (1 - share) / (1 - here) * denoised + share**0.5 * (1 - after) / (1 - here)
        spread2 = slope**2 * spread2 + (1 - after) / (1 - here) * (1 - share)
    return spread2**0.5


def test_few_steps_of_ddpm_smooth_by_themselves_and_the_shift_is_left_in():
    """Data of spread 1.5: 50 steps end at 1.407 with an exact denoiser. That is the scheduler's arithmetic, no clipped latent."""
    schedule, variance = ns.Discrete.from_betas(), 1.5**2

    def exact(x, t, cond=None):
        level = schedule(t.double()).like(x)
        return level.alpha * variance / (level.alpha**2 * variance + level.sigma**2) * x

    model = ns.wrap(exact, schedule, predicts="x0")
    x = torch.randn(16, 512, generator=torch.Generator().manual_seed(0))
    noise = per_sample_noise([torch.Generator().manual_seed(i) for i in range(16)])
    *_, last = sample(model, x, None, update=schedulers.make("DDPMScheduler", 50, schedule=schedule), noise=noise)
    expected = own_spread(50, variance, schedule.alphas_cumprod)
    assert expected == pytest.approx(1.407, abs=2e-3)
    assert float(last.x.std()) == pytest.approx(expected, rel=0.02)
    assert own_spread(1000, variance, schedule.alphas_cumprod) == pytest.approx(1.5, rel=5e-3)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("DDIMSheduler", {}, "did you mean DDIMScheduler"),
        ("DDIMScheduler", {"karras": True}, "takes no option 'karras'"),
        ("DDIMScheduler", {"beta_schedule": "none"}, "does not take these options"),
        ("DDIMInverseScheduler", {}, "from data to noise"),
        ("UnCLIPScheduler", {}, "a table of its own"),
        ("DPMSolverSDEScheduler", {}, "torchsde"),
    ],
)
def test_a_word_that_names_nothing_is_refused_in_a_line(name, options, line):
    with pytest.raises(ValueError, match=line) as caught:
        schedulers.make(name, 5, options, schedule=ns.Discrete.from_betas())
    assert "\n" not in str(caught.value)


def test_a_zero_terminal_snr_table_is_read_and_sampled():
    for name in ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        zero = getattr(diffusers, name)(
            rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"
        )
        schedule = ns.Discrete(zero.alphas_cumprod)
        assert float(schedule.log_snr(torch.tensor(1.0).double())) < -40
        update = schedulers.make(name, 8, {"timestep_spacing": "trailing"}, schedule=schedule)
        assert float(update.conditioning_times(schedule)[0]) == pytest.approx(1.0)
        steps = list(sample(exact(schedule), starting(), None, update=update))
        torch.testing.assert_close(steps[-1].x, X0.expand(ROWS, -1, -1, -1), atol=2e-2, rtol=0)
    with pytest.raises(ValueError, match="v_prediction"):
        ns.from_diffusers(diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"), 5)


def test_the_network_is_conditioned_on_the_label_and_not_the_state():
    """log_linear sigmas and flow sigmas rounded to integers part from their labels: both sides are arithmetic."""
    euler = diffusers.EulerDiscreteScheduler(beta_start=1e-4, beta_end=0.02, interpolation_type="log_linear")
    conditioning, reached = reached_levels(euler, 13)
    euler.set_timesteps(13)
    table = torch.logit(euler.alphas_cumprod.double()).numpy()
    np.testing.assert_allclose(conditioning, np.interp(euler.timesteps[1:], np.arange(1000), table), atol=1e-3)
    torch.testing.assert_close(reached, -2 * euler.sigmas[1:13].double().log(), atol=1e-3, rtol=1e-3)
    assert float((conditioning - reached).abs().max()) > 2
    flow = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    update = ns.from_diffusers(flow, 13)
    torch.testing.assert_close(update.conditioning_times(ns.Linear()), update.scheduler.timesteps.double() / 1000)
    assert float((update.conditioning_times(ns.Linear()) - update.scheduler.sigmas[:-1]).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("name", "options", "abar"),
    [
        (
            "DDIMScheduler",
            {"timestep_spacing": "trailing"},
            0,
        ),  # 1000 // 13 short of the last label is step 0, not data
        ("TCDScheduler", {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}, 0),
        ("PNDMScheduler", {"skip_prk_steps": True}, 0),
    ],
)
@pytest.mark.parametrize("schedule", [ns.Discrete.from_betas(), ns.Linear()], ids=["own", "linear"])
def test_a_last_level_that_is_not_data_is_said_and_scaled(name, options, abar, schedule):
    scheduler = getattr(diffusers, name)(**options)
    update = ns.from_diffusers(scheduler, 13)
    assert update.end[1] == pytest.approx(float(1 - scheduler.alphas_cumprod[abar]) ** 0.5, rel=1e-3)
    *_, last = sample(exact(schedule), starting(), None, update=update, noise=per_sample_noise(generators()))
    level = schedule(last.t)
    assert float(schedule.log_snr(last.t)) == pytest.approx(
        float(torch.logit(scheduler.alphas_cumprod[abar])), abs=0.02
    )
    share = float((last.x * X0).mean() / X0.square().mean())
    assert share == pytest.approx(float(level.alpha), abs=float(level.sigma) + 1e-3)


def test_a_schedulers_end_is_rescaled_to_the_models_schedule():
    """Ending at much noise, where the two schedules' scales differ: x = alpha x0 of the model's own schedule."""
    scheduler = diffusers.EDMEulerScheduler(final_sigmas_type="sigma_min", sigma_min=0.9)
    for schedule in (ns.Linear(), ns.Discrete.from_betas(), ns.VarianceExploding()):
        start = starting() * float(schedule(torch.tensor(1.0).double()).sigma)
        *_, last = sample(exact(schedule), start, None, update=ns.from_diffusers(scheduler, 9))
        level = schedule(last.t)
        assert float(level.sigma / level.alpha) == pytest.approx(0.9, rel=1e-3)
        noise = (last.x - float(level.alpha) * X0).square().mean().sqrt()
        assert float(noise / starting().square().mean().sqrt()) == pytest.approx(float(level.sigma), rel=0.05)


@pytest.mark.parametrize("sigma", [0.3, 0.9])
def test_an_end_with_noise_is_the_last_sigma_itself(sigma):
    """Not what the rehearsal makes of it, which rounds."""
    scheduler = diffusers.EDMEulerScheduler(final_sigmas_type="sigma_min", sigma_min=sigma)
    assert ns.from_diffusers(scheduler, 9).end == (1.0, float(torch.tensor(sigma)))
    flow = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="sigma_min"
    )
    update = ns.from_diffusers(flow, 9)
    last = float(update.scheduler.sigmas[-1])
    assert last > 0
    assert update.end == pytest.approx((1 - last, last), rel=1e-12)


class Halting(diffusers.EulerDiscreteScheduler):
    """From the third step on it goes half as far as its sigmas say."""

    def step(self, model_output, timestep, sample, **given):
        found, *more = super().step(model_output, timestep, sample, **given)
        return (found if self.step_index < 3 else (found + sample) / 2, *more)


def test_a_scheduler_that_lands_elsewhere_than_it_says_is_refused():
    with pytest.raises(
        ValueError, match=r"Halting is no scheduler that can be followed: step 2 lands at a log-SNR of "
    ):
        ns.from_diffusers(Halting(), 8)


class Broken(diffusers.DDPMScheduler):
    """Its states are not numbers."""

    def step(self, model_output, timestep, sample, **given):
        return (sample * float("nan"),)


def test_a_state_that_is_no_number_names_the_table_only_where_that_is_why():
    with pytest.raises(ValueError, match=r"Broken .*: a state is not finite$"):
        ns.from_diffusers(Broken(), 5)
    zero = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(ValueError, match="not finite; a zero-terminal-SNR table needs prediction_type=v_prediction"):
        ns.from_diffusers(zero, 5)


def test_where_a_step_with_noise_lands_is_exact():
    """The noise is known, so its size need not be estimated from numbers that are drawn."""
    ddpm = ns.from_diffusers(diffusers.DDPMScheduler(), 10)
    before = [int(label) for label in ddpm.scheduler.timesteps[1:]]
    for (alpha, sigma), label in zip(ddpm.landed, before, strict=False):
        kept = float(ddpm.scheduler.alphas_cumprod[label])
        assert (alpha, sigma) == pytest.approx((kept**0.5, (1 - kept) ** 0.5), rel=1e-5)
    euler = ns.from_diffusers(diffusers.EulerAncestralDiscreteScheduler(), 10)
    for (alpha, sigma), wanted in zip(euler.landed, euler.scheduler.sigmas[1:].tolist(), strict=True):
        assert (alpha, sigma) == pytest.approx((1, wanted), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    "name", ["DPMSolverMultistepScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"]
)
def test_a_scheduler_that_has_run_begins_anew_and_is_left_as_it_was(name):
    scheduler = getattr(diffusers, name)()
    fresh = ns.from_diffusers(scheduler, STEPS)
    native(scheduler, {})
    before = {key: str(value) for key, value in vars(scheduler).items()}
    used = ns.from_diffusers(scheduler, STEPS)
    schedule = schedule_for(scheduler)
    first, second = ([s.x for s in sample(exact(schedule), starting(), None, update=u)] for u in (fresh, used))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert {key: str(value) for key, value in vars(scheduler).items()} == before


def test_a_shift_that_was_set_later_is_kept():
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    flow.set_shift(3.0)
    assert float(ns.from_diffusers(flow, 5).conditioning_times(ns.Linear())[2]) > 0.7


STOCHASTIC = [
    ("DDPMScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("LCMScheduler", {}),
    ("TCDScheduler", {}),
    ("SASolverScheduler", {}),
    ("UnCLIPScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ("FlowMatchLCMScheduler", {}),
    ("LTXEulerAncestralRFScheduler", {}),
]


@pytest.mark.parametrize(("name", "options"), STOCHASTIC, ids=[name for name, _ in STOCHASTIC])
def test_a_samples_noise_is_its_own_whatever_the_batch(name, options):
    scheduler = getattr(diffusers, name)(**options)
    schedule = schedule_for(scheduler)

    def run(rows):
        steps = sample(
            exact(schedule),
            starting(rows),
            None,
            update=ns.from_diffusers(scheduler, 5),
            noise=per_sample_noise(generators(rows)),
        )
        return list(steps)[2].x

    alone, among = run(1), run(3)
    torch.testing.assert_close(alone[0], among[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(among[0], among[1], atol=1e-2)
    with pytest.raises(ValueError, match="pass noise="):
        list(sample(exact(schedule), starting(), None, update=ns.from_diffusers(scheduler, 5)))


def test_a_word_bound_to_a_folder_takes_the_folders_table(tmp_path):
    own = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    diffusers.DDIMPipeline(tiny_pipelines.unet(), own).save_pretrained(tmp_path / "pipe")
    own = diffusers.DDIMScheduler.from_pretrained(tmp_path / "pipe" / "scheduler")
    checkpoint = ns.load(tmp_path / "pipe")
    for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"):
        found = ns.solver(f"diffusers/{name}:20").bound(checkpoint)
        right = ns.from_diffusers(getattr(diffusers, name).from_config(own.config), 20)
        schedule = checkpoint.model.schedule
        torch.testing.assert_close(found.update().times(schedule), right.times(schedule))
        assert found.name == f"diffusers/{name}:20"
    assert not found.update().scheduler.config.clip_sample
