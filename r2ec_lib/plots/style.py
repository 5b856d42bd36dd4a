"""What every figure has in common: colours, labelled axes, and rows with intervals.

A figure is a function from a table and an Axes to the Axes. The caller makes the Axes and writes the title; the
function draws, and labels the axes with units. Intervals are drawn where the table has them. Colours are Okabe and
Ito's, ordered so that neighbours differ in grey too, and each series has its own marker, line style or hatch: figures
read in greyscale and with any colour vision. Nothing is computed beyond counting and smoothing what is drawn.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo", "--")
LEGEND: dict[str, Any] = {"framealpha": 0.85, "edgecolor": "none", "fontsize": "small"}
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), **LEGEND}
"""A legend to the right of the axes."""


def style(ax: Axes, xlabel: str, ylabel: str, legend: bool = False) -> Axes:
    """Label the axes, lighten the frame and draw a quiet grid behind the data."""
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    if legend:
        ax.legend(**LEGEND)
    return ax


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line style of series number `index`, as keywords of `Axes.plot`; colours come again with
    other markers."""
    turn, i = divmod(index, len(COLOURS))
    shape = (i + turn) % len(COLOURS)
    drawn = {"color": COLOURS[i], "marker": MARKERS[shape], "linestyle": LINES[shape]}
    return {**drawn, "markersize": 4, "linewidth": 1.5}


def bar_look(index: int) -> dict[str, Any]:
    """Colour and hatch of series number `index`, as keywords of `Axes.bar`."""
    i = index % len(COLOURS)
    return {"color": COLOURS[i], "hatch": HATCHES[i], "edgecolor": "white", "linewidth": 0}


def rows(ax: Axes, labels: Sequence[str], zero: bool = False) -> None:
    """Make the y axis one row per label (text, no mathematics), the first on top; with `zero`, a dashed line at x = 0,
    and few enough ticks along x for signed decimals not to meet."""
    ax.set_yticks(range(len(labels)), list(labels), parse_math=False)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    if zero:
        ax.axvline(0, color="black", linestyle="--", linewidth=1)
        ax.xaxis.set_major_locator(MaxNLocator(4))


def dot(ax: Axes, y: float, value: float, low: float, high: float, filled: bool) -> None:
    """A value with its interval in row `y`, filled or open."""
    ax.plot([low, high], [y, y], color=COLOURS[0], linewidth=2)
    ax.plot(value, y, marker="o", color=COLOURS[0], markerfacecolor=COLOURS[0] if filled else "white")


def spread(values: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """Intervals as error bars (2, rows): distances of both ends from the value, NaN where an end is unknown."""
    return np.array([values - low, high - values], dtype=float).clip(min=0)
