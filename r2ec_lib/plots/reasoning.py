"""Figures of the reasoning analysis: shares and effects in rows."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from r2ec_lib.plots.style import BESIDE, COLOURS, dot, rows, spread, style


def shares(table: pd.DataFrame, ax: Axes, xlabel: str = "share of the reasonings (0 to 1)") -> Axes:
    """Horizontal bars of `facet` and `share` with `low` and `high`, on the whole range of 0…1, so that neighbouring
    figures compare; rows without a value keep their place, empty."""
    share, y = table["share"].astype(float), np.arange(len(table))
    ax.barh(y, share, color=COLOURS[0], height=0.7)
    bars = spread(share, table["low"], table["high"])
    ax.errorbar(share, y, xerr=bars, fmt="none", color="black", capsize=2, linewidth=1)
    rows(ax, table["facet"].astype(str).to_list())
    ax.set_xlim(0, 1.02)
    _say_if_empty(ax, table["share"])
    return style(ax, xlabel, "")


def dots(table: pd.DataFrame, ax: Axes, xlabel: str) -> Axes:
    """One dot with its interval per row (`facet`, `share`, `low`, `high`) about a dashed zero; filled where the
    interval excludes zero. Rows without a value keep their place, empty. A `count` stands behind the facet."""
    for y, row in enumerate(table.to_dict("records")):
        dot(ax, y, row["share"], row["low"], row["high"], filled=row["low"] > 0 or row["high"] < 0)
    counts = [f" (n = {count:,})" for count in table["count"]] if "count" in table else [""] * len(table)
    rows(ax, [f"{facet}{count}" for facet, count in zip(table["facet"], counts, strict=True)], zero=True)
    _say_if_empty(ax, table["share"])
    return style(ax, f"{xlabel} (line: 95 % interval)", "")


def against_chance(table: pd.DataFrame, ax: Axes, xlabel: str) -> Axes:
    """Two markers per row of `uncertainty.against_chance`: what was measured, filled, and what chance gives, open;
    each with its interval; under the name of the row stands the difference of the two with its own."""
    y = np.arange(len(table))
    for index, (name, shift, fill) in enumerate((("measured", -0.12, COLOURS[0]), ("chance", 0.12, "white"))):
        bars = spread(table[name], table[f"{name}_low"], table[f"{name}_high"])
        looks: dict[str, Any] = {"color": COLOURS[index], "markerfacecolor": fill, "linewidth": 1.5, "capsize": 2}
        ax.errorbar(
            table[name].astype(float), y + shift, xerr=bars, fmt="os"[index], label=name, clip_on=False, **looks
        )
    lead = "{facet}\n{lead:+z.3f} ({lead_low:+z.3f} to {lead_high:+z.3f})"
    rows(ax, [lead.format(**row).replace("+nan", "–") for row in table.to_dict("records")])
    ax.set_xlim(left=0)
    ax.legend(**BESIDE)
    _say_if_empty(ax, table["measured"])
    return style(ax, f"{xlabel} (line: 95 % interval)", "")


def _say_if_empty(ax: Axes, values: pd.Series) -> None:
    if not values.notna().any():
        box = {"facecolor": "white", "edgecolor": "none"}
        ax.text(0.5, 0.5, "no row has a value", transform=ax.transAxes, ha="center", va="center", bbox=box)
