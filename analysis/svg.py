"""Matplotlib figures as inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import base64
import html
import io
import re
from typing import TYPE_CHECKING

from noiseshift.analysis.drawing import laid_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

# What the figures are drawn in → the page's CSS variables. Estimators' colours get lighter twins on dark paper.
COLOURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#e6e6e6": "var(--grid)",
    "#dddddd": "var(--floor)",
    "#777777": "var(--grey)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--orange)",
    "#009e73": "var(--green)",
    "#cc79a7": "var(--pink)",
    "#e69f00": "var(--yellow)",
    "#56b4e9": "var(--sky)",
}


def inline(figure: Figure, title: str, prefix: str) -> str:
    """The figure as an <svg> element named `title`; text stays text, and ids start with `prefix`, unique on a page."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    laid_out(figure)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", text)
    for drawn, shown in COLOURS.items():
        text = re.sub(drawn, shown, text, flags=re.IGNORECASE)
    width = re.search(r'width="([\d.]+)pt"', text)
    size = f"{float(width[1]) * 4 / 3:.0f}px" if width else "100%"
    head = f'<svg role="img" aria-label="{html.escape(title)}" style="max-width:{size}"'
    text = re.sub(r'(<svg[^>]*?) width="[\d.]+pt" height="[\d.]+pt"', r"\1", text, count=1)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", text).replace("xlink:href", "href")
    return head + text.removeprefix("<svg")


def picture_grid(pictures: Tensor, columns: int = 16) -> str:
    """uint8 pictures (N, C, H, W) as one PNG in a data: address."""
    import numpy as np
    from PIL import Image

    n, channels, height, width = pictures.shape
    columns = min(columns, n)
    rows = n // columns
    grid = pictures[: rows * columns].reshape(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    sheet = grid.reshape(rows * height, columns * width, channels).numpy().astype(np.uint8)
    return png(Image.fromarray(sheet[..., 0] if channels == 1 else sheet))


def png(image: object) -> str:
    """A PIL image as a data: address."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)  # type: ignore[attr-defined]
    return data_address(buffer.getvalue())


def data_address(png: bytes) -> str:
    """A PNG file as a data: address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
