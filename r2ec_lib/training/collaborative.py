"""Adds the collaborative term to a trained R²ec: learned from training purchases, weighed on validation.

The language model stays as it is, so models that are compared get their term in the same way, each at its own best
weight. A weight of 0 is among those tried: the term is left out where it does not help.
"""

from dataclasses import replace
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from r2ec_lib.model import R2ec
from r2ec_lib.model.collaborative import Collaborative, item_weights
from r2ec_lib.model.scoring import seen_mask, target_ranks
from r2ec_lib.training.objective import ndcg

PENALTIES = (20.0, 50.0, 200.0)
"""λ of the item weights to try."""
BOUGHT, ALIKE = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0), (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Weights to try, of what is bought together and of what reads alike: the spread of these scores within a row, as a
multiple of that of the model's own scores."""


def add_collaborative(
    model: R2ec, train: pd.DataFrame, valid: pd.DataFrame, states: Tensor, mask_seen: bool = True
) -> pd.DataFrame:
    """Sets `model.collaborative` to the term with the best validation NDCG@20; to None where none is better.

    Args:
        train, valid: samples tables; no other purchases are read.
        states: (B, d) user states of `valid`, with or without a reasoning, as the model will be asked.

    Returns:
        One row per setting tried: penalty, bought, alike, valid_ndcg@20; the first one is the model on its own.
    """
    histories = valid["history"].to_list()
    own = model.head.scores(states).float().cpu()  # (B, N)
    targets = torch.tensor(valid["target"].to_numpy(), dtype=torch.long)
    seen = seen_mask(histories, own.shape[1]) if mask_seen else None
    rows, best = [], -1.0
    for penalty in PENALTIES:
        term = Collaborative(*item_weights(train, own.shape[1], penalty))
        together = term.scores(histories)  # (B, N)
        similar = model.head.scores(term.history_states(histories, model.head.table)).float().cpu()  # (B, N)
        scale, texts = (_spread(own) / _spread(part) for part in (together, similar))
        for bought, alike in product(BOUGHT, ALIKE):
            scores = own + bought * scale * together + alike * texts * similar
            value = float(ndcg(target_ranks(scores, targets, seen), 20).mean())
            rows.append({"penalty": penalty, "bought": bought, "alike": alike, "valid_ndcg@20": value})
            if value > best:
                best = value
                chosen = replace(term, scale=bought * scale, texts=alike * texts)
                model.collaborative = chosen if bought or alike else None
    return pd.DataFrame(rows)


def _spread(scores: Tensor) -> float:
    """Mean standard deviation within the rows of (B, N) scores."""
    return float(scores.std(dim=1).mean().clamp_min(1e-12))
