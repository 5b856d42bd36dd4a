"""The collaborative term: what its parts learn, and that it is weighed on validation and left out where it does not
help."""

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.model.collaborative import ItemMap, ItemWeights
from r2ec_lib.model.scoring import seen_mask, target_ranks
from r2ec_lib.training import collaborative as module
from r2ec_lib.training.collaborative import add_collaborative
from r2ec_lib.training.objective import ndcg


def walks(count: int, step: int, seed: int, items: int = 30) -> pd.DataFrame:
    """Shoppers who buy items `step` apart, one after the other."""
    generator, rows = np.random.default_rng(seed), []
    for number in range(count):
        path = (generator.integers(items) + step * np.arange(4)) % items
        moment = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=number)
        hours = np.array([72.0, 48.0, 24.0], np.float32)
        rows.append((number, f"s{seed}u{number}", moment, path[-1], path[:-1], hours))
    names = ["sample_id", "user_id", "timestamp", "target", "history", "history_hours"]
    return pd.DataFrame(rows, columns=names).assign(history_ratings=[np.full(3, np.nan)] * count)


def weighed(model, train: pd.DataFrame, valid: pd.DataFrame, states: torch.Tensor, **options) -> pd.DataFrame:
    """The settings tried, after `add_collaborative` with parts of the model's own catalogue."""
    return add_collaborative(model, train, valid, states, module.counted_parts(model.catalogue, train), **options)


def value(model, valid: pd.DataFrame, states: torch.Tensor) -> float:
    scores = model.scores(states, valid["history"].to_list())
    seen = seen_mask(valid["history"].to_list(), 30)
    return float(ndcg(target_ranks(scores, torch.tensor(valid["target"].to_numpy()), seen), 20).mean())


def value_alone(model, valid: pd.DataFrame, states: torch.Tensor) -> float:
    scores, seen = model.head.scores(states), seen_mask(valid["history"].to_list(), 30)
    return float(ndcg(target_ranks(scores, torch.tensor(valid["target"].to_numpy()), seen), 20).mean())


def test_a_term_that_knows_the_next_purchase_is_added_at_its_best_weight(tiny):
    train, valid = walks(90, 1, seed=0), walks(40, 1, seed=1)
    states = tiny.user_states(valid)
    alone = value(tiny, valid, states)
    tried = weighed(tiny, train, valid, states)
    assert tried["valid_ndcg@20"].max() > alone + 0.2
    assert abs(value(tiny, valid, states) - tried["valid_ndcg@20"].max()) < 1e-6
    assert abs(tried["valid_ndcg@20"].iloc[0] - alone) < 1e-6


def test_a_term_that_knows_nothing_is_left_out(tiny):
    train, valid = walks(90, 11, seed=0), walks(40, 1, seed=1)
    targets = torch.tensor(valid["target"].to_numpy())
    tiny.refresh()
    states = tiny.head.table[targets]  # users who are their targets
    tiny.head.similarity = "cosine"
    tried = weighed(tiny, train, valid, states)
    assert tried["valid_ndcg@20"].iloc[0] == 1 and tiny.collaborative is None


def only(monkeypatch, part: str) -> None:
    """Leaves one part of the term something to say."""
    silent = ItemWeights(torch.zeros(30, 1, dtype=torch.long), torch.zeros(30, 1))
    if part != "bought":
        monkeypatch.setattr(module, "item_weights", lambda *_: (silent.items, silent.weights))
    if part != "worded":
        monkeypatch.setattr(module, "word_weights", lambda _: (silent.items, silent.weights))
    if part != "follows":
        monkeypatch.setattr(module, "fit_map", lambda table, *_: ItemMap(torch.zeros(16, 16), torch.zeros(16)))


def test_what_is_bought_together_is_learned_from_training_alone(tiny, monkeypatch):
    """Validation itself would tell all of its targets."""
    train, valid = walks(90, 11, seed=0), walks(40, 1, seed=1)
    states = tiny.user_states(valid)
    only(monkeypatch, "bought")
    tried = weighed(tiny, train, valid, states)
    assert tried["valid_ndcg@20"].max() < value_alone(tiny, valid, states) + 0.1
    pd.testing.assert_frame_equal(weighed(tiny, train, valid, states), tried)  # whatever stood there before


@pytest.mark.parametrize("part", ["bought", "worded", "follows"])
def test_each_part_is_weighed_in_units_of_the_spread_of_the_model_s_own_scores(tiny, monkeypatch, part):
    """Each target shares the words and the vector of the item before it, and is bought after it."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(15, 16, generator=generator))
    tiny.head.table = directions.repeat_interleave(2, 0)
    tiny.catalogue["title"] = [f"pair{row // 2} item{row}" for row in range(30)]
    train, valid = (
        table.assign(history=[np.array([int(target) ^ 1]) for target in table["target"]])
        for table in (walks(200, 7, seed=0), walks(40, 1, seed=1))
    )
    train, valid = (
        table.assign(history_hours=[np.array([24.0], np.float32)] * len(table)) for table in (train, valid)
    )
    states = torch.randn(40, 16, generator=generator)
    only(monkeypatch, part)
    tried = weighed(tiny, train, valid, states)
    best = tried.loc[tried["valid_ndcg@20"].idxmax()]
    others = [name for name in ("bought", "worded", "follows") if name != part]
    assert best[part] > 0 and not best[others].any()
    found = getattr(tiny.collaborative, part)
    histories, own = valid["history"].to_list(), states @ tiny.head.table.T
    table = [tiny.head.table] if part == "follows" else []
    spreads = [
        np.mean([np.std(row.tolist(), ddof=1) for row in scores]) for scores in (own, found.scores(histories, *table))
    ]
    assert spreads[1] / spreads[0] == pytest.approx(best[part], rel=1e-4)
    assert value(tiny, valid, states) == pytest.approx(best["valid_ndcg@20"])
    assert best["valid_ndcg@20"] > value_alone(tiny, valid, states) + 0.3


def test_the_weights_of_the_parts_are_found_together(tiny):
    """Some targets are bought together with the history, others share its words: both parts are needed."""
    titles = [f"kind{row % 3}" for row in range(30)]
    tiny.catalogue["title"] = titles
    train = walks(200, 1, seed=0)
    valid = pd.concat([walks(30, 1, seed=1), walks(30, 6, seed=2)], ignore_index=True)
    states = tiny.user_states(valid)
    tried = weighed(tiny, train, valid, states)
    best = tried.loc[tried["valid_ndcg@20"].idxmax()]
    single = tried[(tried[["bought", "worded", "follows"]] > 0).sum(axis=1) <= 1]
    assert best["valid_ndcg@20"] > single["valid_ndcg@20"].max()
    assert value(tiny, valid, states) == pytest.approx(best["valid_ndcg@20"], abs=1e-6)


def test_words_in_common_weigh_by_their_rarity_and_most_in_titles():
    items = pd.DataFrame({"item_id": list("abcd"), "title": ["red lamp", "blue lamp", "red mug", "black rug"]})
    items["store"] = ["Lumen", "Lumen", "Lumen", "Oak"]
    near, weights = module.word_weights(items)
    cosine = {(row, int(i)): float(w) for row in range(4) for i, w in zip(near[row], weights[row], strict=True)}
    rare, common = np.log(4 / 2) + 1, np.log(4 / 3) + 1  # "red", "lamp"; "Lumen"
    title = {
        word: np.log1p(3) * (rare if word in ("red", "lamp") else np.log(4) + 1)
        for word in "red lamp blue mug".split()
    }
    store = np.log1p(1) * common
    length = {
        pair: np.sqrt(sum(title[word] ** 2 for word in pair) + store**2)
        for pair in (("red", "lamp"), ("blue", "lamp"))
    }
    expected = (title["lamp"] ** 2 + store**2) / (length["red", "lamp"] * length["blue", "lamp"])
    assert cosine[0, 1] == pytest.approx(expected, rel=1e-5) and cosine[0, 2] == pytest.approx(expected, rel=1e-5)
    assert cosine[1, 2] < 0.2 < expected and cosine[0, 3] == 0
    assert all(cosine.get((row, row), 0.0) == 0 for row in range(4))  # not itself


def test_words_are_not_cut_at_the_vowel_signs_of_a_script():
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["नीली किताब", "नाल कत", "नीली कलम"]})
    vectors = module.word_vectors(items).toarray()
    assert vectors[0] @ vectors[1] == 0 < vectors[0] @ vectors[2]


def test_titles_without_spaces_share_what_stands_inside_them():
    titles = ["静音ワイヤレスマウス", "ワイヤレスマウス黒", "本革手帳 A5", "A5 ノート"]
    vectors = module.word_vectors(pd.DataFrame({"item_id": list("abcd"), "title": titles})).toarray()
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.5 and alike[0, 2] == alike[1, 3] == 0 < alike[2, 3]


def test_words_are_compared_in_parts_as_at_once(monkeypatch):
    titles = [f"w{n % 7} w{n % 11} w{n % 13}" for n in range(1500)]
    items = pd.DataFrame({"item_id": [str(n) for n in range(1500)], "title": titles})
    near, weights = module.word_weights(items)
    vectors = module.word_vectors(items, module.TITLE_WEIGHT).toarray()
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 0)
    assert near.shape == (1500, module.KEPT)
    np.testing.assert_allclose(weights, -np.sort(-cosines, axis=1)[:, : module.KEPT], atol=1e-5)
    np.testing.assert_allclose(weights, np.take_along_axis(cosines, near.numpy(), axis=1), atol=1e-5)


def test_the_map_learns_which_vectors_follow_which_and_holds_for_items_that_nobody_bought(monkeypatch):
    """The vector of the next purchase is the last one, rotated; some items are bought by nobody in training."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(48, 48, generator=generator)).Q
    chain = [torch.randn(48, generator=generator)]
    for _ in range(299):
        chain.append(chain[-1] @ rotation)
    table = torch.stack(chain) + 2.0  # away from the origin, as the vectors of language models are
    train = pd.DataFrame({"history": [np.array([row]) for row in range(250)] * 4, "target": [*range(1, 251)] * 4})
    fitted, alone = module.fit_map(table, train), [[row] for row in range(299)]
    ranks = target_ranks(fitted.scores(alone, table), torch.arange(1, 300), seen_mask(alone, 300)).float()
    assert ranks[:250].mean() < 2 and ranks[250:].mean() < 15  # of 299; by chance 150
    assert not fitted.matrix.requires_grad
    monkeypatch.setattr(module, "MAP_STEPS", (1, 4))  # enough to see whether a seed decides
    first, again, other = (module.fit_map(table, train, seed=seed).matrix for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_map_reads_no_more_histories_at_a_time_than_a_step_takes(monkeypatch):
    """A million of them would take gigabytes."""
    sizes, read = [], ItemMap.read

    def noting(part, histories, directions):
        sizes.append(len(histories))
        return read(part, histories, directions)

    monkeypatch.setattr(ItemMap, "read", noting)
    monkeypatch.setattr(module, "MAP_STEPS", (1, 1000))
    train = pd.DataFrame({"history": [np.array([0])] * 600, "target": [1] * 600})
    module.fit_map(torch.eye(3), train)
    assert sizes == [256, 256, 88] * module.MAP_EPOCHS
    sizes.clear()
    monkeypatch.setattr(module, "MAP_STEPS", (1, 4))  # the most, of a log that has more
    module.fit_map(torch.eye(3), train)
    assert sizes == [256, 256, 88, 256]


def test_the_map_is_not_taught_against_items_that_are_masked():
    """Where what was bought before is no candidate, it is no negative either."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(4, 3, generator=generator)
    train = pd.DataFrame({"history": [np.array([0, 1, 2])] * 8, "target": [3] * 8})
    identity = torch.eye(3)
    masked = module.fit_map(table, train)  # one candidate: nothing to learn
    assert torch.allclose(masked.matrix, identity, atol=1e-6)
    assert not torch.allclose(module.fit_map(table, train, mask_seen=False).matrix, identity, atol=1e-3)


def test_where_nothing_is_masked_what_was_bought_before_may_be_the_target(tiny):
    valid = walks(40, 1, seed=1)
    valid["target"] = [history[0] for history in valid["history"]]
    tried = weighed(tiny, walks(90, 1, seed=0), valid, tiny.user_states(valid), mask_seen=False)
    scores = tiny.head.scores(tiny.user_states(valid))
    ranks = target_ranks(scores, torch.tensor(valid["target"].to_numpy()), None)
    assert tried["valid_ndcg@20"][0] == pytest.approx(float(ndcg(ranks, 20).mean()))


def test_each_penalty_is_tried_on_a_model_of_cosines_too(tiny, monkeypatch):
    tiny.head.similarity, asked, weights = "cosine", [], module.item_weights

    def noting(train, num_items, penalty):
        asked.append(penalty)
        return weights(train, num_items, penalty)

    monkeypatch.setattr(module, "item_weights", noting)
    valid = walks(40, 1, seed=1)
    states = tiny.user_states(valid)
    tried = weighed(tiny, walks(20, 1, seed=0), valid, states)
    assert asked == list(module.PENALTIES) and set(tried["penalty"]) == set(asked)
    assert value(tiny, valid, states) == pytest.approx(tried["valid_ndcg@20"].max(), abs=1e-6)
