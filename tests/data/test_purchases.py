"""Histories given by hand become rows as the model was trained on, or an error says which value is wrong."""

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.data.purchases import actions, histories_table, is_one, shown_purchases
from r2ec_lib.data.schema import DataError, validate_interactions
from r2ec_lib.data.splits import make_samples

INDEX = {"4": 0, "17": 1, "pen": 2}


def table(histories, hours=None, ratings=None, **choices):
    return shown_purchases(histories, hours, ratings, item_index=INDEX, max_history=9, **choices)


def test_a_history_becomes_indexes_hours_a_day_apart_and_no_ratings():
    row = table([["pen", "4", "pen"]]).iloc[0]
    assert row["history"].tolist() == [2, 0, 2] and row["history"].dtype == np.int32
    assert row["history_hours"].tolist() == [72.0, 48.0, 24.0] and row["history_hours"].dtype == np.float32
    assert np.isnan(row["history_ratings"]).all() and row["history_ratings"].dtype == np.float32


@pytest.mark.parametrize(
    "ids",
    [
        [17, 4],
        (17, 4),
        np.array([17, 4]),
        np.array([17.0, 4.0]),
        pd.Series([17, 4]),
        pd.Index(["17", "4"]),
        pd.Series(["17", "4", "17"]).unique(),
        ["17", 4.0],
    ],
)
def test_ids_may_be_numbers_arrays_and_columns(ids):
    assert table([ids])["history"].iloc[0].tolist() == [1, 0]


def test_each_history_has_its_own_hours_and_ratings():
    rows = table([["pen"], [4, 17]], [[3], np.array([5.0, 5.0])], [[None], pd.Series([0, 10])], rating_range=(0, 10))
    assert [hours.tolist() for hours in rows["history_hours"]] == [[3.0], [5.0, 5.0]]
    assert np.isnan(rows["history_ratings"][0][0]) and rows["history_ratings"][1].tolist() == [0.0, 10.0]


def test_a_purchase_of_this_very_hour_is_taken():
    assert table([["pen", 4]], [[0, 0.0]])["history_hours"][0].tolist() == [0.0, 0.0]


def test_pandas_gaps_are_no_rating():
    assert np.isnan(table([["pen", 4]], None, [[5, pd.NA]])["history_ratings"][0][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([["pen"], 4],), r"history 2: found 4; expected a list of item ids"),
        (([["pen"], []],), r"history 2 is empty"),
        (([["pen", "ink"]],), r"history 1 holds 'ink', which is not in the catalogue\. Add it with add_items"),
        (([[4.5]],), r"history 1 holds '4\.5', which is not in the catalogue"),
        (([[None]],), r"history 1 holds 'None', which is not in the catalogue"),
        (([["pen", 4]], [[1]]), r"hours of history 1: 1 values for 2 purchases"),
        (([["pen"], [4]], [[1]]), r"hours: 1 lists for 2 histories; expected one per history"),
        (([["pen"]], None, [[5], [4]]), r"ratings: 2 lists for 1 histories; expected one per history"),
        (([["pen"]], [[float("nan")]]), r"hours of history 1 are \[nan\]; expected hours ago"),
        (([["pen"]], [[float("inf")]]), r"hours of history 1 are \[inf\]"),
        (([["pen"]], [[-1]]), r"hours of history 1 are \[-1\.0\]"),
        (([["pen", 4]], [[1, 2]]), r"hours of history 1 are \[1\.0, 2\.0\]; .*oldest first"),
        (([["pen"]], ["soon"]), r"hours of history 1: found 'soon'; expected one number per purchase"),
        (([["pen"]], [["soon"]]), r"hours of history 1: \['soon'\] are not all numbers"),
        (([["pen"]], 5), r"hours: found 5; expected one list per history"),
        (([["pen", 4]], None, [[5]]), r"ratings of history 1: 1 values for 2 purchases"),
        (([["pen"]], None, [[9]]), r"ratings of history 1 are \[9\.0\]; expected 1…5, or None"),
        (([["pen"]], None, [[0]]), r"ratings of history 1 are \[0\.0\]"),
        (([["pen"]], None, [[[5]]]), r"ratings of history 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_history(arguments, message):
    with pytest.raises(DataError, match=message):
        table(*arguments)


def test_a_scale_that_is_none_is_refused():
    with pytest.raises(DataError, match="rating_min is 5, rating_max 1"):
        table([["pen"]], rating_range=(5, 1))


def test_actions_count_each_purchase_once_however_many_histories_repeat_it(samples_of):
    samples = samples_of({"a": [5, 6, 7, 5, 8], "b": [6, 7]})
    found = actions(samples)
    assert found.groupby("user_id")["item"].apply(list).to_dict() == {"a": [5, 6, 7, 5, 8], "b": [6, 7]}


def test_actions_outlive_hours_rounded_to_float32():
    start = pd.Timestamp("2020-01-01T03:17:29.123", tz="UTC")
    moments = start + pd.to_timedelta([0, 7.3, 9_000.77, 15_111.123], unit="h")
    rows = []
    for at in (1, 2, 3):
        hours = ((moments[at] - moments[:at]) / pd.Timedelta(hours=1)).to_numpy().astype(np.float32)
        rows.append(("a", moments[at], at, np.arange(at), hours))
    samples = pd.DataFrame(rows, columns=["user_id", "timestamp", "target", "history", "history_hours"])
    assert actions(samples)["item"].tolist() == [0, 1, 2, 3]


def test_purchases_of_one_moment_stay_in_the_order_of_the_log():
    """An order of 7 and 3; then one of 9, which was asked for, and 1; then 5."""
    moments = pd.Timestamp("2024-01-01T10:00", tz="UTC") + pd.to_timedelta([0, 0, 7.3, 7.3, 19.9], unit="h")
    items, rows = np.array([7, 3, 9, 1, 5]), []
    for at, shown in ((2, slice(0, 2)), (4, slice(0, 4))):
        hours = ((moments[at] - moments[shown]) / pd.Timedelta(hours=1)).to_numpy().astype(np.float32)
        rows.append(("a", moments[at], items[at], items[shown], hours))
    samples = pd.DataFrame(rows, columns=["user_id", "timestamp", "target", "history", "history_hours"])
    assert actions(samples)["item"].tolist() == items.tolist()
    assert actions(samples.head(1))["item"].tolist() == [7, 3, 9]


def _sampled(seconds, items, **choices):
    """The samples of one shopper who buys `items` so many seconds after the start."""
    times = pd.Timestamp("2015-01-01", tz="UTC").as_unit("ms") + pd.to_timedelta(seconds, unit="s")
    log = pd.DataFrame(
        {"user_id": "a", "item_id": [str(item) for item in items], "timestamp": times, "rating": np.nan}
    )
    catalogue = pd.DataFrame({"item_id": [str(item) for item in range(100)], "title": "t"})
    return make_samples(catalogue, validate_interactions(log), **choices)[0]


@pytest.mark.parametrize(
    "gaps",
    [
        pytest.param([20], id="plays every 20 seconds"),
        pytest.param([0.001], id="every millisecond"),
        pytest.param([0, 15, 0, 40, 1e8], id="orders close together, years before the next"),
        pytest.param([0, 0, 86_400], id="orders a day apart"),
    ],
)
@pytest.mark.parametrize("skip_ties", [True, False])
def test_purchases_stand_in_the_order_of_the_log_beyond_the_longest_history(gaps, skip_ties):
    items = np.random.default_rng(0).permutation(100)[:30]
    samples = _sampled(np.resize(gaps, 30).cumsum(), items, max_history=4, skip_ties=skip_ties)
    samples = samples.iloc[::2]  # the purchases between are known from histories alone
    shown = np.unique(np.concatenate([*samples["history"], samples["target"]]))
    assert actions(samples)["item"].tolist() == [item for item in items if item in shown]


def test_an_item_bought_again_at_once_is_one_purchase_where_the_nearest_history_has_it_last():
    later = list(range(10, 25))
    samples = _sampled([0, 86_400, 86_401, 86_402, *range(100_000, 115_000, 1000)], [7, 5, 7, 5, *later])
    assert samples["target"].tolist() == [5, *later]
    assert actions(samples)["item"].tolist() == [7, 7, 5, *later]


def test_dropped_samples_leave_their_purchase_in_the_sequence(samples_of):
    samples = samples_of({"a": [1, 2, 1, 3]})
    repeats_dropped = samples[samples["target"] != 1]
    assert actions(repeats_dropped)["item"].tolist() == [1, 2, 1, 3]


def test_a_log_becomes_a_history_per_shopper_in_the_order_of_their_first_rows():
    times = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-02", "2024-01-04"], utc=True).as_unit("ms")
    log = pd.DataFrame(
        {"user_id": list("baba"), "item_id": list("wxyz"), "timestamp": times, "rating": [1, 2, None, 4]}
    )
    table = histories_table(log)
    assert table.index.tolist() == ["b", "a"]
    assert table["item_ids"].map(list).tolist() == [["w", "y"], ["x", "z"]]
    assert table["hours"].map(list).tolist() == [[72, 48], [48, 0]]
    assert list(table["ratings"]["a"]) == [2, 4] and np.isnan(table["ratings"]["b"][1])
    later = histories_table(log.head(1), at=times[3] + pd.Timedelta("1h"))
    assert later["hours"]["b"].tolist() == [73] and histories_table(log.head(0)).empty


def test_purchases_of_a_shopper_stay_in_the_order_of_a_long_log():
    rows = np.random.default_rng(0).integers(0, 3, 300)
    times = pd.date_range("2024-01-01", periods=300, freq="h", tz="UTC")
    log = pd.DataFrame({"user_id": [f"u{row}" for row in rows], "item_id": [f"i{n}" for n in range(300)]})
    table = histories_table(log.assign(timestamp=times, rating=np.nan))
    expected = log.groupby("user_id")["item_id"].apply(list)
    assert {user: list(items) for user, items in table["item_ids"].items()} == expected.to_dict()


def test_actions_have_the_most_precise_time_that_is_shown_and_stand_by_shopper_and_time():
    """Hours are float32: 0.7 is a little less, and a time computed from far away is off by more."""
    moments = pd.Timestamp("2020-01-01T03:17:29.123", tz="UTC") + pd.to_timedelta([0, 0.7, 15_111.77], unit="h")
    rows = []
    for user, at in (("b", 1), ("b", 2), ("a", 2)):
        hours = ((moments[at] - moments[:at]) / pd.Timedelta(hours=1)).to_numpy().astype(np.float32)
        rows.append((user, moments[at], at, np.arange(at), hours))
    found = actions(pd.DataFrame(rows, columns=["user_id", "timestamp", "target", "history", "history_hours"]))
    assert found["user_id"].tolist() == list("aaabbb") and found["item"].tolist() == [0, 1, 2] * 2
    assert found["timestamp"].tolist()[3:] == moments.tz_localize(None).tolist()


@pytest.mark.parametrize(
    ("history", "one"),
    [
        (np.array(["a", "b"]), True),
        (("a",), True),
        ([np.array(["a"])], False),
        ((("a",), ("b",)), False),
        (pd.Series([np.array(["a"])], index=[5]), False),
        (pd.DataFrame({"user_id": ["a"]}), False),
    ],
)
def test_one_history_is_told_from_many(history, one):
    assert is_one(history) == one
