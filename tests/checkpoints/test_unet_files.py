"""Files of denoising-diffusion-pytorch, guided-diffusion, torchcfm and k-diffusion, in layouts built here.

The networks are held to numbers that the libraries' own code gave at the same weights (denoising-diffusion-pytorch 2.3.4,
torchcfm 1.0.7); where a library is installed, its code is run too. `benchmarks/parity_files.py` compares what their
own training scripts save.
"""

import json
import math
import re

import pytest
import torch
from safetensors.torch import save_file

import noiseshift as ns
from noiseshift.checkpoints import CheckpointError
from noiseshift.checkpoints.formats.k_diffusion import Denoiser
from noiseshift.diffusion.models import Branch
from noiseshift.networks import adm, lucidrains

X = torch.sin(torch.arange(2 * 3 * 8 * 8, dtype=torch.float64) * 0.7).float().view(2, 3, 8, 8)
TIME, LABEL = torch.tensor([3.0, 700.0]), torch.tensor([1, 4])


def patterned(state):
    """A state dict of the same names and shapes, its numbers by a rule that any machine follows."""
    made = {}
    for k, (name, value) in enumerate(sorted(state.items())):
        numbers = torch.arange(value.numel(), dtype=torch.float64)
        made[name] = 0.2 * torch.sin(1.3 * k + 0.9 * numbers + 0.1 * len(name)).float().view(value.shape)
    return made


def ruled(network):
    network.load_state_dict(patterned(network.state_dict()))
    return network.eval()


# What the libraries' own networks answer, at [:, :, 2, 5].
GOLDEN = {
    "lucidrains": [[0.245111, 0.406296, 0.252516], [0.03695, 0.191682, 0.199555]],
    "lucidrains with classes": [[0.009918, 0.27534, 0.32295], [-0.111595, -0.120838, -0.037568]],
    "adm": [[-0.117617, -0.178344, -0.126174], [-0.057561, -0.194231, -0.185639]],
    "adm as released": [[-0.020575, -0.080912, -0.097796], [0.0539, -0.158221, -0.169394]],
}
MEMORY = lucidrains.AttentionConfig(inner=32, heads=2, memory=4, full=False)
MEMORY_FULL = lucidrains.AttentionConfig(inner=32, heads=2, memory=4, full=True)
PLAIN = lucidrains.AttentionConfig(inner=128, heads=4, memory=0, full=False)
PLAIN_FULL = lucidrains.AttentionConfig(inner=32, heads=1, memory=0, full=True)


def unet(attention=(MEMORY, MEMORY_FULL, MEMORY_FULL), **options):
    return lucidrains.Unet(lucidrains.UnetConfig(3, 3, 8, (8, 8, 16), attention, **options))


def adm_unet(**options):
    config = {"scale_shift": False, **options}
    return adm.Adm(adm.AdmConfig(3, 3, 32, (32, 64), 1, (False, True), **config))


def wrapped(state):
    """Their network with classes names its attention as a function inside two others."""
    names = {name: re.sub(r"((?:\.2|mid_attn)\.)(to_|norm)", r"\1fn.fn.\2", name) for name in state}
    return {names[name].replace("fn.fn.norm", "fn.norm"): value for name, value in state.items()}


FILES = {
    "lucidrains": (lambda: unet().state_dict(), {"family": "lucidrains"}),
    "lucidrains with classes": (
        lambda: wrapped(unet((PLAIN, PLAIN, PLAIN_FULL), classes=5).state_dict()),
        {"family": "lucidrains", "heads": 1},
    ),
    "adm": (lambda: adm_unet(heads=4).state_dict(), {"family": "adm", "heads": 4}),
    "adm as released": (
        lambda: adm_unet(head_channels=16, scale_shift=True, residual_resampling=True, rows=5).state_dict(),
        {"family": "adm", "head_channels": 16, "attention_order": "new"},
    ),
}


@pytest.mark.parametrize("name", list(FILES))
def test_networks_answer_as_their_own_code_does(name, tmp_path):
    state, card = FILES[name]
    torch.save(patterned(state()), tmp_path / "x.pt")
    found = ns.load(tmp_path / "x.pt", card=card, size=8)
    answer = found.model.network(X, TIME, LABEL)[:, :, 2, 5]
    torch.testing.assert_close(answer, torch.tensor(GOLDEN[name]), atol=2e-6, rtol=1e-5)


def test_that_code_still_says_so_denoising_diffusion_pytorch():
    theirs = pytest.importorskip("denoising_diffusion_pytorch")
    guided = pytest.importorskip("denoising_diffusion_pytorch.classifier_free_guidance")
    plain = ruled(theirs.Unet(8, dim_mults=(1, 2), attn_heads=2, attn_dim_head=16))(X, TIME.long())
    network = ruled(guided.Unet(8, num_classes=5, dim_mults=(1, 2), attn_heads=1))
    classes = network(X, TIME.long(), LABEL, cond_drop_prob=0.0)
    for answer, name in ((plain, "lucidrains"), (classes, "lucidrains with classes")):
        torch.testing.assert_close(answer[:, :, 2, 5], torch.tensor(GOLDEN[name]), atol=2e-6, rtol=1e-5)


def test_that_code_still_says_so_of_signals():
    theirs = pytest.importorskip("denoising_diffusion_pytorch")
    answer = ruled(theirs.Unet1D(8, dim_mults=(1, 2)))(SIGNAL, TIME.long())[:, :, 5]
    torch.testing.assert_close(answer, torch.tensor(SIGNALS["2.3.1"]), atol=2e-6, rtol=1e-5)


def test_that_code_still_says_so_torchcfm():
    theirs = pytest.importorskip("torchcfm.models.unet.unet").UNetModelWrapper  # guided-diffusion's network
    shape = {"dim": (3, 8, 8), "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
    shape["attention_resolutions"] = "4"
    released = {"use_scale_shift_norm": True, "resblock_updown": True, "use_new_attention_order": True}
    plain = ruled(theirs(**shape, num_heads=4))(TIME, X)
    full = ruled(theirs(**shape, **released, num_head_channels=16, class_cond=True, num_classes=5))(TIME, X, LABEL)
    for answer, name in ((plain, "adm"), (full, "adm as released")):
        torch.testing.assert_close(answer[:, :, 2, 5], torch.tensor(GOLDEN[name]), atol=2e-6, rtol=1e-5)


# denoising-diffusion-pytorch


def diffusion(objective, *, steps=50, gamma=None, network=None):
    """A GaussianDiffusion's state dict: the network, the schedule and the weights of the loss, as float32."""
    betas = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * 1000 / steps
    table = (1 - betas).cumprod(0)
    snr = table / (1 - table)
    clipped = snr if gamma is None else snr.clamp(max=gamma)
    weight = {"epsilon": clipped / snr, "x0": clipped, "v_prediction": clipped / (snr + 1)}[objective]
    network = patterned((network or unet()).state_dict())
    buffers = {"betas": betas, "alphas_cumprod": table, "loss_weight": weight}
    return {**{f"model.{k}": v for k, v in network.items()}, **{k: v.float() for k, v in buffers.items()}}


def trainer(state):
    """What its Trainer saves: plain weights that are not to be used, and averaged ones that are."""
    plain = {key: 0 * value for key, value in state.items()}
    averaged = {"initted": torch.tensor(True), "step": torch.tensor(100)}
    averaged |= {f"online_model.{k}": v for k, v in plain.items()} | {f"ema_model.{k}": v for k, v in state.items()}
    return {"step": 100, "model": plain, "opt": {"state": {}}, "ema": averaged, "scaler": None, "version": "2.3.4"}


@pytest.mark.parametrize("gamma", [None, 5.0, 0.3])
@pytest.mark.parametrize("objective", ["epsilon", "x0", "v_prediction"])
def test_a_trainers_file_tells_schedule_and_objective(objective, gamma, tmp_path):
    state = diffusion(objective, gamma=gamma)
    torch.save(trainer(state), tmp_path / "model-3.pt")
    found = ns.load(tmp_path / "model-3.pt", size=8)
    assert found.card.prediction == objective
    assert found.shape == (3, 8, 8)
    assert found.recognised.endswith("averaged, in its Trainer's file of version 2.3.4")
    # The sixth step of 50, given as 5, at the schedule's own level; the prediction is read in its space.
    t = found.model.snap(torch.tensor(0.121, dtype=torch.float64))
    found_there = found.model(X, t)
    alpha, sigma = state["alphas_cumprod"][5].sqrt(), (1 - state["alphas_cumprod"][5]).sqrt()
    torch.testing.assert_close(found_there.level.sigma.flatten()[0], sigma, rtol=1e-4, atol=0)
    said = ruled(unet())(X, torch.full((2,), 5.0), LABEL)
    x0 = {"epsilon": (X - sigma * said) / alpha, "x0": said, "v_prediction": alpha * X - sigma * said}[objective]
    torch.testing.assert_close(found_there.x0, x0, rtol=1e-3, atol=1e-4)


def weighted():
    """A network of three channels that answers with noise, data, and the weights of both."""
    return lucidrains.Unet(lucidrains.UnetConfig(3, 8, 8, (8, 8, 16), (MEMORY, MEMORY_FULL, MEMORY_FULL)))


@pytest.mark.parametrize("objective", ["epsilon", "v_prediction"])
def test_noise_and_data_are_weighed_as_the_network_says(objective, tmp_path):
    """WeightedObjectiveGaussianDiffusion; as its p_mean_variance has it, whatever its loss_weight is of."""
    state = diffusion(objective, network=weighted())
    torch.save(trainer(state), tmp_path / "model-3.pt")
    found = ns.load(tmp_path / "model-3.pt", size=8)
    assert (found.card.prediction, found.shape) == ("x0", (3, 8, 8))
    assert "WeightedObjectiveGaussianDiffusion" in found.recognised
    for step in (0, 5, 49):
        table = state["alphas_cumprod"][step]
        noise, data, weights = ruled(weighted())(X, torch.full((2,), float(step)), LABEL).split((3, 3, 2), dim=1)
        first, second = weights.softmax(1).chunk(2, dim=1)
        x0 = first * (X - (1 - table).sqrt() * noise) / table.sqrt() + second * data
        t = found.model.snap(torch.tensor((step + 1) / 50, dtype=torch.float64))
        torch.testing.assert_close(found.model(X, t).x0, x0, rtol=1e-3, atol=1e-4)


def test_weighted_answers_alone_take_the_table_that_a_card_says(tmp_path):
    torch.save(patterned(weighted().state_dict()), tmp_path / "x.pt")
    assert ns.load(tmp_path / "x.pt", family="lucidrains", size=8).card.family == "lucidrains"
    card = {"family": "lucidrains", "size": 8, "schedule": {"kind": "linear"}, "time": {"scale": 1000}}
    with pytest.raises(CheckpointError, match="give a schedule of kind discrete in a card"):
        ns.load(tmp_path / "x.pt", card=card)


def test_the_first_steps_noise_is_not_rounded(tmp_path):
    # 1 - alphas_cumprod of a float32 table is off by 3e-4 at 1,000 linear steps; the betas are exact to 1e-7.
    torch.save(diffusion("epsilon", steps=1000), tmp_path / "x.pt")
    schedule = ns.load(tmp_path / "x.pt", size=8).model.schedule
    first = schedule(torch.tensor(0.001, dtype=torch.float64))
    assert float(first.sigma) ** 2 == pytest.approx(1e-4, rel=1e-6)


@pytest.mark.parametrize("prefix", ["denoise_fn.", "diffusion.unet."])
def test_a_forks_network_lies_under_another_name(prefix, tmp_path):
    state = diffusion("x0")
    fork = {key.replace("model.", prefix, 1) if key.startswith("model.") else key: v for key, v in state.items()}
    torch.save(state, tmp_path / "x.pt")
    torch.save(fork, tmp_path / "fork.pt")
    ours, theirs = (ns.load(tmp_path / name, size=8).model(X, torch.tensor(0.5)).x0 for name in ("x.pt", "fork.pt"))
    torch.testing.assert_close(ours, theirs)


def test_loss_weights_of_something_else_are_refused(tmp_path):
    state = diffusion("epsilon")
    for weight in (state["loss_weight"] * 2, torch.rand(50), torch.full((50,), float("nan")), torch.ones(49)):
        torch.save({**state, "loss_weight": weight}, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match="loss_weight") as caught:
            ns.load(tmp_path / "x.pt", size=8)
        assert "\n" not in str(caught.value)


def test_a_card_completes_what_the_file_tells(tmp_path):
    torch.save(diffusion("v_prediction"), tmp_path / "x.pt")
    found = ns.load(tmp_path / "x.pt", card={"size": 16, "data": "mine"})
    assert (found.shape, found.card.data, found.card.prediction) == ((3, 16, 16), "mine", "v_prediction")
    assert len(found.card.schedule["alphas_cumprod"]) == 50
    assert ns.load(tmp_path / "x.pt", card={"size": 16, "prediction": "x0"}).card.prediction == "x0"


@pytest.mark.parametrize(("size", "message"), [(None, "--size"), (7, "divisible by 2")])
def test_a_size_that_no_tensor_shows_must_be_said(size, message, tmp_path):
    torch.save(diffusion("v_prediction"), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=message):
        ns.load(tmp_path / "x.pt", size=size)


def test_null_classes_are_a_branch(tmp_path):
    network = unet((PLAIN, PLAIN, PLAIN_FULL), classes=5)
    state = diffusion("epsilon", network=network)
    torch.save(wrapped(state), tmp_path / "x.pt")
    found = ns.load(tmp_path / "x.pt", card={"heads": 1}, size=8)
    assert found.classes == 5
    full, null = found.model.predict(X, torch.tensor(0.5), LABEL, [Branch(), Branch(condition=False)])
    expected = ruled(network)(X, torch.full((2,), 24.0), torch.tensor([5, 5]))
    torch.testing.assert_close(null.eps, expected)
    assert not torch.allclose(full.eps, null.eps)


def test_self_condition_is_zeros_and_that_is_said(tmp_path):
    network = unet(self_condition=True)
    torch.save(diffusion("x0", network=network), tmp_path / "x.pt")
    found = ns.load(tmp_path / "x.pt", size=8)
    assert found.shape == (3, 8, 8)
    assert "self-condition is given zeros" in found.recognised
    state = patterned(network.state_dict())
    # Zeros in front of the picture are the second half of the first convolution by itself.
    state["init_conv.weight"] = state["init_conv.weight"][:, 3:]
    same = unet()
    same.load_state_dict(state)
    t = torch.tensor(0.5)
    torch.testing.assert_close(found.model(X, t).x0, same(X, torch.full((2,), 24.0), LABEL))


def test_learned_frequencies_without_a_schedule_need_a_card(tmp_path):
    network = unet(fourier=8)
    torch.save(network.state_dict(), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no schedule lies in the file"):
        ns.load(tmp_path / "x.pt", family="lucidrains", size=8)
    torch.save(diffusion("x0", network=network), tmp_path / "x.pt")
    assert ns.load(tmp_path / "x.pt", size=8).model.network.config.fourier == 8


LOG_SNR = {
    "epsilon": lambda t: -math.log(math.expm1(1e-4 + 10 * t**2)),
    "v_prediction": lambda t: -math.log(math.cos((t + 0.008) / 1.008 * math.pi / 2) ** -2 - 1),
}


@pytest.mark.parametrize("prediction", list(LOG_SNR))
@pytest.mark.parametrize("prefix", ["", "model."])
def test_continuous_time(prediction, prefix, tmp_path):
    network = ruled(unet(fourier=8))
    torch.save({prefix + key: value for key, value in network.state_dict().items()}, tmp_path / "x.pt")
    card = {"family": "lucidrains", "prediction": prediction, "time": {"conditioning": "log_snr"}}
    model = ns.load(tmp_path / "x.pt", card=card, size=8).model
    t = 0.3
    log_snr = LOG_SNR[prediction](t)
    assert float(model.schedule.log_snr(torch.tensor(t).double())) == pytest.approx(log_snr, abs=1e-4)
    answer = model(X, torch.tensor(t).double())
    expected = network(X, torch.full((2,), log_snr), LABEL)
    found = answer.eps if prediction == "epsilon" else answer.v
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_elucidated(tmp_path):
    network = ruled(unet(fourier=8))
    torch.save({f"net.{key}": value for key, value in network.state_dict().items()}, tmp_path / "x.pt")
    card = {"family": "lucidrains", "time": {"conditioning": "log_sigma/4"}}
    model = ns.load(tmp_path / "x.pt", card=card, size=8).model
    sigma, total = 2.0, math.hypot(2.0, 0.5)
    answer = network(X / total, torch.full((2,), math.log(sigma) / 4), LABEL)
    expected = 0.25 / total**2 * X + sigma * 0.5 / total * answer
    t = model.schedule.time_of_sigma(torch.tensor(sigma).double())
    torch.testing.assert_close(model(X, t).x0, expected, rtol=1e-4, atol=1e-5)


# What Unet(8, dim_mults=(1, 2)) of these versions answers to `patterned` weights, at [:, :, 2, 5].
FORMER = {
    "1.0.0": [[-0.199748, -0.226351, -0.077439], [0.080577, 0.052698, -0.018245]],
    "1.6.4": [[-0.199748, -0.226351, -0.077439], [0.080577, 0.052698, -0.018245]],
    "1.7.1": [[-0.199696, -0.226237, -0.077353], [0.080757, 0.052916, -0.018159]],
    "1.7.3": [[-0.198913, -0.226738, -0.078745], [0.075886, 0.046432, -0.021178]],
    "1.7.6": [[-0.200142, -0.228016, -0.079071], [0.075107, 0.04693, -0.019793]],
}
OLD_FULL = lucidrains.AttentionConfig(inner=128, heads=4, memory=0, full=True)


@pytest.mark.parametrize("version", list(FORMER))
def test_networks_of_versions_before_1_8(version, tmp_path):
    state = patterned(wrapped(unet((PLAIN, PLAIN, OLD_FULL), grouped=True).state_dict()))
    torch.save({"step": 1, "model": state, "version": version}, tmp_path / "x.pt")
    found = ns.load(tmp_path / "x.pt", family="lucidrains", size=8)
    answer = found.model.network(X, TIME, LABEL)[:, :, 2, 5]
    torch.testing.assert_close(answer, torch.tensor(FORMER[version]), atol=2e-6, rtol=1e-5)


# What Unet1D(8, dim_mults=(1, 2)) of these versions answers to `patterned` weights, at [:, :, 5].
SIGNALS = {
    "1.0.0": [[-0.029365, -0.065962, -0.052676], [-0.025562, -0.062289, -0.052011]],
    "1.6.4": [[-0.029365, -0.065962, -0.052676], [-0.025562, -0.062289, -0.052011]],
    "1.7.0": [[-0.029268, -0.065814, -0.052593], [-0.025366, -0.062057, -0.051924]],
    "1.7.3": [[-0.030898, -0.068521, -0.054258], [-0.028547, -0.065615, -0.053071]],
    "1.9.4": [[-0.030898, -0.068521, -0.054258], [-0.028547, -0.065615, -0.053071]],
    "2.0.1": [[-0.071472, 0.050374, 0.129629], [-0.074867, 0.041885, 0.122697]],
    "2.3.1": [[-0.071472, 0.050374, 0.129629], [-0.074867, 0.041885, 0.122697]],
}
SIGNAL = torch.sin(torch.arange(2 * 3 * 16, dtype=torch.float64) * 0.7).float().view(2, 3, 16)


def signal_unet(**options):
    linear = lucidrains.AttentionConfig(inner=128, heads=4, memory=0, full=False, axes=1)
    full = lucidrains.AttentionConfig(inner=128, heads=4, memory=0, full=True, axes=1)
    return lucidrains.Unet(lucidrains.UnetConfig(3, 3, 8, (8, 8, 16), (linear, linear, full), axes=1, **options))


@pytest.mark.parametrize("version", list(SIGNALS))
def test_networks_of_signals(version, tmp_path):
    state = {f"model.{k}": v for k, v in patterned(wrapped(signal_unet(grouped=version < "2").state_dict())).items()}
    buffers = {k: v for k, v in diffusion("v_prediction").items() if not k.startswith("model.")}
    torch.save(trainer(state | buffers) | {"version": version}, tmp_path / "model-1.pt")
    found = ns.load(tmp_path / "model-1.pt", size=16)
    assert (found.shape, found.card.prediction) == ((3, 16), "v_prediction")
    answer = found.model.network(SIGNAL, TIME, LABEL)[:, :, 5]
    torch.testing.assert_close(answer, torch.tensor(SIGNALS[version]), atol=2e-6, rtol=1e-5)


def test_networks_of_signals_of_no_known_version_are_refused(tmp_path):
    state = wrapped(diffusion("epsilon", network=signal_unet(grouped=True)))
    torch.save({"model": state}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"version before 2\.0"):
        ns.load(tmp_path / "x.pt", size=16)
    torch.save({"model": wrapped(diffusion("epsilon", network=signal_unet()))}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="how long its signals are"):
        ns.load(tmp_path / "x.pt")
    assert ns.load(tmp_path / "x.pt", size=16).shape == (3, 16)


# What Unet(16, dim_mults=(1, 2)) and Unet1D of it answer in 1.7.1 where half the channels' weights are small.
CLAMPED = {
    2: [[-0.335339, 0.108354, 0.160338], [-0.200502, 0.302364, -0.075314]],
    1: [[-1.050307, 0.425346, 0.710585], [-0.884654, 0.487165, 0.512809]],
}


@pytest.mark.parametrize("axes", list(CLAMPED))
def test_version_1_7_1_clamps_the_variance_of_weights(axes, tmp_path):
    attention = [
        lucidrains.AttentionConfig(inner=128, heads=4, memory=0, full=full, axes=axes) for full in (False, False, True)
    ]
    config = lucidrains.UnetConfig(3, 3, 16, (16, 16, 32), tuple(attention), grouped=True, axes=axes)
    state = patterned(wrapped(lucidrains.Unet(config).state_dict()))
    for name in [name for name in state if "proj.weight" in name]:
        state[name] = torch.cat([state[name][::2] * 0.02, state[name][1::2]])
    torch.save({"model": state, "version": "1.7.1"}, tmp_path / "x.pt")
    found = ns.load(tmp_path / "x.pt", family="lucidrains", size=8 if axes == 2 else 16)
    x = X if axes == 2 else SIGNAL
    answer = found.model.network(x, TIME, LABEL)[..., 5]
    answer = answer[:, :, 2] if axes == 2 else answer
    torch.testing.assert_close(answer, torch.tensor(CLAMPED[axes]), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("version", [None, "0.32.0", "later"])
def test_such_networks_of_no_known_version_are_refused(version, tmp_path):
    state = wrapped(diffusion("epsilon", network=unet((PLAIN, PLAIN, PLAIN_FULL), grouped=True)))
    torch.save({"model": state} | ({"version": version} if version else {}), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"version before 1\.8|no version from 1\.0"):
        ns.load(tmp_path / "x.pt", size=8)


def test_a_file_without_weights_of_the_loss_predicts_the_noise_by_its_own_betas(tmp_path):
    state = diffusion("epsilon")
    state["p2_loss_weight"] = state.pop("loss_weight")
    torch.save(state, tmp_path / "x.pt")
    found = ns.load(tmp_path / "x.pt", size=8)
    assert found.card.prediction == "epsilon"
    assert "the noise is taken" in found.recognised
    assert len(found.card.schedule["alphas_cumprod"]) == 50


# guided-diffusion and torchcfm


def test_an_adm_file_needs_family_heads_and_size(tmp_path):
    torch.save(adm_unet(heads=4).state_dict(), tmp_path / "x.pt")
    for given, message in (
        ({}, "--family adm or torchcfm"),
        ({"family": "adm"}, "heads"),
        ({"card": {"family": "adm", "heads": 4}}, "--size"),
        ({"card": {"family": "adm", "heads": 5}, "size": 8}, "cannot be split into 5 heads"),
        ({"card": {"family": "adm", "heads": 4, "classes": 3}, "size": 8}, "0 class embeddings"),
        ({"family": "sit"}, "no sit file"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            ns.load(tmp_path / "x.pt", **given)
        assert "\n" not in str(caught.value)


def test_adm_counts_steps_of_its_betas(tmp_path):
    torch.save(patterned(adm_unet(heads=4).state_dict()), tmp_path / "x.pt")
    for betas, first in (("linear", 1e-4), ("cosine", 4.128e-5)):
        card = {"family": "adm", "heads": 4, "size": 8, "schedule": {"kind": "discrete", "betas": betas}}
        model = ns.load(tmp_path / "x.pt", card=card).model
        assert float(model.schedule(torch.tensor(1e-3).double()).sigma) ** 2 == pytest.approx(first, rel=1e-3)
        eps = model(X, torch.tensor(0.1, dtype=torch.float64)).eps
        torch.testing.assert_close(eps, ruled(adm_unet(heads=4))(X, torch.full((2,), 99.0), LABEL))


def test_a_learned_variance_is_dropped(tmp_path):
    config = adm.AdmConfig(3, 6, 32, (32, 64), 1, (False, True), heads=4)
    torch.save(patterned(adm.Adm(config).state_dict()), tmp_path / "x.pt")
    found = ns.load(tmp_path / "x.pt", card={"family": "adm", "heads": 4, "size": 8})
    said = ruled(adm.Adm(config))(X, torch.full((2,), 99.0), LABEL)
    torch.testing.assert_close(found.model(X, torch.tensor(0.1).double()).eps, said[:, :3])


def test_a_null_row_of_class_embeddings_is_the_cards_to_say(tmp_path):
    network = adm_unet(heads=4, rows=5)
    torch.save(patterned(network.state_dict()), tmp_path / "x.pt")
    card = {"family": "adm", "heads": 4, "size": 8}
    assert ns.load(tmp_path / "x.pt", card=card).model.branches == {Branch()}
    found = ns.load(tmp_path / "x.pt", card={**card, "classes": 4})
    null = found.model.predict(X, torch.tensor(0.1).double(), None, [Branch(condition=False)])[0]
    torch.testing.assert_close(null.eps, ruled(network)(X, torch.full((2,), 99.0), torch.tensor([4, 4])))


@pytest.mark.parametrize(
    ("width", "multiples", "blocks", "size", "parameters"),
    [
        (192, (1, 2, 3, 4), 3, 64, 295_904_454),
        (256, (1, 1, 2, 3, 4), 2, 128, 421_529_606),
        (256, (1, 1, 2, 2, 4, 4), 2, 256, 553_838_086),
        (256, (0.5, 1, 1, 2, 2, 4, 4), 2, 512, 558_997_638),
    ],
)
def test_released_adm_networks_are_known_by_their_shapes(width, multiples, blocks, size, parameters):
    from noiseshift.checkpoints.formats.adm import card_of

    attention = tuple(i >= len(multiples) - 3 for i in range(len(multiples)))
    config = adm.AdmConfig(
        3, 6, width, tuple(int(m * width) for m in multiples), blocks, attention, 1000, residual_resampling=True
    )
    with torch.device("meta"):
        network = adm.Adm(config)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert adm.config_from_state(network.state_dict()) == config
    card = card_of(network.state_dict())
    assert (card.family, card.size) == ("adm", size)
    assert (card.attention_order, card.schedule.get("betas")) == (("new", "cosine") if size == 64 else (None, None))
    assert (card.heads, card.head_channels) == ((4, None) if size == 128 else (None, 64))
    own = ns.Card.from_dict({"head_channels": 32}, card)
    assert (own.heads, own.head_channels, own.size) == (None, 32, size)


def test_torchcfm_counts_from_noise_to_data(tmp_path):
    state = {f"module.{key}": value for key, value in patterned(adm_unet(heads=4).state_dict()).items()}
    plain = {key: 0 * value for key, value in state.items()}
    content = {"net_model": plain, "ema_model": state, "sched": {}, "optim": {}, "step": 7}
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="attention heads"):
        ns.load(tmp_path / "x.pt", size=8)
    found = ns.load(tmp_path / "x.pt", card={"heads": 4}, size=8)
    assert found.card.family == "torchcfm"
    said = ruled(adm_unet(heads=4))(X, torch.full((2,), 0.75), LABEL)
    torch.testing.assert_close(found.model(X, torch.tensor(0.25)).velocity, -said)
    cosine = {"heads": 4, "schedule": {"kind": "cosine"}}  # its variance-preserving matcher
    torch.testing.assert_close(
        ns.load(tmp_path / "x.pt", card=cosine, size=8).model(X, torch.tensor(0.25)).velocity, -said
    )


# k-diffusion

CONFIG = {
    "model": {
        "type": "image_v1",
        "input_channels": 1,
        "input_size": [8, 8],
        "mapping_out": 16,
        "depths": [1],
        "channels": [16],
        "self_attn_depths": [True],
        "sigma_data": 0.6,
        "sigma_min": 0.01,
        "sigma_max": 80,
    },
    "dataset": {"type": "mnist", "num_classes": 0},
}


def test_a_slim_file_is_recognised_by_its_config(tmp_path):
    from noiseshift.checkpoints.files import read_content
    from noiseshift.checkpoints.formats import recognised

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"config": json.dumps(CONFIG)})
    torch.save({"config": CONFIG, "model": {}, "model_ema": {"x": torch.zeros(1)}}, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        content = read_content(tmp_path / name)
        form, shown = recognised(content)
        card = form.card(content)
        assert (card.family, card.prediction, card.size, shown) == ("k-diffusion", "x0", 8, "its config of an image_v1")
        low, high = card.build_schedule()(torch.tensor([0.0, 1.0], dtype=torch.float64)).sigma
        assert (float(low), float(high)) == pytest.approx((0.01, 80))


def test_the_preconditioning_is_karras():
    # A network that answers nothing leaves c_skip x; one that hands its input back adds c_out c_in x (arXiv 2206.00364, table 1).
    sigma, x = torch.tensor([0.3, 20.0]), X[:, :1].double()
    wide = sigma.double()[:, None, None, None]
    skip = 0.6**2 / (wide**2 + 0.6**2)
    nothing = Denoiser(torch.nn.Module(), 0.6, classes=False)
    nothing.network.forward = lambda x, sigma: 0 * x
    torch.testing.assert_close(nothing(x, sigma.double(), LABEL), skip * x)
    nothing.network.forward = lambda x, sigma: x
    torch.testing.assert_close(nothing(x, sigma.double(), LABEL), skip * x + wide * 0.6 / (wide**2 + 0.6**2) * x)


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_size": [8, 9]},
        {"input_size": "8"},
        {"input_size": [10**9, 10**9]},
        {"sigma_min": 90},
        {"sigma_max": "80"},
        {"sigma_max": None},
        {"sigma_data": -1},
    ],
)
def test_configs_that_say_no_card_are_refused(wrong, tmp_path):
    config = {**CONFIG, "model": {**CONFIG["model"], **wrong}}
    torch.save({"config": config, "model_ema": {"x": torch.zeros(1)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="config") as caught:
        ns.load(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_without_k_diffusion_the_remedy_is_named(tmp_path):
    try:
        import k_diffusion  # noqa: F401
    except ImportError:
        torch.save({"config": CONFIG, "model_ema": {"x": torch.zeros(1)}}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="pip install k-diffusion") as caught:
            ns.load(tmp_path / "x.pth")
        assert "\n" not in str(caught.value)
    else:
        pytest.skip("k-diffusion is installed")


@pytest.mark.filterwarnings("ignore")
def test_k_diffusion_builds_its_own_network(tmp_path):
    theirs = pytest.importorskip("k_diffusion", exc_type=ImportError)
    config = theirs.config.load_config(CONFIG)
    network = theirs.config.make_model(config)
    network.load_state_dict(patterned(network.state_dict()))
    save_file(network.state_dict(), tmp_path / "x.safetensors", metadata={"config": json.dumps(config)})
    found = ns.load(tmp_path / "x.safetensors")
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    denoiser = theirs.config.make_denoiser_wrapper(config)(network.eval())
    t = torch.tensor(0.5, dtype=torch.float64)
    sigma = found.model.schedule(t).sigma.float().expand(2)
    with torch.no_grad():
        torch.testing.assert_close(found.model(X[:, :1], t).x0, denoiser(X[:, :1], sigma))
    for change in ({"channels": [32]}, {"depths": [10**9]}, {"type": "image_v7"}, {"mapping_cond_dim": 4}):
        wrong = json.dumps({**config, "model": {**config["model"], **change}})
        save_file(network.state_dict(), tmp_path / "x.safetensors", metadata={"config": wrong})
        with pytest.raises(CheckpointError) as caught:
            ns.load(tmp_path / "x.safetensors")
        assert "\n" not in str(caught.value)
