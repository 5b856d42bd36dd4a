"""Baselines that count and do not train: popularity, item neighbours, EASE, text similarity, and two of them together.

Each is a function from tables to a scorer. `bought` has one row per training purchase, as `purchases.actions` makes it
of the training samples. Letters in shapes: B samples asked about, N items.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from r2ec_lib.evaluation.ranking import Scorer
from r2ec_lib.model.collaborative import ItemWeights, by_age, ease_weights, item_weights
from r2ec_lib.training.collaborative import word_vectors

COUNTED = 1000
"""Purchases of a shopper whose pairs are counted: those of a guest account, or a dealer's, would fill the memory."""


@dataclass(frozen=True)
class TableScorer:
    """A scorer that reads a fixed table, and the size of that table."""

    score: Scorer
    stored_bytes: int

    def __call__(self, samples: pd.DataFrame) -> Tensor:
        """(B, N) scores."""
        return self.score(samples)


def popularity(bought: pd.DataFrame, num_items: int, *, days: float | None = None) -> TableScorer:
    """Scores every item by its number of training purchases, or by those of the last `days` of training."""
    if days is not None:
        bought = bought[bought["timestamp"] > bought["timestamp"].max() - pd.Timedelta(days=days)]
    counts = torch.from_numpy(np.bincount(bought["item"], minlength=num_items)).float()  # (N,)
    return TableScorer(lambda samples: counts.expand(len(samples), -1), counts.nbytes)


def item_neighbours(bought: pd.DataFrame, num_items: int, *, decay: float = 0.8, shrink: float = 1.0) -> TableScorer:
    """Item co-occurrence kNN: items that the same shoppers bought, summed over the history.

    sim(i, j) = n_ij / (√(n_i n_j) + shrink) with n the number of shoppers; an action `a` steps before the latest one
    weighs decay^a. Of a shopper with more than `COUNTED` purchases the latest ones count.
    """
    bought = bought.groupby("user_id").tail(COUNTED)
    users, names = pd.factorize(bought["user_id"])
    matrix = sp.csr_matrix((np.ones(len(users)), (users, bought["item"])), (len(names), num_items))
    matrix.data[:] = 1
    together = (matrix.T @ matrix).tocoo()  # (N, N) sparse
    count = together.diagonal()
    similar = together.data / (np.sqrt(count[together.row] * count[together.col]) + shrink)
    similar[together.row == together.col] = 0
    table = sp.csr_matrix((similar, (together.row, together.col)), together.shape)
    return TableScorer(lambda samples: _dense(_recent(samples, num_items, decay) @ table), _bytes(table))


def ease(
    bought: pd.DataFrame, num_items: int, *, penalty: float = 50.0, decay: float = 0.9, whole: bool = True
) -> TableScorer:
    """What is bought together: item–item weights in closed form, summed over the history as in `item_neighbours`.

    whole: all weights, as in EASE (`ease_weights`); otherwise those that R²ec's own term keeps (`item_weights`).
    """
    if whole:
        rows, weights = ease_weights(bought, num_items, penalty)  # (M,), (M, M)
        weights = weights.contiguous()  # and float32, as what reads it: otherwise each query would copy it

        def score(samples: pd.DataFrame) -> Tensor:
            scores, read = torch.zeros(len(samples), num_items), _recent(samples, num_items, decay)[:, rows.numpy()]
            scores[:, rows] = torch.from_numpy(read @ weights.numpy())
            return scores

        return TableScorer(score, weights.nbytes)
    term = ItemWeights(*item_weights(bought, num_items, penalty), decay)
    return TableScorer(
        lambda samples: term.scores(samples["history"].to_list()), term.items.nbytes + term.weights.nbytes
    )


def blend(first: TableScorer, second: TableScorer, *, share: float) -> TableScorer:
    """Two scorers added up, `share` of the second: of EASE and text similarity, a hybrid without a language model."""
    return TableScorer(
        lambda samples: first(samples) + share * second(samples), first.stored_bytes + second.stored_bytes
    )


def text_similarity(items: pd.DataFrame, *, decay: float = 0.8, title_weight: float = 1.0) -> TableScorer:
    """TF-IDF cosine (`word_vectors`) between each item's texts and those of the history, weighted by decay^age."""
    vectors = word_vectors(items, title_weight)
    return TableScorer(
        lambda samples: _dense(_recent(samples, len(items), decay) @ vectors @ vectors.T), _bytes(vectors)
    )


def _recent(samples: pd.DataFrame, num_items: int, decay: float) -> sp.csr_matrix:
    """(B, N) weights of the history items: decay^a for the action `a` steps before the latest."""
    items, weights, counts = (part.numpy() for part in by_age(samples["history"].to_list(), decay))
    rows = np.repeat(np.arange(len(samples)), counts)
    return sp.csr_matrix((weights, (rows, items)), (len(samples), num_items))


def _bytes(table: sp.csr_matrix) -> int:
    return table.data.nbytes + table.indices.nbytes + table.indptr.nbytes


def _dense(scores: sp.spmatrix) -> Tensor:
    return torch.from_numpy(scores.toarray().astype(np.float32))
