"""Intervals by hand: shoppers as draws, and shares that stay shares."""

import math

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.evaluation import uncertainty


def test_intervals_treat_a_user_as_one_draw():
    single = uncertainty.mean_interval([0, 1, 0, 1], ["a", "b", "c", "d"])
    paired = uncertainty.mean_interval([0, 0, 1, 1], ["a", "a", "b", "b"])
    assert single[0] == paired[0] == 0.5
    assert paired[2] - paired[1] > 1.5 * (single[2] - single[1])
    # se² = 4/3 · 4 · 0.5² / 4²
    assert single[2] - single[0] == pytest.approx(1.96 * math.sqrt(4 / 3 * 4 * 0.25 / 16))
    assert np.isnan(uncertainty.mean_interval([1, 2], ["a", "a"])[1])
    assert np.isnan(uncertainty.mean_interval([math.nan], ["a"])).all()


def test_the_interval_of_a_share_is_wilsons_and_stays_in_its_range():
    # ten draws, all 1: the lower bound is n / (n + z²)
    mean, low, high = uncertainty.share_interval([1] * 10, range(10))
    assert (mean, high) == (1, 1) and low == pytest.approx(10 / (10 + 1.96**2))
    assert uncertainty.share_interval([0] * 10, range(10))[1] == 0
    values = [1] * 9 + [0]
    plain, bounded = uncertainty.mean_interval(values, range(10)), uncertainty.share_interval(values, range(10))
    assert plain[2] > 1 and bounded[2] < 1 and bounded[1] < plain[0] == bounded[0] < bounded[2]
    with pytest.raises(ValueError, match="a share lies in 0 to 1"):
        uncertainty.share_interval([0, 2], range(2))


def test_a_user_with_many_copies_of_a_share_brings_no_certainty():
    few = uncertainty.share_interval([0, 1, 0, 1], list("abcd"))
    many = uncertainty.share_interval([0, 1, 0, 1] * 50, list("abcd" * 50))
    assert many == pytest.approx(few)


def test_counts_are_summarised_without_a_bound_and_shares_within_it():
    table = uncertainty.summarise(pd.DataFrame({"tokens": [0, 9, 0, 9], "true": [1, 1, 1, math.nan]}), list("abcd"))
    table = table.set_index("figure")
    assert table.loc["tokens", "low"] < 0
    assert table.loc["true", ["mean", "high", "count"]].tolist() == [1, 1, 3]


def test_found_and_chance_are_summarised_side_by_side():
    table = uncertainty.against_chance({"x": ([1, 1], [0, 1]), "y": ([math.nan] * 2, [0, 0])}, ["a", "b"])
    assert table[["facet", "found", "chance"]].iloc[0].tolist() == ["x", 1, 0.5]
    assert math.isnan(table["found"][1]) and table["chance_low"][1] == 0
