"""The collaborative term is weighed on validation, and left out where it does not help."""

import numpy as np
import pandas as pd
import torch

from r2ec_lib.model.scoring import seen_mask, target_ranks
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
