"""Adds the collaborative term to a trained R²ec: learned from training purchases, weighed on validation.

The language model stays as it is, so models that are compared get their term in the same way, each at its own best
weight. A weight of 0 is among those tried: the term is left out where it does not help.
"""

import pandas as pd
import torch
from torch import Tensor

from r2ec_lib.model import R2ec
from r2ec_lib.model.collaborative import Collaborative, item_weights
from r2ec_lib.model.scoring import seen_mask, target_ranks
from r2ec_lib.training.objective import ndcg

PENALTIES = (20.0, 50.0, 200.0)
"""λ of the item weights to try."""
SHARES = (0.0, *(2.0**power for power in range(-3, 7)))
"""Weights to try: spread of the collaborative scores within a row, as a multiple of that of the model's own."""


def add_collaborative(
    model: R2ec, train: pd.DataFrame, valid: pd.DataFrame, states: Tensor, mask_seen: bool = True
) -> pd.DataFrame:
    """Sets `model.collaborative` to the term with the best validation NDCG@20; to None where none is better.

    Args:
        train, valid: samples tables; no other purchases are read.
        states: (B, d) user states of `valid`, with or without a reasoning, as the model will be asked.

    Returns:
        One row per setting tried: penalty, share, valid_ndcg@20.
    """
    histories = valid["history"].to_list()
    own = model.head.scores(states).float().cpu()  # (B, N)
    targets = torch.tensor(valid["target"].to_numpy(), dtype=torch.long)
    seen = seen_mask(histories, own.shape[1]) if mask_seen else None
    rows, best = [], -1.0
    for penalty in PENALTIES:
        term = Collaborative(*item_weights(train, own.shape[1], penalty))
        added = term.scores(histories)  # (B, N)
        unit = float(own.std(dim=1).mean() / added.std(dim=1).mean().clamp_min(1e-12))
        for share in SHARES if penalty == PENALTIES[0] else SHARES[1:]:
            value = float(ndcg(target_ranks(own + share * unit * added, targets, seen), 20).mean())
            rows.append({"penalty": penalty, "share": share, "valid_ndcg@20": value})
            if value > best:
                best = value
                scaled = Collaborative(term.items, term.weights, term.decay, share * unit)
                model.collaborative = scaled if share else None
    return pd.DataFrame(rows)
