"""What the text figures count, by small catalogues and chains whose answers can be read off."""

import math

import numpy as np
import pandas as pd
import pytest
from families import text_tokenizer

from r2ec_lib.analysis import mentions
from r2ec_lib.model.prompts import Prompts, PromptStyle

TITLES = [
    "Halden Fern mug, sage",
    "Norvik Slate tent, navy",
    "The Blue Whale Atlas",
    "The Blue Whale Songbook",
    "1989",
    "Norvik Slate tent, navy",  # the same title twice
    "<script>alert(1)</script> lamp",
]

FILLERS = ["Acme desk lamp", "Blue wall clock", "Norvik Slate tent", "Oak shelf"]
MARKERS = ["Sharpie Permanent Markers, Fine Point, Purple, 12-Pack (30008)", "Sharpie Permanent Markers, Fine Point"]


@pytest.fixture
def items():
    return pd.DataFrame({"item_id": [f"i{n}" for n in range(len(TITLES))], "title": TITLES})


def samples_of(*histories, target=2):
    return pd.DataFrame(
        {
            "sample_id": range(len(histories)),
            "user_id": [f"u{n}" for n in range(len(histories))],
            "history": [list(history) for history in histories],
            "target": target,
        }
    )


def chains_of(*texts, closed=True):
    return pd.DataFrame(
        {"sample_id": range(len(texts)), "chain": texts, "tokens": [len(t.split()) for t in texts], "closed": closed}
    )


def found(items, text, history, **keys):
    table = mentions.mentions(chains_of(text), samples_of(history), items, **keys)
    return {(row.item, row.in_history, row.how) for row in table.itertuples()}


def test_a_full_title_is_a_mention_whatever_its_case_and_punctuation(items):
    assert found(items, "you own halden FERN (mug) sage already", [0]) == {(0, True, "title")}


def test_a_title_outside_the_history_is_a_mention_of_the_catalogue(items):
    assert found(items, "try Halden Fern mug, sage", [4]) == {(0, False, "title")}


def test_words_of_a_title_in_another_order_are_no_title(items):
    assert found(items, "sage mug Fern Halden", [4]) == set()


def test_words_too_far_apart_are_no_title(items):
    assert found(items, "Halden and so on and on Fern and so on and on mug, sage", [4]) == set()


@pytest.mark.parametrize(("between", "mentioned"), [(mentions.MAX_GAP, True), (mentions.MAX_GAP + 1, False)])
def test_neighbours_have_at_most_so_many_other_words_between_them(items, between, mentioned):
    text = f"Halden Fern {' '.join(['so'] * between)} mug, sage"
    assert found(items, text, [4], share=0.9) == ({(0, False, "title")} if mentioned else set())


def test_part_of_a_title_counts_from_the_stated_share_of_its_weight_on(items):
    # four words, each held by one of six different titles: three of them carry 3/4
    assert found(items, "the Halden Fern mug", [4], share=0.75) == {(0, False, "title")}
    assert found(items, "the Halden Fern mug", [4], share=0.76) == set()


def test_the_beginning_of_an_owned_title_names_that_one_even_if_it_is_another_title_in_full():
    items = pd.DataFrame({"title": [*MARKERS, *FILLERS]})
    text = "The last purchase was Sharpie Permanent Markers, Fine Point."
    assert found(items, text, [0]) == {(0, True, "title")}
    chains, samples = chains_of(text), samples_of([0])
    figures = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples)
    assert figures["history_precision"].tolist() == [1]


def test_a_longer_stretch_of_another_title_is_that_other_one():
    items = pd.DataFrame({"title": ["Sharpie Permanent Markers, Ultra Fine, Red, 12-Pack", MARKERS[1], *FILLERS]})
    assert found(items, "They own Sharpie Permanent Markers, Fine Point.", [0]) == {(1, False, "title")}


def test_less_than_half_of_what_an_analysis_names_is_no_beginning():
    items = pd.DataFrame({"title": [MARKERS[0], *FILLERS]})
    titles = {
        text: {how for *_, how in found(items, text, [0])}
        for text in ("Sharpie Permanent", "Sharpie Permanent Markers")
    }
    assert titles == {"Sharpie Permanent": {"word"}, "Sharpie Permanent Markers": {"title"}}


def test_overlapping_titles_give_one_mention_of_the_heaviest(items):
    assert found(items, "as in the blue whale songbook", [2], share=0.4) == {(3, False, "title")}


def test_a_stretch_that_fits_two_titles_equally_goes_to_the_history_or_to_no_single_item(items):
    assert found(items, "a blue whale", [3], share=0.4) == {(3, True, "title")}
    assert found(items, "a blue whale", [4], share=0.4) == {(-1, False, "title")}


def test_words_that_two_editions_share_name_the_one_in_the_history_even_if_it_says_more():
    items = pd.DataFrame({"title": ["The Halden Division - PC", "The Halden Division - Xbox One", "Other thing"]})
    for history, item in ((1, 1), (0, 0), (2, 0)):  # of neither, the one of which more is covered
        assert found(items, "the Halden Division", [history], share=0.4) == {(item, history < 2, "title")}
    assert found(items, "the Halden Division for PC", [1], share=0.4) == {(0, False, "title")}  # PC weighs more


def test_a_title_borne_by_two_items_is_the_one_in_the_history(items):
    assert found(items, "Norvik Slate tent navy", [5]) == {(5, True, "title")}


@pytest.mark.parametrize("target", [1, 5, 2])
def test_a_title_borne_by_two_items_outside_the_history_is_no_single_item_even_if_one_is_the_target(items, target):
    table = mentions.mentions(chains_of("Norvik Slate tent navy"), samples_of([0], target=target), items)
    assert table["item"].tolist() == [-1] and not table["in_history"].any()


def test_a_title_of_one_word_needs_its_own_spelling():
    items = pd.DataFrame({"title": ["Help", "Halden Fern mug"]})
    assert found(items, "Help came", [1]) == {(0, False, "title")}
    assert found(items, "this may help", [1]) == set()


def test_a_distinctive_word_mentions_an_item_of_the_history_only(items):
    assert found(items, "they already have a mug.", [0, 1]) == {(0, True, "word")}
    assert found(items, "they already have a mug.", [1]) == set()


def test_the_words_of_the_sentence_itself_distinguish_no_title():
    items = pd.DataFrame({"title": ["Halo 3", "The Last Guardian", *FILLERS]})
    assert found(items, "The last purchase was Halo 3.", [0, 1]) == {(0, True, "title")}


def test_a_long_title_needs_several_of_its_distinctive_words(monkeypatch):
    monkeypatch.setattr(mentions, "RARE", 1.0)
    items = pd.DataFrame({"title": ["Canon photo paper plus semi gloss thirteen sheets", "Halden Fern mug"]})
    assert found(items, "they print photo albums", [0]) == set()
    assert found(items, "they print photo albums on gloss", [0]) == {(0, True, "word")}


def test_inches_are_no_quotation_marks(items):
    chains, samples = chains_of('a 13" x 19" sheet'), samples_of([0])
    figures = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples)
    assert figures["quoted"].tolist() == [0]


def test_a_word_shared_by_two_titles_of_the_history_distinguishes_neither(items, monkeypatch):
    monkeypatch.setattr(mentions, "RARE", 1.0)
    assert found(items, "about a whale", [2, 3]) == set()


def test_garbage_and_empty_chains_have_no_mentions_and_break_nothing(items):
    chains = chains_of("", "<<%% ]]][ ..", "zzz qqq")
    samples = samples_of([0], [1], [2])
    table = mentions.mentions(chains, samples, items)
    assert table.empty
    figures = mentions.grounding(chains, table, samples)
    assert figures["history_share"].tolist() == [0, 0, 0]
    assert figures["history_precision"].isna().all() and figures["off_catalogue"].isna().all()


def test_grounding_separates_history_catalogue_and_invention(items):
    text = 'Owns [Halden Fern mug, sage]; next "The Blue Whale Atlas", or [Golden Dragon Teapot].'
    chains, samples = chains_of(text), samples_of([0, 1])
    row = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples).iloc[0]
    assert row["history_share"] == row["history_titles"] == 1 / 2
    assert row["history_precision"] == 1  # the mug alone is said to be owned
    assert row["off_history"] == 1
    assert row["off_catalogue"] == pytest.approx(1 / 3)  # the teapot of three names


def test_precision_of_the_history_counts_titles_that_are_said_to_be_owned(items):
    samples = samples_of([0])
    for text, precision in {
        "They bought the Norvik Slate tent, navy. Next comes the Blue Whale Atlas.": 0,
        "They have the Halden Fern mug, sage and the Norvik Slate tent, navy.": 1 / 2,
        "The Halden Fern mug, sage is their latest. The Blue Whale Atlas would fit.": 1,
    }.items():
        chains = chains_of(text)
        row = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples).iloc[0]
        assert row["history_precision"] == precision, text
    chains = chains_of("Next comes the Blue Whale Atlas.")
    row = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples).iloc[0]
    assert math.isnan(row["history_precision"])


@pytest.mark.parametrize(
    "text",
    [
        "The shopper will probably buy a {} next.",
        "They do not have a {}.",
        "They don’t own the {}.",
        "After the latest order, a {} would fit.",
        "They may order the {}.",
    ],
)
def test_a_sentence_about_the_future_the_possible_or_what_is_denied_claims_no_possession(items, text):
    chains, samples = (
        chains_of(text.format(TITLES[1]), "They have it. " + text.format(TITLES[0])),
        samples_of([0], [0]),
    )
    table = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples)
    assert table["history_precision"].isna().all() and table["off_history"].tolist() == [1, 0]


def test_words_inside_titles_neither_claim_a_possession_nor_deny_one():
    items = pd.DataFrame({"title": ["Never Not Fern mug", "Dune Order Book", "Slate Will tent"]})
    text, samples = "They have the Never Not Fern mug and the Slate Will tent.", samples_of([0], [0])
    chains = chains_of(text, "Dune Order Book")
    table = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples)
    assert table["history_precision"].fillna(-1).tolist() == [1 / 2, -1]


def test_mentions_follow_the_index_of_the_chains_not_their_place(items):
    chains = chains_of("nothing", "a mug").set_index(pd.Index([7, 9]))
    samples = samples_of([0], [0])
    table = mentions.mentions(chains, samples, items)
    assert table["row"].tolist() == [9]
    assert mentions.grounding(chains, table, samples)["history_share"].to_dict() == {7: 0.0, 9: 1.0}


def test_of_titles_that_share_a_word_of_the_text_only_the_heaviest_is_mentioned():
    items = pd.DataFrame({"title": ["Alpha Beta Gamma", "Gamma Delta", "Other thing"]})
    assert found(items, "alpha beta gamma delta", [2]) == {(0, False, "title")}


def test_a_title_written_twice_is_two_mentions_by_place(items):
    text = "Halden Fern mug, sage or a Halden Fern mug, sage"
    table = mentions.mentions(chains_of(text), samples_of([0]), items)
    assert [text[a:b] for a, b in zip(table["start"], table["end"], strict=True)] == ["Halden Fern mug, sage"] * 2
    assert table["start"].tolist() == [0, 27] and table["share"].tolist() == [1, 1]


def test_an_early_stray_word_does_not_hide_the_title_that_follows(items):
    items = pd.DataFrame({"title": ["Halden Fern", "Other thing"]})
    assert found(items, "fern and so on and Halden Fern", [1]) == {(0, False, "title")}


def test_of_words_out_of_order_the_heavier_ones_are_taken():
    items = pd.DataFrame({"title": ["blue Halden whale", *(f"blue whale {n}" for n in "abcdefgh")]})
    # blue and Halden weigh (log 2 + log 10) / (2 log 2 + log 10) = 0.81 of the title, blue and whale 0.38
    assert found(items, "blue whale Halden", [1]) == {(0, False, "title")}


def test_a_quoted_name_beside_a_title_is_not_that_title(items):
    chains, samples = chains_of("Halden Fern mug, sage[Golden Teapot]"), samples_of([0])
    row = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples).iloc[0]
    assert (row["quoted"], row["off_catalogue"]) == (1, 1)


def test_items_that_occur_twice_count_once_and_mentions_of_no_single_item_each(items):
    chains = chains_of(
        "a blue whale; a blue whale; Norvik Slate tent navy; Halden Fern mug sage, Halden Fern mug sage"
    )
    samples = samples_of([0, 0, 4])
    row = mentions.grounding(chains, mentions.mentions(chains, samples, items, share=0.4), samples).iloc[0]
    assert row["history_share"] == row["history_titles"] == 1 / 2
    assert row["off_history"] == 3  # twice no single whale, and no single one of two equal tents


def test_of_repeated_words_the_nearest_make_the_title_and_it_is_one_mention():
    items = pd.DataFrame({"title": ["Halden Fern", "Other thing"]})
    for text, place in (("Halden Halden Fern", (7, 18)), ("Halden Fern Fern", (0, 11))):
        (mention,) = mentions.mentions(chains_of(text), samples_of([1]), items).to_dict("records")
        assert (mention["item"], mention["start"], mention["end"]) == (0, *place)


def test_a_word_on_up_to_a_twentieth_of_the_titles_is_distinctive():
    for holders, distinctive in ((2, True), (3, False)):
        titles = [f"mug number {n}" if n < holders else f"thing {n} of them" for n in range(40)]
        items = pd.DataFrame({"title": titles})
        assert found(items, "a mug", [0]) == ({(0, True, "word")} if distinctive else set())


def test_in_a_small_catalogue_a_word_of_two_titles_is_not_distinctive():
    items = pd.DataFrame({"title": ["mug number 1", "mug number 2", "a thing"]})
    assert found(items, "the mug", [0]) == set()


def test_an_item_mentioned_by_a_word_is_not_named_by_title(items):
    chains, samples = chains_of("they have a mug"), samples_of([0], target=0)
    row = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples).iloc[0]
    assert (row["history_share"], row["history_titles"], row["off_history"]) == (1, 0, 0)
    assert math.isnan(row["history_precision"])


def test_statements_about_the_history_are_counted_text_by_text():
    prompts = Prompts(text_tokenizer("byte-level"), PromptStyle(instruct=False))
    titles = ["Red oak bench", "Mr. Blue", "Red oak shelf"]
    items = pd.DataFrame({"item_id": list("abc"), "title": titles, "brand": ["Acme", "Globex", "Acme"]})
    chains = chains_of(
        "The last purchase was Mr. Blue. An earlier purchase was Mr. Green. The needs are about oak.",
        "The shopper trusts Globex. The last purchase was Red oa",
        "Next may come Mr. Blue.",
        closed=[True, False, True],
    ).set_index(pd.Index([4, 5, 9]))
    table = mentions.history_claims(chains, samples_of([0, 1], [0, 2], [0]), items, prompts)
    assert table.index.tolist() == [4, 5, 9]
    expected = [[2 / 3, 1 / 2, 1 / 2], [0, math.nan, math.nan], [math.nan] * 3]
    assert table.to_numpy() == pytest.approx(np.array(expected), nan_ok=True)
