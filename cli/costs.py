"""`--dry-run`: what a command would cost, printed in place of the command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from noiseshift.studies.cost import Cost
    from noiseshift.training.trial import Training

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print what the run would cost (network calls, FLOP, hours) and stop."
)

training_dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Take a few steps, print how many hours all would take, and stop."
)


def print_cost(cost: Cost, as_json: bool = False, *, figures: int = 0) -> None:
    """Parts with their calls; then the whole in FLOP, and hours on this device and at a sustained 100 TFLOP/s.

    Args:
        cost: of a run.
        as_json: on one line, for programs.
        figures: about how many it draws; the hours on this device hold them.
    """
    drawing = _seconds_of(figures)
    total = {
        "flop a call": cost.flop,
        "seconds a call": cost.seconds,
        "seconds of figures": drawing,
        "flop": cost.total_flop,
        "hours on this device": cost.hours() + drawing / 3600,
        "hours at 100 TFLOP/s": cost.total_flop / 1e14 / 3600,
    }
    if as_json:
        parts = [{"part": p.name, "calls": p.calls, "weight": p.weight} for p in cost.parts]
        click.echo(json.dumps({"parts": parts, "kept": cost.kept, **total}))
        return
    for name in cost.kept:
        click.echo(f"{name:32s} {'made before':>14s}")
    for part in cost.parts:
        click.echo(f"{part.name:32s} {part.calls:>14,} calls  {part.calls * part.weight * cost.flop:9.2e} FLOP")
    _print_total(total)


def print_costs(costs: Mapping[str, Cost], as_json: bool = False, *, figures: int = 0) -> None:
    """A line a run, then the whole.

    Args:
        costs: by the run's name.
        as_json: on one line, for programs.
        figures: about how many are drawn of all runs together; the hours of the whole hold them.
    """
    drawing = _seconds_of(figures)
    total = {
        "seconds of figures": drawing,
        "flop": sum(cost.total_flop for cost in costs.values()),
        "hours on this device": sum(cost.hours() for cost in costs.values()) + drawing / 3600,
    }
    if as_json:
        runs = {name: {"flop": cost.total_flop, "hours": cost.hours()} for name, cost in costs.items()}
        click.echo(json.dumps({"runs": runs, **total}))
        return
    width = max(32, *map(len, costs))
    for name, cost in costs.items():
        calls = sum(part.calls for part in cost.parts)
        click.echo(f"{name:{width}s} {calls:>14,} calls  {cost.hours():9.2e} hours")
    _print_total(total)


def _seconds_of(figures: int) -> float:
    """Elapsed seconds of so many figures, by one that is drawn now."""
    from noiseshift.analysis.drawing import seconds_of_a_figure

    return figures * seconds_of_a_figure() if figures else 0.0


def _print_total(total: Mapping[str, float]) -> None:
    for name, value in total.items():
        click.echo(f"{name:32s} {value:14.4g}")


def print_trial(train: Training, steps: int) -> None:
    """Take a training's first steps and print what all of them would take.

    Args:
        train: starts it.
        steps: of the whole training.
    """
    from noiseshift.training.trial import trial

    found = trial(train, steps)
    _print_total({"steps": steps, "seconds a step": found.seconds, "hours on this device": found.hours})
