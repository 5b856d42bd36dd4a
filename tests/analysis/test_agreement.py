"""Planted contradictions and leaks, in a catalogue whose facts fit on a page."""

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.analysis import agreement, mentions
from r2ec_lib.analysis.attributes import KEY, attribute_mentions, card_attributes, fact_attributes
from r2ec_lib.bazaar import language

FACTS = pd.DataFrame(
    {
        "piece": ["mug", "tent", "rug", "mug", "tent", "rug"],
        "style": ["deco", "deco", "deco", "rustic", "rustic", "rustic"],
    }
)
ITEMS = pd.DataFrame(
    {
        "item_id": [f"i{n}" for n in range(6)],
        "title": ["Alpha mug", "Beta tent", "Gamma rug", "Delta mug", "Epsil tent", "Zeta rug"],
        "brand": ["Acme", "Acme", "Globex Home", "Globex Home", "", "Acme"],
        "description": [f"A {style} thing for the house." for style in FACTS["style"]],
    }
)
EVEN = np.ones(6)


@pytest.fixture
def attributes():
    return fact_attributes(FACTS, ["piece", "style"])


def chains_of(*rows):
    return pd.DataFrame({"chain": [text for text, _ in rows], "top_items": [top for _, top in rows]})


def stated_by(chains):
    rows = [(row, *claim) for row, chain in chains["chain"].items() for claim in language.claims(chain)]
    return pd.DataFrame(rows, columns=["row", *KEY]).replace({"attribute": {"next": "piece"}})


def test_a_reason_that_fits_the_recommendation_holds_and_one_that_does_not_is_a_contradiction(attributes):
    said = "the style is deco. next comes the mug."
    chains = chains_of((said, [0, 1]), (said, [4, 5]), ("", [0, 1]))
    table = agreement.consistency(chains, stated_by(chains), attributes, EVEN)
    assert table["stated"].tolist() == [2, 2, 0] and table["contradicted"].tolist()[:2] == [0, 2]
    assert table["holds"].tolist()[:2] == [1, 0] and np.isnan(table["holds"][2])
    # half of all items are deco, a third are mugs
    assert table["holds_by_chance"].tolist()[:2] == pytest.approx([(1 / 2 + 1 / 3) / 2] * 2)


def test_what_a_text_says_of_the_history_is_not_held_against_the_recommendation():
    items = pd.DataFrame({"item_id": list("abc"), "title": list("xyz"), "store": ["Acme", "Bolt", "Dr. Oak"]})
    values = card_attributes(items)
    chains = chains_of(
        ("The last purchase was Acme mug. An earlier purchase was Dr. Oak.", [1]),
        ("The last purchase was Bolt mug. Next may come Acme.", [1]),
        ("Acme would fit.", [1]),
    )
    named = attribute_mentions(chains, values)
    stated = agreement.beyond_history(named, chains)
    assert stated[["row", "value"]].to_numpy().tolist() == [[1, "acme"], [2, "acme"]]
    table = agreement.consistency(chains, stated, values, np.ones(3))
    assert np.isnan(table["contradicted"][0]) and table["contradicted"].tolist()[1:] == [1, 1]
    only = agreement.consistency(
        chains[:1], agreement.beyond_history(named[named["row"] == 0], chains), values, np.ones(3)
    )
    assert only[["holds", "holds_by_chance", "contradicted"]].isna().all(axis=None)  # and nothing breaks


def test_chance_is_taken_among_items_as_popular_as_the_recommended_one(attributes):
    popularity = [9, 9, 9, 1, 1, 1]  # every popular item is deco
    chains = chains_of(("the style is deco.", [0]), ("the style is deco.", [3]))
    table = agreement.consistency(chains, stated_by(chains), attributes, popularity)
    assert table["holds_by_chance"].tolist() == [1, 0]


def test_the_worst_contradiction_stands_first(attributes):
    chains = chains_of(
        ("the style is rustic.", [0, 3]),  # one attribute, and half of the list agrees
        ("the style is rustic. next comes the tent.", [0, 2]),  # two attributes, nothing agrees
        ("the style is rustic.", [0, 1]),  # one attribute, nothing agrees
        ("the style is deco.", [0, 1]),  # fits
    )
    table = agreement.contradictions(chains, stated_by(chains), attributes)
    assert table["row"].tolist() == [1, 1, 2, 0]
    assert table["list_share"].tolist() == [1, 1, 1, 0.5]
    assert set(table.loc[table["row"] == 2, ["stated", "actual"]].iloc[0]) == {"rustic", "deco"}
    told = agreement.by_reason(table)
    assert told["row"].tolist() == [1, 2, 0] and told["list_share"].tolist() == [1, 1, 0.5]
    assert set(told["stated"][0].split(", ")) == {"style rustic", "piece tent"}
    assert set(told["actual"][0].split(", ")) == {"style deco", "piece mug"}
    assert agreement.by_reason(table.iloc[:0]).empty


def test_a_text_that_says_both_is_not_contradicted_and_half_right(attributes):
    chains = chains_of(("the style is rustic. the style is deco.", [0]))
    assert agreement.contradictions(chains, stated_by(chains), attributes).empty
    assert agreement.consistency(chains, stated_by(chains), attributes, EVEN)["holds"].tolist() == [0.5]


def test_a_value_that_no_item_has_holds_for_none(attributes):
    chains = chains_of(("the style is gothic.", [0]))
    table = agreement.consistency(chains, stated_by(chains), attributes, EVEN)
    assert (table["holds"][0], table["holds_by_chance"][0], table["contradicted"][0]) == (0, 0, 1)


def test_a_leaked_target_is_named_more_often_than_items_as_popular():
    samples = pd.DataFrame({"sample_id": [0, 1], "user_id": ["a", "b"], "history": [[0], [1]], "target": [4, 5]})
    leak = pd.DataFrame({"sample_id": [0, 1], "chain": ["they will buy Epsil tent", "they will buy Zeta rug"]})
    fair = leak.assign(chain=["people buy Gamma rug", "people buy Gamma rug"])
    for chains, own, others in ((leak, 1, 0), (fair, 0, 1 / 4)):
        found = mentions.mentions(chains, samples, ITEMS)
        table = agreement.target_mentions(chains, found, samples, EVEN)
        assert table["names_target"].tolist() == [own] * 2 and table["names_popular"].tolist() == [others] * 2


def test_a_title_that_target_and_rival_share_is_found_no_more_often_for_the_target():
    items = pd.DataFrame({"title": ["Alpha mug", "Beta tent", "Beta tent", "Gamma rug", "Delta pen"]})
    samples = pd.DataFrame({"sample_id": [0, 1], "user_id": ["a", "b"], "history": [[0], [0]], "target": [1, 3]})
    chains = pd.DataFrame({"sample_id": [0, 1], "chain": ["next comes the Beta tent"] * 2})
    table = agreement.target_mentions(chains, mentions.mentions(chains, samples, items), samples, np.ones(5))
    assert table["names_target"].tolist() == [0, 0] and table["names_popular"].tolist() == [0, 0]


def test_popularity_bins_hold_equal_shares_and_equal_popularities_share_one():
    assert agreement.popularity_bins(range(1, 9)).tolist() == [1, 2, 3, 5, 6, 7, 8, 9]
    assert agreement.popularity_bins([0, 0, 0, 5]).tolist() == [5, 5, 5, 9]  # three quarters share rank 2 of 4
    assert len(set(agreement.popularity_bins(range(100)))) == 10


def test_values_of_one_attribute_are_listed_in_order_and_an_item_without_a_value_contradicts_nothing():
    attributes = pd.DataFrame({"item": [0, 1], "attribute": "style", "value": ["deco", "rustic"]})
    stated = pd.DataFrame({"row": [3, 3, 8], "attribute": "style", "value": ["gothic", "coastal", "deco"]})
    chains = pd.DataFrame({"top_items": [[0, 2, 1], [2, 1]]}, index=[3, 8])
    (row,) = agreement.contradictions(chains, stated, attributes).to_dict("records")
    assert (row["row"], row["stated"], row["actual"], row["item"]) == (3, "coastal, gothic", "deco", 0)
    assert row["list_share"] == pytest.approx(2 / 3)  # item 2 has no style


def test_an_attribute_of_which_an_item_has_two_values_cannot_be_contradicted():
    attributes = pd.DataFrame({"item": [0, 1, 1], "attribute": "use", "value": ["bath", "bath", "kitchen"]})
    stated = pd.DataFrame({"row": [0], "attribute": "use", "value": ["garden"]})
    chains = pd.DataFrame({"top_items": [[0], [0]]})
    assert agreement.contradictions(chains, stated, attributes).empty
    # nor is a chain that states it, or nothing, one that agrees
    assert agreement.consistency(chains, stated, attributes, [1, 1])["contradicted"].isna().all()


def mentioned(*rows):
    return pd.DataFrame(rows, columns=["row", "item", "how"])


def test_words_of_a_card_contradict_nothing_even_where_each_item_has_one():
    words = pd.DataFrame({"item": [0, 1], "attribute": "word", "value": ["mug", "tent"]})
    chains = chains_of(("a mug for the tent.", [0]), ("a tent.", [0]))
    stated = attribute_mentions(chains, words)
    assert len(stated) == 3 and agreement.contradictions(chains, stated, words).empty


def test_only_titles_of_single_items_outside_the_history_count_as_leaks_or_rivals():
    chains, samples = pd.DataFrame({"chain": ["", ""]}), pd.DataFrame({"history": [[0], [0, 1]], "target": [2, 2]})
    named = mentioned((0, 2, "word"), (0, -1, "title"), (0, 0, "title"), (0, 1, "title"), (1, 2, "title"))
    table = agreement.target_mentions(chains, named, samples, [1, 1, 1, 1, 1])
    assert table["names_target"].tolist() == [0, 1]
    assert table["names_popular"].tolist() == [1 / 3, 0]  # of items 1, 3 and 4; then of items 3 and 4


def test_the_first_item_of_the_catalogue_can_leak_as_well():
    chains, samples = pd.DataFrame({"chain": [""]}), pd.DataFrame({"history": [[1]], "target": [0]})
    table = agreement.target_mentions(chains, mentioned((0, 0, "title")), samples, [1, 1, 1])
    assert table["names_target"].tolist() == [1]


def test_chains_of_equal_weight_stay_in_the_order_of_their_statements(attributes):
    stated = pd.DataFrame({"row": [9, 2], "attribute": "style", "value": "rustic"})
    chains = pd.DataFrame({"top_items": [[0], [1]]}, index=[2, 9])
    assert agreement.contradictions(chains, stated, attributes)["row"].tolist() == [9, 2]


def test_a_target_without_an_item_as_popular_has_no_chance_to_compare_with():
    chains, samples = pd.DataFrame({"chain": [""]}), pd.DataFrame({"history": [[0]], "target": [1]})
    table = agreement.target_mentions(chains, mentioned(), samples, [1, 9])
    assert table["names_popular"].isna().all()
