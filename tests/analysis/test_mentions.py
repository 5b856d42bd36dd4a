"""What the text figures count, by small catalogues and chains whose answers can be read off."""

import math

import pandas as pd
import pytest

from r2ec_lib.analysis import mentions
from r2ec_lib.analysis.texts import by_step, claim_figures, claim_table, diversity, form, length_by_step

TITLES = [
    "Halden Fern mug, sage",
    "Norvik Slate tent, navy",
    "The Blue Whale Atlas",
    "The Blue Whale Songbook",
    "1989",
    "Norvik Slate tent, navy",  # the same title twice
    "<script>alert(1)</script> lamp",
]


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


def test_part_of_a_title_counts_from_the_stated_share_of_its_weight_on(items):
    # four words, each held by one of six different titles: three of them carry 3/4
    assert found(items, "the Halden Fern mug", [4], share=0.75) == {(0, False, "title")}
    assert found(items, "the Halden Fern mug", [4], share=0.76) == set()


def test_overlapping_titles_give_one_mention_of_the_heaviest(items):
    assert found(items, "as in the blue whale songbook", [2], share=0.4) == {(3, False, "title")}


def test_a_stretch_that_fits_two_titles_equally_goes_to_the_history_or_to_no_single_item(items):
    assert found(items, "a blue whale", [3], share=0.4) == {(3, True, "title")}
    assert found(items, "a blue whale", [4], share=0.4) == {(-1, False, "title")}


def test_a_title_borne_by_two_items_is_the_one_in_the_history(items):
    assert found(items, "Norvik Slate tent navy", [5]) == {(5, True, "title")}


def test_a_title_of_one_word_needs_its_own_spelling():
    items = pd.DataFrame({"title": ["Help", "Halden Fern mug"]})
    assert found(items, "Help came", [1]) == {(0, False, "title")}
    assert found(items, "this may help", [1]) == set()


def test_a_distinctive_word_mentions_an_item_of_the_history_only(items):
    assert found(items, "they already have a mug.", [0, 1]) == {(0, True, "word")}
    assert found(items, "they already have a mug.", [1]) == set()


def test_a_long_title_needs_several_of_its_distinctive_words():
    items = pd.DataFrame({"title": ["Canon photo paper plus semi gloss thirteen sheets", "Halden Fern mug"]})
    assert found(items, "they print photo albums", [0], rare=1.0) == set()
    assert found(items, "they print photo albums on gloss", [0], rare=1.0) == {(0, True, "word")}


def test_inches_are_no_quotation_marks(items):
    chains, samples = chains_of('a 13" x 19" sheet'), samples_of([0])
    figures = mentions.grounding(chains, mentions.mentions(chains, samples, items), samples)
    assert figures["quoted"].tolist() == [0]


def test_a_word_shared_by_two_titles_of_the_history_distinguishes_neither(items):
    assert found(items, "about a whale", [2, 3], rare=1.0) == set()


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
    assert row["names_target"]
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


def test_mentions_follow_the_index_of_the_chains_not_their_place(items):
    chains = chains_of("nothing", "a mug").set_index(pd.Index([7, 9]))
    samples = samples_of([0], [0])
    table = mentions.mentions(chains, samples, items)
    assert table["row"].tolist() == [9]
    assert mentions.grounding(chains, table, samples)["history_share"].to_dict() == {7: 0.0, 9: 1.0}


def test_claims_are_counted_for_each_chain_and_kind():
    chains = chains_of("style=deco tier=budget", "").set_index(pd.Index([3, 5]))
    samples = samples_of([0], [1]).assign(history_hours=[[5.0], [7.0]])
    claimed = claim_table(
        chains,
        samples,
        read=lambda chain: [tuple(claim.split("=")) for claim in chain.split()],
        facts=lambda history, hours: {"style": {"deco"}, "tier": {f"{history[0]} {hours[0]}"}},
        holds=lambda claims, known: [value in known[kind] for kind, value in claims],
    )
    assert claimed["row"].tolist() == [3, 3] and claimed["true"].tolist() == [True, False]
    figures = claim_figures(chains, claimed, ["style", "tier", "kit"])
    assert figures["claims"].tolist() == [2, 0]
    assert figures.loc[3, "true"] == 1 / 2 and math.isnan(figures.loc[5, "true"])
    assert figures["says_style"].tolist() == [1, 0] and figures["says_kit"].tolist() == [0, 0]
    assert (figures.loc[3, "true_style"], figures.loc[3, "true_tier"]) == (1, 0)


def test_form_sees_repetition_cut_chains_and_empty_ones():
    chains = chains_of("a b c a b c a b c", "one two three four", "", closed=[True, False, True])
    figures = form(chains)
    assert figures["repetition"].tolist() == [1 - 3 / 7, 0, 0]  # abc bca cab of seven triples
    assert figures["unclosed"].tolist() == [False, True, False]
    assert figures["empty"].tolist() == [False, False, True]


def test_diversity_of_copies_is_low_and_of_different_chains_high():
    same = diversity(chains_of(*["the same words again"] * 4))
    assert same["unique_rate"] == 1 / 4 and same["near_duplicates"] == 1
    assert same["distinct_1"] == 4 / 16
    other = diversity(chains_of("a b c d", "e f g h", "i j k l"))
    assert other["unique_rate"] == other["distinct_2"] == 1 and other["near_duplicates"] == 0


def test_near_duplicates_do_not_depend_on_the_block_size():
    words = [f"w{n}" for n in range(30)]
    texts = [" ".join(words), " ".join([*words[:-1], "other"]), "x y z", "", "", " ".join(reversed(words))]
    whole, blocks = (diversity(chains_of(*texts), block=block) for block in (512, 2))
    assert whole["near_duplicates"] == blocks["near_duplicates"] == 4 / 6  # the first two and the two empty ones


def test_diversity_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no reasonings"):
        diversity(chains_of())


def test_by_step_pools_steps_into_equal_stretches():
    table = pd.DataFrame({"step": [1, 1, 2, 3, 4], "sample_id": [0, 1, 2, 3, 4], "x": [0, 2, 4, 6, math.nan]})
    pooled = by_step(table, ["x"], bins=2)
    assert pooled["step"].tolist() == [4 / 3, 3.5]
    assert pooled["x"].tolist() == [2, 6]
    assert pooled["x_low"][0] == pytest.approx(2 - 1.96 * math.sqrt(3 / 2 * 8) / 3)
    assert pooled["x_high"][0] == pytest.approx(2 + 1.96 * math.sqrt(3 / 2 * 8) / 3)
    assert by_step(table.iloc[:1], ["x"])["x"].tolist() == [0]
    with pytest.raises(ValueError, match="no rollouts"):
        by_step(table.iloc[:0], ["x"])


def test_shares_over_training_keep_their_interval_within_0_and_1():
    table = pd.DataFrame({"step": [1] * 4, "sample_id": range(4), "x": [1, 1, 1, 0], "same": 1.0})
    row = by_step(table, ["x", "same"]).iloc[0]
    assert row["x_high"] < 1 and row["x_low"] > 0  # 0.75 ± 1.96 · 0.25 would pass 1
    assert row["same"] == row["same_high"] == 1 and row["same_low"] < 1


def test_length_by_step_holds_the_mean_inside_its_spread():
    rollouts = pd.DataFrame({"step": [1] * 5 + [2], "tokens": [1, 2, 3, 4, 5, 9]})
    table = length_by_step(rollouts)
    assert table["length"].tolist() == [3, 9]
    assert (table["length_low"] <= table["length"]).all() and (table["length"] <= table["length_high"]).all()
