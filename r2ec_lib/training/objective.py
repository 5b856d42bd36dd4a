"""The mathematics of RecPO as pure functions: tensors in, tensors out.

Equation numbers are those of R²ec (arXiv 2505.16994 v3). Nothing here knows of models, tokens or trainers; what the
trainer does with these functions is in `trainer.py`. Letters in shapes: B rows (trajectories), N catalogue items,
M distinct target items of a batch, U users (groups), G trajectories a user, d hidden size.
"""

import torch
from torch import Tensor


def require_numbers(values: Tensor, what: str, step: int, learning_rate: float) -> None:
    """Raises FloatingPointError where `values` are none; `what` they are and what made them stand in the message."""
    if not torch.isfinite(values).all():
        raise FloatingPointError(
            f"after step {step} (learning rate {learning_rate:g}) NaN or infinity is in {what}; a lower learning rate "
            "may help"
        )


def ndcg(ranks: Tensor, k: int) -> Tensor:
    """NDCG@k with one relevant item, R_d of Eq. 4: 1 / log2(rank + 1) if rank ≤ k, else 0. Any shape.

    >>> ndcg(torch.tensor([1.0, 3.0, 11.0]), k=10).tolist()
    [1.0, 0.5, 0.0]
    """
    return torch.where(ranks <= k, 1 / torch.log2(ranks + 1), torch.zeros_like(ranks))


def best_trajectories(rewards: Tensor, top: int = 1) -> Tensor:
    """Marks i* = argmax_j A_j of each group (Eq. 8), or the `top` best; of equal ones the first.

    Args:
        rewards: (U, G) rewards or advantages.

    Returns:
        (U, G) bool with `top` True values a row.
    """
    order = rewards.argsort(dim=1, descending=True, stable=True)[:, :top]  # (U, top)
    return torch.zeros_like(rewards, dtype=torch.bool).scatter(1, order, True)


def clipped(ratio: Tensor, advantage: Tensor, epsilon_low: float = 0.2, epsilon_high: float = 0.2) -> Tensor:
    """ℓ_ε(r, A) = min(r A, clip(r, 1 − ε_low, 1 + ε_high) A) of Eq. 8. `ratio` and `advantage` broadcast."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon_low, 1 + epsilon_high) * advantage)
