"""Figures of the data draw every sample once."""

import figures
import matplotlib.dates as mdates
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


def test_lengths_of_histories_are_shares_of_their_own_split(ax):
    plots.history_lengths(SAMPLES, ax)
    train, valid, test = (figures.points(line) for line in ax.get_lines())
    assert train == [(1, pytest.approx(2 / 3)), (2, pytest.approx(1 / 3)), (3, 0)]
    assert valid == [(1, 1), (2, 0), (3, 0)] and test == [(1, 0), (2, 0), (3, 1)]


def test_the_tail_falls_from_the_most_frequent_target_of_each_split(ax):
    plots.popularity_tail(SAMPLES.assign(target=[1, 3, 3, 2, 3]), ax)
    assert [figures.points(line) for line in ax.get_lines()] == [[(1, 2), (2, 1)], [(1, 1)], [(1, 1)]]


def test_the_timeline_stacks_each_bin_at_its_place(ax):
    plots.split_timeline(SAMPLES, ax, bins=4)
    first = float(ax.patches[0].get_x())
    assert first == mdates.date2num(SAMPLES["timestamp"][0])
    bars = [(bar.get_x() - first, bar.get_width(), bar.get_y(), bar.get_height()) for bar in ax.patches]
    train, valid, test = bars[:4], bars[4:8], bars[8:]
    assert ax.get_ylim() == (0, 1.05 * max(bottom + height for *_, bottom, height in bars))  # room above the highest
    assert train == [(0, 1, 0, 1), (1, 1, 0, 1), (2, 1, 0, 1), (3, 1, 0, 0)]
    assert valid == [(0, 1, 1, 0), (1, 1, 1, 0), (2, 1, 1, 0), (3, 1, 0, 1)] and test[3] == (3, 1, 1, 1)
