"""The mathematics of RecPO as pure functions: tensors in, tensors out.

Equation numbers are those of R²ec (arXiv 2505.16994 v3). Nothing here knows of models, tokens or trainers; what the
trainer does with these functions is in `recpo.py`. Letters in shapes: B rows (trajectories), N catalogue items,
M distinct target items of a batch, U users (groups), G trajectories a user, d hidden size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SIMILARITIES = ("inner", "cosine")
ESTIMATORS = ("grpo", "rloo")


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


def ndcg(ranks: Tensor, k: int) -> Tensor:
    """NDCG@k with one relevant item, R_d of Eq. 4: 1 / log2(rank + 1) if rank ≤ k, else 0. Any shape.

    >>> ndcg(torch.tensor([1.0, 3.0, 11.0]), k=10).tolist()
    [1.0, 0.5, 0.0]
    """
    return torch.where(ranks <= k, 1 / torch.log2(ranks + 1), torch.zeros_like(ranks))


def target_probabilities(scores: Tensor, targets: Tensor, temperature: float, seen: Tensor | None = None) -> Tensor:
    """Softmax of the target's score over the whole catalogue, R_c of Eq. 5.

    Args:
        scores: (B, N) similarities, not yet divided by τ.
        targets: (B,) item indexes.
        temperature: τ.
        seen: (B, N) bool, True where an item is no candidate. The target is always a candidate.

    Returns:
        (B,) probabilities in the scores' dtype.
    """
    logits = scores / temperature  # (B, N)
    if seen is not None:
        rows = torch.arange(len(targets), device=scores.device)
        blocked = seen.index_put((rows, targets), torch.tensor(False, device=scores.device))
        logits = logits.masked_fill(blocked, -torch.inf)
    return logits.log_softmax(dim=1).gather(1, targets[:, None]).squeeze(1).exp()


def fused_reward(discrete: Tensor, continuous: Tensor, reward_mix: float) -> Tensor:
    """R = β R_c + (1 − β) R_d (Eq. 5); `reward_mix` is β. Any shape."""
    return reward_mix * continuous + (1 - reward_mix) * discrete


def advantages(rewards: Tensor, estimator: str = "grpo", epsilon: float = 1e-4) -> Tensor:
    """Advantage of each trajectory within its group (Eq. 2).

    "grpo": A_i = (R_i − mean R) / (std R + ε), with the sample standard deviation, as in TRL; ε keeps a group of all
    but equal rewards from being blown up to unit size. "rloo": A_i = R_i − mean of the other G − 1 rewards.

    Args:
        rewards: (U, G), G ≥ 2.

    Returns:
        (U, G). Equal rewards give exactly 0 under both estimators, up to rounding of the mean.

    >>> advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), "rloo")[0, 0].item()  # 1 - (0 + 0 + 0) / 3
    1.0
    """
    group_size = rewards.shape[1]
    if group_size < 2:
        raise ValueError(f"an advantage compares at least 2 trajectories of a user; the groups hold {group_size}")
    centred = rewards - rewards.mean(dim=1, keepdim=True)  # (U, G)
    if estimator == "grpo":
        return centred / (rewards.std(dim=1, keepdim=True) + epsilon)
    if estimator == "rloo":
        return centred * group_size / (group_size - 1)
    raise ValueError(f"estimator is {estimator!r}; expected one of {ESTIMATORS}")


def best_trajectories(rewards: Tensor, top: int = 1) -> Tensor:
    """Marks i* = argmax_j A_j of each group (Eq. 8), or the `top` best; of equal ones the first.

    Args:
        rewards: (U, G) rewards or advantages.

    Returns:
        (U, G) bool with `top` True values a row.
    """
    order = rewards.argsort(dim=1, descending=True, stable=True)[:, :top]  # (U, top)
    return torch.zeros_like(rewards, dtype=torch.bool).scatter(1, order, True)


def item_log_probs(
    scores: Tensor,
    positives: Tensor,
    temperature: float,
    excluded: Tensor | None = None,
) -> Tensor:
    """log π(v⁺ | x_u, o_i) of Eq. 7: a softmax over the distinct target items of the batch.

    The columns are *distinct* items, so a target that several users share is one candidate and never a negative of
    itself. Columns beyond the batch's targets (constant catalogue rows) may follow.

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


def divergence(log_probs: Tensor, start: Tensor, actions: Tensor) -> Tensor:
    """Sum over tokens of r − log r − 1, r = π_start / π, which estimates the KL to a start, and their count: (2,).

    Args:
        log_probs, start: (B, C) log-probabilities of the tokens, which the first one sampled.
        actions: (B, C) 1 where a token counts.
    """
    log_ratio = start - log_probs
    return torch.stack([((log_ratio.exp() - log_ratio - 1) * actions).sum(), actions.sum().to(log_probs)])


def clipped(ratio: Tensor, advantage: Tensor, epsilon_low: float = 0.2, epsilon_high: float = 0.2) -> Tensor:
    """ℓ_ε(r, A) = min(r A, clip(r, 1 − ε_low, 1 + ε_high) A) of Eq. 8. `ratio` and `advantage` broadcast."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon_low, 1 + epsilon_high) * advantage)
