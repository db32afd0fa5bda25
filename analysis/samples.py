"""Samples as a figure or a file, whatever they are: pictures, vectors, signals, tokens or video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from noiseshift.analysis.drawing import axes
from torch import nn

from noiseshift.writing import replaced_file
from noiseshift.writing.signatures import SIGNATURE, sign_arrays, signed_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

LINES = 8
"""Signals that are drawn one below another."""
COORDINATES = 3
"""Of vectors that are drawn as points; longer ones are lines."""
CURVES = 4
"""Channels of a signal that have a colour each; more of them are rows of grey."""
Ends: TypeAlias = tuple[float, float]
FRAMES = 8
"""Of a video that are drawn."""


def ends_of(*samples: Tensor) -> Ends:
    """The least and the largest number among some samples."""
    return min(float(each.min()) for each in samples), max(float(each.max()) for each in samples)


def plot_states(samples: Tensor, *, ends: Ends | None = None, ax: Axes | None = None) -> Axes:
    """Samples in the figure that suits their shape.

    Args:
        samples: pictures (N, 1 or 3, H, W) as uint8, vectors (N, d), signals (N, C, L), tokens (N, L, D), pictures of other
            channels (N, C, H, W), or video (N, C, T, H, W).
        ends: the least and the largest number of all that are seen beside these, for one scale; None: of these.
        ax: where they are drawn.

    Raises:
        ValueError: states of another shape, which have no figure.
    """
    shape = tuple(samples.shape[1:])
    if len(shape) == 3 and shape[0] in (1, 3):
        return plot_samples(samples, ax=ax)
    draw = {1: _plot_vectors, 2: _plot_sequences, 3: _plot_channels, 4: _plot_frames}.get(len(shape))
    if draw is None:
        raise ValueError(f"there is no figure of states {shape}")
    return draw(samples, ends or ends_of(samples), axes(ax))


def _plot_frames(samples: Tensor, ends: Ends, ax: Axes) -> Axes:
    """A sample per row: its first frames from left to right. Three channels are colours, others lie one below another."""
    shown = samples[:LINES, :, :FRAMES].float().transpose(1, 2)
    rows, frames, channels, height, width = shown.shape
    if channels != 3:
        shown = shown.reshape(rows, frames, 1, channels * height, width)
    return _plot_grey(shown.flatten(0, 1), f"a sample per row, its first {frames} frames", ends, ax, columns=frames)


def _plot_channels(samples: Tensor, ends: Ends, ax: Axes) -> Axes:
    """The channels of each sample one below another."""
    n, channels, height, width = samples[:10].shape
    return _plot_grey(
        samples[:10].reshape(n, 1, channels * height, width), f"{channels} channels, one below another", ends, ax
    )


def _plot_sequences(samples: Tensor, ends: Ends, ax: Axes) -> Axes:
    """Signals of few channels as lines, sequences of tokens as pictures of a row per token."""
    if samples.shape[1] <= CURVES:
        return _plot_signals(samples, ends, ax)
    shown = samples[:10, None]
    return _plot_grey(
        shown, f"{len(shown)} samples, {samples.shape[1]} rows of {samples.shape[2]} numbers each", ends, ax
    )


def _plot_grey(shown: Tensor, what: str, ends: Ends, ax: Axes, *, columns: int = 10) -> Axes:
    """Numbers (N, 1 or 3, H, W) as pictures, black and white at the ends."""
    low, high = ends
    grey = ((shown.float() - low) / max(high - low, 1e-12) * 255).byte()
    # A white line between any two of them.
    plot_samples(nn.functional.pad(grey, (0, 1, 0, 1), value=255), columns=columns, ax=ax)
    ax.set_title(f"{what}; black {low:.2g}, white {high:.2g}")
    return ax


def _plot_signals(samples: Tensor, ends: Ends, ax: Axes) -> Axes:
    """The first signals, each channel in a colour of its own."""
    shown = samples[:LINES].float()
    room = ends[1] - ends[0] or 1.0
    for row, signal in enumerate(shown):
        for channel, line in enumerate(signal):
            ax.plot((line - row * room).numpy(), color=f"C{channel}", linewidth=0.9)
    ax.set(xlabel="place", ylabel="value, one sample below another", yticks=[])
    return ax


def _plot_vectors(samples: Tensor, ends: Ends, ax: Axes) -> Axes:
    """The first two coordinates; of a single one, its histogram; of many, the vectors as lines."""
    if samples.shape[1] > COORDINATES:
        return _plot_signals(samples[:, None], ends, ax)
    rows = samples.float().numpy()
    if rows.shape[1] == 1:
        ax.hist(rows[:, 0], bins=min(30, max(5, len(rows) // 3)))
        ax.set(xlabel="value", ylabel="samples")
        return ax
    ax.scatter(rows[:, 0], rows[:, 1], s=10)
    ax.set(xlabel="first coordinate", ylabel="second coordinate")
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
