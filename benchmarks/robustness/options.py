"""Random combinations of options over all commands: every one ends with exit code 0, 1 or 2 and at most one line of error.

    python benchmarks/robustness/options.py --runs 1500 --seed 0
    python benchmarks/robustness/options.py --runs 200 --seed 0 --working      only such values, so that most run to the end

Each option is left out, given a small value that works, or a hostile one; files are good, damaged, missing, folders or empty.
Every line is run in a process of its own (`lines.py`) with 60 s and 4 GB. Prints how many combinations ended with which exit
code, how many showed a traceback, called themselves a bug of ours, had more than one line of error, or took too long or too
much memory, and the command lines of those. About a quarter of a second a combination.
"""

from __future__ import annotations

import collections
import functools
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from noiseshift.cli import COMMANDS, main
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
import lines

Run = Callable[[list[str], Path], lines.Ended]

HOSTILE = [
    *("nan", "inf", "-inf", "1e309", "-1", "0", "1" + "0" * 30, "", " ", "none", "null", "x", "١", "1e3", "0x10", "-"),
    *(
        "2024-13-45",
        "a\nb",
        "a\0b",
        "\x1b[31m",
        "$x$",
        "[red]",
        "ü名",
        "\udcff",
        "../..",
        "/dev/null",
        "/dev/full",
        ".",
    ),
    *(
        "cfg=nan",
        "nag=1e309",
        "cfg",
        "euler",
        "euler:1",
        "euler:-3",
        "euler:1e9",
        "heun:3:4",
        "network:1",
        "a,b",
        ",",
        "=",
    ),
    *("9" * 5000, "x" * 300, "--", "%s", "{}", "'", '"', "C:\\x", "~", "*"),
]
FILES = [
    "few.npz",
    "labels.npz",
    "empty",
    "damaged.npz",
    "text.txt",
    "folder",
    "missing",
    "pictures",
    "card.yaml",
    "s.npz",
]
WORKING: dict[str, list[str]] = {
    "checkpoint": [*4 * ["tiny.safetensors"], "fashion-sit", "fashion-ddpm"],
    "samples": ["2", "3", "8"],
    "measured": ["2", "4"],
    "rows": ["8"],
    "substeps": ["2"],
    "points": ["1", "2"],
    "batch": ["1", "4", "128"],
    "steps": ["1", "2", "20"],
    "width": ["16"],
    "depth": ["1"],
    "heads": ["1", "2"],
    "patch": ["14", "7"],
    "seed": ["0", "7", str(2**64 - 1)],
    "device": ["cpu"],
    "sampler": ["euler:2", "heun:2", "ddim:3", "ddim:3:0.5", "em:2", "ddpm:2", "diffusers/DDIMScheduler:3"],
    "estimator": ["residual", "network", "constant-pixel", "residual,network"],
    "guidance": ["cfg=1", "nag=0.5", "cfg=-1,nag=1", "cfg=0"],
    "nag": ["0", "0.5", "1,2"],
    "cfg": ["0", "1"],
    "method": ["projection", "level-nag=1", "tsg=1", "closed-loop", "epsilon-scaling=1.01:0", "time-shift=2"],
    "times": ["0.5", "0.1,0.9"],
    "ratios": ["0.5", "0.1,1"],
    "data": ["few.npz"],
    "reference": ["few.npz"],
    "extractor": ["fashion"],
    "rate": ["1e-3", "0.1"],
    "by": ["residual", "network"],
    "config": ["good.yaml"],
    "out": ["new"],
    "runs": ["run", "run", "old", "changed", "folder"],
    "target": [
        *("diffusers/DDIMScheduler", "diffusers/DDIMScheduler:3,timestep_spacing=linspace", "scheduler_config.json"),
        "diffusers/FlowMatchEulerDiscreteScheduler,use_dynamic_shifting=true",
    ],
    "strength": ["0.6", "1"],
    "size": ["28", "28x28", "64x32"],
    "sigmas": ["1,0.5", "14,3,0.1"],
    "timesteps": ["999,500,1", "500"],
    "tolerance": ["0", "0.02"],
    "accept": ["last-level", "start"],
    "variant": ["bf16", "steps=2", "time=fp16", "cache=first-block:0.1", "lora=tiny.safetensors:0.5", "compile=eager"],
    "mask": ["mask.png", "few.npz", "pictures"],
    "card": ["tiny.yaml", "card.yaml", "good.yaml", "epsilon.yaml"],
    "against": ["tiny.safetensors", "fashion-sit"],
    "prompts": ["text.txt", "empty"],
    "embeddings": ["embeddings.npz", "few.npz"],
    "lora": ["tiny.safetensors", "tiny.safetensors:0.5", "tiny.safetensors:x"],
    "vae": ["folder", "missing", "tiny.safetensors"],
    "weights": ["s.npz", "tiny.safetensors", "missing"],
    "family": ["sit", "dit"],
    "range": ["0,255", "0,1"],
    "title": ["x", "$x$"],
    "ema": ["0", "0.9"],
    "noise-dropout": ["0", "0.15", "1"],
    "class-dropout": ["0", "0.1", "1"],
    "calibration": ["8", "100"],
}
CONFIGS = [
    *(
        b"\xef\xbb\xbfseed: 1\r\n",
        b"seed:\t1\n",
        b"\tseed: 1\n",
        b'{"seed": 1, "out": "new"}',
        "seed: 1\n".encode("utf-16"),
        b"seed: \xe9\n",
    ),
    *(
        b"seed: !!python/object/apply:os.system [x]\n",
        b"seed: !!int '1'\n",
        b"<<: {seed: 1}\n",
        b"? [a]\n: 1\n",
        b"seed: 1\n---\nseed: 2\n",
    ),
    *(
        b"seed: " + b"1" * 5000,
        b"seed: .inf\n",
        b"seed: 1:30\n",
        b"seed: 2024-01-01\n",
        b"seed: ~\n",
        b"seed:\n",
        b"seed: ''\n",
        b'seed: "\\0"\n',
    ),
    *(
        b"progress: maybe\n",
        b"progress: [true]\n",
        b"json: {}\n",
        b"sampler: [euler:2, heun:2]\n",
        b"out: .\n",
        b"out: [new]\n",
        b"trust: no\n",
    ),
    *(
        b"checkpoint: tiny.safetensors\n",
        b"config: x\n",
        b"help: true\n",
        b"'a\nb\x1b[2J': 1\n",
        b"seed: |\n  1\n",
        b"{" * 5000,
        b"seed: 1\x00\n",
    ),
]
"""Files of options with values, types and bytes of every kind."""

ODD: dict[str, list[str]] = {
    "checkpoint": ["missing.pt", "mine:make", "damaged.npz", "text.txt", "folder", "empty", "no_such:thing"],
    "device": ["cuda", "mps", "cuda:9", "meta", "xla"],
    "sampler": [
        *("edm:2", "own:2", "euler", "euler:1", "diffusers/EulerDiscreteScheduler:2", "diffusers/PNDMScheduler:3"),
        *("diffusers/LCMScheduler:2", "diffusers/KarrasVeScheduler:2", "diffusers/VQDiffusionScheduler:2"),
        *("diffusers/DDPMWuerstchenScheduler:3", "diffusers/RePaintScheduler:3", "diffusers/UnCLIPScheduler:3"),
        *("diffusers/FlowMatchEulerDiscreteScheduler:2", "diffusers/DPMSolverSDEScheduler:3", "diffusers/X:2"),
    ],
    "estimator": ["fokker-planck:8", "score-mixture:8", "network:9", "guess"],
    "guidance": ["none", "cfg", "nag=inf"],
    "method": ["dog=1", "autoguidance=1", "nag-epsilon=1", "nag-score=1", "classifier-nag=1", "nag=x"],
    "data": FILES,
    "reference": FILES,
    "extractor": ["inception", "text.txt", "missing"],
    "config": [
        *("date.yaml", "alias.yaml", "nested.yaml", "twice.yaml", "empty", "damaged.npz", "folder", "list.yaml"),
        *(f"config-{number}.yaml" for number in range(len(CONFIGS))),
    ],
    "out": [
        "new.npz",
        "new.png",
        "new.html",
        "folder",
        "text.txt",
        "text.txt/x",
        "deep/er/new",
        ".",
        "..",
        "/dev/null/x",
    ],
    "runs": ["missing", "pictures", "text.txt"],
    "family": ["edm", "none"],
}
"""What a user may well write, and what cannot work here or at all."""

GROUPS = ["class", "prompt", "frame", "groups.csv:kind", "groups.csv:none", "missing.csv:kind", "few.npz:kind"]
"""--by of `measure`; that of other commands is an estimator's name."""

ALWAYS = {
    "measure": ("samples", "sampler", "points", "estimator", "data"),
    "sample": ("samples", "sampler"),
    "compare": ("samples", "sampler", "points", "estimator", "data"),
    "correct": ("samples", "sampler", "measured", "estimator", "data", "nag"),
    "approx": ("samples", "sampler", "rows", "substeps", "times", "ratios", "estimator", "data"),
    "train": ("steps", "width", "depth", "batch"),
    "finetune": ("steps", "batch"),
    "train-estimator": ("steps", "batch"),
    "evaluate": ("reference",),
}
"""Options that are never left out: their defaults take minutes."""


@functools.cache
def _few() -> Any:
    import noiseshift as ns

    return ns.data.reference()[:24]


@functools.cache
def _network() -> Any:
    """Untrained, and small: how long a line takes is not what is looked at."""
    import torch

    from noiseshift.networks.transformer import Transformer, TransformerConfig

    torch.manual_seed(0)
    return Transformer(TransformerConfig(28, 1, 14, 16, 1, 2, classes=10)).state_dict()


@functools.cache
def _run() -> Any:
    """A measurement of it."""
    import noiseshift as ns
    from noiseshift.checkpoints.saving import save

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder, "tiny"), _network(), ns.Card.from_dict({"family": "sit", "heads": 2}))
        protocol = ns.Protocol("euler:3", samples=8, points=2, estimators="constant-pixel", controls=True)
        return ns.run(ns.load(Path(folder, "tiny.safetensors")), protocol, _few())


def scratch(folder: Path) -> None:
    """The files that options name."""
    import noiseshift as ns
    from noiseshift.checkpoints.saving import save

    card = {"family": "sit", "heads": 2, "data": "fashion-heldout"}
    save(folder / "tiny", _network(), ns.Card.from_dict(card))
    few = _few()
    np.savez(folder / "few.npz", images=few.pixels.numpy(), labels=few.labels.numpy())
    np.savez(folder / "labels.npz", images=few.pixels.numpy(), labels=np.full(24, -1))
    np.savez(folder / "s.npz", mu=np.zeros(128), sigma=np.eye(128))
    (folder / "empty").touch()
    (folder / "damaged.npz").write_bytes((folder / "few.npz").read_bytes()[:500])
    (folder / "text.txt").write_text("a cat\n\n$x$ [red]\n")
    (folder / "folder").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"\x89PNG damaged")
    (folder / "card.yaml").write_text("{family: sit, time: {zero: .nan}}")
    (folder / "good.yaml").write_text("seed: 3\n")
    (folder / "date.yaml").write_text("seed: 2024-13-45\n")
    (folder / "alias.yaml").write_text("seed: &a [1]\nout: *a\n")
    (folder / "nested.yaml").write_text("seed: {a: {b: c}}\n")
    (folder / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (folder / "list.yaml").write_text("- seed\n")
    for number, content in enumerate(CONFIGS):
        (folder / f"config-{number}.yaml").write_bytes(content)
    (folder / "epsilon.yaml").write_text("family: sit\nheads: 2\nprediction: epsilon\ntime: {scale: 1000.0}\n")
    (folder / "groups.csv").write_text("class,kind\n0,a\n1,b\n")
    (folder / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler", "beta_end": 0.02}')
    np.savez(folder / "embeddings.npz", prompt_embeds=np.ones((2, 3, 4)))
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(folder / "mask.png")
    _run().save(folder / "run")
    for name in ("old", "changed"):
        shutil.copytree(folder / "run", folder / name)
    (folder / "old" / "noiseshift.json").unlink()
    (folder / "changed" / "run.json").write_text(
        (folder / "run" / "run.json").read_text().replace("euler:3", "heun:50")
    )
    (folder / "mine.py").write_text("def make():\n    raise SystemExit(3)\n")


def words(draws: random.Random, command: str, *, working: bool = False) -> list[str]:
    """A command line: each option left out or small; of every second line one or two are hostile, unless all are `working`."""
    params = main.get_command(click.Context(main), command).params
    if working:
        params = [p for p in params if p.opts[0].lstrip("-") in ENDING or p.required]
    hostile = draws.sample(params, 0 if working else draws.choice((0, 0, 1, 2)))
    found = [command]
    for param in params:
        name = max(param.opts, key=len).lstrip("-")
        needed = param.required or param in hostile or name in ALWAYS.get(command, ())
        needed |= working and name == "small"
        if name == "exact" or (not needed and draws.random() < 0.7):
            continue
        if getattr(param, "is_flag", False):
            found.append(param.opts[0])
            continue
        odd = not working and draws.random() < 0.1
        value = draws.choice(HOSTILE if param in hostile else _known(command, name, param, odd=odd))
        found += [value] if isinstance(param, click.Argument) else [max(param.opts, key=len), value]
    return found


def _known(command: str, name: str, param: click.Parameter, *, odd: bool) -> list[str]:
    if isinstance(param.type, click.Choice):
        return [str(choice) for choice in param.type.choices]
    if command == "sample" and name == "out" and not odd:
        return ["new.npz", "new.png"]
    if (command, name) == ("measure", "by"):
        return GROUPS
    if (command, name) in (("evaluate", "samples"), ("train", "data")):
        name = "data"
    if (command, name) == ("approx", "sampler") and not odd:  # others have no path to be compared with
        return ["euler:2", "heun:2", "ddim:3", "em:2"]
    if odd or name not in WORKING:
        return ODD.get(name, ["text.txt", "missing", "few.npz"])
    return WORKING[name]


ENDING = {
    *(
        "samples",
        "measured",
        "rows",
        "substeps",
        "points",
        "batch",
        "steps",
        "width",
        "depth",
        "heads",
        "patch",
        "seed",
    ),
    *(
        "device",
        "precision",
        "sampler",
        "estimator",
        "guidance",
        "nag",
        "cfg",
        "method",
        "times",
        "ratios",
        "data",
        "reference",
    ),
    *(
        "rate",
        "out",
        "controls",
        "strict",
        "dry-run",
        "small",
        "json",
        "restart",
        "overwrite",
        "part",
        "ema",
        "progress",
    ),
    *("noise-dropout", "class-dropout", "title", "checkpoint", "calibration", "config"),
}
"""Options, by name, whose small values do not keep a command from its end."""


RUNNING = [command for command in COMMANDS if command != "report"]
"""Commands that run to their end on a checkpoint."""


@dataclass
class Tally:
    """What became of the combinations, and the command lines of those that were at fault."""

    codes: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: collections.defaultdict(list))

    def count(self, line: list[str], ended: lines.Ended) -> None:
        self.codes[str(ended.code)] += 1
        errors = [text for text in ended.said.splitlines() if not text.startswith(("warning:", "data:", "trusted:"))]
        stopped = ended.slow or ended.large
        found = (
            line[0] == "audit" and ended.code == 1 and bool(ended.out)
        )  # what it found is its answer, and its exit code
        for fault, is_there in (
            ("too slow", ended.slow),
            ("too large", ended.large),
            ("traceback", "Traceback" in ended.said),
            ("called a bug", "bug of noiseshift" in ended.said),
            ("other exit code", ended.code not in (0, 1, 2) and not stopped),
            ("no line of error", ended.code != 0 and not errors and not stopped and not found),
            ("several lines of error", ended.code != 0 and len(errors) > 1 and not stopped),
        ):
            if is_there:
                self.faults[fault].append((" ".join(map(repr, line)), ended.said.strip()[-600:]))
                print(f"{fault}: noiseshift {' '.join(map(repr, line))}\n{ended.said.strip()[-600:]}\n", flush=True)

    def table(self) -> str:
        rows = [("combinations", sum(self.codes.values()))]
        rows += [(f"exit code {code}", count) for code, count in sorted(self.codes.items())]
        kinds = (
            "traceback",
            "called a bug",
            "other exit code",
            "no line of error",
            "several lines of error",
            "too slow",
            "too large",
        )
        rows += [(kind, len(self.faults[kind])) for kind in kinds]
        rows.append(("faults", sum(map(len, self.faults.values()))))
        return "\n".join(f"{name:24s} {count:6d}" for name, count in rows)


def in_process(line: list[str], folder: Path) -> lines.Ended:
    """The line in this process: for the tests, which have imported what a few lines take."""
    here, began = os.getcwd(), time.monotonic()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(main, line)
    finally:
        os.chdir(here)
    raised = "" if isinstance(result.exception, SystemExit | None) else f"Traceback: {result.exception!r}"
    return lines.Ended(result.exit_code, result.stdout, result.stderr + raised, time.monotonic() - began, 0)


def in_own_process(line: list[str], folder: Path) -> lines.Ended:
    """The line in a process of its own, whatever it does to it."""
    return lines.run(line, folder, seconds=60, memory=4)


def tried(
    runs: int, number: int, *, commands: list[str] | None = None, working: bool = False, run: Run = in_own_process
) -> Tally:
    """Run `runs` combinations of seed `number`, each in a scratch folder of its own kind of files."""
    tally = Tally()

    @seed(number)
    @settings(
        max_examples=runs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def attempt(draws: random.Random) -> None:
        draws = random.Random(draws.getrandbits(64))  # hypothesis' own prefer ends of a range
        line = words(draws, draws.choice(commands or (RUNNING if working else list(COMMANDS))), working=working)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            scratch(Path(folder))
            tally.count(line, run(line, Path(folder)))
        if sum(tally.codes.values()) % 100 == 0:
            print(dict(tally.codes), {fault: len(found) for fault, found in tally.faults.items()}, flush=True)

    attempt()
    return tally


@click.command()
@click.option("--runs", default=1500, show_default=True)
@click.option("--seed", "number", default=0, show_default=True)
@click.option("--working", is_flag=True, help="Only values that work.")
@click.option("--command", "commands", type=click.Choice(list(COMMANDS)), multiple=True, help="Only these.")
def cli(runs: int, number: int, working: bool, commands: tuple[str, ...]) -> None:
    """Print what is at fault as it comes, then the table; exit 1 where anything was."""
    lines.prepare()
    _run()
    tally = tried(runs, number, commands=list(commands) or None, working=working)
    click.echo(tally.table())
    raise SystemExit(any(tally.faults.values()))


if __name__ == "__main__":
    cli()
