"""What holds for every figure that is drawn from a table."""

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D


def labels_its_axes(draw: Callable, table: pd.DataFrame, ax: Axes) -> None:
    """The axes come back with labels and ticks or a label on each side, and without a title."""
    assert draw(table, ax) is ax
    assert ax.get_xlabel() and ax.get_title() == ""
    ax.figure.canvas.draw()
    assert ax.get_ylabel() or any(label.get_text().strip("−0123456789.") for label in ax.get_yticklabels())


def takes_one_row(draw: Callable, table: pd.DataFrame, ax: Axes) -> None:
    draw(table.iloc[:1], ax)
    ax.figure.canvas.draw()


def points(line: Line2D) -> list[tuple[float, float]]:
    """The points of a line, in their order."""
    return list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))


def intervals(bars: ErrorbarContainer) -> list[tuple[float, ...]]:
    """The ends of error bars, (x, y) of one after (x, y) of the other."""
    return [tuple(map(float, segment.ravel())) for segment in bars.lines[2][0].get_segments()]


def band(ax: Axes, number: int, x: float) -> tuple[float, float]:
    """Where a filled band begins and ends at `x`."""
    heights = [y for place, y in ax.collections[number].get_paths()[0].vertices if place == x]
    return min(heights), max(heights)
