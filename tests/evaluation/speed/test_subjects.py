"""Subjects have the sizes and lengths that are asked of them, and gradients know nothing of it."""

import torch

from r2ec_lib.evaluation.speed import plain_ways, subjects
from r2ec_lib.model.prompts import PromptStyle


def test_generated_items_are_uneven_and_the_same_again():
    items = subjects.item_texts("", "product", 50, seed=1)
    lengths = items["description"].str.len()
    assert len(items) == 50 and lengths.max() > 2 * lengths.min()
    assert items.equals(subjects.item_texts("", "product", 50, seed=1))


def test_a_random_model_reads_its_texts_in_whole_words(items):
    shape = {"vocab_size": 400, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
    model = subjects.random_model(items, PromptStyle(), **shape)
    assert max(map(len, model.prompts.item_ids(items))) < 100
    samples = subjects.random_samples(len(items), 5, 4)
    assert all(row.target not in row.history and len(row.history) == 4 for row in samples.itertuples())
    assert len(model.prompts.user_ids(samples, model.titles)) == 5


def test_chains_are_as_long_as_asked_and_gradients_know_nothing_of_it(tiny, samples):
    prompts, answer = tiny.prompts.user_ids(samples.iloc[:6], tiny.titles), tiny.prompts.answer
    ids = torch.tensor([prompts[0]])
    before = tiny.lm(ids).logits
    with subjects.answers_at_random(tiny.lm, answer):
        drawn = tiny.settings(9, temperature=1.0)
        assert {len(chain) for chain in plain_ways.generated(tiny, prompts, drawn)} == {9}
        assert {len(chain) for chain in tiny.sample(prompts, 9, temperature=1.0).chains} == {10}  # and `<answer>`
        assert torch.equal(tiny.lm(ids).logits, before)
    with subjects.answers_at_random(tiny.lm, answer, rate=1.0):
        assert plain_ways.generated(tiny, prompts, drawn) == [answer.ids] * 6
    with torch.no_grad():
        assert torch.equal(tiny.lm(ids).logits, before)
