"""Kill every command that writes, at any moment, run it again, and see whether the result is the same and nothing is left.

    python benchmarks/robustness/kills.py --kills 200        about 10 minutes on two quiet cores
    python benchmarks/robustness/kills.py --kills 20          half a minute
    python benchmarks/robustness/kills.py --kills 20 --only sample,train

A quarter of the kills is before a chosen change of the file system (all are chosen in turn), a quarter in the middle of a
write, a quarter at a random time. The last quarter are one or two of SIGINT, SIGTERM and SIGHUP, as from Ctrl-C pressed twice,
at a chosen change and the one after it: they end a command in one line and leave no lock and nothing half written. Half of them
hit a command that replaces an earlier result, of another seed, which must not be lost: after the kill, the old result or the new
one is whole. Nothing unfinished stays in the cache folder either. Prints a row a command
and `N kills, 0 faults`; exit code 1 otherwise.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
import harness


@click.command()
@click.option("--kills", default=200, show_default=True)
@click.option("--only", default=",".join(harness.COMMANDS), help="Commands, joined by commas.")
@click.option("--seed", default=0, show_default=True)
def main(kills: int, only: str, seed: int) -> None:
    chance = random.Random(seed)
    chosen = only.split(",")
    faults, done = [], 0
    with tempfile.TemporaryDirectory() as folder:
        harness.prepare(Path(folder))
        for command, share in _shares(kills, chosen).items():
            started = time.time()
            hit, found = _kill_often(command, share, chance)
            done, faults = done + hit, faults + found
            print(f"{command:16s} {hit:4d} kills {len(found):3d} faults {time.time() - started:6.0f} s", flush=True)
            for fault in found:
                print(f"    {fault}", flush=True)
        os.chdir("/")
    print(f"{done} kills, {len(faults)} faults")
    sys.exit(bool(faults))


KINDS = ("before change", "inside a write", "after seconds", "by signals at change")
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SLOW = {"measure", "approx", "correct", "compare"}
"""Commands that take seconds: every other one is killed three times as often."""


def _shares(kills: int, chosen: list[str]) -> dict[str, int]:
    """How often each command is killed; all together `kills` times."""
    weights = [1 if command in SLOW else 3 for command in chosen]
    ends = [kills * sum(weights[: number + 1]) // sum(weights) for number in range(len(chosen))]
    return {command: end - begin for command, begin, end in zip(chosen, [0, *ends], ends, strict=False)}


def _kill_often(command: str, times: int, chance: random.Random) -> tuple[int, list[str]]:
    """How many processes of `command` were killed, and what went wrong afterwards."""
    wanted, old = harness.whole(command), None
    stride = wanted.changes / max(1, -(-times // 4))
    hit, tried, faults = 0, 0, []
    while hit < times and tried < 4 * times:
        kind = KINDS[tried % 4]
        change = int((tried // 4) * stride) % wanted.changes
        at = (change, int(10 ** chance.uniform(0, 5.3)), chance.uniform(0, wanted.seconds), change)[tried % 4]
        signals = tuple(chance.choices(STOPS, k=chance.randint(1, 2)))
        replaces = bool(tried // 4 % 2) and not command.startswith(
            ("train", "finetune")
        )  # a training goes on, or refuses
        tried += 1
        if replaces and old is None:
            old = harness.whole(command, "--seed", "1")
            harness.keep("out", f"{command}.old")
        harness.clear("out")
        harness.clear("cache")
        if replaces:
            harness.put_back("out", f"{command}.old")
        ended = _killed(command, kind, at, signals)
        if ended.code == 0:
            continue
        hit += 1
        found = _disorder(ended) if kind == KINDS[3] else []
        found += _faults(command, wanted.result, old.result if old and replaces else None)
        faults += [f"{command}, killed {kind} {at:.6g}: {fault}" for fault in found]
        if hit % 5 == 0:  # a run that is cut short still tells
            print(f"{command}: {hit} killed, {len(faults)} faults so far", flush=True)
    harness.clear("out")
    return hit, faults


def _killed(command: str, kind: str, at: float, signals: tuple[int, ...]) -> harness.Ended:
    stops: dict[str, Callable[[], None]] = {
        "before change": harness.at_change(int(at)),
        "inside a write": harness.inside_a_write(int(at)),
        "by signals at change": harness.at_change(int(at), signals=signals),
    }
    job = harness.run(command, "out", stop=stops.get(kind, harness.never))
    if kind == "after seconds":
        job.process.join(at)
        job.kill()
    return job.wait()


def _disorder(ended: harness.Ended) -> list[str]:
    """What a command that was sent signals did not end in order of."""
    ends = [line for line in ended.said.splitlines() if line.startswith(("terminated: ", "interrupted: "))]
    found = [] if ended.code in (129, 130, 143) else [f"it ended with {ended.code}"]
    if len(ends) != 1 or "Traceback" in ended.said or "error:" in ended.said:
        found.append(f"it said {ended.said.strip()[-300:]}")
    left = [name for name in harness.beside("out") if name.endswith(".lock") or ".new-" in name or ".old-" in name]
    return [*found, f"it left {', '.join(left)}"] if left else found


def _faults(command: str, wanted: dict[str, str], old: dict[str, str] | None) -> list[str]:
    """What is wrong after a kill, and after the same command again; `old` is the result that stood there before."""
    found = []
    if old is not None and not _stands(wanted, old, command):
        found.append(f"the old result is lost: {harness.beside('out')}")
    rerun = harness.run(command, "out").wait()
    if rerun.code:
        return [*found, f"it does not run again (exit {rerun.code}): {rerun.said.strip()[-300:]}"]
    if not rerun.in_a_line:
        found.append(f"it said {rerun.said.strip()[-300:]}")
    now = harness.result("out")
    wrong = sorted(name for name in {**now, **wanted} if now.get(name) != wanted.get(name))
    if wrong:
        found.append(f"differs in {', '.join(wrong[:6])}")
    unfinished = [path.name for path in Path().glob("cache/.*")]
    if unfinished:
        found.append(f"left in the cache folder: {', '.join(unfinished[:6])}")
    return found


def _stands(wanted: dict[str, str], old: dict[str, str], command: str) -> bool:
    """Whether a whole result is there: in its place, or moved aside by a process that was killed before the new one stood."""
    now = harness.result("out")
    aside = {name.split("/", 1)[-1]: text for name, text in now.items() if name.startswith(".OUT.old-")}
    if command == "compare":  # its runs are replaced one by one, and its tables last
        return any("run.json" in name for name in now)
    for whole in (wanted, old):
        if all(now.get(name) == text for name, text in whole.items()):
            return True
        if all(aside.get(name.removeprefix("OUT/")) == text for name, text in whole.items()):
            return True
    return False


if __name__ == "__main__":
    main()
