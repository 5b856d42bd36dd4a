"""Figures of the benchmark show phases in their order and how costs grow."""

import figures
import pandas as pd

from r2ec_lib import plots


def test_phases_are_stacked_in_order(ax):
    table = pd.DataFrame(
        [("x", "one", 1.0), ("x", "two", 2.0), ("y", "two", 4.0)], columns=["side", "phase", "seconds"]
    )
    plots.phases(table, ax, ["two", "one", "three"])
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 2), (0, 4), (2, 1), (4, 0)]


def test_growth_shows_the_exponent(ax):
    table = pd.DataFrame({"size": [10, 100], "side": "s", "seconds": [1.0, 100], "low": [1, 90], "high": [2, 110]})
    table["exponent"] = 2.0
    plots.growth(table, ax, "size")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["s: size^2.00", "size^1"]
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_sides_stand_in_the_order_of_the_table_and_each_phase_behind_all_before_it(ax):
    table = pd.DataFrame(
        [("y", "a", 1.0), ("y", "b", 2.0), ("y", "c", 4.0), ("x", "c", 8.0)], columns=["side", "phase", "seconds"]
    )
    plots.phases(table, ax, ["a", "b", "c"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["y", "x"]
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 1), (0, 0), (1, 2), (0, 0), (3, 4), (0, 8)]


def test_growth_shows_the_times_in_their_band_and_a_line_that_grows_as_size_does(ax):
    table = pd.DataFrame({"size": [10, 100], "side": "s", "seconds": [2.0, 100], "low": [1, 90], "high": [3, 110]})
    table["exponent"] = 1.7
    plots.growth(table, ax, "size")
    times, reference = ax.get_lines()
    assert figures.points(times) == [(10, 2), (100, 100)] and figures.points(reference) == [(10, 2), (100, 20)]
    assert [figures.band(ax, 0, size) for size in (10, 100)] == [(1, 3), (90, 110)]
