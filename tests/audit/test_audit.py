"""Every finding by a configuration that has it and one that has not; rows against schedulers' own loops."""

import inspect
import json
import math
import sys

import diffusers
import numpy as np
import pytest
import torch

import noiseshift as ns
from noiseshift.audit import audit
from noiseshift.audit.report import NAMES

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers' own, of options that it deprecates
DPM, EULER, DDIM, FLOW = (
    diffusers.DPMSolverMultistepScheduler,
    diffusers.EulerDiscreteScheduler,
    diffusers.DDIMScheduler,
    diffusers.FlowMatchEulerDiscreteScheduler,
)
ZERO = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
EVEN = np.linspace(1, 1 / 8, 8)
SHIFTED = 3 * EVEN / (1 + 2 * EVEN)


def found(scheduler, steps=10, **options):
    return {finding.name: finding for finding in audit(scheduler, steps, **options).findings}


HAS = {
    "first-level": (DDIM(), {}, DDIM(timestep_spacing="trailing"), {}),
    "last-level": (DPM(final_sigmas_type="sigma_min"), {}, DPM(), {}),
    "rounded-labels": (DPM(use_karras_sigmas=True), {}, EULER(use_karras_sigmas=True), {}),
    "label-off": (EULER(interpolation_type="log_linear"), {}, EULER(), {}),
    "half-precision": (FLOW(), {"dtype": "bf16"}, FLOW(), {}),
    "lands-off": (DDIM(timestep_spacing="linspace"), {"steps": 13}, DDIM(timestep_spacing="leading"), {"steps": 13}),
    "outside-table": (EULER(timestep_spacing="leading", steps_offset=100), {}, EULER(timestep_spacing="leading"), {}),
    "fails": (DDIM(steps_offset=100), {}, DDIM(steps_offset=1), {}),
    "duplicated": (DPM(beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True), {"steps": 60}, DPM(), {"steps": 60}),
    "not-falling": (FLOW(), {"sigmas": [1, 0.5, 0.6, 0.1]}, FLOW(), {"sigmas": [1, 0.6, 0.5, 0.1]}),
    "shifted-twice": (FLOW(shift=3.0), {}, FLOW(), {}),
    "image-start": (EULER(interpolation_type="log_linear"), {"strength": 0.6}, EULER(), {"strength": 0.6}),
    "terminal-snr": (DDIM(beta_end=0.012), {}, DDIM(**ZERO), {}),
    "shift-ignored": (FLOW(shift=3.0, use_dynamic_shifting=True), {}, FLOW(use_dynamic_shifting=True), {}),
    "strength": (DDIM(), {"strength": 0.6}, DDIM(), {}),
    "step-count": (
        EULER(timestep_spacing="trailing"),
        {"steps": 61},
        EULER(timestep_spacing="trailing"),
        {"steps": 60},
    ),
    "size-ignored": (FLOW(), {"size": (1024, 768)}, FLOW(use_dynamic_shifting=True), {"size": (1024, 768)}),
}


# The two that are left out only an observer sees: test_observed.py.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("first-state", "moved-labels")])
def test_a_finding_is_seen_where_it_is_and_not_where_it_is_not(name):
    faulty, options, sound, others = HAS[name]
    assert name in found(faulty, **options), found(faulty, **options)
    assert name not in found(sound, **others)


@pytest.mark.parametrize(
    ("faulty", "options", "name", "mended", "others"),
    [
        (DDIM(), {}, "first-level", DDIM(timestep_spacing="trailing"), {}),
        (DPM(final_sigmas_type="sigma_min"), {}, "last-level", DPM(final_sigmas_type="zero"), {}),
        (diffusers.PNDMScheduler(), {}, "last-level", diffusers.PNDMScheduler(set_alpha_to_one=True), {}),
        (FLOW(shift=3.0), {"steps": 8}, "shifted-twice", FLOW(shift=3.0), {"sigmas": EVEN}),
        (FLOW(shift=3.0), {"sigmas": SHIFTED}, "shifted-twice", FLOW(shift=3.0), {"sigmas": EVEN}),
        (FLOW(shift=3.0), {"timesteps": 1000 * EVEN}, "label-off", FLOW(shift=3.0), {"sigmas": EVEN}),
        (DDIM(timestep_spacing="linspace"), {"steps": 13}, "lands-off", DDIM(), {"steps": 13}),
        (EULER(interpolation_type="log_linear"), {}, "label-off", EULER(interpolation_type="linear"), {}),
    ],
)
def test_the_remedy_is_a_remedy(faulty, options, name, mended, others):
    """What the finding's line says is done; then it is gone."""
    said = found(faulty, **options)[name].remedy
    changed = {key: value for key, value in mended.config.items() if faulty.config.get(key) != value}
    assert any(str(word) in said for word in (*changed, *others, "leading"))
    assert name not in found(mended, **others)


def test_sizes_are_the_differences_that_arithmetic_has():
    ddim = DDIM(timestep_spacing="linspace")
    assert found(ddim, 13)["lands-off"].size == pytest.approx(2.609, abs=2e-3)
    table = torch.logit(ddim.alphas_cumprod.double())
    leading = found(DDIM(), 4)["first-level"]
    assert leading.size == pytest.approx(float(table[750] - table[999]), abs=1e-6)
    assert found(FLOW(shift=3.0))["shifted-twice"].size == pytest.approx(2 * math.log(3), rel=1e-2)
    bf16 = audit(FLOW(), sigmas=[1.0, 0.75, 0.5], dtype="bf16").table()
    assert bf16.handed.tolist() == [1000, 752, 500]
    assert bf16.handed_log_snr[1] == pytest.approx(2 * math.log(0.248 / 0.752))
    assert bf16.off_sigma[1] == pytest.approx(-0.002)
    left = audit(DPM(final_sigmas_type="sigma_min"), 10).levels[0].end
    assert left == pytest.approx(float((1 / DPM().alphas_cumprod[0] - 1) ** 0.5), rel=1e-3)


def test_a_pictures_size_gives_the_shift_of_its_tokens():
    """mu is 0.5 at 256 tokens and 1.15 at 4096; sigma -> e^mu s / (1 + (e^mu - 1) s)."""
    tokens = (1024 // 16) * (768 // 16)
    factor = math.exp(0.5 + (tokens - 256) * 0.65 / 3840)
    rows = audit(FLOW(use_dynamic_shifting=True), sigmas=[1.0, 0.5], size=(1024, 768)).table()
    assert rows.state_sigma[1] == pytest.approx(factor / (1 + factor), rel=1e-6)
    assert rows.label[1] == pytest.approx(1000 * factor / (1 + factor), rel=1e-5)


STOCHASTIC = (
    "DDPMScheduler",
    "EulerAncestralDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "FlowMatchLCMScheduler",
)
CLASSES = (
    *("CogVideoXDDIMScheduler DDIMScheduler DDIMParallelScheduler DEISMultistepScheduler".split()),
    *(
        "DPMSolverMultistepScheduler DPMSolverSinglestepScheduler EDMDPMSolverMultistepScheduler EDMEulerScheduler".split()
    ),
    *("EulerDiscreteScheduler FlowMatchEulerDiscreteScheduler FlowMatchHeunDiscreteScheduler".split()),
    *("HeunDiscreteScheduler KDPM2DiscreteScheduler KDPM2AncestralDiscreteScheduler LMSDiscreteScheduler".split()),
    *("LTXEulerAncestralRFScheduler PNDMScheduler SASolverScheduler UnCLIPScheduler UniPCMultistepScheduler".split()),
    *("DDPMParallelScheduler", *STOCHASTIC),
)


@pytest.mark.parametrize("name", CLASSES)
def test_rows_are_what_the_schedulers_own_loop_does(name):
    """A plain loop with the one right prediction: labels, and the first and last levels by regression of its states."""
    scheduler = getattr(diffusers, name)(**({"clip_sample": False} if "DDIM" in name or "DDPM" in name else {}))
    rows = audit(scheduler, 6).levels[0]
    walk, end = own_loop(scheduler, rows)
    np.testing.assert_allclose(rows.frame.label, [label for label, _ in walk])
    for k, (_, ratio) in enumerate(walk):
        if k and not rows.frame.internal[k] and not np.isnan(ratio):
            exact = -2 * math.log(ratio)
            # An accurate run carries its level; a second-order one only at its own states.
            assert rows.frame.reached_log_snr[k - 1] == pytest.approx(exact, abs=0.05 + 0.02 * abs(exact))
    assert rows.end == pytest.approx(end, abs=2e-3)


def own_loop(scheduler, rows):
    """(label, noise over signal) of each state of diffusers' loop from x0 + noise of the first state's level, and of its end.

    Signal and noise are orthogonal signs, so that each is read exactly; what is drawn counts as noise.
    """
    scheduler.set_timesteps(6)
    # What is drawn is not orthogonal to the signal: the more numbers, the less it matters.
    numbers = 2**18 if "generator" in inspect.signature(scheduler.step).parameters else 2**4
    x0 = torch.tensor([1.0, -1.0, 1.0, -1.0]).double().repeat(1, numbers)
    eps = torch.tensor([1.0, 1.0, -1.0, -1.0]).double().repeat(1, numbers)
    takes, more = inspect.signature(scheduler.step).parameters, {}
    if "generator" in takes:
        more["generator"] = torch.Generator().manual_seed(0)
    levels, walk = [pair(rows, value) for value in rows.frame.state_log_snr], []
    state = levels[0][0] * x0 + levels[0][1] * eps
    for k, label in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(state, label) if hasattr(scheduler, "scale_model_input") else None
        walk.append((float(label), ratio(state, x0)))
        more.pop("prev_timestep", None)
        alpha, sigma = levels[k]
        noise = (state - alpha * x0) / sigma  # of whatever level the state has: the network answers exactly
        if "prev_timestep" in takes and k + 1 < len(scheduler.timesteps):
            more["prev_timestep"] = scheduler.timesteps[k + 1]
        output = rows.family.answer(x0, noise, (alpha, sigma), (alpha, sigma))
        state = scheduler.step(output, label, state, return_dict=False, **more)[0].double()
    return walk, ratio(state, x0)


def pair(rows, value):
    """(alpha, sigma) in the scheduler's own scaling."""
    from noiseshift.audit.levels import own_sigma
    from noiseshift.diffusion.families import Flow, Preserving

    sigma = own_sigma(rows.family, value)
    if isinstance(rows.family, Preserving):
        return math.sqrt(max(1 - sigma**2, 0)), sigma
    return (1 - sigma if isinstance(rows.family, Flow) else 1.0), sigma


def ratio(state, x0):
    signal = float((state * x0).mean())
    return float((state - signal * x0).square().mean().sqrt()) / signal if signal > 1e-6 else math.nan


def test_the_same_is_read_of_a_word_a_file_a_folder_and_a_scheduler(tmp_path):
    scheduler = EULER(use_karras_sigmas=True, beta_start=1e-4, beta_end=0.02)
    scheduler.save_pretrained(tmp_path / "scheduler")
    word = ns.audit("diffusers/EulerDiscreteScheduler:7,use_karras_sigmas=true")
    for target in (scheduler, tmp_path / "scheduler", tmp_path / "scheduler" / "scheduler_config.json"):
        assert ns.audit(target, 7).table().equals(word.table())
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    FLOW(use_dynamic_shifting=True).save_pretrained(tmp_path / "scheduler")
    flux = ns.audit(tmp_path, 5).levels[0]
    assert flux.timing["sigmas"] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert flux.timing["mu"] == pytest.approx(1.15)


@pytest.mark.parametrize(
    ("target", "options", "line"),
    [
        ("diffusers/DDIMSheduler", {}, "did you mean DDIMScheduler"),
        ("nowhere", {}, "holds no scheduler_config.json"),
        (3, {}, "holds no diffusers scheduler"),
        ("diffusers/DDIMInverseScheduler", {}, "from data to noise"),
        (DDIM(), {"strength": 1.5}, r"strength lies in \(0, 1\]"),
        (DDIM(), {"strength": 0.01}, "takes no step"),
        (DDIM(), {"sigmas": [1.0, 0.5]}, "takes no sigmas"),
        (DDIM(), {"size": (4, 4)}, "at least 16 pixels"),
        (DDIM(), {"steps": 0}, "at least 1 step"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_a_line(target, options, line):
    with pytest.raises(ValueError, match=line) as caught:
        audit(target, **options)
    assert "\n" not in str(caught.value)


def test_a_scheduler_is_left_as_it_was_and_the_package_is_called_like_the_function():
    scheduler = DPM()
    scheduler.set_timesteps(9)
    before = {key: str(value) for key, value in vars(scheduler).items()}
    found = ns.audit(scheduler, [4, 9])
    assert {key: str(value) for key, value in vars(scheduler).items()} == before
    assert [one.steps for one in found.levels] == [4, 9]
    assert callable(sys.modules["noiseshift.audit"])


def test_a_figure_of_levels_that_agree_does_not_show_rounding_as_a_shift():
    import matplotlib.pyplot as plt
    from noiseshift.analysis.audit import plot_audit

    agree, apart = plot_audit(audit(DDIM(), 10)), plot_audit(audit(DDIM(timestep_spacing="linspace"), 13))
    assert agree.get_ylim() == (-0.02, 0.02)
    assert apart.get_ylim()[0] < -2.6
    plt.close("all")


def test_a_label_that_moves_is_named_as_moved_where_its_log_snr_stays():
    near_noise = audit(FLOW(shift=1e5), 4, sigmas=[1, 0.75, 0.5, 0.25], dtype="bf16").findings
    sentence = next(finding.sentence for finding in near_noise if finding.name == "half-precision")
    label, handed = sentence.split("from ")[1].split(" to ")
    assert float(label) != float(handed)


def test_the_command_says_it_saves_it_and_exits_by_the_tolerance(tmp_path, capsys):
    from noiseshift.cli import main

    def run(*words):
        with pytest.raises(SystemExit) as left:
            main(["audit", *words])
        return left.value.code, capsys.readouterr()

    word = "diffusers/DDIMScheduler:13,timestep_spacing=linspace"
    code, said = run(word, "--json", "--out", str(tmp_path / "found"))
    summary = json.loads(said.out)
    assert (code, summary["beyond"]) == (1, ["lands-off"])
    assert len(summary["rows"]) == 13
    assert {path.name for path in (tmp_path / "found").iterdir()} >= {"audit.csv", "findings.json", "audit.png"}
    assert run(word, "--tolerance", "3")[0] == 0
    assert run(word, "--accept", "lands-off")[0] == 0
    code, said = run(word, "--accept", "nothing")
    assert (code, said.err.count("\n")) == (1, 1)
    assert run(word, "--steps", "0")[0] == run(word, "--size", "wide")[0] == 2
    code, said = run(word)
    assert "lands-off" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_the_command_imports_nothing_that_an_audit_does_not_use():
    """In a process of its own. Levels from a beta distribution, which take scipy.stats, are audited last: they must still work."""
    import subprocess

    words = ["audit", "diffusers/EulerDiscreteScheduler:5"]
    heavy = ("torch._dynamo", "torch._inductor", "scipy.stats._stats_py", "matplotlib", "seaborn", "noiseshift.studies")
    code = f"""
import sys
from noiseshift.cli import main
def told(words):
    try: main(words)
    except SystemExit as end: return end.code
codes = [told({words}), told({[*words, "--json"]})]
loaded = [name for name in {heavy} if sys.modules.get(name)]
codes.append(told({[words[0], words[1] + ",use_beta_sigmas=true"]}))
print("END", codes, loaded, "scipy.stats._stats_py" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["END [0, 0, 0] [] True"], done.stderr


def test_the_command_reads_no_other_package_and_goes_through_its_imports_once():
    """Both take as long as the audit itself; afterwards all is as it was. In a process of its own."""
    import subprocess

    code = """
import gc, importlib.metadata, sys
read = []
mine = importlib.metadata.packages_distributions = lambda: read.append(1) or {}
from noiseshift.cli import main
try: main(["audit", "diffusers/EulerDiscreteScheduler:5"])
except SystemExit as end: code = end.code
print("END", code, read, importlib.metadata.packages_distributions is mine, gc.isenabled(), gc.get_freeze_count() > 100_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["END 0 [] True True True"], done.stderr
