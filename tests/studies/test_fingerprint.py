"""Whatever decides a run's numbers is in its fingerprint; what was kept under another one is not used, and that is said."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
import yaml
from click.testing import CliRunner
from noiseshift.cli import main
from safetensors.torch import load_file, save_file

import noiseshift as ns
from noiseshift.correction.methods import Method, guided_method, time_shift
from noiseshift.correction.words import WORDS as METHODS
from noiseshift.data import ASSETS
from noiseshift.evaluation import ClassifierFeatures, ModuleFeatures
from noiseshift.studies import correct
from noiseshift.studies.parts import Mask
from noiseshift.studies.protocol import Protocol, fingerprint

IMAGES = ns.data.reference()[:64]


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """A copy of the bundled checkpoint, its card and its estimator, to be edited."""
    folder = tmp_path_factory.mktemp("bundled")
    for path in ASSETS.glob("fashion-sit*"):
        shutil.copy(path, folder)
    return folder / "fashion-sit.safetensors"


def print_of(checkpoint=None, protocol=None, data=IMAGES, extractor=None):
    found = fingerprint(checkpoint or ns.load(), protocol or Protocol("euler:4"), data, extractor)
    return json.dumps(found, sort_keys=True)  # plain values only


def all_different(prints):
    return len(set(prints)) == len(prints)


def test_the_same_run_has_one_fingerprint(bundled):
    assert print_of() == print_of() == print_of(ns.load(bundled))


def test_every_setting_of_a_protocol_counts():
    base = Protocol("euler:4")
    other = {
        "solver": "euler:5",
        "samples": 255,
        "estimators": {"network": 8, "residual": None, "constant-pixel": None},
        "guidance": ns.noise_awareness(0.5),
        "points": 7,
        "calibration_rows": 399,
        "content_steps": 2,
        "controls": True,
        "bands": True,
        "mask": Mask(torch.eye(28) > 0),
        "by": "class",
        "batch": 127,
        "seed": 1,
        "device": "cuda:0",
        "precision": "bf16",
    }
    assert set(other) == {field.name for field in dataclasses.fields(Protocol)}
    changed = [dataclasses.replace(base, **{name: value}) for name, value in other.items()]
    assert all_different([print_of(protocol=p) for p in (base, *changed)])


def test_every_edit_of_a_card_counts(bundled):
    card = yaml.safe_load(bundled.with_suffix(".yaml").read_text())
    time = {"zero": "data", "scale": 1000.0, "offset": 0.0}
    edits = [
        {},
        {"time": time | {"scale": 999.0}},
        {"time": time | {"zero": "noise"}},
        {"time": time | {"offset": 1.0}},
        {"prediction": "epsilon"},
        {"heads": 2},
        {"schedule": {"kind": "cosine"}},
        {"estimator": None},
        {"data": "another"},
        {"class_names": ["another"]},
        {"provenance": {"note": "another"}},
    ]
    assert all_different([print_of(ns.load(bundled, card=card | edit)) for edit in edits])


def test_files_beside_the_checkpoint_count(bundled, tmp_path):
    for path in bundled.parent.iterdir():
        shutil.copy(path, tmp_path)
    moved = ns.load(tmp_path / bundled.name)
    before = print_of(moved)
    estimator = moved.estimator
    raw = bytearray(estimator.read_bytes())
    raw[-1] ^= 1
    estimator.write_bytes(raw)
    assert print_of(moved) != before


def test_weights_count_wherever_they_were_changed():
    checkpoint = ns.load()
    before = print_of(checkpoint)
    with torch.no_grad():
        [*checkpoint.model.network.parameters()][-1].flatten()[0] += 1e-3
    assert print_of(checkpoint) != before
    assert print_of(dataclasses.replace(ns.load(), decode=lambda x: x / 2)) != before


def test_data_extractors_and_versions_count(monkeypatch):
    shuffled = IMAGES[torch.arange(63, -1, -1)]
    prints = [print_of(), print_of(data=IMAGES[:63]), print_of(data=shuffled), print_of(data=None)]
    torch.manual_seed(0)
    modules = [ModuleFeatures(torch.nn.Linear(2, 2), "same") for _ in range(2)]
    prints += [print_of(extractor=extractor) for extractor in (ClassifierFeatures(), *modules)]
    from importlib import metadata

    real = metadata.version
    for package, version in (("noiseshift", "99.0"), ("torch", "99.1.2"), ("torch", "99.2.0")):
        monkeypatch.setattr(metadata, "version", lambda name, p=package, v=version: v if name == p else real(name))
        prints.append(print_of())
    assert all_different(prints)


def test_wrapping_the_model_counts():
    base = ns.load()
    wrapped = [ns.alternatives.EpsilonScaled(base.model, offset) for offset in (1.005, 1.006)]
    assert all_different([print_of(dataclasses.replace(base, model=model)) for model in (base.model, *wrapped)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A diffusers folder whose transformer lies in several shards."""
    path = tmp_path_factory.mktemp("folder") / "dit"
    pipe = tiny.dit(path)
    shutil.rmtree(path / "transformer")
    pipe.transformer.save_pretrained(path / "transformer", max_shard_size="20KB")
    assert len(list((path / "transformer").glob("*.safetensors"))) > 1
    return path


def test_all_parts_of_a_folder_count(folder, tmp_path):
    def changed(edit):
        copy = tmp_path / str(len(list(tmp_path.iterdir()))) / folder.name
        shutil.copytree(folder, copy)
        edit(copy)
        return print_of(ns.load(copy), Protocol("own:4"))

    def nudge(pattern, which):
        def edit(path):
            file = sorted(path.glob(pattern))[which]
            tensors = load_file(file)
            next(iter(tensors.values())).flatten()[0] += 0.25
            save_file(tensors, file, metadata={"format": "pt"})

        return edit

    def setting(name, value):
        def edit(path):
            file = path / "scheduler" / "scheduler_config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))

        return edit

    shards = len(list((folder / "transformer").glob("*.safetensors")))
    edits = [nudge("transformer/*.safetensors", k) for k in range(shards)] + [nudge("vae/*.safetensors", 0)]
    edits += [setting("clip_sample", True), setting("steps_offset", 1), setting("beta_end", 0.03)]
    assert all_different([changed(lambda path: None), *map(changed, edits)])
    assert changed(lambda path: None) == changed(lambda path: None)


def test_no_two_methods_describe_themselves_alike():
    words = [
        *("cfg=1", "cfg=2", "nag=1", "nag=1.0000001", "cfg=1,nag=1", "dog=1", "autoguidance=1", "nag-epsilon=1"),
        *(
            "nag-score=1",
            "classifier-nag=1",
            "level-nag=1",
            "level-nag=2",
            "closed-loop",
            "closed-loop=1",
            "projection",
            "nlc",
        ),
        *("epsilon-scaling=1.005", "epsilon-scaling=1.005:0.01", "time-shift=0.1", "time-shift=0.2", "tsg=1", "tsg=2"),
        *("tsr=2", "tsr=3", "tsr=2:0.1", "dcw=0.01", "dcw=0.02", "dcw=0.01:0.01"),
    ]
    kinds = {
        word.partition("=")[0].partition("[")[0].strip() for word in METHODS.replace(",", " ").split() if "=" in word
    }
    assert kinds <= {part.partition("=")[0] for word in words for part in word.split(",")}
    # Names may be alike where a window is not part of them, or where nobody gave one.
    unnamed = [guided_method(nag=0.5), guided_method(cfg=0.5), time_shift(0.1, cutoff=0.3)]
    mine = [Method("mine", make) for make in (lambda c: c.model, lambda c: (c.model, None))]
    methods = [ns.method(word) for word in words] + unnamed + mine
    assert all_different([method.describe()["make"] for method in methods])
    assert ns.method("nag=1").describe() == ns.method("nag=1").describe()


def test_what_decides_a_correction_is_in_its_fingerprint():
    extractor = ClassifierFeatures()

    def of(protocol=None, measured=8, against=None):
        protocol = protocol or Protocol("euler:4")
        return json.dumps(correct.fingerprint(ns.load(), protocol, IMAGES, extractor, measured, against))

    turned = Protocol("euler:4", estimators={"constant-pixel": None, "network": None, "residual": None})
    assert all_different([of(), of(measured=9), of(against=ns.load()), of(against=ns.load("fashion-ddpm")), of(turned)])


SMALL = "--samples 4 --batch 2 --sampler euler:2 --no-progress".split()


def killed(words, monkeypatch):
    """A run that is stopped in its second batch."""
    from noiseshift.studies import draw

    real = draw.sampler_run

    def stop(model, checkpoint, protocol, indices, **rest):
        if indices.start == 2:
            raise KeyboardInterrupt
        return real(model, checkpoint, protocol, indices, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(draw, "sampler_run", stop)
        assert CliRunner().invoke(main, words).exit_code == 130


def pictures(words, path):
    result = CliRunner().invoke(main, [*words, "--out", str(path)])
    assert result.exit_code == 0, result.output
    with np.load(path) as file:
        return file["arr_0"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--seed", "1"], "seed was 0, is 1"),
        (["--guidance", "nag=1"], "guidance was None"),
        (["--card", "EDITED"], "checkpoint.card.time.scale was 1000.0, is 900.0"),
    ],
)
def test_a_killed_run_is_not_gone_on_with_as_another(change, says, bundled, tmp_path, monkeypatch, caplog):
    edited = tmp_path / "edited.yaml"
    card = yaml.safe_load(bundled.with_suffix(".yaml").read_text())
    edited.write_text(yaml.safe_dump(card | {"time": {"zero": "data", "scale": 900.0, "offset": 0.0}}))
    change = [str(edited) if word == "EDITED" else word for word in change]
    words = ["sample", str(bundled), *SMALL]
    killed([*words, "--out", str(tmp_path / "run.npz")], monkeypatch)
    with caplog.at_level(logging.WARNING, "noiseshift"):
        resumed = pictures([*words, *change], tmp_path / "run.npz")
    said = [record.getMessage() for record in caplog.records if says in record.getMessage()]
    assert len(said) == 1
    assert "\n" not in said[0]
    fresh, plain = pictures([*words, *change], tmp_path / "fresh.npz"), pictures(words, tmp_path / "plain.npz")
    np.testing.assert_array_equal(resumed, fresh)
    assert not np.array_equal(plain[:2], fresh[:2])


def test_a_kept_cell_is_another_runs_where_anything_changed(bundled, tmp_path, caplog):
    from noiseshift.studies.grid import Cell, run_grid

    settings = {"samples": 4, "estimators": {"constant-pixel": None}, "points": 1, "calibration_rows": 20}
    first = Cell("a", ns.load(bundled), Protocol("euler:2", **settings), IMAGES)
    run_grid([first], tmp_path)
    made = (tmp_path / "a" / "run.json").stat().st_mtime_ns
    card = yaml.safe_load(bundled.with_suffix(".yaml").read_text())
    half = ns.noise_awareness(1.0, interval=(0.0, 0.4))  # no weight at t = 0.5
    changes = {
        "card": dataclasses.replace(first, checkpoint=ns.load(bundled, card=card | {"heads": 2})),
        "guidance": dataclasses.replace(first, protocol=dataclasses.replace(first.protocol, guidance=half)),
        "data": dataclasses.replace(first, data=ns.data.reference()[64:128]),
    }
    with caplog.at_level(logging.WARNING, "noiseshift"):
        run_grid([first], tmp_path)
        assert (tmp_path / "a" / "run.json").stat().st_mtime_ns == made
        assert not caplog.records
        for name, cell in changes.items():
            caplog.clear()
            run_grid([cell], tmp_path)
            (said,) = [record.getMessage() for record in caplog.records if "holds another run" in record.getMessage()]
            assert name in said
            assert (tmp_path / "a" / "run.json").stat().st_mtime_ns != made
            made = (tmp_path / "a" / "run.json").stat().st_mtime_ns


def test_runs_that_older_versions_kept_are_still_compared(bundled, tmp_path):
    from noiseshift.studies.compare import compare
    from noiseshift.studies.grid import Cell, run_grid

    settings = {"samples": 8, "estimators": {"constant-pixel": None}, "points": 2, "calibration_rows": 20}
    run_grid([Cell("old", ns.load(bundled), Protocol("euler:3", **settings), IMAGES)], tmp_path)
    file = tmp_path / "old" / "run.json"
    about = json.loads(file.read_text())
    for key in ("solver", "device", "extractor", "software"):
        del about[key]
    about["checkpoint"] = {key: about["checkpoint"][key] for key in ("name", "sha256", "family")}
    about["guidance"] = {"(True, True, 0)": 1.5, "(False, True, 0)": -0.5}
    file.write_text(json.dumps(about))
    table = compare({"old": ns.Run.load(tmp_path / "old")}, "constant-pixel").table
    assert table.guidance.tolist() == ["nag=0.5"]
