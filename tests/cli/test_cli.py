"""The command line as a user meets it: real runs on the bundled checkpoint, and every kind of bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from noiseshift.cli import main
from noiseshift.cli.parse import parse_estimators, parse_guidance
from safetensors.torch import load_file, save_file

import noiseshift as ns

SMALL = [
    "--samples",
    "8",
    "--sampler",
    "euler:4",
    "--estimator",
    "network,constant-pixel",
    "--points",
    "2",
    "--no-progress",
]


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def data(tmp_path):
    """A few held-out images, so that calibration takes no time."""
    part = ns.data.reference()[:64]
    np.savez(tmp_path / "few.npz", images=part.pixels.numpy(), labels=part.labels.numpy())
    return tmp_path / "few.npz"


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom noiseshift.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'matplotlib', 'pandas'} & set(sys.modules)\nprint('HEAVY', sorted(heavy))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in shown
    assert "noiseshift measure" in shown


@pytest.mark.parametrize("command", ["measure", "sample", "info"])
def test_every_command_has_examples(command):
    shown = run(command, "--help").output
    assert f"noiseshift {command}" in shown
    if command != "info":
        assert "0 = unguided" in shown


def test_measure_writes_a_whole_folder(tmp_path, data):
    result = run("measure", *SMALL, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    for name in ("run.json", "shift.parquet", "summary.json", "posteriors.npz", "samples.npz", "figures/shift.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    loaded = ns.Run.load(tmp_path / "run")
    assert loaded.manifest["sampler"] == "euler:4"
    assert loaded.manifest["checkpoint"]["sha256"] == ns.load().hash
    assert list(loaded.reports) == ["network", "constant-pixel"]
    assert "network" in result.output
    assert not list(tmp_path.glob(".*"))  # no leftovers of an unfinished run
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "run").stat().st_mode == (tmp_path / "usual").stat().st_mode  # others may read it


def test_json_is_all_that_is_on_stdout(tmp_path, data):
    result = run("measure", *SMALL, "--data", data, "--out", tmp_path / "run", "--json")
    summary = json.loads(result.stdout)
    assert {"run", "shift", "controls"} <= set(summary)
    assert {"shift", "low", "high", "floor", "resolved", "content_shift"} <= set(summary["shift"]["network"][0])


def test_config_file_sets_defaults_and_the_command_line_wins(tmp_path, data):
    (tmp_path / "c.yaml").write_text(
        f"samples: 8\nsampler: 'euler:3'\nestimator: constant-pixel\npoints: 1\ndata: {data}\n"
    )
    result = run(
        "measure", "--config", tmp_path / "c.yaml", "--sampler", "ddim:4", "--out", tmp_path / "run", "--no-progress"
    )
    assert result.exit_code == 0, result.output
    assert ns.Run.load(tmp_path / "run").manifest["sampler"] == "ddim:4"
    (tmp_path / "bad.yaml").write_text("sample: 8\n")
    result = run("measure", "--config", tmp_path / "bad.yaml")
    assert (result.exit_code, "unknown sample" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["measure", "nowhere.pt"], 1, "no checkpoint at nowhere.pt"),
        (["measure", "--sampler", "eular:50"], 2, "choose from euler:N"),
        (["measure", "--sampler", "euler"], 2, "write NAME:STEPS"),
        (["measure", "--sampler", "euler:1"], 2, "at least 2 steps"),
        (["measure", "--sampler", "diffusers/NoSuchScheduler:9"], 2, "no scheduler"),
        (["measure", "--samples", "0"], 2, "range"),
        (["measure", "--estimator", "guess"], 2, "choose from network"),
        (["measure", "--guidance", "cfg"], 2, "cfg=SCALE"),
        (["measure", "--device", "cuda:99"], 2, "no cuda:99 here: use --device cpu"),
        (["evaluate", "x.npz", "--device", "abacus"], 2, "no device"),
        (["measure", "--data", "nowhere"], 1, "no image set at nowhere"),
        (["info", "nowhere.pt"], 1, "no checkpoint at"),
        (["sample", "--out", "picture.gif"], 2, ".png or .npz"),
    ],
)
def test_bad_input_is_one_line_that_names_the_remedy(words, code, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert len([line for line in result.stderr.splitlines() if "rror" in line]) == 1
    assert not list(tmp_path.iterdir())


def test_a_full_accelerator_is_one_line(monkeypatch, data, tmp_path):
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("noiseshift.studies.measure.run", full)
    result = run("measure", *SMALL, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith("take a smaller --batch")
    assert "Traceback" not in result.output


def test_data_of_another_size_is_refused(tmp_path):
    np.savez(tmp_path / "big.npz", images=np.zeros((20, 32, 32, 1), np.uint8), labels=np.zeros(20, np.int64))
    result = run("measure", *SMALL, "--data", tmp_path / "big.npz", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "give --data of its own size" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["measure", "compare", "correct", "approx"])
@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((20, 32, 32), np.uint8), np.zeros(20), "of its own size"),
        (np.zeros((20, 28, 28, 3), np.uint8), np.zeros(20), "make its pictures grey"),
        (np.zeros((20, 28, 28), np.uint8), np.arange(20), "number them as it was trained on them"),
        (np.zeros((7, 28, 28), np.uint8), np.zeros(7), "give at least 8"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(tmp_path, command, images, labels, said):
    np.savez(tmp_path / "set.npz", images=images, labels=labels.astype(np.int64))
    result = run(command, "--sampler", "euler:4", "--data", tmp_path / "set.npz", "--dry-run")
    assert result.exit_code == 1
    assert said in result.stderr.splitlines()[-1]


def test_a_network_that_returns_nan_stops_the_run_and_leaves_nothing(tmp_path, data, tiny_file):
    state = load_file(tiny_file)
    state["final_layer.linear.bias"] = torch.full_like(state["final_layer.linear.bias"], float("nan"))
    save_file(state, tmp_path / "broken.safetensors")
    words = ["--card", tiny_file.with_suffix(".yaml"), "--data", data, "--out", tmp_path / "run"]
    result = run("measure", tmp_path / "broken.safetensors", *SMALL, "--estimator", "constant-pixel", *words)
    assert result.exit_code == 1
    assert "not finite" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 2  # what was read, and the error
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, data, monkeypatch):
    from noiseshift.studies import measure as p

    words = ["measure", *SMALL, "--batch", "4", "--data", data, "--out", tmp_path / "run"]
    protocol = ns.Protocol("euler:4", 8, {"network": None, "constant-pixel": None}, points=2, batch=4)
    whole = ns.run(ns.load(), protocol, ns.data.load_images(data))
    calls, real = [], p.sampler_run

    def interrupted(*args):
        if len(args[3]) > 1:  # not the one empty trajectory that counts calls
            calls.append(args[3])
            if len(calls) == 2:
                raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(p, "sampler_run", interrupted)
    stopped = run(*words)
    assert stopped.exit_code == 130
    assert not (tmp_path / "run").exists()
    assert run(*words).exit_code == 0
    assert [indices.start for indices in calls] == [0, 4, 4]
    again = ns.Run.load(tmp_path / "run").reports["network"]
    np.testing.assert_array_equal(whole.reports["network"].sampled.t, again.sampled.t)


def test_samples_do_not_depend_on_the_batch(tmp_path):
    for batch in (3, 8):
        result = run(
            "sample",
            "--samples",
            8,
            "--sampler",
            "em:3",
            "--batch",
            batch,
            "--out",
            tmp_path / f"{batch}.npz",
            "--no-progress",
        )
        assert result.exit_code == 0, result.output
    with np.load(tmp_path / "3.npz") as a, np.load(tmp_path / "8.npz") as b:
        assert a["arr_0"].shape == (8, 28, 28, 1)
        # The same noise; a forward of another batch size rounds differently in the last bit.
        assert np.abs(a["arr_0"].astype(int) - b["arr_0"]).max() <= 1
        np.testing.assert_array_equal(a["arr_1"], np.arange(8))


def test_sample_writes_a_picture(tmp_path):
    from PIL import Image

    assert (
        run("sample", "--samples", 5, "--sampler", "heun:2", "--out", tmp_path / "s.png", "--no-progress").exit_code
        == 0
    )
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (5 * 28 * 3, 28 * 3)


def test_info_says_what_the_bundled_checkpoints_are():
    for name, predicts in (("fashion-sit", "velocity"), ("fashion-ddpm", "epsilon")):
        result = run("info", name, "--json")
        found = json.loads(result.stdout)
        assert found["card"]["prediction"] == predicts
        assert found["classes"] == 10
        assert len(found["branches"]) == 4


def test_words_become_objects():
    assert ns.solver("ddim:50:0.5").name == "ddim:50:0.5"
    assert parse_estimators("network,fokker-planck") == {"network": None, "fokker-planck": 32}
    assert parse_estimators("fokker-planck:64") == {"fokker-planck": 64}
    weights = parse_guidance("cfg=1.5,nag=0.8").weights()
    assert list(weights.values()) == pytest.approx([3.3, -1.5, -0.8])


def test_a_guidance_may_be_limited_to_times():
    from noiseshift.diffusion.guidance import in_words

    guidance = parse_guidance("cfg=1.5,nag=0.5@0.1:0.6")
    assert in_words(guidance.describe()) == "cfg=1.5, nag=0.5 for t in [0.1, 0.6]"
    for wrong in ("nag=1@", "nag=1@0.5", "nag=1@0.6:0.2", "nag=1@-1:0.5", "nag=1@0:2", "nag=1@0:x", "nag=1@0:0.5:1"):
        with pytest.raises(ValueError, match="is no guidance"):
            parse_guidance(wrong)


def test_info_says_what_a_file_was_taken_for_and_what_it_lacks(tmp_path):
    from noiseshift.networks.transformer import Transformer, TransformerConfig

    network = Transformer(TransformerConfig(8, 4, 2, 16, 1, 2, classes=3, noise_dropout=False))
    torch.save({"ema": network.state_dict()}, tmp_path / "x.pt")
    (tmp_path / "x.yaml").write_text("{family: dit, heads: 2}")
    found = json.loads(run("info", str(tmp_path / "x.pt"), "--json").stdout)
    assert found["recognised"].startswith("a DiT, SiT or REPA transformer")
    assert found["missing"][0].startswith("noise-unconditional branch")
    assert any("--vae" in what for what in found["missing"])
    assert json.loads(run("info", "--json").stdout)["missing"] == "nothing"
