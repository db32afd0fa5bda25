"""Two processes with different seeds write to one place at the same time: one of them does, whole; the other says why not.

    python benchmarks/robustness/two_at_once.py --rounds 5        about 10 minutes on two quiet cores

A round starts two processes of a command, the second a random time later. Either the second says who is there (exit 1, one
line), or the first had ended and its result is replaced. What stands in the end is one of the two seeds' own result, to the
bit, with nothing beside it. Then, once a command, both run without --out in one working directory: both end well, and each result
lies in a place of its own, as if it had been alone. Prints a row a command; exit code 1 where anything was mixed or lost.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
import harness


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--only", default=",".join(harness.COMMANDS), help="Commands, joined by commas.")
@click.option("--seed", default=0, show_default=True)
def main(rounds: int, only: str, seed: int) -> None:
    chance = random.Random(seed)
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        harness.prepare(Path(folder))
        for command in only.split(","):
            started = time.time()
            busy, found = _rounds(command, rounds, chance)
            faults += [f"{command}: {fault}" for fault in found]
            waited = f"{busy} of {rounds} seconds had to wait"
            print(f"{command:16s} {waited}, {len(found)} faults {time.time() - started:6.0f} s", flush=True)
        os.chdir("/")
    for fault in faults:
        print(fault)
    print(f"{rounds * len(only.split(','))} pairs, {len(faults)} faults")
    sys.exit(bool(faults))


def _rounds(command: str, rounds: int, chance: random.Random) -> tuple[int, list[str]]:
    started = time.monotonic()
    alone = [_alone(command, str(seed)) for seed in (0, 1)]
    seconds = (time.monotonic() - started) / 2
    busy, faults = 0, []
    for _ in range(rounds):
        harness.clear("out")
        first = harness.run(command, "out", "--seed", "0")
        time.sleep(chance.uniform(0, 0.8 * seconds))
        ended = [harness.run(command, "out", "--seed", "1").wait(), first.wait()]
        busy += any("being written by process" in end.said for end in ended)
        faults += [f"exit {end.code}: {end.said.strip()[-300:]}" for end in ended if not _fair(end)]
        now = harness.result("out")
        if now not in alone:
            odd = {name for name in now if now[name] not in [one.get(name) for one in alone]}
            faults.append(f"what stands is neither seed's result: {sorted(odd)[:5] or sorted(now)[:5]}")
    harness.clear("out")
    if command in NAMED_BY_ITSELF:
        faults += _by_default(command)
    return busy, faults


NAMED_BY_ITSELF = ("sample", "measure", "approx", "correct")
"""Commands whose result without --out is called by what decides it."""


def _by_default(command: str) -> list[str]:
    """What goes wrong where both seeds run without --out in one working directory."""
    alone = [_left_by_default(command, seed)[1] for seed in ("0", "1")]
    ended, both = _left_by_default(command, "0", "1")
    faults = [
        f"by default: exit {end.code}: {end.said.strip()[-300:]}" for end in ended if end.code or not end.in_a_line
    ]
    if both != alone[0] | alone[1]:
        odd = sorted(set(both.items()) ^ set((alone[0] | alone[1]).items()))
        faults.append(f"by default: other results than alone: {odd[:4]}")
    if set(alone[0]) & set(alone[1]):
        faults.append(f"by default: one place for both seeds: {sorted(set(alone[0]) & set(alone[1]))[:4]}")
    return faults


def _left_by_default(command: str, *seeds: str) -> tuple[list[harness.Ended], dict[str, str]]:
    """How processes of these seeds, all at once in a new working directory, ended, and the files that they left there."""
    here = Path.cwd()
    inputs = ("few.npz", "model.safetensors", "model.yaml")
    with tempfile.TemporaryDirectory() as folder:
        for name in inputs:
            shutil.copy(name, folder)
        os.chdir(folder)
        try:
            jobs = [harness.run_by_default(command, "--seed", seed) for seed in seeds]
            ended = [job.wait() for job in jobs]
            found = harness.contents(Path())
        finally:
            os.chdir(here)
    return ended, {name: text for name, text in found.items() if name not in inputs}


def _alone(command: str, seed: str) -> dict[str, str]:
    harness.clear("out")
    ended = harness.run(command, "out", "--seed", seed).wait()
    if ended.code:
        raise SystemExit(f"{command} fails by itself: {ended.said}")
    return harness.result("out")


def _fair(ended: harness.Ended) -> bool:
    """It did its work, or said in a line who is there, or that what is there is another training."""
    refused = (
        "being written by process" in ended.said or "another process writes" in ended.said or "--restart" in ended.said
    )
    return ended.in_a_line and (ended.code == 0 or (ended.code == 1 and refused))


if __name__ == "__main__":
    main()
