"""Both sides of each comparison: what this library does, and the plain way to the same result.

The plain ways are what one would write without this library: TRL's own trainer with a constant reward, `generate`,
padded batches in file order, one product and one `topk`. Both sides get the same model, prompts and number of tokens.
What is measured on is in `subjects`, how in `timing`.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import pandas as pd
import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from trl import GRPOConfig, GRPOTrainer

from r2ec_lib.evaluation.speed.subjects import random_samples
from r2ec_lib.evaluation.speed.timing import Side, Stopwatch
from r2ec_lib.model import R2ec, encoding
from r2ec_lib.model.decoding import LAST
from r2ec_lib.model.encoding import captured_states
from r2ec_lib.model.sampling import left_padded, sample
from r2ec_lib.training.config import RecPOConfig
from r2ec_lib.training.log_probs import token_log_probs
from r2ec_lib.training.rollout import Drawn
from r2ec_lib.training.trainer import RecPOTrainer

Trainer = TypeVar("Trainer", bound=GRPOTrainer)

# ---- sampling and recommending -------------------------------------------------------------------------------------


@torch.no_grad()
def generated(model: R2ec, prompt_ids: Sequence[Sequence[int]], chosen: GenerationConfig) -> list[list[int]]:
    """Chains by transformers' `generate`, each up to its first stop token."""
    ids, mask = left_padded(prompt_ids, chosen.pad_token_id, model.lm.device)
    generate: Any = model.lm.generate
    written = generate(input_ids=ids, attention_mask=mask, generation_config=chosen)[:, ids.shape[1] :]
    chains = []
    for row in written.tolist():
        end = next((at for at, token in enumerate(row) if token in chosen.eos_token_id), len(row) - 1)
        chains.append(row[: end + 1])
    return chains


@torch.no_grad()
def recommended(
    model: R2ec, prompt_ids: Sequence[Sequence[int]], histories: Sequence[Sequence[int]], max_new_tokens: int, k: int
) -> Tensor:
    """Reasoning, states and the k best items (B, k) of a batch of prompts, as `R2ec.recommend` does for one."""
    return model.scores(model.sample(prompt_ids, max_new_tokens).states, histories).topk(k).indices


# ---- encoding ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def encoded_in_file_order(lm: PreTrainedModel, ids: Sequence[Sequence[int]], batch_size: int) -> Tensor:
    """States (N, d) at the last token of each text: batches of neighbours, each padded to its longest text."""
    states, device = [], lm.device
    for start in range(0, len(ids), batch_size):
        batch = ids[start : start + batch_size]
        lengths = torch.tensor([len(row) for row in batch], device=device)
        width = int(lengths.max())
        padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=device)  # (B, L)
        mask = (torch.arange(width, device=device)[None, :] < lengths[:, None]).long()
        with captured_states(lm) as hidden:
            lm(input_ids=padded, attention_mask=mask, use_cache=False, logits_to_keep=LAST)
        states.append(hidden[-1][torch.arange(len(batch), device=device), lengths - 1])
    return torch.cat(states)


# ---- the policy's pass ---------------------------------------------------------------------------------------------


def policy_rows(
    lm: PreTrainedModel, users: int, trajectories: int, prompt_tokens: int, chain_tokens: int
) -> tuple[Tensor, Tensor]:
    """Ids and mask (users × trajectories, prompt_tokens + chain_tokens) of random tokens, one prompt per group."""
    source, vocab_size = torch.Generator().manual_seed(0), lm.config.get_text_config().vocab_size
    prompts = torch.randint(3, vocab_size, (users, prompt_tokens), generator=source).repeat_interleave(trajectories, 0)
    chains = torch.randint(3, vocab_size, (users * trajectories, chain_tokens), generator=source)
    ids = torch.cat([prompts, chains], dim=1).to(lm.device)
    return ids, torch.ones_like(ids)


def policy_pass(trainer: RecPOTrainer, ids: Tensor, mask: Tensor, chain_tokens: int, share: bool) -> Side:
    """The pass over the chains with its gradient: each prompt computed once (`share`), or once per chain."""

    def call() -> Tensor:
        trainer.model.zero_grad()
        fused = ids.device.type != "cpu"
        with trainer.accelerator.autocast():
            log_probs, _ = token_log_probs(
                trainer.model, trainer.r2ec.lm, ids, mask, chain_tokens, 1.0, share, fused, entropies=True
            )
        log_probs.sum().backward()
        return log_probs

    return call


def growing_sides(trainer: RecPOTrainer, users: int, history: int, group: int, tokens: int) -> dict[str, Side]:
    """Sampling and the policy's pass for `users` random shoppers, for sizes that may grow: purchases per history,
    trajectories per shopper, tokens per reasoning."""
    model, device = trainer.r2ec, trainer.accelerator.device
    samples = random_samples(len(model.catalogue), users, history)
    prompts = [prompt for prompt in model.prompts.user_ids(samples, model.titles) for _ in range(group)]
    ids, mask = left_padded(prompts, model.tokenizer.pad_token_id, device)
    chains = torch.randint(3, len(model.tokenizer), (len(prompts), tokens), device=device)
    ids, mask = torch.cat([ids, chains], dim=1), torch.cat([mask, torch.ones_like(chains)], dim=1)
    drawn = model.settings(tokens, temperature=1.0)
    return {
        "sampling": lambda: sample(model.lm.eval(), prompts, drawn, model.prompts.answer),
        "policy pass": policy_pass(trainer, ids, mask, tokens, share=True),
    }


def encoded_with_gradient(lm: PreTrainedModel, ids: Sequence[Sequence[int]], batch_tokens: int) -> Side:
    """States (N, d) of texts and the gradient of their sum, in batches by length or, if all fit, as one batch."""

    def call() -> None:
        lm.zero_grad()
        encoding.batched_states(lm, lm, ids, batch_tokens=batch_tokens).float().sum().backward()

    return call


def adapted_pass(lm: PeftModel, ids: Sequence[Sequence[int]], adapters: bool) -> Side:
    """A pass through the decoder to its inputs and back, with LoRA `adapters` or through the frozen model alone."""
    padded, mask = left_padded(ids, 0, lm.device)

    def call() -> None:
        lm.zero_grad()
        inputs = lm.get_input_embeddings()(padded).detach().requires_grad_()
        with nullcontext() if adapters else lm.disable_adapter():
            lm.get_decoder()(inputs_embeds=inputs, attention_mask=mask, use_cache=False)[0].float().sum().backward()

    return call


def gradient(lm: torch.nn.Module) -> Tensor:
    """All gradients of the trained weights as one vector, float32."""
    return torch.cat([weight.grad.flatten().float() for weight in lm.parameters() if weight.grad is not None])


# ---- whole steps ---------------------------------------------------------------------------------------------------


def recpo_trainer(model: R2ec, samples: pd.DataFrame, folder: str, **choices: Any) -> RecPOTrainer:
    """RecPO on a copy of the model's weights. `choices` are fields of `GRPOConfig` or `RecPOConfig`."""
    copied = R2ec(copy.deepcopy(model.lm), model.prompts, model.catalogue)
    config = RecPOConfig(**_fields(model, folder), length_handling="batch", **choices)
    return _ready(RecPOTrainer(copied, config, samples))


def _constant(completions: list, **_: Any) -> list[float | None]:
    """The reward of the plain side: 1 for every chain."""
    return [1.0] * len(completions)


def plain_trainer(model: R2ec, samples: pd.DataFrame, folder: str, **choices: Any) -> GRPOTrainer:
    """TRL's own trainer on a copy of the model's weights, with a constant reward and the same prompts."""
    lm = copy.deepcopy(model.lm)
    lm.generation_config.eos_token_id = model.prompts.answer.stop_ids(lm)
    texts = model.prompts.user_texts(samples, model.titles)
    chat = bool(model.prompts.style.instruct and model.tokenizer.chat_template)
    prompts = [[{"role": "user", "content": text}] if chat else text for text in texts]
    fields = _fields(model, folder) | {"loss_type": "dapo", "beta": 0.0, "temperature": 1.0}
    fields |= {"gradient_checkpointing": False, "bf16": False, "report_to": [], "disable_tqdm": True}
    fields |= {"chat_template_kwargs": {"enable_thinking": False}} if chat else {}
    return _ready(
        GRPOTrainer(
            model=lm,
            args=GRPOConfig(**{**fields, **choices}),
            reward_funcs=_constant,
            train_dataset=Dataset.from_dict({"prompt": prompts, "row": list(range(len(prompts)))}),
            processing_class=model.tokenizer,
        )
    )


def _fields(model: R2ec, folder: str) -> dict:
    on_cpu = model.lm.device.type == "cpu"
    return {"output_dir": str(folder), "use_cpu": on_cpu, "save_strategy": "no", "learning_rate": 1e-6}


def _ready(trainer: Trainer) -> Trainer:
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return trainer


def optimiser_step(trainer: Any, watch: Stopwatch | None = None) -> None:
    """One whole step on the first samples of TRL's or RecPO's trainer: sampling, reward, update, as `train` makes it;
    `watch` notes the seconds of each phase.

    What `train` does around a step (callbacks, logging, fetching rows) is the same for both trainers and left out.
    """
    rows = [trainer.train_dataset[user] for user in _first_users(trainer) for _ in range(trainer.num_generations)]
    with watch.watching(_phases(trainer)) if watch else nullcontext():
        for left in reversed(range(trainer.args.gradient_accumulation_steps)):
            trainer.accelerator.gradient_state._set_sync_gradients(not left)  # as `train` announces the last
            trainer.training_step(trainer.model, rows, None)
        with watch.phase("optimiser") if watch else nullcontext():
            trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
            trainer.optimizer.step()
            trainer.model.zero_grad()
    trainer.state.global_step += 1


def _phases(trainer: GRPOTrainer) -> list[tuple[object, str, str]]:
    """Methods whose time is told apart, as `Stopwatch.watching` wants them."""
    recpo = isinstance(trainer, RecPOTrainer)  # it samples and rewards in one call
    methods: list[tuple[object, str, str]] = [(trainer, "training_step", "other")]
    methods += [(trainer, "compute_loss", "policy pass"), (trainer.accelerator, "backward", "backward")]
    methods += [(trainer, "_calculate_rewards", "reward"), (trainer, "_generate", "reward" if recpo else "sampling")]
    if isinstance(trainer, RecPOTrainer):
        methods.append((trainer, "sample_chains", "sampling"))
        methods += [(trainer.items, "live", "target items"), (trainer.items, "refresh", "refresh")]
    return methods


def sampled_rollout(trainer: RecPOTrainer) -> tuple[list[list[int]], Drawn, list[int]]:
    """Prompts, trajectories and sample rows of one sampling by the trainer, ready for its rewards.

    The trainer then holds its targets' encodings and an up-to-date item table, as it does when a step reaches its
    reward.
    """
    rows = [user for user in _first_users(trainer) for _ in range(trainer.num_generations)]
    prompts = trainer.rows.prompts(rows)
    trainer.model.train()
    drawn = trainer.sample_chains(prompts)
    rewards(trainer, drawn, rows)
    return prompts, drawn, rows


def rewards(trainer: RecPOTrainer, drawn: Drawn, rows: list[int]) -> Tensor:
    """Both rewards of sampled trajectories (B, 2)."""
    fields = trainer.rewarded(rows, drawn)
    return torch.tensor([fields["reward_ndcg"], fields["reward_similarity"]]).T


def candidates(trainer: RecPOTrainer) -> Tensor:
    """The target items (M,) of the trainer's first samples, which its steps here are made of."""
    return trainer.rows.targets(torch.tensor(list(_first_users(trainer)), device=trainer.accelerator.device)).unique()


def _first_users(trainer: GRPOTrainer) -> range:
    args: Any = trainer.args
    return range(args.per_device_train_batch_size * args.gradient_accumulation_steps // args.num_generations)


def fresh_items(trainer: RecPOTrainer) -> None:
    """Lets the trainer forget its item encodings, as if weights had changed."""
    trainer.items.refreshed_at = None
    trainer.items.forget()


def whole_table(trainer: RecPOTrainer) -> None:
    """The item table as a validation asks for it."""
    trainer.items.refresh(trainer.state.global_step)


def table_and_targets(trainer: RecPOTrainer) -> None:
    """The item table as the reward of a step asks for it, the batch's targets among it, due for a refresh or not."""
    trainer.items.update(trainer.model_wrapped, candidates(trainer), trainer.state.global_step)


def targets_alone(trainer: RecPOTrainer) -> None:
    """The batch's targets with a gradient, as the loss of a step asks for them."""
    trainer.items.live(trainer.model_wrapped, candidates(trainer), trainer.state.global_step)


def table_for_a_step(trainer: RecPOTrainer, once: bool) -> None:
    """What a step needs that follows a validation and is due for a refresh, from new weights on.

    The catalogue serves the validation and the reward, the batch's targets the reward and the loss. `once` encodes as
    the trainer does; otherwise validation, reward and loss each encode what they need.
    """
    fresh_items(trainer)
    for use in (whole_table, table_and_targets, targets_alone):
        use(trainer)
        if not once:
            fresh_items(trainer)
