"""A piece of work in a process of its own, and what it says."""

import os
from collections.abc import Callable


def said_by(work: Callable[[], object]) -> str:
    """What `work` returns in a process that is forked from this one, or what it raised, as words."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8", errors="replace") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said
