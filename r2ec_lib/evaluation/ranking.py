"""One evaluator for every model: full-catalogue ranks, Hit@K and NDCG@K.

Candidates are all items of the catalogue except those in the sample's own history; ties share their average position
(`scoring.target_ranks`); each sample has one relevant item. Nothing here knows what a model is: a scorer is a function
from a slice of the samples table to a (B, N) tensor of scores. Intervals and tests are in `uncertainty`.
Letters in shapes: B samples, N catalogue items, S all samples.
"""

import operator
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from r2ec_lib.model.scoring import SCORES_HELD, seen_mask, target_ranks

KS = (5, 10, 20)
Scorer = Callable[[pd.DataFrame], Tensor]
RANKING_COLUMNS = ["model", "sample_id", "user_id", "target", "rank", "score", "candidates", "seconds"]


def hit_at(ranks: ArrayLike, k: int) -> np.ndarray:
    """Hit@k of each rank: 1 if rank ≤ k, else 0.

    >>> hit_at([1, 5.5, 6], k=5).tolist()
    [1.0, 0.0, 0.0]
    """
    return (np.asarray(ranks, dtype=float) <= k).astype(float)


def ndcg_at(ranks: ArrayLike, k: int) -> np.ndarray:
    """NDCG@k of each rank with one relevant item: 1 / log2(rank + 1) if rank ≤ k, else 0.

    >>> ndcg_at([1, 3, 6], k=5).tolist()  # 1 / log2(2), 1 / log2(4)
    [1.0, 0.5, 0.0]
    """
    return hit_at(ranks, k) / np.log2(np.asarray(ranks, dtype=float) + 1)


def metric_values(ranks: ArrayLike, metric: str) -> np.ndarray:
    """The metric called `metric`, such as "hit@5" or "ndcg@20", of each rank."""
    name, _, k = metric.partition("@")
    if name not in ("hit", "ndcg") or not k.isdigit():
        raise ValueError(f"metric is {metric!r}; expected hit@K or ndcg@K, such as 'ndcg@20'")
    return (hit_at if name == "hit" else ndcg_at)(ranks, int(k))


def metric_names(ks: Sequence[int] = KS) -> list[str]:
    """Hit@K, then NDCG@K, for growing K."""
    return [f"{name}@{k}" for name in ("hit", "ndcg") for k in sorted(ks)]


def metrics(rankings: pd.DataFrame, ks: Sequence[int] = KS) -> dict[str, float]:
    """Mean Hit@K and NDCG@K of one model's rankings. Raises ValueError where no rankings have such metrics."""
    if rankings["sample_id"].duplicated().any():
        raise ValueError("the rankings hold a sample more than once; pass the rows of one model")
    result = {name: float(metric_values(rankings["rank"], name).mean()) for name in metric_names(ks)}
    hits, gains = ([result[f"{name}@{k}"] for k in sorted(ks)] for name in ("hit", "ndcg"))
    if sorted(hits) != hits or sorted(gains) != gains or any(map(operator.gt, gains, hits)):
        raise ValueError(f"no rankings have these metrics: NDCG exceeds Hit, or one falls as K grows, in {result}")
    return result


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
        model: the name in the `model` column and in errors.
        mask_seen: whether the items of a sample's history are no candidates; its target always is one.
        batch_size: B; smaller where a large catalogue would need more than `SCORES_HELD` scores at a time.

    Returns:
        One row per sample with `RANKING_COLUMNS`: rank (1 is best, ties at their average), the target's score, the
        number of candidates, and the seconds of the batch's scoring divided by its size.

    Raises:
        ValueError: scores of a wrong shape, or a NaN score.
    """
    parts = []
    batch_size = max(1, min(batch_size, SCORES_HELD // num_items))
    for start in range(0, len(samples), batch_size):
        batch = samples.iloc[start : start + batch_size]
        began = time.perf_counter()
        scores = score(batch).detach().float().cpu()  # (B, N)
        seconds = (time.perf_counter() - began) / len(batch)
        if scores.shape != (len(batch), num_items):
            raise ValueError(f"{model}: scores of shape {tuple(scores.shape)}; expected {(len(batch), num_items)}")
        targets = torch.tensor(batch["target"].to_numpy(), dtype=torch.long)
        seen = seen_mask(batch["history"].to_list(), num_items) if mask_seen else None
        hidden = 0 if seen is None else seen.sum(dim=1).numpy()
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
