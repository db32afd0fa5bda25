"""After a measurement nothing may fail: what cannot be drawn or printed is said and left out, and the numbers are kept."""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from noiseshift.analysis.names import shortened


@contextmanager
def spared(what: str) -> Iterator[None]:
    """Around code that draws or prints what is measured and saved: an error leaves `what` out, with a line on the log.

    `NOISESHIFT_DEBUG=1` shows its traceback. A letter that a font lacks is a box in a figure, and long
    labels may leave it little room: neither is a warning.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            warnings.filterwarnings("ignore", "constrained_layout not applied")
            yield
    except Exception as error:
        if os.environ.get("NOISESHIFT_DEBUG"):
            traceback.print_exception(error)
        reason = f"{type(error).__name__}: {shortened(error, 160)}"
        logging.getLogger("noiseshift").warning("%s was left out (%s); the numbers are saved", what, reason)
