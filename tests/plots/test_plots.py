"""Figures draw what the table holds, with labelled axes, and say so when there is nothing to draw."""

from itertools import pairwise

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from r2ec_lib import plots
from r2ec_lib.plots import style

LOG = pd.DataFrame(
    {
        "step": [1, 2, 3, 4],
        "reward": [0.1, 0.2, np.nan, 0.4],
        "reward_ndcg": [0.1, 0.2, 0.3, 0.4],
        "reward_similarity": np.nan,
        "valid_ndcg@10": [np.nan, 0.1, np.nan, 0.2],
        "length": [10.0, 12, 11, 14],
        "length_low": [8.0, 9, 9, 10],
        "length_high": [12.0, 14, 13, 20],
        "seconds_sampling": [1.0, 1, 1, 1],
        "seconds_update": [2.0, 2, np.nan, 2],
    }
)
SAMPLES = pd.DataFrame(
    {
        "split": ["train", "train", "train", "valid", "test"],
        "timestamp": pd.date_range("2023-01-01", periods=5, tz="UTC").as_unit("ms"),
        "target": [3, 3, 1, 2, 3],
        "history": [[1], [1, 2], [1], [2], [3, 1, 2]],
    }
)
METRICS = {
    "r2ec": {"hit@10": 0.3, "ndcg@10": 0.2, "ndcg@10_ci95": [0.1, 0.4], "name": "x"},
    "popularity": {"hit@10": 0.1, "ndcg@10": None},
}
COMPARISONS = pd.DataFrame(
    [
        {"a": "r2ec", "b": "sasrec", "metric": "ndcg@10", "difference": 0.1, "ci95": [0.05, 0.15]},
        {"a": "r2ec", "b": "popularity", "metric": "ndcg@10", "difference": 0.1, "ci95": [-0.05, 0.25]},
        {"a": "r2ec", "b": "popularity", "metric": "hit@10", "difference": 0.2, "ci95": None},
    ]
)
CURVE = pd.DataFrame({"fraction": [0.0, 0.5, 1], "ndcg": [0.1, 0.2, 0.3], "agreement": [0.2, 0.5, 1]})
SHARES = pd.DataFrame({"facet": ["style", "tier"], "share": [0.9, 0.3], "low": [0.8, np.nan], "high": [1.0, np.nan]})

FIGURES = {
    "learning_curve": (plots.learning_curve, LOG),
    "reasoning_length": (plots.reasoning_length, LOG),
    "seconds_by_phase": (plots.seconds_by_phase, LOG),
    "metric_bars": (plots.metric_bars, pd.DataFrame(METRICS).T),
    "differences": (plots.differences, COMPARISONS),
    "early_answering": (plots.early_answering, CURVE),
    "history_lengths": (plots.history_lengths, SAMPLES),
    "popularity_tail": (plots.popularity_tail, SAMPLES),
    "split_timeline": (plots.split_timeline, SAMPLES),
    "facet_shares": (plots.facet_shares, SHARES),
}


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_labels_its_axes_leaves_the_title_free_and_renders(name, ax):
    draw, table = FIGURES[name]
    assert draw(table, ax) is ax
    assert ax.get_xlabel() and ax.get_title() == ""
    assert ax.get_ylabel() or ax.get_yticklabels()
    ax.figure.canvas.draw()


@pytest.mark.parametrize("name", FIGURES)
def test_a_single_row_is_enough(name, ax):
    draw, table = FIGURES[name]
    draw(table.iloc[:1], ax)
    ax.figure.canvas.draw()


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_table_is_a_clear_error(name, ax):
    draw, table = FIGURES[name]
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(table.iloc[:0], ax)


def test_a_missing_column_is_named_with_what_was_found(ax):
    with pytest.raises(ValueError, match=r"column\(s\) length missing; found step"):
        plots.reasoning_length(LOG[["step"]], ax)
    with pytest.raises(ValueError, match="speed missing"):
        plots.over_steps(LOG, ax, ["speed"], "items")


def test_the_learning_curve_shows_the_parts_that_have_values_and_the_validation(ax):
    labels = plots.learning_curve(LOG, ax).get_legend_handles_labels()[1]
    assert labels == ["reward", "its NDCG part", "validation NDCG@10"]  # no similarity was logged


def test_lines_over_steps_skip_what_was_not_measured_and_band_what_was(ax):
    plots.over_steps(LOG, ax, {"length": "tokens", "valid_ndcg@10": "quality", "reward_similarity": "none"}, "value")
    assert [len(line.get_xdata()) for line in ax.get_lines()] == [4, 2, 0]
    assert len(ax.collections) == 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tokens", "quality", "none"]


def test_validation_points_are_drawn_only_where_it_was_measured(ax):
    plots.learning_curve(LOG, ax)
    line = next(line for line in ax.get_lines() if line.get_label() == "validation NDCG@10")
    assert line.get_xdata().tolist() == [2, 4]


def test_the_length_band_comes_from_the_log(ax):
    plots.reasoning_length(LOG, ax)
    assert ax.collections[0].get_datalim(ax.transData).y1 == 20
    other = plt.figure().subplots()
    plots.reasoning_length(LOG[["step", "length"]], other)
    assert not other.collections
    plt.close(other.figure)


def test_series_differ_in_more_than_colour():
    looks = [style.look(i) for i in range(len(style.COLOURS))]
    for key in ("color", "marker", "linestyle"):
        assert len({str(look[key]) for look in looks}) == len(looks)
    assert len(set(style.HATCHES)) == len(style.COLOURS)


def test_neighbouring_colours_differ_in_grey():
    def grey(colour):
        red, green, blue = matplotlib.colors.to_rgb(colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for one, two in pairwise(style.COLOURS):
        assert abs(grey(one) - grey(two)) > 0.05


def test_metric_bars_take_the_ranking_metrics_in_any_form(ax):
    plots.metric_bars(METRICS, ax)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Hit@10", "NDCG@10"]
    heights = [bar.get_height() for bars in ax.containers if hasattr(bars, "patches") for bar in bars.patches]
    assert heights[:3] == [0.3, 0.2, 0.1] and np.isnan(heights[3])


def test_metric_bars_draw_the_interval_where_there_is_one(ax):
    plots.metric_bars(METRICS, ax)
    bars = [c for c in ax.containers if isinstance(c, matplotlib.container.ErrorbarContainer)]
    assert len(bars) == 1
    assert np.allclose(bars[0].lines[2][0].get_segments()[0][:, 1], [0.1, 0.4])


def test_differences_keep_one_metric_and_fill_only_clear_ones(ax):
    plots.differences(COMPARISONS, ax, metric="ndcg@10")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["r2ec − sasrec", "r2ec − popularity"]
    points = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert points[0].get_markerfacecolor() != "white" and points[1].get_markerfacecolor() == "white"
    with pytest.raises(ValueError, match="comparisons on ndcg@50: no row"):
        plots.differences(COMPARISONS, ax, metric="ndcg@50")


def test_the_timeline_counts_every_sample_once(ax):
    plots.split_timeline(SAMPLES, ax, bins=4)
    assert sum(bar.get_height() for bar in ax.patches) == len(SAMPLES)


def test_phases_stack_to_the_time_of_the_step(ax):
    plots.seconds_by_phase(LOG, ax)
    tops = pd.Series([bar.get_y() + bar.get_height() for bar in ax.patches]).groupby([0, 1, 2, 3] * 2).max()
    assert tops.tolist() == [3, 3, 1, 3]


def test_a_distribution_leaves_missing_values_out(ax):
    plots.distribution(pd.Series([1, 2, np.nan]), ax, "length (tokens)")
    assert sum(bar.get_height() for bar in ax.patches) == 2
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.distribution(pd.Series([np.nan]), ax, "length (tokens)")
