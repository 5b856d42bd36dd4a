"""Figures draw what the table holds."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from r2ec_lib import plots

TABLE = pd.DataFrame({"facet": ["x", "y"], "share": [0.5, np.nan], "low": [0.4, np.nan], "high": [0.6, np.nan]})


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_changes_are_bars_with_their_per_cent(ax):
    plots.changed(TABLE.iloc[:1], ax, k=10)
    assert [bar.get_width() for bar in ax.patches] == [0.5]
    assert [text.get_text() for text in ax.texts] == ["50%"] and "top 10" in ax.get_xlabel()


def test_dots_are_filled_where_zero_is_left_out(ax):
    table = pd.concat([TABLE, TABLE.assign(low=-0.1)], ignore_index=True)
    plots.dots(table, ax, "correlation")
    markers = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert len(markers) == 4
    assert markers[0].get_markerfacecolor() != "white" and markers[2].get_markerfacecolor() == "white"


def test_found_and_chance_stand_beside_each_other(ax):
    values = {f"{name}{end}": [0.2] for name in ("found", "chance") for end in ("", "_low", "_high")}
    plots.against_chance(pd.DataFrame({"facet": ["x"]} | values), ax, "share")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["found", "chance"]


def test_a_figure_without_a_value_says_so_in_its_middle(ax):
    plots.dots(TABLE.iloc[1:], ax, "correlation")
    assert [text.get_text() for text in ax.texts] == ["no value: nothing was stated, or nothing differs"]
    plots.dots(TABLE, ax, "correlation")
    assert len(ax.texts) == 1


def test_a_grid_shows_each_share_in_its_field_and_leaves_unknown_ones_empty(ax):
    table = pd.DataFrame({"step": [0.0, 5.0], "a": [0.25, 1.0], "b": [np.nan, 0.0]})
    plots.grid(table, ax, {"a": "first", "b": "second"}, "share")
    assert [text.get_text() for text in ax.texts] == [".25", "1", ".00"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["first", "second"]
    with pytest.raises(ValueError, match="empty"):
        plots.grid(table.iloc[:0], ax, {"a": "first"}, "share")


def test_shares_are_drawn_on_their_whole_range(ax):
    plots.shares(TABLE, ax)
    assert ax.get_xlim() == (0, 1.02) and [bar.get_width() for bar in ax.patches] == [0.5, 0]
    assert not ax.texts


def test_empty_tables_say_so(ax):
    for draw in (lambda t: plots.changed(t, ax, 5), lambda t: plots.dots(t, ax, "")):
        with pytest.raises(ValueError, match="empty"):
            draw(TABLE.iloc[:0])
    with pytest.raises(ValueError, match="empty"):
        plots.against_chance(TABLE.iloc[:0], ax, "")
