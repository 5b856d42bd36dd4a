"""One evaluator for every model: full-catalogue ranks, Hit@K and NDCG@K, and streaming ranks and top-K.

Candidates are all items of the catalogue but those in the sample's own history; ties stand at their average position
(`objective.target_ranks`); each sample has one relevant item. Nothing here knows what a model is: a scorer is a
function from a slice of the samples table to a (B, N) tensor of scores. Intervals and tests are in `statistics`.
Letters in shapes: B samples, N catalogue items, d hidden size, S all samples.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from r2ec_lib.objective import target_ranks

KS = (5, 10, 20)
Scorer = Callable[[pd.DataFrame], Tensor]
RANKING_COLUMNS = ["model", "sample_id", "user_id", "target", "rank", "score", "candidates", "seconds"]
SCORES_HELD = 2**26
"""Scores that `rank_all` asks for at a time, at most: 256 MiB, and about as much again in masks and comparisons."""
BLOCK = 2**20
"""Scores held at a time where nothing else is said: they stay in a processor's cache, and kernels stay busy."""


def hit_at(ranks: np.ndarray, k: int) -> np.ndarray:
    """Hit@k of each rank: 1 if rank ≤ k, else 0.

    >>> hit_at([1, 5.5, 6], k=5).tolist()
    [1.0, 0.0, 0.0]
    """
    return (np.asarray(ranks, dtype=float) <= k).astype(float)


def ndcg_at(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k of each rank with one relevant item: 1 / log2(rank + 1) if rank ≤ k, else 0.

    >>> ndcg_at([1, 3, 6], k=5).tolist()  # 1 / log2(2), 1 / log2(4)
    [1.0, 0.5, 0.0]
    """
    return hit_at(ranks, k) / np.log2(np.asarray(ranks, dtype=float) + 1)


def metric_values(ranks: np.ndarray, metric: str) -> np.ndarray:
    """The metric called `metric`, such as "hit@5" or "ndcg@20", of each rank."""
    name, _, k = metric.partition("@")
    if name not in ("hit", "ndcg") or not k.isdigit():
        raise ValueError(f"metric is {metric!r}; expected hit@K or ndcg@K, such as 'ndcg@20'")
    return (hit_at if name == "hit" else ndcg_at)(ranks, int(k))


def metric_names(ks: Sequence[int] = KS) -> list[str]:
    """Hit@K, then NDCG@K, for growing K."""
    return [f"{name}@{k}" for name in ("hit", "ndcg") for k in sorted(ks)]


def metrics(rankings: pd.DataFrame, ks: Sequence[int] = KS) -> dict[str, float]:
    """Mean Hit@K and NDCG@K of one model's rankings, checked by `check_metrics`."""
    if rankings["sample_id"].duplicated().any():
        raise ValueError("the rankings hold a sample more than once; pass the rows of one model")
    result = {name: float(metric_values(rankings["rank"], name).mean()) for name in metric_names(ks)}
    check_metrics(result)
    return result


def check_metrics(values: dict[str, float]) -> None:
    """Raises ValueError where a value leaves 0…1, NDCG@K exceeds Hit@K, or a metric falls as K grows.

    With one relevant item none of these can happen, so a table that fails holds a mistake.
    """
    ks = sorted({int(name.partition("@")[2]) for name in values if name.startswith(("hit@", "ndcg@"))})
    slack = 1e-9
    for name in ("hit", "ndcg"):
        curve = [(k, values[f"{name}@{k}"]) for k in ks if f"{name}@{k}" in values]
        for k, value in curve:
            if not 0 <= value <= 1:
                raise ValueError(f"{name}@{k} is {value}; expected a number from 0 to 1")
        for (small, low), (large, high) in pairwise(curve):
            if low > high + slack:
                raise ValueError(f"{name}@{small} is {low}, above {name}@{large} = {high}; a metric grows with K")
    for k in ks:
        if values.get(f"ndcg@{k}", 0) > values.get(f"hit@{k}", 1) + slack:
            raise ValueError(f"ndcg@{k} is {values[f'ndcg@{k}']}, above hit@{k} = {values[f'hit@{k}']}; impossible")


# ---- dense ranks of any scorer -------------------------------------------------------------------------------------


def seen_mask(histories: Sequence[Sequence[int]], num_items: int) -> Tensor:
    """(B, N) bool, True where an item is in the row's history."""
    rows, items = _flat(histories)
    mask = torch.zeros(len(histories), num_items, dtype=torch.bool)
    mask[rows, items] = True
    return mask


def rank_all(
    score: Scorer,
    samples: pd.DataFrame,
    num_items: int,
    *,
    model: str,
    mask_seen: bool = True,
    batch_size: int = 128,
) -> pd.DataFrame:
    """Ranks each sample's target among the whole catalogue.

    Args:
        score: from a slice of `samples` to its (B, N) scores; higher is better. It masks nothing itself.
        samples: rows of the samples table.
        num_items: N.
        model: the name in the `model` column and in errors.
        mask_seen: whether the items of a sample's history are no candidates.
        batch_size: B; the scores of one batch are held at a time. Where the catalogue is so large that they were more
            than `SCORES_HELD`, the batches are smaller.

    Returns:
        One row a sample with `RANKING_COLUMNS`: rank (1 is best, ties at their average), the target's score, the
        number of candidates, and the seconds of the batch's scoring divided by its size.

    Raises:
        ValueError: scores of a wrong shape, a NaN score, or a target that masking would hide.
    """
    if mask_seen:
        check_targets(samples)
    parts = []
    batch_size = max(1, min(batch_size, SCORES_HELD // num_items))
    for start in range(0, len(samples), batch_size):
        batch = samples.iloc[start : start + batch_size]
        began = time.perf_counter()
        scores = score(batch).detach().float().cpu()  # (B, N)
        seconds = (time.perf_counter() - began) / len(batch)
        if scores.shape != (len(batch), num_items):
            raise ValueError(f"{model}: scores of shape {tuple(scores.shape)}; expected {(len(batch), num_items)}")
        broken = torch.isnan(scores).any(dim=1)
        if broken.any():
            first = batch["sample_id"].iloc[int(broken.nonzero()[0])]
            raise ValueError(f"{model}: NaN among the scores of sample {first} ({int(broken.sum())} of its batch)")
        targets = torch.tensor(batch["target"].to_numpy(), dtype=torch.long)
        seen = seen_mask(batch["history"].to_list(), num_items) if mask_seen else None
        hidden = seen.sum(dim=1).numpy() if mask_seen else 0
        parts.append(
            batch[["sample_id", "user_id", "target"]].assign(
                model=model,
                rank=target_ranks(scores, targets, seen).double().numpy(),
                score=scores.gather(1, targets[:, None]).squeeze(1).numpy(),
                candidates=num_items - hidden,
                seconds=seconds,
            )
        )
    if not parts:
        raise ValueError(f"{model}: no samples to rank")
    return pd.concat(parts, ignore_index=True)[RANKING_COLUMNS]


def check_targets(samples: pd.DataFrame) -> None:
    """Raises ValueError where a sample's target is in its own history: masking would make it unreachable."""
    for sample_id, target, history in zip(samples["sample_id"], samples["target"], samples["history"], strict=True):
        if target in history:
            raise ValueError(
                f"sample {sample_id}: target {target} is in its own history, which masking hides. Drop such samples "
                "when splitting, or rank with mask_seen=False."
            )


def latency(
    score: Scorer, samples: pd.DataFrame, *, model: str, batch_sizes: Sequence[int] = (1, 32), queries: int = 8
) -> list[dict]:
    """Median seconds a query of `score` at each batch size, over `queries` batches after one that is not timed.

    Returns:
        One row a batch size: model, batch_size, seconds (of one query, the batch's time divided by its size), batches.
    """
    rows = []
    for size in batch_sizes:
        seconds = []
        for i in range(queries + 1):
            batch = samples.iloc[np.arange(i * size, (i + 1) * size) % len(samples)]
            began = time.perf_counter()
            score(batch).cpu()  # waits for an accelerator
            seconds.append((time.perf_counter() - began) / size)
        rows.append({"model": model, "batch_size": size, "seconds": float(np.median(seconds[1:])), "batches": queries})
    return rows


# ---- streaming over the catalogue ----------------------------------------------------------------------------------


def streaming_ranks(
    users: Tensor,
    table: Tensor,
    targets: Tensor,
    seen: Sequence[Sequence[int]] | None = None,
    *,
    chunk: int | None = None,
    user_chunk: int = 1_024,
) -> tuple[Tensor, Tensor]:
    """`target_ranks(users @ table.T, targets, seen)` without ever holding the (B, N) scores.

    Extra memory is about 10 × chunk × user_chunk bytes, 11 MB as set here, whatever B and N are. A target's own score
    is read from the same product that ranks it, so equal scores stay equal; users are visited in the order of their
    targets, so that this first pass touches few chunks.

    Args:
        users: (B, d) states.
        table: (N, d) item vectors.
        targets: (B,) item indexes; a target is always a candidate.
        seen: a list of item indexes for each user, which are no candidates.
        chunk, user_chunk: items and users multiplied at a time; a chunk of None holds `BLOCK` scores.

    Returns:
        Ranks (B,) float64 and the targets' scores (B,), both in the order of `users`.
    """
    ranks = torch.empty(len(users), dtype=torch.float64)
    own_scores = torch.empty(len(users), dtype=users.dtype)
    order = torch.argsort(targets, stable=True)
    for picked in order.split(user_chunk):
        block, wanted = users[picked], targets[picked]  # (b, d), (b,)
        hidden = None if seen is None else [seen[i] for i in picked.tolist()]
        own = torch.empty(len(block), dtype=users.dtype)
        for start, scores in _chunks(block, table, chunk, None, wanted):
            inside = (wanted >= start) & (wanted < start + scores.shape[1])
            own[inside] = scores[inside, wanted[inside] - start]
        above = torch.zeros(len(block), dtype=torch.float64)
        for start, scores in _chunks(block, table, chunk, hidden):
            inside = (wanted >= start) & (wanted < start + scores.shape[1])
            scores[inside, wanted[inside] - start] = -torch.inf  # the target does not compete with itself
            above += (scores > own[:, None]).sum(dim=1) + (scores == own[:, None]).sum(dim=1).double() / 2
        ranks[picked], own_scores[picked] = 1.0 + above, own
    return ranks, own_scores


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

    Args: as in `streaming_ranks`.

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
                values, columns = _stable_topk(scores, min(k, scores.shape[1]))
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
        return _stable_topk(scores, min(k, scores.shape[1]))
    counts = torch.bincount(rows, minlength=len(scores))  # (b,)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    values = scores.new_full((len(scores), int(counts.max())), -torch.inf)
    found = torch.zeros_like(values, dtype=torch.long)
    values[rows, place], found[rows, place] = scores[rows, columns], columns
    return values, found


def _stable_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk`, but of equal scores the first ones, in order."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:
        for row in (values[:, k - 1] == values[:, k]).nonzero().flatten().tolist():  # a tie for the last place
            columns[row, :k] = scores[row].argsort(descending=True, stable=True)[:k]
    columns = columns[:, :k].sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _chunks(
    users: Tensor, table: Tensor, chunk: int | None, seen: list | None, only: Tensor | None = None
) -> Iterator[tuple[int, Tensor]]:
    """(start, scores (b, ≤ chunk)) over the table, seen items at −inf; `only` keeps chunks that hold one of these.

    All scores are written to one place: each stands until the next is asked for.
    """
    rows, items = _flat(seen) if seen is not None else (torch.empty(0).long(), torch.empty(0).long())
    chunk = min(chunk or max(1, BLOCK // len(users)), len(table))
    held = users.new_empty(len(users) * chunk)
    for start in range(0, len(table), chunk):
        stop = min(start + chunk, len(table))
        if only is not None and not ((only >= start) & (only < stop)).any():
            continue
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
