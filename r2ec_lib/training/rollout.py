"""The parts of a rollout: chains as sampled and closed, what limits sampling, and TRL's reward functions.

The trainer computes all figures of a trajectory in one pass (`RecPOTrainer.roll_out`); the reward functions only hand
them on, so they can be called in any order. What is done with the rewards is TRL's business.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from trl.trainer.utils import split_tensor_dict

from r2ec_lib.model import R2ec, vllm


def ndcg(
    reward_ndcg: list[float], figures: list[dict], log_metric: Callable[[str, float], None], **_: Any
) -> list[float]:
    """R_d of Eq. 4 for each trajectory; also logs the rollout's figures."""
    for name, value in figures[0].items():  # equal in all rows
        log_metric(name, value)
    return reward_ndcg


def handed_on(name: str) -> Callable[..., list[float]]:
    """TRL's reward function `name`: of each trajectory, `reward_<name>` of `RecPOTrainer.rewarded`.

    These are R_c of Eq. 5 ("similarity"); what people's judgements of other reasonings say, from −1 to 1 ("judged");
    and the prices, which are −1 for each token that the policy sampled ("price"), for a reasoning in which the model
    did not write `<answer>` ("unclosed"), and times the share of a reasoning's checkable sentences that fail or are
    missing ("untrue").
    """

    def reward(**fields: Any) -> list[float]:
        return fields[f"reward_{name}"]

    reward.__name__ = name  # under which TRL logs it
    return reward


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

    def ended(self, stop_ids: Collection[int]) -> list[bool]:
        """Whether each text has its end: the model wrote `<answer>`, or ended its turn with one of `stop_ids`. The
        others were cut off."""
        last = [chain[:actions][-1:] for chain, actions in zip(self.chains, self.actions, strict=True)]
        return [own or (bool(ids) and ids[0] in stop_ids) for own, ids in zip(self.written, last, strict=True)]

    def completions(self, tailed: Callable[[Sequence[list[int]]], list[list[int]]]) -> dict[str, list | None]:
        """The chains as TRL trains on them, `tailed` by the read-out's token where it has one; no appended token is an
        action of the policy."""
        whole = tailed(self.chains)
        pairs = list(zip(whole, self.actions, strict=True))
        log_probs = self.log_probs
        if log_probs is not None:
            log_probs = [
                row[:actions] + [0.0] * (len(ids) - actions)
                for row, (ids, actions) in zip(log_probs, pairs, strict=True)
            ]
        mask = [[int(place < actions) for place in range(len(ids))] for ids, actions in pairs]
        return {"completion_ids": whole, "env_mask": mask, "logprobs": log_probs}


def generation_limits(model: R2ec, use_vllm: bool) -> dict[str, Any]:
    """Keywords for sampling: where it stops, and that the token which is put after `<answer>` is never sampled.

    vLLM has names of its own, and its own copy of the model's generation settings.
    """
    if use_vllm:
        return vllm.limits(model)
    stops = {"eos_token_id": model.prompts.answer.stop_ids(model.lm)}  # to which TRL may add a None
    return stops if model.read_id is None else {**stops, "suppress_tokens": [model.read_id]}


@contextmanager
def same_backbone(lm: Any) -> Iterator[None]:
    """The weights under adapters are afterwards what they were: to hand them to vLLM, TRL adds the adapters to them
    and takes them off again, which in bfloat16 leaves more rounding each time."""
    layers: list[Any] = [layer.get_base_layer() for layer in lm.modules() if isinstance(layer, BaseTunerLayer)]
    kept = [layer.weight.data.clone() for layer in layers]
    yield
    for layer, weight in zip(layers, kept, strict=True):
        layer.weight.data.copy_(weight)


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


def whole_groups(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The micro-batches of one optimiser step with their rows in another order, which leaves their gradient as it is:
    a group's trajectories beside each other, so that fewer micro-batches read its prompt, shortest prompts first.

    Args:
        parts: equally many rows each: tensors with a value a row (`sample_rows` and `prompt_mask` among them), and
            others that are the same in all parts.
    """
    joined = {
        name: torch.cat([part[name] for part in parts]) if value.dim() else value for name, value in parts[0].items()
    }
    lengths, rows = joined["prompt_mask"].sum(dim=1).tolist(), joined["sample_rows"].tolist()
    order = sorted(range(len(rows)), key=lambda row: (lengths[row], rows[row]))
    return split_tensor_dict(
        {name: value[order] if value.dim() else value for name, value in joined.items()},
        len(parts),
    )


def marked_rows(inputs: dict[str, Tensor], most: int) -> dict[str, Tensor]:
    """The trajectories that carry the recommendation action: rows of `inputs` where `best` is True.

    While the token terms are off and nothing else asks for the other rows, these alone have a gradient. Where fewer
    than `most` are marked, which another process has, others fill them up: all processes compute equally many, at
    least one, and those others earn no gradient.
    """
    rows = inputs["best"].int().argsort(descending=True, stable=True)[: max(most, 1)]
    return {name: value[rows] if value.dim() else value for name, value in inputs.items()}
