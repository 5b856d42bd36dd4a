"""Scores, ranks and the best items of a catalogue: tensors in, tensors out.

Training, validation, evaluation and recommendation all rank through these functions, so they cannot disagree.
Equation numbers are those of R²ec (arXiv 2505.16994 v3). Letters in shapes: B rows, N catalogue items, M candidate
items, d hidden size.
"""

from collections.abc import Iterator, Sequence

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
    elif similarity != "inner":
        raise ValueError(f"similarity is {similarity!r}; expected one of {SIMILARITIES}")
    return states @ items.T


def target_ranks(scores: Tensor, targets: Tensor, seen: Tensor | None = None) -> Tensor:
    """Rank of each row's target among all candidates, 1 is best; ties stand at their average position.

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


SCORES_HELD = 2**26
"""Scores that `rank_all` asks for at a time, at most: 256 MiB, and about as much again in masks and comparisons."""
BLOCK = 2**20
"""Scores held at a time where nothing else is said: they stay in a processor's cache, and kernels stay busy."""


# ---- dense ranks of any scorer -------------------------------------------------------------------------------------


def seen_mask(histories: Sequence[Sequence[int]], num_items: int) -> Tensor:
    """(B, N) bool, True where an item is in the row's history."""
    rows, items = _flat(histories)
    mask = torch.zeros(len(histories), num_items, dtype=torch.bool)
    mask[rows, items] = True
    return mask


def topk(
    users: Tensor,
    table: Tensor,
    k: int,
    seen: Sequence[Sequence[int]] | None = None,
    *,
    chunk: int | None = None,
    user_chunk: int = 1_024,
) -> tuple[Tensor, Tensor]:
    """The k best items of each user without ever holding the (B, N) scores.

    Once k items are known, only scores above the k-th are looked at again: of N items in no particular order about
    k · ln(N / k) ever are.

    Args:
        users: (B, d) states.
        table: (N, d) item vectors.
        seen: a list of item indexes for each user, which are no candidates.
        chunk, user_chunk: items and users multiplied at a time; a chunk of None holds `BLOCK` scores.

    Returns:
        Scores (B, k), falling, and item indexes (B, k). Items of equal score stand in catalogue order, and the earlier
        one wins the last place.
    """
    longest = max(map(len, seen), default=0) if seen is not None else 0
    if not 1 <= k <= len(table) - longest:
        raise ValueError(f"k is {k}; {len(table)} items less a history of {longest} leave {len(table) - longest}")
    all_scores, all_items = [], []
    for picked in torch.arange(len(users), device=users.device).split(user_chunk):
        hidden = None if seen is None else [seen[i] for i in picked.tolist()]
        best = users.new_empty(len(picked), 0)
        items = torch.empty(len(picked), 0, dtype=torch.long, device=users.device)
        for start, scores in _chunks(users[picked], table, chunk, hidden):
            if best.shape[1] < k:
                values, columns = stable_topk(scores, min(k, scores.shape[1]))
            else:
                values, columns = _above(scores, best[:, -1:], k)  # an equal score comes too late
            best, columns = torch.cat([best, values], 1), torch.cat([items, columns + start], 1)
            best, order = best.sort(dim=1, descending=True, stable=True)  # earlier chunks come first among equals
            best, items = best[:, :k], columns.gather(1, order[:, :k])
        all_scores.append(best)
        all_items.append(items)
    return torch.cat(all_scores), torch.cat(all_items)


def _above(scores: Tensor, limits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores (b, w) above each row's limit (b, 1) and their columns, in order; w is what the fullest row needs.

    Shorter rows end in −∞. Where much is above, the k best of each row are enough.
    """
    rows, columns = (scores > limits).nonzero(as_tuple=True)
    if len(rows) > k * len(scores):
        return stable_topk(scores, min(k, scores.shape[1]))
    counts = torch.bincount(rows, minlength=len(scores))  # (b,)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    values = scores.new_full((len(scores), int(counts.max())), -torch.inf)
    found = torch.zeros_like(values, dtype=torch.long)
    values[rows, place], found[rows, place] = scores[rows, columns], columns
    return values, found


def stable_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk`, but of equal scores the first ones, in order."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:
        for row in (values[:, k - 1] == values[:, k]).nonzero().flatten().tolist():  # a tie for the last place
            columns[row, :k] = scores[row].argsort(descending=True, stable=True)[:k]
    columns = columns[:, :k].sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _chunks(users: Tensor, table: Tensor, chunk: int | None, seen: list | None) -> Iterator[tuple[int, Tensor]]:
    """(start, scores (b, ≤ chunk)) over the table, seen items at −inf.

    All scores are written to one place: each stands until the next is asked for.
    """
    rows, items = _flat(seen) if seen is not None else (torch.empty(0).long(), torch.empty(0).long())
    chunk = min(chunk or max(1, BLOCK // len(users)), len(table))
    held = users.new_empty(len(users) * chunk)
    for start in range(0, len(table), chunk):
        stop = min(start + chunk, len(table))
        scores = held[: len(users) * (stop - start)].view(len(users), -1)  # (b, stop - start)
        torch.mm(users, table[start:stop].T, out=scores)
        if torch.isnan(scores.sum()) and (broken := torch.isnan(scores)).any():
            row, column = broken.nonzero()[0].tolist()
            raise ValueError(f"the score of item {start + column} is NaN for row {row} of a block of users")
        inside = (items >= start) & (items < stop)
        scores[rows[inside], items[inside] - start] = -torch.inf
        yield start, scores


def _flat(lists: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Row numbers and values of a list of index lists."""
    rows = np.repeat(np.arange(len(lists)), [len(values) for values in lists])
    values = np.concatenate([np.asarray(values, dtype=np.int64) for values in lists] or [np.empty(0, np.int64)])
    return torch.from_numpy(rows), torch.from_numpy(values)
