"""The collaborative term: what the items of a history say by themselves, added to the scores of the reasoned state.

R²ec scores an item by the final state of a reasoning alone (Eq. 1 to 3). Where purchases are few and titles short,
much of what can be known about the next one is in no text. So a recipe may add what is bought together, learned from
the same training purchases in closed form, and what reads like the history: the vectors of its items in the item
table, which cost no further pass. Items without purchases are found by their texts. How the parts are weighed is in
`training/collaborative.py`. Letters in shapes: B histories, N items, K kept items, U users, d hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from r2ec_lib.data.purchases import actions

KEPT = 50
"""K: the most weights of an item that are kept, of the positive ones; the others are small and change no ranking."""
MOST = 12_000
"""Items whose weights are solved for, the most bought ones first: a matrix of this width takes about 2 GB."""


@dataclass(frozen=True)
class Collaborative:
    """Item–item weights and how a history reads them.

    Attributes:
        items: (N, K) int64, for each item the items that its purchase speaks for.
        weights: (N, K) float32, how much; 0 where an item has fewer than K.
        decay: an action `a` steps before the latest one weighs decay^a.
        scale: factor on the sum, so that it stands in the units of the model's similarity.
        texts: factor on the similarity between `history_states` and each item's vector.
    """

    items: Tensor
    weights: Tensor
    decay: float = 0.9
    scale: float = 1.0
    texts: float = 0.0

    def scores(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """(B, N) float32: Σ_a decay^a · weight(history item, v), times `scale`."""
        result = torch.zeros(len(histories), len(self.items))
        for row, (items, ages) in zip(result, self._read(histories), strict=True):
            row.index_add_(0, self.items[items].flatten(), (ages[:, None] * self.weights[items]).flatten())
        return self.scale * result

    def history_states(self, histories: Sequence[Sequence[int]], table: Tensor) -> Tensor:
        """(B, d): the vectors of a history's items, rows of the item table (N, d), each of length 1, by decay^age."""
        vectors = F.normalize(table.float(), dim=1)
        read = [ages.to(vectors) @ vectors[items] for items, ages in self._read(histories)]
        return torch.stack(read) if read else vectors[:0]

    def _read(self, histories: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor]]:
        """The items of each history and decay^a of each."""
        rows = [torch.as_tensor(np.asarray(history, dtype=np.int64)) for history in histories]
        return [(items, self.decay ** torch.arange(len(items) - 1, -1, -1)) for items in rows]

    def reindexed(self, rows: Sequence[int]) -> "Collaborative":
        """The term for another catalogue, whose items stood in these rows before; −1 for items that are new."""
        before = torch.tensor(list(rows), dtype=torch.long)
        place = torch.full((len(self.items) + 1,), -1)  # where each earlier item stands now; the last one is no item
        place[before] = torch.arange(len(before))
        place[-1] = -1
        new = before < 0
        items = torch.where(new[:, None], -1, place[self.items[before]])
        weights = self.weights[before].masked_fill(items < 0, 0.0)
        return replace(self, items=items.clamp_min(0), weights=weights)


def item_weights(train: pd.DataFrame, num_items: int, penalty: float) -> tuple[Tensor, Tensor]:
    """EASE (Steck 2019, arXiv 1905.03375): the linear model of a shopper's items from the shopper's other items.

    B = −P / diag(P) with P = (XᵀX + penalty · I)⁻¹ and X (U, N) who bought what; its diagonal is 0.

    Args:
        train: samples table; the purchases that it shows are read, each once.
        penalty: λ, weight of the squared weights.

    Returns:
        `items` and `weights` of `Collaborative`, (N, K) each.
    """
    bought = actions(train)
    users, names = pd.factorize(bought["user_id"])
    matrix = sp.csr_matrix((np.ones(len(users), np.float32), (users, bought["item"])), (len(names), num_items))
    matrix.data[:] = 1
    common = np.sort(np.argsort(-np.asarray(matrix.sum(0)).ravel(), kind="stable")[:MOST])  # (M,)
    among = matrix[:, common]
    gram = torch.from_numpy((among.T @ among).toarray()) + penalty * torch.eye(len(common))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = -inverse / inverse.diagonal()  # (M, M): row speaks for column; −1 on the diagonal
    best = weights.clamp_min_(0.0).topk(min(KEPT, len(common)), dim=1)
    rows = torch.from_numpy(common)
    items = torch.zeros(num_items, best.indices.shape[1], dtype=torch.long).index_copy(0, rows, rows[best.indices])
    return items, torch.zeros(items.shape).index_copy(0, rows, best.values)
