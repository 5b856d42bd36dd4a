"""The collaborative term: what the items of a history say by themselves, added to the scores of the reasoned state.

R²ec scores an item by the final state of a reasoning alone (Eq. 1 to 3). Where purchases are few and titles short,
much of what can be known about the next one is in no text. So a recipe may add three parts, none of which costs a
further pass: what is bought together, what shares words, and which item vectors follow which. They are learned from
the same training purchases and weighed in `training/collaborative.py`. Letters in shapes: B histories, A actions in
them, N items, K kept items, U users, d hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

KEPT = 50
"""K: the most weights of an item that are kept, of the positive ones. As a baseline EASE may also keep all."""
MOST = 12_000
"""Items whose weights are solved for, the most bought ones first: a matrix of this width takes about 2 GB."""


@dataclass(frozen=True)
class ItemWeights:
    """Item–item weights and how a history reads them.

    Attributes:
        items: (N, K) int64, for each item the items that it speaks for.
        weights: (N, K) float32, how much; 0 where an item has fewer than K.
        decay: an action `a` steps before the latest one weighs decay^a.
        scale: factor on the sum, so that it stands in the units of the model's similarity.
    """

    items: Tensor
    weights: Tensor
    decay: float = 0.9
    scale: float = 1.0

    def scores(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """(B, N) float32: Σ_a decay^a · weight(history item, v), times `scale`."""
        items, weights, counts = by_age(histories, self.decay)
        result = torch.zeros(len(histories), len(self.items))
        begins = (torch.arange(len(counts)) * len(self.items)).repeat_interleave(counts)  # (A,): of each row's scores
        places = begins[:, None] + self.items[items]  # (A, K)
        result.view(-1).index_add_(0, places.flatten(), (weights[:, None] * self.weights[items]).flatten())
        return self.scale * result

    def reindexed(self, rows: Sequence[int]) -> "ItemWeights":
        """The weights for another catalogue, whose items stood in these rows before; −1 for items that are new."""
        before = torch.tensor(list(rows), dtype=torch.long)
        place = torch.full((len(self.items) + 1,), -1)  # where each earlier item stands now; the last is of new ones
        place[before] = torch.arange(len(before))
        new = before < 0
        items = torch.where(new[:, None], -1, place[self.items[before]])
        weights = self.weights[before].masked_fill(items < 0, 0.0)
        return replace(self, items=items.clamp_min(0), weights=weights)


@dataclass(frozen=True)
class ItemMap:
    """A linear map from the item vectors of a history to the vector of what comes next.

    It needs no purchase of an item, so it also speaks for items that are new. Vectors are compared by their directions
    from the mean of all: those of a language model share most of their length.

    Attributes:
        matrix: (d, d) float32.
        centre: (d,) float32, mean of the item vectors that the map was learned with.
        decay: an action `a` steps before the latest one weighs decay^a.
        scale: factor on the sum, so that it stands in the units of the model's similarity.
    """

    matrix: Tensor
    centre: Tensor
    decay: float = 0.5
    scale: float = 1.0

    def directions(self, table: Tensor) -> Tensor:
        """(N, d): item vectors (N, d) less the mean, each of length 1."""
        return F.normalize(table.float() - self.centre.to(table.device), dim=1)

    def read(self, histories: Sequence[Sequence[int]], directions: Tensor) -> Tensor:
        """(B, d) of length 1: the directions (N, d) of a history's items, weighed by age."""
        items, weights, counts = (part.to(directions.device) for part in by_age(histories, self.decay))
        begins = counts.cumsum(0) - counts
        read = F.embedding_bag(items, directions, begins, mode="sum", per_sample_weights=weights.to(directions))
        return F.normalize(read, dim=1)

    def scores(self, histories: Sequence[Sequence[int]], table: Tensor) -> Tensor:
        """(B, N) float32, on the device of the item table (N, d): scale · (read history) M x_v."""
        directions = self.directions(table)
        return self.scale * (self.read(histories, directions) @ self.matrix.to(table.device)) @ directions.T


@dataclass(frozen=True)
class Collaborative:
    """The three parts of the term.

    Attributes:
        bought: what is bought together (`item_weights`).
        worded: what shares words (`training.collaborative.word_weights`).
        follows: which item vectors follow which (`training.collaborative.fit_map`).
    """

    bought: ItemWeights
    worded: ItemWeights
    follows: ItemMap

    def scores(self, histories: Sequence[Sequence[int]], table: Tensor) -> Tensor:
        """(B, N) float32, on the device of the item table (N, d): the sum of the parts."""
        counted = self.bought.scores(histories) + self.worded.scores(histories)
        return counted.to(table.device) + self.follows.scores(histories, table)

    def for_catalogue(self, old: pd.DataFrame, new: pd.DataFrame) -> "Collaborative":
        """The term for another items table. An item with another text is still bought together with what it was, but
        shares no words with other items, as a new one."""
        places = {item: row for row, item in enumerate(old["item_id"])}
        texts, before = (table.set_index("item_id").astype(str).fillna("") for table in (new, old))
        same = texts == before.reindex(index=texts.index, columns=texts.columns, fill_value="")
        return self.reindexed([places.get(item, -1) for item in new["item_id"]], same.all(axis=1))

    def reindexed(self, rows: Sequence[int], same: Sequence[bool]) -> "Collaborative":
        """The term for another catalogue, whose items stood in these rows before; −1 for items that are new.

        same: whether the text of an item is what it was; the others share no words with any item.
        """
        texts = [row if kept else -1 for row, kept in zip(rows, same, strict=True)]
        return replace(self, bought=self.bought.reindexed(rows), worded=self.worded.reindexed(texts))

    def packed(self) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
        """Tensors and numbers of the parts, by name, for `unpacked`."""
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, dict[str, float]] = {}
        for name, part in vars(self).items():
            tensors |= {f"{name}.{key}": value for key, value in vars(part).items() if isinstance(value, Tensor)}
            numbers[name] = {"decay": part.decay, "scale": part.scale}
        return tensors, numbers

    @classmethod
    def unpacked(cls, tensors: dict[str, Tensor], numbers: dict[str, dict[str, float]]) -> "Collaborative":
        """What `packed` took apart. Raises KeyError or TypeError where a part is missing."""
        bought, worded = (
            ItemWeights(tensors[f"{name}.items"], tensors[f"{name}.weights"], **numbers[name])
            for name in ("bought", "worded")
        )
        return cls(bought, worded, ItemMap(tensors["follows.matrix"], tensors["follows.centre"], **numbers["follows"]))


def by_age(histories: Sequence[Sequence[int]], decay: float) -> tuple[Tensor, Tensor, Tensor]:
    """All actions, one history after the other: their items (A,), the decay^a of each (A,), `a` steps before the
    latest of its history, and the actions of each history (B,). Items and counts are int64."""
    counts = torch.tensor([len(history) for history in histories], dtype=torch.long)
    items = np.fromiter(chain.from_iterable(histories), np.int64, int(counts.sum()))
    ages = counts.cumsum(0).repeat_interleave(counts) - 1 - torch.arange(len(items))
    return torch.from_numpy(items), decay**ages, counts


def item_weights(bought: pd.DataFrame, num_items: int, penalty: float) -> tuple[Tensor, Tensor]:
    """`items` and `weights` of `ItemWeights`, (N, K) each: the largest positive weights of `ease_weights`."""
    rows, weights = ease_weights(bought, num_items, penalty)
    best = weights.clamp_min_(0.0).topk(min(KEPT, len(rows)), dim=1)
    items = torch.zeros(num_items, best.indices.shape[1], dtype=torch.long).index_copy(0, rows, rows[best.indices])
    return items, torch.zeros(items.shape).index_copy(0, rows, best.values)


def ease_weights(bought: pd.DataFrame, num_items: int, penalty: float) -> tuple[Tensor, Tensor]:
    """EASE (Steck 2019, arXiv 1905.03375): the linear model of a shopper's items from the shopper's other items.

    B = −P / diag(P) with P = (XᵀX + penalty · I)⁻¹ and X (U, N) who bought what; its diagonal is 0.

    Args:
        bought: one row per purchase, with user_id and item, as `purchases.actions` has them.
        penalty: λ, weight of the squared weights.

    Returns:
        The `MOST` most bought items (M,), in order, and B (M, M) among them: a row speaks for the columns.
    """
    users, names = pd.factorize(bought["user_id"])
    matrix = sp.csr_matrix((np.ones(len(users), np.float32), (users, bought["item"])), (len(names), num_items))
    matrix.data[:] = 1
    common = np.sort(np.argsort(-np.asarray(matrix.sum(0)).ravel(), kind="stable")[:MOST])  # (M,)
    among = matrix[:, common]
    gram = torch.from_numpy((among.T @ among).toarray()) + penalty * torch.eye(len(common))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return torch.from_numpy(common), inverse.div_(-inverse.diagonal()).fill_diagonal_(0.0)
