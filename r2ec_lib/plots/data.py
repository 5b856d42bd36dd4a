"""Figures of the data: history lengths, the long tail, and the splits over time."""

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from r2ec_lib.plots.style import bar_look, look, style


def history_lengths(samples: pd.DataFrame, ax: Axes) -> Axes:
    """Share of each split's samples by the number of purchases in the history."""
    lengths = samples["history"].map(len)
    bins = np.arange(1, lengths.max() + 1)
    for i, (split, part) in enumerate(lengths.groupby(samples["split"], sort=False)):
        share = part.value_counts(normalize=True).reindex(bins, fill_value=0)
        ax.plot(bins, share, label=split, **look(i))
    ax.set_ylim(bottom=0)
    return style(ax, "length of the history (purchases)", "share of the split's samples", legend=True)


def popularity_tail(samples: pd.DataFrame, ax: Axes) -> Axes:
    """How often each item is the target, most frequent first, on logarithmic axes: a straight fall is a long tail."""
    for i, (split, targets) in enumerate(samples.groupby("split", sort=False)["target"]):
        counts = targets.value_counts().to_numpy()
        ax.plot(np.arange(1, len(counts) + 1), counts, label=split, **look(i) | {"marker": None})
    ax.set_xscale("log")
    ax.set_yscale("log")
    return style(ax, "items, most frequent first (rank)", "times an item is the target", legend=True)


def split_timeline(samples: pd.DataFrame, ax: Axes, bins: int = 60) -> Axes:
    """Samples over time, stacked by split, in about as many bars of whole days (hours in a short log): chronological
    splits share at most one."""
    dates = pd.Series(mdates.date2num(samples["timestamp"].dt.tz_convert(None).to_numpy()))
    days = np.ptp(dates) / bins
    width = np.ceil(days) if days > 1 else np.ceil(24 * days) / 24 or 1
    start = np.floor(dates.min())
    count = max(1, int(np.ceil((dates.max() - start) / width)))
    edges, bottom = start + width * np.arange(count + 1), np.zeros(count)
    for i, (split, part) in enumerate(dates.groupby(samples["split"].to_numpy(), sort=False)):
        counts, _ = np.histogram(part, edges)
        ax.bar(edges[:-1], counts, np.diff(edges), bottom, align="edge", label=split, **bar_look(i))
        bottom += counts
    ax.set_ylim(0, 1.05 * bottom.max())
    ax.xaxis_date()
    ax.xaxis.set_major_formatter(mdates.ConciseDateFormatter(ax.xaxis.get_major_locator()))
    span = f"{width:g} days" if width > 1 else "day" if width == 1 else f"{24 * width:g} h"
    return style(ax, "time of the purchase (UTC)", f"samples per {span}", legend=True)
