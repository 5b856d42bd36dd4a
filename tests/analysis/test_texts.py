"""Each behaviour by a sentence that shows it, and texts that show none."""

import pandas as pd
import pytest

from r2ec_lib.analysis import texts

SHOWS = {
    "attribute abstraction": "the style is deco.",
    "pattern clustering": "These purchases have much in common.",
    "scenario or role": "this is for the cafe.",
    "temporal": "the latest is the mug.",
    "self-explanation": "This suggests that they cook.",
    "negative exclusion": "never mind the candle.",
    "multi-objective": "They want both comfort and value.",
}


def shown_by(text):
    return set(texts.behaviour_mentions(pd.DataFrame({"chain": [text]}))["behaviour"])


@pytest.mark.parametrize(("name", "text"), SHOWS.items())
def test_each_behaviour_is_found_in_a_sentence_that_shows_it(name, text):
    assert set(SHOWS) == set(texts.BEHAVIOURS)
    assert name in shown_by(text)


def test_a_style_and_a_price_in_one_text_are_two_aims():
    assert "multi-objective" in shown_by("the style is deco. they know Acme. prices are budget.")
    assert "multi-objective" not in shown_by("the style is deco.")


@pytest.mark.parametrize("text", ["", "mug kettle", "a notebook, a knotted rope and nextdoor"])
def test_words_inside_other_words_show_nothing(text):
    assert shown_by(text) == set()


def test_shares_count_reasonings_once_and_show_where():
    chains = pd.DataFrame({"chain": ["not this, not that", "a mug", "a rug, not now", ""]}, index=[4, 5, 6, 7])
    table = texts.behaviour_shares(chains, texts.behaviour_mentions(chains), list("abcd")).set_index("facet")
    row = table.loc["negative exclusion"]
    assert row["share"] == 2 / 4 and 0 <= row["low"] < row["share"] < row["high"] <= 1
    assert row["words"] == "not" and row["example"] == "not this, not that"
    assert table.loc["multi-objective", ["share", "example"]].tolist() == [0, ""]
