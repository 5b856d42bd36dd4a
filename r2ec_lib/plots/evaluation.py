"""Figures of the evaluation: comparisons, slices, learning curves, costs, and seeds."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes

from r2ec_lib.evaluation.wording import metric_name
from r2ec_lib.plots.style import BESIDE, COLOURS, dot, look, require, rows, spread, style


def differences(comparisons: pd.DataFrame, ax: Axes, metric: str) -> Axes:
    """Differences in one metric with their 95 % intervals, one row per comparison; the dashed line is no difference.

    Needs `label`, `difference` and `ci95` ([low, high]). Filled markers: the interval excludes zero.
    """
    require(comparisons, ["label", "difference", "ci95"], f"the comparisons on {metric}")
    for y, row in enumerate(comparisons.to_dict("records")):
        low, high = row["ci95"]
        dot(ax, y, row["difference"], low, high, filled=low > 0 or high < 0)
    rows(ax, comparisons["label"].to_list(), zero=True)
    return style(ax, f"difference in {metric_name(metric)} (line: 95 % interval)", "")


def against(comparisons: pd.DataFrame, ax: Axes, metric: str, names: Mapping[str, str]) -> Axes:
    """Differences a − b on one metric with 95 % intervals, one row per `b`, of the table of `uncertainty.compare`; the
    smallest detectable effect is grey. `names` gives the words for each b. A filled dot: below 5 % after Holm's
    correction, not by the interval alone."""
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
    """Differences on one metric, one row per opponent of `studies.margins`: a circle per run, their mean with its 95 %
    interval in grey."""
    table = table[table["metric"] == metric]
    require(table, ["difference", "ci95", "by_run"], f"the differences on {metric}")
    for y, row in enumerate(table.to_dict("records")):
        runs = row["by_run"]
        ax.plot(row["ci95"], [y, y], color="#bbbbbb", linewidth=5, solid_capstyle="butt")
        ax.plot(runs, [y] * len(runs), linestyle="none", marker="o", color=COLOURS[0], markerfacecolor="white")
        ax.plot(row["difference"], y, marker="|", markersize=14, color="black")
    rows(ax, [names.get(b, b) for b in table["b"]], zero=True)
    return style(ax, f"difference in {metric_name(metric)} (circles: seeds; grey: 95 % interval)", "")


def sliced(slices: pd.DataFrame, ax: Axes, names: Mapping[str, str], ylabel: str) -> Axes:
    """Means of the models within the slices of one slicing, side by side, with their intervals. Needs slice, model,
    mean, low, high and samples, in the order in which slices shall stand."""
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
    """A metric over the number of training samples, one line per model, its 95 % interval as a band. Needs model,
    train_samples, mean, low and high."""
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


def quality_by_cost(
    table: pd.DataFrame, ax: Axes, names: Mapping[str, str], xlabel: str, ylabel: str, joined: Sequence[str] = ()
) -> Axes:
    """One point per model: what a query costs against how well it ranks. Needs model, seconds and value.

    joined: models that are one at several settings, in the order of these; a line runs through their points.
    """
    require(table, ["model", "seconds", "value"], "the costs")
    points = table.to_dict("records")
    if joined:
        line = table.set_index("model").loc[list(joined)]
        ax.plot(line["seconds"], line["value"], color="#bbbbbb", linewidth=1.5, zorder=1)
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
    """Users that each arm of an A/B test needs over the relative improvement to be found, one line per metric of
    `segments.ab_sizes`."""
    require(sizes, ["metric", "relative", "users_per_arm"], "the sample sizes")
    for i, (metric, part) in enumerate(sizes.groupby("metric", sort=False)):
        ax.plot(part["relative"], part["users_per_arm"], label=metric_name(str(metric)), **look(i))
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter("{x:.0%}")
    return style(ax, "relative improvement to be found", "users in each arm", legend=True)
