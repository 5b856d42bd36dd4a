"""Which words are exchanged, and that nothing else is."""

import pandas as pd
import pytest

from r2ec_lib.analysis import attributes, corruption, mentions

ITEMS = pd.DataFrame(
    {"item_id": ["a", "b", "c"], "title": ["Halden Fern mug", "Norvik Slate tent", "Pellini Dune rug"]}
)
ATTRIBUTES = pd.DataFrame(
    {"item": [0, 1, 2, 0], "attribute": ["style"] * 3 + ["piece"], "value": ["deco", "rustic", "coastal", "mug"]}
)


def spans_of(texts, histories):
    chains = pd.DataFrame({"sample_id": range(len(texts)), "chain": texts})
    samples = pd.DataFrame({"sample_id": range(len(texts)), "history": histories})
    found = mentions.mentions(chains, samples, ITEMS)
    return corruption.fact_spans(found, attributes.attribute_mentions(chains, ATTRIBUTES))


def test_a_title_counts_once_and_not_again_by_its_words():
    table = spans_of(["they own the Halden Fern mug in deco"], [[0]])
    assert table["kind"].tolist() == ["item", "style"]


def test_facts_become_other_facts_of_their_kind_and_all_else_stays():
    texts = pd.Series(["they may own Halden Fern mug in deco", "they like rustic"], index=[3, 9])
    spans = spans_of(texts.tolist(), [[0], [1]]).replace({"row": {0: 3, 1: 9}})
    for seed in range(10):
        changed = corruption.corrupt(texts, spans, ITEMS["title"], share=1, seed=seed)["facts"]
        assert changed[3] in {f"they may own {title} in rustic" for title in ITEMS["title"][1:]}
        assert changed[9] == "they like deco"


def test_a_title_becomes_no_other_one_that_begins_with_the_same_words():
    titles = pd.Series(["Acme Pro mug", "Acme Pro jug", "Bolt Max lamp"])
    spans = pd.DataFrame({"row": [0], "start": [4], "end": [16], "kind": ["item"]})
    for seed in range(8):  # two neutral words, so two words of the title are exchanged
        changed = corruption.corrupt(pd.Series(["own Acme Pro mug today"]), spans, titles, share=1, seed=seed)
        assert changed["facts"][0] == "own Bolt Max mug today"


@pytest.mark.parametrize("seed", range(6))
def test_as_many_neutral_words_are_exchanged_as_words_of_facts_and_no_more_than_there_are(seed):
    texts = pd.Series(
        ["they own Halden Fern mug in deco", "people like rustic things very much", "own Halden Fern mug"]
    )
    spans = spans_of(texts.tolist(), [[0], [1], [0]])
    changed = corruption.corrupt(texts, spans, ITEMS["title"], share=1, seed=seed)
    kept = changed["neutral"]
    assert "Halden Fern mug" in kept[0] and kept[0].endswith("deco") and "rustic" in kept[1]
    differ = {}
    for name, copies in changed.items():
        pairs = [zip(old.split(), new.split(), strict=True) for old, new in zip(texts, copies, strict=True)]
        differ[name] = [sum(a != b for a, b in pair) for pair in pairs]
    # of four words of facts three, as only three are neutral; one of one; of a title its first word
    assert differ == {"facts": [3, 1, 1], "neutral": [3, 1, 1]}
    assert changed["facts"][2] in ("own Norvik Fern mug", "own Pellini Fern mug")


def test_a_title_becomes_as_many_words_of_another_one():
    texts = pd.Series(["they may own the mug", "so they have a long and winding title here"])
    spans = pd.DataFrame({"row": [0], "start": [17], "end": [20], "kind": ["item"]})
    titles = ["mug", "a lamp, of brass", "tent"]
    changed = {corruption.corrupt(texts, spans, titles, share=1, seed=seed)["facts"][0] for seed in range(12)}
    assert changed == {"they may own the a", "they may own the tent"}


@pytest.mark.parametrize("seed", range(6))
def test_words_of_titles_and_numbers_are_neither_exchanged_as_neutral_nor_put_in_as_such(seed):
    texts = pd.Series(
        ["they like the Fern and the 37010W, with deco in it", "so people buy a Slate for 42, and rustic"]
    )
    spans = spans_of(texts.tolist(), [[2], [2]]).query("kind == 'style'")
    titles = [*ITEMS["title"], "and the lid"]  # words that make sentences are neutral though a title has them
    kept = corruption.corrupt(texts, spans, titles, share=1, seed=seed)["neutral"]
    for old, new in zip(texts, kept, strict=True):
        changed = [pair for pair in zip(old.split(), new.split(), strict=True) if len(set(pair)) > 1]
        assert len(changed) == 1
        assert not {"Fern", "37010W,", "Slate", "42,", "deco", "rustic"} & {word for pair in changed for word in pair}


@pytest.mark.parametrize("seed", range(6))
def test_a_value_becomes_as_many_words_of_another_value(seed):
    texts = pd.Series(["so they may like Acme", "so they may like Globex Home", "so they may like Oak Hill Works"])
    spans = pd.DataFrame({"row": range(3), "start": 17, "end": [21, 28, 31], "kind": "brand"})
    changed = corruption.corrupt(texts, spans, ["a tent"], share=1, seed=seed)
    for name, some in {"facts": {"Globex", "Oak"}, "neutral": {"Acme"}}.items():
        assert changed[name][0].split()[-1] in some
        assert [len(text.split()) for text in changed[name][:2]] == [5, 6]
    assert changed["facts"][1].endswith("Oak Hill")
    assert changed["facts"][2].split()[4:] in (["Acme"], ["Globex", "Home"])  # none has three words


def test_part_of_the_facts_is_rounded_up_and_none_at_all_changes_nothing():
    texts = pd.Series(["so it is, deco, rustic, coastal", "no fact", ""])
    changed = corruption.corrupt(texts, spans_of(texts.tolist(), [[0]] * 3), ITEMS["title"], share=0.5)["facts"]
    assert sum(a != b for a, b in zip(texts[0].split(", "), changed[0].split(", "), strict=True)) == 2
    assert changed[1:].tolist() == texts[1:].tolist()


@pytest.mark.parametrize("share", [0, -0.5, 1.1])
def test_a_share_of_facts_outside_0_to_1_is_refused(share):
    texts = pd.Series(["deco"])
    with pytest.raises(ValueError, match=f"share of facts to exchange is {share}"):
        corruption.corrupt(texts, spans_of(["deco"], [[0]]), [], share=share)


def test_places_that_touch_are_two_and_of_overlapping_ones_the_longest_value_counts():
    mentioned = pd.DataFrame({"row": [0, 0], "how": ["word", "title"], "start": [9, 20], "end": [12, 30]})
    stated = pd.DataFrame(
        {"row": 0, "attribute": list("abcd"), "value": "", "start": [0, 2, 5, 25], "end": [4, 5, 9, 40]}
    )
    table = corruption.fact_spans(mentioned, stated)
    assert table["kind"].tolist() == ["a", "c", "word", "item"] and table["start"].tolist() == [0, 5, 9, 20]


def test_half_of_the_facts_are_exchanged_unless_asked_otherwise_and_the_seed_decides_which():
    texts = pd.Series(["so it may be, deco, rustic, coastal, deco, rustic, coastal"] * 2)
    spans = spans_of(texts.tolist(), [[0]] * 2)
    first, same, other = (corruption.corrupt(texts, spans, ITEMS["title"], seed=seed)["facts"] for seed in (1, 1, 2))
    assert [sum(a != b for a, b in zip(texts[0].split(", "), text.split(", "), strict=True)) for text in first] == [
        3,
        3,
    ]
    assert first.tolist() == same.tolist() != other.tolist()


def test_what_differs_in_case_alone_is_no_other_fact_and_without_another_the_text_stays():
    texts = pd.Series(["it is Deco", "it is deco"])
    changed = corruption.corrupt(texts, spans_of(texts.tolist(), [[0]] * 2), ITEMS["title"], share=1)
    assert changed["facts"].tolist() == texts.tolist()
