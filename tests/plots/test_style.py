"""Series can be told apart without colour."""

from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd

from r2ec_lib.plots import style


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


def test_bars_repeat_their_looks_only_after_all_were_used():
    assert style.bar_look(0) == style.bar_look(len(style.COLOURS)) != style.bar_look(1)
    looks = [style.look(i) for i in range(3 * len(style.COLOURS))]
    assert len({(look["color"], look["marker"]) for look in looks}) == len(looks)


def test_rows_stand_from_top_to_bottom_with_or_without_a_zero(ax):
    style.rows(ax, ["costs $5 or $6", "b"])
    ax.figure.canvas.draw()  # between two dollars, mathematics would be read
    assert not ax.get_yticklabels()[0].get_parse_math()
    style.rows(ax, ["a", "b"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim() == (1.5, -0.5) and not ax.lines
    style.rows(ax, ["a", "b"], zero=True)
    assert ax.lines[0].get_xdata() == [0, 0]


def test_signed_ticks_are_few(ax):
    style.rows(ax, ["a"], zero=True)
    ax.set_xlim(-0.024, 0.004)
    assert len(ax.get_xticks()) <= 5


def test_a_dot_spans_its_interval(ax):
    style.dot(ax, 2, 0.5, 0.25, 1.0, filled=False)
    assert list(ax.lines[0].get_xdata()) == [0.25, 1.0] and list(ax.lines[0].get_ydata()) == [2, 2]
    assert ax.lines[1].get_xdata() == [0.5] and ax.lines[1].get_markerfacecolor() == "white"


def test_error_bars_reach_both_ends_and_are_unknown_where_an_end_is():
    bars = style.spread(pd.Series([0.5, 0.5]), pd.Series([0.25, np.nan]), pd.Series([1.0, 0.4]))
    assert np.array_equal(bars, [[0.25, np.nan], [0.5, 0]], equal_nan=True)
