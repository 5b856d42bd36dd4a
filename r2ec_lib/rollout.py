"""What the trainer keeps between sampling and the loss, beside TRL's own tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor


@dataclass
class Rollout:
    """What the reward and the loss need of the trajectories that were sampled last, beside TRL's own tensors.

    B counts the rows of this process, B_all those of all processes, M the distinct target items of all processes.
    """

    written: list[bool]  # B: whether the model wrote `<answer>` itself
    chains: list[list[int]] = field(default_factory=list)  # B: each ends in `<answer>`
    rows: Tensor | None = None  # (B,) row of the samples table
    ranks: Tensor | None = None  # (B,)
    parts: Tensor | None = None  # (B, 2) R_d and R_c
    judged: Tensor | None = None  # (B,) reward from people's judgements, where it is asked for
    states: Tensor | None = None  # (B, d) h_T at sampling time, no gradient; read on the way where we sample
    batch_targets: Tensor | None = None  # (M,) sorted item indexes

    def table_rows(
        self,
        count: int,
        trajectories: int,
        output: dict[str, Tensor],
        rewards: Tensor,
        samples: pd.DataFrame,
        decode: Callable[[Sequence[int]], str],
    ) -> list[dict]:
        """The first `count` trajectories as rows of the rollouts table, numbered within their groups.

        Args:
            trajectories: G.
            output: TRL's tensors of the rollout, with `advantages` and `best`.
            rewards: (B,) fused rewards.
        """
        rows = []
        for row in range(count):
            rows.append(
                {
                    "sample_id": int(samples["sample_id"].iloc[int(self.rows[row])]),
                    "trajectory": row % trajectories,
                    "chain": decode(self.chains[row]),
                    "tokens": len(self.chains[row]),
                    "closed": self.written[row],
                    "rank": float(self.ranks[row]),
                    "reward": float(rewards[row]),
                    "reward_ndcg": float(self.parts[row, 0]),
                    "reward_similarity": float(self.parts[row, 1]),
                    "advantage": float(output["advantages"][row]),
                    "best": bool(output["best"][row]),
                }
            )
        return rows


def close(
    chains: Sequence[list[int]], answer_id: int, tailed: Callable[[Sequence[list[int]]], list[list[int]]]
) -> tuple[list[bool], list[list[int]], list[list[int]]]:
    """Ends chains as they were sampled: by `<answer>`, and by the read-out's token where it has one.

    tailed: adds that token to chains that end in `<answer>`.

    Returns:
        Whether the model wrote `<answer>` itself, the chains with `<answer>`, and what was put after each one.
    """
    written = [chain[-1] == answer_id for chain in chains]
    closed = [chain if own else [*chain, answer_id] for chain, own in zip(chains, written, strict=True)]
    added = [full[len(chain) :] for full, chain in zip(tailed(closed), chains, strict=True)]
    return written, closed, added


def repetition(chains: Sequence[Sequence[int]]) -> float:
    """Mean over chains of 1 − different token triples / token triples; 0 for a chain with fewer than two.

    >>> repetition([[1, 2, 3, 4, 2], [7, 7, 7, 7, 7, 2]])  # (0 + 2 / 4) / 2: of its four triples two differ
    0.25
    """
    shares = []
    for chain in chains:
        triples = list(zip(chain, chain[1:], chain[2:], strict=False))
        shares.append(1 - len(set(triples)) / len(triples) if len(triples) > 1 else 0.0)
    return sum(shares) / len(shares)


def marked_rows(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trajectories that carry the recommendation action: rows of `inputs` where `best` is True.

    While the token terms are off and nothing else asks for the other rows, these alone have a gradient. Where none is
    marked the first row stays, so that every process makes the same number of forwards; it earns no gradient either.
    """
    rows = inputs["best"].nonzero().squeeze(1)
    rows = rows if len(rows) else torch.zeros(1, dtype=torch.long, device=rows.device)
    return {name: value[rows] if value.dim() else value for name, value in inputs.items()}
