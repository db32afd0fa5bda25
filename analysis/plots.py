"""Figures of a measurement: a report in, Axes out. Nothing here computes; every number comes from `report.table()`.

Time runs from noise (t = 1) on the left to data (t = 0) on the right, as sampling does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from noiseshift.analysis.after import spared
from noiseshift.analysis.names import in_figure

from noiseshift.estimators.instrument import DATA
from noiseshift.shift.report import ShiftReport
from noiseshift.studies.folders import Run
from noiseshift.writing import adopt, check_file, replaced_file
from noiseshift.writing.signatures import SIGNATURE, sign_arrays, signed_figure, signed_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

Reports = ShiftReport | Mapping[str, ShiftReport]

Figure = tuple[str, Callable[[], Any], str]
"""A figure's file name without suffix, what draws it (Axes), and its caption."""

ON_DARK, ON_LIGHT = "#fefefe", "#101010"
"""Letters on coloured cells, which keep their colours on a dark page (black and white would follow it)."""

UNREAD = "#e8e8e8"
"""A cell without a value."""

# Okabe–Ito, safe for colour-blind readers; one colour per estimator, in every figure.
COLOURS = {
    "network": "#0072B2",
    "residual": "#D55E00",
    "constant-pixel": "#009E73",
    "fokker-planck": "#CC79A7",
    "score-mixture": "#E69F00",
}
# Lines and marks differ as well: figures are printed in grey, too.
LINES = {
    "network": "-",
    "residual": "--",
    "constant-pixel": ":",
    "fokker-planck": "-.",
    "score-mixture": (0, (5, 1, 1, 1, 1, 1)),
}
MARKERS = {"network": "o", "residual": "s", "constant-pixel": "D", "fokker-planck": "^", "score-mixture": "v"}
REAL, SAMPLED, CONTENT = "#777777", "#0072B2", "#56B4E9"


def plot_shift(reports: Reports, *, ax: Axes | None = None) -> Axes:
    """delta(t) of each estimator with its 95 % band; grey: the first one's detection floor; hollow: not resolved."""
    return _curves(reports, ("shift", "low", "high"), f"noise shift δ (in t){_against(reports)}", ax)


def plot_content_shift(reports: Reports, *, ax: Axes | None = None) -> Axes:
    """The same against final samples, re-noised: another baseline, which has generated content at the right level."""
    columns = ("content_shift", "content_low", "content_high")
    return _curves(reports, columns, "content-controlled δ (in t)", ax, floor=False)


def plot_shift_log_snr(reports: Reports, *, ax: Axes | None = None) -> Axes:
    """The shift in log-SNR: below zero means noisier than the conditioning level."""
    columns = ("shift_log_snr", "log_snr_low", "log_snr_high")
    return _curves(reports, columns, f"noise shift Δλ (in log-SNR){_against(reports)}", ax, floor=False)


def plot_effective_level(reports: Reports, *, ax: Axes | None = None) -> Axes:
    """Effective against conditioning level: (t + delta) / t, 1 where there is no shift."""
    ax = axes(ax)
    ax.axhline(1, color="black", linewidth=0.8)
    for name, report in _named(reports).items():
        table = report.table()
        colour = COLOURS.get(name, "black")
        ax.fill_between(
            table.t, 1 + table.low / table.t, 1 + table.high / table.t, color=colour, alpha=0.18, linewidth=0
        )
        ax.plot(table.t, 1 + table["shift"] / table.t, marker="o", color=colour, label=in_figure(name))
    ax.set_ylabel(f"effective / conditioning level, (t + δ) / t{_against(reports)}")
    _finish(ax)
    return ax


def plot_posteriors(report: ShiftReport, *, panels: int = 4) -> np.ndarray:
    """Where the readings of single states lie, sampled ones against real ones at the same conditioning level.

    Args:
        report: of one estimator.
        panels: how many of the steps are shown.

    Returns:
        The axes, one per panel.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    chosen = np.unique(np.linspace(0, len(report.times) - 1, panels).round().astype(int))
    _figure, axes = plt.subplots(1, len(chosen), figsize=(1.9 * len(chosen), 2.3), squeeze=False, layout="constrained")
    for ax, k in zip(axes[0], chosen, strict=True):
        for states, colour, label in _states(report):
            sns.kdeplot(x=states[:, k], ax=ax, color=colour, fill=True, alpha=0.25, linewidth=1.2, label=label)
        ax.axvline(report.times[k], color="black", linewidth=0.8, linestyle=":")
        ax.set_title(f"conditioning time t = {report.times[k]:.2f}")
        ax.set(xlabel="level read, in t", ylabel="", yticks=[])
        ax.spines["left"].set_visible(False)
    axes[0, 0].set_ylabel("density of states")
    axes[0, 0].figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return axes[0]


def plot_solver(run: Run, estimator: str | None = None, *, ax: Axes | None = None) -> Axes:
    """The whole shift, its solver's and network's parts by step refinement, and an exact model's shift, as one estimator reads
    them.

    Args:
        run: measured with controls.
        estimator: which one; the first by default.
        ax: drawn on; new ones by default.

    Returns:
        The axes.

    Raises:
        ValueError: for a run without that control.
    """
    if run.controls is None or run.controls.shares.empty:
        raise ValueError("whose the shift is was not measured in this run: measure with --controls")
    rows = run.controls.shares
    rows = rows[rows.estimator == (estimator or rows.estimator.iloc[0])]
    ax = axes(ax)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.plot(rows.t, rows.total, marker="o", color="#0072B2", label="whole shift")
    for part, colour, line, label in (
        ("solver", "#E69F00", "s--", "taken away by finer steps (solver)"),
        ("network", "#009E73", "D:", "left by finer steps (network)"),
        ("exact_solver", "#CC79A7", "^-.", "exact model, same solver"),
    ):
        if rows[part].notna().any():
            ax.fill_between(rows.t, rows[f"{part}_low"], rows[f"{part}_high"], color=colour, alpha=0.18, linewidth=0)
            ax.plot(rows.t, rows[part], line, markersize=4, color=colour, label=label)
    ax.set_ylabel(f"noise shift δ (in t), by {rows.estimator.iloc[0]}{_against(run.reports)}")
    _finish(ax)
    return ax


def plot_samples(pictures: Tensor, *, columns: int = 10, ax: Axes | None = None) -> Axes:
    """A grid of uint8 pictures (N, C, H, W), row by row."""
    n, channels, height, width = pictures.shape
    columns = min(columns, n)
    rows = n // columns
    grid = pictures[: rows * columns].reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    ax = axes(ax)
    image = grid.reshape(rows * height, columns * width, channels).numpy()
    ax.imshow(image[..., 0] if channels == 1 else image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    ax.set_axis_off()
    return ax


def save_samples(pictures: Tensor, labels: Tensor | None, path: str | Path, *, overwrite: bool = False) -> None:
    """Write pictures.

    Args:
        pictures: uint8 (N, C, H, W); states that are no pictures, floats of any shape, only as an npz.
        labels: (N,), or None.
        path: a grid for .png; for other suffixes an npz with arr_0 uint8 (N, H, W, C), or `states`, and arr_1 labels.
        overwrite: replace a file that noiseshift did not make.

    Raises:
        PlaceError: a ValueError, where such a file is there.
        ValueError: states that are no pictures, for .png.
    """
    path = Path(path)
    if path.suffix == ".png" and pictures.is_floating_point():
        raise ValueError(f"samples of shape {tuple(pictures.shape[1:])} are no pictures: write them to an .npz")
    with replaced_file(path, signed_samples, overwrite=overwrite) as fresh:
        (_save_sheet if path.suffix == ".png" else _save_arrays)(pictures, labels, fresh)


def _save_arrays(pictures: Tensor, labels: Tensor | None, path: Path) -> None:
    arrays: dict[str, Any] = (
        {"states": pictures.numpy()}
        if pictures.is_floating_point()
        else {"arr_0": pictures.permute(0, 2, 3, 1).numpy()}
    )
    if labels is not None:
        arrays["arr_1"] = labels.numpy()
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    sign_arrays(path)


def _save_sheet(pictures: Tensor, labels: Tensor | None, path: Path) -> None:
    from PIL import Image, PngImagePlugin

    words = PngImagePlugin.PngInfo()
    words.add_text("Software", f"{SIGNATURE} sample")
    n, channels, height, width = pictures.shape
    columns = min(10, n)
    rows = -(-n // columns)
    sheet = np.zeros((rows * height, columns * width, channels), np.uint8)
    for i, picture in enumerate(pictures.permute(0, 2, 3, 1).numpy()):
        top, left = height * (i // columns), width * (i % columns)
        sheet[top : top + height, left : left + width] = picture
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).resize(
        (3 * sheet.shape[1], 3 * sheet.shape[0]), Image.Resampling.NEAREST
    ).save(path, pnginfo=words)


def save_figures(run: Run, folder: str | Path) -> list[Path]:
    """Write every figure of a run as PNG and PDF; returns the files. In a run's own folder they become part of it."""
    from noiseshift.analysis import parts
    from noiseshift.analysis.samples import plot_states

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(run.reports.values()))
    figures: dict[str, Callable[[], Any]] = {
        "shift": lambda: plot_shift(run.reports),
        "shift-log-snr": lambda: plot_shift_log_snr(run.reports),
        "effective": lambda: plot_effective_level(run.reports),
        "posteriors": lambda: plot_posteriors(first)[0],
        "samples": lambda: plot_states(run.pictures),
    }
    if any(report.content is not None for report in run.reports.values()):
        figures["shift-content"] = lambda: plot_content_shift(run.reports)
    if run.controls is not None and not run.controls.shares.empty:
        figures["solver"] = lambda: plot_solver(run)
    figures |= {name: draw for name, draw, _ in parts.figures(run)}
    with style():
        written = save_each([(name, draw, "") for name, draw in figures.items()], folder)
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


def _curves(
    reports: Reports, columns: tuple[str, str, str], label: str, ax: Axes | None, *, floor: bool = True
) -> Axes:
    ax = axes(ax)
    low_end = 0.0
    high_end = 0.0
    ax.axhline(0, color="black", linewidth=0.8)
    for index, (name, report) in enumerate(_named(reports).items()):
        table = report.table()
        colour = COLOURS.get(name, "black")
        if columns[0] not in table:
            continue
        if floor and index == 0:
            ax.fill_between(
                table.t, -table.floor, table.floor, color="#dddddd", alpha=0.6, linewidth=0, label="under the floor"
            )
        value, low, high = (table[column] for column in columns)
        ax.fill_between(table.t, low, high, color=colour, alpha=0.18, linewidth=0)
        line = LINES.get(name, "-")
        mark = MARKERS.get(name, "o")
        ax.plot(table.t, value, line, color=colour, label=in_figure(name))
        low_end, high_end = min(low_end, float(value.min())), max(high_end, float(value.max()))
        resolved = table.resolved if floor else (low > 0) | (high < 0)
        ax.scatter(
            table.t,
            value,
            s=18,
            marker=mark,
            zorder=3,
            edgecolors=colour,
            facecolors=np.where(resolved, colour, "white"),
        )
    # The values decide the scale: a wide band may leave the frame, a narrow one must stay readable.
    room = 0.4 * (high_end - low_end) + 1e-4
    ax.set_ylim(low_end - room, high_end + room)
    ax.set_ylabel(label)
    _finish(ax)
    return ax


def _states(report: ShiftReport) -> list[tuple[np.ndarray, str, str]]:
    states = [
        (
            report.calibration.real.t,
            REAL,
            "real, forward-noised" if report.baseline == DATA else "own final samples, re-noised",
        ),
        (report.sampled.t, SAMPLED, "sampling"),
    ]
    return states + ([(report.content.t, CONTENT, "final samples, re-noised")] if report.content is not None else [])


def _against(reports: Reports) -> str:
    """A second line of an axis' label, where shifts are not against data."""
    baselines = {report.baseline for report in _named(reports).values()} - {DATA}
    return "".join(f"\nagainst {baseline}" for baseline in baselines)


def _named(reports: Reports) -> Mapping[str, ShiftReport]:
    return {reports.estimator: reports} if isinstance(reports, ShiftReport) else reports


def shades_of() -> Any:
    """Colours for an ordered quantity, all of which are seen on white and on black."""
    import matplotlib as mpl

    return mpl.colors.ListedColormap(mpl.colormaps["viridis"](np.linspace(0.25, 0.9, 256)))


def axes(ax: Axes | None) -> Axes:
    """The given Axes, or new ones."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots()[1]


def _finish(ax: Axes) -> None:
    ax.set_xlabel("conditioning time t: noise 1 → 0 data")
    ax.set_xlim(1, 0)
    ax.legend(loc="best")
