"""Samplers against the exact flow of a Gaussian, diffusers' schedulers against ours, and the known mismatch of DDIM."""

import itertools
import math

import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion import samplers
from noiseshift.diffusion.noise import generators, normal
from noiseshift.diffusion.samplers import per_sample_noise, posterior_sigma, reached_levels, sample, time_grid
from noiseshift.targets import Gaussian

MEAN, VARIANCE = torch.linspace(-1, 1, 8, dtype=torch.float64), torch.logspace(-2, 0.5, 8, dtype=torch.float64)
TARGET = Gaussian(MEAN, VARIANCE)


def moments(schedule, t):
    level = schedule(torch.tensor(t, dtype=torch.float64))
    return level.alpha * MEAN, (level.alpha**2 * VARIANCE + level.sigma**2).sqrt()


def flow(schedule, x, start, end):
    """The probability flow of a Gaussian keeps every coordinate's standardised value."""
    (mean_a, sd_a), (mean_b, sd_b) = moments(schedule, start), moments(schedule, end)
    return mean_b + (x - mean_a) * sd_b / sd_a


def last_of(steps):
    *_, last = steps
    return last.x


@pytest.mark.parametrize("schedule", [ns.Linear(), ns.VariancePreserving()], ids=["linear", "vp"])
@pytest.mark.parametrize(
    ("update", "order"),
    [(ns.euler, 1), (ns.heun, 2), (ns.edm_heun, 2), (ns.ddim(0.0), 1)],
    ids=["euler", "heun", "edm", "ddim"],
)
def test_convergence_order(schedule, update, order):
    model = TARGET.model(schedule)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = []
    for n in (40, 80, 160):
        times = torch.linspace(0.9, 0.1, n + 1, dtype=torch.float64)
        errors.append(float((last_of(sample(model, x, times, update=update)) - flow(schedule, x, 0.9, 0.1)).norm()))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, order, atol=0.25)


def test_edms_sampler_is_its_papers():
    schedule, rho = ns.VarianceExploding(), 7
    model = TARGET.model(schedule)
    times = ns.karras_grid(model, 18)
    # Equation 5, written out.
    ends = 80.0 ** (1 / rho), 0.002 ** (1 / rho)
    sigmas = [(ends[0] + i / 17 * (ends[1] - ends[0])) ** rho for i in range(18)]
    np.testing.assert_allclose(schedule.coefficients(times)[1], sigmas, rtol=1e-6)
    x = 80 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    final, y = last_of(sample(model, x, times, update=ns.edm_heun)), x
    for now, then in itertools.pairwise(sigmas):  # Algorithm 1 with the exact denoiser of a Gaussian
        slope = [(y - MEAN) * now / (VARIANCE + now**2)]
        guess = y + (then - now) * slope[0]
        slope.append((guess - MEAN) * then / (VARIANCE + then**2))
        y = y + (then - now) * sum(slope) / 2
    torch.testing.assert_close(final, y, rtol=1e-5, atol=1e-5)


def test_edms_grid_is_for_variance_exploding_models():
    with pytest.raises(ValueError, match="take heun:N"):
        ns.karras_grid(TARGET.model(ns.Linear()), 18)
    with pytest.raises(ValueError, match="at least 2 noise scales"):
        ns.karras_grid(TARGET.model(ns.VarianceExploding()), 1)
    levels = torch.linspace(0, 1, 9, dtype=torch.float64)
    known = ns.wrap(lambda x, t, cond: x, ns.VarianceExploding(), predicts="x0", levels=levels)
    assert set(ns.karras_grid(known, 50).tolist()) <= set(levels.tolist())


@pytest.mark.parametrize("update", [ns.euler_maruyama(), ns.ancestral], ids=["em", "ancestral"])
def test_stochastic_samplers_reach_the_data_in_distribution(update):
    schedule = ns.Linear() if update is not ns.ancestral else ns.VariancePreserving()
    model, n = TARGET.model(schedule), 2000
    noise = torch.Generator().manual_seed(7)
    errors = []
    for steps in (40, 160):
        x = torch.randn(n, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        final = last_of(sample(model, x, torch.linspace(1, 0, steps + 1), update=update, noise=noise))
        errors.append((final.var(0) / VARIANCE).log().abs().mean())
        assert ((final.mean(0) - MEAN).abs() / VARIANCE.sqrt()).max() < 0.12
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.16


def test_noise_belongs_to_the_sample_and_not_to_the_batch():
    model = TARGET.model(ns.Linear())
    x = normal(generators(range(6), seed=0, stream=0), (8,)).double()
    times = torch.linspace(1, 0, 6)

    def run(rows):
        noise = per_sample_noise(generators(rows, seed=0, stream=1))
        return last_of(sample(model, x[rows.start : rows.stop], times, update=ns.euler_maruyama(), noise=noise))

    torch.testing.assert_close(run(range(6)), torch.cat([run(range(4)), run(range(4, 6))]))


def test_a_stochastic_sampler_without_noise_names_the_remedy():
    with pytest.raises(ValueError, match="pass noise="):
        last_of(
            sample(TARGET.model(ns.Linear()), torch.zeros(2, 8), torch.linspace(1, 0, 4), update=ns.euler_maruyama())
        )


@pytest.mark.parametrize("update", [ns.ddim, ns.euler_maruyama, samplers.flow_sde, samplers.coefficients_preserving])
def test_an_update_that_was_only_named_says_so(update):
    with pytest.raises(TypeError, match=rf"pass .*update={update.__name__}\("):
        last_of(sample(TARGET.model(ns.Linear()), torch.zeros(2, 8), torch.linspace(1, 0, 4), update=update))


def test_times_must_fall():
    with pytest.raises(ValueError, match="falling"):
        next(sample(TARGET.model(ns.Linear()), torch.zeros(2, 8), torch.tensor([0.0, 1.0])))


def test_steps_are_paired_with_what_the_model_said_of_them():
    model = TARGET.model(ns.Linear())
    steps = list(sample(model, torch.zeros(2, 8, dtype=torch.float64), torch.linspace(1, 0, 5)))
    assert [step.index for step in steps] == list(range(5))
    assert steps[-1].prediction is None
    for step in steps[:-1]:
        torch.testing.assert_close(step.prediction.x0, model(step.x, step.t).x0)


def test_grid_is_snapped_to_known_levels_before_the_loop():
    schedule = ns.Discrete.from_betas(steps=50)
    model = ns.wrap(lambda x, t, cond: x, schedule, predicts="epsilon", levels=schedule.times)
    grid = time_grid(model, 7)
    assert torch.isin(grid[:-1], schedule.times).all()
    assert grid[-1] == 0
    assert len(time_grid(model, 400)) == 51  # levels that fall together are taken once


def test_posterior_spread_is_ddpms():
    table = ns.Discrete.from_betas()
    abar, i = table.alphas_cumprod, 500
    now, then = table(table.times[i]), table(table.times[i - 1])
    beta = 1 - abar[i] / abar[i - 1]
    expected = ((1 - abar[i - 1]) / (1 - abar[i]) * beta).sqrt()
    torch.testing.assert_close(posterior_sigma(now, then), expected)


def scheduler(name, **values):
    import diffusers

    return getattr(diffusers, name)(**values)


TABLE = {"beta_start": 1e-4, "beta_end": 0.02}
STOCHASTIC_FREE = ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler"]
PRESERVING = ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "PNDMScheduler", "DEISMultistepScheduler"]


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # KDPM2 hands tensors to numpy
@pytest.mark.parametrize("name", STOCHASTIC_FREE + PRESERVING)
def test_diffusers_schedulers_follow_the_exact_flow(name):
    extra = {"skip_prk_steps": True} if name == "PNDMScheduler" else {}
    schedule = ns.Discrete.from_betas()
    model = TARGET.model(schedule)
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    final = last_of(sample(model, x, None, update=ns.from_diffusers(scheduler(name, **TABLE, **extra), 60)))
    start = float(next(iter(ns.from_diffusers(scheduler(name, **TABLE, **extra), 60).times(schedule))))
    expected = flow(schedule, x.double() * float(schedule(start).sigma), start, 0.0)
    assert float((final - expected).norm() / expected.norm()) < 0.08


@pytest.mark.parametrize("kind", ["table", "edm"])
def test_levels_of_schedulers_are_those_of_their_own_noising(kind):
    names = [
        *STOCHASTIC_FREE[:1],
        "DDIMScheduler",
        "DDPMScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    ]
    for each in ["EDMEulerScheduler"] if kind == "edm" else [*names, "LMSDiscreteScheduler", "HeunDiscreteScheduler"]:
        update = ns.from_diffusers(scheduler(each), 9)
        update.scheduler.set_timesteps(9)
        x0, eps = torch.randn(2, 500, generator=torch.Generator().manual_seed(0)).split(1)
        for k in (0, 4):
            noisy = update.scheduler.add_noise(x0, eps, update.scheduler.timesteps[k : k + 1])
            fit = torch.linalg.lstsq(torch.cat([x0, eps]).T, noisy.T).solution.flatten()
            np.testing.assert_allclose(fit.numpy(), update.levels()[k], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_schedulers_set_to_flow_sigmas_follow_the_exact_flow(name):
    made = scheduler(name, use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0)
    update, schedule = ns.from_diffusers(made, 40), ns.Linear()
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    final = last_of(sample(TARGET.model(schedule), x, None, update=update))
    start = float(update.times(schedule)[0])
    expected = flow(schedule, x.double(), start, 0.0)
    assert float((final - expected).norm() / expected.norm()) < 0.02


def test_a_flow_scheduler_that_predicts_something_else_is_refused():
    with pytest.raises(ValueError, match="flow_prediction"):
        ns.from_diffusers(scheduler("UniPCMultistepScheduler", use_flow_sigmas=True, prediction_type="v_prediction"), 5)


@pytest.mark.parametrize(
    ("name", "options", "end"),
    [
        ("DDIMScheduler", {}, 0.0),
        ("DDIMScheduler", {"set_alpha_to_one": False}, 0.001),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "zero"}, 0.0),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}, 0.001),
        ("EulerDiscreteScheduler", {}, 0.0),
    ],
)
def test_the_last_state_is_at_the_level_where_the_scheduler_stops(name, options, end):
    schedule = ns.Discrete.from_betas()
    *_, last = sample(
        TARGET.model(schedule),
        torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),
        None,
        update=ns.from_diffusers(scheduler(name, **TABLE, **options), 8),
    )
    assert float(last.t) == pytest.approx(end, abs=1e-5)


def test_flow_matching_scheduler_is_euler_on_its_own_sigmas():
    for shift in (1.0, 3.0):
        model = TARGET.model(ns.Linear())
        update = ns.from_diffusers(scheduler("FlowMatchEulerDiscreteScheduler", shift=shift), 12)
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
        theirs = list(sample(model, x, None, update=update))
        ours = last_of(sample(model, x, torch.stack([step.t for step in theirs])))
        torch.testing.assert_close(theirs[-1].x, ours, rtol=1e-5, atol=1e-5)


def test_ddim_agrees_with_diffusers_where_its_levels_meet_its_labels():
    schedule = ns.Discrete.from_betas()
    model = TARGET.model(schedule)
    theirs = scheduler("DDIMScheduler", timestep_spacing="trailing", clip_sample=False, **TABLE)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    steps = list(sample(model, x, None, update=ns.from_diffusers(theirs, 10)))
    ours = last_of(sample(model, x, torch.stack([step.t for step in steps]), update=ns.ddim(0.0)))
    torch.testing.assert_close(steps[-1].x, ours, rtol=1e-4, atol=1e-4)


def test_second_order_states_are_tagged():
    model = TARGET.model(ns.Discrete.from_betas())
    steps = list(
        sample(model, torch.randn(2, 8), None, update=ns.from_diffusers(scheduler("HeunDiscreteScheduler", **TABLE), 5))
    )
    assert sum(step.internal for step in steps) == 4
    assert not steps[0].internal
    assert not steps[-1].internal


@pytest.mark.parametrize(("spacing", "off"), [("linspace", 12), ("trailing", 11)])
def test_positive_control_ddims_level_and_label_part_ways(spacing, off):
    """diffusers' DDIM at 13 steps steps by 1000 // 13 whatever the labels do. On pure noise an exact model scales the
    state by reached / conditioning at each transition, so the mismatch can be read off the states and known in advance."""
    schedule = ns.Discrete.from_betas()
    model = Gaussian(torch.zeros(4096), torch.full((4096,), 1e-12)).model(schedule)
    theirs = scheduler("DDIMScheduler", timestep_spacing=spacing, clip_sample=False, **TABLE)
    update = ns.from_diffusers(theirs, 13)
    x = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0))
    steps = list(sample(model, x, None, update=update))[:-1]
    effective = [float(s.x.double().square().mean().sqrt()) / float(schedule(s.t).sigma) for s in steps]
    read = np.log(np.array(effective[1:]) / effective[:-1])
    labels = [int(label) for label in update.scheduler.timesteps]
    abar = schedule.alphas_cumprod
    reached = [abar[max(label - 1000 // 13, 0)] for label in labels[:-1]]
    known = [0.5 * math.log((1 - r) / (1 - abar[label])) for r, label in zip(reached, labels[1:], strict=True)]
    np.testing.assert_allclose(read, known, atol=2e-4)
    mismatched = [label - 1000 // 13 != after for label, after in itertools.pairwise(labels)]
    assert sum(mismatched) == off
    assert (max(known) > 1) == (spacing == "linspace")


def test_positive_control_is_read_by_the_instrument():
    """The same mismatch through calibration, readings and intervals: every step's shift, from states alone."""
    from noiseshift.estimators.posterior import time_grid as even_in_log_snr

    schedule, generator = ns.Discrete.from_betas(), torch.Generator().manual_seed(0)
    target = Gaussian(torch.zeros(1024), torch.full((1024,), 1e-12))
    update = ns.from_diffusers(scheduler("DDIMScheduler", timestep_spacing="linspace", clip_sample=False, **TABLE), 13)
    times = update.times(schedule)[1:]
    # Above t ~ 0.55 pure noise no longer tells levels apart on this table: sigma is 1 to three digits.
    times = times[times < 0.55]
    estimator = target.estimator(schedule, even_in_log_snr(schedule, 600, 0.0005, 0.9))
    calibration = ns.calibrate(estimator, target.sample(60, generator), times)
    x = torch.randn(60, 1024, generator=generator)
    table = ns.measure(
        sample(target.model(schedule), x, None, update=update), estimator, calibration, content=False
    ).table(0.999)

    labels, abar = [int(label) for label in update.scheduler.timesteps], schedule.alphas_cumprod
    reached = [abar[max(label - 1000 // 13, 0)] for label in labels[:-1]]
    known = np.cumsum([0.5 * math.log((1 - r) / (1 - abar[b])) for r, b in zip(reached, labels[1:], strict=True)])
    sigma = schedule(times).sigma * torch.from_numpy(np.exp(known[-len(times) :]))
    expected = (schedule.time_of_sigma(sigma) - times).numpy()
    assert len(times) >= 6
    assert table.resolved[1:].all()
    # A percent of the shift for reading a curve by its slope; the last step's shift is four times its level.
    slack = 0.03 * np.abs(expected)
    assert ((table.low - slack <= expected) & (expected <= table.high + slack))[:-1].all()
    assert table["shift"].iloc[-1] == pytest.approx(expected[-1], rel=0.2)


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DDPMScheduler"])
def test_a_stochastic_scheduler_never_draws_unseeded_noise(name):
    model, update = TARGET.model(ns.Discrete.from_betas()), ns.from_diffusers(scheduler(name, **TABLE), 4)
    with pytest.raises(ValueError, match="pass noise="):
        last_of(sample(model, torch.zeros(2, 8), None, update=update))


@pytest.mark.parametrize("theirs", [False, True], ids=["ours", "diffusers"])
def test_one_generator_is_not_shared_by_all_rows(theirs):
    update = ns.from_diffusers(scheduler("DDPMScheduler", **TABLE), 3) if theirs else ns.ancestral
    noise = per_sample_noise([torch.Generator().manual_seed(0)])
    times = None if theirs else torch.linspace(1, 0, 4)
    with pytest.raises(ValueError, match="1 for 2 samples"):
        last_of(sample(TARGET.model(ns.Discrete.from_betas()), torch.zeros(2, 8), times, update=update, noise=noise))


def test_two_runs_of_one_update_do_not_share_its_history():
    update = ns.from_diffusers(scheduler("DPMSolverMultistepScheduler", **TABLE), 6)
    model, x = TARGET.model(ns.Discrete.from_betas()), torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    alone = last_of(sample(model, x, None, update=update))
    both = list(zip(sample(model, x, None, update=update), sample(model, x, None, update=update), strict=True))
    torch.testing.assert_close(both[-1][0].x, alone)
    torch.testing.assert_close(both[-1][1].x, alone)


def test_evaluations_inside_a_runge_kutta_step_are_tagged():
    update = ns.from_diffusers(scheduler("PNDMScheduler", **TABLE), 4)
    model = TARGET.model(ns.Discrete.from_betas())
    t_cond = [
        round(float(s.t) * 1000) - 1 for s in sample(model, torch.zeros(2, 8), None, update=update) if not s.internal
    ]
    assert t_cond == [750, 500, 250, 0, 0]  # it stops at the level of its own last label


def test_singlestep_solvers_tag_their_trial_states():
    update = ns.from_diffusers(scheduler("DPMSolverSinglestepScheduler", **TABLE, lower_order_final=True), 5)
    steps = list(sample(TARGET.model(ns.Discrete.from_betas()), torch.zeros(2, 8), None, update=update))
    assert [step.internal for step in steps] == [False, True, False, True, False, False]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_edm_schedulers_follow_the_exact_flow(kind):
    model = TARGET.model(ns.VarianceExploding())
    x = 80 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    theirs = ns.from_diffusers(scheduler("EDMEulerScheduler", prediction_type=kind), 100)
    expected = flow(ns.VarianceExploding(), x.double(), 1.0, 0.0)
    final = last_of(sample(model, x, None, update=theirs))
    assert float((final - expected).norm() / expected.norm()) < 0.08


def test_the_conditioning_time_is_never_rounded_to_half_precision():
    t_cond = []

    class Listening:
        schedule = ns.Linear()

        def __call__(self, x, t, cond=None):
            assert x.dtype == torch.bfloat16
            t_cond.append(float(t))
            return ns.Prediction(x, x, self.schedule(t).like(x))

    times = torch.linspace(1, 0, 24, dtype=torch.float64)
    last_of(sample(Listening(), torch.zeros(1, 8, dtype=torch.bfloat16), times))
    np.testing.assert_allclose(t_cond, times[:-1].numpy(), atol=1e-7)


def sigmas(log_snr):
    return torch.sigmoid(-log_snr).log() / 2


@pytest.mark.parametrize(("spacing", "off"), [("linspace", 12), ("trailing", 11)])
def test_reached_levels_are_the_arithmetic_of_ddim(spacing, off):
    theirs = scheduler("DDIMScheduler", timestep_spacing=spacing, **TABLE)
    t_cond, reached = reached_levels(theirs, 13)
    update = ns.from_diffusers(theirs, 13)
    abar = theirs.alphas_cumprod.double()
    known = torch.stack([abar[max(int(label) - 1000 // 13, 0)] for label in update.scheduler.timesteps[:-1]])
    torch.testing.assert_close(sigmas(reached), 0.5 * torch.log1p(-known), rtol=0, atol=1e-4)
    assert int(((reached - t_cond).abs() > 1e-3).sum()) == off


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("EulerDiscreteScheduler", 1e-4),
        ("HeunDiscreteScheduler", 1e-4),
        ("FlowMatchEulerDiscreteScheduler", 1e-4),
        ("EDMEulerScheduler", 1e-4),
        ("DDPMScheduler", 0.01),  # read through its own noise
        ("EulerAncestralDiscreteScheduler", 0.01),
    ],
)
def test_other_schedulers_land_where_they_say(name, within):
    t_cond, reached = reached_levels(scheduler(name), 13)
    assert len(t_cond) == 12
    assert float((reached - t_cond).abs().max()) < within


@pytest.mark.filterwarnings("ignore:__array_wrap__")
@pytest.mark.parametrize("name", ["KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_midpoint_levels_are_those_the_input_is_scaled_for(name):
    update = ns.from_diffusers(scheduler(name, **TABLE), 6)
    theirs, t_cond = update.scheduler, []
    extra = {"generator": torch.Generator().manual_seed(0)} if "Ancestral" in name else {}
    for label in theirs.timesteps:
        scaled = float(theirs.scale_model_input(torch.ones(1, 1, dtype=torch.float64), label))
        t_cond.append(math.sqrt(scaled**-2 - 1))
        theirs.step(torch.zeros(1, 1), label, torch.zeros(1, 1), **extra)
    # 1 / sqrt(1 + sigma²) in float32 tells sigma = 0.01 to 6e-6 only.
    np.testing.assert_allclose([sigma for _, sigma in update.levels()], t_cond, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: "ddim", lambda: scheduler("IPNDMScheduler")], ids=["word", "ipndm"])
def test_what_cannot_be_followed_is_said_in_a_line(make):
    with pytest.raises(ValueError, match="no scheduler that can be followed"):
        ns.from_diffusers(make(), 5)


def test_bad_numbers_name_the_remedy():
    model = TARGET.model(ns.Linear())
    with pytest.raises(ValueError, match="falls from start to end"):
        time_grid(model, 4, start=0.2, end=0.8)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        next(sample(model, torch.zeros(2, 8), torch.tensor([5.0, 1.0, 0.0])))
    with pytest.raises(ValueError, match="at least 0"):
        ns.ddim(-1.0)


def test_two_noise_scales_are_the_schedules_ends():
    assert ns.karras_grid(TARGET.model(ns.VarianceExploding()), 2).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("eta", "noise"), [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (1.0, 1.0)])
def test_a_step_of_coefficients_preserving_sampling_in_closed_form(eta, noise):
    model, times = TARGET.model(ns.Linear()), torch.tensor([0.8, 0.3], dtype=torch.float64)
    x = torch.linspace(-1, 1, TARGET.dim, dtype=torch.float64)[None]
    update = samplers.coefficients_preserving(eta)
    *_, last = sample(model, x, times, update=update, noise=lambda state: torch.full_like(state, noise))
    seen = model(x, times[0])
    kept, drawn = math.cos(eta * math.pi / 2) * seen.eps, math.sin(eta * math.pi / 2) * noise
    torch.testing.assert_close(last.x, 0.7 * seen.x0 + 0.3 * (kept + drawn))


def test_a_grid_is_even_between_its_ends_and_takes_one_step_at_least():
    model = TARGET.model(ns.Linear())
    assert time_grid(model, 1).tolist() == [1.0, 0.0]
    assert time_grid(model, 3, start=0.8, end=0.2).tolist() == pytest.approx([0.8, 0.6, 0.4, 0.2])
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        time_grid(model, 0)
    for start, end in [(0.5, 0.5), (0.2, 0.8), (1.01, 0.0), (1.0, -0.01)]:
        with pytest.raises(ValueError, match="falls from start to end"):
            time_grid(model, 4, start=start, end=end)


@pytest.mark.parametrize("times", [[0.5], [0.5, 0.5, 0.0], [[1.0, 0.0]], [1.01, 0.0], [1.0, -0.01]])
def test_times_that_are_no_falling_row_within_the_ends_are_refused(times):
    with pytest.raises(ValueError, match=r"falling row|lie in \[0, 1\]"):
        next(sample(TARGET.model(ns.Linear()), torch.zeros(2, 8), torch.tensor(times)))


def test_a_run_ends_at_its_last_time_and_a_state_that_is_no_number_there_is_named():
    model, times = TARGET.model(ns.Linear()), torch.tensor([1.0, 0.6, 0.25])
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    steps = list(sample(model, x, times))
    assert [float(step.t) for step in steps] == pytest.approx([1.0, 0.6, 0.25])
    assert [step.index for step in steps] == [0, 1, 2]
    broken = sample(model, x, times, update=lambda move: move.step.x * (1 if move.t_next > 0.5 else math.nan))
    with pytest.raises(ValueError, match=r"the sampler's state .*0\.25"):
        list(broken)


def test_edms_sampler_is_refused_where_alpha_is_0():
    steps = sample(TARGET.model(ns.Linear()), torch.ones(2, 8), torch.tensor([1.0, 0.5]), update=ns.edm_heun)
    next(steps)
    with pytest.raises(ValueError, match="take heun"):
        next(steps)


def test_refused_times_are_named_and_no_times_are_refused():
    model, x = TARGET.model(ns.Linear()), torch.zeros(2, 8)
    with pytest.raises(ValueError, match=r"got 1.5 … -0.25"):
        next(sample(model, x, torch.tensor([1.5, 0.5, -0.25])))
    with pytest.raises(ValueError, match="falling row"):
        next(sample(model, x, None))


@pytest.mark.parametrize(
    ("make", "wrong", "right"),
    [
        (ns.ddim, (-0.01, math.nan), (0.0, 1.0, 2.0)),
        (samplers.flow_sde, (-0.01, math.inf, math.nan), (0.0, 0.7)),
        (samplers.coefficients_preserving, (-0.01, 1.01, math.nan), (0.0, 1.0)),
    ],
    ids=["ddim", "flow-sde", "cps"],
)
def test_how_much_noise_an_update_draws_has_bounds(make, wrong, right):
    for value in wrong:
        with pytest.raises(ValueError, match="deterministic"):
            make(value)
    for value in right:
        make(value)


def one_step(update, t, t_next, noise=None):
    model = TARGET.model(ns.Linear())
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, last = sample(model, x, torch.tensor([t, t_next]), update=update, noise=noise)
    return x, first.prediction, last.x


def test_a_step_of_the_reverse_equation_in_closed_form():
    """Linear schedule: drift v - w s / 2, spread sqrt(w (t - t')); w is sigma = t, or a² t / (1 - t) of Flow-GRPO."""
    ones = torch.ones_like
    for update, w in (
        (ns.euler_maruyama(), 0.6),
        (samplers.flow_sde(0.5), 0.25 * 0.6 / 0.4),
        (samplers.flow_sde(), 0.49 * 1.5),
    ):
        x, said, found = one_step(update, 0.6, 0.5, ones)
        torch.testing.assert_close(
            found, x - 0.1 * (said.velocity - w / 2 * said.score) + (0.1 * w) ** 0.5, atol=1e-6, rtol=0
        )
    _, said, found = one_step(ns.euler_maruyama(), 0.6, 0.0, ones)
    torch.testing.assert_close(found, said.x0)


def test_flow_sde_at_pure_noise_takes_the_next_times_alpha():
    x, said, found = one_step(samplers.flow_sde(1.0), 1.0, 0.75, torch.ones_like)
    w = 1.0 / 0.25
    torch.testing.assert_close(found, x - 0.25 * (said.velocity - w / 2 * said.score) + 1.0)


def test_ddims_defaults_draw_nothing_and_a_share_of_the_posteriors_spread_is_drawn():
    _, said, found = one_step(ns.ddim(), 0.6, 0.5)
    torch.testing.assert_close(found, 0.5 * said.x0 + 0.5 * said.eps)
    _, said, found = one_step(ns.ddim(0.5), 0.6, 0.5, torch.ones_like)
    spread = 0.5 * 0.5 * (1 - (0.4 * 0.5 / (0.5 * 0.6)) ** 2) ** 0.5
    torch.testing.assert_close(found, 0.5 * said.x0 + (0.25 - spread**2) ** 0.5 * said.eps + spread)
