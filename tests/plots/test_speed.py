"""Figures of the benchmark show what was measured, with its target and growth."""

import numpy as np
import pandas as pd
import pytest

from r2ec_lib import plots

ROW = {"what": "a", "against": "b", "ratio": 0.5, "low": 0.4, "high": 0.6, "target": 0.7, "floor": 0.3}


def test_ratios_fill_the_dots_that_meet_their_target(ax):
    rows = pd.DataFrame([ROW, ROW | {"what": "c", "ratio": 0.9}, ROW | {"what": "d", "target": np.nan}])
    plots.ratios(rows, ax)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, False]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "c", "d"]
    with pytest.raises(ValueError, match="the comparisons: no row"):
        plots.ratios(rows.iloc[:0], ax)


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
