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


def print_cost(cost: Cost, as_json: bool = False) -> None:
    """Parts with their calls; then the whole in FLOP, and hours on this device and at a sustained 100 TFLOP/s.

    Args:
        cost: of a run.
        as_json: on one line, for programs.
    """
    total = {
        "flop a call": cost.flop,
        "seconds a call": cost.seconds,
        "flop": cost.total_flop,
        "hours on this device": cost.hours(),
        "hours at 100 TFLOP/s": cost.total_flop / 1e14 / 3600,
    }
    if as_json:
        parts = [{"part": p.name, "calls": p.calls, "weight": p.weight} for p in cost.parts]
        click.echo(json.dumps({"parts": parts, **total}))
        return
    for part in cost.parts:
        click.echo(f"{part.name:32s} {part.calls:>14,} calls  {part.calls * part.weight * cost.flop:9.2e} FLOP")
    _print_total(total)


def print_costs(costs: Mapping[str, Cost], as_json: bool = False) -> None:
    """A line a run, then the whole.

    Args:
        costs: by the run's name.
        as_json: on one line, for programs.
    """
    total = {
        "flop": sum(cost.total_flop for cost in costs.values()),
        "hours on this device": sum(cost.hours() for cost in costs.values()),
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
