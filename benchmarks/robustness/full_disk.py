"""A disk that is full at any write: one line with the remedy, nothing lost, and once there is room the run is what it would be.

    python benchmarks/robustness/full_disk.py --steps 6        about 10 minutes on two quiet cores

Mounts a small tmpfs (as root, or in user and mount namespaces of its own through `unshare`; where neither is allowed it says so
and ends). A result of another seed stands there. The rest of the disk is filled up but for a number of bytes, from none to more
than the command writes, and the command runs: it ends with exit code 1 and one line, the old result is untouched, and nothing
half written is there but finished batches. Then the filler goes, and the same command gives the result of an empty disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))
import harness


@click.command()
@click.option("--steps", default=6, show_default=True, help="Amounts of room that are tried for each command.")
@click.option("--only", default=",".join(harness.COMMANDS), help="Commands, joined by commas.")
def main(steps: int, only: str) -> None:
    faults, tried = [], 0
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=False).returncode:
            _in_namespaces()
        try:
            harness.prepare(Path(folder))
            for command in only.split(","):
                started = time.time()
                full, found = _fill(command, steps)
                tried, faults = tried + full, faults + [f"{command}: {fault}" for fault in found]
                print(
                    f"{command:16s} {full} full disks, {len(found)} faults {time.time() - started:6.0f} s", flush=True
                )
        finally:
            os.chdir("/")
            subprocess.run(["umount", folder], check=False)
    for fault in faults:
        print(fault)
    print(f"{tried} full disks, {len(faults)} faults")
    sys.exit(bool(faults))


def _in_namespaces() -> None:
    """Start again where mounting is allowed; end where it is not."""
    if os.environ.get("NOISESHIFT_UNSHARED"):
        raise SystemExit("this machine lets nobody mount a tmpfs here: run it as root")
    words = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, *sys.argv]
    os.execvpe(words[0], words, os.environ | {"NOISESHIFT_UNSHARED": "1"})


def _fill(command: str, steps: int) -> tuple[int, list[str]]:
    trains = command in ("train", "finetune", "train-estimator")
    harness.clear("out")
    _must(command)
    wanted, size = harness.result("out"), _used("out")
    harness.clear("out")
    old: dict[str, str] = {}
    if not trains:
        _must(command, "--seed", "1")
        old = harness.result("out")
    full, faults = 0, []
    for step in range(steps):
        _fill_up(int(1.5 * size * (step / steps) ** 2))
        ended = harness.run(command, "out").wait()
        Path("filler").unlink()
        full += ended.code != 0
        if ended.code not in (0, 1) or not ended.in_a_line or (ended.code and "free some" not in ended.said):
            faults.append(f"exit {ended.code}: {ended.said.strip()[-300:]}")
        now = {name: text for name, text in harness.result("out").items() if ".partial-" not in name}
        if ended.code and not trains and command != "compare" and now != old:
            faults.append(f"what stood is changed: {sorted(set(now.items()) ^ set(old.items()))[:4]}")
        if ended.code == 0 or step == steps - 1:
            break
    _must(command)
    now = harness.result("out")
    if now != wanted:
        faults.append(f"with room again it differs: {sorted(set(now.items()) ^ set(wanted.items()))[:4]}")
    harness.clear("out")
    return full, faults


def _must(command: str, *more: str) -> None:
    ended = harness.run(command, "out", *more).wait()
    if ended.code:
        raise SystemExit(f"{command} fails with room on the disk: {ended.said}")


def _used(out: str) -> int:
    files = [path for top in harness.beside(out) for path in [Path(top), *Path(top).rglob("*")] if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


def _fill_up(room: int) -> None:
    """A file that leaves `room` bytes, and the log's page."""
    disk = os.statvfs(".")
    with open("filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(4096, disk.f_bavail * disk.f_bsize - room - 8192))


if __name__ == "__main__":
    main()
