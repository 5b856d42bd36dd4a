"""The validators return typed tables, or say what is wrong and in which row."""

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.data import schema
from r2ec_lib.data.schema import DataError


def interactions(**columns):
    base = {
        "user_id": ["b", "a", "a"],
        "item_id": [1, 2, 3],
        "timestamp": pd.to_datetime(["2020-01-02", "2020-01-02", "2020-01-01"], utc=True),
        "rating": [5, np.nan, 1],
    }
    return pd.DataFrame(base | columns)


def samples(**columns):
    base = {
        "sample_id": [0, 1, 2],
        "user_id": ["a", "b", "a"],
        "split": ["train", "valid", "test"],
        "timestamp": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"], utc=True),
        "target": [1, 0, 2],
        "history": [np.array([0]), np.array([1, 2]), np.array([1])],
        "history_hours": [np.array([1.0]), np.array([2.0, 0.0]), np.array([1.0])],
        "history_ratings": [np.array([5.0]), np.array([1.0, np.nan]), np.array([1.0])],
    }
    return pd.DataFrame(base | columns)


def test_interactions_come_out_typed_and_in_time_order():
    table = schema.validate_interactions(interactions())
    assert table["user_id"].tolist() == ["a", "a", "b"]  # by time, then user
    assert table["item_id"].tolist() == ["3", "2", "1"]
    assert str(table["timestamp"].dtype) == schema.TIME
    assert table["rating"].dtype == np.float32 and table["rating"].isna().sum() == 1
    assert table.index.tolist() == [0, 1, 2]


def test_actions_at_one_moment_keep_their_order_within_a_user():
    same = pd.to_datetime(["2020-01-01"] * 3, utc=True)
    table = schema.validate_interactions(interactions(timestamp=same, user_id=["a", "a", "a"]))
    assert table["item_id"].tolist() == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"rating": [5, 7, 1]}, r"log, row 2: rating 7 is outside 1…5"),
        ({"rating": [5, "good", 1]}, r"log, row 2: a rating that is no number"),
        ({"user_id": ["a", "a", None]}, r"log, row 3: no user_id"),
        ({"item_id": ["", "x", "y"]}, r"log, row 1: no item_id"),
        ({"timestamp": pd.to_datetime(["2020-01-01", None, "2020-01-01"], utc=True)}, r"log, row 2: no timestamp"),
        ({"timestamp": pd.to_datetime(["1970-01-18"] * 3, utc=True)}, r"log, row 1: a timestamp outside 1990…2100"),
        ({"timestamp": ["2020", "2021", "2022"]}, r"log: timestamp has type"),
    ],
)
def test_a_wrong_interaction_is_named_with_its_row(columns, message):
    with pytest.raises(DataError, match=message):
        schema.validate_interactions(interactions(**columns), "log")


def test_another_rating_range_is_taken():
    assert len(schema.validate_interactions(interactions(rating=[0, 10, 7]), "log", (0, 10))) == 3


def test_a_missing_column_and_an_empty_table_are_named():
    with pytest.raises(DataError, match="log: no column 'rating'; found user_id, item_id, timestamp"):
        schema.validate_interactions(interactions().drop(columns="rating"), "log")
    with pytest.raises(DataError, match="log: the table has no rows"):
        schema.validate_interactions(interactions()[:0], "log")


def test_items_come_out_as_text_with_empty_strings_for_gaps():
    table = schema.validate_items(pd.DataFrame({"brand": [None, "B"], "title": ["x", "y"], "item_id": [10, 20]}))
    assert table.columns.tolist() == ["item_id", "title", "brand"]
    assert table.to_dict("list") == {"item_id": ["10", "20"], "title": ["x", "y"], "brand": ["", "B"]}


def test_a_repeated_item_id_names_both_rows():
    with pytest.raises(DataError, match=r"items, row 3: item_id 'p' stood already at items, row 1 \(1 such"):
        schema.validate_items(pd.DataFrame({"item_id": ["p", "q", "p"], "title": ["x", "y", "z"]}))


def test_an_item_without_title_is_refused():
    with pytest.raises(DataError, match="items, row 2: no title"):
        schema.validate_items(pd.DataFrame({"item_id": ["p", "q"], "title": ["x", None]}))


def test_sound_samples_pass_with_their_types():
    table = schema.validate_samples(samples(), 3)
    assert table.columns.tolist() == schema.SAMPLE_COLUMNS
    assert table["target"].dtype == np.int32 and table["sample_id"].dtype == np.int64


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"target": [1, 3, 2]}, "samples, row 2: a target outside the catalogue"),
        ({"split": ["train", "valid", "dev"]}, "samples, row 3: an unknown split"),
        ({"sample_id": [0, 0, 1]}, "samples, row 2: a repeated sample_id"),
        ({"history": [np.array([0]), np.array([1, 9]), np.array([1])]}, "samples, row 2: a history item outside"),
        ({"history": [np.array([0]), np.array([1]), np.array([1])]}, "row 2: history_hours of another length"),
        ({"history": [np.array([], int), np.array([1, 2]), np.array([1])]}, "samples, row 1: an empty history"),
        ({"history_hours": [np.array([1.0]), np.array([2.0, -1.0]), np.array([1.0])]}, "row 2: hours before"),
        ({"history_hours": [np.array([1.0]), np.array([2.0, np.nan]), np.array([1.0])]}, "row 2: hours before"),
        ({"timestamp": pd.to_datetime(["2020-01-02", "2020-01-01", "2020-01-03"], utc=True)}, "row 2: a time before"),
    ],
)
def test_a_wrong_sample_is_named_with_its_row(columns, message):
    with pytest.raises(DataError, match=message):
        schema.validate_samples(samples(**columns), 3)
