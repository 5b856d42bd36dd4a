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


def test_lines_over_steps_skip_what_was_not_measured_and_band_what_was(ax):
    plots.over_steps(LOG, ax, {"length": "tokens", "valid_ndcg@10": "quality", "reward_similarity": "none"}, "value")
    assert [len(line.get_xdata()) for line in ax.get_lines()] == [4, 2, 0]
    assert len(ax.collections) == 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tokens", "quality", "none"]


def test_validation_points_are_drawn_only_where_it_was_measured(ax):
    plots.learning_curve(LOG, ax)
    line = next(line for line in ax.get_lines() if line.get_label() == "validation NDCG@10")
    assert line.get_xdata().tolist() == [2, 4]
