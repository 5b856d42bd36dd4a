import copy

import pytest
import torch
from torch.nn import functional as F

from r2ec_lib.evaluation import ranking
from r2ec_lib.evaluation.answers import answer, chains_of, chains_table, exchange, live_scorer, rank
from r2ec_lib.model.collaborative import ItemWeights


def test_answers_hold_the_states_of_what_the_model_wrote(tiny, samples):
    few = samples.head(5)
    answers = answer(tiny, few, 6)
    assert answers.chains == tiny.sample(tiny.prompts.user_ids(few, tiny.titles), 6).chains
    torch.testing.assert_close(answers.states, tiny.user_states(few, answers.chains))


def test_no_reasoning_is_the_answer_straight_after_the_prompt(tiny, samples):
    answers = answer(tiny, samples.head(4), 0)
    assert answers.chains == [tiny.prompts.answer.ids] * 4
    torch.testing.assert_close(answers.states, tiny.user_states(samples.head(4)))


def test_given_reasonings_are_read_instead_of_the_models_own(tiny, samples):
    chains = chains_of(tiny, ["the shopper likes red", "mug"])
    assert all(tiny.prompts.answer.closed(chain) for chain in chains)
    assert tiny.decode(chains[0]) == "the shopper likes red"
    answers = answer(tiny, samples.head(2), 6, chains)
    assert answers.chains == chains
    torch.testing.assert_close(answers.states, tiny.user_states(samples.head(2), chains))


def test_ranks_are_those_of_the_common_evaluator_whatever_the_order_of_ids(tiny, samples):
    mixed = samples.sample(frac=1, random_state=0)
    answers = answer(tiny, mixed, 4)
    found = rank(tiny, answers, mixed, name="m")
    scores = tiny.head.scores(tiny.user_states(mixed, answers.chains))
    expected = ranking.rank_all(lambda _: scores, mixed, len(tiny.catalogue), model="m", batch_size=len(mixed))
    assert found["rank"].tolist() == expected["rank"].tolist()
    assert found["sample_id"].tolist() == mixed["sample_id"].tolist()


@pytest.mark.parametrize("similarity", ["inner", "cosine"])
def test_top_items_leave_the_history_out_and_agree_with_the_rank(tiny, samples, similarity):
    tiny.head.similarity = similarity
    answers = answer(tiny, samples, 4)
    table = chains_table(tiny, answers, samples, k=10)
    scores = tiny.head.scores(answers.states)
    for row, top in enumerate(table["top_items"]):
        assert not set(top) & set(samples["history"][row])
        best = scores[row].index_fill(0, torch.tensor(samples["history"][row]).long(), -torch.inf).topk(10).values
        torch.testing.assert_close(scores[row, list(top)], best, rtol=1e-4, atol=0)
        if table["rank"][row] <= 10:
            assert top[round(table["rank"][row]) - 1] == table["target"][row]
    if similarity == "cosine":
        states, items = F.normalize(answers.states, dim=-1), F.normalize(tiny.head.table, dim=-1)
        torch.testing.assert_close(scores.double(), (states @ items.T).double(), rtol=1e-4, atol=1e-5)


def test_a_chain_is_closed_only_if_the_model_wrote_answer_itself(tiny, samples):
    few, close = samples.head(5), tiny.prompts.answer.ids
    tiny.lm.get_output_embeddings().register_forward_hook(_answers_after(4, close[0]))
    wrote = answer(tiny, few, 4)
    table = chains_table(tiny, wrote, few, k=3)
    assert table["closed"].all() and (table["tokens"] == 4).all()
    cut = answer(tiny, few, 2)
    assert not chains_table(tiny, cut, few, k=3)["closed"].any()
    given = answer(tiny, few, 4, [[5, 6, *close]] * 5)
    table = chains_table(tiny, given, few, k=3)
    assert not table["closed"].any() and (table["tokens"] == 3).all()


def test_in_an_exchange_each_model_ranks_after_its_own_and_after_the_others_reasonings(tiny, samples):
    other = copy.deepcopy(tiny)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in other.lm.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    other.refresh()
    other.collaborative = object()  # nothing asks it
    told = {
        "a": [[7, *tiny.prompts.answer.ids]] * len(samples),
        "b": [[8, 9, *tiny.prompts.answer.ids]] * len(samples),
    }
    models = {"a": tiny, "b": other}
    answers = {name: (models[name], answer(models[name], samples, 0, told[name])) for name in models}
    found = exchange(answers, samples)
    assert list(found["model"].unique()) == ["a reads a", "a reads b", "b reads a", "b reads b"]
    for name, part in found.groupby("model"):
        reader, writer = name.split(" reads ")
        scores = models[reader].head.scores(models[reader].user_states(samples, told[writer]))
        expected = ranking.rank_all(lambda _, s=scores: s, samples, len(tiny.catalogue), model=name, batch_size=99)
        assert part["rank"].tolist() == expected["rank"].tolist()
    assert found.groupby("model")["rank"].agg(tuple).nunique() == 4


def _answers_after(tokens, answer_id):
    """A hook under which every chain writes `<answer>` as the token of that number, and not before."""
    calls = []

    def change(_, __, logits):
        calls.append(None)
        logits[..., answer_id] = 1e4 if len(calls) % tokens == 0 else -1e4

    return change


def test_the_live_scorer_gives_the_scores_of_the_evaluation(tiny, samples):
    few = samples.head(3)
    torch.testing.assert_close(live_scorer(tiny, 5)(few), tiny.head.scores(answer(tiny, few, 5).states))


def test_where_nothing_is_masked_items_of_the_history_are_ranked_and_listed(tiny, samples):
    answers = answer(tiny, samples, 0)
    ranked = rank(tiny, answers, samples, name="m", mask_seen=False)
    table = chains_table(tiny, answers, samples, k=30, mask_seen=False)
    order = tiny.head.scores(answers.states).argsort(dim=1, descending=True).tolist()
    assert [list(top) for top in table["top_items"]] == order
    assert [top[int(place) - 1] for top, place in zip(order, ranked["rank"], strict=True)] == samples[
        "target"
    ].tolist()


def test_a_table_that_is_scored_in_parts_is_the_table_that_is_scored_at_once(tiny, samples, bought_alone, monkeypatch):
    tiny.collaborative = bought_alone(ItemWeights(torch.arange(30).roll(1)[:, None], torch.ones(30, 1), scale=100.0))
    answers = answer(tiny, samples, 0)
    ranked = rank(tiny, answers, samples, name="m")
    whole = chains_table(tiny, answers, samples, k=5)
    monkeypatch.setattr(ranking, "SCORES_HELD", 7 * 30)
    parts = chains_table(tiny, answers, samples.set_axis(range(100, 148)), k=5)  # a part of a longer table
    assert [list(top) for top in parts["top_items"]] == [list(top) for top in whole["top_items"]]
    assert parts["rank"].tolist() == whole["rank"].tolist() == ranked["rank"].tolist()
    listed = whole[whole["rank"] <= 5]
    assert len(listed) and all(row.top_items[round(row.rank) - 1] == row.target for row in listed.itertuples())
