"""Mutations of every kind of file that is read: each must load or be refused in one line, never a traceback, hang or crash.

    NOISESHIFT_FUZZ=5000 python benchmarks/robustness/fuzz_files.py --seed 0

makes a sound file of every kind in a temporary folder (a minute: one is a small measurement), then NOISESHIFT_FUZZ mutations
(1,000 by default), spread over the kinds: bits flipped, ends cut off, pieces doubled, moved or taken from another file, members of
archives and headers changed under sums that fit again, numbers and words replaced by hostile ones, values of another type in
sound JSON, YAML, CSV, parquet and npz (`retyping.py`). Every file is read in a process of its own with 20 s of processor and
6 GB. It prints a row a kind, and one of all: read, refused in a line, refused without the file's name, tracebacks, hangs, crashes;
and every file that ended badly, by seed. It exits 1 if one did.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import noiseshift as ns
from noiseshift import data as sets
from noiseshift.checkpoints.diffusers.conditions import Conditions
from noiseshift.checkpoints.saving import save
from noiseshift.estimators.instrument import Calibration, Readings
from noiseshift.estimators.network import Network
from noiseshift.evaluation import Features, frechet_distance, load_reference
from noiseshift.networks.adm import Adm, AdmConfig
from noiseshift.networks.classifier import Classifier, ClassifierConfig, load_classifier
from noiseshift.networks.edm_unet import SongUnet, UnetConfig, configured
from noiseshift.networks.level import LevelConfig, LevelNetwork
from noiseshift.networks.lucidrains import AttentionConfig, Unet
from noiseshift.networks.lucidrains import UnetConfig as LucidConfig
from noiseshift.networks.transformer import Transformer, TransformerConfig
from noiseshift.studies import kept
from noiseshift.studies.parts import read_grouping, read_mask
from noiseshift.studies.shards import Shards
from noiseshift.writing import BusyError
from noiseshift.writing.locks import locked

sys.path.insert(0, str(Path(__file__).parent))
import retyping

SECONDS, BYTES = 20, 6 << 30
EXPECTED = (ValueError, OSError, ImportError, MemoryError)
"""What the command line turns into one line and exit code 1."""
HOSTILE = (
    *(
        b"-1",
        b"0",
        b"1e999",
        b"-1e999",
        b"NaN",
        b"9223372036854775808",
        b"1e-320",
        b"9" * 5000,
        b"1" + b"0" * 30,
        b"0.5",
    ),
    *(b"null", b"true", b"[]", b"{}", b'""', b"[[[]]]", b'{"a": 1}', b"[" * 2000, b"~", b"!!python/object:os.system x"),
    *(
        b"../../etc/passwd",
        b"/dev/zero",
        b"\xff\xfe",
        b"\x00",
        b"\x1b[2J",
        b"=cmd|' /C calc'!A0",
        b"&a [*a, *a]",
        b"2001-99-99",
    ),
)
PICTURES = ("png", "jpg", "webp", "bmp", "gif", "tiff")
CARD = {"family": "sit", "heads": 2}
SONG = {
    "img_resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}


class Extractor:
    """Two features of a picture: what a reference is looked at with."""

    name = "two"

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return images.float().flatten(1)[:, :2], None


def transformer_files(folder: Path) -> None:
    network = Transformer(TransformerConfig(8, 1, 2, 16, 1, 2, classes=3))
    torch.save({"model": network.state_dict(), "ema": network.state_dict(), "opt": {"lr": 0.1}}, folder / "trainer.pt")
    torch.save(network.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    save(folder / "own", network.state_dict(), ns.Card.from_dict(CARD))


def unet_files(folder: Path) -> None:
    unet = Unet(LucidConfig(1, 1, 4, (4, 4), 2 * (AttentionConfig(4, 1, 1, full=True),)))
    diffusion = {f"model.{key}": value for key, value in unet.state_dict().items()}
    diffusion |= {"betas": torch.linspace(1e-3, 0.1, 10), "loss_weight": torch.ones(10)}
    averaged = {f"ema_model.{key}": value for key, value in diffusion.items()}
    torch.save({"model": diffusion, "ema": averaged, "version": "2.3.4"}, folder / "lucidrains.pt")
    torch.save(Adm(AdmConfig(1, 1, 32, (32,), 1, (True,), heads=1)).state_dict(), folder / "adm.pt")
    config = {"type": "image_v1", "input_channels": 1, "input_size": [8, 8], "sigma_min": 0.01, "sigma_max": 80}
    save_file({"x": torch.zeros(1)}, folder / "slim.safetensors", metadata={"config": json.dumps({"model": config})})


def edm_file(folder: Path) -> None:
    """In NVIDIA's layout: the names of their modules are only written."""

    class EasyDict(dict[str, Any]): ...

    class Persistent:
        def __init__(self, class_name: str, settings: Any = None, **state: Any):
            state |= {"_init_args": (), "_init_kwargs": EasyDict(settings or {})}
            self.meta = {
                "type": "class",
                "version": 6,
                "module_src": "exit()",
                "class_name": class_name,
                "state": state,
            }

        def __reduce__(self) -> Any:
            return reconstructed, (self.meta,)

    def reconstructed(meta: Any) -> Any: ...

    def part(inner: torch.nn.Module, settings: Any = None) -> Any:
        within = {key: part(value) for key, value in inner._modules.items() if value is not None}
        modules = collections.OrderedDict(within)
        if isinstance(inner, torch.nn.ModuleDict):
            plain = torch.nn.ModuleDict()
            plain.__dict__["_modules"] = modules
            return plain
        groups = {name: collections.OrderedDict(vars(inner)[name]) for name in ("_parameters", "_buffers")}
        return Persistent(type(inner).__name__.replace("Unet", "UNet"), settings, _modules=modules, **groups)

    for name, value, last in (
        ("torch_utils.persistence", reconstructed, "_reconstruct_persistent_obj"),
        ("dnnlib.util", EasyDict, "EasyDict"),
    ):
        for module in (name.partition(".")[0], name):
            sys.modules.setdefault(module, types.ModuleType(module))
        setattr(sys.modules[name], last, value)
        value.__module__, value.__qualname__, value.__name__ = name, last, last
    inner = part(SongUnet(configured(UnetConfig, SONG)), SONG)
    outer = {"img_resolution": 8, "img_channels": 3, "label_dim": 0}
    made = Persistent("EDMPrecond", outer, _modules=collections.OrderedDict(model=inner))
    (folder / "edm.pkl").write_bytes(pickle.dumps({"ema": made, "loss": np.float64(1)}))


def other_files(folder: Path) -> None:
    Network(LevelNetwork(LevelConfig(1, 4)), ns.Linear(), card={"x": 1}).save(folder / "estimator.safetensors")
    Classifier(ClassifierConfig(), card={}).save(folder / "classifier.safetensors")
    Conditions.of({"prompt_embeds": torch.rand(2, 3, 4)}).save(folder / "embeddings.safetensors")
    np.savez(folder / "embeddings.npz", prompt_embeds=np.ones((2, 3, 4)), pooled_prompt_embeds=np.ones((2, 5)))
    np.savez(folder / "images.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
    np.save(folder / "images.npy", np.zeros((4, 8, 8, 3), np.uint8))
    np.savez_compressed(folder / "statistics.npz", mu=np.zeros(2), sigma=np.eye(2), n=np.array(9))
    Features("two", np.random.default_rng(0).normal(size=(9, 2))).save(folder / "features.npz")
    (folder / "prompts.txt").write_text("a cat\n\na dog\n")
    (folder / "options.yaml").write_text("sampler: [euler:10, heun:5]\nsamples: 64\nseed: 1\n")
    idx = folder / "idx"
    idx.mkdir()
    packed = gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 4, 8, 8) + bytes(256))
    (idx / "train-images-idx3-ubyte.gz").write_bytes(packed)
    (idx / "train-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 4) + bytes(range(4)))
    picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    for kind in PICTURES:
        (folder / kind / "a").mkdir(parents=True)
        for number in range(2):
            Image.fromarray(picture).save(folder / kind / "a" / f"{number}.{kind}")
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for path in sorted((folder / "png").rglob("*.png")):
            archive.write(path, path.relative_to(folder / "png"))
        archive.writestr("dataset.json", json.dumps({"labels": [["a/0.png", 0], ["a/1.png", 1]]}))


def beside_files(folder: Path) -> None:
    """What commands read beside a checkpoint and data, and what they leave for each other."""
    (folder / "groups.csv").write_text('class,kind\n0,top\n1,"under, it"\n2,top\n')
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "mask.png")
    about = {
        "pid": 1,
        "host": "elsewhere",
        "started": "1 of x",
        "since": "2026-01-01T00:00:00",
        "command": "noiseshift",
    }
    (folder / "lock").mkdir()
    (folder / "lock" / ".held.lock").write_text(json.dumps(about) + "\n")
    other = folder / "other" / ".x.partial-0123456789abcdef"
    other.mkdir(parents=True)
    (other / "fingerprint.json").write_text(json.dumps({"seed": 1, "checkpoint": {"name": "x", "card": {"heads": 2}}}))
    np.savez(other / "00000000.npz", size=np.array(2))
    mine = folder / "rows" / Shards(folder / "rows" / "x", {"seed": 0}).root.name
    mine.mkdir(parents=True)
    (mine / "rows.json").write_text("32")
    mine.rename(mine.with_name("rows"))
    one = Readings(np.full((9, 1), 0.5), np.zeros((9, 1)), np.full((1, 5), 0.2))
    calibration = Calibration(np.array([0.5]), np.linspace(0, 1, 5), one, np.ones((9, 1)), np.ones((9, 1)))
    ns.ShiftReport("network", ns.Linear(), np.array([0]), np.array([0.5]), one, calibration).save(folder / "alone")
    shutil.copytree(folder / "alone", folder / "unsealed")
    mark = json.loads((folder / "unsealed" / "noiseshift.json").read_text())
    mark.pop("sha256")
    (folder / "unsealed" / "noiseshift.json").write_text(json.dumps(mark))
    os.environ["NOISESHIFT_CACHE"] = str(folder / "cache")
    kept.save("preflight", {"seed": 0}, {"values": np.arange(3.0)})
    next((folder / "cache").iterdir()).rename(folder / "cache" / "kept.npz")


def pipeline_folder(folder: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder / "pipeline")
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder / "sharded", max_shard_size="4KB")
    DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True).save_pretrained(folder / "scheduler")


MADE_BY = {
    "run": "measure --sampler euler:4 --samples 16 --batch 16 --estimator constant-pixel --controls",
    "compare": "compare run",
    "approx": "approx --sampler euler:3 --times 0.3 --ratios 0.5 --rows 8 --samples 4 --substeps 2 --estimator constant-pixel",
    "correct": "correct --sampler euler:3 --samples 12 --measured 8 --nag 0.5 --small --estimator constant-pixel",
    "train": "train --width 16 --depth 1 --heads 2 --patch 14 --batch 4 --steps 2",
    "level.safetensors": "train-estimator --data few.npz --batch 4 --steps 2",
}
"""Folders of our own commands, at their smallest."""


def run_folder(folder: Path) -> None:
    few = sets.reference()[:64]
    np.savez(folder / "few.npz", images=few.pixels.numpy(), labels=few.labels.numpy())  # type: ignore[union-attr]
    for name, words in MADE_BY.items():
        command = [sys.executable, "-m", "noiseshift", *words.split()]
        command += (
            [] if name.startswith(("compare", "level")) else ["few.npz"] if name == "train" else ["--data", "few.npz"]
        )
        command += ["--no-progress", "--out", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            raise SystemExit(f"{' '.join(words[:1])} failed: {done.stderr.strip()}")
    for mark in folder.rglob("noiseshift.json"):  # without digests: with them, every changed file is one warning
        about = json.loads(mark.read_text())
        about.pop("sha256", None)
        mark.write_text(json.dumps(about))
    (folder / ".level.safetensors.training").rename(folder / "level")
    shard(folder / "shard" / "x")


def shard(place: Path) -> Shards:
    """A batch of a run that goes on."""
    from noiseshift.shift.reading import BatchReadings

    found = Shards(place, {"seed": 0})
    if not found.begun:
        readings = {"a": Readings(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((3, 4)))}
        batch = BatchReadings(
            2, torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), np.arange(3), readings, readings
        )
        found.save(0, batch)
        (found.folder / "00000000.npz").rename(place.parent / "00000000.npz")
        shutil.rmtree(found.root)
    return found


def report(path: Path) -> None:
    from noiseshift.analysis.report import page, read_folder

    folder = next(p for p in path.parents if p.name in MADE_BY)
    found = read_folder(folder)
    for part in getattr(found, "reports", {}).values():
        part.table()
    if path.name in ("run.json", "comparison.json", "methods.csv", "injected.parquet"):  # drawing takes seconds
        page({str(folder): found})


def kept_batch(path: Path) -> None:
    place = path.parent / "x"
    found = Shards(place, {"seed": 0})
    found.folder.mkdir()
    path.rename(found.folder / path.name)
    batch = found.load(0)
    assert batch is None or isinstance(batch.size, int)


def training(path: Path) -> None:
    """A training that goes on from its state: the same command again."""
    from click.testing import CliRunner
    from noiseshift.cli import main

    os.chdir(path.parents[1])
    done = CliRunner().invoke(main, [*MADE_BY["train"].split(), "few.npz", "--no-progress", "--out", "train"])
    _exited(done)


def level_training(path: Path) -> None:
    from noiseshift.training.level_estimator import EstimatorTraining, train_estimator

    train_estimator(sets.reference()[:64], ns.load().model.schedule, EstimatorTraining(2, 4), folder=path.parent)


def marked(path: Path) -> None:
    """A run folder that would be replaced."""
    from noiseshift.writing import check_folder

    check_folder(path.parent, "measure")


def _exited(done: Any) -> None:
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("warning:", "data:"))]
    if done.exit_code == 0:
        return
    if done.exit_code not in (1, 2) or len(lines) != 1 or "bug of noiseshift" in done.stderr:
        raise AssertionError(done.stderr[-500:] or repr(done.exception))
    raise ValueError(lines[0])


def held(path: Path) -> None:
    """A place whose lock is there."""
    with suppress(BusyError), locked(path.parent / "held"):
        pass


def batches_of_others(path: Path) -> None:
    Shards(path.parents[1] / "x", {"seed": 0})


def rows_of_others(path: Path) -> None:
    place = path.parents[1] / "x"
    path.parent.rename(Shards(place, {"seed": 0}).root)
    rows = Shards(place, {"seed": 0}).rows
    assert rows is None or (type(rows) is int and rows > 0)


def kept_arrays(path: Path) -> None:
    """A file of the cache folder: made anew where it cannot be read, never used under another name."""
    os.environ["NOISESHIFT_CACHE"] = str(path.parent)
    place, _ = kept._place("preflight", {"seed": 0})
    assert place is not None
    path.rename(place)
    kept.load("preflight", {"seed": 0})


def audited(path: Path) -> None:
    found = ns.audit(path.parent, 4)
    assert repr(found)


def options(path: Path) -> None:
    import click
    from noiseshift.cli import config

    try:
        config.read(str(path))
    except click.UsageError as error:
        raise ValueError(error.format_message()) from None


def prompts(path: Path) -> None:
    from noiseshift.cli.parse import parse_prompts

    parse_prompts(str(path))


def reference(path: Path) -> None:
    found = load_reference(path, Extractor())  # type: ignore[arg-type]
    if not isinstance(found, Features):
        frechet_distance(found, Features("two", np.eye(2)).moments)


READERS: dict[str, Callable[[Path], Any]] = {
    "trainer.pt": lambda path: ns.load(path, card=CARD),
    "old.pt": lambda path: ns.load(path, card=CARD),
    "own.safetensors": lambda path: ns.load(path),
    "own.yaml": lambda path: ns.load(path.with_suffix(".safetensors")),
    "lucidrains.pt": lambda path: ns.load(path, size=8),
    "adm.pt": lambda path: ns.load(path, card={"family": "adm", "heads": 1, "size": 8}),
    "slim.safetensors": lambda path: ns.load(path),
    "edm.pkl": lambda path: ns.load(path),
    "pipeline/model_index.json": lambda path: ns.load(path.parent),
    "pipeline/unet/config.json": lambda path: ns.load(path.parent.parent),
    "pipeline/scheduler/scheduler_config.json": lambda path: ns.load(path.parent.parent).sampler(4),  # type: ignore[misc]
    "pipeline/unet/diffusion_pytorch_model.safetensors": lambda path: ns.load(path.parent.parent),
    "estimator.safetensors": Network.load,
    "classifier.safetensors": load_classifier,
    "embeddings.safetensors": Conditions.read,
    "embeddings.npz": Conditions.read,
    "images.npz": sets.load_images,
    "images.npy": sets.load_images,
    "pictures.zip": sets.load_images,
    "idx/train-images-idx3-ubyte.gz": lambda path: sets.load_images(path.parent),
    "idx/train-labels-idx1-ubyte": lambda path: sets.load_images(path.parent),
    **{f"{kind}/a/1.{kind}": lambda path: sets.load_images(path.parent.parent) for kind in PICTURES},
    "statistics.npz": reference,
    "features.npz": Features.load,
    "groups.csv": lambda path: read_grouping(path, "kind"),
    "mask.png": read_mask,
    "lock/.held.lock": held,
    "other/.x.partial-0123456789abcdef/fingerprint.json": batches_of_others,
    "rows/rows/rows.json": rows_of_others,
    "cache/kept.npz": kept_arrays,
    "scheduler/scheduler_config.json": audited,
    "sharded/unet/diffusion_pytorch_model.safetensors.index.json": lambda path: ns.load(path.parent.parent),
    **{
        f"alone/{name}": lambda path: ns.ShiftReport.load(path.parent).table()
        for name in ("noiseshift.json", "report.json")
    },
    **{
        f"unsealed/{name}": lambda path: ns.ShiftReport.load(path.parent).table()
        for name in ("shift.parquet", "posteriors.npz")
    },
    "options.yaml": options,
    "prompts.txt": prompts,
    **{f"run/{name}": report for name in ("run.json", "report.json", "shift.parquet", "posteriors.npz", "samples.npz")},
    **{f"run/controls/{name}": report for name in ("checks.json", "null.parquet", "level.parquet", "shares.parquet")},
    "run/residual-noise.parquet": report,
    "run/noiseshift.json": marked,
    **{f"compare/{name}": report for name in ("comparison.json", "table.csv", "pairs.csv")},
    **{f"approx/{name}": report for name in ("run.json", "injected.parquet", "paths.parquet", "spectra.npz")},
    **{f"correct/{name}": report for name in ("run.json", "methods.csv", "shift-constant-pixel.csv")},
    **{f"train/{name}": training for name in ("state.pt", "log.jsonl", "model.yaml")},
    "level/state.pt": level_training,
    "shard/00000000.npz": kept_batch,
}


def samples(folder: Path, *, quick: bool = False) -> list[str]:
    """A sound file of every kind; the names of those that are there. A `quick` set does without a measurement."""
    torch.manual_seed(0)
    for make in (
        transformer_files,
        unet_files,
        edm_file,
        other_files,
        beside_files,
        pipeline_folder,
        *([] if quick else [run_folder]),
    ):
        make(folder)
    return [name for name in READERS if (folder / name).exists()]


def flipped(data: bytearray, source: random.Random) -> None:
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def cut(data: bytearray, source: random.Random) -> None:
    del data[source.randrange(len(data)) :]


def doubled(data: bytearray, source: random.Random) -> None:
    place = source.randrange(len(data))
    data[place:place] = data[place : place + source.randint(1, 64)]


def shortened(data: bytearray, source: random.Random) -> None:
    place = source.randrange(len(data))
    del data[place : place + source.randint(1, 64)]


def noised(data: bytearray, source: random.Random) -> None:
    place = source.randrange(len(data))
    data[place : place + 8] = source.choice([source.randbytes(8), b"\xff" * 8, b"\0" * 8, struct.pack("<q", 1 << 40)])


def hostile(data: bytearray, source: random.Random) -> None:
    """One number or word of a text, or any place of other files, is something else."""
    found = list(re.finditer(rb'-?\d+(\.\d+)?|"[^"]*"|\w+', bytes(data[:20000])))
    start, end = source.choice(found).span() if found else (0, 0)
    data[start:end] = source.choice(HOSTILE)


MUTATIONS = (flipped, cut, doubled, shortened, noised, hostile)


def mutated(content: bytes, source: random.Random, other: bytes, name: str = "") -> bytes:
    """The bytes with one to four changes; those of an archive or a header mostly within, so that its sums fit again."""
    if source.random() < 0.3:
        other_types = retyping.retyped(content, name, source)
        if other_types is not None:
            return other_types
    if source.random() < 0.6:
        inner = _within(content, source, other)
        if inner is not None:
            return inner
    data = bytearray(content)
    for _ in range(source.randint(1, 4)):
        if not data:
            break
        # Most of a file is numbers, in which a flip is just another number: its ends are looked at more often.
        window = source.choice([data, data[:400], data[-400:]])
        if window is data:
            source.choice(MUTATIONS)(data, source)
        elif source.random() < 0.1:
            place = source.randrange(len(other) or 1)
            data[len(data) // 2 :] = other[place:]
        else:
            start = 0 if data[: len(window)] == window else len(data) - len(window)
            size = len(window)
            source.choice(MUTATIONS)(window, source)
            data[start : start + size] = window
    return bytes(data)


def _within(content: bytes, source: random.Random, other: bytes) -> bytes | None:
    if content[:4] == b"PK\x03\x04":
        return _in_zip(content, source, other)
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(mutated(gzip.decompress(content), source, other))
    size = int.from_bytes(content[:8], "little")
    if content[8:9] == b"{" and 0 < size < len(content) - 8:  # safetensors
        header = bytearray(content[8 : 8 + size])
        source.choice(MUTATIONS)(header, source)
        return struct.pack("<Q", len(header)) + header + content[8 + size :]
    return None


def _in_zip(content: bytes, source: random.Random, other: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(made, "w") as changed:
        members = archive.namelist()
        telling = [name for name in members if name.endswith((".pkl", ".npy", ".json"))]
        chosen = source.choice([*members, *telling, *telling])
        for name in members:
            part = archive.read(name)
            if name != chosen:
                changed.writestr(name, part)
            elif source.random() < 0.9 and part:
                data = bytearray(part)
                for _ in range(source.randint(1, 3)):
                    if data:
                        source.choice(MUTATIONS)(data, source)
                changed.writestr(source.choice([name] * 9 + [name + "x"]), bytes(data))
    return made.getvalue()


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    """What became of a file, read in a process of its own."""
    back, out = os.pipe()
    child = os.fork()
    if not child:
        _child(read, path, out)
    os.close(out)
    with os.fdopen(back, "rb") as answer:
        found = answer.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    ended = status & 127
    if ended in (signal.SIGALRM, signal.SIGPROF):
        return "hang"
    return f"crash: signal {ended}" if ended else found


def _child(read: Callable[[Path], Any], path: Path, out: int) -> None:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of processor
    signal.alarm(10 * SECONDS)  # on the clock: of a file that waits
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        read(path)
        found = "read"
    except EXPECTED as error:
        line = str(error)
        places = (*path.parts[-3:], path.stem, "card")
        found = f"{'line' if any(place in line for place in places) else 'unnamed'}: {type(error).__name__}: {line}"
        if "\n" in line.strip():
            found = f"traceback: of several lines: {line[:300]!r}"
    except BaseException as error:
        import traceback

        found = "traceback: " + "".join(traceback.format_exception(error)[-4:])
    os.write(out, found.encode(errors="replace")[:4000])
    os._exit(0)


def run(count: int, seed: int, *, quick: bool = False) -> dict[str, collections.Counter[str]]:
    """Outcomes by kind of `count` mutations."""
    found: dict[str, collections.Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        sound, work = Path(name, "sound"), Path(name, "work")
        sound.mkdir()
        names, here = samples(sound, quick=quick), os.getcwd()
        for kind in names:
            # Here, so that every process that follows has imported what it takes.
            try:
                shutil.rmtree(work, ignore_errors=True)
                shutil.copytree(sound, work)
                READERS[kind](work / kind)
            except ValueError as error:
                if kind != "slim.safetensors":  # k-diffusion's files need its library
                    raise SystemExit(f"the sound {kind} is not read: {error}") from None
            finally:
                os.chdir(here)
        try:
            for number in range(count):
                kind = names[number % len(names)]
                said = _one(kind, sound, work, names, f"{seed}-{number}")
                found.setdefault(kind, collections.Counter())[said.partition(":")[0]] += 1
                if said.startswith(("traceback", "hang", "crash", "unnamed")):
                    print(f"{seed}-{number} {kind}: {said}", flush=True)
                if (number + 1) % 250 == 0:
                    print(f"{number + 1} files", flush=True)
        except KeyboardInterrupt:  # what was found until then is shown
            pass
    return found


def _one(kind: str, sound: Path, work: Path, names: list[str], seed: str) -> str:
    source = random.Random(seed)
    shutil.rmtree(work, ignore_errors=True)
    top = kind.split("/")[0]
    if (sound / top).is_dir():
        shutil.copytree(sound / top, work / top)
        for beside in {"compare": ["run"], "train": ["few.npz"]}.get(top, []):  # what it refers to
            place = sound / beside
            shutil.copytree(place, work / beside) if place.is_dir() else shutil.copy(place, work)
    else:
        work.mkdir()
        for path in sound.glob(f"{Path(top).stem}.*"):
            shutil.copy(path, work)
    other = (sound / source.choice(names)).read_bytes()
    (work / kind).write_bytes(mutated((sound / kind).read_bytes(), source, other, kind))
    return outcome(READERS[kind], work / kind)


COLUMNS = ("read", "line", "unnamed", "traceback", "hang", "crash")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=int(os.environ.get("NOISESHIFT_FUZZ", "1000")), help="files")
    parser.add_argument("--quick", action="store_true", help="without run folders, which take a measurement to make")
    given = parser.parse_args()
    seed = given.seed
    count, began = given.count, time.time()
    torch.set_num_threads(1)
    found = run(count, seed, quick=given.quick)
    print(f"{'':52s}" + "".join(f"{column:>10s}" for column in COLUMNS))
    for kind, counts in {**found, "all": sum(found.values(), collections.Counter())}.items():
        print(f"{kind:52s}" + "".join(f"{counts[column]:10d}" for column in COLUMNS))
    done = sum(counts.total() for counts in found.values())
    faults = sum(counts[bad] for counts in found.values() for bad in ("traceback", "hang", "crash"))
    print(f"{done} of {count} files, {faults} at fault, seed {seed}, {time.time() - began:.0f} s")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
