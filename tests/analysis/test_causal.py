"""Planted faults: a scorer that ignores its reasoning, and one that reads nothing else; the tests tell them apart."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from families import text_tokenizer

from r2ec_lib.analysis import causal

ANSWER, STOP, DOT = 99, 50, 51
ITEMS = 12


@pytest.fixture
def samples():
    targets = list(range(6)) * 2
    return pd.DataFrame(
        {
            "sample_id": range(100, 112),
            "user_id": [f"u{n // 2}" for n in range(12)],
            "target": targets,
            "history": [[6 + n % 6] * (1 + n // 6) for n in range(12)],
        }
    )


@pytest.fixture
def chains(samples):
    """Two sentences: one about nothing, one that holds the target as a token."""
    return [[30, STOP, target, STOP, ANSWER] for target in samples["target"]]


def body(chain):
    """What stands before `<answer>`, which is one token here."""
    return chain[:-1]


def reader(samples, chains):
    """A model that reads only its reasoning: an item scores once for each time its token stands there."""
    scores = torch.zeros(len(samples), ITEMS)
    for row, chain in enumerate(chains or []):
        for token in chain[:-1]:
            if token < ITEMS:
                scores[row, token] += 10
    return scores


def deaf(samples, chains):
    """A model that ignores its reasoning."""
    return torch.tensor(samples["sample_id"].to_numpy())[:, None] * torch.linspace(0, 1, ITEMS)[None, :]


def effects_of(score_fn, samples, chains):
    altered = causal.conditions(samples, chains, [0, 0.5, 1], [DOT], body, seed=1)
    ranked = causal.stack({name: causal.rank_chains(score_fn, samples, c, k=3) for name, c in altered.items()})
    return ranked, causal.effects(ranked).set_index("test")["difference"]


def test_every_altered_chain_keeps_its_answer_and_filler_keeps_the_length(samples, chains):
    altered = causal.conditions(samples, chains, [0, 0.5, 1], [DOT, STOP], body)
    assert altered["none"] == [[ANSWER]] * len(chains)
    for name, table in altered.items():
        assert all(chain[-1] == ANSWER and chain.count(ANSWER) == 1 for chain in table), name
    assert [len(chain) for chain in altered["filler"]] == [len(chain) for chain in chains]
    assert altered["filler"][0] == [DOT, STOP, DOT, STOP, ANSWER]


def test_truncation_keeps_nothing_at_0_half_at_a_half_and_everything_at_1(chains):
    assert causal.truncate(chains[:1], 0, body) == [[ANSWER]]
    assert causal.truncate(chains[:1], 0.5, body) == [[30, STOP, ANSWER]]
    assert causal.truncate(chains, 1, body) == chains
    assert causal.truncate([[ANSWER]], 0.5, body) == [[ANSWER]]
    assert causal.truncate([[1, 2, 3, ANSWER]], 0.5, body) == [[1, 2, ANSWER]]  # one and a half, rounded up


def test_swap_partners_are_other_users_of_like_history_length(samples):
    users, lengths = samples["user_id"].to_numpy(), samples["history"].map(len).to_numpy()
    for seed in range(20):
        partners = causal.swap_partners(samples, seed)
        assert (users[partners] != users).all()
        assert (lengths[partners] == lengths).all()
    assert (causal.swap_partners(samples, seed) == partners).all()
    assert causal.swap_partners(samples.iloc[[0, 2]]).tolist() == [1, 0]
    with pytest.raises(ValueError, match="two users"):
        causal.swap_partners(samples.iloc[:2])


def test_swap_partners_are_the_nearest_of_other_users_in_an_order_by_length():
    """Read plainly: in the shuffled order by length, the next sample of another user on either side, the one whose
    length is nearer; of two equally near ones, that with the smaller draw."""
    rng = np.random.default_rng(0)
    for seed in range(50):
        users = rng.integers(0, 3, rng.integers(3, 30))
        users[:2] = 0, 1
        lengths = rng.integers(1, 5, len(users))
        table = pd.DataFrame({"user_id": users.astype(str), "history": [[0] * length for length in lengths]})
        noise = np.random.default_rng(seed).random((len(users), 2))
        order = sorted(range(len(users)), key=lambda row: (lengths[row], noise[row, 0]))
        partners = causal.swap_partners(table, seed)
        for place, row in enumerate(order):
            before = [other for other in order[:place] if users[other] != users[row]][-1:]
            after = [other for other in order[place + 1 :] if users[other] != users[row]][:1]
            near = min(before + after, key=lambda other: (abs(lengths[other] - lengths[row]), noise[other, 1]))
            assert partners[row] == near


def test_of_a_single_user_no_reasoning_is_swapped_and_all_else_is_tested(samples, chains):
    ranked, effect = effects_of(reader, samples.assign(user_id="u"), chains)
    assert "swap" not in effect and {"gain", "content", "compute"} <= set(effect.index)
    assert "swapped" not in set(causal.changes(ranked)["condition"])


def test_a_model_that_ignores_its_reasoning_shows_no_effect_anywhere(samples, chains):
    ranked, effect = effects_of(deaf, samples, chains)
    assert (effect == 0).all()
    assert (ranked["agreement"] == 1).all()
    assert causal.area_over_curve(ranked)[0] == pytest.approx(0)
    assert (causal.drop_one(deaf, samples, chains, {STOP}, body)["effect"] == 0).all()


def test_a_model_that_reads_only_its_reasoning_is_found_by_every_test(samples, chains):
    ranked, effect = effects_of(reader, samples, chains)
    assert effect["gain"] > 0.5 and effect["content"] > 0.5 and effect["swap"] > 0.5
    assert effect["compute"] == 0
    curve = causal.early_answering(ranked)
    assert curve["fraction"].tolist() == [0, 0.5, 1]
    assert curve["ndcg"].tolist()[:2] == [0, 0] and curve["ndcg"].tolist()[2] == 1
    area, low, high = causal.area_over_curve(ranked)
    assert area > 0.1 and low < area < high
    half = ranked[ranked["condition"] != "kept 0"]
    assert causal.area_over_curve(half)[0] == pytest.approx(1 - curve["agreement"][1:].mean())
    assert np.isnan(causal.area_over_curve(half[half["condition"] != "kept 1"])).all()  # of one fraction there is none
    # trapezoids over the mean agreement give the mean of the samples' areas
    a, b, c = curve["agreement"]
    assert area == pytest.approx(1 - (a + 2 * b + c) / 4)


def test_a_model_trained_without_reasoning_is_compared_sample_by_sample(samples, chains):
    ranked, effect = effects_of(reader, samples, chains)
    assert "training" not in effect  # nobody handed such a model in
    other = causal.rank_chains(deaf, samples, None).assign(condition="untaught").iloc[::-1]
    both = pd.concat([ranked, other[["sample_id", "user_id", "ndcg", "condition"]]])
    found = causal.effects(both).set_index("test")["difference"]
    full = ranked[ranked["condition"] == "full"]
    assert found["training"] == pytest.approx(full["ndcg"].mean() - other["ndcg"].mean())


def test_nothing_kept_ranks_as_no_reasoning_does(samples, chains):
    ranked, _ = effects_of(reader, samples, chains)
    ranks = {name: part["rank"].tolist() for name, part in ranked.groupby("condition")}
    assert ranks["kept 0"] == ranks["none"] != ranks["full"] == ranks["kept 1"]


def test_dropping_the_deciding_sentence_lowers_its_item_and_another_does_not(samples, chains):
    table = causal.drop_one(reader, samples, chains, {STOP}, body)
    assert len(table) == 2 * len(samples) and set(table["sentences"]) == {2}
    assert table["user_id"].tolist() == np.repeat(samples["user_id"], 2).tolist()
    effect = table.groupby("sentence")["effect"]
    assert effect.max()[0] == pytest.approx(0, abs=1e-6) and effect.min()[1] > 1
    # log π falls from 10 − log(e^10 + 10) to −log 11: twelve items, one in the history
    assert effect.min()[1] == pytest.approx(10 - math.log(math.exp(10) + 10) + math.log(11), abs=1e-5)


def test_dropping_is_measured_at_the_temperature_of_the_model(samples, chains):
    table = causal.drop_one(reader, samples, chains, {STOP}, body, temperature=2.0)
    expected = 5 - math.log(math.exp(5) + 10) + math.log(11)
    assert table.groupby("sentence")["effect"].min()[1] == pytest.approx(expected, abs=1e-5)
    assert table.loc[1, ["position", "sentence", "start", "stop"]].tolist() == [0, 1, 2, 4]


def test_dropping_follows_the_item_that_the_whole_reasoning_recommends(samples):
    rows = samples.iloc[:1].assign(target=0)
    table = causal.drop_one(reader, rows, [[5, STOP, 3, 3, STOP, ANSWER]], {STOP}, body).set_index("sentence")
    # item 3 leads by 20 to 10; without its own sentence it has 0, and 5 leads
    assert table["effect"][1] == pytest.approx(10, abs=0.01) and table["effect"][0] == pytest.approx(0, abs=0.01)
    cold = causal.drop_one(reader, rows, [[5, STOP, 3, 3, STOP, ANSWER]], {STOP}, body, temperature=2.0)
    full, without = 10 - math.log(math.exp(10) + math.exp(5) + 9), 0 - math.log(math.exp(5) + 10)
    assert cold["effect"][1] == pytest.approx(full - without, abs=1e-5)


def test_a_disturbance_that_costs_as_much_anywhere_shows_for_no_sentence_and_a_deciding_one_does(samples):
    """Four sentences of equal length: one model counts tokens alone, the other reads what the third sentence says."""
    chains = [[30, STOP, 31, STOP, target, STOP, 32, STOP, ANSWER] for target in samples["target"]]

    def length(rows, chains):
        return torch.tensor([[0.5 * len(chain)] + [0.0] * (ITEMS - 1) for chain in chains])

    table = causal.drop_one(length, samples, chains, {STOP}, body, seed=0)
    assert (table["effect"] > 0.1).all() and np.allclose(table["effect"], table["elsewhere"])
    mean = (
        causal.drop_one(reader, samples, chains, {STOP}, body, seed=0)
        .groupby("sentence")[["effect", "elsewhere"]]
        .mean()
    )
    assert (mean["effect"] > mean["elsewhere"]).tolist() == [False, False, True, False]
    assert "elsewhere" not in causal.drop_one(reader, samples, chains, {STOP}, body)


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_a_decimal_point_ends_no_sentence(samples, kind):
    tokenizer = text_tokenizer(kind)
    text = "a red mug 0.9mm. a blue lamp 2-8.5 or more."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = causal.sentence_ends([ids], tokenizer.decode)
    table = causal.drop_one(deaf, samples[:1], [[*ids, ANSWER]], ends, lambda chain: chain[:-1])
    parts = [tokenizer.decode(ids[a:b]).strip() for a, b in zip(table["start"], table["stop"], strict=True)]
    assert parts == ["a red mug 0.9mm.", "a blue lamp 2-8.5 or more."]


def test_a_single_sentence_cannot_be_dropped(samples):
    chains = [[3, STOP, ANSWER]] * len(samples)
    assert causal.drop_one(reader, samples, chains, {STOP}, body).empty


def test_seen_items_are_no_candidates_but_the_target_always_is(samples):
    rows = samples.iloc[:1].assign(history=[[0, 11]], target=[0])
    scores = torch.arange(ITEMS).float()[None]
    table = causal.rank_chains(lambda rows, chains: scores, rows, None, k=ITEMS)
    assert set(table["top_items"][0].tolist()) == set(range(11))
    assert list(table) == ["sample_id", "user_id", "rank", "ndcg", "top_items", "top_scores", "log_p"]
    assert table["rank"][0] == 11
    unmasked = causal.rank_chains(lambda rows, chains: scores, rows, None, k=ITEMS, mask_seen=False)
    assert unmasked["rank"][0] == 12


def test_of_items_with_equal_scores_the_first_are_listed_as_in_the_evaluation():
    rows = pd.DataFrame({"sample_id": [0], "user_id": ["u"], "target": [9], "history": [[3]]})
    ranked = causal.rank_chains(lambda *_: torch.zeros(1, 3000), rows, None, k=5)
    assert ranked["top_items"][0].tolist() == [0, 1, 2, 4, 5]


def test_batches_and_temperature_change_only_what_they_should(samples, chains):
    one = causal.rank_chains(reader, samples, chains, k=3, batch_size=5)
    all_ = causal.rank_chains(reader, samples, chains, k=3)
    assert one["rank"].equals(all_["rank"]) and np.allclose(one["log_p"], all_["log_p"])
    cold = causal.rank_chains(reader, samples, chains, k=3, temperature=0.1)
    assert cold["rank"].equals(all_["rank"]) and (cold["log_p"] >= all_["log_p"]).all()


def test_unusable_requests_say_why(samples, chains):
    with pytest.raises(ValueError, match="at least one token"):
        causal.filler(chains, [], body)


def test_sampling_again_is_measured_against_the_full_list_as_every_other_alteration_is(samples, chains):
    other, third = ([[30, STOP, (chain[2] + n) % 6, STOP, ANSWER] for chain in chains] for n in (1, 2))
    for score_fn, agreed in ((reader, 1 / 3), (deaf, 1)):
        full, *draws = (causal.rank_chains(score_fn, samples, c, k=1) for c in (chains, chains, other, third))
        again = causal.sampled_again(full, draws)
        assert again["sample_id"].tolist() == samples["sample_id"].tolist()
        assert np.allclose(again["agreement"], agreed)  # one draw of three is the full chain; no two draws agree
        assert np.allclose(again["ndcg"], np.mean([draw["ndcg"] for draw in draws], axis=0))


def test_draws_that_agree_with_each_other_and_not_with_the_full_list_replace_all_of_it(samples, chains):
    other = [[30, STOP, (chain[2] + 1) % 6, STOP, ANSWER] for chain in chains]
    full, drawn = (causal.rank_chains(reader, samples, c, k=1) for c in (chains, other))
    ranked = pd.concat([causal.stack({"full": full}), causal.sampled_again(full, [drawn, drawn])])
    changed = causal.changes(ranked).set_index("condition")
    assert changed.loc["again", ["share", "difference"]].tolist() == [1, -1]


def test_the_summary_of_changes_tells_the_deaf_model_from_the_reader(samples, chains):
    heard, ignored = (effects_of(score_fn, samples, chains)[0] for score_fn in (reader, deaf))
    changed = causal.changes(heard).set_index("condition")
    assert (causal.changes(ignored)["share"] == 0).all()
    assert list(changed.index) == ["kept 0.5", "none", "filler", "swapped"]
    assert (causal.changes(ignored)["difference"] == 0).all()
    assert (changed["difference"] < 0).all() and (changed["ci95"].map(max) < 0).loc[["none", "filler"]].all()
    assert (changed.loc[["none", "kept 0.5", "filler"], "share"] > 0).all()
    assert (changed["low"] <= changed["share"]).all() and changed["high"].max() <= 1


def test_exchanged_facts_move_a_reader_more_than_exchanged_neutral_words(samples, chains):
    texts = {
        "full": chains,
        "facts": [[30, STOP, (chain[2] + 1) % 6, STOP, ANSWER] for chain in chains],
        "neutral": [[31, *chain[1:]] for chain in chains],
    }
    for score_fn, moved in ((reader, True), (deaf, False)):
        tables = {name: causal.rank_chains(score_fn, samples, c, k=1) for name, c in texts.items()}
        mean, low, _ = causal.paired_difference(causal.stack(tables), "neutral", "facts", "agreement")
        assert (mean == 1 and low > 0) if moved else mean == 0
