"""Figures of the evaluation: comparisons, costs, and seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from r2ec_lib.evaluation.wording import metric_name
from r2ec_lib.plots.style import BESIDE, COLOURS, dot, look, rows, style


def differences(comparisons: pd.DataFrame, ax: Axes, metric: str) -> Axes:
    """Differences in one metric with their 95 % intervals, one row per comparison; the dashed line is no difference.

    Needs `label`, `difference` and `ci95` ([low, high]); a filled marker's interval excludes zero. Where the rows have
    `p_holm`, filled markers are below 5 % after Holm's correction instead (NaN is not). `smallest_detectable`, which
    is that of an uncorrected test, is a grey band.
    """
    for y, row in enumerate(comparisons.to_dict("records")):
        low, high = row["ci95"]
        filled = low > 0 or high < 0
        if "p_holm" in row:
            filled = row["p_holm"] < 0.05
        if (band := row.get("smallest_detectable")) is not None:
            ax.barh(y, 2 * band, left=-band, height=0.7, color="#e6e6e6")
            ax.use_sticky_edges = False  # leaves a margin beside the widest band
        dot(ax, y, row["difference"], low, high, filled)
    rows(ax, comparisons["label"].to_list(), zero=True)
    return style(ax, f"difference in {metric_name(metric)} (line: 95 % interval)", "")


def over_seeds(table: pd.DataFrame, ax: Axes, metric: str, names: Mapping[str, str]) -> Axes:
    """Differences on one metric, one row per opponent of `studies.margins`: a circle per run, their mean with its 95 %
    interval in grey."""
    table = table[table["metric"] == metric]
    for y, row in enumerate(table.to_dict("records")):
        runs = row["by_run"]
        ax.plot(row["ci95"], [y, y], color="#bbbbbb", linewidth=5, solid_capstyle="butt")
        ax.plot(runs, [y] * len(runs), linestyle="none", marker="o", color=COLOURS[0], markerfacecolor="white")
        ax.plot(row["difference"], y, marker="|", markersize=14, color="black")
    rows(ax, [names.get(b, b) for b in table["b"]], zero=True)
    return style(ax, f"difference in {metric_name(metric)} (grey: 95 % interval)", "")


def by_size(curve: pd.DataFrame, line: Mapping[str, float], ax: Axes, xlabel: str, ylabel: str) -> Axes:
    """The rows of `scaling.curve` with their 95 % intervals, and the line of `scaling.fit` through them."""
    ends = np.array([curve["size"].min(), curve["size"].max()])
    ax.plot(ends, line["intercept"] + line["per_doubling"] * np.log2(ends), color="#999999", linestyle="--")
    ax.errorbar(curve["size"], curve["mean"], curve["half"], linestyle="none", marker="o", color=COLOURS[0])
    ax.set_xscale("log", base=2)
    ax.set_xticks(curve["size"], [f"{size:,g}" for size in curve["size"]])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    return style(ax, f"{xlabel} (logarithmic)", ylabel)


def quality_by_cost(
    table: pd.DataFrame, ax: Axes, names: Mapping[str, str], xlabel: str, ylabel: str, joined: Sequence[str] = ()
) -> Axes:
    """One point per model: how many milliseconds a query takes against how well it ranks. Needs model, seconds and
    value.

    joined: models that are one at several settings, in the order of these; a line runs through their points.
    """
    if joined:
        line = table.set_index("model").loc[list(joined)]
        ax.plot(1000 * line["seconds"], line["value"], color="#bbbbbb", linewidth=1.5, zorder=1)
    for i, row in enumerate(table.to_dict("records")):
        marks = {**look(i), "linestyle": "none", "markersize": 8, "clip_on": False}
        ax.plot(1000 * row["seconds"], row["value"], label=names.get(row["model"], row["model"]), **marks)
    ax.set_xscale("log")
    wide = table["seconds"].max() > 500 * table["seconds"].min()
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(bottom=0)
    ax.legend(**BESIDE)
    return style(ax, xlabel, ylabel)
