"""Figures of the benchmark: phases of a step, and growth with size."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from r2ec_lib.plots.style import BESIDE, bar_look, look, rows, style


def phases(table: pd.DataFrame, ax: Axes, order: Sequence[str]) -> Axes:
    """One bar per side, stacked by phase in the given order. Needs side, phase and seconds."""
    wide = table.pivot(index="side", columns="phase", values="seconds").fillna(0.0)
    wide = wide.loc[table["side"].unique(), [phase for phase in order if phase in wide]]
    begin = pd.Series(0.0, wide.index)
    for i, phase in enumerate(wide):
        ax.barh(range(len(wide)), wide[phase], left=begin, height=0.6, label=str(phase), **bar_look(i))
        begin = begin + wide[phase]
    rows(ax, wide.index.to_list())
    ax.legend(**BESIDE)
    return style(ax, "time of a step (seconds)", "")


def growth(table: pd.DataFrame, ax: Axes, xlabel: str) -> Axes:
    """Seconds over size, one line per side of a table of `timing.growth`, both axes logarithmic, with the exponent of
    growth in the legend; the grey line grows as size does."""
    for i, (side, part) in enumerate(table.groupby("side", sort=False)):
        label = f"{side}: size^{part['exponent'].iloc[0]:.2f}"
        ax.fill_between(part["size"], part["low"], part["high"], color=look(i)["color"], alpha=0.15, linewidth=0)
        ax.plot(part["size"], part["seconds"], label=label, **look(i))
    ends = table["size"].iloc[[0, -1]].to_numpy()
    ax.plot(ends, table["seconds"].min() * ends / ends[0], color="#bbbbbb", linewidth=1, label="size^1")
    ax.set_xscale("log")
    ax.set_yscale("log")
    sizes = sorted(table["size"].unique())
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    if table["seconds"].max() < 30 * table["seconds"].min():  # hardly a power of ten within
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return style(ax, xlabel, "seconds", legend=True)
