"""The main job as a whole: `noiseshift measure` over its own sampling forwards, first and once more, and with none of the answers
that ship with the package, as for a checkpoint of one's own; its dry run; its memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from click.testing import CliRunner
from harness import Row, seconds, started
from noiseshift.cli import main

import noiseshift as ns
from noiseshift.studies import shipped

SAMPLES = 256


def rows(repeats: int) -> Iterator[Row]:
    yield Row("import noiseshift", started("import noiseshift", repeats), 0.1, unit=" s")
    code = (
        "import sys; from noiseshift.cli import main; sys.argv = ['noiseshift', '--help']; main(standalone_mode=False)"
    )
    yield Row("noiseshift --help", started(code, repeats), 0.2, unit=" s")
    yield from _audits(repeats)
    with tempfile.TemporaryDirectory() as folder:
        yield from _job(Path(folder))
        yield _memory()


def _audits(repeats: int) -> Iterator[Row]:
    """`noiseshift audit`, most of which is importing torch."""
    words = ["audit", "diffusers/EulerDiscreteScheduler", "--steps", "4,10,20,50"]
    with tempfile.TemporaryDirectory() as folder:
        figure = [*words, "--out", str(Path(folder) / "audit")]
        for name, given, bound in (("noiseshift audit", words, 2.5), ("noiseshift audit, with its figure", figure, 3)):
            code = f"import sys; from noiseshift.cli import main; sys.argv = ['noiseshift', *{given}]; main(standalone_mode=False)"
            yield Row(f"{name}, four step counts", started(code, repeats), bound, unit=" s")
    yield Row("import torch, for comparison", started("import torch", repeats), 2.5, unit=" s")


def _job(folder: Path) -> Iterator[Row]:
    words = ["measure", "--samples", str(SAMPLES), "--no-progress", "--out"]
    environment = {"NOISESHIFT_CACHE": str(folder / "kept")}
    runner = CliRunner(env=environment)
    checkpoint = ns.load()
    x, cond = torch.randn(SAMPLES, *checkpoint.shape), torch.arange(SAMPLES) % 10

    @torch.inference_mode()
    def forwards() -> None:
        for _ in range(50):
            for start in range(0, SAMPLES, 32):
                checkpoint.model(x[start : start + 32], torch.tensor(0.5), cond[start : start + 32])

    said = json.loads(runner.invoke(main, [*words, str(folder / "x"), "--dry-run", "--json"]).stdout)
    bare = [seconds(forwards)]
    first = seconds(lambda: runner.invoke(main, [*words, str(folder / "a")]))
    bare.append(seconds(forwards))
    again = seconds(lambda: runner.invoke(main, [*words, str(folder / "b")]))
    bare.append(seconds(forwards))
    with mock.patch.object(shipped, "FOLDER", folder):
        runner.env["NOISESHIFT_CACHE"] = str(folder / "other")
        own = seconds(lambda: runner.invoke(main, [*words, str(folder / "c")]))
    bare.append(seconds(forwards))
    one = sum(bare) / len(bare)
    share = f"with {SAMPLES} samples"
    yield Row("noiseshift measure over its sampling's forwards, first", [first / one], 1.25, note=share)
    yield Row("noiseshift measure over its sampling's forwards, again", [again / one], 1.25, note=share)
    yield Row("the same, nothing shipped, first", [own / one], 1.25, note="as for a checkpoint of one's own")
    stated = said["hours on this device"] * 3600
    note = "elapsed time is what a dry run states, without what ships"
    yield Row("first run over what its dry run said", [first / stated], 1.25, note=note)


MEMORY = """
import resource, sys, torch
import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint
exact = ns.targets.Gaussian(torch.zeros(16, dtype=torch.float64), torch.full((16,), 0.25)).model(ns.Linear())
model = ns.wrap(lambda x, t, cond: exact(x.flatten(1), t).x0.reshape(x.shape), ns.Linear(), predicts="x0")
made = Checkpoint("toy", model, Card("callable"), "0" * 64, (1, 4, 4), 0, None, lambda x: x)
data = ns.data.Images(torch.randn(400, 1, 4, 4).clamp(-2, 2) / 2)
ns.run(made, ns.Protocol("euler:4", samples=int(sys.argv[1]), points=2, calibration_rows=128, estimators={"residual": None}), data)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _memory() -> Row:
    words = [sys.executable, "-W", "ignore", "-c", MEMORY]
    few, many = (float(subprocess.check_output([*words, str(n)], text=True)) for n in (1_000, 50_000))
    return Row("peak memory of 50,000 samples over 1,000", [many / few], 1.05, note=f"{few / 1024:.0f} MB at 1,000")
