"""`audit`: the levels of a sampler at several step counts, and what is wrong with them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from noiseshift.audit.findings import Finding, findings
from noiseshift.audit.levels import Levels, Precision, levels
from noiseshift.audit.subject import Subject, subject
from noiseshift.audit.timing import dynamic, timing
from noiseshift.reading import read_json, read_text

STEPS = (4, 10, 20, 50)
TOLERANCE = 0.02


@dataclass(frozen=True)
class Audit:
    """What was found of a sampler.

    Attributes:
        name: what was audited.
        levels: one for each step count.
        findings: faults, the largest first, then notes.
    """

    name: str
    levels: tuple[Levels, ...]
    findings: tuple[Finding, ...]

    def __repr__(self) -> str:
        found = ", ".join(finding.name for finding in self.findings) or "nothing"
        return f"Audit({self.name}, steps {', '.join(str(one.steps) for one in self.levels)}, found: {found})"

    def table(self) -> pd.DataFrame:
        """A row a call of the network, for each step count.

        Returns:
            steps, step, `internal` (an evaluation inside a step), `label` (what the scheduler says), `handed` (after the cast);
            of label, handed, state and reached the level as `*_log_snr` and `*_sigma` (in the scheduler's own scaling);
            `off_*`, state less handed; `lands_off_*`, where the step lands less what is handed next, NaN for the last. A
            log-SNR of ±40 is data or pure noise.
        """
        return pd.concat([one.frame for one in self.levels], ignore_index=True)

    def beyond(self, tolerance: float = TOLERANCE, accept: Iterable[str] = ()) -> tuple[Finding, ...]:
        """The faults larger than `tolerance`, in log-SNR, but those whose names are accepted. Raises ValueError for a name
        that no finding has.

        Args:
            tolerance: in log-SNR.
            accept: names of findings.
        """
        accepted = set(accept)
        unknown = accepted - set(NAMES)
        if unknown:
            raise ValueError(f"no finding is called {sorted(unknown)[0]!r}: choose from {', '.join(NAMES)}")
        return tuple(f for f in self.findings if f.size > tolerance and f.name not in accepted)

    def summary(self) -> dict[str, Any]:
        """Findings and rows as plain values; an infinite size is "inf", a note's None."""
        rows = json.loads(self.table().to_json(orient="records"))
        return {"name": self.name, "findings": [_plain(finding) for finding in self.findings], "rows": rows}

    def save(self, folder: str | Path) -> None:
        """Write audit.csv, findings.json into a folder that is there, over those of an audit only. Raises PlaceError."""
        from noiseshift.writing import replaced_file

        with replaced_file(Path(folder) / "audit.csv", _is_table) as fresh:
            fresh.write_text(self.table().to_csv(index=False), encoding="utf-8")
        said = {"name": self.name, "findings": [_plain(finding) for finding in self.findings]}
        with replaced_file(Path(folder) / "findings.json", _is_account) as fresh:
            fresh.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")

    def plot(self) -> Any:
        """The levels' differences by step, as matplotlib Axes; see `noiseshift.analysis.audit`."""
        from noiseshift.analysis.audit import plot_audit  # a figure is the one thing that needs the layer above

        return plot_audit(self)


def _is_table(path: Path) -> bool:
    """Whether an audit wrote this audit.csv."""
    return {"steps", "step", "label", "handed"} <= set(
        read_text(path, "table", "remove it").partition("\n")[0].split(",")
    )


def _is_account(path: Path) -> bool:
    """Whether an audit wrote this findings.json."""
    about = read_json(path, "account", "remove it")
    return isinstance(about, dict) and set(about) == {"name", "findings"}


NAMES = (
    *(
        "fails",
        "outside-table",
        "first-level",
        "last-level",
        "rounded-labels",
        "label-off",
        "half-precision",
        "moved-labels",
        "lands-off",
    ),
    *(
        "duplicated",
        "not-falling",
        "shifted-twice",
        "image-start",
        "first-state",
        "terminal-snr",
        "shift-ignored",
        "strength",
    ),
    *("step-count", "size-ignored"),
)
"""What findings may be called."""


def audit(
    target: Any,
    steps: int | Sequence[int] | None = None,
    *,
    strength: float | None = None,
    size: tuple[int, int] | None = None,
    dtype: Precision | None = None,
    sigmas: Sequence[float] | None = None,
    timesteps: Sequence[float] | None = None,
) -> Audit:
    """Audit a sampler's levels, without a network.

    Args:
        target: a diffusers scheduler, a pipeline, a diffusers folder, a scheduler_config.json, or a word such as
            "diffusers/EulerDiscreteScheduler:20,use_karras_sigmas=True".
        steps: step counts; by default the word's own, or 4, 10, 20 and 50.
        strength: audit a run from an image, in (0, 1], as image-to-image pipelines count it.
        size: pixels of the picture, (height, width), where the levels depend on it; 1024 × 1024 by default.
        dtype: "bf16" or "fp16", what the time argument is cast to before the network gets it.
        sigmas: custom ones, as `set_timesteps` takes them; their number is the step count.
        timesteps: custom ones, likewise.

    Returns:
        What was found.

    Raises:
        ValueError: for a target that holds no scheduler, one whose levels are not known, or an option out of range.
    """
    if strength is not None and not 0 < strength <= 1:
        raise ValueError(f"strength lies in (0, 1], got {strength:g}")
    with _quiet():
        found = subject(target)
        return _audit(found, _counts(found, steps, sigmas, timesteps), strength, size, dtype, sigmas, timesteps)


def _audit(
    found: Subject,
    counts: Sequence[int],
    strength: float | None,
    size: tuple[int, int] | None,
    dtype: Precision | None,
    sigmas: Sequence[float] | None,
    timesteps: Sequence[float] | None,
) -> Audit:
    if size is not None and not min(size) >= found.factor * found.patch:
        raise ValueError(f"a picture has at least {found.factor * found.patch} pixels a side, got {size[0]}x{size[1]}")
    every = tuple(
        levels(found, count, timing(found, count, size, sigmas, timesteps), strength, dtype) for count in counts
    )
    return Audit(found.name, every, (*findings(every), *_size_ignored(found, size)))


def _counts(
    found: Subject,
    steps: int | Sequence[int] | None,
    sigmas: Sequence[float] | None,
    timesteps: Sequence[float] | None,
) -> tuple[int, ...]:
    custom = sigmas if sigmas is not None else timesteps
    if custom is not None:
        return (len(custom),)
    if steps is None:
        return STEPS if found.steps is None else (found.steps,)
    counts = (steps,) if isinstance(steps, int) else tuple(dict.fromkeys(steps))
    if not counts or min(counts) < 1:
        raise ValueError(f"a sampler takes at least 1 step, got {min(counts, default=0)}")
    return counts


def _size_ignored(found: Subject, size: tuple[int, int] | None) -> tuple[Finding, ...]:
    if size is None or dynamic(found):
        return ()
    said = "the picture's size changes no level: this scheduler has no resolution-dependent shift"
    return (Finding("size-ignored", said, "set use_dynamic_shifting=True, where the network was trained so", math.nan),)


def _plain(finding: Finding) -> dict[str, Any]:
    """A finding in JSON's values, which know neither infinity nor NaN."""
    size = None if finding.note else "inf" if math.isinf(finding.size) else finding.size
    return asdict(finding) | {"size": size, "note": finding.note}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' own warnings of options: what matters here is said in findings."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
