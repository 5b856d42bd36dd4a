"""Sentences about a history: read back from a text, and checked by the history alone."""

import numpy as np
import pandas as pd
import pytest
from families import text_tokenizer

from r2ec_lib.model.analyses import Analyst
from r2ec_lib.model.claims import FRAME_WORDS, TITLE_TOKENS, Checker, card_brands, claims
from r2ec_lib.model.prompts import Prompts, PromptStyle

LONG = "Red oak <answer> wall shelf, wide and deep"  # `<answer>` is cleaned, and counts as a word
SHELVES = [LONG, "Red oak bench", "Mr. Blue", "Red oak bench - new"]
BRANDS = ["Acme", "Acme", "O'Neil & Sons", ""]


def checked(text, titles, history, closed=True, **style):
    """What holds of a text, sentence by sentence."""
    prompts = Prompts(text_tokenizer("byte-level"), PromptStyle(instruct=False, **style))
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles})
    items["brand"] = BRANDS[: len(titles)] + [""] * (len(titles) - len(BRANDS))
    return [holds for *_, holds in Checker(items, prompts).check(text, closed, history)]


def test_the_store_stands_in_for_a_brand_that_is_empty():
    items = pd.DataFrame({"brand": ["", "Acme", ""], "store": ["Shop", "Shop", ""]})
    assert card_brands(items) == ["Shop", "Acme", ""]
    assert card_brands(items[["store"]]) == ["Shop", "Shop", ""] and card_brands(items[[]]) == ["", "", ""]


def test_titles_that_differ_in_their_vowel_signs_are_different():
    titles = ["नीली किताब बड़ी", "नीला कुतुब बड़ा"]
    assert checked(f"The last purchase was {titles[0]}.", titles, [0]) == [True]
    assert checked(f"The last purchase was {titles[1]}.", titles, [0]) == [False]


def test_what_an_analysis_states_is_read_back_and_holds(tokenizer):
    items = pd.DataFrame({"item_id": list("abc"), "title": ["Dr. Who No. 5", "Ltd. {lamp}", "mug"], "brand": "Ac. me"})
    items = pd.concat([items, *[items.tail(1)] * 40], ignore_index=True)  # so that words of the first two are rare
    prompts = Prompts(tokenizer, PromptStyle(instruct=False))
    analyst, checker, generator = Analyst(items, prompts, 4, 1), Checker(items, prompts), np.random.default_rng(0)
    likely, told = (np.array([2]), np.array([1.0])), set()
    for _ in range(60):
        text = analyst.write([0, 1], generator, likely)
        read = claims(text, closed=True)
        told |= set(read)
        assert checker.check(text, True, [0, 1]) == [(*claim, True) for claim in read if claim[0] != "next"]
        assert claims(text[:-3], closed=False) == read[:-1]
    needs = ("needs", "who and lamp")
    assert told == {("last", "Ltd. {lamp}"), ("earlier", "Dr. Who No. 5"), needs, ("brand", "Ac. me"), ("next", "mug")}
    assert claims("nothing of the kind", closed=True) == claims("", closed=False) == []


def test_a_brand_that_lists_many_names_is_stated_by_its_first_words_and_and_is_no_need(tokenizer):
    items = pd.DataFrame({"item_id": ["a"], "title": ["salt and ink"], "brand": ["A B, C D, E F, G H"]})
    items = pd.concat([items, *[items.assign(title="mug", brand="")] * 40], ignore_index=True)
    prompts = Prompts(tokenizer, PromptStyle(instruct=False))
    analyst, generator = Analyst(items, prompts, 4), np.random.default_rng(0)
    told = {sentence for _ in range(50) for sentence in analyst.write([0], generator).split(". ")}
    assert {"The shopper trusts A B, C D, E F", "The needs are about ink and salt"} <= {
        sentence.rstrip(".") for sentence in told
    }
    text = "The shopper trusts A B, C D, E F. The needs are about ink and salt."
    assert all(holds for *_, holds in Checker(items, prompts).check(text, True, [0]))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("The last purchase was Red oak bench.", [True]),
        ("The last purchase was red oak BENCH", [True]),
        ("The last purchase was Mr. Blue.", [False]),  # bought, but earlier
        ("An earlier purchase was Mr. Blue.", [True]),
        ("An earlier purchase was Red oak.", [False]),  # two of six words
        ("An earlier purchase was Red oak bench.", [False]),  # the last
        ("The last purchase was Red oa.", [False]),
        ("The last purchase was .", [False]),
        ("The last purchase was Red.", [False]),  # of three words
        ("An earlier purchase was Mr. Blue. It is a gift.", [True]),
        ("An earlier purchase was Mr. Green. It is a gift.", [False]),
        ("An earlier purchase was Red oak < answer> wall shelf. They like it.", [True]),
        ("An earlier purchase was Red oak < answer>. They like it.", [False]),  # cut short, and something else
        ("An earlier purchase was Mr. Green. An earlier purchase was Mr. Green.", [False]),  # one statement
        ("The last purchase was Red oak. The last purchase was red oak bench.", [True]),  # one, and the longer counts
        ("The shopper trusts Acme. The shopper trusts Acme oak.", [False]),
        ("The last purchase was Red oak bench blue.", [False]),
        ("The last purchase was oak bench Red.", [False]),
        ("The last purchase was Red oak bench. An earlier purchase was Mr. Green.", [True, False]),
        ("The needs are about oak and shelf.", [True]),
        ("The needs are about oak and lamp.", [False]),
        ("The needs are about .", [False]),
        ("The needs are about oak and. They like lamps.", [True]),
        ("The shopper trusts acme.", [True]),
        ("The shopper trusts O’Neil Sons. They like it.", [True]),
        ("The shopper trusts O'Neil.", [False]),
        ("The shopper trusts .", [False]),
        ("Next may come Mr. Blue. It is a gift.", []),
    ],
)
def test_statements_are_checked_whole(text, holds):
    assert checked(text, SHELVES, [0, 2, 1]) == holds


@pytest.mark.parametrize(
    ("name", "max_title_words", "holds"),
    [
        ("Red oak < answer> wall shelf", 8, True),  # six words, as the warm-up writes it
        ("Red oak < answer> wall shelf, wide", 8, True),
        ("Red oak < answer> wall shelf, wide and", 8, True),  # as the prompt shows it
        ("Red oak < answer> wall shelf, wide and deep", 8, False),  # which the model has not read
        ("Red oak < answer> wall shelf, high", 8, False),
        ("Red oak < answer> wall", 8, True),  # cut short
        ("Red oak < answer>", 8, True),
        ("Red oak", 8, False),  # two of six
        ("Red oak", 3, True),
        ("Red oak < answer>", 3, False),
    ],
)
def test_a_named_title_may_be_as_long_as_the_prompt_writes_it_or_half_of_the_short_one(name, max_title_words, holds):
    assert checked(f"The last purchase was {name}.", SHELVES, [1, 0], max_title_words=max_title_words) == [holds]


def test_a_sentence_that_was_cut_off_and_a_text_without_one_claim_nothing():
    cut = "The last purchase was Red oak bench. An earlier purchase was Mr."
    assert checked(cut, SHELVES, [2, 1], closed=False) == [True]
    assert checked("", SHELVES, [2, 1]) == checked("Red oak bench", SHELVES, [2, 1]) == []


def test_nothing_is_earlier_than_a_single_purchase_and_a_title_of_several_items_stands_for_each():
    assert checked("An earlier purchase was Mr. Blue.", SHELVES, [2]) == [False]
    assert checked("The last purchase was Mr. Blue.", [*SHELVES, "Mr. Blue"], [0, 4]) == [True]


def test_a_title_that_prompts_cut_within_a_word_is_named_as_they_show_it():
    name = "x" * 40
    assert checked(f"The last purchase was {name[:9]}.", [name], [0], max_title_tokens=9) == [True]
    assert checked(f"The last purchase was {name}.", [name], [0], max_title_tokens=9) == [False]


def test_needs_may_be_words_that_no_three_letter_word_is_part_of():
    assert checked("The needs are about 红茶 and up.", ["红茶 up"], [0]) == [True]
    assert checked("The needs are about 绿茶.", ["红茶 up"], [0]) == [False]


def test_the_share_that_fails_is_that_of_the_checkable_sentences(tokenizer, items):
    checker = Checker(items, Prompts(tokenizer, PromptStyle(instruct=False)))
    last, earlier = items["title"][1], items["title"][0]
    text = f"The last purchase was {last}. An earlier purchase was {last}. Next may come {last}."
    assert checker.failing(text, True, [0, 1]) == 0.5
    assert checker.failing(f"An earlier purchase was {earlier}.", True, [0, 1]) == 0
    assert checker.failing("An earlier purchase was nothing.", True, [0, 1]) == 1
    assert checker.failing(f"The last purchase was {last}.", True, [0, 1], expected=2) == 0.5  # the other is missing
    assert checker.failing(text, True, [0, 1], expected=2) == 0.5
    assert checker.failing(f"{text} The needs are about zinc.", True, [0, 1], expected=2) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "closed"), [("", True), ("Next may come a mug.", True), ("The last purchase", False)]
)
def test_a_text_that_claims_nothing_counts_as_one_that_fails(tokenizer, items, text, closed):
    checker = Checker(items, Prompts(tokenizer, PromptStyle(instruct=False)))
    assert checker.failing(text, closed, [0, 1]) == 1


def test_words_of_the_sentences_are_known_as_such():
    assert {"last", "purchase", "earlier", "needs", "trusts", "next", "and"} <= FRAME_WORDS


def test_of_a_title_whose_words_are_long_an_analysis_names_what_has_room_and_it_holds(tokenizer):
    """Codes, and text without spaces, have many tokens a word; a title may also have signs alone."""
    codes = "ZX9-QR7-0041K PW3-LL8-2290T VB6-MN5-7713D HJ1-KK2-4456S"
    titles = [codes, "超静音大容量折叠便携式不锈钢保温水壶家用办公室户外旅行运动", "★★★", "…", "plain mug"]
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(len(titles))], "title": titles})
    prompts = Prompts(tokenizer, PromptStyle(instruct=False))
    analyst, checker, generator = Analyst(items, prompts, 1), Checker(items, prompts), np.random.default_rng(0)
    sizes = [len(tokenizer(short, add_special_tokens=False)["input_ids"]) for short in analyst.short]
    assert max(sizes) <= TITLE_TOKENS < min(len(tokenizer(title)["input_ids"]) for title in titles[:2])
    assert codes.startswith(analyst.short[0] + " ") and analyst.short[2:] == titles[2:]
    for item, short in enumerate(analyst.short):
        text = f"The last purchase was {short}."
        assert text in {analyst.write([item], generator) for _ in range(20)}
        assert checker.check(text, True, [item]) == [("last", short, True)]
        assert not any(holds for *_, holds in checker.check(text, True, [(item + 1) % len(titles)]))
