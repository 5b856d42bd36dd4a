"""Figures of a training draw what the log holds, and skip what was not measured."""

import figures
import numpy as np
import pandas as pd
import pytest

from r2ec_lib import plots

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
    }
)
FIGURES = {
    plots.learning_curve: LOG,
}


@pytest.mark.parametrize("draw", FIGURES)
def test_a_figure_labels_its_axes_and_leaves_the_title_free(draw, ax):
    figures.labels_its_axes(draw, FIGURES[draw], ax)


@pytest.mark.parametrize("draw", FIGURES)
def test_a_single_row_is_enough(draw, ax):
    figures.takes_one_row(draw, FIGURES[draw], ax)


def test_the_learning_curve_shows_the_parts_that_have_values_and_the_validation(ax):
    labels = plots.learning_curve(LOG, ax).get_legend_handles_labels()[1]
    assert labels == ["reward", "its NDCG part", "validation NDCG@10"]  # no similarity was logged


def test_the_legend_of_the_learning_curve_covers_no_point(ax):
    plots.learning_curve(LOG, ax)
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_the_learning_curve_of_a_few_steps_has_ticks_at_whole_steps(ax):
    plots.learning_curve(LOG.head(3), ax)
    ax.figure.canvas.draw()
    assert all(tick % 1 == 0 for tick in ax.get_xticks())


def test_zero_is_in_view_over_steps_even_where_all_values_are_far_from_it(ax):
    plots.over_steps(pd.DataFrame({"step": [1, 2], "a": [6.43, 6.45]}), ax, ["a"], "nats")
    assert ax.get_ylim()[0] <= 0 and ax.get_xlim()[0] > 0


def test_lines_over_steps_skip_what_was_not_measured_and_band_what_was(ax):
    plots.over_steps(LOG, ax, {"length": "tokens", "valid_ndcg@10": "quality", "reward_similarity": "none"}, "value")
    assert [len(line.get_xdata()) for line in ax.get_lines()] == [4, 2, 0]
    assert len(ax.collections) == 1
    assert ax.get_ylim()[0] <= 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tokens", "quality", "none"]


def test_validation_points_are_drawn_only_where_it_was_measured(ax):
    plots.learning_curve(LOG, ax)
    line = next(line for line in ax.get_lines() if line.get_label() == "validation NDCG@10")
    assert line.get_xdata().tolist() == [2, 4]


@pytest.mark.parametrize(("steps", "reach"), [(100, 2), (24, 1)])
def test_the_reward_is_smoothed_about_each_step_over_a_twentieth_of_the_run_and_three_steps_at_least(steps, reach, ax):
    log = pd.DataFrame({"step": range(1, steps + 1), "reward": np.random.default_rng(0).random(steps)})
    faint, strong = plots.learning_curve(log, ax).get_lines()
    assert figures.points(faint) == list(zip(log["step"], log["reward"], strict=True))
    assert strong.get_ydata()[[0, 12]] == pytest.approx(
        [log["reward"][: reach + 1].mean(), log["reward"][12 - reach : 13 + reach].mean()]
    )


def test_the_reward_begins_with_the_first_step_and_not_with_the_validation_before_it(ax):
    log = pd.DataFrame({"step": [0, 1, 2], "reward": [np.nan, 0.1, 0.3], "valid_ndcg@10": [0.2, np.nan, 0.3]})
    faint, strong, _ = plots.learning_curve(log, ax).get_lines()
    assert faint.get_xdata().tolist() == strong.get_xdata().tolist() == [1, 2]
    plots.learning_curve(log.head(2), ax)
    assert ax.get_lines()[-2].get_marker() == "o"  # a single step is no line


def test_lines_stand_over_their_steps_with_a_band_between_its_ends(ax):
    table = pd.DataFrame({"step": [5, 10, 15], "a": [1.0, np.nan, 3.0], "a_low": [0.5, 1, 2], "a_high": [2.0, 3, 4]})
    plots.over_steps(table.assign(b=[np.nan, 1.0, 2.0]), ax, ["a", "b"], "value")
    assert [figures.points(line) for line in ax.get_lines()] == [[(5, 1), (15, 3)], [(10, 1), (15, 2)]]
    assert figures.band(ax, 0, 15) == (2, 4)
