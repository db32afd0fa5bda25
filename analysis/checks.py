"""Checks before the first number, in words: the first line of the terminal and of the page, and the page's list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noiseshift.analysis.names import plain

from noiseshift.shift.controls import Check
from noiseshift.shift.preflight import Preflight
from noiseshift.studies.folders import Run

if TYPE_CHECKING:
    from rich.console import Console


def kept(manifest: Mapping[str, Any]) -> Preflight | None:
    """The checks that a manifest holds; None in folders of versions before 0.2."""
    found = manifest.get("preflight")
    return None if found is None else Preflight.from_dict(found)


def headed(found: Preflight | None, line: str) -> str:
    """A first line, behind what failed before the first number."""
    if found is None or found.passed:
        return line
    failed = "; ".join(f"{check.name}: {check.sentence}" for check in found.failures)
    before = any(check.name != "files" for check in found.failures)
    advice = f"{'A check before the measurement failed, do' if before else 'Do'} not use the numbers below."
    return f"{advice} {failed[:1].upper()}{failed[1:]}. {line}"


def listed(found: Preflight | None) -> Sequence[Check]:
    """The checks for a page's list."""
    return () if found is None else found.checks


def print_failures(console: Console, found: Preflight | None, where: str = "preflight") -> None:
    """What failed, one line each, in red."""
    from rich.text import Text

    for check in () if found is None else found.failures:
        console.print(Text.assemble(("FAIL", "red"), f"  {plain(where)}, {plain(check.name)}: {plain(check.sentence)}"))


def of_runs(runs: Mapping[str, Run]) -> Preflight | None:
    """The failed checks of several runs as one, each check under the names of the runs that failed it."""
    names: dict[Check, list[str]] = {}
    for name, run in runs.items():
        for check in () if run.preflight is None else run.preflight.failures:
            names.setdefault(check, []).append(name)
    failed = [Check(f"{', '.join(those)}, {check.name}", False, check.sentence) for check, those in names.items()]
    seen = [run.preflight for run in runs.values() if run.preflight is not None]
    return Preflight(tuple(failed), seen[0].errors) if seen else None
