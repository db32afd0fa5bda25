"""What the robustness benchmarks share: a tiny checkpoint, every command that writes at its smallest, processes that end at a
chosen moment, and what a result consists of.

Processes are forked from one that has imported everything and run every command once, so that a run takes a second and not
ten; figures are blank, since drawing is most of the rest. Nothing in the library knows of it: a process is stopped by an audit
hook, by a limit on the size of files, or by a signal.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lines

FORK = multiprocessing.get_context("fork")
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.link"}
TINY = "--data few.npz --no-progress"
READ = f"{TINY} --samples 8 --batch 4 --points 2 --estimator residual"
COMMANDS = {
    "sample": "sample model.safetensors --no-progress --samples 8 --batch 2 --sampler euler:3 --out OUT.npz",
    "measure": f"measure model.safetensors {READ} --sampler euler:3 --out OUT",
    "approx": f"approx model.safetensors {TINY} --sampler euler:3 --times 0.3 --ratios 0.5 --rows 8 --samples 4 --substeps 2 "
    "--estimator residual --out OUT",
    "correct": f"correct model.safetensors {TINY} --sampler euler:3 --samples 8 --batch 4 --measured 4 --nag 0.5 --small "
    "--reference few.npz --estimator residual --out OUT",
    "compare": f"compare --checkpoint model.safetensors {TINY} --samples 8 --batch 4 --points 2 --estimator constant-pixel "
    "--sampler euler:3 --sampler euler:4 --out OUT",
    "train": "train few.npz --no-progress --width 16 --depth 1 --heads 2 --patch 14 --batch 8 --steps 6 --out OUT",
    "finetune": f"finetune model.safetensors {TINY} --batch 8 --steps 4 --out OUT",
    "train-estimator": f"train-estimator model.safetensors {TINY} --batch 8 --steps 6 --out OUT.safetensors",
}
"""Every command that leaves more than a page or a card, at its smallest; OUT is where it writes."""


def prepare(folder: Path) -> None:
    """Import everything, and put a tiny checkpoint and a few images into `folder`, which becomes the working directory; what
    runs keep for each other goes there too. Then draw samples once, which imports what is left."""
    lines.prepare()
    draw_blank()
    os.chdir(folder)
    os.environ["NOISESHIFT_CACHE"] = str(folder / "cache")
    _few_images()
    made = run("train", "made").wait()
    if made.code:
        raise SystemExit(f"the tiny checkpoint cannot be trained: {made.said}")
    for name in ("model.safetensors", "model.yaml"):
        Path("made", name).rename(name)
    clear("made")
    _once("sample")


def draw_blank() -> None:
    """Figures of this process and its children are files of their kind and signature, with nothing in them, and are not laid
    out."""
    import seaborn
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    save = Figure.savefig
    ConstrainedLayoutEngine.execute = lambda self, figure: {}  # type: ignore[method-assign]
    seaborn.kdeplot = lambda *args, ax=None, **how: ax

    def savefig(self: Any, file: Any, **how: Any) -> None:
        save(Figure(figsize=(1, 1)), file, **{name: how[name] for name in ("format", "metadata") if name in how})

    Figure.savefig = savefig  # type: ignore[method-assign]


def _once(command: str) -> None:
    from click.testing import CliRunner
    from noiseshift.cli import main

    done = CliRunner().invoke(main, words_of(command, "made"))
    if done.exit_code:
        raise SystemExit(f"{command} fails by itself: {done.stderr}")
    clear("made")


def _few_images() -> None:
    import numpy as np

    import noiseshift as ns

    few = ns.data.reference()[:64]
    np.savez("few.npz", images=few.pixels.numpy(), labels=few.labels.numpy())


def run_words(words: list[str]) -> None:
    import subprocess

    subprocess.run(words, check=True)


@dataclass(frozen=True)
class Ended:
    """How a process ended (negative: by which signal), and what it said on stderr."""

    code: int
    said: str

    @property
    def in_a_line(self) -> bool:
        """No traceback, and no more than one line of error."""
        return "Traceback" not in self.said and sum(line.startswith("error:") for line in self.said.splitlines()) <= 1


class Job:
    """A command in a process of its own."""

    def __init__(self, words: list[str], stop: Callable[[], None], log: Path):
        self.log = log
        self.process = FORK.Process(target=_in_child, args=(words, stop, log))
        self.process.start()

    def wait(self, seconds: float = 600) -> Ended:
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill()
            return Ended(-999, "it hung")
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        code = self.process.exitcode
        return Ended(-998 if code is None else code, said)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def run(command: str, out: str, *more: str, stop: Callable[[], None] = lambda: None) -> Job:
    """Start one of COMMANDS with its result at `out`; `stop` prepares its end, inside its process."""
    return Job([*words_of(command, out), *more], stop, Path(f"{out}.{time.monotonic_ns()}.log").absolute())


def run_by_default(command: str, *more: str) -> Job:
    """Start one of COMMANDS without `--out`."""
    words = words_of(command, "OUT")
    place = words.index("--out")
    return Job([*words[:place], *words[place + 2 :], *more], never, Path(f"{time.monotonic_ns()}.log").absolute())


def words_of(command: str, out: str) -> list[str]:
    """One of COMMANDS with its result at `out`."""
    return [word.replace("OUT", out) for word in COMMANDS[command].split()]


def _in_child(words: list[str], stop: Callable[[], None], log: Path) -> None:
    from noiseshift.training.finetune import finetune
    from noiseshift.training.level_estimator import train_estimator
    from noiseshift.training.train import train

    for trains in (train, finetune, train_estimator):
        kept: Any = trains.__kwdefaults__
        kept["every"] = 2  # states to be killed between
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(1, "w")),
        io.TextIOWrapper(io.FileIO(2, "w"), write_through=True),
    )
    sys.argv = ["noiseshift", *words]
    from noiseshift.cli import main

    stop()
    main(words)


def never() -> None:
    """A process that is not stopped."""


def at_change(count: int, seen: Any = None, signals: tuple[int, ...] = (signal.SIGKILL,)) -> Callable[[], None]:
    """Killed before its `count`-th change of the file system, or sent `signals` there and at the changes that follow; `seen` (a
    shared number) counts them."""

    def begin() -> None:
        here, left, to_send = os.getcwd(), [count], list(signals)

        def hook(event: str, args: tuple[Any, ...]) -> None:
            opened = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if not (opened or event in CHANGES) or not _inside(args[0], here):
                return
            if seen is not None:
                seen.value += 1
            left[0] -= 1
            if left[0] < 0 and to_send:
                os.kill(os.getpid(), to_send.pop(0))

        sys.addaudithook(hook)

    return begin


def _inside(path: Any, folder: str) -> bool:
    try:
        return os.path.abspath(os.fspath(path)).startswith(folder)
    except TypeError:
        return False


def inside_a_write(size: int) -> Callable[[], None]:
    """Killed in the middle of the first write that would make a file longer than `size` bytes."""

    def begin() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return begin


@dataclass(frozen=True)
class Whole:
    """A run that nobody stopped.

    Attributes:
        result: as `result` gives it.
        changes: how many changes of the file system it made.
        seconds: how long it took.
    """

    result: dict[str, str]
    changes: int
    seconds: float


def whole(command: str, *more: str) -> Whole:
    """Run `command` to its end, at "out", with nothing kept from other runs; its result stays there."""
    clear("out")
    clear("cache")
    seen = FORK.Value("i", 0)
    began = time.monotonic()
    ended = run(command, "out", *more, stop=at_change(10**9, seen)).wait()
    if ended.code:
        raise SystemExit(f"{command} fails by itself: {ended.said}")
    return Whole(result("out"), int(seen.value), time.monotonic() - began)


def clear(out: str) -> None:
    """Remove everything of a name, with what lies beside it."""
    for path in list(Path().iterdir()):
        if path.name.lstrip(".").split(".")[0] == out:
            run_words(["rm", "-rf", str(path)])


def keep(out: str, store: str) -> None:
    """Copy everything of a name into the folder `store`."""
    Path(store).mkdir()
    run_words(["cp", "-a", *beside(out), store])


def put_back(out: str, store: str) -> None:
    """What `keep` copied, in its place again."""
    clear(out)
    run_words(["cp", "-a", *(str(path) for path in Path(store).iterdir()), "."])


def beside(out: str) -> list[str]:
    """What a name consists of, at the top."""
    return sorted(path.name for path in Path().iterdir() if path.name.lstrip(".").split(".")[0] == out)


def result(out: str) -> dict[str, str]:
    """Every file of a result by a hash of what it says. Times, and formats that hold the time of writing, are left out."""
    return {name.replace(out, "OUT"): text for top in beside(out) for name, text in contents(Path(top)).items()}


def contents(place: Path) -> dict[str, str]:
    """Every file of a folder, or a file, by a hash of what it says."""
    return {str(path): _said(path) for path in [place, *sorted(place.rglob("*"))] if path.is_file()}


def _said(path: Path) -> str:
    try:
        return hashlib.sha256(_content(path)).hexdigest()[:12]
    except Exception as error:  # half written
        return f"cannot be read: {type(error).__name__}"


SECONDS = ("seconds", "sampling seconds")
"""What a result says of its own time: no two runs agree in it."""


def _content(path: Path) -> bytes:
    import numpy as np
    import pandas as pd
    import torch

    if path.suffix in (".pdf", ".html", ".md", ".tex"):  # they hold seconds, or the time they were written
        return b"present" if path.stat().st_size > 100 else b"empty"
    if path.suffix == ".json":
        about = json.loads(path.read_text())
        if path.name == "noiseshift.json":
            about.pop("sha256", None)  # of files that hold seconds
        return json.dumps(_timeless(about)).encode()
    if path.suffix == ".npz":
        with np.load(path) as file:
            return b"".join(name.encode() + file[name].tobytes() for name in file.files)
    if path.suffix == ".pt":  # equal states need not be equal pickles
        return _values(torch.load(path, weights_only=True))
    if path.suffix in (".parquet", ".csv"):
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        return frame.drop(columns=list(SECONDS), errors="ignore").to_csv().encode()
    return path.read_bytes()


def _values(value: Any) -> bytes:
    """Nested containers of tensors and plain values, as bytes."""
    if isinstance(value, dict):
        return b"".join(
            str(key).encode() + _values(part) for key, part in sorted(value.items(), key=lambda kv: str(kv[0]))
        )
    if isinstance(value, list | tuple):
        return b"".join(map(_values, value))
    return value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if key not in {*SECONDS, "command"}}
    return [_timeless(part) for part in value] if isinstance(value, list) else value
