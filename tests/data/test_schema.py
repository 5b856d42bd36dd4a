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


@pytest.mark.parametrize(
    ("ids", "counted"),
    [("pqp", "1 such rows, of the ids 'p'"), ("pppqqrrss", "5 such rows, of the ids 'p', 'q', 'r', …")],
)
def test_a_repeated_item_id_names_both_rows_and_the_first_such_ids(ids, counted):
    message = rf"items, row .: item_id 'p' is already at items, row 1 \({counted}\)\. Keep one .* remove the others\."
    with pytest.raises(DataError, match=message):
        schema.validate_items(pd.DataFrame({"item_id": list(ids), "title": "x"}))


def test_an_item_without_title_is_refused():
    with pytest.raises(DataError, match="items, row 2: no title"):
        schema.validate_items(pd.DataFrame({"item_id": ["p", "q"], "title": ["x", None]}))


@pytest.mark.parametrize("title", ["", " ", "\u200b", "\ufeff \u00ad"])
def test_a_title_that_shows_nothing_is_none(title):
    with pytest.raises(DataError, match="items, row 1: no title"):
        schema.validate_items(pd.DataFrame({"item_id": ["p"], "title": [title]}))


def test_repeated_column_names_are_refused():
    table = pd.DataFrame([["p", "x", "y", "z"]], columns=["item_id", "title", "brand", "brand"])
    with pytest.raises(DataError, match="items: columns 3 and 4 are both called 'brand'"):
        schema.validate_items(table)


@pytest.mark.parametrize("ids", [[5.0, 23.0], [5, 23], pd.Series([5, 23], dtype=object), ["5", "23"]])
def test_whole_numbers_as_ids_have_no_decimal_point(ids):
    assert schema.to_ids(pd.Series(ids, name="item_id"), "log").tolist() == ["5", "23"]


@pytest.mark.parametrize(("dtype", "bits"), [("float64", 53), ("Float64", 53), ("float32", 24), ("Float32", 24)])
def test_the_largest_float_that_is_exact_is_an_id(dtype, bits):
    ids = pd.Series([2**bits - 1], dtype=dtype, name="item_id")
    assert schema.to_ids(ids, "log").tolist() == [str(2**bits - 1)]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([5.0, None], "log, row 2: no item_id"),
        (["a", " "], "log, row 2: no item_id"),
        (["a", {"$oid": 1}], "log, row 2: a list or a mapping as item_id"),
        ([5.0, 1e20], r"log, row 2: item_id is a float of 2\*\*53 or more.*expected: ids written as integers or text"),
        ([1.5, None, -(2.0**53)], r"log, row 3: item_id is a float of 2\*\*53 or more"),
        (pd.array([None, 1e20], "Float64"), r"log, row 2: item_id is a float of 2\*\*53 or more"),
        (np.array([5, 2**24], "float32"), r"log, row 2: item_id is a float of 2\*\*24 or more"),
        (np.array([5, 2**11], "float16"), r"log, row 2: item_id is a float of 2\*\*11 or more"),
        (pd.array([None, -(2**24)], "Float32"), r"log, row 2: item_id is a float of 2\*\*24 or more"),
        (pd.array([None, 2.0**24], "float[pyarrow]"), r"log, row 2: item_id is a float of 2\*\*24 or more"),
    ],
)
def test_an_id_that_is_none_is_named(ids, message):
    with pytest.raises(DataError, match=message):
        schema.to_ids(pd.Series(ids, name="item_id"), "log")


def test_ids_with_decimals_stay():
    assert schema.to_ids(pd.Series([1.5, 2.0], name="item_id"), "log").tolist() == ["1.5", "2.0"]


def test_numbers_may_have_a_decimal_comma_but_no_thousands():
    numbers = schema.to_numbers(pd.Series(["2,5", "-1,25", "3", "1,234.5", "1,2,3", None, "x", [4]], dtype=object))
    assert numbers.fillna(-9).tolist() == [2.5, -1.25, 3.0, -9, -9, -9, -9, -9]


@pytest.mark.parametrize("scale", [(5, 1), (1, 1), (float("nan"), 5), (0, float("inf"))])
def test_a_rating_scale_needs_two_numbers_in_order(scale):
    with pytest.raises(DataError, match=f"rating_min is {scale[0]:g}, rating_max {scale[1]:g}"):
        schema.validate_interactions(interactions(), "log", scale)
    assert schema.check_rating_range(0, 10) == (0.0, 10.0)


@pytest.mark.parametrize(
    "name",
    ["price", "salePrice", "in stock", " Average Rating ", "averageRating", "Best-Sellers Rank", "rating_number"],
)
def test_summaries_of_the_future_are_known_by_any_spelling(name):
    assert schema.sums_up_future(name) and not schema.sums_up_future("colour " + name)


@pytest.mark.parametrize(
    "name",
    [
        *("rating", "avg_rating", "userRating", "IMDBRating", "stars", "5 stars", "rating_1", "vote_average"),
        *("ratings_count", "text_reviews_count", "vote_count", "num_reviews", "number_of_reviews", "reviews"),
        *("popularity", "sales", "total-sales", "unitsSold", "boughtInLastMonth", "isBestSeller", "view_count"),
        *("also_bought", "also viewed", "frequently_bought_together", "bought_together", "sales_rank"),
        *("num_ratings", "rating_count", "review_count", "customer_reviews", "helpful_vote", "helpful_votes"),
        *("rank", "salesrank", "Best Seller Rank", "Amazon Best Sellers Rank", "bestSellers", "related"),
    ],
)
def test_sums_of_what_shoppers_think_and_do_are_known_by_the_words_of_their_name(name):
    assert schema.sums_up_future(name)


@pytest.mark.parametrize(
    "name",
    [
        *("list_price", "age_rating", "energyRating", "content rating", "IP rating", "sales_package"),
        *("number_of_pages", "item_count", "user_manual", "star sign", "editorial_reviews", "title", "ranked", "5", 5),
        *("main_category", "store", "categories", "features", "description", "details", "parent_asin", "subtitle"),
    ],
)
def test_attributes_of_an_item_are_no_summaries(name):
    assert not schema.sums_up_future(name)


def test_drops_may_carry_an_example():
    table = schema.drops_table([("items", "read", 0, 3), ("items", "odd", 1, 2, "row 7")])
    assert table["example"].tolist() == ["", "row 7"] and table["dropped"].tolist() == [0, 1]
    assert schema.drops_table([]).columns.tolist() == schema.DROP_COLUMNS


def test_interactions_stand_by_time_then_shopper_then_as_they_were():
    days = pd.to_datetime(["2020-01-02", "2020-01-01", "2020-01-02", "2020-01-02", "2020-01-03"], utc=True)
    log = pd.DataFrame({"user_id": list("bcaba"), "item_id": list("12345"), "timestamp": days, "rating": np.nan})
    sound = schema.validate_interactions(log)
    assert "".join(sound["user_id"] + sound["item_id"]) == "c2a3b1b4a5" and sound.index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("index", [["x", "y"], [0, 0], pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])])
def test_rows_of_a_table_are_counted_whatever_its_index(index):
    log = interactions(rating=[1, 9, 1]).iloc[:2].set_axis(index)
    with pytest.raises(DataError, match="log, row 2: rating 9 is outside"):
        schema.validate_interactions(log, "log")


@pytest.mark.parametrize(("value", "least"), [("10", 1), (2.0, 1), (None, 1), (0, 1), (-1, 0), ([3], 1)])
def test_a_number_that_is_not_whole_or_too_small_is_named(value, least):
    with pytest.raises(DataError, match=rf"k is .*; expected a whole number, {least} or more"):
        schema.whole_number(value, "k", least)
    assert schema.whole_number(np.int64(3), "k", least) == 3
