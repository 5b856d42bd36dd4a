"""Figures of the evaluation beyond those in `plots`: table in, Axes out, in the same style."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from r2ec_lib.evaluation.wording import metric_name
from r2ec_lib.plots.style import COLOURS, HATCHES, LEGEND, _require, look, style

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


def _pretty(metric: str) -> str:
    return str(metric).replace("ndcg", "NDCG").replace("hit", "Hit").replace("_", " ")


def _versus(row: pd.Series, with_metric: bool) -> str:
    text = row["label"] if "label" in row else f"{row['a']} − {row['b']}".replace("_", " ")
    return f"{text} ({_pretty(row['metric'])})" if with_metric and "metric" in row else str(text)


def against(comparisons: pd.DataFrame, ax: Axes, metric: str, names: Mapping[str, str]) -> Axes:
    """Differences a − b on one metric as dots with 95 % intervals, one row a `b`, the smallest detectable effect grey.

    Needs b, metric, difference, ci95 ([low, high]), smallest_detectable and p_holm, as `uncertainty.compare` returns
    them; `names` gives the words for each b. A filled dot: below 5 % after Holm's correction, not by the interval
    alone.
    """
    table = _some(comparisons[comparisons["metric"] == metric], f"comparison on {metric}")
    for y, row in enumerate(table.itertuples()):
        ax.barh(y, 2 * row.smallest_detectable, left=-row.smallest_detectable, height=0.7, color="#e6e6e6")
        ax.plot(row.ci95, [y, y], color=COLOURS[0], linewidth=2)
        filled = COLOURS[0] if row.p_holm < 0.05 else "white"
        ax.plot(row.difference, y, marker="o", color=COLOURS[0], markerfacecolor=filled)
    ax.axvline(0, color="black", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(table)), [names.get(b, b) for b in table["b"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    return style(ax, f"difference in {metric_name(metric)} (line: 95 % interval)", "")


def sliced(slices: pd.DataFrame, ax: Axes, names: Mapping[str, str], ylabel: str) -> Axes:
    """Means of the models within the slices of one slicing, side by side, with their intervals.

    Needs slice, model, mean, low, high and samples, in the order in which slices shall stand.
    """
    table = _some(slices, "slice")
    order, models = list(table["slice"].unique()), list(table["model"].unique())
    for i, model in enumerate(models):
        rows = table[table["model"] == model].set_index("slice").reindex(order)
        at = [x + (i - (len(models) - 1) / 2) * 0.7 / len(models) for x in range(len(order))]
        spread = [(rows["mean"] - rows["low"]).clip(lower=0), (rows["high"] - rows["mean"]).clip(lower=0)]
        looks = {"color": look(i)["color"], "marker": look(i)["marker"], "capsize": 2, "linewidth": 1.2}
        ax.errorbar(at, rows["mean"], yerr=spread, fmt=" ", label=names.get(model, model), **looks)
    counts = table.drop_duplicates("slice").set_index("slice")["samples"]
    ax.set_xticks(range(len(order)), [f"{name}\n({counts[name]:,})" for name in order])
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **LEGEND)
    return style(ax, "", ylabel)


def by_training_size(curve: pd.DataFrame, ax: Axes, names: Mapping[str, str], ylabel: str) -> Axes:
    """A metric over the number of training samples, one line a model, its 95 % interval as a band.

    Needs model, train_samples, mean, low and high.
    """
    table = _some(curve, "training size")
    for i, (model, rows) in enumerate(table.groupby("model", sort=False)):
        rows = rows.sort_values("train_samples")
        ax.fill_between(rows["train_samples"], rows["low"], rows["high"], color=look(i)["color"], alpha=0.12)
        ax.plot(rows["train_samples"], rows["mean"], label=names.get(model, model), **look(i))
    sizes = sorted(table["train_samples"].unique())
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), **LEGEND)
    return style(ax, "training samples (logarithmic)", ylabel)


def quality_by_cost(table: pd.DataFrame, ax: Axes, names: Mapping[str, str], xlabel: str, ylabel: str) -> Axes:
    """One point a model: what a query costs against how well it ranks. Needs model, seconds and value."""
    table = _some(table, "model with a cost")
    middle = (table["seconds"].min() * table["seconds"].max()) ** 0.5
    for i, row in enumerate(table.itertuples()):
        ax.plot(row.seconds, row.value, **look(i) | {"linestyle": "none", "markersize": 8})
    ax.set_xscale("log")
    ax.margins(x=0.1, y=0.1)
    ax.set_ylim(bottom=-0.03 * table["value"].max() or None)
    placed = []  # (left, right, y) of the names so far, in points
    for row in table.sort_values("value", ascending=False).itertuples():
        name, side = names.get(row.model, row.model), "right" if row.seconds > middle else "left"
        x, y = ax.transData.transform((row.seconds, row.value)) * 72 / ax.figure.dpi
        start = x + (-7 if side == "right" else 7)  # names stay inside the frame
        left, right = sorted((start, start + (-1 if side == "right" else 1) * 4.6 * len(name)))
        at = y + 3
        while any(left < other[1] and right > other[0] and abs(at - other[2]) < 9 for other in placed):
            at -= 1
        placed.append((left, right, at))
        shift = {"xytext": (start - x, at - y), "textcoords": "offset points", "ha": side, "fontsize": "small"}
        ax.annotate(name, (row.seconds, row.value), **shift)
    return style(ax, xlabel, ylabel)


def seeds_and_users(
    parts: pd.DataFrame, points: pd.DataFrame, ax: Axes, names: Mapping[str, str], metric: str
) -> Axes:
    """Each run of each model as a faint dot, their mean with ± 2 standard errors over shoppers.

    Args:
        parts: rows of `studies.variance_parts` of one variant and metric.
        points: rows of `studies.run_intervals` of the same runs and metric.
    """
    table = _some(parts, "variant")
    for y, row in enumerate(table.itertuples()):
        ax.plot([row.mean - 2 * row.user_se, row.mean + 2 * row.user_se], [y, y], color="#bbbbbb", linewidth=5)
        runs = points.loc[points["model"] == row.model, "mean"]
        ax.plot(runs, [y] * len(runs), linestyle="none", marker="o", color=COLOURS[0], markerfacecolor="white")
        ax.plot(row.mean, y, marker="|", markersize=14, color="black")
    ax.set_yticks(range(len(table)), [names.get(model, model) for model in table["model"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    return style(ax, f"{metric_name(metric)} (circles: seeds; grey: shoppers)", "")


def margins(table: pd.DataFrame, ax: Axes, metric: str, names: Mapping[str, str], copied: float | None = None) -> Axes:
    """Relative margins on one metric, one row an opponent: a circle a run, their mean with its interval.

    Needs b, metric, relative, relative_ci95 and by_run, as `studies.margins` returns them. `copied`: a margin from
    elsewhere, as a dotted line for comparison.
    """
    table = _some(table[table["metric"] == metric], f"margin on {metric}")
    for y, row in enumerate(table.itertuples()):
        ax.plot([100 * end for end in row.relative_ci95], [y, y], color="#bbbbbb", linewidth=5, solid_capstyle="butt")
        values = [100 * value for value in row.by_run]
        ax.plot(values, [y] * len(values), linestyle="none", marker="o", color=COLOURS[0], markerfacecolor="white")
        ax.plot(100 * row.relative, y, marker="|", markersize=14, color="black")
    ax.axvline(0, color="black", linestyle="--", linewidth=1)
    if copied is not None:
        ax.axvline(100 * copied, color=COLOURS[1], linestyle=":", linewidth=2, label="the paper's, on its own data")
        ax.legend(loc="lower right", **LEGEND)
    ax.set_yticks(range(len(table)), [names.get(b, b) for b in table["b"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    return style(ax, f"margin in {metric_name(metric)}, % (circles: seeds; grey: 95 % interval)", "")


def _some(table: pd.DataFrame, what: str) -> pd.DataFrame:
    if table.empty:
        raise ValueError(f"no {what}: nothing to draw")
    return table
