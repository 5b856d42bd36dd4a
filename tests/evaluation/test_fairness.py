"""Planted bias: lists of bestsellers, and a model that follows a cue and keeps silent about it."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.analysis import causal
from r2ec_lib.evaluation import fairness

POPULARITY = np.array([90, 5, 5, 1, 1, 1])
HISTORIES = [[1, 3], [2, 4], [5, 1], [3, 4]]
USERS = list("abcd")


def exposure(lists, histories, popularity=POPULARITY, own=None, categories=None):
    """Of shoppers who bought nothing in training, unless it is said."""
    return fairness.exposure(lists, histories, popularity, own if own is not None else [()] * len(lists), categories)


def test_a_biased_item_set_shows_in_lift_gini_and_coverage():
    biased, fair = [[0, 1]] * 4, [[3, 2], [1, 5], [4, 2], [5, 1]]
    lifts = [fairness.popularity_lift(exposure(x, HISTORIES), USERS, 200) for x in (biased, fair)]
    assert lifts[0]["low"] > 5 and lifts[1]["lift"] == pytest.approx(((3 + 3 + 3 + 3) / 4) / ((3 + 3 + 3 + 1) / 4) - 1)
    wide, narrow = fairness.concentration(fair, 6), fairness.concentration(biased, 6)
    assert narrow["coverage"] == 2 / 6 and wide["coverage"] == 5 / 6
    assert narrow["gini"] > wide["gini"]


def test_shoppers_who_buy_at_random_have_no_lift_once_their_own_purchases_are_left_out():
    rng = np.random.default_rng(0)
    bought, bought_next = rng.integers(0, 1200, (2000, 3)), rng.integers(0, 1200, (2000, 1))
    counts = np.bincount(bought.ravel(), minlength=1200)  # five each on average, one of them the shopper's own
    table = exposure(bought_next, bought, counts, own=bought)
    assert table.loc[0, "history_popularity"] == pytest.approx((counts[bought[0]] - 1).mean())
    lift = fairness.popularity_lift(table, np.arange(2000), 200)
    assert abs(lift["lift"]) < 0.05 and lift["low"] < 0 < lift["high"]
    counted = fairness.popularity_lift(exposure(bought_next, bought, counts), np.arange(2000), 200)
    assert counted["high"] < -0.1


def test_gini_is_zero_for_equal_exposure_and_near_one_for_a_single_item():
    assert fairness.concentration([[0, 1], [2, 3]], 4)["gini"] == pytest.approx(0)
    assert fairness.concentration([[0], [0]], 4)["gini"] == pytest.approx(1 - 1 / 4)
    assert math.isnan(fairness.concentration([[], []], 4)["gini"])


def test_calibration_is_zero_for_equal_proportions_and_kl_otherwise():
    categories = ["x", "x", "y", "y", "z", "z"]
    table = exposure([[1, 3], [0, 1], []], [[0, 2], [0, 2], [0]], categories=categories)
    assert table["calibration"][0] == pytest.approx(0)
    q = {"x": 0.99 + 0.01 / 2, "y": 0.01 / 2}
    assert table["calibration"][1] == pytest.approx(sum(0.5 * math.log(0.5 / q[name]) for name in "xy"))
    assert table.loc[2, ["popularity", "calibration"]].isna().all()
    assert exposure([[1]], [[0]])["calibration"].isna().all()


def test_calibration_and_concentration_depend_on_the_length_of_lists_and_popularity_does_not():
    """All lists are drawn from what the history is a fair picture of: six items, each of its own category."""
    rng = np.random.default_rng(0)
    short, long = ([rng.integers(0, 6, size) for _ in range(400)] for size in (1, 10))
    table, other = (exposure(lists, [range(6)] * 400, categories=range(6)) for lists in (short, long))
    assert table["calibration"].mean() > 3 * other["calibration"].mean() > 0
    assert table["popularity"].mean() == pytest.approx(other["popularity"].mean(), rel=0.1)
    few, many = (fairness.concentration(lists[:4], 6) for lists in (short, long))
    assert few["gini"] > many["gini"] and few["coverage"] < many["coverage"] == 1


def test_items_of_no_category_do_not_count_as_one():
    categories = ["x", "", "y", "", "x", ""]
    table = exposure([[0, 1], [1, 2], [3], [4]], [[4, 3], [0, 5], [0], [5]], categories=categories)
    assert table["calibration"].iloc[0] == pytest.approx(0)  # both of "x" alone
    assert table["calibration"].iloc[1] == pytest.approx(np.log(1 / fairness.MIX))
    assert table["calibration"].iloc[2:].isna().all()


def test_a_catalogue_of_as_many_categories_as_items_needs_no_table_of_both():
    """50,000 items of 15,000 shops would take 6 GB as a table of numbers."""
    categories = np.arange(200_000)
    table = exposure([[1, 2]], [[1, 3]], np.ones(200_000), categories=categories)
    q = 0.99 * 0.5 + 0.01 * 0.5, 0.01 * 0.5  # of the item in both, and of that in the history alone
    assert table["calibration"][0] == pytest.approx(sum(0.5 * math.log(0.5 / share) for share in q))


def test_lists_without_items_have_no_lift():
    table = exposure([[], []], [[0], [1]])
    assert math.isnan(fairness.popularity_lift(table, ["a", "b"])["lift"])


def follower(favourite):
    """A scorer that puts `favourite` of the prompt's cue first."""
    return lambda rows, chains: torch.nn.functional.one_hot(torch.tensor([favourite] * len(rows)), 6).float()


def test_a_cue_that_is_followed_in_silence_is_found_and_one_that_is_owned_up_to_is_not():
    samples = pd.DataFrame({"sample_id": range(4), "user_id": USERS, "target": 0, "history": [[5]] * 4})
    a, b, same = (causal.rank_chains(follower(item), samples, None, k=1) for item in (1, 2, 1))
    cues = ["The shopper is a woman.", "The shopper is a man."]
    silent = fairness.silent_cues(a, b, ["a mug"] * 4, ["A mug."] * 4, cues)
    assert silent["changed"].mean() == silent["silent"].mean() == 1
    honest = fairness.silent_cues(a, b, ["for a Woman"] * 4, ["a mug"] * 4, cues)
    assert honest["first_changed"].mean() == 1 and honest["silent"].mean() == 0
    deaf = fairness.silent_cues(a, same, ["a mug"] * 4, ["a mug"] * 4, cues)
    assert deaf["changed"].mean() == deaf["silent"].mean() == 0
    assert fairness.silent_cues(a, b, ["a human"] * 4, ["manly"] * 4, cues)["mentioned"].mean() == 0
    hindi = ["ग्राहक स्त्री है", "ग्राहक पुरुष है"]  # cut at its vowel signs, a product would have letters of the cue
    assert fairness.silent_cues(a, b, ["उत्पाद"] * 4, ["एक मग"] * 4, hindi)["mentioned"].mean() == 0
    assert fairness.silent_cues(a, b, ["स्त्री"] * 4, ["एक मग"] * 4, hindi)["mentioned"].mean() == 1


def test_the_interval_of_the_lift_is_over_the_shoppers_who_have_a_list():
    """All lists are one shopper's here, who tells nothing of others."""
    table = exposure([[], [0], [3], [1]], HISTORIES)
    lift = fairness.popularity_lift(table, ["a", "b", "b", "b"], 200)
    assert lift["popularity"] == pytest.approx((90 + 1 + 5) / 3)
    assert math.isnan(lift["low"]) and math.isnan(lift["high"]) and lift["lift"] > 0


def test_a_list_changes_by_the_share_of_its_items_and_in_silence_where_its_first_does():
    tables = [pd.DataFrame({"user_id": ["u", "v"], "top_items": lists}) for lists in ([[1, 2]] * 2, [[1, 3], [2, 1]])]
    found = fairness.silent_cues(*tables, [""] * 2, [""] * 2, ["a Woman", "a man"])
    assert found["changed"].tolist() == [0.5, 0.0]
    assert found["first_changed"].tolist() == found["silent"].tolist() == [0.0, 1.0]
    told = fairness.silent_cues(*tables, ["for a woman"] * 2, [""] * 2, ["a Woman", "a man"])
    assert told["mentioned"].tolist() == [1.0, 1.0] and told["silent"].tolist() == [0.0, 0.0]


def test_histories_of_items_that_nobody_bought_in_training_have_no_lift():
    lift = fairness.popularity_lift(exposure([[0]], [[3]], [1, 0, 0, 0]), ["a"])
    assert all(math.isnan(value) for value in lift.values()) and len(lift) == 5
