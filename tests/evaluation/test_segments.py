"""Segments: what a rule may say, whom it selects, what reasoning brings them, and sample sizes worked by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.evaluation import segments, uncertainty


@pytest.fixture
def features():
    return pd.DataFrame(
        {
            "sample_id": [10, 11, 12, 13],
            "history_length": [1, 3, 5, 9],
            "mean_rating": [5.0, float("nan"), 2.0, 4.0],
            "date": ["2023-01-31", "2023-02-01", "2023-05-09", "2024-01-01"],
            "last_category": ["Mugs", "Tents", "Mugs", 'O\'Neill "x"'],
            "cold": [True, False, True, False],
            "target_popularity": [0, 7, 0, 2],
        }
    )


@pytest.mark.parametrize(
    ("rule", "selected"),
    [
        ("history_length >= 3", [11, 12, 13]),
        ("3 <= history_length < 9", [11, 12]),
        ("cold", [10, 12]),
        ("not cold and history_length > 3 or mean_rating == 5", [10, 13]),
        ("not (cold or history_length > 3)", [11]),
        ("last_category == 'Mugs' and date >= '2023-02-01'", [12]),
        ("last_category in ['Tents', 'Lamps']", [11]),
        ("last_category not in ('Tents', 'Mugs')", [13]),
        ("mean_rating > -1", [10, 12, 13]),
        ("history_length > -4", [10, 11, 12, 13]),
        ("target_popularity < history_length", [10, 12, 13]),
        ("cold == True", [10, 12]),
        ("history_length > 99", []),
        ("  history_length == 1 ", [10]),
        ("history_length in []", []),
        ("history_length not in [1, 3]", [12, 13]),
        ("cold != True", [11, 13]),
        ("mean_rating != 5", [11, 12, 13]),
        ("5 > history_length and 1 < history_length", [11]),
    ],
)
def test_a_rule_selects_whom_it_names(features, rule, selected):
    assert features["sample_id"][segments.members(rule, features)].tolist() == selected


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("__import__('os').system('true')", "is not allowed"),
        ("().__class__ == 1", "is not allowed"),
        ("history_length.max() > 1", "is not allowed"),
        ("@pd.eval('1') > 1", "invalid syntax"),
        ("history_length + 1 > 2", "is not allowed"),
        ("history_length ** 9999999 > 2", "is not allowed"),
        ("history_length if cold else cold", "is not allowed"),
        ("(lambda: 1)() == 1", "is not allowed"),
        ("cold is True", "Is is not allowed"),
        ("history_length > 1; cold", "invalid syntax"),
        ("(x := 3) > history_length", "is not allowed"),
        ("history_length in last_category", "one is a text"),
        ("last_category == f'{cold}'", "one is a text"),
        ("'Mugs'", "no condition"),
        ("1 < 2", "no condition"),
        ("history_length == -'3'", "is not allowed"),
        ("history_length == None", "is not allowed"),
        ("history_length == 1j", "is not allowed"),
        ("history_length in [3, '4']", "one is a text"),
        ("history_length[0] == 1", "is not allowed"),
        ("[cold for _ in cold]", "is not allowed"),
        ("-cold", "is not allowed"),
        ("history_lenght > 3", 'unknown column "history_lenght"; expected one of sample_id, history_length'),
        (
            'lenght == "Baby" and history_length > 3',
            'unknown column "lenght"; expected one of sample_id, history_length',
        ),
        ("history_length in [3, lenght]", 'unknown column "lenght"'),
        ("history_length", "no condition"),
        ("history_length == '3'", "one is a text"),
        ("last_category > 3", "one is a text"),
        ("date >= 2023", "one is a text"),
        ("", "invalid syntax"),
        ("history_length => 3", "invalid syntax"),
        ("not " * 3000 + "cold", "characters"),
    ],
)
def test_anything_but_conditions_on_columns_is_refused_and_named(features, rule, said):
    with pytest.raises(segments.SegmentError) as error:
        segments.members(rule, features)
    assert said in str(error.value)


def test_features_are_read_from_history_target_and_training_purchases():
    samples = pd.DataFrame(
        {
            "sample_id": [5, 6],
            "user_id": ["a", "b"],
            "timestamp": pd.to_datetime(["2023-05-31 23:00", "2024-02-29 00:00"], utc=True),
            "target": [2, 0],
            "history": [[0, 1], [1]],
            "history_hours": [[48.0, 12.0], [24.0]],
            "history_ratings": [[4.0, 3.0], [float("nan")]],
        }
    )
    items = pd.DataFrame({"item_id": list("xyz"), "title": list("xyz")})
    bought = pd.DataFrame({"user_id": ["a", "c", "c"], "item": [0, 1, 1]})
    table = segments.sample_features(samples, items, bought)
    assert table["history_length"].tolist() == [2, 1] and table["days_since_last"].tolist() == [0.5, 1]
    assert table["mean_rating"][0] == 3.5 and math.isnan(table["mean_rating"][1])
    assert table["date"].tolist() == ["2023-05-31", "2024-02-29"]
    assert table["target_popularity"].tolist() == [0, 1] and table["cold"].tolist() == [True, False]
    assert table["history_popularity"].tolist() == [(1 + 2) / 2, 2] and table["new_user"].tolist() == [False, True]


def test_a_rule_is_checked_before_there_are_samples():
    segments.check("history_length < 4 and date >= '2023-02-01' and not (cold or new_user) and mean_rating > 2")
    for rule in ('Warengruppe == "Baby"', "history_length < '4'", "date > 3"):
        with pytest.raises(segments.SegmentError):
            segments.check(rule)


# ---- figures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def rankings():
    """Six samples of four users; reasoning moves the targets of samples 0 and 1 from rank 3 to rank 1."""
    rows = [(n, f"u{n // 2 if n < 4 else n}") for n in range(6)]
    table = pd.DataFrame(rows, columns=["sample_id", "user_id"])
    with_it = table.assign(model="with reasoning", rank=[1, 1, 3, 30, 3, 30])
    return pd.concat([with_it, table.assign(model="without reasoning", rank=[3, 3, 3, 30, 3, 30])])


def test_metrics_are_those_of_the_segment_alone(rankings):
    inside = pd.Series({0: True, 1: False, 2: True, 3: True, 4: False, 5: False})
    table = segments.segment_metrics(rankings, inside, ["ndcg@10"], 200).set_index("ranked")
    assert table.loc["with reasoning", "value"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert table.loc["without reasoning", "value"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert table.loc["difference", "value"] == pytest.approx((1 - 1 / 2) / 3)
    spread = math.sqrt((2 * (1 / 2 - 1 / 3) ** 2 + (1 / 3) ** 2) / 2)
    assert table.loc["without reasoning", "deviation"] == pytest.approx(spread)
    assert table["samples"].tolist() == [3] * 3 and table["users"].tolist() == [2] * 3


def test_each_sample_keeps_its_user_whatever_the_order_of_the_rows(rankings):
    inside, mixed = pd.Series(True, range(6)), rankings.iloc[::-1]
    first, second = (segments.segment_metrics(table, inside, ["ndcg@10"], 200) for table in (rankings, mixed))
    pd.testing.assert_frame_equal(first, second)
    low, high = first.loc[1, ["from", "to"]]
    values = [1 / 2, 1 / 2, 1 / 2, 0, 1 / 2, 0]
    assert (low, high) == pytest.approx(uncertainty.share_interval(values, ["u0", "u0", "u1", "u1", "u4", "u5"])[1:])


def test_the_page_shows_both_rankings_and_their_difference_below_each_other(rankings):
    inside = pd.Series(True, range(6))
    table = segments.segment_metrics(rankings, inside, ["hit@1", "ndcg@10"], 200)
    assert table["ranked"].tolist() == ["with reasoning", "without reasoning", "difference"] * 2
    value = table.set_index(["metric", "ranked"])["value"]
    for metric in ("hit@1", "ndcg@10"):
        of = value[metric]
        assert of["difference"] == pytest.approx(of["with reasoning"] - of["without reasoning"])
    assert (table["from"] <= table["value"]).all() and (table["value"] <= table["to"]).all()


def test_an_empty_segment_or_one_that_a_model_did_not_rank_has_no_figures(rankings):
    with pytest.raises(ValueError, match="0 samples"):
        segments.segment_metrics(rankings, pd.Series({0: False}), ["hit@5"], 200)
    with pytest.raises(ValueError, match="ranked by both: 0"):
        one = rankings[rankings["model"] == "with reasoning"]
        segments.segment_metrics(one, pd.Series({0: True}), ["hit@5"], 200)


# ---- sample sizes --------------------------------------------------------------------------------------------------


def test_a_test_of_the_planned_size_has_the_planned_power():
    rng, base, effect = np.random.default_rng(0), 0.2, 0.08
    row = {"metric": "hit@5", "ranked": segments.WITHOUT, "value": base, "deviation": math.sqrt(base * (1 - base))}
    n = int(segments.ab_sizes(pd.DataFrame([row]), [effect / base]).iloc[0, 0])
    a, b = rng.binomial(n, base, 20_000) / n, rng.binomial(n, base + effect, 20_000) / n
    middle = (a + b) / 2
    found = np.abs(b - a) > 1.959964 * np.sqrt(2 * middle * (1 - middle) / n)
    assert found.mean() == pytest.approx(0.8, abs=0.06)  # by the deviation at the base alone


def test_sizes_follow_the_figures_without_reasoning_and_are_left_open_where_there_are_none():
    table = pd.DataFrame(
        {"metric": ["hit@5", "ndcg@5", "hit@1"], "value": [0.5, 0.4, 0.0], "deviation": [0.5, 0.3, 0]}
    )
    other = table.assign(ranked="with reasoning", value=0.9)  # its figures decide nothing
    sizes = segments.ab_sizes(pd.concat([other, table.assign(ranked="without reasoning")]), [0.2, 0.4])
    assert list(sizes.columns) == ["+20%", "+40%"] and list(sizes.index) == ["hit@5", "ndcg@5", "hit@1"]
    by_hand = 2 * (1.959964 + 0.841621) ** 2 * 0.3**2
    assert sizes.loc["ndcg@5"].tolist() == [math.ceil(by_hand / 0.08**2), math.ceil(by_hand / 0.16**2)]
    assert sizes.loc["hit@1"].isna().all()
    small = segments.ab_sizes(table.assign(ranked="without reasoning"), [0.005, 0.015, 0.02])
    assert list(small.columns) == ["+0.5%", "+1.5%", "+2%"]
