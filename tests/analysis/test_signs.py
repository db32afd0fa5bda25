"""Maps of δ say on which side of 0 a cell is without their colours."""

import numpy as np
import pytest
from matplotlib.markers import MarkerStyle
from noiseshift.analysis.drawing import ON_DARK, ON_LIGHT, axes, signs


def drawn(ax):
    """(row, column, whether it is a plus, colour) of each sign."""
    plus = MarkerStyle("+").get_path().vertices
    found = []
    for mark in ax.collections:
        (column, row), *_ = mark.get_offsets()
        vertices = mark.get_paths()[0].vertices
        found.append((int(row), int(column), len(vertices) == len(plus), tuple(mark.get_edgecolor()[0][:3])))
    return found


@pytest.mark.parametrize("limit", [0.1, 1.0])
def test_marked_cells_show_their_sign_in_a_colour_that_stands_out(limit):
    from matplotlib.colors import to_rgb

    values = np.array([[0.1, -0.1], [0.02, np.nan]])
    ax = axes(None)
    signs(ax, values, np.array([[True, True], [False, False]]), limit)
    colour = to_rgb(ON_DARK if limit == 0.1 else ON_LIGHT)
    assert drawn(ax) == [(0, 0, True, pytest.approx(colour)), (0, 1, False, pytest.approx(colour))]
