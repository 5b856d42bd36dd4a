"""Attributes read off cards and texts, and fabricated histories, in a catalogue whose facts fit on a page."""

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.analysis import agreement, causal
from r2ec_lib.analysis.attributes import (
    attribute_mentions,
    card_attributes,
    fact_attributes,
    feature_figures,
    support,
)

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


def test_short_columns_are_attributes_whole_and_longer_ones_by_their_words():
    table = card_attributes(ITEMS, fewest=2, most=0.5)
    assert set(table["attribute"]) == {"brand", "word"}
    assert set(table.loc[table["attribute"] == "brand", "value"]) == {"acme", "globex home"}
    assert set(table.loc[table["attribute"] == "word", "value"]) == {"mug", "tent", "rug", "deco", "rustic"}
    assert set(table.loc[table["value"] == "acme", "item"]) == {0, 1, 5}


def test_the_length_of_a_column_is_the_median_of_its_filled_values():
    items = pd.DataFrame({"item_id": list("abcd"), "title": list("wxyz")})
    items["made"] = ["in one go", "by hand", "", ""]  # three words and two: 2.5 in the median
    for most, short in ((2, False), (3, True)):
        assert ("made" in set(card_attributes(items, max_words=most)["attribute"])) == short
    items["made"] = ["in one go"] * 3 + ["by"]
    assert set(card_attributes(items)["attribute"]) == {"made"}  # three words are the usual limit
    assert card_attributes(items.assign(made=["in one quick go", "by one old hand"] * 2)).empty


def test_words_are_values_from_three_letters_three_cards_and_up_to_a_tenth_of_them():
    items = pd.DataFrame({"item_id": range(30), "title": [f"thing{n} " + "x" * n for n in range(30)]})
    for word, cards in (("rustic", 3), ("navy", 2), ("plain", 4), ("oak", 3), ("by", 3), ("b52", 3)):
        items.loc[: cards - 1, "title"] += f" {word}"
    assert set(card_attributes(items)["value"]) == {"rustic", "oak"}


def test_words_of_scripts_with_vowel_signs_are_values_too():
    items = pd.DataFrame({"item_id": list("abcdef"), "title": ["नीली किताब"] * 3 + ["लाल कलम"] * 3})
    assert set(card_attributes(items, most=0.5)["value"]) == {"नीली", "किताब", "लाल", "कलम"}


def test_words_that_make_a_sentence_are_no_values_though_cards_hold_them():
    """As those of "Next may come an oak desk.", which would otherwise count as three claims that nothing supports."""
    items = pd.DataFrame({"item_id": range(40), "title": [f"thing{n}" for n in range(40)]})
    items.loc[:3, "title"] += " that may come next with oak"
    items["value"] = "high"  # a column of this name is one like any other
    items.loc[0, "value"] = "low"
    table = card_attributes(items)
    assert set(table.loc[table["attribute"] == "word", "value"]) == {"oak"}
    assert set(table.loc[table["attribute"] == "value", "value"]) == {"high", "low"}


def test_a_whole_value_of_digits_alone_is_no_attribute():
    items = pd.DataFrame({"item_id": list("ab"), "title": list("xy"), "store": ["33", "Acme 33"]})
    assert card_attributes(items)["value"].tolist() == ["acme 33"]


def test_values_of_one_word_count_for_the_length_of_a_column():
    items = pd.DataFrame(
        {"item_id": list("abc"), "title": list("xyz"), "made": ["hand", "loom", "in one very long go"]}
    )
    assert set(card_attributes(items)["attribute"]) == {"made"}


def test_of_facts_with_several_values_each_is_one_and_none_is_no_value():
    table = fact_attributes(pd.DataFrame({"kits": ["cafe; den", "", "den"]}), ["kits"])
    assert table.to_numpy().tolist() == [[0, "kits", "cafe"], [0, "kits", "den"], [2, "kits", "den"]]


def test_facts_are_attributes_in_lower_case_whatever_their_index():
    table = fact_attributes(
        pd.DataFrame({"style": ["Deco", "RUSTIC"], "size": [1, 2]}, index=[5, 3]), ["style", "size"]
    )
    assert table.to_numpy().tolist() == [
        [0, "style", "deco"],
        [1, "style", "rustic"],
        [0, "size", "1"],
        [1, "size", "2"],
    ]


def test_a_value_of_two_attributes_is_stated_for_both():
    attributes = pd.DataFrame({"item": [0, 1], "attribute": ["brand", "style"], "value": "deco"})
    assert attribute_mentions(pd.DataFrame({"chain": ["deco"]}), attributes)["attribute"].tolist() == [
        "brand",
        "style",
    ]


def test_one_reasoning_has_no_pair_to_share_features_with(attributes):
    chains, none = chains_of(("deco", [0])), attributes.iloc[:0]
    figures = feature_figures(chains, attribute_mentions(chains, none), none, [0])
    assert np.isnan(figures["DIV"]) and np.isnan(figures["FCR"]) and figures["FMR"] == 0


def test_what_all_items_share_is_no_attribute():
    table = card_attributes(ITEMS.assign(brand="House"), fewest=2, most=0.5)
    assert set(table["attribute"]) == {"word"} and "house" not in set(table["value"])


def test_a_catalogue_of_titles_alone_has_words():
    table = card_attributes(ITEMS[["item_id", "title"]], fewest=2, most=0.5)
    assert set(table["value"]) == {"mug", "tent", "rug"}


def test_values_are_found_as_whole_words_and_the_longest_wins():
    attributes = pd.DataFrame({"item": [0, 1, 2], "attribute": "brand", "value": ["globex", "globex home", "art"]})
    chains = pd.DataFrame({"chain": ["A party with Globex Home, by globex"]}, index=[7])
    table = attribute_mentions(chains, attributes)
    assert table["value"].tolist() == ["globex home", "globex"] and set(table["row"]) == {7}
    text = chains["chain"][7]
    assert [text[a:b] for a, b in zip(table["start"], table["end"], strict=True)] == ["Globex Home", "globex"]


def test_a_value_of_one_word_is_found_where_others_have_two():
    attributes = pd.DataFrame({"item": [0, 1], "attribute": "brand", "value": ["globex home", "art"]})
    table = attribute_mentions(pd.DataFrame({"chain": ["some art by them"]}), attributes)
    assert table["value"].tolist() == ["art"]


def test_a_fabricated_history_has_less_support_than_a_true_one(attributes):
    samples = pd.DataFrame({"history": [[0, 1], [5, 5], [3, 4]]})
    true = chains_of(("deco mug tent", [0]), ("rustic rug", [5]), ("rustic tent mug", [3]))
    false = true.assign(chain=["rustic", "deco mug", "deco rug"])
    partners = [1, 2, 0]
    good, bad = (
        support(attribute_mentions(chains, attributes), attributes, samples, partners) for chains in (true, false)
    )
    assert good["supported"].tolist() == [1, 1, 1]
    assert bad["supported"].tolist() == [0, 0, 0]
    assert (bad["specific"] < good["specific"]).all() and bad["specific"].tolist() == [0, 0, 0]
    # two of three histories are rustic; one alone has a rug
    assert good["specific"][1] == pytest.approx((1 / 3 + 2 / 3) / 2)


def test_a_wrong_text_does_not_come_true_because_the_list_follows_it(attributes):
    samples = pd.DataFrame({"history": [[0], [0]]})
    chains = chains_of(("rustic rug", [5]), ("deco mug", [5]))  # item 5 is what the first text says, item 0 is not
    named = attribute_mentions(chains, attributes)
    assert agreement.consistency(chains, named, attributes, EVEN)["holds"].tolist() == [1, 0]
    assert support(named, attributes, samples, [1, 0])["supported"].tolist() == [0, 1]


def test_support_by_chance_asks_another_shoppers_history(attributes):
    samples = pd.DataFrame({"history": [[0], [5]]})
    named = attribute_mentions(chains_of(("deco mug", [5]), ("rustic rug", [0])), attributes)
    table = support(named, attributes, samples, [1, 0])
    assert table["supported"].tolist() == [1, 1] and table["supported_by_chance"].tolist() == [0, 0]


def test_feature_figures_follow_their_definitions(attributes):
    chains = chains_of(("deco mug", [0]), ("deco rug", [0]), ("deco mug", [0]), ("nothing", [0]))
    named = attribute_mentions(chains, attributes)
    figures = feature_figures(chains, named, attributes, targets=[3, 3, 1, 0])
    assert figures["FMR"] == 2 / 4  # the mug of item 3, the deco of item 1
    assert figures["FCR"] == 3 / 5  # deco, mug and rug of five values
    assert figures["DIV"] == pytest.approx((1 + 2 + 1) / 6)  # features shared by the six pairs


def test_texts_that_name_nothing_break_no_figure(attributes):
    chains, samples = chains_of(("", [0]), ("zzz", [1])), pd.DataFrame({"history": [[0], [1]]})
    named = attribute_mentions(chains, attributes)
    partners = causal.swap_partners(samples.assign(user_id=["a", "b"]))
    assert support(named, attributes, samples, partners).isna().all(axis=None)
    assert agreement.consistency(chains, named, attributes, EVEN)["stated"].tolist() == [0, 0]
    assert feature_figures(chains, named, attributes, [0, 1])["FMR"] == 0
