"""Every solver is a constructor and has a word, which reads back to the same solver."""

import json
import re
from types import SimpleNamespace

import diffusers
import pytest
import torch

import noiseshift as ns
from noiseshift.diffusion.solvers import OURS, bound, describe

SOLVERS = [
    ns.solvers.Euler(20),
    ns.solvers.Euler(21),
    ns.solvers.Heun(25),
    ns.solvers.EDM(18),
    ns.solvers.DDIM(50),
    ns.solvers.DDIM(50, eta=0.5),
    ns.solvers.DDIM(50, eta=1 / 3),
    ns.solvers.DDPM(50),
    ns.solvers.EulerMaruyama(50),
    ns.solvers.FlowSDE(50, a=0.7),
    ns.solvers.FlowSDE(10, a=0.0),
    ns.solvers.CPS(20),
    ns.solvers.Precise(20),
    ns.solvers.Precise(20, eta=1 / 3),
    ns.solvers.CPS(20, eta=1 / 3),
    ns.solvers.Own(20),
    ns.solvers.Own(20, "DDIMScheduler"),
    ns.solvers.Diffusers("EulerDiscreteScheduler", 20, use_karras_sigmas=True),
    ns.solvers.Diffusers("EulerDiscreteScheduler", 20),
    ns.solvers.Diffusers("DDIMScheduler", 13, timestep_spacing="linspace"),
    ns.solvers.Diffusers("DDIMScheduler", 13, timestep_spacing="trailing", clip_sample=False),
    ns.solvers.Diffusers("DDIMScheduler", 4, trained_betas=[0.1, 0.2, 1e-5, 0.3], num_train_timesteps=4),
    ns.solvers.Diffusers("DPMSolverMultistepScheduler", 9, lower_order_final=True, final_sigmas_type="zero"),
    ns.solvers.Diffusers("EDMEulerScheduler", 9),  # takes no betas
    ns.solvers.Diffusers("FlowMatchEulerDiscreteScheduler", 9, shift=3.0, base_image_seq_len=None),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_a_solvers_name_is_its_word(solver):
    assert ns.solver(solver.name) == solver
    assert hash(ns.solver(solver.name)) == hash(solver)
    assert solver.steps >= 2
    assert ns.solver(solver) is solver


S = ns.solvers


@pytest.mark.parametrize(
    ("solver", "order", "reference", "finer"),
    [
        (S.Euler(4), 1, "heun", S.Heun(4)),
        (S.Euler(5), 1, "heun", S.Heun(5)),
        (S.Heun(4), 2, "heun", S.Heun(8)),
        (S.DDIM(4), 1, "heun", S.DDIM(8)),
        (S.DDIM(4, eta=1.0), 1, None, S.DDIM(8, eta=1.0)),
        (S.EulerMaruyama(4), 1, "euler_maruyama", S.EulerMaruyama(8)),
        (S.FlowSDE(4), None, "flow_sde", S.FlowSDE(8)),
        (S.FlowSDE(4, a=0.0), 1, "flow_sde", S.FlowSDE(8, a=0.0)),
        (S.CPS(4), None, None, S.CPS(8)),
        (S.CPS(4, eta=0.0), 1, "heun", S.CPS(8, eta=0.0)),
        (S.Precise(4), 1, None, S.Precise(8)),
        (S.Precise(4, eta=0.0), 1, "heun", S.Precise(8, eta=0.0)),
    ],
    ids=lambda each: each.name if isinstance(each, S.Solver) else None,
)
def test_order_reference_and_finer_run_of_a_solver(solver, order, reference, finer):
    """What converges to the equation without noise is held against Heun; of what draws, only what has a limit of its own."""
    assert solver.order == order
    update = solver.reference()
    assert (None if update is None else update.__qualname__.split(".")[0]) == reference
    assert solver.finer(2) == finer
    assert S.Euler(2).finer(1) == S.Heun(2)


def test_words_mean_what_they_say():
    assert ns.solver("heun:25") == ns.solvers.Heun(25)
    assert ns.solver("ddim:50:0") == ns.solvers.DDIM(50)
    assert ns.solver("ddim:50:0.5").name == "ddim:50:0.5"
    written = ns.solver("diffusers/DDIMScheduler:13,timestep_spacing=linspace,clip_sample=False")
    assert written == ns.solver("diffusers/DDIMScheduler:13,clip_sample=false,timestep_spacing=linspace")
    assert written.update().scheduler.config.timestep_spacing == "linspace"
    assert written.update().scheduler.config.clip_sample is False
    assert ns.solvers.Heun(20) != ns.solvers.Euler(20)


def test_each_word_runs_its_own_update():
    made = {"euler": ns.euler, "heun": ns.heun, "edm": ns.edm_heun, "ddpm": ns.ancestral}
    assert {name: OURS[name](5).update() for name in made} == made
    model = ns.load().model
    assert torch.equal(ns.solvers.Heun(5).grid(model), ns.time_grid(model, 5))
    assert ns.solver("diffusers/DDIMScheduler:5").grid(model) is None
    assert ns.solvers.DDIM(5, eta=0.1).reference() is None
    assert ns.solvers.DDIM(5).reference() is ns.solvers.Euler(5).reference() is ns.heun


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("euler", "write NAME:STEPS"),
        ("", "write NAME:STEPS"),
        ("euler:x", "write NAME:STEPS"),
        ("euler:1", "at least 2 steps"),
        ("ddim:0", "at least 2 steps"),
        ("own:1", "at least 2 steps"),
        ("diffusers/DDIMScheduler:1", "at least 2 steps"),
        ("rk4:9", "choose from euler:N"),
        ("heun:9:1", "choose from"),
        ("ddim:9:1:1", "choose from"),
        ("ddim:9:-1", "eta must be"),
        ("ddim:9:inf", "eta must be"),
        ("ddim:9:nan", "eta must be"),
        ("heun:9,eta=1", "takes options"),
        ("diffusers/NoScheduler:9", "no scheduler 'NoScheduler'"),
        ("diffusers/DDIMPipeline:9", "no scheduler 'DDIMPipeline'"),
        ("diffusers/DDIMScheduler:9:1", "choose from"),
        ("diffusers/DDIMScheduler:9,colour=1", "no option colour: choose from num_train_timesteps"),
        ("diffusers/DDIMScheduler:9,steps=1", "no option steps"),
        ("diffusers/DDIMScheduler:9,scheduler=1", "no option scheduler"),
        ("diffusers/DDIMScheduler:9,self=1", "no option self"),
        ("diffusers/DDIMScheduler:9,clip_sample", "name=value"),
        ("diffusers/DDIMScheduler:9,", "name=value"),
        ("diffusers/DDIMScheduler:9,clip_sample=true,clip_sample=false", "twice"),
        ("diffusers/DDIMScheduler:9,beta_schedule=steep", "steep is not implemented"),
        ("diffusers/DDIMScheduler:9,beta_start=many", "beta_start=many"),
        ("diffusers/DDIMScheduler:9,timestep_spacing=wide", "wide"),
        ("diffusers/DDIMScheduler:9999", "9999"),
        ("diffusers/KarrasVeScheduler:9", "KarrasVeScheduler"),
    ],
)
def test_a_wrong_word_is_one_line_that_names_the_remedy(word, says):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        ns.solver(word)
    assert "\n" not in str(error.value)


def test_options_that_no_word_can_hold_are_refused():
    with pytest.raises(ValueError, match="numbers, texts"):
        ns.solvers.Diffusers("DDIMScheduler", 9, trained_betas=torch.ones(2))


def test_own_is_bound_to_the_folders_scheduler():
    def make(n):
        return ns.from_diffusers(ns.solver("diffusers/DDIMScheduler:5").update().scheduler, n)

    folder = SimpleNamespace(sampler=make, card=SimpleNamespace(provenance={"scheduler": "DDIMScheduler"}), model=None)
    own = bound(ns.solver("own:7"), folder)
    assert own.name == "own/DDIMScheduler:7"
    assert own.update().steps == 7
    assert bound(own, folder) == own == bound(ns.solver("own/DDIMScheduler:7"), folder)
    with pytest.raises(ValueError, match="the folder's own scheduler is DDIMScheduler: write own:7"):
        bound(ns.solver("own/PNDMScheduler:7"), folder)
    for call in (lambda: bound(ns.solver("own:7"), ns.load()), ns.solver("own:7").update):
        with pytest.raises(ValueError, match="name another one"):
            call()
    assert bound(ns.solvers.Heun(5), folder) == ns.solvers.Heun(5)


def custom(update, label="mine", **settings):
    return ns.solvers.Custom(5, label, lambda: update, **settings)


def test_no_two_solvers_describe_themselves_alike():
    model = ns.load("fashion-ddpm").model
    others = [s for s in SOLVERS if s.name not in ("edm:18", "own:20", "own/DDIMScheduler:20")]
    others += [custom(ns.euler), custom(ns.heun), custom(ns.ddim(0.1)), custom(ns.ddim(0.2))]
    others += [custom(ns.euler, times=lambda model: ns.time_grid(model, 9))]
    others += [custom(ns.euler_maruyama(w)) for w in (lambda level: level.sigma, lambda level: 2 * level.sigma)]
    said = [json.dumps(describe(solver, model), sort_keys=True) for solver in others]
    assert len(set(said)) == len(said)
    assert said == [json.dumps(describe(solver, model), sort_keys=True) for solver in others]


def test_an_own_sampler_is_described_by_its_schedulers_configuration():
    import diffusers

    def folder(**config):
        make = lambda n: ns.from_diffusers(diffusers.DDIMScheduler(**config), n)  # noqa: E731
        return SimpleNamespace(sampler=make, card=SimpleNamespace(provenance={"scheduler": "DDIMScheduler"}))

    model = ns.load("fashion-ddpm").model
    configs = ({}, {"clip_sample": False}, {"beta_end": 0.03}, {"steps_offset": 1}, {"timestep_spacing": "trailing"})
    said = [json.dumps(describe(bound(ns.solver("own:5"), folder(**c)), model)) for c in configs]
    assert len(set(said)) == len(said)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"])
def test_a_word_that_is_bound_to_nothing_takes_the_table_of_the_model_it_samples(name):
    """Another table's first levels lie beyond the model's: the network would be conditioned on one that no state has."""
    table = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    schedule = ns.Discrete(table)
    update = ns.solver(f"diffusers/{name}:20").update()
    own = ns.from_diffusers(
        getattr(diffusers, name)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"), 20
    )
    torch.testing.assert_close(update.times(schedule), own.times(schedule), rtol=0, atol=1e-4)
    model = ns.wrap(lambda x, t, cond: 0.5 * x, schedule, predicts="x0")
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        [step.x for step in ns.sample(model, x, None, update=each)]
        for each in (ns.solver(f"diffusers/{name}:20").update(), own)
    )
    torch.testing.assert_close(ours[0], theirs[0])
    assert len(ours) == len(theirs)
