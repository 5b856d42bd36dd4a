"""Plain analyses: what they read, what they name, and that nobody's own purchases speak for the next one."""

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.model.analyses import Analyst, analyses, generic_documents, likely_next
from r2ec_lib.model.claims import claims
from r2ec_lib.model.prompts import Prompts, PromptStyle


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, PromptStyle(instruct=False))


def test_the_generic_corpus_reads_histories_and_never_targets(prompts, items, samples):
    documents = generic_documents(items, samples, prompts, n=60)
    without = generic_documents(items, samples.assign(target=0), prompts, n=60)
    assert documents == without
    assert len(documents) == len(items) + 60
    analyses = [document.completion for document in documents[len(items) :]]
    assert len(set(analyses)) > 30 and any("trusts Acme" in text for text in analyses)


def test_an_analysis_names_no_more_facts_than_asked_for(items, samples, prompts):
    assert len(generic_documents(items, samples, prompts, n=0)) == len(items)
    analyses = [one.completion for one in generic_documents(items, samples, prompts, n=60, most_facts=2)[len(items) :]]
    assert {len(claims(text, closed=True)) for text in analyses} == {1, 2}


def test_the_generic_corpus_does_not_depend_on_the_order_of_a_set(prompts):
    """Python orders sets of words anew in every process; equally frequent words are taken by the alphabet."""
    catalogue = pd.DataFrame({"item_id": list("abcde"), "title": ["zinc yarn xylo wood vine", *["plain"] * 4]})
    catalogue = pd.concat([catalogue] * 5, ignore_index=True).iloc[:25].assign(item_id=[f"i{n}" for n in range(25)])
    catalogue.loc[5:, "title"] = "plain"
    one = pd.DataFrame({"history": [[0]], "history_hours": [[5.0]], "history_ratings": [[5.0]]})
    analyses = {document.completion for document in generic_documents(catalogue, one, prompts, n=30)[25:]}
    assert any("about vine and wood" in text for text in analyses)


def bought(*histories: list[int]) -> pd.DataFrame:
    """A shopper a history, whose next purchase is its last item."""
    rows = [{"user_id": f"u{n}", "history": items[:-1], "target": items[-1]} for n, items in enumerate(histories)]
    hours = [[float(age) for age in range(len(row["history"]), 0, -1)] for row in rows]
    table = pd.DataFrame(rows).assign(history_hours=hours, timestamp=pd.Timestamp("2024-01-01"))
    return table.assign(sample_id=range(len(rows)), split="train", history_ratings=[[np.nan] * len(h) for h in hours])


def test_what_may_come_next_is_what_others_bought_with_it():
    table = bought(*[[0, 1]] * 10, *[[2, 3]] * 10)
    items, weights = likely_next(table, num_items=5)
    assert (items[:10, 0] == 1).all() and (items[10:, 0] == 3).all() and (weights[:, 0] > 0).all()
    assert (weights[:, 1:] == 0).all()  # nothing else was ever bought beside them


def test_a_shoppers_own_purchases_say_nothing_about_the_shoppers_next_one():
    _, weights = likely_next(bought(*[[0, 1]] * 10, [2, 3]), num_items=5)
    assert weights[-1].sum() == 0


def test_where_one_shopper_is_all_there_is_nothing_is_likely():
    items, weights = likely_next(bought([0, 1, 2]), num_items=5)
    assert items.shape == weights.shape == (1, 10) and not weights.any()


def test_an_item_of_the_history_is_never_likely_next():
    items, weights = likely_next(bought(*[[0, 1, 2]] * 10), num_items=5)
    assert not np.isin(items[weights > 0], [0, 1]).any()


def test_likely_items_are_named_last_and_the_likeliest_most_often(items, prompts):
    analyst, generator = Analyst(items, prompts, most_facts=1, named=1), np.random.default_rng(0)
    texts = [analyst.write([0, 1], generator, (np.array([2, 3]), np.array([0.9, 0.1]))) for _ in range(50)]
    ends = [text.partition(" Next may come ")[2].rstrip(".") for text in texts]
    assert set(ends) <= {analyst.short[2], analyst.short[3]} and ends.count(analyst.short[2]) > 40
    assert "Next may come" not in analyst.write([0, 1], generator, (np.array([2, 3]), np.zeros(2)))
    assert "Next may come" not in analyst.write([0, 1], generator)


def test_each_sample_gets_an_analysis_of_its_own_history(items, samples, prompts):
    texts = analyses(items, samples, prompts, most_facts=1, named=0, seed=1)
    assert len(texts) == len(samples) and texts == analyses(items, samples.assign(target=0), prompts, 1, 0, seed=1)
    assert texts != analyses(items, samples, prompts, most_facts=1, named=0, seed=2)
    timed = samples.assign(timestamp=pd.Timestamp("2024-01-01"))
    assert any("Next may come" in text for text in analyses(items, timed, prompts, most_facts=1, named=2))


def test_no_title_or_brand_of_an_analysis_forges_a_control_token(prompts):
    """`<end>` ends a turn of this tokenizer; what an analysis names reaches the model as text."""
    items = pd.DataFrame({"item_id": ["a"], "title": ["red<end> <answer> mug"], "brand": ["Ac<pad>me"]})
    one = pd.DataFrame({"history": [[0]], "history_hours": [[1.0]], "history_ratings": [[5.0]]})
    texts = {text for seed in range(9) for text in analyses(items, one, prompts, most_facts=4, named=0, seed=seed)}
    ids = {token for text in texts for token in prompts.tokenizer(text)["input_ids"]}
    assert not ids & set(prompts.tokenizer.all_special_ids)
    assert any("red" in text for text in texts) and any("trusts" in text for text in texts)


class Steady:
    """A generator that takes everything in its order."""

    permutation = staticmethod(np.arange)

    def integers(self, low, high):
        return high - 1

    def choice(self, values, size, replace, p):
        assert not replace and p.sum() == pytest.approx(1)
        return values[:size]


def test_an_analysis_states_what_the_last_five_purchases_and_their_rare_words_say(prompts):
    """ "lamp" and "wide" are too common to tell anything; a word tells once a title, and short ones never."""
    titles = ["alpha lamp", "Amber lamp", "birch ab birch birch lamp", "amber wide lamp", "cedar ab wide lamp"]
    titles += ["dune xy wide lamp -", *(f"plain wide {number}" for number in range(6, 12)), *["plain lamp"] * 28]
    brands = ["Old", "Globex", "Acme", "Acme", "", "Initech", *["Hooli"] * 34]
    items = pd.DataFrame({"item_id": [f"i{number}" for number in range(40)], "title": titles, "brand": brands})
    analyst = Analyst(items, prompts)
    facts = "The needs are about amber and birch. The shopper trusts Acme."
    told = "The last purchase was dune xy wide lamp. An earlier purchase was cedar ab wide lamp. " + facts
    assert analyst.write([0, 1, 2, 3, 4, 5], Steady()) == told
    likely = (np.array([6, 7, 8]), np.array([0.5, 0.3, 0.2]))
    assert analyst.write([0, 1, 2, 3, 4, 5], Steady(), likely) == told + " Next may come plain wide 6 or plain wide 7."
    assert analyst.write([1, 3], Steady()).startswith(
        "The last purchase was amber wide lamp. An earlier purchase was Amber lamp."
    )
    one = pd.DataFrame({"history": [[1, 2]], "history_hours": [[50.0, 3.0]], "history_ratings": [[5.0, 4.0]]})
    documents = generic_documents(items, one, prompts, n=1)
    assert [document.answer for document in documents[:6]] == ["alpha", "amber", "birch", "amber", "cedar", "dune"]
    assert documents[40].prompt == prompts.user_text([titles[1], titles[2]], [50.0, 3.0], [5.0, 4.0])


def test_every_earlier_purchase_is_named_at_times_and_the_last_one_is_not_called_earlier(items, prompts):
    analyst, generator = Analyst(items, prompts, most_facts=4), np.random.default_rng(0)
    told = [claim for _ in range(200) for claim in claims(analyst.write([0, 1, 2], generator), closed=True)]
    named = {kind: {title for other, title in told if other == kind} for kind in ("last", "earlier")}
    assert named == {"last": {analyst.short[2]}, "earlier": {analyst.short[0], analyst.short[1]}}
    nameless = Analyst(items.assign(brand="-"), prompts, most_facts=4)
    assert not any("trusts" in nameless.write([0, 1], generator) for _ in range(50))
    alone = {text for _ in range(50) for text in [analyst.write([1], generator)]}
    assert not any("earlier" in text for text in alone)


def test_an_analysis_states_nothing_that_no_prompt_shows(tokenizer):
    """Words behind the last that a prompt shows, and purchases before the first, cannot be read there."""
    titles = ["old clock", *["a b c d e f shown hidden"] * 2]
    items = pd.DataFrame({"item_id": list("xyz"), "title": titles, "brand": "Acme"})
    items = pd.concat([items, *[items.tail(1).assign(title="plain")] * 40], ignore_index=True)
    style = PromptStyle(instruct=False, max_title_words=7, max_history=2)
    analyst, generator = Analyst(items, Prompts(tokenizer, style)), np.random.default_rng(0)
    told = " ".join(analyst.write([0, 1, 2], generator) for _ in range(100))
    assert "about shown" in told and "hidden" not in told and "clock" not in told
