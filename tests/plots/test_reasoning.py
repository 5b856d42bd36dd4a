"""Figures of the reasoning draw what the table holds."""

import figures
import numpy as np
import pandas as pd
import pytest

from r2ec_lib import plots

TABLE = pd.DataFrame({"facet": ["x", "y"], "share": [0.5, np.nan], "low": [0.4, np.nan], "high": [0.6, np.nan]})

CURVE = pd.DataFrame({"fraction": [0.0, 0.5, 1], "ndcg": [0.1, 0.2, 0.3], "agreement": [0.2, 0.5, 1]})
CURVE = CURVE.assign(**{f"{name}_{end}": CURVE[name] for name in ("ndcg", "agreement") for end in ("low", "high")})

SHARES = pd.DataFrame({"facet": ["style", "tier"], "share": [0.9, 0.3], "low": [0.8, np.nan], "high": [1.0, np.nan]})
FIGURES = {
    plots.early_answering: CURVE,
    plots.shares: SHARES,
}


@pytest.mark.parametrize("draw", FIGURES)
def test_a_figure_labels_its_axes_and_leaves_the_title_free(draw, ax):
    figures.labels_its_axes(draw, FIGURES[draw], ax)


@pytest.mark.parametrize("draw", FIGURES)
def test_a_single_row_is_enough_and_none_is_a_clear_error(draw, ax):
    figures.needs_one_row(draw, FIGURES[draw], ax)


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
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.grid(table.iloc[:0], ax, {"a": "first"}, "share")


def test_shares_are_drawn_on_their_whole_range(ax):
    plots.shares(TABLE, ax)
    assert ax.get_xlim() == (0, 1.02) and [bar.get_width() for bar in ax.patches] == [0.5, 0]
    assert not ax.texts


def test_empty_tables_say_so(ax):
    for draw in (lambda t: plots.changed(t, ax, 5), lambda t: plots.dots(t, ax, "")):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw(TABLE.iloc[:0])
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.against_chance(TABLE.iloc[:0], ax, "")
