"""What holds for every figure that is drawn from a table."""

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes


def labels_its_axes(draw: Callable, table: pd.DataFrame, ax: Axes) -> None:
    """The axes come back with labels and ticks or a label on each side, and without a title."""
    assert draw(table, ax) is ax
    assert ax.get_xlabel() and ax.get_title() == ""
    assert ax.get_ylabel() or ax.get_yticklabels()
    ax.figure.canvas.draw()


def takes_one_row(draw: Callable, table: pd.DataFrame, ax: Axes) -> None:
    draw(table.iloc[:1], ax)
    ax.figure.canvas.draw()
