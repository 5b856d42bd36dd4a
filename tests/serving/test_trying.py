"""What a person tries: other words, other items, lists side by side."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from r2ec_lib.data.schema import DataError
from r2ec_lib.evaluation.answers import chains_of
from r2ec_lib.model.r2ec import Recommendation
from r2ec_lib.serving import trying

HISTORY = ["i3", "i4", "i9"]


def test_a_reasoning_by_hand_is_read_in_place_of_the_models_own(tiny):
    rows = tiny.purchases([HISTORY])
    found = trying.with_reasoning(tiny, rows, "the red mug", 30)
    scores = tiny.scores(tiny.user_states(rows, chains_of(tiny, ["the red mug"])), [[3, 4, 9]])[0]
    order = [f"i{item}" for item in scores.argsort(descending=True).tolist() if item not in (3, 4, 9)]
    assert found.item_ids == order and found.reasoning == "the red mug"
    assert found.scores != trying.with_reasoning(tiny, rows, "the blue mug", 30).scores


def test_one_word_is_exchanged_the_named_one_or_the_last_that_differs():
    told = "Next comes the bowl. Prices are high. The style is retro."
    other = "This is a kit. Next comes the lamp. Prices are low. The style is retro."
    assert trying.one_word_changed(told, other) == "Next comes the bowl. Prices are low. The style is retro."
    assert trying.one_word_changed(told, other, "bowl", "vase").startswith("Next comes the vase. Prices are high.")


def test_a_reasoning_like_all_others_loses_its_first_word():
    assert trying.one_word_changed("a red lamp", "a red lamp") == "red lamp"
    assert trying.one_word_changed("", "a lamp") == ""


def test_a_word_that_the_reasoning_lacks_is_refused_with_the_reasoning():
    for missing in ("chair", "lam"):  # a part of a word is none
        with pytest.raises(DataError, match="a lamp"):
            trying.one_word_changed("a lamp", "my rug", missing, "x")


def test_a_named_word_is_exchanged_where_it_stands_by_itself():
    assert trying.one_word_changed("This is thin. It is new.", "", "is", "was") == "This was thin. It is new."


@pytest.mark.parametrize("back", [0, -1, 4])
def test_taking_away_a_purchase_that_is_not_there_takes_none_away(back):
    purchases = {"history": HISTORY, "hours": [3.0, 2.0, 1.0], "ratings": [5.0, None, 4.0]}
    assert trying.one_less(purchases, back) == {}
    assert trying.one_less({"history": ["i3"]}, 1) == {}  # nothing would be left to reason about
    assert trying.one_less(purchases, 1) == {"history": ["i3", "i4"], "hours": [3.0, 2.0], "ratings": [5.0, None]}
    assert trying.one_less(purchases, 3)["history"] == ["i4", "i9"]


@pytest.mark.parametrize(
    ("item_columns", "column"),
    [((), "description"), (("title", "description", "brand"), "description"), (("title", "brand"), "brand")],
)
def test_the_text_of_a_new_item_stands_where_the_model_reads_it(tiny, item_columns, column):
    tiny.catalogue = tiny.catalogue.assign(description="a thing", origin="here")
    tiny.prompts.style = replace(tiny.prompts.style, item_columns=item_columns)
    [new] = trying.new_item(tiny, "i3", "steel chair", "folds flat").to_dict("records")
    old = {"brand": "Globex", "description": "a thing", "origin": "here"}
    assert new == {"item_id": "new", "title": "steel chair", **old, column: "folds flat"}
    assert f"{column}: folds flat" in tiny.prompts.item_text(new)


def test_a_new_item_takes_no_id_that_another_item_has(tiny):
    for expected in ("new", "new-2", "new-3"):
        item = trying.new_item(tiny, "i3")
        assert item["item_id"].tolist() == [expected]
        tiny.add_items(item)


def test_a_text_that_the_model_would_not_read_is_refused(tiny):
    tiny.prompts.style = replace(tiny.prompts.style, item_columns=("title",))
    assert trying.new_item(tiny, "i3")["title"].tolist() == ["red chair, brand-new"]
    with pytest.raises(DataError, match="titles alone"):
        trying.new_item(tiny, "i3", text="folds flat")


def test_the_audience_of_an_item_are_those_for_whom_it_stands_highest(tiny, samples):
    found = trying.audience(tiny, samples, "i7", 4)
    assert found.index.tolist() == list(range(len(found)))
    assert found["rank"].is_monotonic_increasing and sorted(found["user_id"]) == sorted(samples["user_id"])
    first = found.iloc[0]
    of_user = samples[samples["user_id"] == first["user_id"]]
    lists = [
        tiny.recommend([f"i{item}" for item in row.history], 30, row.history_hours, row.history_ratings, 4)
        for row in of_user.itertuples()
    ]
    places = [one.item_ids.index("i7") + 1 for one in lists if "i7" in one.item_ids]
    assert first["rank"] in places
    texts = map(tiny.decode, tiny.sample(tiny.prompts.user_ids(samples, tiny.titles), 4).chains)
    assert sorted(zip(found["user_id"], found["reasoning"], strict=True)) == sorted(
        zip(samples["user_id"], texts, strict=True)
    )
    assert found["reasoning"].nunique() > 1


def test_lists_stand_side_by_side_with_what_is_new_in_bold():
    lists = {
        "old": Recommendation(["1", "2"], ["mug", "<b>lamp"], [2.0, 1.0], ""),
        "new": Recommendation(["3"], ["rug"], [1.0], ""),
    }
    shown = trying.beside(lists)
    assert shown.data.to_dict("list") == {"old": ["mug", "<b>lamp"], "new": ["rug", "–"]}
    assert shown.data.index.tolist() == [1, 2]
    html = shown.to_html()
    assert "&lt;b&gt;lamp" in html and html.count("font-weight: bold") == 1


def test_a_history_is_shown_without_a_column_that_says_nothing(tiny):
    table = trying.history_table(tiny, HISTORY, [48.0, 36.0, 12.0], [float("nan")] * 3)
    expected = {"title": ["red chair", "red desk", "blue chair"], "when": ["2d ago", "1d ago", "0d ago"]}
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected))
    tiny.prompts.style = replace(tiny.prompts.style, instruct=True)  # whose prompts are finer
    assert trying.history_table(tiny, HISTORY[:1], [36.0], [5.0])["when"].tolist() == ["1d 12.0h ago"]
    assert trying.history_table(tiny, HISTORY, [1, 1, 1], [5.0, None, 3.0])["rating"].tolist()[0] == 5.0


def test_the_very_last_word_is_exchanged_too():
    assert trying.one_word_changed("a red lamp", "a red rug") == "a red rug"
    assert trying.one_word_changed("a red lamp, a red rug", "", "red", "blue") == "a blue lamp, a red rug"


def test_bold_is_what_the_first_list_does_not_hold():
    lists = {
        name: Recommendation(titles, titles, [2.0, 1.0], "") for name, titles in (("a", ["x", "y"]), ("b", ["y", "z"]))
    }
    style = trying.beside(lists).to_html().partition("</style>")[0]
    assert re.findall(r"row\d_col\d", style) == ["row1_col1"]
