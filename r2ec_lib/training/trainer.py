"""RecPO: reinforcement learning that trains reasoning and recommendation in one policy update.

`RecPOTrainer` is TRL's `GRPOTrainer` with two changes: trajectories are rewarded by how their final hidden state ranks
the catalogue, and the loss gains the recommendation action of Eq. 8. The mathematics is in `objective.py`, chains and
reward functions in `rollout.py`, the configuration in `config.py`, checkpoints in `checkpoints.py`. Where the official
code departs from the paper, this file follows the paper; see the README, "What differs from the official code".
"""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOTrainer

from r2ec_lib.model import R2ec, scoring
from r2ec_lib.model.backbone import checkpoint_from_trained
from r2ec_lib.model.claims import Checker
from r2ec_lib.model.encoding import NO_LOGITS, caches_exactly, captured_states, read_out
from r2ec_lib.model.r2ec import ranks_of
from r2ec_lib.model.sampling import Sampled
from r2ec_lib.training import objective, rollout
from r2ec_lib.training.config import RecPOConfig
from r2ec_lib.training.live_items import ItemTable, LearnedItems
from r2ec_lib.training.log_probs import token_log_probs
from r2ec_lib.training.rows import Rows
from r2ec_lib.training.sharded import whole_weights


class RecPOTrainer(GRPOTrainer):
    """GRPOTrainer whose reward is a recommendation and whose last action is one (paper, section 4).

    Through TRL's public doors: `rollout_func` samples, ranks and rewards; the reward functions pass its figures on;
    `reward_weights` mixes them (Eq. 5); `scale_rewards` chooses the advantages (Eq. 2); `env_mask` marks appended
    tokens, which are no actions of the policy. A dataset row's `prompt` is its row of the samples table.

    Overridden, and why:
        compute_loss: adds the recommendation action to the token terms.
        evaluate: ranks the validation sample in place of computing a loss on it.
        _generate_and_score_completions: between scoring and shuffling into micro-batches, each trajectory gets what
            the recommendation action needs; TRL hands the loss a fixed set of tensors.
        _get_per_token_logps_and_entropies: computes each distinct prompt once; TRL repeats it for its G chains.

    Args:
        model: the R²ec to train; its language model and item table are changed in place, and reasonings of
            `args.max_completion_length` become its default. `refresh` makes the table that of the final weights.
        args: the configuration.
        train_samples: samples table (schema.py) whose targets are the labels.
        valid_samples: samples table for `evaluate`; its first `args.valid_users` rows in a seeded order are used.
        judge: rewards of reasoning texts by people's judgements, where `args.judged_weight` asks for them.
    """

    _name = "RecPO"
    args: RecPOConfig
    model: PreTrainedModel
    num_generations: int
    num_iterations: int
    max_completion_length: int
    _buffered_inputs: Any

    def __init__(
        self,
        model: R2ec,
        args: RecPOConfig,
        train_samples: pd.DataFrame,
        valid_samples: pd.DataFrame | None = None,
        judge: Callable[[Sequence[str]], list[float]] | None = None,
        **kwargs: Any,
    ):
        if bool(args.judged_weight) != (judge is not None):
            raise ValueError(
                f"judged_weight is {args.judged_weight}; judgements are given where it is not 0, only there"
            )
        self.judge = judge
        self.checker = Checker(model.catalogue, model.prompts) if args.untrue_price else None
        self.r2ec = model
        model.max_new_tokens = args.max_completion_length
        self.samples = train_samples.reset_index(drop=True)
        self.rows = Rows(model, self.samples, args.mask_seen)
        self.rows.require_room(args.max_completion_length)
        self.valid_samples = valid_samples
        if valid_samples is not None and len(valid_samples) > args.valid_users:
            self.valid_samples = valid_samples.sample(args.valid_users, random_state=args.seed)
        learned = args.item_vectors == "learned"
        self.items = LearnedItems(model, args.seed) if learned else ItemTable(model, args.refresh_steps)
        self.rollout_log: list[dict] = []  # one dict per kept trajectory
        model.lm.generation_config.eos_token_id = model.prompts.answer.stop_ids(model.lm)
        args.generation_kwargs = {**(args.generation_kwargs or {}), **rollout.generation_limits(model, args.use_vllm)}
        if not args.max_completion_length:
            args.generation_kwargs["max_new_tokens"] = 1  # nothing is generated, and transformers refuses 0
        rows = Dataset.from_dict({"prompt": list(range(len(self.samples)))})
        rewards: list[Any] = [rollout.ndcg, *map(rollout.handed_on, ("similarity", *args.further_rewards))]
        if args.beta and not (isinstance(model.lm, PeftModel) or model.lm.config._name_or_path):
            raise ValueError(
                f"beta is {args.beta}: TRL reads the start from a folder; save the model and load it again"
            )
        if args.gradient_checkpointing and not (args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            checkpoint_from_trained(model.lm)
        roll_out: Any = self.roll_out  # whose prompts are row numbers
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*rollout_func")  # experimental; TRL's version is pinned
            super().__init__(
                model=model.lm,
                args=args,
                reward_funcs=rewards,
                rollout_func=roll_out,
                train_dataset=rows,
                eval_dataset=rows if valid_samples is not None else None,  # `evaluate` reads `valid_samples`
                processing_class=model.tokenizer,
                **kwargs,
            )
        if self.use_vllm:
            engine: Any = self.vllm_generation
            engine.sync_weights = rollout.same_backbone(model.lm)(engine.sync_weights)
        self._require_start()

    def _require_start(self) -> None:
        """Raises ValueError where TRL's reference, which it reads from a folder, is not the model at hand.

        Not where weights are spread over processes: none of them has the whole.
        """
        if self.ref_model is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return
        start, here = self.accelerator.unwrap_model(self.ref_model), dict(self.r2ec.lm.named_parameters())
        if not all(torch.equal(here[name], weight.to(here[name])) for name, weight in start.named_parameters()):
            raise ValueError(
                f"the model has changed since it was read from {self.r2ec.lm.config._name_or_path}, and beta "
                f"({self.args.beta}) would hold it to what stands there; save it and load it again"
            )

    # --- change 1: the rollout --------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Tensor]:
        """TRL's rollout, with the marks of i* and the candidates of the recommendation action (Eq. 7 and 8).

        Afterwards each dict of `inputs` also holds the fields of `roll_out`, which TRL gives to the rewards.
        """
        last = self.args.updates_per_rollout - 1
        self.beta = self._kl_weight(last)  # the largest that these rows will meet
        output = super()._generate_and_score_completions(inputs)
        if self.args.estimator == "rloo":  # R_i − mean of the others = G / (G − 1) (R_i − mean of all)
            output["advantages"] *= self.num_generations / (self.num_generations - 1)
        groups = self.accelerator.gather(output["advantages"]).view(-1, self.num_generations)  # (U, G)
        best, first = objective.best_trajectories(groups, self.args.relabel_top), self.accelerator.process_index
        output["best"] = best.flatten()[first * len(inputs) : (first + 1) * len(inputs)]  # (B,)
        output["sample_rows"] = torch.tensor([row["prompt"] for row in inputs], device=self.accelerator.device)
        candidates = inputs[0]["candidates"]  # (M,)
        output["candidates"] = candidates.expand(len(inputs), -1)  # (B, M): TRL shuffles and splits rows
        if self.args.updates_per_rollout > 1:  # otherwise the ratio is 1
            with torch.no_grad():
                states, items = torch.stack([row["state"] for row in inputs]), self.r2ec.head.table[candidates]
                log_probs = self._item_log_probs(states, output["sample_rows"], items, candidates)
                output["old_item_log_probs"] = log_probs
        last_kept = self.rollout_log[-1]["step"] if self.rollout_log else -1
        if self.state.global_step // self.args.rollout_steps > last_kept // self.args.rollout_steps:
            kept = inputs[: self.args.rollout_users * self.num_generations]
            self.rollout_log += self._table_rows(kept, output)
        return output

    def roll_out(self, rows: list[int], _: Any = None) -> dict[str, Any]:
        """TRL's `rollout_func`: a trajectory for each entry of `rows` (B), rows of the samples, each G times in it.

        Returns:
            What TRL asks for (`prompt_ids`, `completion_ids`, `logprobs`, `env_mask`), the fields of `rewarded`, and
            for each trajectory `chain` (ids up to `<answer>`), `written` (whether the model wrote it) and `state`
            (d,). `figures` go into the log.
        """
        began = time.perf_counter()
        prompts = self.rows.prompts(rows)
        longest = max(map(len, prompts)) + self.args.max_completion_length
        self.r2ec.require_positions(self.r2ec.with_ending(longest))
        drawn = self.sample_chains(prompts)
        sampled = time.perf_counter()
        fields = self.rewarded(rows, drawn)
        lengths = self.accelerator.gather(torch.tensor([*map(len, drawn.chains)], device=self.accelerator.device))
        figures = {
            "length": lengths.float().mean().item(),
            "length_low": float(lengths.min()),
            "length_high": float(lengths.max()),
            "share_unclosed": 1 - sum(drawn.written) / len(rows),
            "repetition": rollout.repetition(drawn.chains),
            "seconds_sampling": sampled - began,
            "seconds_reward": time.perf_counter() - sampled,
        }
        read = {"chain": drawn.chains, "written": drawn.written, "state": list(drawn.states)}
        return {"prompt_ids": prompts, **drawn.completions(self.r2ec.closed), **read, **fields, "figures": figures}

    def sample_chains(self, prompts: list[list[int]]) -> rollout.Drawn:
        """A closed chain per prompt: by our sampler, or through TRL by vLLM or continuous batching if asked for."""
        model, log_probs = self.r2ec, None
        others = self.use_vllm or self.use_transformers_continuous_batching  # for which TRL gathers spread weights
        chains: list[list[int]] | None = None  # none where `<answer>` follows the prompt
        if others and self.max_completion_length:
            chains, log_probs = self._generate_single_turn(prompts, None, {}, self.num_generations)
        with whole_weights(model.lm):
            ours = self.max_completion_length and not others
            drawn = self._sampled(prompts) if ours else model.read(prompts, chains)
        appended = [0 if written else len(model.prompts.answer.ids) for written in drawn.written]
        actions = [len(chain) - more for chain, more in zip(drawn.chains, appended, strict=True)]
        return rollout.Drawn(drawn.chains, actions, drawn.written, drawn.states, log_probs)

    def _sampled(self, prompts: list[list[int]]) -> Sampled:
        """What our sampler draws, with TRL's settings."""
        room = None  # a GPU takes what fits
        if self.accelerator.device.type == "cpu":  # all at once
            longest = max(map(len, prompts)) + self.max_completion_length
            room = (longest + len(self.r2ec.prompts.answer.ids)) * len(prompts)
        return self.r2ec.drawn(prompts, self.generation_config, room)

    def rewarded(self, rows: list[int], drawn: rollout.Drawn) -> dict[str, Any]:
        """Ranks the catalogue by the final states of trajectories (B) and rewards them (Eq. 4 and 5).

        Returns:
            Lists of `rank`, `reward_ndcg`, `reward_similarity` and, where they count, `reward_judged`, `reward_price`,
            `reward_unclosed` and `reward_untrue`; `candidates` (M,), the sorted target items of all processes and
            `negatives`, whose rows in the item table now come from the current weights.
        """
        numbers, head = torch.tensor(rows, device=self.accelerator.device), self.r2ec.head  # (B,)
        targets = self.rows.targets(numbers)  # (B,)
        candidates = torch.cat([self.accelerator.gather(targets), self.negatives()]).unique()  # (M,)
        self.items.update(self.model_wrapped, candidates, self.state.global_step)
        parts = []
        for block in scoring.row_blocks(len(rows), len(head.item_ids)):
            scores, seen = head.scores(drawn.states[block]), self.rows.seen(numbers[block])  # (b, N), (b, N) or None
            self.require_numbers(scores)
            likely = scoring.item_log_probs(scores, targets[block], head.temperature, seen)
            parts.append((scoring.target_ranks(scores, targets[block], seen), likely))
        ranks, log_probs = (torch.cat(part) for part in zip(*parts, strict=True))  # (B,) each
        fields = {
            "candidates": candidates,
            "rank": ranks.tolist(),
            "reward_ndcg": objective.ndcg(ranks, self.args.reward_cutoff).float().tolist(),
            "reward_similarity": log_probs.exp().tolist(),
        }
        if self.args.token_price:
            fields["reward_price"] = [-float(count) for count in drawn.actions]
        if self.args.unclosed_price:
            fields["reward_unclosed"] = [float(written) - 1 for written in drawn.written]
        texts = [self.r2ec.decode(chain) for chain in drawn.chains] if self.checker or self.judge else []
        if self.checker:
            ended = drawn.ended(self.r2ec.prompts.answer.stop_ids(self.r2ec.lm))
            told = zip(texts, ended, self.samples["history"].iloc[rows], strict=True)
            fields["reward_untrue"] = [-self.checker.failing(*one, self.args.stated_facts) for one in told]
        if self.judge:
            fields["reward_judged"] = self.judge(texts)
        return fields

    def _table_rows(self, inputs: Sequence[dict], output: dict[str, Tensor]) -> list[dict]:
        """Rows of the rollouts table, numbered within their groups, for the first trajectories of a rollout."""
        names, weights = [f"reward_{name}" for name in self.reward_func_names], self.reward_weights.tolist()
        return [
            {
                "step": self.state.global_step,
                "sample_id": int(self.samples["sample_id"].iloc[row["prompt"]]),
                "trajectory": place % self.num_generations,
                "chain": self.r2ec.decode(row["chain"]),
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

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As TRL's, with each distinct prompt computed once where `caches_exactly` allows it and G > 1.

        Gradient checkpointing keeps no caches, so with it the prompts are repeated as in TRL; but padding counts as no
        position. A mixture of experts goes through TRL's pass, which returns its auxiliary loss.
        """
        share, fused = self.num_generations > 1 and caches_exactly(self.r2ec.lm), self.accelerator.device.type != "cpu"
        if self.aux_loss_enabled:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        size, how = batch_size or len(input_ids), (self.temperature, share, fused, compute_entropy)
        with self.accelerator.autocast():
            parts = [
                token_log_probs(model, self.r2ec.lm, ids, mask, logits_to_keep, *how)
                for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True)
            ]
        log_probs, entropies = zip(*parts, strict=True)
        return torch.cat(log_probs), torch.cat(entropies) if compute_entropy else None, None

    # --- change 2: the recommendation action ------------------------------------------------------------------------

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's token terms plus the item term of Eq. 8. Its states come from the pass over the chains; where they are
        read alone, from a pass of their own."""
        inputs = self._of_whole_groups(inputs)
        warming, count = self._warming(), len(inputs["best"])
        self.beta = self._kl_weight()
        if warming:
            inputs = {**inputs, "advantages": torch.zeros_like(inputs["advantages"])}
            if not self._entropy_bonus_enabled and not self.aux_loss_enabled:
                marked = self.accelerator.gather(inputs["best"].sum())  # TRL gathers rows: as many in all processes
                inputs = rollout.marked_rows(inputs, int(marked.max()))  # B is their number from here on
        with captured_states(self.r2ec.lm) as hidden:
            token_loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        lengths, width = inputs["completion_mask"].sum(dim=1), inputs["completion_mask"].shape[1]
        starts = torch.full_like(lengths, hidden[-1].shape[1] - width)  # (B,) the chains stand in the last columns
        ends = starts + lengths - 1  # (B,) the position of `<answer>`, or of the token after it
        states = read_out(hidden[-1], starts, ends, self.r2ec.head.readout)  # (B, d)
        if self.r2ec.head.readout == "alone" and self.max_completion_length:
            inputs = rollout.marked_rows(inputs, int(inputs["best"].sum()))  # no other state has a gradient
            states = self._states_alone(model, inputs["completion_ids"], inputs["completion_mask"])

        candidates = inputs["candidates"][0]  # (M,) equal in all rows
        live = self.items.live(self.model_wrapped, candidates, self.state.global_step)
        last = self.accelerator.sync_gradients  # this micro-batch is the last before the optimiser step
        items = live.states if last else live.states.detach().requires_grad_()  # (M, d)
        log_probs = self._item_log_probs(states, inputs["sample_rows"], items, candidates)  # (B,)
        old = inputs.get("old_item_log_probs", log_probs.detach())
        unit = warming or self.args.item_advantage == "unit"
        weights = torch.ones_like(log_probs) if unit else inputs["advantages"]  # (B,)
        gains = objective.clipped((log_probs - old).exp(), weights, self.epsilon_low, self.epsilon_high)  # (B,)
        # (1/G) Σ_i 1{i = i*}, averaged over users, is a mean over all rows of which only the marked ones count
        item_loss = -(gains * inputs["best"]).sum() / count
        marked = torch.stack([-(log_probs.detach() * inputs["best"]).sum(), inputs["best"].sum().float()])
        surprise, number = self.accelerator.gather(marked[None]).sum(dim=0).tolist()
        if number:
            self._metrics["train"]["item_surprise"].append(surprise / number)
        item_loss = self.args.item_weight * item_loss / self.current_gradient_accumulation_steps
        if last:
            self.items.forget()
            earlier = (items * live.carried).sum()  # its gradient is theirs, its value is not part of the loss
            return token_loss + item_loss + earlier - earlier.detach()
        live.carried += torch.autograd.grad(item_loss, items, retain_graph=True)[0]
        return token_loss + item_loss

    def _states_alone(self, model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        """States (B, d) of right-padded chains (B, C), read after a prompt without purchases in one forward."""
        empty = torch.tensor(self.r2ec.prompts.empty, device=ids.device).expand(len(ids), -1)  # (B, P)
        rows = {"input_ids": torch.cat([empty, ids], dim=1)}
        rows["attention_mask"] = torch.cat([torch.ones_like(empty), mask], dim=1)
        with captured_states(self.r2ec.lm) as hidden:
            model(**rows, use_cache=False, logits_to_keep=NO_LOGITS)
        ends = rows["attention_mask"].sum(dim=1) - 1  # (B,)
        return read_out(hidden[-1], ends, ends, "alone")

    def _of_whole_groups(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A micro-batch of `rollout.whole_groups` in place of TRL's, whose rows are shuffled, so that a prompt is not
        computed in each of them; only where all micro-batches of a rollout make one optimiser step. Where it serves
        several steps, each has to be a sample of all users."""
        parts = self._buffered_inputs
        if not parts or not 1 < len(parts) == self.args.gradient_accumulation_steps or inputs is not parts[0]:
            return inputs  # those after the first have been put in order with it
        self._buffered_inputs = rollout.whole_groups(parts)
        return self._buffered_inputs[0]

    def _item_log_probs(self, states: Tensor, rows: Tensor, items: Tensor, candidates: Tensor) -> Tensor:
        """`RecHead.log_probs` (B,) for states of rows of the training samples."""
        known, whole = (self.rows.targets(rows), self.rows.seen(rows)), self.args.catalogue_negatives
        return self.r2ec.head.log_probs(states, items, candidates, *known, whole)

    def negatives(self) -> Tensor:
        """Further candidates of the recommendation action, the same in all processes: (live_negatives,)."""
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.state.global_step)
        drawn = torch.randperm(len(self.r2ec.head.item_ids), generator=generator)[: self.args.live_negatives]
        return drawn.to(self.accelerator.device)

    def _warming(self, ahead: int = 0) -> bool:
        """Whether the token terms are still off, now or `ahead` optimiser steps later."""
        return self.state.global_step + ahead < self.args.item_warmup_steps

    def _kl_weight(self, ahead: int = 0) -> float:
        """Weight of the divergence from the start, now or `ahead` optimiser steps later; none in warm-up steps."""
        return 0.0 if self._warming(ahead) else self.args.beta

    # --- validation -------------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Greedy reasoning and full ranking of the validation sample, as in the final evaluation.

        Returns:
            `<prefix>_ndcg@10`, `<prefix>_hit@10` and `<prefix>_length` (tokens, `<answer>` included).
        """
        self.items.refresh(self.state.global_step)
        process = self.accelerator.process_index
        if self.valid_samples is None:
            raise ValueError("evaluate ranks valid_samples, and the trainer was made without any")
        share = self.valid_samples.iloc[process :: self.accelerator.num_processes]
        prompts = self.r2ec.prompts.user_ids(share, self.r2ec.titles)
        with whole_weights(self.r2ec.lm):
            answers = self.r2ec.sample(prompts, self.args.max_completion_length)
        self.require_numbers(answers.states)
        ranks = ranks_of(self.r2ec, share, answers.states, self.args.mask_seen).tolist()
        lengths = [len(chain) for chain in answers.chains]
        outcomes = torch.tensor(gather_object(list(zip(ranks, lengths, strict=True)))).double()  # (V, 2)
        metrics = {
            f"{metric_key_prefix}_ndcg@10": objective.ndcg(outcomes[:, 0], 10).mean().item(),
            f"{metric_key_prefix}_hit@10": (outcomes[:, 0] <= 10).double().mean().item(),
            f"{metric_key_prefix}_length": outcomes[:, 1].mean().item(),
        }
        self.model.eval()  # so that TRL's `log` leaves the training metrics of the running step alone
        self.log(metrics)
        self.model.train()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def require_numbers(self, values: Tensor) -> None:
        """Raises FloatingPointError, with step and learning rate, where `values`, which the model made, are none."""
        rates = [entry["learning_rate"] for entry in self.state.log_history if "learning_rate" in entry]
        rate = rates[-1] if rates else self.args.learning_rate
        objective.require_numbers(values, "the model's states and scores", self.state.global_step, rate)
