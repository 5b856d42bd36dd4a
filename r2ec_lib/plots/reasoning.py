"""Figures of the reasoning analysis: shares and effects in rows, and shares over training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from r2ec_lib.plots.style import COLOURS, LEGEND, dot, look, require, rows, spread, style


def early_answering(table: pd.DataFrame, ax: Axes) -> Axes:
    """What remains of the ranking when only the first fraction of each reasoning is kept, by `causal.early_answering`:
    NDCG on the left axis, agreement (share of the top K shared with the full reasoning's) on the right one."""
    require(table, ["fraction", "ndcg", "agreement"], "the early-answering table")
    right = ax.twinx()
    for axis, column, i in ((ax, "ndcg", 0), (right, "agreement", 1)):
        band = table[f"{column}_low"], table[f"{column}_high"]
        axis.fill_between(table["fraction"], *band, color=COLOURS[i], alpha=0.2, linewidth=0)
        axis.plot(table["fraction"], table[column], label=column.replace("ndcg", "NDCG"), **look(i))
    ax.set_ylim(bottom=0)
    right.set_ylim(0, 1.02)
    right.set_ylabel("share of the same top items (0 to 1)")
    right.spines["top"].set_visible(False)
    lines = [*ax.get_lines(), *right.get_lines()]
    style(ax, "share of the reasoning kept (of its tokens)", "NDCG (0 to 1)")
    ax.legend(lines, [str(line.get_label()) for line in lines], **LEGEND)
    return ax


def shares(table: pd.DataFrame, ax: Axes, xlabel: str = "share of the reasonings (0 to 1)") -> Axes:
    """Horizontal bars of `facet` and `share` with `low` and `high`, on the whole range of 0…1, so that neighbouring
    figures compare; rows without a value keep their place, empty."""
    require(table, ["facet"], "the rows")
    share, y = table["share"].fillna(0.0), np.arange(len(table))
    ax.barh(y, share, color=COLOURS[0], height=0.7)
    bars = spread(share, table["low"], table["high"])
    ax.errorbar(share, y, xerr=bars, fmt="none", color="black", capsize=2, linewidth=1)
    rows(ax, table["facet"].astype(str).to_list())
    ax.set_xlim(0, 1.02)
    _say_if_empty(ax, table["share"])
    return style(ax, xlabel, "")


def changed(table: pd.DataFrame, ax: Axes, k: int) -> Axes:
    """How much of the recommendation each change exchanges: one bar per row of `causal.changes`, the share of the top
    k items that is exchanged, with its per cent beside it."""
    shares(table, ax, f"share of the top {k} that is exchanged (line: 95 % interval)")
    ends = table["high"].fillna(table["share"])
    for y, (share, high) in enumerate(zip(table["share"], ends, strict=True)):
        ax.text(high + 0.015, y, f"{share:.0%}", va="center")
    ax.set_xlim(0, 1.1)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    return ax


def dots(table: pd.DataFrame, ax: Axes, xlabel: str) -> Axes:
    """One dot with its interval per row (`facet`, `share`, `low`, `high`) about a dashed zero; filled where the
    interval excludes zero. Rows without a value keep their place, empty."""
    require(table, ["facet"], "the rows")
    for y, row in enumerate(table.to_dict("records")):
        dot(ax, y, row["share"], row["low"], row["high"], filled=row["low"] > 0 or row["high"] < 0)
    rows(ax, table["facet"].to_list(), zero=True)
    _say_if_empty(ax, table["share"])
    return style(ax, f"{xlabel} (line: 95 % interval)", "")


def against_chance(table: pd.DataFrame, ax: Axes, xlabel: str) -> Axes:
    """Two markers per row of `uncertainty.against_chance`: what was found, filled, and what chance gives, open; each
    with its interval."""
    require(table, ["facet"], "the rows")
    y = np.arange(len(table))
    for index, (name, shift, fill) in enumerate((("found", -0.12, COLOURS[0]), ("chance", 0.12, "white"))):
        bars = spread(table[name], table[f"{name}_low"], table[f"{name}_high"])
        looks: dict[str, Any] = {"color": COLOURS[index], "markerfacecolor": fill, "linewidth": 1.5, "capsize": 2}
        ax.errorbar(table[name].astype(float), y + shift, xerr=bars, fmt="os"[index], label=name, **looks)
    rows(ax, table["facet"].to_list())
    ax.set_xlim(left=0)
    ax.legend(**LEGEND)
    _say_if_empty(ax, table["found"])
    return style(ax, f"{xlabel} (line: 95 % interval)", "")


def grid(table: pd.DataFrame, ax: Axes, columns: Mapping[str, str], label: str) -> Axes:
    """Many shares over training: one row for each of `columns` (names to words), one field per `step`, darker for
    more, with the share in it; a field without a value stays empty."""
    require(table, ["step"], "the shares by step")
    values = table[list(columns)].to_numpy(float).T  # (rows, steps)
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 0.6 else "black"
            text = f"{value:.2f}"[-3:] if value < 1 else "1"
            ax.text(x, y, text, ha="center", va="center", color=colour, fontsize=7)
    ax.set_yticks(range(len(columns)), list(columns.values()))
    ax.set_xticks(range(len(table)), [f"{step:.0f}" for step in table["step"]])
    style(ax, f"training step (in each field: {label})", "")
    ax.grid(False)
    return ax


def _say_if_empty(ax: Axes, values: pd.Series) -> None:
    if not values.notna().any():
        ax.text(0.5, 0.5, "no value: nothing was stated, or nothing differs", transform=ax.transAxes, ha="center")
