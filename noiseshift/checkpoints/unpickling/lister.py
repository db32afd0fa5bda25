"""A pickle's names and persistent ids, without making anything of them."""

from __future__ import annotations

from typing import Any

from noiseshift.checkpoints.unpickling.guarded import Allowance, Bounded, Guarded, Name

SOMETHING = Name("something")


class Lister(Guarded):
    """Walks a pickle with `SOMETHING` for whatever it would make, and keeps what it names and refers to.

    Args:
        stream: The pickle, or several in a row.
        allowance: What it may take; None for what its size allows.
    """

    def __init__(self, stream: Bounded, allowance: Allowance | None = None):
        super().__init__(stream, allowance)
        self.names: list[str] = []
        self.pids: list[tuple[Any, ...]] = []

    def find_class(self, module: str, name: str) -> Name:
        found: Name = super().find_class(module, name)
        self.names.append(found.full)
        return found

    def _make(self, name: Any, arguments: Any) -> Name:
        return SOMETHING

    def build(self, made: Any, state: Any) -> None: ...

    def target(self, kind: type) -> Any:
        return self.stack[-1] if isinstance(self.stack[-1], kind) else kind()

    def persistent_load(self, pid: Any) -> Name:
        if isinstance(pid, tuple):
            self.pids.append(pid)
        return SOMETHING
