"""Every figure of the notebooks: table in, Axes out.

The caller makes the Axes and writes the title; a function here draws, labels the axes with units and returns the
Axes. Intervals are drawn where the table has them. Colours are Okabe and Ito's, ordered so that neighbours differ in
grey too, and each series has a marker, a line style or a hatch of its own: figures read in greyscale and with any
colour vision. Nothing is computed here beyond counting and smoothing what is drawn; a table with nothing to draw
raises ValueError.
"""

from collections.abc import Mapping, Sequence

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo", "--")
LEGEND = {"framealpha": 0.85, "edgecolor": "none", "fontsize": "small"}
SPLITS = ("train", "valid", "test")


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


# ---- training ------------------------------------------------------------------------------------------------------


def learning_curve(log: pd.DataFrame, ax: Axes, window: int | None = None) -> Axes:
    """Reward, its two parts and validation NDCG@10 over training steps.

    Each step's reward is faint, its centred running mean over `window` steps (default: a twentieth of the run) is
    strong. Validation is measured now and then, so it has markers and a line between them.
    """
    _require(log, ["step", "reward"], "the training log")
    window = window or max(1, len(log) // 20)
    names = {"reward": "reward", "reward_ndcg": "its NDCG part", "reward_similarity": "its similarity part"}
    for i, (column, label) in enumerate(names.items()):
        if column in log and log[column].notna().any():
            smooth = log[column].rolling(window, center=True, min_periods=1).mean()
            ax.plot(log["step"], log[column], color=COLOURS[i], alpha=0.2, linewidth=0.8)
            ax.plot(log["step"], smooth, label=label, **look(i) | {"marker": "o" if len(log) == 1 else None})
    if "valid_ndcg@10" in log:
        valid = log.dropna(subset="valid_ndcg@10")
        ax.plot(valid["step"], valid["valid_ndcg@10"], label="validation NDCG@10", **look(3) | {"markersize": 6})
    return style(ax, "training step", "reward and NDCG (0 to 1)", legend=True)


def reasoning_length(log: pd.DataFrame, ax: Axes) -> Axes:
    """Mean tokens of a reasoning over training steps.

    The band is `length_low` to `length_high` where the log has them, else one `length_std` to either side.
    """
    _require(log, ["step", "length"], "the training log")
    low, high = None, None
    if {"length_low", "length_high"} <= set(log.columns):
        low, high = log["length_low"], log["length_high"]
    elif "length_std" in log:
        low, high = log["length"] - log["length_std"], log["length"] + log["length_std"]
    if low is not None:
        ax.fill_between(log["step"], low.clip(lower=0), high, color=COLOURS[0], alpha=0.2, linewidth=0)
    ax.plot(log["step"], log["length"], **look(0) | {"marker": "o" if len(log) == 1 else None})
    ax.set_ylim(bottom=0)
    return style(ax, "training step", "reasoning length (tokens)")


def over_steps(
    table: pd.DataFrame,
    ax: Axes,
    columns: Sequence[str] | Mapping[str, str],
    ylabel: str,
    xlabel: str = "training step",
) -> Axes:
    """One line for each of `columns` (names, or names to legend texts) over `step`; a column's NaN are skipped.

    Where the table has `<column>_low` and `<column>_high`, the band between them is drawn.
    """
    labels = columns if isinstance(columns, Mapping) else {column: _pretty(column) for column in columns}
    filled = [c for c in labels if c not in table or table[c].notna().any()]
    _require(table, ["step", *(filled or labels)], "the table")
    for i, (column, label) in enumerate(labels.items()):
        rows = table.dropna(subset=column)
        if {f"{column}_low", f"{column}_high"} <= set(table.columns):
            band = (rows[f"{column}_low"].astype(float), rows[f"{column}_high"].astype(float))
            ax.fill_between(rows["step"], *band, color=COLOURS[i % len(COLOURS)], alpha=0.15, linewidth=0)
        ax.plot(rows["step"], rows[column], label=label, **look(i) | ({"marker": None} if len(rows) > 40 else {}))
    return style(ax, xlabel, ylabel, legend=len(labels) > 1)


def seconds_by_phase(log: pd.DataFrame, ax: Axes) -> Axes:
    """Wall-clock seconds of each training step, stacked by phase: every `seconds_*` column of the log."""
    columns = [c for c in log.columns if c.startswith("seconds_") and log[c].notna().any()]
    _require(log, ["step"], "the training log")
    if not columns:
        raise ValueError("the training log has no column seconds_* with a value: nothing to draw")
    bottom = np.zeros(len(log))
    for i, column in enumerate(columns):
        seconds = log[column].fillna(0).to_numpy(float)
        keys = {"color": COLOURS[i % len(COLOURS)], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": "white"}
        label = column.removeprefix("seconds_").replace("_", " ")
        ax.bar(log["step"], seconds, bottom=bottom, width=_gap(log["step"]), linewidth=0, label=label, **keys)
        bottom += seconds
    return style(ax, "training step", "time of a step (seconds)", legend=True)


# ---- evaluation ----------------------------------------------------------------------------------------------------


def metric_bars(
    metrics: pd.DataFrame | Mapping[str, Mapping], ax: Axes, columns: Sequence[str] | None = None, ylabel: str = ""
) -> Axes:
    """Grouped bars: one group a metric, one bar a model.

    `metrics` is model × metric, as a table indexed by model or as the `models` part of `evaluation/metrics.json`.
    `columns` picks the metrics (default: every hit@K and ndcg@K, or all numeric ones). A cell `<metric>_ci95` holding
    [low, high] becomes an interval.
    """
    table = metrics if isinstance(metrics, pd.DataFrame) else pd.DataFrame(metrics).T
    if columns is None:
        numbers = [c for c in table.columns if pd.to_numeric(table[c], errors="coerce").notna().any()]
        columns = [c for c in numbers if c.startswith(("hit@", "ndcg@"))] or numbers
    if not len(columns):
        raise ValueError("the metrics table has no numeric column: nothing to draw")
    _require(table, columns, "the metrics table")
    width = 0.8 / len(table)
    for i, (model, row) in enumerate(table.iterrows()):
        x = np.arange(len(columns)) + (i - (len(table) - 1) / 2) * width
        heights = pd.to_numeric(row[list(columns)], errors="coerce").to_numpy(float)
        keys = {"color": COLOURS[i % len(COLOURS)], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": "white"}
        ax.bar(x, heights, width, label=str(model).replace("_", " "), **keys)
        for at, height, column in zip(x, heights, columns, strict=True):
            pair = row.get(f"{column}_ci95")
            if isinstance(pair, (list, tuple, np.ndarray)):
                spread = [[max(0.0, height - pair[0])], [max(0.0, pair[1] - height)]]
                ax.errorbar(at, height, yerr=spread, color="black", capsize=2, linewidth=1)
    ax.set_xticks(range(len(columns)), [_pretty(c) for c in columns])
    return style(ax, "metric", ylabel or "value (0 to 1)", legend=True)


def differences(comparisons: pd.DataFrame, ax: Axes, metric: str | None = None) -> Axes:
    """Differences a − b with their 95 % intervals, one row a comparison; the dashed line is no difference.

    Needs `difference` and `ci95` ([low, high]) and either `label` or `a` and `b`; `metric` keeps one metric's rows.
    Filled markers: the interval leaves zero out.
    """
    table = comparisons if metric is None else comparisons[comparisons["metric"] == metric]
    _require(table, ["difference", "ci95"], "the comparisons" + (f" on {metric}" if metric else ""))
    if "label" not in table:
        _require(table, ["a", "b"], "the comparisons")
    for y, row in enumerate(table.itertuples()):
        low, high = (np.nan, np.nan) if row.ci95 is None else row.ci95
        clear = low > 0 or high < 0
        ax.plot([low, high], [y, y], color=COLOURS[0], linewidth=2)
        ax.plot(row.difference, y, marker="o", color=COLOURS[0], markerfacecolor=COLOURS[0] if clear else "white")
    ax.axvline(0, color="black", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(table)), [_versus(row, metric is None) for _, row in table.iterrows()])
    ax.set_ylim(len(table) - 0.5, -0.5)
    unit = _pretty(metric) if metric else "metric"
    return style(ax, f"difference in {unit} (line: 95 % interval)", "")


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


# ---- data ----------------------------------------------------------------------------------------------------------


def history_lengths(samples: pd.DataFrame, ax: Axes) -> Axes:
    """Share of the samples of each split that have a history of so many purchases."""
    _require(samples, ["split", "history"], "the samples")
    lengths = samples["history"].map(len)
    bins = np.arange(1, lengths.max() + 1)
    for i, split in _splits(samples):
        share = lengths[samples["split"] == split].value_counts(normalize=True).reindex(bins, fill_value=0)
        ax.plot(bins, share, label=split, **look(i))
    ax.set_ylim(bottom=0)
    return style(ax, "length of the history (purchases)", "share of the split's samples", legend=True)


def popularity_tail(samples: pd.DataFrame, ax: Axes) -> Axes:
    """How often each item is the target, most frequent first, on logarithmic axes: a straight fall is a long tail."""
    _require(samples, ["split", "target"], "the samples")
    for i, split in _splits(samples):
        counts = samples.loc[samples["split"] == split, "target"].value_counts().to_numpy()
        ax.plot(np.arange(1, len(counts) + 1), counts, label=split, **look(i) | {"marker": None})
    ax.set_xscale("log")
    ax.set_yscale("log")
    return style(ax, "items, by falling frequency (rank)", "times an item is the target", legend=True)


def split_timeline(samples: pd.DataFrame, ax: Axes, bins: int = 60) -> Axes:
    """Samples over time, stacked by split: chronological splits touch at most in one bin."""
    _require(samples, ["split", "timestamp"], "the samples")
    dates = mdates.date2num(samples["timestamp"].dt.tz_convert(None).to_numpy())
    edges = np.histogram_bin_edges(dates, bins)
    bottom = np.zeros(bins)
    for i, split in _splits(samples):
        counts, _ = np.histogram(dates[samples["split"] == split], edges)
        keys = {"color": COLOURS[i], "hatch": HATCHES[i], "edgecolor": "white", "linewidth": 0, "label": split}
        ax.bar(edges[:-1], counts, np.diff(edges), bottom, align="edge", **keys)
        bottom += counts
    ax.xaxis_date()
    ax.xaxis.set_major_formatter(mdates.ConciseDateFormatter(ax.xaxis.get_major_locator()))
    return style(ax, "moment of the target (UTC)", f"samples in each {(edges[1] - edges[0]):.3g} days", legend=True)


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


# ---- helpers -------------------------------------------------------------------------------------------------------


def _require(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise ValueError(f"{name}: column(s) {', '.join(missing)} missing; found {', '.join(map(str, table.columns))}")
    empty = [c for c in columns if not table[c].notna().any()]
    if empty:
        raise ValueError(f"{name}: no row with a value in {', '.join(map(str, empty))}: nothing to draw")


def _splits(samples: pd.DataFrame) -> list[tuple[int, str]]:
    present = set(samples["split"])
    return [(i, split) for i, split in enumerate(SPLITS) if split in present]


def _gap(steps: pd.Series) -> float:
    return float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0


def _pretty(metric: str) -> str:
    return str(metric).replace("ndcg", "NDCG").replace("hit", "Hit").replace("_", " ")


def _versus(row: pd.Series, with_metric: bool) -> str:
    text = row["label"] if "label" in row else f"{row['a']} − {row['b']}".replace("_", " ")
    return f"{text} ({_pretty(row['metric'])})" if with_metric and "metric" in row else str(text)
