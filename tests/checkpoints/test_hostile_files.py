"""Files that are not what they say: nothing in them is run, and each is a clean load or one line.

NOISESHIFT_FUZZ=N makes N mutations of every sample file instead of a few.
"""

import importlib
import io
import json
import os
import pickle
import pickletools
import random
import shutil
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import noiseshift as ns
from noiseshift.checkpoints.saving import save
from noiseshift.checkpoints.unpickling.pickles import names_in
from noiseshift.networks.adm import Adm, AdmConfig
from noiseshift.networks.lucidrains import AttentionConfig, Unet, UnetConfig
from noiseshift.networks.transformer import Transformer, TransformerConfig

ROUNDS = int(os.environ.get("NOISESHIFT_FUZZ", "25"))
CARD = {"family": "sit", "heads": 2}
UNET = UnetConfig(1, 1, 4, (4, 4), 2 * (AttentionConfig(4, 1, 1, full=True),))
ADM = AdmConfig(1, 1, 32, (32,), 1, (True,), heads=1)


class Calls:
    """Pickles as a call of something, which an ordinary unpickler makes."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Builds(Calls):
    """The same through object state: a call whose result is then updated."""

    def __reduce__(self):
        return (*self.reduced, {"state": 1})


def _by_name(module, name):
    return getattr(importlib.import_module(module), name)


HOSTILE = {
    "os.system": lambda: Calls(os.system, "touch owned"),
    "eval": lambda: Calls(eval, "open('owned', 'w')"),
    "exec": lambda: Calls(exec, "open('owned', 'w')"),
    "open": lambda: Calls(open, "owned", "w"),
    "getattr": lambda: Calls(getattr, Calls(__import__, "os"), "system"),
    "nested": lambda: Calls(print, Calls(os.system, "touch owned")),
    "inside a list": lambda: [1, {"ema": [Calls(os.system, "touch owned")]}],
    "build": lambda: Builds(os.system, "touch owned"),
    "subprocess": lambda: Calls(_by_name("subprocess", "Popen"), ["touch", "owned"]),
    "importlib": lambda: Calls(importlib.import_module, "antigravity"),
    "runpy": lambda: Calls(_by_name("runpy", "run_path"), "payload.py"),
    "shutil": lambda: Calls(shutil.copy, "payload.py", "owned"),
    "pickle in pickle": lambda: Calls(pickle.loads, pickle.dumps(Calls(os.system, "touch owned"))),
    "torch.load": lambda: Calls(torch.load, "inner.pt"),
    "torch.hub": lambda: Calls(_by_name("torch.hub", "load"), "somebody/repository", "model"),
    "torch.jit": lambda: Calls(_by_name("torch.jit", "load"), "inner.pt"),
    "numpy.load": lambda: Calls(np.load, "payload.npy"),
    "numpy.memmap": lambda: Calls(np.memmap, "owned", "uint8", "w+", 0, (4,)),
    "whole module": lambda: torch.nn.Linear(2, 2),
}


def refused(path):
    """The message, which must be one line, without the file having done anything."""
    with pytest.raises(ns.CheckpointError) as caught:
        ns.load(path, card=CARD)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    assert not os.path.exists("owned")
    return message


@pytest.mark.parametrize("name", list(HOSTILE))
def test_nothing_in_a_pickle_is_called(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "payload.py").write_text("open('owned', 'w')")
    torch.save({"x": torch.zeros(1)}, "inner.pt")
    made = HOSTILE[name]()
    for suffix in (".pt", ".pth", ".ckpt", ".bin", ".pkl"):
        for protocol in (0, 2, 5):
            path = tmp_path / f"bad{suffix}"
            path.write_bytes(pickle.dumps({"ema": made}, protocol=protocol))
            assert names_in(path), "what trusting it would run is not named"
            refused(path)
        torch.save({"ema": {"x": made}}, path)
        assert f"holds code ({names_in(path)[0][:60]}" in refused(path)
    path = tmp_path / "bad.safetensors"
    path.write_bytes(pickle.dumps(made))
    refused(path)


def test_files_that_claim_too_much_are_refused_at_once(tmp_path):
    # A header of a terabyte, a tensor of a terabyte in a small file, a depth that no stack holds.
    header = b'{"x":{"dtype":"F32","shape":[500000,500000],"data_offsets":[0,1000000000000]}}'
    (tmp_path / "long.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    (tmp_path / "large.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 64)
    (tmp_path / "deep.pt").write_bytes(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    (tmp_path / "bytes.pt").write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.")
    for name in ("long.safetensors", "large.safetensors", "deep.pt", "bytes.pt"):
        refused(tmp_path / name)


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path):
    path = tmp_path / "view.pt"
    torch.save({"x": torch.zeros(3, 5)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(key for key in parts if key.endswith("data.pkl"))
    assert b"K\x03K\x05\x86" in parts[name], pickletools.dis(parts[name], io.StringIO())
    parts[name] = parts[name].replace(b"K\x03K\x05\x86", b"K\xffK\xff\x86", 1)
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in parts.items():
            archive.writestr(key, value)
    refused(path)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """One small file of every kind that is read."""
    folder = tmp_path_factory.mktemp("samples")
    torch.manual_seed(0)
    network = Transformer(TransformerConfig(8, 1, 2, 16, 1, 2, classes=3))
    torch.save({"ema": network.state_dict(), "opt": {}}, folder / "trainer.pt")
    torch.save(network.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    save(folder / "own", network.state_dict(), ns.Card.from_dict(CARD))
    diffusion = {f"model.{k}": v for k, v in Unet(UNET).state_dict().items()}
    diffusion |= {"betas": torch.linspace(1e-3, 0.1, 10), "loss_weight": torch.ones(10)}
    averaged = {f"ema_model.{k}": v for k, v in diffusion.items()}
    content = {"model": diffusion, "ema": averaged, "version": "2.3.4"}
    torch.save(content, folder / "lucidrains.pt", _use_new_zipfile_serialization=False)
    torch.save(Adm(ADM).state_dict(), folder / "adm.pt", _use_new_zipfile_serialization=False)
    # What their config says is checked before anything is built.
    config = {"type": "image_v1", "input_channels": 1, "input_size": [8, 8], "sigma_min": 0.01, "sigma_max": 80}
    words = {"config": json.dumps({"model": config})}
    save_file({"x": torch.zeros(1)}, folder / "k-diffusion.safetensors", metadata=words)
    np.savez(folder / "data.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
    return folder


def mutated(content, source):
    """The bytes with a few of them flipped, cut, doubled or replaced."""
    data = bytearray(content)
    for _ in range(source.randint(1, 4)):
        place, length = source.randrange(len(data)), source.randint(1, 16)
        kind = source.randrange(5)
        if kind == 0:
            data[place] ^= 1 << source.randrange(8)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = data[place : place + length]
        elif kind == 3:
            data[place : place + length] = source.randbytes(length)
        else:
            del data[place : place + length]
        if not data:
            break
    return bytes(data)


READ = {
    "trainer.pt": lambda path: ns.load(path, card=CARD),
    "old.pt": lambda path: ns.load(path, card=CARD),
    "own.safetensors": lambda path: ns.load(path),
    "own.yaml": lambda path: ns.load(path.with_suffix(".safetensors")),
    "lucidrains.pt": lambda path: ns.load(path, size=8),
    "adm.pt": lambda path: ns.load(path, card={"family": "adm", "heads": 1, "size": 8}),
    "k-diffusion.safetensors": lambda path: ns.load(path),
    "data.npz": ns.data.load_images,
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch remarks on odd archives
@pytest.mark.parametrize("name", list(READ))
def test_a_mutated_file_loads_or_is_refused_in_one_line(name, samples, tmp_path):
    content = (samples / name).read_bytes()
    messages = []
    for seed in range(ROUNDS):
        for each in samples.iterdir():
            shutil.copy(each, tmp_path / each.name)
        path = tmp_path / name
        # Most of a file is numbers, in which a flip is just another number: look at its ends more often.
        source = random.Random(seed)
        head = content[:2000] if seed % 2 else content
        path.write_bytes(mutated(head, source) + (content[2000:] if seed % 2 else b""))
        try:
            READ[name](path)
        except (ValueError, OSError) as error:
            messages.append(str(error))
    assert messages
    assert not [message for message in messages if "\n" in message]


def rearranged(state, source):
    """A state dict with a few of its tensors gone, renamed, of other shapes, or no tensors."""
    changed = dict(state)
    for _ in range(source.randint(1, 3)):
        key = source.choice(sorted(changed))
        value = changed.pop(key)
        if not isinstance(value, torch.Tensor):
            continue
        other = source.choice(["gone", "renamed", "scalar", "empty", "flat", "first", "double", "words"])
        if other == "renamed":
            changed[source.choice(sorted(state)) + source.choice(["", ".1", "0"])] = value
        elif other == "words":
            changed[key] = source.choice(["", 0, None, [value], {key: value}])
        elif other != "gone":
            shaped = {
                "scalar": lambda v: v.new_zeros(()),
                "empty": lambda v: v[:0] if v.ndim else v.new_zeros(0),
                "flat": lambda v: v.flatten(),
                "first": lambda v: v[:1] if v.ndim else v,
                "double": lambda v: torch.cat([v, v]) if v.ndim else v,
            }
            changed[key] = shaped[other](value)
    return changed


@pytest.mark.parametrize("name", ["trainer.pt", "lucidrains.pt", "adm.pt"])
def test_other_tensors_under_the_same_names_load_or_are_refused_in_one_line(name, samples, tmp_path):
    content = torch.load(samples / name, weights_only=True)
    messages = []
    for seed in range(ROUNDS):
        source = random.Random(seed)
        inside = "ema" if "ema" in content else None
        changed = rearranged(content[inside] if inside else content, source)
        torch.save({**content, inside: changed} if inside else changed, tmp_path / name)
        try:
            READ[name](tmp_path / name)
        except (ValueError, OSError) as error:
            messages.append(str(error))
    assert messages
    assert not [message for message in messages if "\n" in message or name not in message]


@pytest.mark.parametrize(
    "values",
    [
        {"schedule": {"kind": "discrete", "steps": 10**12}},
        {"schedule": {"kind": "discrete", "steps": 10**400}},
        {"schedule": {"kind": "discrete", "steps": -5}},
        {"schedule": {"kind": "discrete", "alphas_cumprod": [[0.5]]}},
        {"schedule": {"kind": "variance-exploding", "sigma_min": 0}},
        {"schedule": {"kind": "variance-exploding", "sigma_max": 10**400}},
        {"schedule": {"kind": "variance-exploding", "sigma_max": float("nan")}},
        {"schedule": {"kind": ["linear"]}},
        {"schedule": []},
        {"time": {"scale": 10**400}},
        {"time": {"scale": float("nan")}},
        {"time": {"offset": float("inf")}},
        {"time": [1]},
        {"shape": [65536, 65536, 65536]},
        {"shape": [1, 8.5, 8]},
        {"size": 10**12},
        {"classes": 10**12},
        {"classes": True},
        {"latents": {"center": [10**400], "spread": [1]}},
        {"class_names": [[1], [2]]},
        {"class_names": 7},
        {"estimator": ".."},
        {"estimator": ""},
        {"estimator": "../../etc/passwd"},
        {"prediction": ["velocity"]},
        {"family": ["sit"]},
        {1: 2},
    ],
)
def test_a_card_of_impossible_values_is_refused_in_one_line(values):
    with pytest.raises(ns.CheckpointError, match="card") as caught:
        ns.Card.from_dict({"family": "sit", **values}).build_schedule()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


CONFIG = {"model": {"type": "image_v1", "input_channels": 1, "input_size": [8, 8], "sigma_min": 0.01, "sigma_max": 80}}


@pytest.mark.parametrize(
    "content",
    [
        {"config": {**CONFIG, "dataset": []}, "model_ema": {"x": torch.zeros(2, 2)}},
        {"config": {"model": {**CONFIG["model"], "input_size": [[8], [8]]}}, "model_ema": {"x": torch.zeros(2, 2)}},
        {"config": {"model": {**CONFIG["model"], "depths": {"a": 1}}}, "model_ema": {"x": torch.zeros(2, 2)}},
        {"config": {"model": {**CONFIG["model"], "sigma_min": "x"}}, "model_ema": {"x": torch.zeros(2, 2)}},
        {"x_embedder.proj.weight": torch.zeros(2, 2), "pos_embed": torch.zeros(2)},
        {
            "model": {
                "betas": torch.zeros(3, 3),
                "loss_weight": torch.zeros(2),
                "model.init_conv.weight": torch.zeros(2, 2),
            }
        },
        {
            "input_blocks.0.0.weight": torch.zeros(2),
            "time_embed.0.weight": torch.zeros(2),
            "out.2.weight": torch.zeros(2),
        },
        {"ema": 7, "model": [torch.zeros(2, 2)]},
        {0: torch.zeros(2, 2), None: torch.zeros(2, 2), (1, 2): torch.zeros(2, 2)},
        {"ema": {"shadow_params": [torch.zeros(2, 2)]}},
        {},
    ],
)
def test_contents_that_are_no_network_are_refused_in_one_line(content, tmp_path):
    torch.save(content, tmp_path / "odd.pt")
    for given in ({"card": CARD}, {"size": 8}, {}):
        with pytest.raises(ns.CheckpointError) as caught:
            ns.load(tmp_path / "odd.pt", **given)
        assert "odd.pt" in str(caught.value)
        assert "\n" not in str(caught.value)
