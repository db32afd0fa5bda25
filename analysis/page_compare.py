"""A comparison's section of the page, and its answer in three lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from noiseshift.analysis.answer import Verdict, controls_verdict
from noiseshift.analysis.baseline import against, columns_against, opened
from noiseshift.analysis.checks import headed, of_runs
from noiseshift.analysis.compare import figures, labels
from noiseshift.analysis.page_parts import Column, Section, drawings, protocol, table
from noiseshift.analysis.phrases import listed_names

from noiseshift.shift.controls import Check
from noiseshift.studies.compare import Comparison
from noiseshift.studies.differences import MEAN_SQUARE

SMOOTHER_MEANS = "smoother: less fine detail than real data have"

PAIRS: tuple[Column, ...] = (
    (
        "quantity",
        "of",
        "the mean δ² (rms δ squared), the distance without what few samples add to it, or the noise variance of final samples",
    ),
    ("first", "first", ""),
    ("second", "second", ""),
    ("difference", "first − second", "the difference with its 95 % interval"),
    ("p", "p", "two-sided, Student's t"),
    ("p holm", "Holm's p", "the same, adjusted for all pairs of this quantity"),
    ("resolved", "resolved", "whether Holm's p is under 5 %"),
    ("paired", "paired", "whether the two share samples; if not, their errors add up (Welch)"),
)


def compared(anchor: str, name: str, found: Comparison) -> Section:
    """The section of a comparison."""
    verdict = _verdict(found)
    checks = _checks(found)
    what = f"{len(found.runs)} runs, {', '.join(found.table.checkpoint.unique())}"
    failed = [c for c in checks if not c.passed]
    lines = answer(found)
    before = of_runs(found.runs)
    if verdict == "failed":
        lines = (
            f"{len(failed)} controls failed, of {failed[0].name} first: do not use the numbers below. {lines[0]}",
            *lines[1:],
        )
    best = found.table.loc[found.table.rms.idxmin()] if found.table.rms.notna().any() else None
    row = {"folder": name, "what": f"compare: {what}", "controls": verdict}
    if best is not None:
        size = f"< {best['rms high']:.4f}" if best["rms low"] == 0 else f"{best.rms:.4f}"
        row["largest"] = f"least rms δ {size}, {labels(found)[best.run]}"
    return Section(
        anchor,
        f"Comparison of {what}",
        (headed(before, lines[0]), *lines[1:]),
        verdict,
        list(drawings(anchor, figures(found))),
        [
            table(
                f"Runs: shift read by {found.estimator}{against(found.baseline)}",
                found.table,
                columns_against(found.baseline, list(_columns(found))),
            ),
            table(f"Pairs of runs{against(found.baseline)}", _pairs(found), PAIRS),
        ],
        checks,
        list(protocol(_shared(found))),
        found.command,
        "" if found.command else "This folder did not keep its command line; the protocol below has its settings.",
        row,
        () if before is None else before.failures,
    )


def answer(found: Comparison) -> tuple[str, str, str]:
    """Which run has the least shift, which the best distance, and what is not resolved."""
    low, high = found.span
    baseline = found.baseline
    read_by = f"by {found.estimator} between t = {high:.3g} and {low:.3g}"
    return (
        opened(baseline, f"The least shift, {read_by}, is {_least(found, 'rms')}.{_levels(found)}"),
        _distances(found),
        f"{_unresolved(found)} {_unpaired(found)}".strip(),
    )


def _levels(found: Comparison) -> str:
    """What an rms over unlike levels is worth."""
    most = max(len(found.report(name).times) for name in found.runs)
    if len(found.runs) == 1 or len(found.shared) == most:
        return ""
    return (
        f" The runs share {len(found.shared)} of up to {most} levels; between those that a run was read at, its δ is taken for a "
        "straight line, so an rms may be off by tens of per cent where δ bends."
    )


def _least(found: Comparison, quantity: str) -> str:
    words = labels(found)
    rows = found.table.set_index("run")
    name = str(rows[quantity].idxmin())
    value, low, high = (float(rows[f"{quantity}{end}"][name]) for end in ("", " low", " high"))
    if quantity == "rms" and low == 0:
        size = f"rms δ below {high:.4f} in t (95 %; 0 is not ruled out)"
    elif quantity == "rms":
        size = f"rms δ {value:.4f} in t (95 % {low:.4f} … {high:.4f})"
    else:
        n = len(found.runs[name].features or ())
        ends = f"95 % {low:.2f} … {high:.2f}" if low == low else "with its bias: too few samples for an interval"
        size = f"{value:.2f} over {n:,} samples ({ends})"
    if len(rows) == 1:
        return f"{words[name]}'s: {size}"
    others = [words[each] for each in found.runs if each in found.best(quantity) - {name}]
    tied = f"not significantly different: {listed_names(others)}" if others else _more(found, name)
    return f"{words[name]}'s: {size}; {tied}"


def _more(found: Comparison, least: str) -> str:
    """All runs that the least one is not tied with have more; it may not be possible to test it against each."""
    tested = found.pairs[(found.pairs["first"] == least) | (found.pairs["second"] == least)]
    others = {*tested["first"], *tested["second"]} - {least}
    if len(others) < len(found.runs) - 1:
        return "each run that it can be tested against has significantly more"
    return "the other has significantly more" if len(others) == 1 else "every other has significantly more"


def _distances(found: Comparison) -> str:
    distance = found.distance()
    if distance is None:
        return "Distances to real images were not taken (compare with --extractor), and a small shift is not yet a good image."
    line = f"The least {distance} is {_least(found, distance)}."
    if len(found.runs) == 1:
        return line
    both = [word for name, word in labels(found).items() if name in found.best(distance) & found.best("rms")]
    return f"{line} {f'Among the best in both: {listed_names(both)}.' if both else 'No run is among the best in both.'}"


def _unresolved(found: Comparison) -> str:
    parts = []
    words = labels(found)
    for quantity, pairs in found.pairs.groupby("quantity", sort=False):
        open_ = pairs[~pairs.resolved]
        shown = [f"{words[row['first']]} and {words[row['second']]}" for row in open_.head(3).to_dict("records")]
        more = f" and {len(open_) - 3} more" if len(open_) > 3 else ""
        listed = f" ({'; '.join(shown)}{more})" if shown else ""
        what = "rms δ" if quantity == MEAN_SQUARE else quantity
        parts.append(f"in {what} {len(open_)} of {len(pairs)} pairs{listed}")
    if not parts:
        return "No two of these runs can be tested against each other."
    if found.pairs.resolved.all():
        return "Every pair is resolved at 5 % (Holm)."
    return f"Not resolved at 5 % (Holm): {'; '.join(parts)}."


def _unpaired(found: Comparison) -> str:
    loose = found.pairs[~found.pairs.paired]
    if loose.empty:
        return ""
    return f"{len(loose)} of {len(found.pairs)} tests are of runs that share no samples, which see less."


def _columns(found: Comparison) -> Iterator[Column]:
    low, high = found.span
    yield "run", "run", ""
    yield "guidance", "guidance", "scale 0 = unguided"
    yield "variant", "variant", "the change of the checkpoint"
    yield "nfe", "NFE", "network calls per sample"
    yield "samples", "read", "samples that the estimator read"
    yield "rms", "rms δ", f"root of the mean δ² between t = {high:.3g} and {low:.3g}, its own error taken out (95 %)"
    yield "run_p", "any shift, p", "of the run's one test over all of its levels and estimators that there is no shift"
    yield "terminal", "last δ", "δ at the last step that can be read, in t (95 %)"
    ends = "ends that hold it in 95 % of cases or more"
    yield "content", "content δ", f"rms of δ against final samples, re-noised (each run's `content` says whose); {ends}"
    if found.table.solver.notna().any():
        yield "solver", "solver δ", f"rms of what finer steps of the same network take away of δ; {ends}"
        yield "network", "network δ", f"rms of what they leave; {ends}"
    distance = found.distance()
    if distance is not None:
        yield distance, distance, "distance to real data, without what few samples add to it (95 %)"
        if f"{distance} plain" in found.table:
            yield f"{distance} plain", f"{distance}, plain", "the distance as everybody prints it"
        kinds = ("IS", "K", "precision", "recall", "density", "coverage")
        others = [c for c in found.table if c.startswith(kinds) and " " not in c]
        yield from ((each, each, "with its 95 % interval") for each in others)
    yield (
        "σ end",
        "σ end",
        f"residual noise of the final samples, by the first reader, in the data's units (95 %); {SMOOTHER_MEANS}",
    )
    yield "skipped", "skipped", "the share of attentions that a cache left out, where the run was made in one go"
    yield "sampling seconds", "sampling, s", "seconds of sampling and reading, where the run was made in one go"
    yield "weights MB", "weights, MB", "of the network that samples"
    yield "peak MB", "peak, MB", "the most that the CUDA device held while sampling"
    yield "seconds", "seconds", "of measuring"


def _pairs(found: Comparison) -> pd.DataFrame:
    """The pairs in short names, the interval under the difference's name, where the table expects it."""
    frame = found.pairs.rename(columns={"low": "difference low", "high": "difference high"})
    return frame.assign(**{side: frame[side].map(labels(found)) for side in ("first", "second")})


def _shared(found: Comparison) -> dict[str, Any]:
    """What all manifests agree on, and what they do not, as lists."""
    every = [run.manifest for run in found.runs.values()]
    keys = [key for key in every[0] if key not in ("seconds", "nfe", "command")]
    shared = {key: every[0][key] for key in keys if all(each.get(key) == every[0][key] for each in every)}
    return {"runs": list(found.runs), "estimator": found.estimator, "levels": list(found.span)} | shared


def _checks(found: Comparison) -> list[Check]:
    return [
        Check(f"{name}, {check.name}", check.passed, check.sentence)
        for name, run in found.runs.items()
        if run.controls is not None
        for check in run.controls.checks
        if check.passed is not None
    ]


def _verdict(found: Comparison) -> Verdict:
    """Failed where any run's controls did, passed where all did."""
    verdicts = {controls_verdict(run) for run in found.runs.values()}
    if "failed" in verdicts:
        return "failed"
    return "passed" if verdicts == {"passed"} else "not run"
