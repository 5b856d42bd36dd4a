"""Figures of the benchmark: table in, Axes out, in the style of `plots`."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from r2ec_lib.evaluation.speed.timing import slope
from r2ec_lib.plots.style import COLOURS, HATCHES, LEGEND, look, style


def ratios(rows: pd.DataFrame, ax: Axes) -> Axes:
    """One line a comparison: its measured ratio with quartiles, its target, and what operations alone would give.

    Needs what, ratio, low, high, target (NaN where nothing is asked) and floor.
    """
    if rows.empty:
        raise ValueError("no comparison: nothing to draw")
    for y, row in enumerate(rows.itertuples()):
        ax.plot([row.low, row.high], [y, y], color=COLOURS[0], linewidth=3, alpha=0.6)
        filled = COLOURS[0] if not row.ratio > row.target else "white"
        ax.plot(
            row.ratio, y, marker="o", color=COLOURS[0], markerfacecolor=filled, label="measured" if not y else None
        )
    at = range(len(rows))
    ax.plot(rows["target"], at, linestyle="none", marker="|", markersize=16, color=COLOURS[2], label="target")
    ax.plot(rows["floor"], at, linestyle="none", marker="x", color=COLOURS[7], label="operations alone")
    ax.axvline(1, color="black", linestyle="--", linewidth=1)
    ax.set_yticks(list(at), rows["what"])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **LEGEND)
    return style(ax, "seconds of this library / seconds of the plain way (logarithmic; line: quartiles)", "")


def phases(table: pd.DataFrame, ax: Axes, order: Sequence[str]) -> Axes:
    """One bar a side, stacked by phase in the given order. Needs side, phase and seconds."""
    wide = table.pivot(index="side", columns="phase", values="seconds").fillna(0.0)
    wide = wide.loc[table["side"].unique(), [phase for phase in order if phase in wide]]
    begin = pd.Series(0.0, wide.index)
    for i, phase in enumerate(wide):
        keys = {"color": COLOURS[i % len(COLOURS)], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": "white"}
        ax.barh(range(len(wide)), wide[phase], left=begin, height=0.6, label=phase, linewidth=0, **keys)
        begin = begin + wide[phase]
    ax.set_yticks(range(len(wide)), wide.index)
    ax.set_ylim(len(wide) - 0.5, -0.5)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **LEGEND)
    return style(ax, "time of a step (seconds)", "")


def growth(table: pd.DataFrame, ax: Axes, xlabel: str, names: Mapping[str, str] | None = None) -> Axes:
    """Seconds over size, one line a side, both axes logarithmic; the exponent of growth stands in the legend.

    Needs size, side, seconds, low and high, as `timing.growth` makes them; the grey line grows as size does.
    """
    for i, (side, rows) in enumerate(table.groupby("side", sort=False)):
        exponent = slope(rows["size"].to_list(), rows["seconds"].to_list())
        label = f"{(names or {}).get(side, side)}: size^{exponent:.2f}"
        ax.fill_between(rows["size"], rows["low"], rows["high"], color=look(i)["color"], alpha=0.15, linewidth=0)
        ax.plot(rows["size"], rows["seconds"], label=label, **look(i))
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
