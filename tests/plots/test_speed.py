"""Figures of the benchmark show phases in their order and how costs grow."""

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
    plots.growth(table, ax, "size")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["s: size^2.00", "size^1"]
    assert ax.get_xscale() == ax.get_yscale() == "log"
