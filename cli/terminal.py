"""What a command knows of the terminal it runs in: the words that were typed, and a progress bar."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from noiseshift import distributed


def command_line() -> str:
    """The words that were typed, ready for a shell."""
    return shlex.join(["noiseshift", *click.get_current_context().meta.get("noiseshift.words", ())])


@contextmanager
def progress_bar(show: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, total) that draws one bar a stage on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    console = Console(stderr=True)
    hidden = not show or not console.is_terminal or distributed.joined()[0] > 0
    with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int) -> None:
            name, _, detail = stage.partition(", loss ")  # a stage may say how it is doing
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total, description=f"{name} {detail}".strip())

        yield update
