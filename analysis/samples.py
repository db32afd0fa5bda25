"""A look at samples, whatever they are: pictures, vectors or signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noiseshift.analysis.plots import axes, plot_samples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

LINES = 8
"""Signals that are drawn one below another."""


def plot_states(samples: Tensor, *, ax: Axes | None = None) -> Axes:
    """Samples in the figure that suits their shape.

    Args:
        samples: pictures (N, 1 or 3, H, W) as uint8, vectors (N, d), signals (N, C, L), or pictures of other channels (N, C, H, W).

    Raises:
        ValueError: states of another shape, which have no figure.
    """
    if samples.ndim == 4:
        return plot_samples(samples, ax=ax) if samples.shape[1] in (1, 3) else _plot_channels(samples, axes(ax))
    if samples.ndim == 3:
        return _plot_signals(samples, axes(ax))
    if samples.ndim == 2:
        return _plot_vectors(samples, axes(ax))
    raise ValueError(f"there is no figure of states {tuple(samples.shape[1:])}")


def _plot_channels(samples: Tensor, ax: Axes) -> Axes:
    """The channels of each sample one below another, in grey between the least and the largest value."""
    shown = samples[:10].float()
    low, high = float(shown.min()), float(shown.max())
    grey = ((shown - low) / max(high - low, 1e-12) * 255).byte()
    n, channels, height, width = grey.shape
    plot_samples(grey.reshape(n, 1, channels * height, width), ax=ax)
    ax.set_title(f"{channels} channels, one below another; black {low:.2g}, white {high:.2g}")
    return ax


def _plot_signals(samples: Tensor, ax: Axes) -> Axes:
    """The first signals, each channel in a colour of its own."""
    shown = samples[:LINES].float()
    room = float(shown.max() - shown.min()) or 1.0
    for row, signal in enumerate(shown):
        for channel, line in enumerate(signal):
            ax.plot((line - row * room).numpy(), color=f"C{channel}", linewidth=0.9)
    ax.set(xlabel="place", ylabel="value, one sample below another", yticks=[])
    return ax


def _plot_vectors(samples: Tensor, ax: Axes) -> Axes:
    """The first two coordinates; of a single one, its histogram."""
    rows = samples.float().numpy()
    if rows.shape[1] == 1:
        ax.hist(rows[:, 0], bins=min(30, max(5, len(rows) // 3)))
        ax.set(xlabel="value", ylabel="samples")
        return ax
    ax.scatter(rows[:, 0], rows[:, 1], s=10)
    ax.set(xlabel="first coordinate", ylabel="second coordinate")
    return ax
