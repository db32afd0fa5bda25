"""EDM's and EDM2's pickles: written in their layout, read without their code, networks against what their code answered.

`benchmarks/parity_edm.py` runs their own code beside ours, and printed the golden numbers below (`--golden`).
"""

import collections
import contextlib
import math
import os
import pickle
import struct
import sys
import tracemalloc
import types
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from test_hostile_files import HOSTILE

import noiseshift as ns
from noiseshift.checkpoints.diffusers.autoencoder import Autoencoder
from noiseshift.checkpoints.formats.edm import ADM, NETWORKS
from noiseshift.networks.edm2_unet import Edm2Config, joined, normalised, silu, summed
from noiseshift.networks.edm_precondition import Edm, ImprovedDdpm, VarianceExploded, VariancePreserved
from noiseshift.networks.edm_unet import ResampledConv

SMALL = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
NCSN = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
SONG = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, **SMALL}
SECOND = {"img_resolution": 8, "img_channels": 3, "label_dim": 4, **SMALL, "channels_per_head": 16}
SOURCE = "open('owned', 'w')"


def reconstructed(meta):
    """The name that the pickles call; theirs would execute the source."""
    raise AssertionError("never called")


class Persistent:
    """Pickles as their persistent objects do: a call with class name, state and the module's source."""

    def __init__(self, class_name, settings=None, **state):
        self.meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name, "state": state}
        state["_init_args"], state["_init_kwargs"] = (), EasyDict(settings or {})

    def __reduce__(self):
        return reconstructed, (self.meta,)


class EasyDict(dict):
    pass


@pytest.fixture(autouse=True)
def their_modules(monkeypatch, tmp_path):
    """Modules of their names, only for writing: what is pickled says `torch_utils.persistence`."""
    for name, (attribute, value) in {
        "torch_utils.persistence": ("_reconstruct_persistent_obj", reconstructed),
        "dnnlib.util": ("EasyDict", EasyDict),
    }.items():
        for part in (name.partition(".")[0], name):
            monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        setattr(sys.modules[name], attribute, value)
        value.__module__, value.__qualname__, value.__name__ = name, attribute, attribute
    monkeypatch.chdir(tmp_path)


def module(network, class_name, settings):
    """A network of ours as a persistent object of theirs; its parts are plain torch modules, as their ModuleDicts are."""
    return Persistent(
        class_name,
        settings,
        _parameters=collections.OrderedDict(network._parameters),
        _buffers=collections.OrderedDict(network._buffers),
        _modules=collections.OrderedDict((k, part(v)) for k, v in network._modules.items() if v is not None),
        training=False,
    )


def part(inner):
    groups = ("_parameters", "_buffers")
    modules = collections.OrderedDict((k, part(v)) for k, v in inner._modules.items() if v is not None)
    if isinstance(inner, torch.nn.ModuleDict):
        plain = torch.nn.ModuleDict()
        plain.__dict__["_modules"] = modules
        return plain
    return Persistent(
        type(inner).__name__, **{g: collections.OrderedDict(vars(inner)[g]) for g in groups}, _modules=modules
    )


def filled(network):
    """The network with seeded numbers everywhere, in the order of the names."""
    network, generator = network.eval().requires_grad_(False), torch.Generator().manual_seed(0)
    for name, tensor in sorted(network.state_dict().items()):
        if "resample_filter" not in name:
            spread = 0.2 if tensor.ndim < 2 else 0.7 / tensor[0].numel() ** 0.5
            tensor.copy_(spread * torch.randn(tensor.shape, generator=generator))
    return network


def answers(network, settings):
    """Twelve numbers of what a network says to two seeded states."""
    x, noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, -1.2])
    hot = torch.eye(4)[[1, 3]] if settings.get("label_dim") else None
    with torch.inference_mode():
        return network(x, noise, hot)[:, :3, ::7, 3].flatten().numpy()


CASES = {
    "DDPM++": ("SongUNet", SONG, "EDMPrecond"),
    "DDPM++ with classes": ("SongUNet", {**SONG, "label_dim": 4}, "VPPrecond"),
    "NCSN++": ("SongUNet", {**SONG, **NCSN}, "VEPrecond"),
    "NCSN++ with skips": ("SongUNet", {**SONG, **NCSN, "encoder_type": "skip", "decoder_type": "skip"}, "VEPrecond"),
    "ADM": ("DhariwalUNet", {**SONG, "model_channels": 64, "out_channels": 6}, "iDDPMPrecond"),
    "EDM2": ("UNet", SECOND, "Precond"),
}


def written(path, name, outer=(), claims=(), half=False, **more):
    """A pickle of a case's network, and the network; with settings of its preconditioner, or false ones of its own."""
    kind, settings, precondition = CASES[name]
    network, inner = filled(NETWORKS[kind](settings)), "unet" if kind == "UNet" else "model"
    sizes = {"img_resolution": 8, "img_channels": 3, "label_dim": settings.get("label_dim", 0), "use_fp16": True}
    whole = Persistent(
        precondition,
        {**sizes, **dict(outer)},
        _modules={inner: module(network.half() if half else network, kind, {**settings, **dict(claims)})},
        _parameters={},
        _buffers={},
    )
    path.write_bytes(pickle.dumps({"ema": whole, "loss_fn": Persistent("EDMLoss"), **more}))
    return network


@pytest.mark.parametrize("name", list(CASES))
def test_a_pickle_loads_and_nothing_in_it_runs(name, tmp_path):
    network = written(tmp_path / "x.pkl", name)
    checkpoint = ns.load(tmp_path / "x.pkl")
    assert not os.path.exists("owned")
    assert (checkpoint.shape, checkpoint.classes) == ((3, 8, 8), CASES[name][1].get("label_dim", 0))
    assert checkpoint.card.family == ("edm2" if name == "EDM2" else "edm")
    held = checkpoint.model.network.model.state_dict()
    assert all(torch.equal(held[key], value) for key, value in network.state_dict().items())


# fmt: off
GOLDEN = {
    "DDPM++": [0.48124, 0.50214, -0.51911, -0.32683, -0.36508, -0.43051,
        0.45421, 0.58334, -0.31598, -0.28711, -0.41404, -0.36701],
    "DDPM++ with classes": [0.48345, 0.48657, -0.5178, -0.31663, -0.36076, -0.42123,
        0.45169, 0.57896, -0.31223, -0.27282, -0.41308, -0.36339],
    "NCSN++": [0.42105, 0.55793, -0.40148, -0.29608, -0.3792, -0.31459,
        0.48413, 0.48872, -0.4314, -0.35734, -0.36635, -0.24063],
    "NCSN++ with skips": [0.2655, 0.34889, -0.27033, -0.1569, 0.23113, 0.036069,
        0.32458, 0.35317, -0.15932, -0.13061, 0.093124, 0.047631],
    "ADM": [0.23783, 0.31972, 0.10584, 0.1124, 0.31264, 0.13462,
        0.37107, 0.30406, 0.049963, 0.21465, 0.24318, 0.1749],
    "EDM2": [0.038046, -0.10168, 0.0052909, -0.050339, -0.068515, -0.11355,
        -0.036458, -0.02534, -0.017279, -0.0078281, 0.00574, 0.029973],
}
# fmt: on


@pytest.mark.parametrize("name", list(CASES))
def test_networks_answer_what_their_code_answered(name):
    kind, settings, _ = CASES[name]
    found = answers(filled(NETWORKS[kind](settings)), settings)
    np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-4, atol=2e-5)


class Linear(torch.nn.Module):
    """F(x; c) = 0.3 x + c."""

    def forward(self, x, noise, label):
        return 0.3 * x + noise[:, None, None, None] + (0 if label is None else label.sum(1)[:, None, None, None])


@pytest.mark.parametrize("sigma", [0.01, 0.5, 7.0])
def test_preconditioners_are_table_1_of_the_paper(sigma):
    x, s = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.full((2,), sigma)
    none = torch.zeros(2, dtype=torch.long)

    def d(wrapped):
        return wrapped(x, s, none, none)

    total = math.hypot(sigma, 0.5)
    inner = 0.3 * x / total + math.log(sigma) / 4
    torch.testing.assert_close(d(Edm(Linear())), 0.25 / total**2 * x + sigma * 0.5 / total * inner)
    t = (math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + sigma**2)) - 0.1) / 19.9
    inner = 0.3 * x / math.sqrt(1 + sigma**2) + 999 * t
    torch.testing.assert_close(d(VariancePreserved(Linear())), x - sigma * inner, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(d(VarianceExploded(Linear())), x + sigma * (0.3 * x + math.log(sigma / 2)))
    improved = ImprovedDdpm(Linear())
    step = int((improved.levels - sigma).abs().argmin())
    inner = 0.3 * x / math.sqrt(1 + sigma**2) + step
    torch.testing.assert_close(d(improved), x - sigma * inner, rtol=1e-5, atol=1e-3)
    # A step's sigma is the cosine schedule's, where no step is cut at c_1.
    signal = math.sin(0.5 * math.pi * 600 / 1000 / 1.008) ** 2 / math.sin(0.5 * math.pi / 1.008) ** 2
    assert float(improved.levels[399]) == pytest.approx(math.sqrt(1 / signal - 1), rel=1e-6)


def test_classes_are_one_hot_and_none_is_zeros():
    wrapped = Edm(Linear(), classes=4)
    x, s = torch.zeros(2, 3, 4, 4), torch.ones(2)
    both = wrapped(x, s, torch.tensor([2, 4]), torch.ones(2))  # 4 stands for no class
    scale = 0.5 / math.hypot(1, 0.5)
    torch.testing.assert_close(both[:, 0, 0, 0], torch.tensor([scale, 0.0]))


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resampling_is_the_filter_and_every_second_pixel(taps):
    x = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = np.outer(taps, taps) / sum(taps) ** 2
    pad = (len(taps) - 1) // 2
    whole = np.stack([convolve2d(np.pad(row, pad), kernel, "valid") for row in x[0].numpy()])
    np.testing.assert_allclose(ResampledConv((2, 2), 0, "down", taps)(x)[0], whole[:, ::2, ::2])
    spread = np.zeros((2, 15 + 2 * len(taps) - 2, 15 + 2 * len(taps) - 2))
    inside = slice(len(taps) - 1, len(taps) - 1 + 15)
    spread[:, inside, inside][:, ::2, ::2] = x[0]
    full = np.stack([convolve2d(row, 4 * kernel, "valid") for row in spread])
    np.testing.assert_allclose(ResampledConv((2, 2), 0, "up", taps)(x)[0], full[:, pad : pad + 16, pad : pad + 16])


def test_magnitudes_are_kept():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 64, 32, 32, generator=generator), torch.randn(4, 16, 32, 32, generator=generator)
    for found in (silu(a), summed(a, a.flip(0), 0.3), joined(a, b, 0.5), normalised(5 * a, (1,))):
        assert float(found.square().mean().sqrt()) == pytest.approx(1, abs=0.01)
    halves = joined(a, b, 0.5).split([64, 16], 1)
    assert float(halves[0].square().sum() / halves[1].square().sum()) == pytest.approx(
        1, rel=0.02
    )  # whatever their widths


@pytest.mark.parametrize(
    ("kind", "settings", "millions"),
    [
        ("SongUNet", {**SONG, "img_resolution": 32, "label_dim": 10} | {"channel_mult": [2, 2, 2]}, 55.73),
        ("DhariwalUNet", {**SONG, **ADM, "img_resolution": 64, "label_dim": 1000}, 295.90),
        ("UNet", {"img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": 128}, 124.71),
    ],
    ids=["cifar", "imagenet-64", "edm2-xs"],
)
def test_released_sizes_have_their_number_of_parameters(kind, settings, millions):
    if kind == "SongUNet":
        settings = {k: v for k, v in settings.items() if k not in ("model_channels", "num_blocks", "attn_resolutions")}
    with torch.device("meta"):
        network = NETWORKS[kind](settings)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


class ToyCoder:
    """An autoencoder whose latents are what it is given."""

    config: ClassVar = {"scaling_factor": 0.18215, "latent_channels": 3, "block_out_channels": [1], "in_channels": 3}

    def float(self):
        return self

    eval = float

    def requires_grad_(self, on):
        return self

    def to(self, device):
        return self

    def encode(self, x):
        return types.SimpleNamespace(latents=x)

    def decode(self, z):
        return types.SimpleNamespace(sample=z)


def test_latents_are_standardised_as_their_encoder_does(tmp_path):
    scale, bias = np.float32([0.5 / 4.0, 0.25, 2.0]), np.float32([-0.3, 0.1, 0.0])
    written(tmp_path / "x.pkl", "EDM2", encoder=Persistent("StabilityVAEEncoder", scale=scale, bias=bias))
    checkpoint = ns.load(tmp_path / "x.pkl")
    coder = Autoencoder(ToyCoder())
    coder.standardise(**checkpoint.card.latents)
    pictures = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x, z = coder.encode(pictures), (pictures + 1) / 2  # their autoencoder takes pictures from 0 to 1
    torch.testing.assert_close(x, z * torch.tensor(scale)[:, None, None] + torch.tensor(bias)[:, None, None])
    torch.testing.assert_close(coder.decode(x), pictures)


def test_improved_ddpm_is_evaluated_at_its_own_levels_only(tmp_path):
    written(tmp_path / "x.pkl", "ADM")
    model = ns.load(tmp_path / "x.pkl").model
    known = model.network.levels
    sigma = model.schedule(model.snap(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))).sigma
    gaps = (sigma[:, None] - known).abs().min(1).values
    assert float((gaps / sigma).max()) < 1e-6
    assert model.snap(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == [0, 1]
    # Levels beyond the range that a card asks for are none of its own.
    narrow = {"family": "edm", "schedule": {"kind": "variance-exploding", "sigma_min": 0.02, "sigma_max": 30.0}}
    times = ns.load(tmp_path / "x.pkl", card=narrow).model.levels
    assert len(times) == int(((known > 0.02) & (known < 30)).sum())
    assert times[0] > 0
    assert times[-1] < 1
    with pytest.raises(ns.CheckpointError, match="variance-exploding"):
        ns.load(tmp_path / "x.pkl", card={"family": "edm", "schedule": {"kind": "linear"}})


def test_settings_of_a_preconditioner_are_used(tmp_path):
    path = tmp_path / "x.pkl"

    def loaded(name, **outer):
        written(path, name, outer)
        found = ns.load(path)
        return found.model.network, found.card.schedule["sigma_min"], found.card.schedule["sigma_max"]

    network, low, high = loaded("DDPM++ with classes", beta_d=12.0, beta_min=0.3, M=500, epsilon_t=1e-3)
    assert low == pytest.approx(math.sqrt(math.expm1(6e-6 + 3e-4)))
    assert high == pytest.approx(math.sqrt(math.expm1(6.3)))
    t_cond = network.scales(torch.tensor([low, high], dtype=torch.float64)).noise
    torch.testing.assert_close(t_cond, torch.tensor([499e-3, 499.0], dtype=torch.float64))
    assert loaded("NCSN++", sigma_min=0.01, sigma_max=50.0)[1:] == (0.01, 50.0)
    assert loaded("DDPM++", sigma_min=0, sigma_max=math.inf)[1:] == (0.002, 80.0)
    assert loaded("DDPM++", sigma_min=0.01, sigma_max=50)[1:] == (0.01, 50.0)
    network, low, high = loaded("ADM")
    assert network.scales(torch.tensor([low, high])).noise.tolist() == [0, 991]  # 999 - j0, table 1
    assert loaded("ADM", M=500, C_1=0.01)[0].levels.shape == (500,)


def test_a_preconditioner_made_without_keywords_is_read_from_its_attributes(tmp_path):
    network = module(filled(NETWORKS["SongUNet"](SONG)), "SongUNet", SONG)
    made = Persistent(
        "EDMPrecond", img_resolution=8, img_channels=3, label_dim=0, sigma_data=0.3, _modules={"model": network}
    )
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": made}))
    assert ns.load(tmp_path / "x.pkl").model.network.sigma_data == 0.3


def test_gains_of_half_precision_are_divided_in_it(tmp_path):
    """As EDM2's own code does with what it saves: 0-dimensional and in half precision, a gain stays so when divided."""
    written(tmp_path / "x.pkl", "EDM2", half=True)
    network, theirs = ns.load(tmp_path / "x.pkl").model.network.model, filled(NETWORKS["UNet"](SECOND)).half()
    for found, gain, root in (
        (network.out_gain, theirs.out_gain, math.sqrt(9 * 16)),
        (network.dec["4x4_in0"].emb_gain, theirs.dec["4x4_in0"].emb_gain, math.sqrt(32)),
    ):
        divided = np.float16(np.float16(gain.item()) / np.float16(root))
        assert found.item() / root == pytest.approx(float(divided), rel=1e-6)
        assert abs(found.item() - gain.item()) < 1e-3 * abs(gain.item())


@pytest.mark.parametrize("name", ["DDPM++", "EDM2"])
def test_networks_have_a_forward_derivative(name):
    """Which Fokker-Planck's divergence takes; without one it is a difference quotient."""
    kind, settings, _ = CASES[name]
    network, generator = filled(NETWORKS[kind](settings)), torch.Generator().manual_seed(1)
    x, v = torch.randn(2, 2, 3, 8, 8, generator=generator)
    hot = torch.eye(4)[[1, 3]] if settings.get("label_dim") else None
    noise = torch.tensor([0.3, -1.2])
    _, slope = torch.func.jvp(lambda x: network(x, noise, hot), (x,), (v,))
    quotient = (network(x + 0.01 * v, noise, hot) - network(x - 0.01 * v, noise, hot)) / 0.02
    torch.testing.assert_close(slope, quotient, rtol=1e-2, atol=2e-3 * float(slope.abs().max()))


@pytest.mark.parametrize(
    ("outer", "claims", "says"),
    [
        ({}, {"num_blocks": 10**9}, "more blocks than it has tensors"),
        ({}, {"channel_mult": [1] * 10**6}, "more blocks than it has tensors"),
        ({}, {"model_channels": 10**5}, "size mismatch"),
        ({"label_dim": 10**9}, {}, "made for another network"),
        ({"img_resolution": 10**6}, {}, "made for another network"),
        ({"img_channels": 4}, {}, "made for another network"),
        ({"M": 10**12}, {}, "noise levels"),
    ],
)
def test_what_a_pickle_claims_beyond_its_tensors_is_refused_at_once(outer, claims, says, tmp_path):
    written(tmp_path / "x.pkl", "ADM", outer, claims)
    with pytest.raises(ns.CheckpointError, match=says) as caught:
        ns.load(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    def held(tensor):
        return pickle.dumps({"ema": Persistent("EDMPrecond", _parameters={"weight": tensor})}, protocol=4)

    content, shape = held(torch.zeros(3, 5)), b"K\x03K\x05\x86"
    assert content.count(shape) == 1
    # Beyond its end, and over and over the same number.
    for claimed in (content.replace(shape, b"K\xffK\xff\x86"), held(torch.zeros(1).expand(10**12))):
        (tmp_path / "x.pkl").write_bytes(claimed)
        with pytest.raises(ns.CheckpointError, match="damaged or no PyTorch or EDM checkpoint"):
            ns.load(tmp_path / "x.pkl")


def test_what_a_pickle_says_it_remembers_takes_no_room(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04\x8c\x17torch_utils.persistence0}r" + struct.pack("<I", 2**22) + b".")
    tracemalloc.start()
    try:
        with pytest.raises(ns.CheckpointError):
            ns.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24  # a place for each would take 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", list(HOSTILE))
def test_code_beside_or_inside_a_network_is_refused(name, tmp_path):
    (tmp_path / "payload.py").write_text(SOURCE)
    made, path = HOSTILE[name](), tmp_path / "bad.pkl"
    inside = Persistent("EDMPrecond", {"x": made}, _modules={"model": made}, _parameters={"weight": made})
    for content in (
        {"ema": inside},
        {"ema": Persistent("X"), "more": [made]},
        {"ema": Persistent(made)},
        [made, inside],
    ):
        for protocol in (0, 2, 4, 5):
            path.write_bytes(pickle.dumps(content, protocol=protocol))
            with pytest.raises(ns.CheckpointError) as caught:
                ns.load(path)
            assert "\n" not in str(caught.value)
            assert not os.path.exists("owned")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: {"ema": Persistent("Generator", {"z_dim": 512})}, "it is a Generator: those that can be read are"),
        (lambda: {"ema": Persistent("EDMPrecond")}, "does not say how it was made|has no model"),
        (lambda: {"G_ema": Persistent("Generator")}, "holds no tensors"),
    ],
)
def test_other_persistent_objects_are_one_line(content, says, tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content()))
    with pytest.raises(ns.CheckpointError, match=says) as caught:
        ns.load(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)


def test_settings_that_do_not_fit_the_tensors_are_one_line(tmp_path):
    kind, settings, outer = "SongUNet", {**SONG, "channel_mult": [1, 1]}, {"img_resolution": 8, "img_channels": 3}
    network = module(filled(NETWORKS[kind](SONG)), kind, settings)
    whole = Persistent("EDMPrecond", outer, _modules={"model": network})
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": whole}))
    with pytest.raises(ns.CheckpointError, match="cannot be followed: size mismatch"):
        ns.load(tmp_path / "x.pkl")


@pytest.mark.parametrize("name", ["DDPM++", "EDM2"])
def test_damaged_pickles_load_or_are_refused(name, tmp_path):
    written(tmp_path / "x.pkl", name, encoder=Persistent("StabilityVAEEncoder", scale=np.ones(3), bias=np.zeros(3)))
    whole, random = (tmp_path / "x.pkl").read_bytes(), np.random.default_rng(0)
    for _ in range(int(os.environ.get("NOISESHIFT_FUZZ", "40"))):
        content = bytearray(whole)
        for place in random.integers(0, min(len(content), 20_000), 3):
            content[-place - 1 if random.random() < 0.5 else place] = random.integers(256)
        (tmp_path / "x.pkl").write_bytes(
            bytes(content[: random.integers(len(content))] if random.random() < 0.3 else content)
        )
        with contextlib.suppress(ns.CheckpointError):  # anything else is a fault
            ns.load(tmp_path / "x.pkl")
        assert not os.path.exists("owned")


def test_the_configuration_takes_what_it_knows():
    from noiseshift.networks.edm_unet import configured

    found = configured(Edm2Config, {"img_resolution": 8, "img_channels": 3, "dropout": 0.1, "channel_mult": [1, 2]})
    assert found.channel_mult == (1, 2)
