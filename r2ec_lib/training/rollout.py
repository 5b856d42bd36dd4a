"""A rollout of RecPO: reasonings are closed, their final states rank the catalogue, and ranks are rewarded.

Here are TRL's `rollout_func` and its reward functions. One pass computes all figures of a trajectory; the reward
functions only hand them on, so they can be called in any order. What is done with the rewards is TRL's business.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from r2ec_lib.model import R2ec, scoring
from r2ec_lib.training import objective

if TYPE_CHECKING:
    from r2ec_lib.training.trainer import RecPOTrainer


def roll_out(rows: list[int], trainer: "RecPOTrainer") -> dict[str, Any]:
    """One trajectory for each entry of `rows` (B), rows of the trainer's samples; each row stands in it G times.

    Returns:
        What TRL asks for (`prompt_ids`, `completion_ids`, `logprobs`, `env_mask`), the fields of `rewarded`, and for
        each trajectory `chain` (ids up to `<answer>`), `written` (whether the model wrote it) and `state` (d,).
        `figures` go into the log.
    """
    began = time.perf_counter()
    prompts = [trainer.prompt_ids[row] for row in rows]
    drawn = trainer.sample_chains(prompts)
    sampled = time.perf_counter()
    fields = rewarded(trainer, rows, drawn)
    figures = {
        "share_unclosed": 1 - sum(drawn.written) / len(rows),
        "repetition": repetition(drawn.chains),
        "seconds_sampling": sampled - began,
        "seconds_reward": time.perf_counter() - sampled,
    }
    read = {"chain": drawn.chains, "written": drawn.written, "state": list(drawn.states)}
    return {"prompt_ids": prompts, **drawn.completions(trainer.r2ec.closed), **read, **fields, "figures": figures}


def rewarded(trainer: "RecPOTrainer", rows: list[int], drawn: "Drawn") -> dict[str, Any]:
    """Ranks the catalogue by the final states of trajectories (B) and rewards them (Eq. 4 and 5).

    Returns:
        Lists of `rank`, `reward_ndcg`, `reward_similarity` and, with a judge, `reward_judged`; `candidates` (M,), the
        sorted target items of all processes, whose vectors in the item table are now those of the current weights.
    """
    numbers, head = torch.tensor(rows, device=trainer.accelerator.device), trainer.r2ec.head  # (B,)
    targets, seen = trainer.targets(numbers), trainer.seen(numbers)  # (B,), (B, N) or None
    candidates = trainer.accelerator.gather(targets).unique()  # (M,)
    trainer.items.update(trainer.model_wrapped, candidates, trainer.state.global_step)
    scores = head.scores(drawn.states)  # (B, N)
    trainer.require_numbers(scores)
    ranks = scoring.target_ranks(scores, targets, seen)  # (B,)
    fields = {
        "candidates": candidates,
        "rank": ranks.tolist(),
        "reward_ndcg": objective.ndcg(ranks, trainer.args.reward_cutoff).float().tolist(),
        "reward_similarity": scoring.target_probabilities(scores, targets, head.temperature, seen).tolist(),
    }
    if trainer.judge:
        fields["reward_judged"] = trainer.judge([trainer.r2ec.decode(chain) for chain in drawn.chains])
    return fields


def ndcg(reward_ndcg: list[float], figures: list[dict], log_metric: Callable[[str, float], None], **_) -> list[float]:
    """R_d of Eq. 4 for each trajectory; also logs the rollout's figures."""
    for name, value in figures[0].items():  # equal in all rows
        log_metric(name, value)
    return reward_ndcg


def similarity(reward_similarity: list[float], **_) -> list[float]:
    """R_c of Eq. 5 for each trajectory."""
    return reward_similarity


def judged(reward_judged: list[float], **_) -> list[float]:
    """What people's judgements of other reasonings say of each one, from −1 to 1."""
    return reward_judged


# ---- sampling and closing ------------------------------------------------------------------------------------------


@dataclass
class Drawn:
    """Chains as sampled and closed: the B of this process.

    Attributes:
        chains: token ids, each ending in the tokens of `<answer>`.
        actions: how many leading tokens of each chain the policy sampled itself; the others were appended.
        written: whether the model wrote `<answer>` itself.
        states: (B, d) h_T at sampling time, no gradient.
        log_probs: of the sampled tokens, where the sampler gives them.
    """

    chains: list[list[int]]
    actions: list[int]
    written: list[bool]
    states: Tensor
    log_probs: list[list[float]] | None = None

    def completions(self, tailed: Callable[[Sequence[list[int]]], list[list[int]]]) -> dict[str, list | None]:
        """The chains as TRL trains on them, `tailed` by the read-out's token where it has one; no appended token is an
        action of the policy."""
        whole = tailed(self.chains)
        pairs = list(zip(whole, self.actions, strict=True))
        log_probs = self.log_probs
        if log_probs is not None:
            log_probs = [row + [0.0] * (len(ids) - len(row)) for row, ids in zip(log_probs, whole, strict=True)]
        mask = [[int(place < actions) for place in range(len(ids))] for ids, actions in pairs]
        return {"completion_ids": whole, "env_mask": mask, "logprobs": log_probs}


def generation_limits(model: R2ec, use_vllm: bool) -> dict[str, Any]:
    """Keywords for sampling: where it stops, and that the token which is put after `<answer>` is never sampled.

    vLLM has names of its own, and its own copy of the model's generation settings.
    """
    if not use_vllm:
        return {} if model.read_id is None else {"suppress_tokens": [model.read_id]}
    answer = model.prompts.answer
    limits: dict[str, Any] = {"stop_token_ids": answer.stop_ids(model.lm)}
    if answer.text:
        limits |= {"stop": [answer.text], "include_stop_str_in_output": True}
    return limits if model.read_id is None else {**limits, "logit_bias": {model.read_id: -100.0}}


# ---- what is kept and logged ---------------------------------------------------------------------------------------


def table_rows(trainer: "RecPOTrainer", inputs: Sequence[dict], output: dict[str, Tensor]) -> list[dict]:
    """Rows of the rollouts table, numbered within their groups, for the first trajectories of a rollout.

    Args:
        inputs: what TRL passed to the reward functions, a dict per trajectory.
        output: TRL's tensors of the rollout, with `advantages` and `best`.
    """
    ids, names = trainer.samples["sample_id"], [f"reward_{name}" for name in trainer.reward_func_names]
    weights = trainer.reward_weights.tolist()
    return [
        {
            "step": trainer.state.global_step,
            "sample_id": int(ids.iloc[row["prompt"]]),
            "trajectory": place % trainer.num_generations,
            "chain": trainer.r2ec.decode(row["chain"]),
            "tokens": len(row["chain"]),
            "closed": row["written"],
            "rank": row["rank"],
            "reward": sum(weight * row[name] for weight, name in zip(weights, names, strict=True)),
            "reward_ndcg": row["reward_ndcg"],
            "reward_similarity": row["reward_similarity"],
            "advantage": float(output["advantages"][place]),
            "best": bool(output["best"][place]),
        }
        for place, row in enumerate(inputs)
    ]


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
