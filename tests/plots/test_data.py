"""Figures of the data draw every sample once."""

import figures
import pandas as pd
import pytest

from r2ec_lib import plots

SAMPLES = pd.DataFrame(
    {
        "split": ["train", "train", "train", "valid", "test"],
        "timestamp": pd.date_range("2023-01-01", periods=5, tz="UTC").as_unit("ms"),
        "target": [3, 3, 1, 2, 3],
        "history": [[1], [1, 2], [1], [2], [3, 1, 2]],
    }
)
FIGURES = {
    plots.history_lengths: SAMPLES,
    plots.popularity_tail: SAMPLES,
    plots.split_timeline: SAMPLES,
}


@pytest.mark.parametrize("draw", FIGURES)
def test_a_figure_labels_its_axes_and_leaves_the_title_free(draw, ax):
    figures.labels_its_axes(draw, FIGURES[draw], ax)


@pytest.mark.parametrize("draw", FIGURES)
def test_a_single_row_is_enough(draw, ax):
    figures.takes_one_row(draw, FIGURES[draw], ax)


def test_the_timeline_counts_every_sample_once(ax):
    plots.split_timeline(SAMPLES, ax, bins=4)
    assert sum(bar.get_height() for bar in ax.patches) == len(SAMPLES)
