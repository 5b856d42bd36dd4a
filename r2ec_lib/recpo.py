"""RecPO: reinforcement learning that trains reasoning and recommendation in one policy update.

`RecPOTrainer` is TRL's `GRPOTrainer` with two changes:

1. After sampling, every chain is closed by `<answer>`, its state h_T ranks the whole catalogue, and the fused reward
   of Eq. 4 and 5 gives the advantages of Eq. 2; the best trajectory of each group is marked before TRL shuffles the
   rows into micro-batches.
2. The loss gains the recommendation action of Eq. 8: for marked rows, the clipped ratio of a softmax over the target
   items of the whole batch, whose texts are encoded live, so that the gradient reaches the item encoder too.

Beside them, on a CPU only the completions pass the LM head, as TRL does on GPUs alone. Sampling, clipping of the
token terms, LoRA, vLLM, several devices, checkpoints and logging stay TRL's. The mathematics is in `objective.py`.
Where the official code departs from the paper, this file follows the paper; see the README, "What differs from the
official code".
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from r2ec_lib import objective
from r2ec_lib.model import R2ec, captured_states, forward_states, ranks_of, read_out, stop_ids
from r2ec_lib.ranking import seen_mask

LENGTH_LOSS = {"sum": "luspo", "sequence": "grpo", "constant": "dr_grpo", "batch": "dapo"}
"""How token terms are summed, and TRL's name for it: "sum" is Eq. 8; the others divide by the chain's length, by the
longest allowed length, or by all tokens of the batch."""


@dataclass
class RecPOConfig(GRPOConfig):
    """GRPOConfig with the choices that RecPO adds; `num_generations` is G and `epsilon` is ε there.

    Attributes:
        reward_mix: β of Eq. 5, the weight of the similarity reward.
        reward_cutoff: k of the NDCG@k reward (Eq. 4).
        estimator: "grpo" or "rloo" advantages (Eq. 2).
        relabel_top: how many of a group's best trajectories carry the recommendation action (paper: 1).
        refresh_steps: T_refresh, optimiser steps between two encodings of the whole catalogue.
        length_handling: "sum" (Eq. 8), "sequence", "constant" or "batch", see `LENGTH_LOSS`.
        item_advantage: weight of the recommendation action: "trajectory" takes A_i* (Eq. 8); "unit" takes 1, so that a
            group of equal rewards still trains the items.
        item_weight: factor on the recommendation action (paper: 1).
        item_warmup_steps: first steps in which only the recommendation action learns, since rewards are noise until
            the items have a space; 0 in the paper.
        catalogue_negatives: adds the whole item table as constant candidates to Eq. 7; the paper uses the batch alone.
            Stored rows are as old as the last refresh while targets are encoded live, and a model can learn to tell
            the two apart instead of the items: use it with a small `refresh_steps`.
        mask_seen: items of the history are no candidates.
        valid_users: validation samples ranked at each evaluation.
        rollout_users: users whose trajectories are kept in the rollouts table, each `rollout_steps`.
        rollout_steps: steps between two entries of the rollouts table.
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
    mask_seen: bool = True
    valid_users: int = 256
    rollout_users: int = 4
    rollout_steps: int = 10
    # TRL's own fields whose defaults differ here
    beta: float = 0.0
    temperature: float = 1.0
    max_completion_length: int = 64
    bf16: bool = False
    gradient_checkpointing: bool = False
    save_only_model: bool = False
    report_to: list[str] | str = field(default_factory=list)
    disable_tqdm: bool | None = True

    def __post_init__(self):
        choices = {
            "estimator": objective.ESTIMATORS,
            "length_handling": tuple(LENGTH_LOSS),
            "item_advantage": ("trajectory", "unit"),
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
        self.loss_type = LENGTH_LOSS[self.length_handling]
        self.reward_weights = [1 - self.reward_mix, self.reward_mix]
        super().__post_init__()


@dataclass
class Rollout:
    """What the reward and the loss need of the trajectories that were sampled last, beside TRL's own tensors.

    B counts the rows of this process, B_all those of all processes, M the distinct target items of all processes.
    """

    written: list[bool]  # B: whether the model wrote `<answer>` itself
    rows: Tensor | None = None  # (B,) row of the samples table
    ranks: Tensor | None = None  # (B,)
    parts: Tensor | None = None  # (B, 2) R_d and R_c
    states: Tensor | None = None  # (B, d) h_T at sampling time, no gradient
    batch_targets: Tensor | None = None  # (M,) sorted item indexes


class RecPOTrainer(GRPOTrainer):
    """GRPOTrainer whose reward is a recommendation and whose last action is one (paper, section 4).

    Args:
        model: the R²ec to train; its language model and item table are changed in place.
        args: the configuration.
        train_samples: samples table (schema.py) whose targets are the labels.
        valid_samples: samples table for `evaluate`; its first `args.valid_users` rows in a seeded order are used.
    """

    _name = "RecPO"

    def __init__(
        self,
        model: R2ec,
        args: RecPOConfig,
        train_samples: pd.DataFrame,
        valid_samples: pd.DataFrame | None = None,
        **kwargs,
    ):
        self.r2ec = model
        self.samples = train_samples.reset_index(drop=True)
        self.valid_samples = valid_samples
        if valid_samples is not None and len(valid_samples) > args.valid_users:
            self.valid_samples = valid_samples.sample(args.valid_users, random_state=args.seed)
        self.item_ids = model.prompts.item_ids(model.catalogue)
        self.rollout: Rollout | None = None
        self.rollout_log: list[dict] = []  # one dict a kept trajectory, read by tracking.py
        self._refreshed_at: int | None = None
        model.lm.generation_config.eos_token_id = stop_ids(model.lm, model.prompts.answer_id)
        if args.use_vllm:  # vLLM reads its own copy of the model's generation settings
            stops = {"stop_token_ids": model.lm.generation_config.eos_token_id}
            args.generation_kwargs = {**(args.generation_kwargs or {}), **stops}
        super().__init__(
            model=model.lm,
            args=args,
            reward_funcs=[self.ndcg, self.similarity],
            train_dataset=self._dataset(self.samples),
            eval_dataset=None if valid_samples is None else self._dataset(self.valid_samples),
            processing_class=model.tokenizer,
            **kwargs,
        )

    def _dataset(self, samples: pd.DataFrame) -> Dataset:
        prompts = self.r2ec.prompts.user_ids(samples, self.r2ec.titles)
        return Dataset.from_dict({"prompt": prompts, "row": list(range(len(prompts)))})

    # --- change 1: close, rank, reward ----------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list[list[int]]):
        """Prompts are token ids already, so that training reads exactly what evaluation reads."""
        return prompts, None, {}

    def _generate(self, prompts: list[list[int]]):
        """Samples as TRL does, then closes every chain by `<answer>`; an appended one is no action of the policy."""
        start = time.perf_counter()
        prompt_ids, chains, _, texts, log_probs, *rest = super()._generate(prompts)
        answer = self.r2ec.prompts.answer_id
        written = [chain[-1] == answer for chain in chains]
        action_mask = [[1] * len(chain) + [0] * (not own) for chain, own in zip(chains, written, strict=True)]
        chains = [chain if own else [*chain, answer] for chain, own in zip(chains, written, strict=True)]
        if log_probs is not None:
            log_probs = [row + [0.0] * (not own) for row, own in zip(log_probs, written, strict=True)]
        self.rollout = Rollout(written)
        self._metrics["train"]["share_unclosed"].append(1 - sum(written) / len(written))
        self._metrics["train"]["seconds_sampling"].append(time.perf_counter() - start)
        return prompt_ids, chains, action_mask, texts, log_probs, *rest

    def ndcg(self, prompts, completion_ids, row, **_) -> list[float]:
        """R_d of Eq. 4 for each trajectory; also ranks the catalogue, once for both rewards."""
        start = time.perf_counter()
        rollout, head = self.rollout, self.r2ec.head
        rollout.rows = torch.tensor(row, device=self.accelerator.device)
        targets = self._targets(rollout.rows)  # (B,)
        rollout.batch_targets = self.accelerator.gather(targets).unique()  # (M,)
        self._update_table(rollout.batch_targets)
        rollout.states = self.r2ec.encode(
            [[*prompt, *chain] for prompt, chain in zip(prompts, completion_ids, strict=True)],
            starts=[len(prompt) for prompt in prompts],
        )
        scores = head.scores(rollout.states)  # (B, N)
        seen = self._seen(rollout.rows)
        rollout.ranks = objective.target_ranks(scores, targets, seen)
        discrete = objective.ndcg(rollout.ranks, self.args.reward_cutoff).float()
        continuous = objective.target_probabilities(scores, targets, head.temperature, seen)
        rollout.parts = torch.stack([discrete, continuous], dim=1)  # (B, 2)
        self._metrics["train"]["seconds_reward"].append(time.perf_counter() - start)
        return discrete.tolist()

    def similarity(self, **_) -> list[float]:
        """R_c of Eq. 5 for each trajectory."""
        return self.rollout.parts[:, 1].tolist()

    def _generate_and_score_completions(self, inputs):
        """TRL's rollout with the advantages of Eq. 2 and the marks of i* (Eq. 8)."""
        output = super()._generate_and_score_completions(inputs)
        rollout, local = self.rollout, len(inputs)
        parts = self.accelerator.gather(rollout.parts)  # (B_all, 2)
        rewards = objective.fused_reward(parts[:, 0], parts[:, 1], self.args.reward_mix)
        groups = rewards.view(-1, self.num_generations)  # (U, G)
        mine = slice(self.accelerator.process_index * local, (self.accelerator.process_index + 1) * local)
        output["advantages"] = objective.advantages(groups, self.args.estimator).flatten()[mine]
        output["best"] = objective.best_trajectories(groups, self.args.relabel_top).flatten()[mine]
        output["sample_rows"] = rollout.rows
        if "old_per_token_logps" in output:
            with torch.no_grad():
                targets = self.r2ec.head.table[rollout.batch_targets]
                output["old_item_log_probs"] = self._item_log_probs(rollout.states, rollout.rows, targets)
        self._keep_rollouts(output, rewards[mine])
        return output

    def _keep_rollouts(self, output: dict[str, Tensor], rewards: Tensor) -> None:
        """Notes the first groups of every `rollout_steps`-th step for the rollouts table."""
        if self.state.global_step % self.args.rollout_steps:
            return
        rollout, group = self.rollout, self.num_generations
        for row in range(min(self.args.rollout_users * group, len(rewards))):
            length = int(output["completion_mask"][row].sum())
            self.rollout_log.append(
                {
                    "step": self.state.global_step,
                    "sample_id": int(self.samples["sample_id"].iloc[int(rollout.rows[row])]),
                    "trajectory": row % group,
                    "chain": self.r2ec.decode(output["completion_ids"][row, :length].tolist()),
                    "tokens": length,
                    "closed": rollout.written[row],
                    "rank": float(rollout.ranks[row]),
                    "reward": float(rewards[row]),
                    "reward_ndcg": float(rollout.parts[row, 0]),
                    "reward_similarity": float(rollout.parts[row, 1]),
                    "advantage": float(output["advantages"][row]),
                    "best": bool(output["best"][row]),
                }
            )

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **kwargs
    ):
        """As TRL's, which on a CPU would pass every position of the prompts through the LM head as well."""
        if self.accelerator.device.type != "cpu":
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        found, entropies = [], []
        size = batch_size or len(input_ids)
        for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
            with self.accelerator.autocast():
                output = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=logits_to_keep + 1)
            logits = output.logits[:, :-1]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
            log_probs = logits.log_softmax(dim=-1)  # (B, C, |T|)
            found.append(log_probs.gather(2, ids[:, -logits_to_keep:, None]).squeeze(2))
            if compute_entropy:
                with torch.no_grad():
                    entropies.append(-(log_probs.exp() * log_probs).sum(dim=-1))
        return torch.cat(found), torch.cat(entropies) if compute_entropy else None, None

    # --- change 2: the recommendation action ----------------------------------------------------------------------

    def _compute_loss(self, model, inputs):
        """TRL's token terms plus the item term of Eq. 8, from one forward over prompt and chain."""
        warming = self.state.global_step < self.args.item_warmup_steps
        if warming:
            inputs = {**inputs, "advantages": torch.zeros_like(inputs["advantages"])}
        with captured_states(self.r2ec.lm) as hidden:
            token_loss = super()._compute_loss(model, inputs)
        prompt_width = inputs["prompt_ids"].shape[1]
        starts = torch.full_like(inputs["sample_rows"], prompt_width)  # (B,)
        ends = prompt_width + inputs["completion_mask"].sum(dim=1) - 1  # (B,) the position of `<answer>`
        states = read_out(hidden[0], starts, ends, self.r2ec.head.readout)  # (B, d)

        item_ids = [self.item_ids[item] for item in self.rollout.batch_targets.tolist()]
        items = forward_states(model, self.r2ec.lm, item_ids, readout=self.r2ec.head.readout)  # (M, d), with gradient
        log_probs = self._item_log_probs(states, inputs["sample_rows"], items)  # (B,)
        old = inputs.get("old_item_log_probs", log_probs.detach())
        unit = warming or self.args.item_advantage == "unit"
        weights = torch.ones_like(log_probs) if unit else inputs["advantages"]  # (B,)
        gains = objective.clipped((log_probs - old).exp(), weights, self.epsilon_low, self.epsilon_high)  # (B,)
        # (1/G) Σ_i 1{i = i*}, averaged over users, is a mean over all rows of which only the marked ones count
        item_loss = -(gains * inputs["best"]).sum() / len(gains)
        surprise = -(log_probs.detach() * inputs["best"]).sum() / inputs["best"].sum().clamp(min=1)
        self._metrics["train"]["item_surprise"].append(surprise.item())
        return token_loss + self.args.item_weight * item_loss / self.current_gradient_accumulation_steps

    def _item_log_probs(self, states: Tensor, rows: Tensor, items: Tensor) -> Tensor:
        """Eq. 7 for states (B, d) against the batch's target items (M, d), and the table where the recipe says so."""
        head, batch = self.r2ec.head, self.rollout.batch_targets
        columns = torch.searchsorted(batch, self._targets(rows))  # (B,), `unique` sorts
        scores = objective.similarity_scores(states, items, head.similarity)  # (B, M)
        excluded = self._seen(rows)  # (B, N) or None
        if not self.args.catalogue_negatives:
            excluded = None if excluded is None else excluded[:, batch]
            return objective.item_log_probs(scores, columns, head.temperature, excluded)
        constant = head.scores(states).index_copy(1, batch, scores)  # (B, N): live columns replace stored ones
        return objective.item_log_probs(constant, batch[columns], head.temperature, excluded)

    # --- the item table -------------------------------------------------------------------------------------------

    def _update_table(self, batch_targets: Tensor) -> None:
        """Re-encodes the catalogue every T_refresh steps, else the batch's targets (Algorithm 1)."""
        head, step = self.r2ec.head, self.state.global_step
        if self._refreshed_at is None or step - self._refreshed_at >= self.args.refresh_steps:
            self._refresh()
        else:
            head.table[batch_targets] = self.r2ec.encode([self.item_ids[item] for item in batch_targets.tolist()])

    def _refresh(self) -> None:
        self.r2ec.head.table = self.r2ec.encode(self.item_ids)
        self._refreshed_at = self.state.global_step

    def _targets(self, rows: Tensor) -> Tensor:
        targets = self.samples["target"].to_numpy()[rows.cpu().numpy()]
        return torch.tensor(targets, dtype=torch.long, device=rows.device)

    def _seen(self, rows: Tensor) -> Tensor | None:
        if not self.args.mask_seen:
            return None
        histories = self.samples["history"].iloc[rows.tolist()]
        return seen_mask(histories, len(self.r2ec.head.item_ids)).to(rows.device)

    # --- validation and checkpoints -------------------------------------------------------------------------------

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Greedy reasoning and full ranking of the validation sample, as in the final evaluation.

        Returns:
            `<prefix>_ndcg@10`, `<prefix>_hit@10` and `<prefix>_length` (tokens, `<answer>` included).
        """
        self._refresh()
        process = self.accelerator.process_index
        share = self.valid_samples.iloc[process :: self.accelerator.num_processes]
        prompts = self.r2ec.prompts.user_ids(share, self.r2ec.titles)
        chains = self.r2ec.reason(prompts, self.args.max_completion_length)
        ranks = ranks_of(self.r2ec, share, chains).cpu()
        found = torch.tensor(
            gather_object(list(zip(ranks.tolist(), map(len, chains), strict=True)))
        ).double()  # (V, 2)
        metrics = {
            f"{metric_key_prefix}_ndcg@10": objective.ndcg(found[:, 0], 10).mean().item(),
            f"{metric_key_prefix}_hit@10": (found[:, 0] <= 10).double().mean().item(),
            f"{metric_key_prefix}_length": found[:, 1].mean().item(),
        }
        self.model.eval()  # so that TRL's `log` leaves the training metrics of the running step alone
        self.log(metrics)
        self.model.train()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_model_card(self, *args, **kwargs) -> None:
        """Checkpoints are working files of a run; the run folder describes itself."""

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            save_file({"item_table": self.r2ec.head.table.cpu()}, folder / "item_table.safetensors")
            notes = {"refreshed_at": self._refreshed_at, "rollouts": self.rollout_log}
            (folder / "recpo.json").write_text(json.dumps(notes))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """Also restores the item table, so that a resumed run gives the rewards of an uninterrupted one."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        table = load_file(folder / "item_table.safetensors")["item_table"]
        self.r2ec.head.table = table.to(self.accelerator.device)
        notes = json.loads((folder / "recpo.json").read_text())
        self._refreshed_at, self.rollout_log = notes["refreshed_at"], notes["rollouts"]
