"""The page says what the tables say, in words that hold in every case, and needs nothing but itself."""

import dataclasses
import html
import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from noiseshift.analysis.answer import answer
from noiseshift.analysis.page_measure import measured
from noiseshift.analysis.report import page
from noiseshift.cli import main
from reports import log_snr_of, report_of

import noiseshift as ns
from noiseshift.shift.controls import Check, Controls
from noiseshift.shift.refinement import FACTORS, Refinement
from noiseshift.shift.shares import shares

TIMES = np.array([0.9, 0.5, 0.1])
LEFT = {"space": "pictures", "reader": "wavelet", "sigma": 0.043, "low": 0.035, "high": 0.049, "floor": 0.02}
LEFT |= {"verdict": "noise", "samples": 64, "psnr": 33.3869}
PASSED = (Check("null", True, "0 of 9"), Check("level", True, "9 of 9"), Check("exact model", None, "a note"))


def around(offset, n, seed):
    """Readings around t + offset; states of one seed share their noise, as a run and its exact model do."""
    return TIMES + offset + 0.01 * np.random.default_rng(seed).standard_normal((n, 3))


def report(shift, name="network", *, content=None, slope=1.0, seed=2):
    states, real = around(np.array(shift), 200, seed), around(0.0, 400, 1)
    against = around(0.0 if content is None else content, 200, 3)
    return report_of(TIMES, states, real, slope=slope, content=against, name=name, log_snr=log_snr_of)


def refined(one, solver, order=1):
    """The run under N, 2N and 4N steps, where `solver` (K,) of the shift vanishes with the steps."""
    taken = np.array(solver) * one.calibration.slope
    runs = np.stack([one.sampled.t - taken * (1 - 1 / n**order) for n in FACTORS])
    return Refinement(one.estimator, order, runs, one.calibration)


def made(*reports, checks=PASSED, solver=None, steps=None, name="net"):
    """A run; `solver` is the report of an exact model, `steps` what of the shift vanishes with the steps."""
    controls = None
    if checks is not None:
        first = reports[0]
        table = shares(first, None if steps is None else refined(first, steps), solver)
        controls = Controls(checks, solver={} if solver is None else {"network": solver}, shares=table)
    manifest = {"checkpoint": {"name": name}, "sampler": "em:20", "guidance": None, "samples": 200, "seed": 0}
    pictures = torch.randint(0, 255, (20, 1, 8, 8), dtype=torch.uint8)
    return ns.Run(manifest, {r.estimator: r for r in reports}, controls, pictures, None)


def test_a_positive_shift_that_is_the_solvers():
    found = answer(made(report([0.0, 0.01, 0.03]), solver=report([0.0, 0.009, 0.03]), steps=[0, 0.01, 0.03]))
    first, second, third = found.lines
    assert "noisier than their conditioning level at 2 of 3 levels (p < 0.001 over 3 levels together)" in first
    assert re.search(r"at most \+0\.0[23]\d\d \(95 % \+0\.0\d+ … \+0\.0\d+\) in t at t = 0\.1", first)
    assert "this much of it is the solver's, by both" in second
    assert "sign is the same" in second
    assert "nothing was compared with it" in third
    assert third.endswith("All controls passed.")


@pytest.mark.parametrize(
    ("alone", "steps", "says"),
    [
        ([0, 0, 0.0], [0, 0, 0.0], "the network has a part in it, by both"),
        ([0, 0, 0.03], [0, 0, 0.03], "a part of the network's is not established"),
        ([0, 0, 0.015], [0, 0, 0.015], "the solver and the network both have a part in it, by both"),
        ([0, 0, 0.03], [0, 0, 0.0], "whose it is stays open"),
        ([0, 0, 0.05], [0, 0, -0.02], "whose it is stays open"),
        ([0, 0, 0.0], None, "this solver's steps cannot be refined here"),
        ([0, 0, 0.0], None, "one experiment alone does not say whose it is"),
    ],
)
def test_whose_shift_it_is(alone, steps, says):
    assert says in answer(made(report([0, 0, 0.03]), solver=report(alone, seed=4), steps=steps)).lines[1]


def test_whose_shift_it_is_is_said_where_both_experiments_were_read():
    slope = np.ones((20, 3))
    slope[:, 2] = 0.2  # the exact model cannot be read where the shift is largest
    exact = report([0, 0.02, 0.03], slope=slope, seed=4)
    second = answer(made(report([0, 0.02, 0.03]), solver=exact, steps=[0, 0.02, 0.03])).lines[1]
    assert second.startswith("At t = 0.5,")
    assert "this much of it is the solver's, by both" in second
    assert "Of 3 levels both experiments give 1 to the solver and 0 to the network." in second


def test_ends_of_a_shift_have_a_sign_and_those_of_a_spread_have_none():
    run = dataclasses.replace(made(report([0, 0, 0.03])), residual_noise=pd.DataFrame([LEFT]))
    tables = {each.caption: each for each in measured("one", "one", run).tables}
    for caption, signed in (("Every reading", True), ("Residual noise of the final samples", False)):
        headings = [heading for heading, _ in tables[caption].headings]
        ends = [j for j, heading in enumerate(headings) if heading in ("95 % from", "to", "band from")]
        assert len(ends) >= 2
        texts = [row[j].text for row in tables[caption].rows for j in ends]
        assert all(text[0] in "+−" for text in texts) if signed else not any(text[0] in "+−" for text in texts)
    assert "33.4" in [found.text for found in tables["Residual noise of the final samples"].rows[0]]


def test_without_the_exact_model_nobody_is_blamed():
    found = answer(made(report([0, 0, 0.03]), checks=None))
    assert "was not measured (run with --controls)" in found.lines[1]
    assert "No control was run" in found.lines[2]
    assert found.verdict == "not run"


def test_nothing_resolved_is_a_bound_and_not_a_zero():
    first = answer(made(report([0, 0, 0]))).lines[0]
    assert (
        "no noise shift is significant at 95 % in the states of net under em:20 (over 3 levels together, p = 0."
        in first
    )
    assert re.search(
        r"That is not zero: as read by network, \|δ\| is below 0\.00\d\d in t at all of 3 levels\.$", first
    )


def test_a_cleaner_state_and_a_change_of_sign():
    assert "cleaner than their conditioning level at 1 of 3" in answer(made(report([0, 0, -0.03]))).lines[0]
    assert (
        "noisier than their conditioning level at 1 and cleaner at 1 of 3"
        in answer(made(report([0.03, 0, -0.02]))).lines[0]
    )


def test_a_level_that_is_resolved_alone_is_not_the_runs_answer():
    """One interval of ten that just leaves out 0 is what chance does: the run says no, whatever its dots say."""
    times, rng = np.linspace(0.9, 0.1, 10), np.random.default_rng(0)
    sampled, real = (times + 0.01 * rng.standard_normal((rows, 10)) for rows in (200, 400))
    floor = 1.96 * np.sqrt((sampled.var(0, ddof=1) / 200) + real.var(0, ddof=1) / 400)
    sampled += real.mean(0) - sampled.mean(0) + np.where(times == times[4], 1.1 * floor, 0)
    run = made(report_of(times, sampled, real))
    assert run.table().resolved.sum() == 1
    assert not run.answer.significant
    first = answer(run).lines[0]
    assert "no noise shift is significant" in first
    assert "At 1 level an interval of its own leaves out 0" in first


def test_a_shift_that_the_first_estimator_does_not_see_is_not_hidden():
    first = answer(made(report([0, 0, 0]), report([0, 0, 0.03], "residual", seed=4))).lines[0]
    assert "a noise shift is significant at 95 % in the states of net under em:20 by residual" in first
    assert "network reads none" in first


def test_the_summary_has_the_runs_p_and_each_estimators():
    run = made(report([0, 0, 0.03]), report([0, 0, 0], "residual", seed=4))
    found = run.summary()["run_p"]
    assert set(found) == {"run", "network", "residual"}
    assert found["run"] < 0.05
    assert found["network"] < 0.05 < found["residual"]
    unreadable = made(report([0, 0, 0.03], slope=0.1))
    assert unreadable.summary()["run_p"] == {"run": None, "network": None}


def test_estimators_that_disagree_are_named():
    lead = report([0, 0, 0.03])
    third = answer(made(lead, report([0, 0, -0.02], "residual"))).lines[2]
    assert third.startswith("The estimators disagree (p < 0.001): residual reads the opposite sign (at t = 0.1")
    assert "reads another size (at t = 0.1" in answer(made(lead, report([0, 0, 0.01], "residual"))).lines[2]
    same = answer(made(lead, report([0, 0, 0.03], "residual", seed=4))).lines[2]
    assert same.startswith("No difference between the 2 estimators is significant (p = ")


def test_estimators_whose_intervals_are_apart_at_one_of_many_levels_do_not_disagree():
    """Each interval is one of three: that two do not meet somewhere is not that they disagree."""
    lead = report([0, 0, 0])
    agree = sum(
        answer(made(lead, report([0, 0, 0], "residual", seed=seed))).lines[2].startswith("No difference")
        for seed in range(10, 40)
    )
    assert agree >= 26


def test_a_failed_control_is_said_first():
    found = answer(made(report([0, 0, 0.03]), checks=(PASSED[0], Check("level", False, "1 of 9"))))
    assert found.lines[0].startswith(
        "The instrument failed its own level control: do not use the numbers below (1 of 9)."
    )
    assert found.verdict == "failed"
    assert "passed" not in found.lines[2].replace("Not all controls passed", "")


def test_the_content_control_that_flips_the_sign_leaves_a_bound():
    second = answer(made(report([0, 0, 0.03], content=0.05))).lines[1]
    assert (
        "has the opposite sign at 1 of 1 resolved level (t = 0.1), both intervals without 0: there only a bound"
        in second
    )
    bound = float(re.search(r"\|δ\| ≤ (0\.\d+)", second)[1])
    table = report([0, 0, 0.03], content=0.05).table().iloc[2]
    assert bound == pytest.approx(max(table.high, -table.content_low), abs=1e-4)


def test_a_shift_that_the_content_control_cannot_tell_from_nothing_is_not_called_content():
    second = answer(made(report([0, 0, 0.03], content=np.array([0, 0, 0.0302])))).lines[1]
    assert "not significant at 1 of 1 resolved level: what is read there may be their level or their content" in second
    assert "opposite" not in second


def test_unreadable_levels_are_not_zeros():
    lead = report([0, 0, 0.03])
    half = np.where(TIMES > 0.8, 0.2, 1.0)
    first = answer(made(report([0, 0, 0.03], slope=half))).lines[0]
    assert "of 2 levels" in first
    assert "At 1 further level nothing can be read" in first
    unreadable = report([0, 0, 0.03], slope=0.1)
    assert answer(made(unreadable)).lines[0].startswith("Nothing was measured")
    two = ns.Run(made(lead).manifest, {"network": unreadable, "residual": lead}, None, torch.zeros(1), None)
    assert answer(two).estimator == "residual"


def test_what_reads_states_of_few_numbers_is_named():
    unread = made(report([0, 0, 0.03], slope=0.1, name="residual"), checks=(Check("level", None, "nothing"),))
    points = dataclasses.replace(unread, pictures=torch.zeros(20, 2))
    assert "A state of 2 numbers is small for a residual: take --estimator fokker-planck." in answer(points).lines[0]
    assert "fokker-planck" not in answer(unread).lines[0]
    assert answer(points).lines[2] == "No control could be read, so the instrument is unchecked here."


class Page(HTMLParser):
    """What a browser would build: balanced tags, ids, addresses."""

    VOID = frozenset(("meta", "link", "img", "br", "hr", "input"))

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.addresses, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.note(attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.note(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def note(self, attributes):
        self.ids += [value for key, value in attributes if key == "id"]
        self.addresses += [value for key, value in attributes if key in ("src", "href", "xlink:href")]


def test_the_page_is_whole_and_needs_nothing_else():
    run = made(report([0, 0, 0.03]), report([0, 0, 0.03], "residual"), solver=report([0, 0, 0.02]))
    text = page({"one": run, "two": run})
    seen = Page(text)
    assert len(set(seen.ids)) == len(seen.ids)
    outside = {a for a in seen.addresses if not a.startswith(("#", "data:"))}
    assert outside == {"https://arxiv.org/abs/2510.12497"}
    assert {a[1:] for a in seen.addresses if a.startswith("#")} <= set(seen.ids)
    assert not re.search(r"@import|url\((?!#)|<script src|<iframe", text)
    assert seen.tags.count("svg") == 2 * 5
    assert text.index('class="answer') < text.index("<figure>")
    assert len(text) < 1_500_000
    for line in answer(run).lines:
        assert html.escape(line).replace("&#x27;", "&#39;") in text


def test_the_tables_numbers_are_the_reports():
    one = report([0, 0, 0.03])
    text = page({"one": made(one)})
    for value in one.table()["shift"]:
        assert f">{value:+.4f}<".replace("-", "−") in text
    assert text.count(">not resolved<") == int((~one.table().resolved).sum())


def test_hostile_names_stay_text():
    text = page({"<img src=x onerror=alert(1)>": made(report([0, 0, 0.03]), name="<script>alert(1)</script>")})
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "<img src=x" not in text


def test_controls_are_words():
    text = page({"one": made(report([0, 0, 0.03]), checks=(PASSED[0], Check("level", False, "off")))})
    assert '<strong class="pass">pass</strong> <b>null</b>' in text
    assert '<strong class="fail">FAIL</strong> <b>level</b>' in text


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_measure_writes_the_page_and_the_command_that_made_it(tmp_path):
    part = ns.data.reference()[:64]
    np.savez(tmp_path / "few.npz", images=part.pixels.numpy(), labels=part.labels.numpy())
    words = ["measure", "--samples", 8, "--sampler", "euler:4", "--estimator", "network", "--points", 2]
    words += ["--data", tmp_path / "few.npz", "--out", tmp_path / "run", "--no-progress"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    typed = shlex.join(["noiseshift", *map(str, words)])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["command"] == typed
    first = (tmp_path / "run" / "report.html").read_text()
    assert typed in first
    result = run("report", tmp_path / "run", "--out", tmp_path / "again.html")
    assert result.exit_code == 0, result.output
    assert Page((tmp_path / "again.html").read_text()).tags == Page(first).tags


def svgs(text):
    """The titles of a page's figures, all of which are drawn and none a picture of letters."""
    assert "image/png" not in re.sub(r"<image[^>]*>|<img class=.(plate|pixels)[^>]*>", "", text)
    return re.findall(r'<svg role="img" aria-label="([^"]*)"', text)


def test_a_correction_writes_its_page(tmp_path):
    words = ["correct", "--sampler", "euler:3", "--nag", "0.5,1", "--samples", 24, "--measured", 16, "--small"]
    words += ["--estimator", "constant-pixel", "--out", tmp_path / "run", "--no-progress"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "run" / "report.html").read_text()
    methods = pd.read_csv(tmp_path / "run" / "methods.csv")
    assert f"the method to choose is {json.loads((tmp_path / 'run' / 'run.json').read_text())['chosen'][0]}" in text
    assert "of 2 methods change FD-fashion" in text
    assert shlex.join(["noiseshift", *map(str, words)]) in text
    for name in methods.method:
        assert f">{name}<" in text
    assert len(svgs(text)) == 3  # two scales make a curve
    assert run("report", tmp_path / "run", "--out", tmp_path / "again.html").exit_code == 0
    assert Page((tmp_path / "again.html").read_text()).tags == Page(text).tags
    # As version 0.1 wrote it: a method under its former name.
    for name in ("methods.csv", "shift-constant-pixel.csv", "run.json"):
        old = (tmp_path / "run" / name).read_text().replace("nag=0.5", "blind-free=0.5")
        (tmp_path / "run" / name).write_text(old)
    assert run("report", tmp_path / "run", "--out", tmp_path / "old.html").exit_code == 0
    text = (tmp_path / "old.html").read_text()
    assert ">level-nag=0.5<" in text
    assert "blind-free" not in text.split("<footer")[0].split("protocol")[0]


def test_an_approximation_writes_its_page(tmp_path):
    words = ["approx", "--sampler", "euler:3", "--times", "0.3", "--ratios", "0.5,1", "--rows", 24, "--samples", 4]
    words += ["--substeps", 2, "--estimator", "network", "--out", tmp_path / "run", "--no-progress"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "run" / "report.html").read_text()
    injected = pd.read_parquet(tmp_path / "run" / "injected.parquet")
    miss = (injected.first_order / injected.measured - 1).abs()[injected.resolved].median()
    assert f"first order misses it by {100 * miss:.0f} % (median; half of them between " in text
    titles = svgs(text)
    assert len(titles) == 3 + 2 * 2  # injected; a path and a spectrum of the checkpoint and of the exact model
    assert sum("exact model" in title for title in titles) == 2
    Page(text)


def test_a_comparison_writes_its_page(tmp_path):
    words = [
        "compare",
        "--sampler",
        "em:3",
        "--sampler",
        "euler:6",
        "--samples",
        40,
        "--small",
        "--extractor",
        "fashion",
    ]
    words += ["--estimator", "constant-pixel", "--out", tmp_path / "grid", "--no-progress"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "grid" / "report.html").read_text()
    pairs, table = (pd.read_csv(tmp_path / "grid" / f"{name}.csv") for name in ("pairs", "table"))
    least = table.run[table.rms.idxmin()].removeprefix("fashion-sit-")
    assert f"The least shift, by constant-pixel between t = 0.667 and 0.333, is {least}&#39;s: rms δ" in text
    assert "The least FD-fashion is" in text
    # 40 samples of 128 features: the distance has no interval, and nothing is resolved in it.
    assert dict(zip(pairs.quantity, pairs.resolved, strict=True)) == {"mean δ²": True, "FD-fashion": False}
    assert "in FD-fashion 1 of 1 pairs" in text
    assert "(with its bias: too few samples for an interval)" in text
    assert shlex.join(["noiseshift", *map(str, words)]) in text
    assert len(svgs(text)) == 6
    (tmp_path / "grid").rename(tmp_path / "moved")  # the runs of a grid go with it
    result = run("report", tmp_path / "moved", "--out", tmp_path / "again.html")
    assert result.exit_code == 0, result.output
    assert Page((tmp_path / "again.html").read_text()).tags == Page(text).tags
    (tmp_path / "moved" / "fashion-sit-em-3").rename(tmp_path / "gone")
    result = run("report", tmp_path / "moved")
    assert result.exit_code == 1
    assert "fashion-sit-em-3" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere"], 1, "no folder nowhere"),
        (["empty"], 1, "no shift.parquet in empty"),
        (["part"], 1, "no run.json in part"),
        (["empty", "part"], 2, "say where with --out"),
        (["empty", "--out", "part"], 2, "is a folder"),
    ],
)
def test_bad_folders_are_one_line(words, code, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "shift.parquet").write_bytes(b"")
    result = run("report", *words)
    assert result.exit_code == code
    assert says in result.stderr
    assert len([line for line in result.stderr.splitlines() if "rror" in line]) == 1
