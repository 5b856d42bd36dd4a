"""Figures of the reasoning draw what the table holds."""

import figures
import numpy as np
import pandas as pd
import pytest

from r2ec_lib import plots
from r2ec_lib.plots import style

TABLE = pd.DataFrame({"facet": ["x", "y"], "share": [0.5, np.nan], "low": [0.4, np.nan], "high": [0.6, np.nan]})

SHARES = pd.DataFrame({"facet": ["style", "tier"], "share": [0.9, 0.3], "low": [0.8, np.nan], "high": [1.0, np.nan]})
FIGURES = {
    plots.shares: SHARES,
}


@pytest.mark.parametrize("draw", FIGURES)
def test_a_figure_labels_its_axes_and_leaves_the_title_free(draw, ax):
    figures.labels_its_axes(draw, FIGURES[draw], ax)


@pytest.mark.parametrize("draw", FIGURES)
def test_a_single_row_is_enough(draw, ax):
    figures.takes_one_row(draw, FIGURES[draw], ax)


def test_dots_are_filled_where_zero_is_left_out(ax):
    table = pd.concat([TABLE, TABLE.assign(low=-0.1)], ignore_index=True)
    plots.dots(table, ax, "correlation")
    markers = [line for line in ax.get_lines() if line.get_marker() == "o"]
    assert len(markers) == 4
    assert markers[0].get_markerfacecolor() != "white" and markers[2].get_markerfacecolor() == "white"


@pytest.mark.parametrize("length", [0, 2])
def test_the_number_of_cases_stands_behind_the_name_of_a_dot_and_no_row_is_a_figure_too(ax, length):
    table = TABLE.assign(count=range(1_000, 1_000 + len(TABLE))).head(length)
    plots.dots(table, ax, "correlation")
    named = [f"{facet} (n = {count:,})" for facet, count in zip(table["facet"], table["count"], strict=True)]
    assert [label.get_text() for label in ax.get_yticklabels()] == named


def test_found_and_chance_stand_beside_each_other(ax):
    values = {f"{name}{end}": [0.2] for name in ("measured", "chance", "lead") for end in ("", "_low", "_high")}
    plots.against_chance(pd.DataFrame({"facet": ["x"]} | values), ax, "share")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["measured", "chance"]


def test_a_figure_without_a_value_says_so_in_its_middle(ax):
    plots.dots(TABLE.iloc[1:], ax, "correlation")
    assert [text.get_text() for text in ax.texts] == ["no row has a value"]
    plots.dots(TABLE, ax, "correlation")
    assert len(ax.texts) == 1


def test_shares_are_drawn_on_their_whole_range(ax):
    plots.shares(TABLE, ax)
    assert ax.get_xlim() == (0, 1.02) and ax.patches[0].get_width() == 0.5
    assert not ax.texts


def test_a_share_without_a_value_leaves_its_row_empty(ax):
    plots.shares(TABLE, ax)
    assert np.isnan(ax.patches[1].get_width())
    [errors] = ax.collections
    assert [len(line) for line in errors.get_segments()] == [2, 0]


def test_a_share_of_nothing_is_drawn_whole_on_the_axis(ax):
    values = {f"{name}{end}": [0.0] for name in ("measured", "chance", "lead") for end in ("", "_low", "_high")}
    plots.against_chance(pd.DataFrame({"facet": ["x"]} | values), ax, "share")
    assert not any(line.get_clip_on() for line in ax.get_lines() if line.get_marker() in "os")


def test_what_was_found_and_what_chance_gives_have_their_own_intervals(ax):
    values = {
        "measured": 0.6,
        "measured_low": 0.5,
        "measured_high": 0.8,
        "chance": 0.2,
        "chance_low": 0.1,
        "chance_high": 0.25,
        "lead": 0.4,
        "lead_low": 0.35,
        "lead_high": 0.5,
    }
    plots.against_chance(
        pd.DataFrame({"facet": ["x"]} | {name: [value] for name, value in values.items()}), ax, "share"
    )
    found, chance = ax.containers
    assert figures.intervals(found) == [pytest.approx((0.5, -0.12, 0.8, -0.12))]
    assert figures.intervals(chance) == [pytest.approx((0.1, 0.12, 0.25, 0.12))]
    assert ax.get_yticklabels()[0].get_text() == "x\n+0.400 (+0.350 to +0.500)"
    assert (found.lines[0].get_markerfacecolor(), chance.lines[0].get_markerfacecolor()) == (style.COLOURS[0], "white")


def test_bars_have_their_intervals_and_none_where_an_end_is_missing(ax):
    table = pd.DataFrame({"facet": ["x", "y"], "share": [0.5, 0.2], "low": [0.4, np.nan], "high": [0.7, np.nan]})
    plots.shares(table, ax)
    assert figures.intervals(ax.containers[1]) == [pytest.approx((0.4, 0, 0.7, 0)), ()]
