"""One evaluator for every model: full-catalogue ranks, Hit@K and NDCG@K.

Candidates are all items of the catalogue except those in the sample's own history; ties share their average position
(`scoring.target_ranks`); each sample has one relevant item. Nothing here knows what a model is: a scorer is a function
from a slice of the samples table to a (B, N) tensor of scores. Intervals and tests are in `uncertainty`.
Letters in shapes: B samples, N catalogue items, S all samples.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from r2ec_lib.model.scoring import SCORES_HELD, seen_mask, stable_topk, target_ranks

KS = (5, 10, 20)
Scorer = Callable[[pd.DataFrame], Tensor]


def metric_values(ranks: ArrayLike, metric: str) -> np.ndarray:
    """Hit@K ("hit@5": 1 if rank ≤ 5, else 0) or NDCG@K with one relevant item (Hit@K / log2(rank + 1)) of each rank.

    >>> metric_values([1, 5.5, 6], "hit@5").tolist()
    [1.0, 0.0, 0.0]
    >>> metric_values([1, 3, 6], "ndcg@5").tolist()  # 1 / log2(2), 1 / log2(4)
    [1.0, 0.5, 0.0]
    """
    name, _, k = metric.partition("@")
    if name not in ("hit", "ndcg") or not k.isdigit():
        raise ValueError(f"metric is {metric!r}; expected hit@K or ndcg@K, such as 'ndcg@20'")
    numbers = np.asarray(ranks, dtype=float)
    hits = (numbers <= int(k)).astype(float)
    return hits if name == "hit" else hits / np.log2(numbers + 1)


def metric_names(ks: Sequence[int] = KS) -> list[str]:
    """Hit@K, then NDCG@K, for growing K."""
    return [f"{name}@{k}" for name in ("hit", "ndcg") for k in sorted(ks)]


def metrics(rankings: pd.DataFrame, ks: Sequence[int] = KS) -> dict[str, float]:
    """Mean Hit@K and NDCG@K of one model's rankings."""
    if rankings["sample_id"].duplicated().any():
        raise ValueError("the rankings hold a sample more than once; pass the rows of one model")
    return {name: float(metric_values(rankings["rank"], name).mean()) for name in metric_names(ks)}


def rank_all(
    score: Scorer,
    samples: pd.DataFrame,
    num_items: int,
    *,
    model: str,
    mask_seen: bool = True,
    batch_size: int = 128,
    k: int = 0,
) -> pd.DataFrame:
    """Ranks each sample's target among the whole catalogue.

    Args:
        score: from a slice of `samples` to its (B, N) scores; higher is better. It masks nothing itself.
        model: the name in the `model` column and in errors.
        mask_seen: whether the items of a sample's history are no candidates; its target always is one.
        batch_size: B; smaller where a large catalogue would need more than `SCORES_HELD` scores at a time.
        k: best candidates to list; 0 lists none.

    Returns:
        One row per sample: model, sample_id, user_id, target, rank (1 is best, ties at their average) and, where asked
        for, top_items (at most k indexes of candidates, best first) and top_scores.

    Raises:
        ValueError: scores of a wrong shape, or a NaN score.
    """
    parts = []
    batch_size = max(1, min(batch_size, SCORES_HELD // num_items))
    for start in range(0, len(samples), batch_size):
        batch = samples.iloc[start : start + batch_size]
        scores = score(batch)  # (B, N)
        if scores.shape != (len(batch), num_items):
            raise ValueError(f"{model}: scores of shape {tuple(scores.shape)}; expected {(len(batch), num_items)}")
        parts.append(rank_batch(scores, batch, mask_seen, k)[0])
    if not parts:
        raise ValueError(f"{model}: no samples to rank")
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "model", model)
    return table


def rank_batch(scores: Tensor, batch: pd.DataFrame, mask_seen: bool, k: int) -> tuple[pd.DataFrame, Tensor]:
    """The rows of `rank_all` for a batch of samples with (B, N) scores, without `model`; and these scores in float32
    on the CPU, −∞ where an item is no candidate. Raises ValueError for a NaN score."""
    scores = scores.detach().float().cpu()
    targets = torch.tensor(batch["target"].to_numpy(), dtype=torch.long)
    seen = seen_mask(batch["history"].to_list(), scores.shape[1]) & mask_seen  # (B, N)
    seen[torch.arange(len(batch)), targets] = False
    table = batch[["sample_id", "user_id", "target"]].assign(rank=target_ranks(scores, targets, seen).numpy())
    scores = scores.masked_fill(seen, -torch.inf)
    if k:
        values, items = stable_topk(scores, k)  # (B, k)
        real = values.isfinite()  # fewer than k where few items are candidates
        table["top_items"] = [row[some].int().numpy() for row, some in zip(items, real, strict=True)]
        table["top_scores"] = [row[some].numpy() for row, some in zip(values, real, strict=True)]
    return table, scores
