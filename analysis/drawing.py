"""How any figure is drawn and written: the style and its size in a paper, Axes, colours of cells, PNG and PDF."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from noiseshift.analysis.after import spared

from noiseshift.writing import adopt, check_file, replaced_file
from noiseshift.writing.signatures import SIGNATURE, signed_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Figure = tuple[str, Callable[[], Any], str]
"""A figure's file name without suffix, what draws it (Axes), and its caption."""


ON_DARK, ON_LIGHT = "#fefefe", "#101010"
"""Letters on coloured cells, which keep their colours on a dark page (black and white would follow it)."""


UNREAD = "#e8e8e8"
"""A cell without a value."""


def signs(ax: Axes, values: np.ndarray, marked: np.ndarray, limit: float) -> None:
    """A plus or a minus on the marked cells of a map, so that its colours need not tell which side of 0 a cell is on.

    Args:
        ax: holds the map, as `imshow` draws it.
        values: (R, C) of its cells.
        marked: (R, C), whether a cell gets its sign.
        limit: the map's largest value in its colours.
    """
    for row, column in zip(*np.nonzero(marked), strict=True):
        value = values[row, column]
        ax.scatter(
            column,
            row,
            marker="+" if value > 0 else "_",
            s=22,
            linewidths=1.1,
            color=ON_DARK if abs(value) > 0.6 * limit else ON_LIGHT,
            gid="on-cell",
        )


def save_all(figures: Iterable[Figure], folder: str | Path) -> list[Path]:
    """A run's figures as PNG and PDF, in a folder that is made where there is none; returns the files. In a run's own
    folder they become part of it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with style():
        written = save_each(figures, folder)
    adopt(folder.parent, written)
    return written


def save_each(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """Write figures as PNG and PDF; returns the files. One that cannot be drawn is said and left out."""
    import matplotlib.pyplot as plt

    written: list[Path] = []
    for name, draw, _ in figures:
        with spared(f"the figure {name}"):
            written += save_figure(draw(), folder / name)
    plt.close("all")  # those that could not be finished
    return written


def save_figure(ax: Axes, path: Path) -> list[Path]:
    """Write the Axes' figure as PNG and PDF and close it; returns the files. Raises PlaceError (a ValueError) where a file
    of one of these names is there that noiseshift did not make."""
    import matplotlib.pyplot as plt

    written = [path.parent / f"{path.name}.{suffix}" for suffix in ("png", "pdf")]
    figure = ax.get_figure(root=True)
    assert figure is not None
    for file in written:
        check_file(file, signed_figure)
    laid_out(figure)
    for file in written:
        write_figure(figure, file)
    plt.close(figure)
    return written


def laid_out(figure: Any) -> None:
    """Place a figure's parts now, once: matplotlib would do it twice for every file that is written of it."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def write_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as .png or .pdf, signed; as `save_figure` does each of its files."""
    name = "Software" if path.suffix == ".png" else "Creator"
    with replaced_file(path, signed_figure) as fresh:
        figure.savefig(fresh, metadata={name: f"{SIGNATURE} figure"})


def seconds_of_a_figure() -> float:
    """Elapsed seconds of one plain figure, drawn, written as PNG and PDF, and thrown away; `--dry-run` counts figures with it."""
    import matplotlib.pyplot as plt

    taken = 0.0
    with style(), tempfile.TemporaryDirectory() as folder:
        for name in ("sets-up", "timed"):  # the first also looks for fonts
            started = time.perf_counter()
            ax = plt.subplots()[1]
            for height in range(4):
                ax.plot([0, 1], [0, height], marker="o", label=f"{name}, {height}")
            ax.set(xlabel="conditioning time t: noise → data", ylabel="noise shift δ (in t)", title="$\\delta$")
            ax.legend()
            save_figure(ax, Path(folder) / name)
            taken = time.perf_counter() - started
    return taken


PAPERS = {
    "iclr": (5.5, 9),
    "neurips": (5.5, 9),
    "icml": (3.25, 8),
    "cvpr": (3.25, 8),
    "cvpr-wide": (6.875, 8),
}
"""Width of a figure in inches, and size of its letters in points, that fit a venue's text or column."""


def style(paper: str | None = None) -> Any:
    """The project's matplotlib style, as a context; for a `paper`, in its column's width and letter size.

    Raises ValueError for a paper that is not in `PAPERS`.
    """
    if paper is not None and paper not in PAPERS:
        raise ValueError(f"no preset for {paper!r}: choose from {', '.join(PAPERS)}")
    import matplotlib.pyplot as plt

    with as_file(files("noiseshift.analysis") / "noiseshift.mplstyle") as path:
        if paper is None:
            return plt.style.context(str(path))
        width, points = PAPERS[paper]
        letters = ("font.size", "axes.titlesize", "axes.labelsize")
        small = ("legend.fontsize", "xtick.labelsize", "ytick.labelsize")
        sized = dict.fromkeys(letters, points) | dict.fromkeys(small, points - 1)
        return plt.style.context([str(path), {"figure.figsize": (width, 0.62 * width), **sized}])


def shades_of() -> Any:
    """Colours for an ordered quantity, all of which are seen on white and on black."""
    import matplotlib as mpl

    return mpl.colors.ListedColormap(mpl.colormaps["viridis"](np.linspace(0.25, 0.9, 256)))


def say_unread(ax: Axes, what: str = "no level can be read") -> None:
    """In the middle of Axes that nothing is drawn on, why.

    Args:
        ax: empty ones.
        what: the reason.
    """
    ax.text(0.5, 0.5, what, transform=ax.transAxes, ha="center", va="center")
    ax.set(xticks=[], yticks=[])


def axes(ax: Axes | None) -> Axes:
    """The given Axes, or new ones."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots()[1]
