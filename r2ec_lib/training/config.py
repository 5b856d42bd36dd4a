"""The choices of a RecPO training: GRPOConfig's fields, and those that recommending adds."""

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

LENGTH_LOSS = {"sum": "luspo", "sequence": "grpo", "constant": "dr_grpo", "batch": "dapo"}
"""How token terms are summed, and TRL's name for it: "sum" is Eq. 8; the others divide by the chain's length, by the
longest allowed length, or by all tokens of the batch."""


@dataclass
class RecPOConfig(GRPOConfig):
    """GRPOConfig with the choices that RecPO adds; `num_generations` is G and `epsilon` is ε there.

    Attributes:
        further_rewards: weights of the rewards beside NDCG and similarity, by name; of those that count, in order.
        reward_mix: β of Eq. 5, the weight of the similarity reward.
        reward_cutoff: k of the NDCG@k reward (Eq. 4).
        estimator: advantages (Eq. 2): "grpo" divides by the group's deviation, to which TRL adds 1e-4, so groups whose
            rewards differ by less than that count for less than in Eq. 2; "rloo" leaves one out.
        relabel_top: how many of a group's best trajectories carry the recommendation action (paper: 1).
        refresh_steps: T_refresh, optimiser steps between two encodings of the whole catalogue. A validation encodes it
            as well, so the table is never older than `eval_steps`.
        length_handling: "sum" (Eq. 8), "sequence", "constant" or "batch", see `LENGTH_LOSS`.
        item_advantage: weight of the recommendation action: "trajectory" takes A_i* (Eq. 8); "unit" takes 1, so that a
            group of equal rewards still trains the items.
        item_weight: factor on the recommendation action (paper: 1).
        item_warmup_steps: first steps in which only the recommendation action learns, with the weight 1, since rewards
            are noise until the items have a space; 0 in the paper. Only marked trajectories then pass the policy, and
            no divergence from the start is weighed.
        catalogue_negatives: adds the whole item table as constant candidates to Eq. 7; the paper uses the batch alone.
            Stored rows are as old as the last refresh while targets are encoded live, and a model can learn to tell
            the two apart instead of the items: use it with a small `refresh_steps`.
        live_negatives: adds so many items to the candidates of Eq. 7, drawn anew at each step and encoded live.
        mask_seen: items of the history are no candidates.
        judged_weight: weight of a further reward from people's judgements of reasonings, −1 to 1 each; 0 for none.
        token_price: taken off the reward for each sampled token; 0 in the paper.
        unclosed_price: taken off the reward of a reasoning in which the model does not write `<answer>` itself, be it
            cut off or ended otherwise; 0 in the paper.
        untrue_price: taken off the reward, times the share of a reasoning's statements about the history that do not
            hold (`model.claims`); 0 in the paper.
        stated_facts: statements about the history that `untrue_price` expects: of these, missing ones count as ones
            that do not hold.
        item_vectors: "texts" encodes items from their texts; "learned" gives each item a vector of its own that is
            trained, the paper's classification head. Items cannot be added to such a model.
        valid_users: validation samples ranked at each evaluation.
        max_completion_length: TRL's field; 0 trains without reasoning, the recommendation action alone. Trajectories
            of a group are then the same, so `item_advantage` has to be "unit".
        loss_type, scale_rewards, reward_weights, multi_objective_aggregation: TRL's fields, which follow from
            `length_handling`, `estimator` and the weights of the rewards.
        mask_truncated_completions: TRL's field; refused, since a reasoning that is cut off is closed and ranked, too.
        vllm_importance_sampling_mode: TRL's field, with another default. vLLM's probabilities are those after top-k,
            the model's those over all tokens, so each token's ratio is the share that top-k keeps, below 1. TRL's
            default multiplies the ratios over a sequence, which leaves next to nothing of a long chain.
        rollout_users: users whose trajectories are kept in the rollouts table, each `rollout_steps`.
        rollout_steps: steps between two entries of the rollouts table: the first rollout of each so many steps.
        updates_per_rollout: optimiser steps that one rollout serves, which follows from TRL's fields. In half
            precision, the recommendation's ratio in the first of several is near 1, not 1: the old policy's states are
            those of the sampler, which rounds otherwise than the pass of the loss.
    """

    reward_mix: float = 0.05
    reward_cutoff: int = 1000
    estimator: str = "grpo"
    relabel_top: int = 1
    refresh_steps: int = 50
    length_handling: str = "sum"
    item_advantage: str = "trajectory"
    item_weight: float = 1.0
    item_warmup_steps: int = 0
    catalogue_negatives: bool = False
    live_negatives: int = 0
    mask_seen: bool = True
    judged_weight: float = 0.0
    token_price: float = 0.0
    unclosed_price: float = 0.0
    untrue_price: float = 0.0
    stated_facts: int = 1
    item_vectors: str = "texts"
    valid_users: int = 256
    rollout_users: int = 4
    rollout_steps: int = 10
    # TRL's own fields whose defaults (or types) differ here
    num_generations: int = 8
    gradient_checkpointing_kwargs: dict | None = None
    generation_kwargs: dict | None = None
    disable_dropout: bool = True  # or targets, encoded while training, would differ from all other items at random
    max_completion_length: int = 64
    bf16: bool = False
    gradient_checkpointing: bool = False
    report_to: list[str] | str = field(default_factory=list)
    disable_tqdm: bool | None = True
    vllm_importance_sampling_mode: str = "token_truncate"

    def __post_init__(self) -> None:
        choices = {
            "estimator": ("grpo", "rloo"),
            "length_handling": tuple(LENGTH_LOSS),
            "item_advantage": ("trajectory", "unit"),
            "item_vectors": ("texts", "learned"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {allowed}")
        if not 0 <= self.reward_mix <= 1:
            raise ValueError(f"reward_mix (β) is {self.reward_mix}; expected a number from 0 to 1")
        if not 1 <= self.relabel_top <= self.num_generations:
            raise ValueError(
                f"relabel_top is {self.relabel_top}; expected 1 to num_generations={self.num_generations}"
            )
        if self.temperature <= 0:
            raise ValueError(
                f"temperature is {self.temperature}; reasonings of a group have to differ: expected a number above 0"
            )
        if not self.max_completion_length and (self.item_advantage != "unit" or self.length_handling == "constant"):
            raise ValueError(
                "max_completion_length is 0, so no reasoning is better than another and nothing would be learned: "
                'expected item_advantage "unit", and a length_handling other than "constant"'
            )
        if not self.max_completion_length and self.untrue_price:
            raise ValueError(
                f"untrue_price is {self.untrue_price} and max_completion_length 0: a text of no tokens states nothing "
                "and would always pay; expected untrue_price 0"
            )
        if self.stated_facts < 1:
            raise ValueError(f"stated_facts is {self.stated_facts}; expected 1 or more (untrue_price 0 asks for none)")
        if self.mask_truncated_completions:
            raise ValueError(
                "mask_truncated_completions is True, but a reasoning that is cut off is closed and ranked like the "
                "others; set unclosed_price to discourage it"
            )
        further = {"judged": self.judged_weight, "price": self.token_price}
        further |= {"unclosed": self.unclosed_price, "untrue": self.untrue_price}
        self.further_rewards = {name: weight for name, weight in further.items() if weight}
        self._derive("loss_type", LENGTH_LOSS[self.length_handling], "length_handling")
        self._derive("scale_rewards", "group" if self.estimator == "grpo" else "none", "estimator")
        mixed = [1 - self.reward_mix, self.reward_mix, *self.further_rewards.values()]
        self._derive("reward_weights", mixed, "reward_mix, judged_weight and the prices")
        self._derive("multi_objective_aggregation", "sum_then_normalize", "estimator")
        super().__post_init__()
        if not self.steps_per_generation or self.steps_per_generation % self.gradient_accumulation_steps:
            raise ValueError(
                f"steps_per_generation is {self.steps_per_generation}: a rollout has to serve whole optimiser steps "
                f"of gradient_accumulation_steps={self.gradient_accumulation_steps}, or its items lose gradients"
            )
        passes = self.num_iterations * self.steps_per_generation
        self.updates_per_rollout = passes // self.gradient_accumulation_steps

    def _derive(self, name: str, value: Any, source: str) -> None:
        """Sets a field of TRL that follows from ours; ValueError where it has another value than TRL's default."""
        if getattr(self, name) not in (GRPOConfig.__dataclass_fields__[name].default, value):
            raise ValueError(f"{name} is {getattr(self, name)!r}: it is set by {source} here; leave it out")
        setattr(self, name, value)
