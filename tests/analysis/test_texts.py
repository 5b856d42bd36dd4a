"""What texts are like, by sentences that show a behaviour and chains whose figures can be counted by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.analysis import texts
from r2ec_lib.analysis.texts import by_step, claim_figures, diversity, form, statement_kinds

SHOWS = {
    "attribute abstraction": "the style is deco.",
    "pattern clustering": "These purchases have much in common.",
    "scenario or role": "this is for the cafe.",
    "temporal": "the latest is the mug.",
    "self-explanation": "This suggests that they cook.",
    "negative exclusion": "never mind the candle.",
    "multi-objective": "They want both comfort and value.",
}


NO_TITLES = pd.DataFrame(columns=["row", "how", "start", "end"])


def shown_by(text, titles=NO_TITLES):
    return set(texts.behaviour_mentions(pd.DataFrame({"chain": [text]}), titles)["behaviour"])


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


@pytest.mark.parametrize(
    "name", ["Wii Fit Game with Balance Board", "Jak & Daxter Collection", "Pad (without headset", "Fear 2: Project X"]
)
def test_words_of_names_show_nothing(name):
    titles = pd.DataFrame({"row": [0], "how": ["title"], "start": [9], "end": [9 + len(name)]})
    assert shown_by(f"They own {name}.", titles) == set() != shown_by(f"They own {name}.")
    assert shown_by(f"An earlier purchase was {name}.") == shown_by(f"An earlier purchase was {name}") == {"temporal"}
    assert shown_by(f"Next may come {name}. Therefore a mug.") == {"temporal", "self-explanation"}


def test_a_behaviour_around_a_name_keeps_its_words():
    chains = pd.DataFrame({"chain": ["both the First Mug and a rug"]})
    titles = pd.DataFrame({"row": [0], "how": ["title"], "start": [9], "end": [18]})
    assert texts.behaviour_mentions(chains, titles)["words"].tolist() == ["both the First Mug and"]


def test_shares_count_reasonings_once_and_show_where():
    chains = pd.DataFrame({"chain": ["not this, not that", "a mug", "a rug, not now", ""]}, index=[4, 5, 6, 7])
    table = texts.behaviour_shares(chains, texts.behaviour_mentions(chains, NO_TITLES), list("abcd")).set_index(
        "facet"
    )
    row = table.loc["negative exclusion"]
    assert row["share"] == 2 / 4 and 0 <= row["low"] < row["share"] < row["high"] <= 1
    assert row["words"] == "not" and row["example"] == "not this, not that"
    assert table.loc["multi-objective", ["share", "example"]].tolist() == [0, ""]


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


def test_claims_are_counted_for_each_chain_and_kind():
    chains = chains_of("style=deco tier=budget", "").set_index(pd.Index([3, 5]))
    claimed = pd.DataFrame({"row": [3, 3], "kind": ["style", "tier"], "true": [True, False]})
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
    assert same["distinct_2"] == 3 / 12
    other = diversity(chains_of("a b c d", "e f g h", "i j k l"))
    assert other["unique_rate"] == other["distinct_2"] == 1 and other["near_duplicates"] == 0


def test_near_duplicates_do_not_depend_on_the_block_size():
    words = [f"w{n}" for n in range(30)]
    texts = [" ".join(words), " ".join([*words[:-1], "other"]), "x y z", "", "", " ".join(reversed(words))]
    whole, blocks = (diversity(chains_of(*texts), block=block) for block in (512, 2))
    assert whole["near_duplicates"] == blocks["near_duplicates"] == 4 / 6  # the first two and the two empty ones


def test_near_duplicates_are_those_of_all_pairs_however_often_a_text_is_repeated():
    rng = np.random.default_rng(0)
    for _ in range(20):
        words = [f"w{n}" for n in range(12)]
        pool = [" ".join(words[:size] + ["x"] * rng.integers(2)) for size in rng.integers(8, 13, 4)]
        texts = [str(text) for text in rng.choice(pool, 9)]
        sets = [set(zip(*(text.split()[at:] for at in range(3)), strict=False)) for text in texts]
        alike = [[len(a & b) / len(a | b) >= 0.8 for b in sets] for a in sets]
        assert diversity(chains_of(*texts))["near_duplicates"] == sum(sum(row) > 1 for row in alike) / len(texts)


def test_chains_without_a_word_have_no_sequences_to_tell_apart():
    figures = diversity(chains_of("", "…"))
    assert math.isnan(figures["distinct_2"])
    assert figures["unique_rate"] == figures["near_duplicates"] == 1


def test_diversity_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no reasonings"):
        diversity(chains_of())


def test_by_step_pools_steps_into_equal_stretches():
    table = pd.DataFrame({"step": [1, 1, 2, 3, 4], "user_id": [0, 1, 2, 3, 4], "x": [0, 2, 4, 6, math.nan]})
    pooled = by_step(table, ["x"], bins=2)
    assert pooled["step"].tolist() == [4 / 3, 3.5]
    assert pooled["x"].tolist() == [2, 6]
    # 4.303: the 97.5th percentile of t at 2 degrees of freedom
    assert pooled["x_low"][0] == pytest.approx(2 - 4.302653 * math.sqrt(3 / 2 * 8) / 3, abs=1e-6)
    assert pooled["x_high"][0] == pytest.approx(2 + 4.302653 * math.sqrt(3 / 2 * 8) / 3, abs=1e-6)
    assert by_step(table.iloc[:1], ["x"])["x"].tolist() == [0]
    with pytest.raises(ValueError, match="no rollouts"):
        by_step(table.iloc[:0], ["x"])


def test_shares_over_training_keep_their_interval_within_0_and_1():
    table = pd.DataFrame({"step": [1] * 4, "user_id": range(4), "x": [1, 1, 1, 0], "same": 1.0})
    row = by_step(table, ["x", "same"]).iloc[0]
    assert row["x_high"] < 1 and row["x_low"] > 0  # 0.75 ± 1.96 · 0.25 would pass 1
    assert row["same"] == row["same_high"] == 1 and row["same_low"] < 1


def test_stretches_are_equal_wherever_the_steps_begin_and_no_more_than_the_steps():
    table = pd.DataFrame({"step": [11, 12, 13, 14], "user_id": range(4), "x": [0.0, 1.0, 2.0, 3.0]})
    assert by_step(table, ["x"], bins=2)["step"].tolist() == [11.5, 13.5]
    assert by_step(table, ["x"])["step"].tolist() == [11, 12, 13, 14]
    three = table.iloc[:3].assign(step=[1, 2, 3])
    assert by_step(three, ["x"], bins=2)["step"].tolist() == [1.5, 3]
    many = pd.DataFrame({"step": range(100), "user_id": range(100), "x": 0.5})
    assert len(by_step(many, ["x"])) == 20


def test_what_an_example_leaves_out_is_marked_on_its_side():
    chains = pd.DataFrame({"chain": ["a not"]})
    for around, example in ((0, "…not"), (1, "… not"), (2, "a not")):
        table = texts.behaviour_shares(chains, texts.behaviour_mentions(chains, NO_TITLES), ["u"], around).set_index(
            "facet"
        )
        assert table.loc["negative exclusion", "example"] == example
    chains = pd.DataFrame({"chain": ["\tnot at"]})
    table = texts.behaviour_shares(chains, texts.behaviour_mentions(chains, NO_TITLES), ["u"], 0).set_index("facet")
    assert table.loc["negative exclusion", "example"] == "…not…"


def test_the_kinds_of_statements_that_a_text_has_are_told_without_one_that_was_cut_off():
    told = [
        "The last purchase was a mug. The shopper trusts Acme.",
        "The last purchase was a mug",
        "red",
        "Next may co",
    ]
    found = statement_kinds(pd.DataFrame({"chain": told, "closed": [True, False, True, False]}, [3, 1, 0, 2]))
    assert found["last"].tolist() == [True, False, False, False] and found["brand"].tolist() == [True] + [False] * 3
    assert not found[["earlier", "needs", "next"]].to_numpy().any() and found.index.tolist() == [3, 1, 0, 2]
