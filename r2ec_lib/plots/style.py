"""Every figure of the notebooks: table in, Axes out.

The caller makes the Axes and writes the title; a function here draws, labels the axes with units and returns the
Axes. Intervals are drawn where the table has them. Colours are Okabe and Ito's, ordered so that neighbours differ in
grey too, and each series has a marker, a line style or a hatch of its own: figures read in greyscale and with any
colour vision. Nothing is computed here beyond counting and smoothing what is drawn; a table with nothing to draw
raises ValueError.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo", "--")
LEGEND = {"framealpha": 0.85, "edgecolor": "none", "fontsize": "small"}


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


def look(index: int) -> dict:
    """Colour, marker and line style of series number `index`, as keywords of `Axes.plot`."""
    i = index % len(COLOURS)
    return {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": LINES[i], "markersize": 4, "linewidth": 1.5}


# ---- helpers -------------------------------------------------------------------------------------------------------


def _require(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise ValueError(f"{name}: column(s) {', '.join(missing)} missing; found {', '.join(map(str, table.columns))}")
    empty = [c for c in columns if not table[c].notna().any()]
    if empty:
        raise ValueError(f"{name}: no row with a value in {', '.join(map(str, empty))}: nothing to draw")
