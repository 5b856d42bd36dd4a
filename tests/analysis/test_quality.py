"""The index from its parts, and correlations against plain readings."""

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.analysis.quality import quality_index, rank_correlations, worth


def form_of(repetition, unclosed=False, empty=False):
    n = len(repetition)
    return pd.DataFrame({"repetition": repetition, "unclosed": [unclosed] * n, "empty": [empty] * n})


def test_the_index_is_the_mean_of_its_parts():
    table = quality_index(form_of([0.5]), [1], [0.5], [0])
    assert table.loc[0].tolist() == [1, 0.5, 0, 0.5, 0.5]
    assert quality_index(form_of([0.7]), [1], [0.5], [0])["quality"][0] == pytest.approx((1 + 0.5 + 0 + 0.3) / 4)


def test_saying_nothing_or_not_coming_to_an_end_earns_nothing():
    assert quality_index(form_of([0.0], empty=True), [np.nan], [np.nan], [np.nan])["quality"][0] == 0
    assert quality_index(form_of([0.0], unclosed=True), [1], [1], [1])["form"][0] == 0


def test_where_no_text_speaks_of_the_next_item_the_index_is_the_mean_of_the_other_parts():
    table = quality_index(form_of([0.5, 0.5]), [1, 0], [0.6, 0], [np.nan, np.nan])
    assert table["consistency"].isna().all()
    assert table["quality"].tolist() == pytest.approx([(1 + 0.6 + 0.5) / 3, 0.5 / 3])
    assert quality_index(form_of([0.5, 0.5]), [1, 1], [0, 0], [np.nan, 1])["quality"][0] == pytest.approx(1.5 / 4)


def test_each_planted_fault_lowers_its_own_part_and_the_index():
    sound = quality_index(form_of([0.0]), [1], [0.5], [1]).loc[0]
    for part, faulty in {
        "truth": quality_index(form_of([0.0]), [0], [0.5], [1]),
        "relevance": quality_index(form_of([0.0]), [1], [0.0], [1]),
        "consistency": quality_index(form_of([0.0]), [1], [0.5], [0]),
        "form": quality_index(form_of([0.9]), [1], [0.5], [1]),
    }.items():
        changed = faulty.loc[0] < sound
        assert set(changed.index[changed]) == {part, "quality"}


def test_rank_correlation_is_spearmans_with_ties():
    rng = np.random.default_rng(0)
    parts = pd.DataFrame({"x": rng.integers(0, 4, 60), "same": 1.0})
    outcome = parts["x"] ** 3 + rng.integers(0, 9, 60)
    table = rank_correlations(parts, outcome, range(60), resamples=300).set_index("facet")
    expected = np.corrcoef(parts["x"].rank(), pd.Series(outcome).rank())[0, 1]
    assert table.loc["x", "share"] == pytest.approx(expected)
    assert table.loc["x", "low"] < expected < table.loc["x", "high"]
    assert table.loc["same"].isna().all()


def test_a_thought_is_worth_what_it_brings_among_the_reasonings_of_one_history():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"g": np.repeat(range(50), 4), "says": np.tile([1.0, 1.0, 0.0, 0.0], 50)})
    easy = table["g"] % 2  # histories of a kind that earns more, and of whose reasonings more state the other thing
    table["other"] = (np.tile([1, 0, 1, 0], 50) | easy).astype(float)
    table["reward"] = 0.3 * table["says"] + easy + rng.normal(0, 0.01, 200)
    found = worth(table, {"says": "a", "other": "b"}, "reward", ["g"], "g", resamples=200).set_index("facet")
    assert found.loc["a", "share"] == pytest.approx(0.3, abs=0.01) and found.loc["a", "low"] > 0.28
    assert found.loc["b", "low"] < 0 < found.loc["b", "high"]
    assert found["count"].tolist() == [50, 25]
    nothing = worth(table.assign(says=1.0), {"says": "a"}, "reward", ["g"], "g").iloc[0]
    assert nothing[["share", "low", "high"]].isna().all() and nothing["count"] == 0
    for users in (4, 5):
        row = worth(table[table["g"] < users], {"says": "a"}, "reward", ["g"], "g", resamples=50).iloc[0]
        assert row[["share", "low", "high"]].isna().all() == (users < 5)


def test_a_value_that_is_the_mean_takes_part_and_resamples_without_variation_do_not():
    parts, users = pd.DataFrame({"x": [1, 2, 3]}), ["a", "b", "c"]  # three of 27 resamples draw one user alone
    row = rank_correlations(parts, [5, 6, 7], users, resamples=200).iloc[0]
    assert row[["share", "low", "high"]].tolist() == pytest.approx([1, 1, 1])


def test_a_correlation_with_what_does_not_vary_is_unknown():
    parts = pd.DataFrame({"x": [1.0, 2.0, 4.0]})
    assert rank_correlations(parts, [0.1] * 3, ["a", "b", "c"]).iloc[0, 1:].isna().all()
