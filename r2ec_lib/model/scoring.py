"""Scores, ranks and the best items of a catalogue: tensors in, tensors out.

Training, validation, evaluation and recommendation all rank through these functions, so they cannot disagree.
Equation numbers are those of R²ec (arXiv 2505.16994 v3). Letters in shapes: B rows, N catalogue items, M candidate
items, d hidden size.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIMILARITIES = ("inner", "cosine")


def similarity_scores(states: Tensor, items: Tensor, similarity: str = "inner") -> Tensor:
    """s(v) = h_Tᵀ h_v for every pair, or the cosine of the two.

    Args:
        states: (B, d) user states h_T.
        items: (N, d) item vectors h_v.
        similarity: "inner" (the paper) or "cosine" (the official code).

    Returns:
        (B, N) scores in float32 or better, not divided by τ.
    """
    precision = torch.promote_types(torch.promote_types(states.dtype, items.dtype), torch.float32)
    states, items = states.to(precision), items.to(precision)
    if similarity == "cosine":
        states, items = F.normalize(states, dim=-1), F.normalize(items, dim=-1)
    return states @ items.T


def target_ranks(scores: Tensor, targets: Tensor, seen: Tensor | None = None) -> Tensor:
    """Rank of each row's target among all candidates, 1 is best; ties share their average position.

    rank = 1 + #{v : s(v) > s(v⁺)} + #{v ≠ v⁺ : s(v) = s(v⁺)} / 2, over the unseen items and the target itself. So a
    scorer that gives every item the same score ranks its target in the middle of the catalogue.

    Args:
        scores: (B, N) scores.
        targets: (B,) item indexes.
        seen: (B, N) bool, True where an item is no candidate. The target is always a candidate.

    Returns:
        (B,) float64 ranks.

    Raises:
        ValueError: a score is NaN.
    """
    if torch.isnan(scores).any():
        row = torch.isnan(scores).any(dim=1).nonzero()[0].item()
        raise ValueError(f"row {row} of the scores holds NaN; a rank is defined for numbers only")
    rows = torch.arange(len(targets), device=scores.device)
    target_scores = scores[rows, targets][:, None]  # (B, 1)
    candidates = torch.ones_like(scores, dtype=torch.bool) if seen is None else ~seen
    candidates = candidates.index_put((rows, targets), torch.tensor(False, device=scores.device))
    greater = ((scores > target_scores) & candidates).sum(dim=1)  # (B,)
    equal = ((scores == target_scores) & candidates).sum(dim=1)  # (B,)
    return 1.0 + greater.double() + equal.double() / 2


def item_log_probs(
    scores: Tensor,
    positives: Tensor,
    temperature: float,
    excluded: Tensor | None = None,
) -> Tensor:
    """Log-softmax of each row's own item among candidates: log π(v⁺ | x_u, o_i) of Eq. 7, and log R_c of Eq. 5.

    For Eq. 7 the candidates are the *distinct* target items of the batch, so a target that several users share is one
    candidate and never a negative of itself; for Eq. 5 they are the whole catalogue.

    Args:
        scores: (B, M) similarities between user states and candidate items, not yet divided by τ.
        positives: (B,) column of each row's own target.
        temperature: τ.
        excluded: (B, M) bool, True where a candidate must not count (already in the history). The own target always
            counts.

    Returns:
        (B,) log-probabilities.
    """
    logits = scores / temperature  # (B, M)
    if excluded is not None:
        rows = torch.arange(len(positives), device=scores.device)
        excluded = excluded.index_put((rows, positives), torch.tensor(False, device=scores.device))
        logits = logits.masked_fill(excluded, -torch.inf)
    return logits.log_softmax(dim=1).gather(1, positives[:, None]).squeeze(1)  # (B,)


def all_log_probs(scores: Tensor, temperature: float, seen: Tensor) -> Tensor:
    """log π(v | x_u, o) of every item (B, N) among the items that are not `seen`; of a seen one, s / τ less the same
    sum, so that it keeps its place among the others.

    Args:
        scores: (B, N) similarities, not yet divided by τ.
        temperature: τ.
        seen: (B, N) bool, True where an item is no candidate.
    """
    logits = scores / temperature
    return logits - logits.masked_fill(seen, -torch.inf).logsumexp(dim=1, keepdim=True)


SCORES_HELD = 2**26
"""Scores that are ranked at a time, at most: 256 MiB, and about as much again in masks and comparisons."""
BLOCK = 2**20
"""Scores held at a time where no other number is given: they stay in a processor's cache, and kernels stay busy."""
FEW = 32
"""Users whose lists are made together even of a large catalogue, since each product reads the whole table."""


def row_blocks(rows: int, num_items: int) -> list[slice]:
    """Rows whose scores for all items are held at a time: about `SCORES_HELD` scores; one block where there is no row.

    >>> row_blocks(100, 2**20)
    [slice(0, 64, None), slice(64, 128, None)]
    """
    size = max(1, SCORES_HELD // num_items)
    return [slice(start, start + size) for start in range(0, max(1, rows), size)]


def seen_mask(histories: Sequence[Sequence[int]], num_items: int) -> Tensor:
    """(B, N) bool, True where an item is in the row's history."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    mask = np.zeros((len(histories), num_items), bool)
    mask[rows, np.concatenate([[], *histories]).astype(int)] = True
    return torch.from_numpy(mask)


def topk(
    users: Tensor, table: Tensor, k: int, chunk: int | None = None, similarity: str = "inner"
) -> tuple[Tensor, Tensor]:
    """The k best items of each user without ever holding the (B, N) scores.

    Args:
        users: (B, d) states.
        table: (N, d) item vectors; in bfloat16 they take half the memory, and are widened as they are read.
        chunk: items multiplied at a time; None holds about `BLOCK` scores.

    Returns:
        Scores (B, k), falling, and item indexes (B, k); items of equal score are in catalogue order.
    """
    best, items = users.new_empty(len(users), 0), torch.empty(len(users), 0, dtype=torch.long, device=users.device)
    chunk = chunk or max(k, BLOCK // len(users))
    for start in range(0, len(table), chunk):
        scores = similarity_scores(users, table[start : start + chunk].to(users.dtype), similarity)
        values, columns = stable_topk(scores, k)
        values, columns = torch.cat([best, values], 1), torch.cat([items, columns + start], 1)
        best, order = values.sort(dim=1, descending=True, stable=True)  # earlier chunks come first among equals
        best, items = best[:, :k], columns.gather(1, order[:, :k])
    return best, items


def stable_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk`, but of equal scores the first ones, in order; all of a row where k is larger."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:
        for row in (values[:, k - 1] == values[:, k]).nonzero().flatten().tolist():  # a tie for the last place
            columns[row, :k] = scores[row].argsort(descending=True, stable=True)[:k]
    columns = columns[:, :k].sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)
