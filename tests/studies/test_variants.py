"""Variants of one checkpoint: each changes what it says, is known by its word, and is compared from the same seeds."""

import copy
import sys
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from click.testing import CliRunner
from noiseshift.analysis.compare import figures
from noiseshift.analysis.compare_tables import markdown_table
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint
from noiseshift.checkpoints.diffusers.conditions import Bank, Conditions
from noiseshift.checkpoints.diffusers.networks import PackedTransformer
from noiseshift.networks.model import NetworkModel
from noiseshift.networks.variants import with_rounded_time
from noiseshift.studies.compare import compare
from noiseshift.studies.differences import FINAL_NOISE, final_noise_of
from noiseshift.studies.grid import Cell, varied
from noiseshift.studies.protocol import fingerprint
from noiseshift.studies.sampling import sampler_run
from noiseshift.studies.variants import variant

PROTOCOL = ns.Protocol(
    "euler:7", samples=8, estimators={"residual": None}, points=2, batch=8, content_steps=1, calibration_rows=16
)


@pytest.fixture(scope="module")
def bundled():
    return ns.load()


@pytest.fixture(scope="module")
def transformer():
    """A tiny Flux network, which takes caches, as a folder's is wrapped, with two encoded prompts."""
    torch.manual_seed(0)
    network = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(2, 2, 4),
    )
    prompts = Conditions(torch.randn(3, 5, 16), torch.randn(3, 16), 2, ("a red cat", "a blue dog"))
    model = NetworkModel(
        PackedTransformer(tiny.shaken(network), Bank(prompts), None),
        ns.Linear(),
        "velocity",
        lambda t: t,
        classes=2,
        class_dropout=True,
        noise_dropout=False,
        shape=(4, 8, 8),
    )
    return Checkpoint("tiny-flux", model, Card("callable"), "0" * 64, (4, 8, 8), 2, None, lambda x: x)


def final(checkpoint, protocol=PROTOCOL):
    """The final states of two samples."""
    from noiseshift.studies.sampling import guided

    moved = checkpoint.to("cpu", protocol.precision)
    *_, last = sampler_run(guided(moved, protocol), moved, protocol, range(2))
    return last.x


@pytest.mark.parametrize("word", ["bf16", "fp16", "time=bf16", "time=fp16", "steps=5", "int8"])
def test_a_variant_changes_the_samples_a_little_and_the_fingerprint(bundled, word):
    if word == "int8":
        pytest.importorskip("torchao")
    plain = final(bundled)
    changed, protocol = variant(word)(bundled, PROTOCOL)
    found = final(changed, protocol)
    assert 0 < float((found - plain).square().mean().sqrt()) < 0.5
    torch.testing.assert_close(final(bundled), plain, rtol=0, atol=0, msg="the checkpoint itself is as it was")
    about = fingerprint(changed, protocol)
    assert about["checkpoint"]["variant"] == word
    assert about != fingerprint(bundled, PROTOCOL)
    assert about == fingerprint(*variant(word)(ns.load(), PROTOCOL)), "the same in another process"


def test_fp32_is_the_checkpoint_as_it_is(bundled):
    torch.testing.assert_close(final(*variant("fp32")(bundled, PROTOCOL)), final(bundled), rtol=0, atol=0)


def test_a_compiled_network_gives_the_same_samples_and_says_which_backend(bundled):
    changed, _ = variant("compile=eager")(bundled, PROTOCOL)
    torch.testing.assert_close(final(changed), final(bundled), rtol=1e-5, atol=1e-5)
    other = variant("compile")(bundled, PROTOCOL)[0]
    prints = [fingerprint(each, PROTOCOL)["checkpoint"]["model"] for each in (bundled, changed, other)]
    assert len({*prints}) == 3
    with pytest.raises(ValueError, match="no backend 'fast'"):
        variant("compile=fast")(bundled, PROTOCOL)


def test_a_rounded_time_is_the_half_precision_number(bundled):
    model = variant("time=bf16")(bundled, PROTOCOL)[0].model
    t = torch.tensor([0.7512], dtype=torch.float64)
    plain = bundled.model.time_input(t)
    assert model.time_input(t) == plain.to(torch.bfloat16)
    assert model.time_input(t).dtype == plain.dtype


@pytest.mark.parametrize("word", ["cache=first-block:0.5", "cache=taylorseer:2", "cache=pab:2"])
def test_a_cache_skips_work_in_a_run_and_forgets_at_the_next(transformer, word):
    changed, protocol = variant(word)(transformer, PROTOCOL)
    first = final(changed, protocol)
    assert bool(torch.isfinite(first).all())
    torch.testing.assert_close(final(changed, protocol), first, rtol=0, atol=0, msg="the second run starts anew")
    # What reads has no cache.
    x, t = torch.randn(2, *transformer.shape), torch.tensor(0.5)
    a, b = (each.model(x, t, torch.tensor([0, 1])).eps for each in (changed, transformer))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert fingerprint(changed, protocol)["checkpoint"]["variant"] == word


def test_a_cache_that_is_never_used_changes_nothing_and_one_that_always_is_does(transformer):
    plain = final(transformer)
    torch.testing.assert_close(final(*variant("cache=first-block:0")(transformer, PROTOCOL)), plain)
    assert float((final(*variant("cache=first-block:1e9")(transformer, PROTOCOL)) - plain).abs().max()) > 1e-4


CACHES = ("cache=first-block:1e9", "cache=taylorseer:2", "cache=pab:2", "cache=faster:2", "cache=mag:0.5")


@pytest.mark.parametrize("word", CACHES)
def test_every_cache_skips_attentions_and_says_how_many(transformer, word):
    changed, protocol = variant(word)(transformer, replace(PROTOCOL, solver="euler:12"))
    found, plain = final(changed, protocol), final(transformer, protocol)
    assert 0 < changed.sampled.skipping.share < 1
    assert changed.sampled.skipping.calls == 12
    assert 0 < float((found - plain).abs().max())
    torch.testing.assert_close(final(changed, protocol), found, rtol=0, atol=0, msg="the second run starts anew")


@pytest.mark.parametrize("word", CACHES)
def test_rows_that_go_through_the_network_a_few_at_a_time_do_not_share_what_a_cache_holds(transformer, word):
    changed, protocol = variant(word)(transformer, PROTOCOL)
    whole = final(changed, protocol)
    other = copy.deepcopy(transformer.model)
    other.halving.rows = 1  # as `studies.pace` sets it on the checkpoint's model
    split, _ = variant(word)(replace(transformer, model=other), PROTOCOL)
    torch.testing.assert_close(final(split, protocol), whole, rtol=0, atol=0)


@pytest.mark.parametrize("word", ["cache=taylorseer:2", "cache=pab:2", "cache=faster:2"])
def test_a_sample_does_not_depend_on_the_batch_under_a_cache_that_counts_steps(transformer, word):
    """FasterCache takes the first half of the rows for an unconditional branch where it is not told that there is none."""
    from noiseshift.studies.sampling import guided

    changed, protocol = variant(word)(transformer, replace(PROTOCOL, solver="euler:12"))

    def finals(indices):
        *_, last = sampler_run(guided(changed, protocol), changed, protocol, indices)
        return last.x

    torch.testing.assert_close(finals(range(4))[2:], finals(range(2, 4)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("word", CACHES)
def test_a_run_of_one_call_takes_nothing_from_the_batch_before(transformer, word):
    changed, _ = variant(word)(transformer, PROTOCOL)
    final(changed)
    t, labels = torch.tensor(1.0), torch.tensor([0, 1])
    for seed in range(2):
        x = torch.randn(2, *transformer.shape, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(changed.sampled(x, t, labels).x0, transformer.model(x, t, labels).x0)


@pytest.mark.parametrize("word", CACHES)
def test_a_guidance_that_begins_within_the_run_begins_the_cache_anew(transformer, word):
    guidance = ns.classifier_free(1.0, interval=(0, 0.5))
    changed, protocol = variant(word)(transformer, replace(PROTOCOL, solver="euler:12", guidance=guidance))
    assert bool(torch.isfinite(final(changed, protocol)).all())


def test_mag_is_calibrated_on_the_run_that_it_is_for(transformer):
    changed, protocol = variant("cache=mag:0.5")(transformer, replace(PROTOCOL, solver="heun:6"))
    final(changed, protocol)
    config = changed.sampled.inner._cache_config
    assert config.num_inference_steps == len(config.mag_ratios) == 11
    assert float(config.mag_ratios[0]) == 1
    assert 0.1 < float(config.mag_ratios.min())


def test_what_a_cache_predicts_is_read_by_nothing(transformer):
    """The residual reads the noise that the checkpoint's own network predicts; a cache's may be of the step before."""
    from noiseshift.studies.sampling import guided

    changed, protocol = variant("cache=first-block:1e9")(transformer, PROTOCOL)
    steps = list(sampler_run(guided(changed, protocol), changed, protocol, range(2)))
    assert all(step.prediction is None for step in steps)
    assert any(step.prediction is not None for step in sampler_run(transformer.model, transformer, PROTOCOL, range(2)))


def test_a_run_says_what_its_cache_skipped_and_warns_where_that_is_nothing(transformer, caplog):
    data = ns.data.Images(torch.randn(48, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 2)
    protocol = replace(PROTOCOL, calibration_rows=8, content_steps=4)
    found = {word: ns.run(*variant(word)(transformer, protocol), data) for word in ("fp32", "cache=mag:1e9")}
    assert "skipped" not in found["fp32"].manifest
    assert 0 < found["cache=mag:1e9"].manifest["skipped"] < 1
    assert found["cache=mag:1e9"].manifest["weights MB"] == found["fp32"].manifest["weights MB"] > 0
    assert "skipped nothing" not in caplog.text
    none = ns.run(*variant("cache=first-block:0")(transformer, protocol), data)
    assert none.manifest["skipped"] == 0
    assert "cache=first-block skipped nothing" in caplog.text
    plain, same = (run.reports["residual"].table()["shift"] for run in (found["fp32"], none))
    np.testing.assert_allclose(same, plain, atol=1e-4)
    comparison = compare({**found, "none": none}, "residual")
    assert comparison.table.skipped.isna().tolist() == [True, False, False]
    assert "skipped" in markdown_table(comparison)
    drawn = {name: draw for name, draw, _ in figures(comparison)}
    assert "skipped" in " ".join(axes.get_xlabel() for axes in drawn["variants"]().get_figure().axes)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        *(
            (word, "is no variant")
            for word in ("fp8", "steps=x", "steps=", "cache=none", "cache=first-block:x", "lora=", "time=int8")
        ),
        ("steps=1", "at least 2"),
        ("cache=first-block", "transformers of diffusers folders"),
    ],
)
def test_what_cannot_be_had_is_one_line(bundled, word, why):
    with pytest.raises(ValueError, match=why) as caught:
        variant(word)(bundled, PROTOCOL)
    assert "\n" not in str(caught.value)


def test_without_torchao_int8_is_refused_in_one_line(bundled, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r"pip install 'noiseshift\[quantize\]'"):
        variant("int8")(bundled, PROTOCOL)


def test_custom_code_is_not_changed():
    model = ns.wrap(lambda x, t, cond: x, ns.Linear(), predicts="x0")
    mine = Checkpoint("mine", model, Card("callable"), "0" * 64, (1, 4, 4), 0, None, lambda x: x)
    for word in ("time=bf16", "compile=eager", "int8", "cache=first-block"):
        with pytest.raises(ValueError, match=f"custom code, which {word} cannot change"):
            variant(word)(mine, PROTOCOL)


@pytest.fixture(scope="module")
def compared(bundled):
    """The bundled model under three variants."""
    data = ns.data.reference()[:64]
    runs = {}
    for word in ("fp32", "time=bf16"):
        checkpoint, protocol = variant(word)(bundled, PROTOCOL)
        runs[word] = ns.run(checkpoint, protocol, data)
    return compare(runs, "residual")


def test_the_table_and_the_figure_name_variants_and_what_they_cost(compared):
    assert list(compared.table.variant) == ["fp32", "time=bf16"]
    assert (compared.table["weights MB"] > 1).all()
    assert (compared.table["sampling seconds"] > 0).all()
    assert {"mean δ²", FINAL_NOISE} <= {*compared.pairs.quantity}
    assert compared.pairs.paired.all()
    assert "variant" in markdown_table(compared)
    drawn = {name: draw for name, draw, _ in figures(compared)}
    assert drawn["variants"]().get_figure().axes


def test_the_noise_left_in_two_runs_is_compared_picture_by_picture(compared):
    runs = dict(compared.runs)
    base = runs["fp32"]
    noisy = copy.copy(base)
    generator = torch.Generator().manual_seed(0)
    added = 12 * torch.randn(base.pictures.shape, generator=generator)
    object.__setattr__(noisy, "pictures", (base.pictures + added).round().clamp(0, 255).to(torch.uint8))
    found = final_noise_of({"plain": base, "noisy": noisy})
    row = found.difference("noisy", "plain", paired=True)
    assert row["low"] > 0
    assert found.difference("plain", "plain", paired=True)["p"] == 1
    assert np.isfinite(row["high"])


def test_the_command_makes_a_cell_of_each(bundled):
    cell = Cell("fashion-sit-euler-7", bundled, PROTOCOL, None)
    made = varied(cell, variant("steps=3"), lambda checkpoint, lora: ns.load(lora=[lora]))
    assert (made.name, made.protocol.solver.steps) == ("fashion-sit-euler-7-steps-3", 3)
    refused = CliRunner().invoke(main, ["compare", "--sampler", "euler:2", "--variant", "fp8"])
    assert refused.exit_code == 2
    assert "is no variant" in refused.output


class Denoising(torch.nn.Module):
    """The exact velocity of a Gaussian whose directions hold almost nothing but noise, conditioned on 1000 t."""

    def forward(self, x, time, label, known):
        t = (time / 1000).reshape(-1, 1)
        total = (1 - t) ** 2 * 1e-4 + t**2
        return (t - (1 - t) * 1e-4) / total * x


def test_a_time_that_is_rounded_is_a_shift_of_known_size_and_exact_times_are_none():
    """Each Euler step removes noise as at the rounded time: the noise scale is off by the product of (1 - h/t') / (1 - h/t)."""
    schedule = ns.Linear()
    plain = NetworkModel(
        Denoising(), schedule, "velocity", lambda t: 1000 * t, classes=0, class_dropout=False, noise_dropout=False
    )
    rounded = with_rounded_time(plain, "bf16")
    start = torch.randn(64, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = ns.targets.Gaussian(torch.zeros(128).double(), torch.full((128,), 1e-4).double())
    data = exact.sample(64, torch.Generator().manual_seed(1))
    for steps, moved in ((13, True), (50, False)):  # 1000 k / 50 are numbers of bf16
        times = ns.time_grid(plain, steps)
        at = times[[steps // 2, steps - 4]].double()
        instrument = ns.calibrate(exact.estimator(schedule), data, at)
        reports = [ns.measure(ns.sample(model, start, times), instrument, content=False) for model in (rounded, plain)]
        found = (reports[0] - reports[1]).table()
        ratio, expected = 1.0, []
        for k in range(steps - 4):
            t, other = float(times[k]), float(rounded.time_input(times[k : k + 1].double())) / 1000
            ratio *= (1 - 1 / steps / other) / (1 - 1 / steps / t)
            if float(times[k + 1]) in at.tolist():
                expected.append(float(times[k + 1]) * (ratio - 1))
        assert found.resolved.all() == moved
        np.testing.assert_allclose(found.difference, expected, rtol=0.25, atol=2e-6)


def test_variants_that_leave_the_model_as_it_is_share_calibrations_and_content(transformer, tmp_path, monkeypatch):
    """And one that changes it has its own, whatever its word."""
    monkeypatch.setenv("NOISESHIFT_CACHE", str(tmp_path / "kept"))
    data = ns.data.Images(torch.randn(48, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 2)
    protocol = replace(PROTOCOL, solver="euler:5", calibration_rows=8, content_steps=4)

    def kept(word):
        ns.run(*variant(word)(transformer, protocol), data)
        return sorted(file.name for file in (tmp_path / "kept").rglob("*") if file.is_file())

    plain = kept("fp32")
    assert plain
    assert kept("cache=taylorseer:2") == kept("cache=first-block:1e9") == plain
    assert len(kept("time=bf16")) > len(plain)


def test_the_command_compares_caches_of_a_pipeline_with_encoded_prompts(tmp_path):
    """Only networks that are conditioned on a text take caches: without these options none could be compared."""
    pytest.importorskip("transformers")
    tiny.flux(tmp_path / "flux", guided=False)
    Conditions(torch.randn(3, 5, 32), torch.randn(3, 16), 2).save(tmp_path / "words.safetensors")
    words = [
        "compare",
        "--checkpoint",
        str(tmp_path / "flux"),
        "--size",
        "16",
        "--sampler",
        "euler:4",
        "--data",
        "none",
    ]
    words += [
        "--samples",
        "4",
        "--points",
        "2",
        "--estimator",
        "residual",
        "--variant",
        "fp32",
        "--variant",
        "cache=pab:2",
    ]
    words += ["--no-cache", "--no-progress", "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert "give --prompts FILE" in refused.output
    found = CliRunner().invoke(main, [*words, "--embeddings", str(tmp_path / "words.safetensors")])
    assert found.exit_code == 0, found.output
    assert "skipped" in (tmp_path / "out" / "table.csv").read_text().splitlines()[0]
