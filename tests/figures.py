"""What holds for every figure that is drawn from a table."""

from collections.abc import Callable

import pandas as pd
import pytest
from matplotlib.axes import Axes


def labels_its_axes(draw: Callable, table: pd.DataFrame, ax: Axes) -> None:
    """The axes come back with labels and ticks or a label on each side, and without a title."""
    assert draw(table, ax) is ax
    assert ax.get_xlabel() and ax.get_title() == ""
    assert ax.get_ylabel() or ax.get_yticklabels()
    ax.figure.canvas.draw()


def needs_one_row(draw: Callable, table: pd.DataFrame, ax: Axes) -> None:
    """A single row is drawn; an empty table is refused."""
    draw(table.iloc[:1], ax)
    ax.figure.canvas.draw()
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(table.iloc[:0], ax)
