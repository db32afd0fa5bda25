"""What is wrong with a sampler's levels, in words, each with the option that corrects it.

A check looks at one step count's `Levels` and says at most one thing. `findings` merges what is said of several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from noiseshift.audit.finding import Finding
from noiseshift.audit.labels import apart, duplicated, lands_off, moved, not_falling
from noiseshift.audit.levels import Levels
from noiseshift.audit.shifting import shift_ignored, shifted_twice
from noiseshift.audit.starts import fewer_steps, first_state, image_start, strength_read
from noiseshift.audit.table_ends import first_level, last_level, outside_table, terminal_snr


def findings(every: Iterable[Levels]) -> tuple[Finding, ...]:
    """What all checks say, the largest of each name with all step counts it was found at, faults before notes."""
    found: dict[str, list[Finding]] = {}
    for levels in every:
        for check in CHECKS:
            said = check(levels)
            if said is not None:
                found.setdefault(said.name, []).append(replace(said, steps=(levels.steps,)))
    merged = [_merged(alike) for alike in found.values()]
    return tuple(sorted(merged, key=lambda finding: (finding.note, -finding.size if not finding.note else 0.0)))


def _merged(alike: Sequence[Finding]) -> Finding:
    worst = max(alike, key=lambda finding: -math.inf if finding.note else finding.size)
    return replace(worst, steps=tuple(step for finding in alike for step in finding.steps))


def unfollowed(levels: Levels) -> Finding | None:
    """A step that fails: nothing further is known of what it reaches."""
    if not levels.failure:
        return None
    return Finding(
        "fails",
        f"a step cannot be taken: {levels.failure}",
        "set what the message names, or another step count",
        math.inf,
    )


CHECKS: tuple[Callable[[Levels], Finding | None], ...] = (
    *(unfollowed, outside_table, first_level, last_level, apart, moved, lands_off, duplicated, not_falling),
    *(shifted_twice, image_start, first_state, terminal_snr, shift_ignored, strength_read, fewer_steps),
)
