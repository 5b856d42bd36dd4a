"""Figures of the evaluation draw what the table holds."""

import figures
import pandas as pd
import pytest

from r2ec_lib import plots

COMPARISONS = pd.DataFrame(
    {
        "a": "r2ec",
        "b": ["x", "y"],
        "metric": "ndcg@20",
        "difference": [0.1, -0.01],
        "ci95": [[0.05, 0.15], [-0.03, 0.01]],
        "smallest_detectable": [0.04, 0.02],
        "p_holm": [0.01, 0.6],
    }
)

PAIRS = pd.DataFrame({"label": ["x", "y"], "difference": [0.1, 0.1], "ci95": [[0.05, 0.15], [-0.05, 0.25]]})


def test_differences_fill_only_clear_ones(ax):
    plots.differences(PAIRS, ax, metric="ndcg@10")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["x", "y"] and "NDCG@10" in ax.get_xlabel()
    points = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert points[0].get_markerfacecolor() != "white" and points[1].get_markerfacecolor() == "white"


def test_a_dot_is_filled_where_the_corrected_p_is_small(ax):
    plots.differences(COMPARISONS.assign(label=["Model X", "y"]), ax, "ndcg@20")
    dots = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Model X", "y"]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([2 * 0.04, 2 * 0.02])
    assert ax.get_xlim()[0] < -0.04  # the widest band ends inside the axes


def test_cost_and_quality_is_a_named_point_per_model(ax):
    table = pd.DataFrame({"model": ["a", "b"], "seconds": [0.001, 1.0], "value": [0.1, 0.2]})
    plots.quality_by_cost(table, ax, {"b": "B"}, "milliseconds", "NDCG@20")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "B"]
    assert ax.get_xscale() == "log"


def test_settings_of_one_model_are_joined_in_the_order_given(ax):
    table = pd.DataFrame({"model": ["a", "b", "c"], "seconds": [3.0, 1.0, 2.0], "value": [0.3, 0.1, 0.2]})
    plots.quality_by_cost(table, ax, {}, "milliseconds", "NDCG@20", joined=["b", "a"])
    [line] = [line for line in ax.get_lines() if line.get_linestyle() == "-"]
    assert list(line.get_xdata()) == [1000.0, 3000.0] and list(line.get_ydata()) == [0.1, 0.3]


def test_every_seed_is_shown_with_the_mean_difference_and_its_interval(ax):
    table = pd.DataFrame({"b": ["x"], "metric": ["hit@5"], "difference": [0.5]})
    table["ci95"], table["by_run"] = [[0.2, 0.8]], [[0.4, 0.6]]
    plots.over_seeds(table, ax, "hit@5", {"x": "Model X"})
    interval, circles, mean, zero = ax.get_lines()
    assert list(interval.get_xdata()) == [0.2, 0.8] and list(circles.get_xdata()) == [0.4, 0.6]
    assert list(mean.get_xdata()) == [0.5] and zero.get_xdata() == [0, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Model X"]


def dots_of(ax):
    return [line for line in ax.get_lines() if line.get_marker() == "o"]


def test_a_difference_stands_at_its_value_and_is_filled_below_zero_too(ax):
    table = pd.DataFrame({"label": ["x", "y"], "difference": [-0.12, 0.02], "ci95": [[-0.2, -0.1], [-0.05, 0.25]]})
    plots.differences(table, ax, metric="ndcg@10")
    assert [figures.points(dot) for dot in dots_of(ax)] == [[(-0.12, 0)], [(0.02, 1)]]
    assert dots_of(ax)[0].get_markerfacecolor() != "white"


def test_each_model_stands_at_what_it_costs_and_how_well_it_ranks(ax):
    table = pd.DataFrame({"model": ["a", "b"], "seconds": [0.001, 1.0], "value": [0.2, 0.1]})
    plots.quality_by_cost(table, ax, {"b": "B"}, "milliseconds", "NDCG@20")
    assert {line.get_label(): figures.points(line) for line in ax.get_lines()} == {
        "a": [(1, 0.2)],
        "B": [(1000, 0.1)],
    }


def test_seeds_of_this_metric_alone_stand_in_the_order_of_the_table(ax):
    rows = [("y", "hit@5", 0.5), ("x", "hit@5", 0.4), ("x", "ndcg@20", 0.1)]
    table = pd.DataFrame(rows, columns=["b", "metric", "difference"])
    plots.over_seeds(table.assign(ci95=[[0.2, 0.8]] * 3, by_run=[[0.4, 0.6]] * 3), ax, "hit@5", {})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["y", "x"]


def test_sizes_stand_with_their_intervals_about_their_line(ax):
    table = pd.DataFrame({"size": [1.0, 4.0], "mean": [0.1, 0.3], "half": [0.02, 0.04]})
    plots.by_size(table, {"intercept": 0.1, "per_doubling": 0.1}, ax, "steps", "NDCG@20")
    [line] = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert line.get_xdata().tolist() == [1, 4] and line.get_ydata().tolist() == pytest.approx([0.1, 0.3])
    [bars] = [container[2][0] for container in ax.containers]
    spans = [(low, high) for (_, low), (_, high) in bars.get_segments()]
    assert spans == [pytest.approx((0.08, 0.12)), pytest.approx((0.26, 0.34))]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "4"]


def test_a_difference_without_a_p_value_is_never_filled(ax):
    plots.differences(PAIRS.assign(p_holm=[float("nan"), 0.01]), ax, metric="ndcg@10")
    assert [dot.get_markerfacecolor() == "white" for dot in dots_of(ax)] == [True, False]
