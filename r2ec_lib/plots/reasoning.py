"""Figures of the reasoning analysis that `plots` has no shape for: table in, `Axes` out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from r2ec_lib.plots.style import COLOURS, LEGEND, _require, look, style


def early_answering(table: pd.DataFrame, ax: Axes) -> Axes:
    """What is left of the ranking when only the first fraction of each reasoning is kept.

    Needs `fraction` (0 to 1), `ndcg` and `agreement` (share of the top K shared with the full reasoning's), each with
    optional `<name>_low` and `<name>_high`. NDCG is drawn on the left axis, agreement on the right one.
    """
    _require(table, ["fraction", "ndcg", "agreement"], "the early-answering table")
    right = ax.twinx()
    for axis, column, i in ((ax, "ndcg", 0), (right, "agreement", 1)):
        low, high = f"{column}_low", f"{column}_high"
        if {low, high} <= set(table.columns):
            axis.fill_between(table["fraction"], table[low], table[high], color=COLOURS[i], alpha=0.2, linewidth=0)
        axis.plot(table["fraction"], table[column], label=column.replace("ndcg", "NDCG"), **look(i))
    ax.set_ylim(bottom=0)
    right.set_ylim(0, 1.02)
    right.set_ylabel("share of the same top items (0 to 1)")
    right.spines["top"].set_visible(False)
    lines = [*ax.get_lines(), *right.get_lines()]
    style(ax, "share of the reasoning kept (of its tokens)", "NDCG (0 to 1)")
    ax.legend(lines, [line.get_label() for line in lines], **LEGEND)
    return ax


# ---- reasoning -----------------------------------------------------------------------------------------------------


def facet_shares(table: pd.DataFrame, ax: Axes, xlabel: str = "share of the reasonings (0 to 1)") -> Axes:
    """Horizontal bars: `facet` and `share`, with optional `low` and `high`, in the table's order."""
    _require(table, ["facet", "share"], "the shares")
    y = np.arange(len(table))
    ax.barh(y, table["share"], color=COLOURS[0], height=0.7)
    if {"low", "high"} <= set(table.columns):
        spread = [(table["share"] - table["low"]).clip(lower=0), (table["high"] - table["share"]).clip(lower=0)]
        ax.errorbar(table["share"], y, xerr=spread, fmt="none", color="black", capsize=2, linewidth=1)
    ax.set_yticks(y, table["facet"].astype(str))
    ax.set_ylim(len(table) - 0.5, -0.5)
    return style(ax, xlabel, "")


def distribution(values: pd.Series, ax: Axes, xlabel: str, bins: int = 30) -> Axes:
    """Histogram of a column as counts, its mean as a dashed line; NaN are left out."""
    values = pd.Series(values).dropna()
    if values.empty:
        raise ValueError(f"no value of {xlabel!r}: nothing to draw")
    ax.hist(values, bins=bins, color=COLOURS[0], edgecolor="white", linewidth=0.5)
    ax.axvline(values.mean(), color="black", linestyle="--", linewidth=1, label="mean")
    return style(ax, xlabel, "reasonings", legend=True)


def changed(table: pd.DataFrame, ax: Axes, k: int) -> Axes:
    """What is left of the recommendation after each change: a bar a row of `causal.changes`, in per cent.

    The bar is the share of the top k items that is exchanged, its number stands beside it.
    """
    if table.empty:
        raise ValueError("no change to draw: the table of changes is empty")
    y = np.arange(len(table))
    ax.barh(y, table["share"], color=COLOURS[0], height=0.65)
    spread = [table["share"] - table["low"], table["high"] - table["share"]]
    ax.errorbar(table["share"], y, xerr=np.nan_to_num(spread), fmt="none", color="black", capsize=2, linewidth=1)
    for at, share, high in zip(y, table["share"], table["high"].fillna(table["share"]), strict=True):
        ax.text(high + 0.015, at, f"{share:.0%}", va="center")
    ax.set_yticks(y, table["facet"])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, 1.1)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    return style(ax, f"share of the top {k} that is exchanged (line: 95 % interval)", "")


def dots(table: pd.DataFrame, ax: Axes, xlabel: str) -> Axes:
    """A dot with its interval a row (`facet`, `share`, `low`, `high`) about a dashed zero; filled where the interval
    leaves zero out. Rows without a value keep their place, empty."""
    if table.empty:
        raise ValueError("no row to draw: the table is empty")
    for y, row in enumerate(table.itertuples()):
        clear = row.low > 0 or row.high < 0
        ax.plot([row.low, row.high], [y, y], color=COLOURS[0], linewidth=2)
        ax.plot(row.share, y, marker="o", color=COLOURS[0], markerfacecolor=COLOURS[0] if clear else "white")
    ax.axvline(0, color="black", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(table)), table["facet"])
    ax.set_ylim(len(table) - 0.5, -0.5)
    _say_if_empty(ax, table["share"])
    return style(ax, f"{xlabel} (line: 95 % interval)", "")


def against_chance(table: pd.DataFrame, ax: Axes, xlabel: str) -> Axes:
    """Two markers a row: what was found, filled, and what chance gives, open; each with its interval.

    Needs `facet`, `found`, `found_low`, `found_high` and the same of `chance`.
    """
    if table.empty:
        raise ValueError("no row to draw: the table is empty")
    y = np.arange(len(table))
    for name, shift, index, fill in (("found", -0.12, 0, COLOURS[0]), ("chance", 0.12, 1, "white")):
        values, marker = table[name].astype(float), "os"[index]
        spread = [values - table[f"{name}_low"], table[f"{name}_high"] - values]
        keys = {"color": COLOURS[index], "markerfacecolor": fill, "capsize": 2, "linewidth": 1.5}
        ax.errorbar(values, y + shift, xerr=np.nan_to_num(spread), fmt=marker, label=name, **keys)
    ax.set_yticks(y, table["facet"])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.legend(**LEGEND)
    _say_if_empty(ax, table["found"])
    return style(ax, f"{xlabel} (line: 95 % interval)", "")


def grid(table: pd.DataFrame, ax: Axes, columns: Mapping[str, str], label: str) -> Axes:
    """Many shares over training: a row each of `columns` (names to words), a field a row of `table`, darker for
    more; the share stands in each field, and a field without a value stays empty.

    Needs `step` and the columns, such as from `texts.by_step`.
    """
    if table.empty or not columns:
        raise ValueError("no share to draw: the table or the list of columns is empty")
    values = table[list(columns)].to_numpy(float).T  # (rows, steps)
    ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 0.6 else "black"
            ax.text(
                x, y, f"{value:.2f}"[-3:] if value < 1 else "1", ha="center", va="center", color=colour, fontsize=7
            )
    ax.set_yticks(range(len(columns)), list(columns.values()))
    ax.set_xticks(range(len(table)), [f"{step:.0f}" for step in table["step"]])
    style(ax, f"training step (in each field: {label})", "")
    ax.grid(False)
    return ax


def shares(table: pd.DataFrame, ax: Axes, xlabel: str = "share of the reasonings (0 to 1)") -> Axes:
    """`plots.facet_shares` on the whole range of 0…1, so that figures beside each other compare; rows without a value
    keep their place, empty."""
    if table.empty:
        raise ValueError("no row to draw: the table is empty")
    facet_shares(table.fillna({"share": 0.0}), ax, xlabel)
    ax.set_xlim(0, 1.02)
    _say_if_empty(ax, table["share"])
    return ax


def _say_if_empty(ax: Axes, values: pd.Series) -> None:
    if not values.notna().any():
        ax.text(0.5, 0.5, "no value: nothing was stated, or nothing differs", transform=ax.transAxes, ha="center")
