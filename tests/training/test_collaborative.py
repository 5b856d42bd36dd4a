"""The collaborative term is weighed on validation, and left out where it does not help."""

import numpy as np
import pandas as pd
import pytest
import torch

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


def value(model, valid: pd.DataFrame, states: torch.Tensor) -> float:
    scores = model.scores(states, valid["history"].to_list())
    seen = seen_mask(valid["history"].to_list(), 30)
    return float(ndcg(target_ranks(scores, torch.tensor(valid["target"].to_numpy()), seen), 20).mean())


def test_a_term_that_knows_the_next_purchase_is_added_at_its_best_weight(tiny):
    train, valid = walks(90, 1, seed=0), walks(40, 1, seed=1)
    states = tiny.user_states(valid)
    alone = value(tiny, valid, states)
    tried = add_collaborative(tiny, train, valid, states)
    assert tried["valid_ndcg@20"].max() > alone + 0.2
    assert abs(value(tiny, valid, states) - tried["valid_ndcg@20"].max()) < 1e-6
    assert abs(tried["valid_ndcg@20"].iloc[0] - alone) < 1e-6


def test_a_term_that_knows_nothing_is_left_out(tiny):
    train, valid = walks(90, 11, seed=0), walks(40, 1, seed=1)
    targets = torch.tensor(valid["target"].to_numpy())
    tiny.refresh()
    states = tiny.head.table[targets]  # users who are their targets
    tiny.head.similarity = "cosine"
    add_collaborative(tiny, train, valid, states)
    assert tiny.collaborative is None


def test_what_is_bought_together_is_learned_from_training_alone(tiny):
    """Validation itself would tell all of its targets."""
    train, valid = walks(90, 11, seed=0), walks(40, 1, seed=1)
    states = tiny.user_states(valid)
    tried = add_collaborative(tiny, train, valid, states)
    bought_alone = tried[(tried["alike"] == 0)]
    assert bought_alone["valid_ndcg@20"].max() < value(tiny, valid, states) + 0.1
    pd.testing.assert_frame_equal(add_collaborative(tiny, train, valid, states), tried)  # whatever stood there before


def test_texts_are_weighed_in_units_of_the_spread_of_the_model_s_own_scores(tiny, monkeypatch):
    """Each target reads like the item bought before it, and nothing else tells of it."""
    generator = torch.Generator().manual_seed(0)
    tiny.head.table = torch.nn.functional.normalize(torch.randn(15, 16, generator=generator)).repeat_interleave(2, 0)
    train, valid = walks(30, 7, seed=0), walks(40, 1, seed=1)
    valid["history"] = [np.array([target - 1 if target % 2 else target + 1]) for target in valid["target"]]
    valid["history_hours"] = [np.array([24.0], np.float32)] * len(valid)
    states = torch.randn(40, 16, generator=generator)
    monkeypatch.setattr(module, "BOUGHT", (0.0,))
    tried = add_collaborative(tiny, train, valid, states)
    best = tried["valid_ndcg@20"].idxmax()
    own, alike = states @ tiny.head.table.T, tiny.head.table[[row[0] for row in valid["history"]]] @ tiny.head.table.T
    spreads = [np.mean([np.std(row.tolist(), ddof=1) for row in scores]) for scores in (own, alike)]
    assert tiny.collaborative.scale == 0 and tried["alike"][best] > 0
    assert tiny.collaborative.texts == pytest.approx(tried["alike"][best] * spreads[0] / spreads[1], rel=1e-4)
    assert value(tiny, valid, states) == pytest.approx(tried["valid_ndcg@20"][best])


def test_where_nothing_is_masked_what_was_bought_before_may_be_the_target(tiny):
    valid = walks(40, 1, seed=1)
    valid["target"] = [history[0] for history in valid["history"]]
    tried = add_collaborative(tiny, walks(90, 1, seed=0), valid, tiny.user_states(valid), mask_seen=False)
    scores = tiny.head.scores(tiny.user_states(valid))
    ranks = target_ranks(scores, torch.tensor(valid["target"].to_numpy()), None)
    assert tried["valid_ndcg@20"][0] == pytest.approx(float(ndcg(ranks, 20).mean()))


def test_each_penalty_is_tried_and_a_weak_term_on_a_model_of_cosines_is_kept_too(tiny, monkeypatch):
    tiny.head.similarity, asked, weights = "cosine", [], module.item_weights

    def noting(train, num_items, penalty):
        asked.append(penalty)
        return weights(train, num_items, penalty)

    monkeypatch.setattr(module, "item_weights", noting)
    monkeypatch.setattr(module, "BOUGHT", (1.0,))
    monkeypatch.setattr(module, "ALIKE", (4.0,))
    valid = pd.concat([walks(8, 1, seed=1), walks(32, 7, seed=2)], ignore_index=True)
    states = tiny.user_states(valid)
    tried = add_collaborative(tiny, walks(20, 1, seed=0), valid, states)
    assert asked == tried["penalty"].unique().tolist() and len(asked) == len(module.PENALTIES) > 1
    assert tiny.collaborative.texts > 0 and tried["valid_ndcg@20"].max() < 0.5
    assert value(tiny, valid, states) == pytest.approx(tried["valid_ndcg@20"].max(), abs=1e-6)
