"""Figures of the evaluation: comparisons, slices, learning curves, costs, and seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from r2ec_lib.evaluation.wording import metric_name
from r2ec_lib.plots.style import BESIDE, COLOURS, dot, look, require, rows, spread, style


def differences(comparisons: pd.DataFrame, ax: Axes, metric: str | None = None) -> Axes:
    """Differences a − b with their 95 % intervals, one row per comparison; the dashed line is no difference.

    Needs `difference` and `ci95` ([low, high]) and either `label` or `a` and `b`; `metric` keeps one metric's rows.
    Filled markers: the interval excludes zero.
    """
    table = comparisons if metric is None else comparisons[comparisons["metric"] == metric]
    require(table, ["difference", "ci95"], "the comparisons" + (f" on {metric}" if metric else ""))
    if "label" not in table:
        require(table, ["a", "b"], "the comparisons")
    labels = []
    for y, row in enumerate(table.to_dict("records")):
        low, high = (np.nan, np.nan) if row["ci95"] is None else row["ci95"]
        dot(ax, y, row["difference"], low, high, filled=low > 0 or high < 0)
        label = row["label"] if "label" in row else f"{row['a']} − {row['b']}".replace("_", " ")
        labels.append(f"{label} ({metric_name(row['metric'])})" if metric is None and "metric" in row else label)
    rows(ax, labels, zero=True)
    return style(ax, f"difference in {metric_name(metric or 'metric')} (line: 95 % interval)", "")


def against(comparisons: pd.DataFrame, ax: Axes, metric: str, names: Mapping[str, str]) -> Axes:
    """Differences a − b on one metric with 95 % intervals, one row per `b`; the smallest detectable effect is grey.

    Needs b, metric, difference, ci95 ([low, high]), smallest_detectable and p_holm, as `uncertainty.compare` returns
    them; `names` gives the words for each b. A filled dot: below 5 % after Holm's correction, not by the interval
    alone.
    """
    table = comparisons[comparisons["metric"] == metric]
    require(table, ["difference", "smallest_detectable", "p_holm"], f"the comparisons on {metric}")
    for y, row in enumerate(table.to_dict("records")):
        detectable = row["smallest_detectable"]
        ax.barh(y, 2 * detectable, left=-detectable, height=0.7, color="#e6e6e6")
        low, high = row["ci95"]
        dot(ax, y, row["difference"], low, high, filled=row["p_holm"] < 0.05)
    rows(ax, [names.get(b, b) for b in table["b"]], zero=True)
    return style(ax, f"difference in {metric_name(metric)} (line: 95 % interval)", "")


def over_seeds(table: pd.DataFrame, ax: Axes, metric: str, names: Mapping[str, str]) -> Axes:
    """Differences on one metric, one row per opponent: a circle per run, their mean with its 95 % interval in grey.

    Needs b, metric, difference, ci95 and by_run, as `studies.margins` returns them.
    """
    table = table[table["metric"] == metric]
    require(table, ["difference", "ci95", "by_run"], f"the differences on {metric}")
    for y, row in enumerate(table.to_dict("records")):
        _runs(ax, y, row["by_run"], row["difference"], *row["ci95"])
    rows(ax, [names.get(b, b) for b in table["b"]], zero=True)
    return style(ax, f"difference in {metric_name(metric)} (circles: seeds; grey: 95 % interval)", "")


def seeds_and_users(
    parts: pd.DataFrame, points: pd.DataFrame, ax: Axes, names: Mapping[str, str], metric: str
) -> Axes:
    """Each run of each model as a circle, their mean with ± 2 standard errors over shoppers in grey.

    Args:
        parts: rows of `studies.variance_parts` of one variant and metric.
        points: rows of `studies.run_intervals` of the same runs and metric.
    """
    require(parts, ["model", "mean", "user_se"], "the variance of the runs")
    for y, row in enumerate(parts.to_dict("records")):
        mean, error = row["mean"], row["user_se"]
        _runs(ax, y, points.loc[points["model"] == row["model"], "mean"], mean, mean - 2 * error, mean + 2 * error)
    rows(ax, [names.get(model, model) for model in parts["model"]])
    return style(ax, f"{metric_name(metric)} (circles: seeds; grey: shoppers)", "")


def _runs(ax: Axes, y: int, values: Sequence[float], mean: float, low: float, high: float) -> None:
    """The value of each run, their mean and its interval in row `y`."""
    ax.plot([low, high], [y, y], color="#bbbbbb", linewidth=5, solid_capstyle="butt")
    ax.plot(values, [y] * len(values), linestyle="none", marker="o", color=COLOURS[0], markerfacecolor="white")
    ax.plot(mean, y, marker="|", markersize=14, color="black")


def sliced(slices: pd.DataFrame, ax: Axes, names: Mapping[str, str], ylabel: str) -> Axes:
    """Means of the models within the slices of one slicing, side by side, with their intervals.

    Needs slice, model, mean, low, high and samples, in the order in which slices shall stand.
    """
    require(slices, ["slice", "model", "mean"], "the slices")
    order, models = list(slices["slice"].unique()), list(slices["model"].unique())
    for i, model in enumerate(models):
        part = slices[slices["model"] == model].set_index("slice").reindex(order)
        at = [x + (i - (len(models) - 1) / 2) * 0.7 / len(models) for x in range(len(order))]
        bars = spread(part["mean"], part["low"], part["high"])
        looks = {"color": look(i)["color"], "marker": look(i)["marker"], "capsize": 2, "linewidth": 1.2}
        ax.errorbar(at, part["mean"], yerr=bars, fmt=" ", label=names.get(model, model), **looks)
    counts = slices.drop_duplicates("slice").set_index("slice")["samples"]
    ax.set_xticks(range(len(order)), [f"{name}\n({counts[name]:,})" for name in order])
    ax.set_ylim(bottom=0)
    ax.legend(**BESIDE)
    return style(ax, "", ylabel)


def by_training_size(curve: pd.DataFrame, ax: Axes, names: Mapping[str, str], ylabel: str) -> Axes:
    """A metric over the number of training samples, one line per model, its 95 % interval as a band.

    Needs model, train_samples, mean, low and high.
    """
    require(curve, ["model", "train_samples", "mean"], "the learning curve")
    for i, (model, part) in enumerate(curve.groupby("model", sort=False)):
        part = part.sort_values("train_samples")
        ax.fill_between(part["train_samples"], part["low"], part["high"], color=look(i)["color"], alpha=0.12)
        ax.plot(part["train_samples"], part["mean"], label=names.get(str(model), str(model)), **look(i))
    sizes = sorted(curve["train_samples"].unique())
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.legend(**BESIDE)
    return style(ax, "training samples (logarithmic)", ylabel)


def quality_by_cost(table: pd.DataFrame, ax: Axes, names: Mapping[str, str], xlabel: str, ylabel: str) -> Axes:
    """One point per model: what a query costs against how well it ranks. Needs model, seconds and value."""
    require(table, ["model", "seconds", "value"], "the costs")
    points = table.to_dict("records")
    for i, row in enumerate(points):
        ax.plot(row["seconds"], row["value"], **look(i) | {"linestyle": "none", "markersize": 8})
    ax.set_xscale("log")
    ax.margins(x=0.1, y=0.1)
    ax.set_ylim(bottom=-0.03 * table["value"].max() or None)
    middle = (table["seconds"].min() * table["seconds"].max()) ** 0.5
    placed: list[tuple[float, float, float]] = []  # (left, right, y) of the names so far, in points
    for row in sorted(points, key=lambda row: -row["value"]):
        name, side = names.get(row["model"], row["model"]), "right" if row["seconds"] > middle else "left"
        x, y = ax.transData.transform((row["seconds"], row["value"])) * 72 / ax.figure.dpi
        start = x + (-7 if side == "right" else 7)  # names stay inside the frame
        left, right = sorted((start, start + (-1 if side == "right" else 1) * 4.6 * len(name)))
        at = y + 3
        while any(left < other[1] and right > other[0] and abs(at - other[2]) < 9 for other in placed):
            at -= 1
        placed.append((left, right, at))
        shift, point = (start - x, at - y), (row["seconds"], row["value"])
        ax.annotate(name, point, shift, textcoords="offset points", ha=side, fontsize="small")
    return style(ax, xlabel, ylabel)


def sample_sizes(sizes: pd.DataFrame, ax: Axes) -> Axes:
    """Users that each arm of an A/B test needs over the relative improvement to be found, one line per metric.

    Needs metric, relative and users_per_arm, as `segments.ab_sizes` returns them.
    """
    require(sizes, ["metric", "relative", "users_per_arm"], "the sample sizes")
    for i, (metric, part) in enumerate(sizes.groupby("metric", sort=False)):
        ax.plot(part["relative"], part["users_per_arm"], label=metric_name(str(metric)), **look(i))
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter("{x:.0%}")
    return style(ax, "relative improvement to be found", "users in each arm", legend=True)
