"""What the trainer's tests share: given chains as the tensors of the loss, whole rollouts, gradients by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from r2ec_lib.model import encoding
from r2ec_lib.model.encoding import captured_states, forward_states, read_out

CHAINS = [[40, 41, 2], [42, 2], [43, 44, 45, 46, 2], [47, 48, 49, 2]]  # 2 is `<answer>`; different lengths
ADVANTAGES = torch.tensor([0.7, -0.7, -0.4, 0.4], dtype=torch.float64)
BEST = torch.tensor([True, False, False, True])


def rows_of(trainer, chains=CHAINS, rows=(0, 0, 1, 1), written=None):
    """The tensors that the loss gets for given chains."""
    prompts = trainer.r2ec.prompts.user_ids(trainer.samples.iloc[list(rows)], trainer.r2ec.titles)
    written = written or [True] * len(chains)
    actions = [len(chain) - (not own) for chain, own in zip(chains, written, strict=True)]
    chains = trainer.r2ec.closed(chains)
    width, length = max(map(len, prompts)), max(map(len, chains))
    inputs = {
        "prompt_ids": torch.tensor([[0] * (width - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([c + [0] * (length - len(c)) for c in chains]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (length - len(c)) for c in chains]),
        "tool_mask": torch.tensor([[int(at < n) for at in range(length)] for n in actions]),
        "sample_rows": torch.tensor(rows),
        "num_items_in_batch": torch.tensor(sum(map(len, chains))),
    }
    targets = torch.tensor(trainer.samples["target"].iloc[list(rows)].to_list()).unique()
    return {**inputs, "candidates": targets.expand(len(rows), -1)}


def with_old(trainer, inputs):
    """Adds π_old as the current policy has it, so that the ratio differs from 1 once weights move."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    keep = inputs["completion_ids"].shape[1]
    with torch.no_grad(), captured_states(trainer.r2ec.lm) as hidden:
        old, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, keep)
        ends = hidden[-1].shape[1] - keep + inputs["completion_mask"].sum(dim=1) - 1
        states = read_out(hidden[-1], ends, ends)
        candidates = inputs["candidates"][0]
        items = forward_states(trainer.r2ec.lm, trainer.r2ec.lm, [trainer.items.texts[item] for item in candidates])
        items_old = trainer._item_log_probs(states, inputs["sample_rows"], items, candidates)
    return {**inputs, "old_per_token_logps": old, "old_item_log_probs": items_old}


def live_items(trainer, inputs):
    return trainer.items.live(trainer.model, inputs["candidates"][0], 0)


def generated(trainer, rows=(3, 3, 9, 9)):
    """A whole rollout for rows of the samples table: the tensors of the loss, and a dict per trajectory."""
    trajectories = [{"prompt": row} for row in rows]
    return trainer._generate_and_score_completions(trajectories), trajectories


def gradients(trainer, inputs):
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@contextmanager
def encodings_noted() -> Iterator[list[tuple[int, ...]]]:
    """Records, in order, the token ids of every text that `encoding.forward_states` reads inside."""
    noted: list[tuple[int, ...]] = []
    original = encoding.forward_states

    def noting(lm: Any, plain_lm: Any, ids: Any, *args: Any, **kwargs: Any) -> Tensor:
        noted.extend(map(tuple, ids))
        return original(lm, plain_lm, ids, *args, **kwargs)

    encoding.forward_states = noting
    try:
        yield noted
    finally:
        encoding.forward_states = original
