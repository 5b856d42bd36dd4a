"""RecPO: reinforcement learning that trains reasoning and recommendation in one policy update.

`RecPOTrainer` is TRL's `GRPOTrainer` with two changes:

1. After sampling, every chain is closed by `<answer>`, its state h_T ranks the whole catalogue, and the fused reward
   of Eq. 4 and 5 gives the advantages of Eq. 2; the best trajectory of each group is marked before TRL shuffles the
   rows into micro-batches.
2. The loss gains the recommendation action of Eq. 8: for marked rows, the clipped ratio of a softmax over the target
   items of the whole batch, whose texts are encoded live, so that the gradient reaches the item encoder too.

Beside them, three passes cost less and compute the same: chains are sampled by `sampling.py`, which reads h_T on the
way; the policy pass computes each prompt once (`log_probs.py`); target items are encoded once for all uses of the same
weights (`live_items.py`). Clipping of the token terms, LoRA, vLLM, several devices, checkpoints and logging stay
TRL's. The mathematics is in `objective.py`, the configuration in `config.py`. Where the official code departs
from the paper, this file follows the paper; see the README, "What differs from the official code".
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from r2ec_lib.model import R2ec, scoring
from r2ec_lib.model.encoding import caches_exactly, captured_states, read_out
from r2ec_lib.model.r2ec import ranks_of_states, stop_ids
from r2ec_lib.model.sampling import sample
from r2ec_lib.model.scoring import seen_mask
from r2ec_lib.training import objective
from r2ec_lib.training.config import RecPOConfig
from r2ec_lib.training.live_items import ItemTable
from r2ec_lib.training.log_probs import token_log_probs
from r2ec_lib.training.monitoring import GradientNorms


class RecPOTrainer(GRPOTrainer):
    """GRPOTrainer whose reward is a recommendation and whose last action is one (paper, section 4).

    Args:
        model: the R²ec to train; its language model and item table are changed in place.
        args: the configuration.
        train_samples: samples table (schema.py) whose targets are the labels.
        judge: rewards of reasoning texts by people's judgements, where `args.judged_weight` asks for them.
        valid_samples: samples table for `evaluate`; its first `args.valid_users` rows in a seeded order are used.
    """

    _name = "RecPO"

    def __init__(
        self,
        model: R2ec,
        args: RecPOConfig,
        train_samples: pd.DataFrame,
        valid_samples: pd.DataFrame | None = None,
        judge: Callable[[Sequence[str]], list[float]] | None = None,
        **kwargs,
    ):
        if bool(args.judged_weight) != (judge is not None):
            raise ValueError(
                f"judged_weight is {args.judged_weight}; judgements are given where it is not 0, only there"
            )
        self.judge = judge
        self.r2ec = model
        self.samples = train_samples.reset_index(drop=True)
        self.valid_samples = valid_samples
        if valid_samples is not None and len(valid_samples) > args.valid_users:
            self.valid_samples = valid_samples.sample(args.valid_users, random_state=args.seed)
        self.items = ItemTable(model, args.refresh_steps)
        self.rollout: Rollout | None = None
        self.rollout_log: list[dict] = []  # one dict a kept trajectory, read by tracking.py
        self._trained_tokens = 0
        model.lm.generation_config.eos_token_id = stop_ids(model.lm, model.prompts.answer_id)
        own = {} if model.read_id is None else {"suppress_tokens": [model.read_id]}
        if args.use_vllm:  # vLLM has names of its own, and its own copy of the model's generation settings
            own = {} if model.read_id is None else {"logit_bias": {model.read_id: -100.0}}
            own |= {"stop_token_ids": model.lm.generation_config.eos_token_id}
        args.generation_kwargs = {**(args.generation_kwargs or {}), **own}
        kl_weight, start = args.beta, args.beta or args.kl_weight_warmup or args.warn_kl_above is not None
        args.beta = 1.0 if start else 0.0  # whether TRL loads the start
        super().__init__(
            model=model.lm,
            args=args,
            reward_funcs=[self.ndcg, self.similarity, *([self.judged] if judge else [])],
            train_dataset=self._dataset(self.samples),
            eval_dataset=None if valid_samples is None else self._dataset(self.valid_samples),
            processing_class=model.tokenizer,
            **kwargs,
        )
        args.beta = self.beta = kl_weight
        self._gradients = GradientNorms([weight for weight in model.lm.parameters() if weight.requires_grad])

    def _dataset(self, samples: pd.DataFrame) -> Dataset:
        prompts = self.r2ec.prompts.user_ids(samples, self.r2ec.titles)
        return Dataset.from_dict({"prompt": prompts, "row": list(range(len(prompts)))})

    # --- change 1: close, rank, reward ----------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list[list[int]]):
        """Prompts are token ids already, so that training reads exactly what evaluation reads."""
        return prompts, None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        """Our sampler in place of `generate`; vLLM and continuous batching stay TRL's."""
        if self.use_vllm or self.use_transformers_continuous_batching:
            return super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        training = self.model.training
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as lm,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            lm.eval()
            answer, readout, read = self.r2ec.prompts.answer_id, self.r2ec.head.readout, self.r2ec.read_id
            width = max(map(len, prompt_ids)) + self.max_completion_length + 1
            room = width * len(prompt_ids)
            found = sample(lm, prompt_ids, self.generation_config, answer, readout, room, read_id=read)
            lm.train(training)
        self.rollout = Rollout(found.written, states=found.states)
        own = [chain if mine else chain[:-1] for chain, mine in zip(found.chains, found.written, strict=True)]
        return own, None

    def _generate(self, prompts: list[list[int]]):
        """Samples as TRL does, then closes every chain: by `<answer>`, and by the read-out's token where it has one.

        An appended token is no action of the policy.
        """
        start = time.perf_counter()
        self.rollout = None
        prompt_ids, chains, _, texts, log_probs, *rest = super()._generate(prompts)
        written, closed, added = close(chains, self.r2ec.prompts.answer_id, self.r2ec.closed)
        action_mask = [[1] * len(chain) + [0] * len(more) for chain, more in zip(chains, added, strict=True)]
        chains = [chain + more for chain, more in zip(chains, added, strict=True)]
        if log_probs is not None:
            log_probs = [row + [0.0] * len(more) for row, more in zip(log_probs, added, strict=True)]
        self.rollout = self.rollout or Rollout(written)
        self.rollout.chains = closed
        found = torch.tensor([1 - sum(written) / len(written), repetition(closed)], device=self.accelerator.device)
        unclosed, repeated = self.accelerator.reduce(found, reduction="mean").tolist()
        self._metrics["train"]["share_unclosed"].append(unclosed)
        self._metrics["train"]["repetition"].append(repeated)
        self._metrics["train"]["seconds_sampling"].append(time.perf_counter() - start)
        return prompt_ids, chains, action_mask, texts, log_probs, *rest

    def ndcg(self, prompts, row, **_) -> list[float]:
        """R_d of Eq. 4 for each trajectory; also ranks the catalogue, once for both rewards."""
        start = time.perf_counter()
        rollout, head = self.rollout, self.r2ec.head
        rollout.rows = torch.tensor(row, device=self.accelerator.device)
        targets = self._targets(rollout.rows)  # (B,)
        rollout.batch_targets = self.accelerator.gather(targets).unique()  # (M,)
        self.items.update(self.model_wrapped, rollout.batch_targets, self.state.global_step)
        if rollout.states is None:
            rows = [[*prompt, *chain] for prompt, chain in zip(prompts, rollout.chains, strict=True)]
            rollout.states = self.r2ec.encode(rows, starts=[len(prompt) for prompt in prompts])
        scores = head.scores(rollout.states)  # (B, N)
        seen = self._seen(rollout.rows)
        rollout.ranks = scoring.target_ranks(scores, targets, seen)
        discrete = objective.ndcg(rollout.ranks, self.args.reward_cutoff).float()
        continuous = scoring.target_probabilities(scores, targets, head.temperature, seen)
        rollout.parts = torch.stack([discrete, continuous], dim=1)  # (B, 2)
        self._metrics["train"]["seconds_reward"].append(time.perf_counter() - start)
        return discrete.tolist()

    def similarity(self, **_) -> list[float]:
        """R_c of Eq. 5 for each trajectory."""
        return self.rollout.parts[:, 1].tolist()

    def judged(self, **_) -> list[float]:
        """What people's judgements of other reasonings say of each one, from −1 to 1."""
        found = self.judge([self.r2ec.decode(chain) for chain in self.rollout.chains])
        self.rollout.judged = torch.tensor(found, device=self.accelerator.device, dtype=self.rollout.parts.dtype)
        return found

    def _generate_and_score_completions(self, inputs):
        """TRL's rollout with the advantages of Eq. 2 and the marks of i* (Eq. 8)."""
        updates = self.num_iterations * self.args.steps_per_generation // self.args.gradient_accumulation_steps
        weight = max(self._kl_weight(ahead) for ahead in range(max(1, updates)))  # of the updates it serves
        watched = self.args.warn_kl_above is not None and self.state.global_step % self.args.rollout_steps == 0
        self.beta = 1.0 if weight or watched else 0.0  # whether TRL takes the start's log-probabilities
        output = super()._generate_and_score_completions(inputs)
        if watched and not weight:
            self._metrics["train"]["kl"].append(self._divergence(output, output.pop("ref_per_token_logps")))
        rollout, local = self.rollout, len(inputs)
        parts = self.accelerator.gather(rollout.parts)  # (B_all, 2)
        rewards = objective.fused_reward(parts[:, 0], parts[:, 1], self.args.reward_mix)
        if self.judge:
            rewards = rewards + self.args.judged_weight * self.accelerator.gather(rollout.judged)
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

    @torch.no_grad()
    def _divergence(self, output: dict[str, Tensor], start: Tensor) -> float:
        """KL to the start, whose log-probabilities are `start` (B, C), of the trajectories just sampled."""
        parts = ([output[f"{part}_{kind}"] for part in ("prompt", "completion")] for kind in ("ids", "mask"))
        ids, mask = (torch.cat(part, dim=1) for part in parts)  # (B, P + C)
        size = self.args.per_device_train_batch_size
        now, _, _ = self._get_per_token_logps_and_entropies(self.model, ids, mask, start.shape[1], size)
        sums = objective.divergence(now, start, output["completion_mask"] * output["tool_mask"])
        total, count = self.accelerator.reduce(sums).tolist()
        return total / max(1.0, count)

    def _keep_rollouts(self, output: dict[str, Tensor], rewards: Tensor) -> None:
        """Notes the first groups of every `rollout_steps`-th step for the rollouts table."""
        if self.state.global_step % self.args.rollout_steps == 0:
            count = min(self.args.rollout_users * self.num_generations, len(rewards))
            rows = self.rollout.table_rows(
                count, self.num_generations, output, rewards, self.samples, self.r2ec.decode
            )
            self.rollout_log += [{"step": self.state.global_step, **row} for row in rows]

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **kwargs
    ):
        """As TRL's, with each distinct prompt computed once where `caches_exactly` allows it and G > 1.

        Gradient checkpointing keeps no caches, so with it the prompts are repeated as in TRL.
        """
        share = self.num_generations > 1 and caches_exactly(self.r2ec.lm) and not self.aux_loss_enabled
        fused = self.accelerator.device.type != "cpu"
        if fused and not share:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        size = batch_size or len(input_ids)
        found, entropies = [], []
        for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
            with self.accelerator.autocast():
                part, spread = token_log_probs(
                    model,
                    self.r2ec.lm,
                    ids,
                    mask,
                    logits_to_keep,
                    self.temperature,
                    share_prompts=share,
                    fused=fused,
                    entropies=compute_entropy,
                )
            found.append(part)
            entropies.append(spread)
        return torch.cat(found), torch.cat(entropies) if compute_entropy else None, None

    # --- change 2: the recommendation action ----------------------------------------------------------------------

    def _compute_loss(self, model, inputs):
        """TRL's token terms plus the item term of Eq. 8, whose states come from the pass over the chains."""
        warming, count = self._warming(), len(inputs["best"])
        self.beta = self._kl_weight()
        if warming:
            inputs = {**inputs, "advantages": torch.zeros_like(inputs["advantages"])}
            if self.beta == 0 and not self._entropy_bonus_enabled and not self.aux_loss_enabled:
                inputs = marked_rows(inputs)  # B is their number from here on
        with captured_states(self.r2ec.lm) as hidden:
            token_loss = super()._compute_loss(model, inputs)
        lengths, width = inputs["completion_mask"].sum(dim=1), inputs["completion_mask"].shape[1]
        starts = torch.full_like(lengths, hidden[-1].shape[1] - width)  # (B,) the chains stand in the last columns
        ends = starts + lengths - 1  # (B,) the position of `<answer>`, or of the token after it
        states = read_out(hidden[-1], starts, ends, self.r2ec.head.readout)  # (B, d)

        live = self.items.live(self.model_wrapped, self.rollout.batch_targets, self.state.global_step)
        last = self.accelerator.sync_gradients  # this micro-batch is the last before the optimiser step
        items = live.states if last else live.states.detach().requires_grad_()  # (M, d)
        log_probs = self._item_log_probs(states, inputs["sample_rows"], items)  # (B,)
        old = inputs.get("old_item_log_probs", log_probs.detach())
        unit = warming or self.args.item_advantage == "unit"
        weights = torch.ones_like(log_probs) if unit else inputs["advantages"]  # (B,)
        gains = objective.clipped((log_probs - old).exp(), weights, self.epsilon_low, self.epsilon_high)  # (B,)
        # (1/G) Σ_i 1{i = i*}, averaged over users, is a mean over all rows of which only the marked ones count
        item_loss = -(gains * inputs["best"]).sum() / count
        surprise = -(log_probs.detach() * inputs["best"]).sum() / inputs["best"].sum().clamp(min=1)
        self._metrics["train"]["item_surprise"].append(surprise.item())
        self._trained_tokens += int(inputs["prompt_mask"].sum() + lengths.sum())
        if self._measures_gradients():
            self._gradients.add(token_loss)
        item_loss = self.args.item_weight * item_loss / self.current_gradient_accumulation_steps
        if last:
            self.items.forget()
            earlier = (items * live.carried).sum()  # its gradient is theirs, its value is not part of the loss
            return token_loss + item_loss + earlier - earlier.detach()
        live.carried += torch.autograd.grad(item_loss, items, retain_graph=True)[0]
        return token_loss + item_loss

    def _warming(self, ahead: int = 0) -> bool:
        """Whether the token terms are still off, now or `ahead` optimiser steps later."""
        return self.state.global_step + ahead < self.args.item_warmup_steps

    def _kl_weight(self, ahead: int = 0) -> float:
        """Weight of the divergence from the start, now or `ahead` optimiser steps later."""
        apart = self.args.kl_weight_warmup is not None and self._warming(ahead)
        return self.args.kl_weight_warmup if apart else self.args.beta

    def _measures_gradients(self) -> bool:
        """In every `rollout_steps`-th step, where each process holds whole gradients that no scaler has changed."""
        whole = not self.is_deepspeed_enabled and not self.is_fsdp_enabled and self.accelerator.scaler is None
        return whole and self.state.global_step % self.args.rollout_steps == 0 and torch.is_grad_enabled()

    def training_step(self, model, inputs, num_items_in_batch):
        """TRL's, which also notes `tokens_per_second` and, every `rollout_steps` steps, the gradient of each term.

        Tokens are those of the trajectories that the step trained on, prompt and chain of each one, over all
        processes; a prompt counts once a trajectory, though it is computed once a group.
        """
        metrics = self._metrics["train"]
        timed = len(metrics["step_time"])
        loss = super().training_step(model, inputs, num_items_in_batch)
        if len(metrics["step_time"]) > timed:  # the optimiser step is complete
            tokens = self.accelerator.reduce(torch.tensor(float(self._trained_tokens), device=loss.device))
            metrics["tokens_per_second"].append(tokens.item() / metrics["step_time"][-1])
            self._trained_tokens = 0
            if self._gradients.tokens is not None:
                norms = self._gradients.norms(self.accelerator)
                metrics["grad_norm_tokens"].append(norms[0])
                metrics["grad_norm_items"].append(norms[1])
        return loss

    def _item_log_probs(self, states: Tensor, rows: Tensor, items: Tensor) -> Tensor:
        """Eq. 7 for states (B, d) against the batch's target items (M, d), and the table where the recipe says so."""
        head, batch = self.r2ec.head, self.rollout.batch_targets
        columns = torch.searchsorted(batch, self._targets(rows))  # (B,), `unique` sorts
        scores = scoring.similarity_scores(states, items, head.similarity)  # (B, M)
        excluded = self._seen(rows)  # (B, N) or None
        if not self.args.catalogue_negatives:
            excluded = None if excluded is None else excluded[:, batch]
            return scoring.item_log_probs(scores, columns, head.temperature, excluded)
        constant = head.scores(states).index_copy(1, batch, scores)  # (B, N): live columns replace stored ones
        return scoring.item_log_probs(constant, batch[columns], head.temperature, excluded)

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
        self.items.refresh(self.state.global_step)
        process = self.accelerator.process_index
        share = self.valid_samples.iloc[process :: self.accelerator.num_processes]
        prompts = self.r2ec.prompts.user_ids(share, self.r2ec.titles)
        answers = self.r2ec.sample(prompts, self.args.max_completion_length)
        ranks = ranks_of_states(self.r2ec, share, answers.states).tolist()
        lengths = [len(chain) for chain in answers.chains]
        found = torch.tensor(gather_object(list(zip(ranks, lengths, strict=True)))).double()  # (V, 2)
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
            notes = {"refreshed_at": self.items.refreshed_at, "rollouts": self.rollout_log}
            (folder / "recpo.json").write_text(json.dumps(notes))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """Also restores the item table, so that a resumed run gives the rewards of an uninterrupted one."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        table = load_file(folder / "item_table.safetensors")["item_table"]
        self.r2ec.head.table = table.to(self.accelerator.device)
        notes = json.loads((folder / "recpo.json").read_text())
        self.items.refreshed_at, self.rollout_log = notes["refreshed_at"], notes["rollouts"]


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
