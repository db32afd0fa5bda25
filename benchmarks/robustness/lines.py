"""A command line in a process of its own, forked from one that has imported everything: how it ended, what it took.

A line takes a fraction of a second and not ten, and nothing that it does (its memory, its working directory, its signals) is
seen by the next one.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

GB = 1 << 30
COMMANDS = "approx audit compare correct evaluate finetune info measure report sample train train_estimator".split()
PAGES = "report plots training compare correct approximate tables page_compare page_measure page_correct".split()


@dataclass(frozen=True)
class Ended:
    """How a line ended.

    Attributes:
        code: its exit code; negative: the signal that ended it.
        out: what it wrote to stdout.
        said: what it wrote to stderr.
        seconds: how long it took.
        memory: GB that it held at most, beyond what was imported.
        slow: it was ended since it took too long.
        large: it was ended since it took too much memory.
    """

    code: int
    out: str
    said: str
    seconds: float
    memory: float
    slow: bool = False
    large: bool = False


def prepare() -> None:
    """Import what any command imports."""
    os.environ["MPLBACKEND"] = "Agg"
    for name in (
        "diffusers",
        "matplotlib.pyplot",
        "pandas",
        "pyarrow.parquet",
        "PIL.PngImagePlugin",
        "scipy.stats",
        "jinja2",
    ):
        importlib.import_module(name)
    for name in (*(f"cli.{name}" for name in COMMANDS), *(f"analysis.{name}" for name in PAGES)):
        importlib.import_module(f"noiseshift.{name}")


def run(words: list[str], folder: Path, *, seconds: float = 90, memory: float = 8) -> Ended:
    """Run `noiseshift WORDS` in `folder`, for at most `seconds` of processor (ten times as many on the clock, where it is a
    crowd) and `memory` GB beyond what is imported."""
    began, held = time.monotonic(), _resident("self")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            _child(words, folder, out.fileno(), said.fileno())
        watch = _Watch(child, seconds, held + memory)
        _, status, _ = os.wait4(child, 0)
        watch.stop()
        code = os.waitstatus_to_exitcode(status)
        texts = [_text(file.fileno()) for file in (out, said)]
    spent = time.monotonic() - began
    return Ended(code, *texts, spent, max(0.0, watch.peak - held), watch.slow, watch.large)


class _Watch:
    """Ends a process that takes too long or too much; `peak` is the most GB that it was seen to hold."""

    def __init__(self, process: int, seconds: float, most: float):
        self.process, self.seconds, self.most = process, seconds, most
        self.late = time.monotonic() + 10 * seconds
        self.peak = 0.0
        self.slow = self.large = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, _resident(str(self.process)))
            self.slow = _processor(self.process) > self.seconds or time.monotonic() > self.late
            self.large = self.peak > self.most
            if self.slow or self.large:
                os.kill(self.process, signal.SIGKILL)
                return


def _resident(process: str) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / GB


def _processor(process: int) -> float:
    """Seconds of processor that a process took."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _text(file: int) -> str:
    size = os.fstat(file).st_size
    return os.pread(file, min(size, 1 << 22), 0).decode(errors="replace")


def _child(words: list[str], folder: Path, out: int, said: int) -> None:
    """The line itself; only `os._exit` leaves it, so that nothing of the parent's is run twice."""
    import io
    import sys

    code = 98
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(said, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w"), encoding="utf-8")
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), encoding="utf-8", write_through=True)
        sys.argv = ["noiseshift", *words]
        sys.path.append(str(folder))  # as the installed command does, for module:function
        from noiseshift.cli import main

        code = main.main(words, standalone_mode=False)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 0)
