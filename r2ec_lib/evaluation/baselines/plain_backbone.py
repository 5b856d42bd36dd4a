"""The recommendation action alone: the same backbone without reasoning, or with reasonings that it is given.

Without reasoning, `<answer>` follows the prompt directly: the paper's ablation and the fairest baseline of R²ec. It
has the same prompts, item encoder, softmax over target items (Eq. 7) and samples; only the written reasoning is
missing. With the true facts as reasonings it is an upper bound: what reasoning could bring.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from r2ec_lib.data.storage import read_json, read_table, sha256, write_json, write_table
from r2ec_lib.model import R2ec, scoring
from r2ec_lib.model.encoding import batched_states, captured_states, encoded_tokens, length_batches, read_out
from r2ec_lib.model.r2ec import ranks_of
from r2ec_lib.model.scoring import seen_mask
from r2ec_lib.training import objective
from r2ec_lib.training.log_probs import token_log_probs


def fit_item_action(
    model: R2ec,
    train: pd.DataFrame,
    valid: pd.DataFrame,
    steps: int,
    chains: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]] | None = None,
    batch_users: int = 64,
    learning_rate: float = 5e-4,
    warmup_steps: int = 10,
    refresh_steps: int = 50,
    catalogue_negatives: bool = False,
    live_negatives: int = 0,
    chain_weight: float = 0.0,
    mask_seen: bool = True,
    eval_steps: int = 50,
    patience: int = 3,
    seed: int = 0,
    report: Callable[[int, float, float], None] = lambda step, loss, score: None,
) -> pd.DataFrame:
    """Trains `model` in place and leaves it at its best validation NDCG@10, with a freshly encoded item table.

    Args:
        model: a warmed-up R²ec; all weights that require a gradient are trained.
        train, valid: samples tables.
        steps: most optimiser steps; training ends earlier after `patience` evaluations without a better score.
        chains: token ids of a reasoning for each row of `train` and of `valid`, each closed by `<answer>`; None trains
            without reasoning.
        refresh_steps: steps between two encodings of the stored item table; only `catalogue_negatives` reads it.
        catalogue_negatives: adds the stored item table as constant candidates to the live targets of the batch.
        live_negatives: adds so many items of the catalogue, drawn anew at each step and encoded live.
        chain_weight: weight of the language-model loss (nats a token) of the reasonings in `chains`, so that a model
            goes on writing while its item space is ordered; rows of `<answer>` alone have none.
        report: called with (step, mean loss, validation NDCG@10) at each evaluation.

    Returns:
        One row per evaluation: `step`, `loss` (mean since the last evaluation) and `valid_ndcg@10`.

    Raises:
        FloatingPointError: the loss is NaN or infinite, with the step and the rate.
    """
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    parameters = [weight for weight in model.lm.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    prompts = model.prompts.user_ids(train, model.titles)
    starts = [len(ids) for ids in prompts]  # a read-out by mean averages from here, over the chain alone
    train_chains, valid_chains = chains or ([model.prompts.answer.ids] * len(train), None)
    prompts = model.closed([[*ids, *chain] for ids, chain in zip(prompts, train_chains, strict=True)])
    item_ids, readout = model.closed(model.prompts.item_ids(model.catalogue)), model.head.readout
    size, live = encoded_tokens(model.lm), min(live_negatives, len(item_ids))
    targets = train["target"].to_numpy().astype("int64")
    order: list[int] = []
    log: list[dict] = []
    losses: list[float] = []
    best, best_row = -1.0, 0
    weights: dict[str, torch.Tensor] = {}
    model.lm.train()
    for step in range(1, steps + 1):
        if catalogue_negatives and (step - 1) % refresh_steps == 0:
            model.refresh()
        if len(order) < batch_users:
            order = generator.permutation(len(train)).tolist()
        rows, order = order[:batch_users], order[batch_users:]
        further = generator.choice(len(item_ids), live, replace=False) if live else targets[:0]
        batch = torch.tensor(np.union1d(targets[rows], further), device=model.lm.device)  # (M,) sorted
        positives = torch.tensor(targets[rows], device=batch.device)  # (B,)
        users, begin = [prompts[row] for row in rows], [starts[row] for row in rows]
        if chain_weight:
            states, spoken = read_and_spoken(model, users, begin)  # (B, d), ()
        else:
            states = batched_states(model.lm, model.lm, users, begin, readout, size)  # (B, d)
        texts = [item_ids[item] for item in batch.tolist()]
        items = batched_states(model.lm, model.lm, texts, readout=readout, batch_tokens=size)  # (M, d)
        scores = scoring.similarity_scores(states, items, model.head.similarity)  # (B, M)
        seen = seen_mask(train["history"].iloc[rows].to_list(), len(item_ids)).to(batch.device) if mask_seen else None
        if catalogue_negatives:
            scores = model.head.scores(states).index_copy(1, batch, scores)  # (B, N), live where in the batch
            log_probs = scoring.item_log_probs(scores, positives, model.head.temperature, seen)
        else:
            columns = torch.searchsorted(batch, positives)
            seen = None if seen is None else seen[:, batch]
            log_probs = scoring.item_log_probs(scores, columns, model.head.temperature, seen)
        loss = -log_probs.mean()
        (loss + chain_weight * spoken if chain_weight else loss).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, step / max(1, warmup_steps))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(
                f"at step {step} the loss of the recommendation action is {losses[-1]}; a learning rate "
                f"below {learning_rate:g} may help"
            )
        if step % eval_steps == 0 or step == steps:
            model.refresh()
            score = objective.ndcg(ranks_of(model, valid, valid_chains), 10).mean().item()
            log.append({"step": step, "loss": float(np.mean(losses)), "valid_ndcg@10": score})
            report(step, log[-1]["loss"], score)
            losses = []
            if score > best:
                best, best_row = score, len(log)
                trained = {name: weight for name, weight in model.lm.named_parameters() if weight.requires_grad}
                weights = {name: weight.detach().clone() for name, weight in trained.items()}
            elif len(log) - best_row >= patience:
                break
    model.lm.load_state_dict(weights, strict=False)
    model.lm.eval()
    model.refresh()
    return pd.DataFrame(log)


def read_and_spoken(
    model: R2ec, users: Sequence[Sequence[int]], starts: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """User states (B, d) and the language-model loss of the reasonings (nats a token, a scalar), in one pass over
    batches of similar length.

    Args:
        users: token ids of prompt and reasoning, closed; starts: where each reasoning begins.
    """
    order, states, losses, counts = [], [], [], []
    for rows in length_batches([len(row) for row in users], encoded_tokens(model.lm), fill=0.5):
        read, log_probs, learned = _read_padded(model, [users[row] for row in rows], [starts[row] for row in rows])
        order += rows
        states.append(read)
        losses.append(-(log_probs * learned).sum())
        counts.append(learned.sum())
    back = torch.tensor(order, device=states[0].device).argsort()
    return torch.cat(states)[back], torch.stack(losses).sum() / torch.stack(counts).sum().clamp(min=1)


def _read_padded(
    model: R2ec, users: Sequence[Sequence[int]], starts: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States (B, d), log-probabilities (B, room) of the reasonings' tokens, and 1 where one is learned from."""
    device, tail = model.lm.device, len(model.closed([[]])[0])
    width, room = max(starts), max(len(row) - start for row, start in zip(users, starts, strict=True))
    ids = torch.zeros(len(users), width + room, dtype=torch.long)
    mask, learned = torch.zeros_like(ids), torch.zeros(len(users), room)
    ends = torch.tensor([width + len(row) - start - 1 for row, start in zip(users, starts, strict=True)])
    for place, (row, start) in enumerate(zip(users, starts, strict=True)):
        ids[place, width - start : width - start + len(row)] = torch.tensor(row)
        mask[place, width - start : width - start + len(row)] = 1
        written = len(row) - start - tail
        learned[place, :written] = written > len(model.prompts.answer.ids)  # not where `<answer>` follows at once
    ids, mask, learned, ends = (part.to(device) for part in (ids, mask, learned, ends))
    with captured_states(model.lm) as hidden:
        log_probs, _ = token_log_probs(model.lm, model.lm, ids, mask, room, 1.0, False, False, False)  # (B, room)
    states = read_out(hidden[-1], torch.full_like(ends, width), ends, model.head.readout)
    return states, log_probs, learned


def fit_and_save(
    start: str | os.PathLike,
    folder: str | os.PathLike,
    train: pd.DataFrame,
    valid: pd.DataFrame,
    steps: int,
    chains: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]] | None = None,
    **how: Any,
) -> pd.DataFrame:
    """`fit_item_action` of the R²ec in `start`, which is then saved in `folder`: a job for a process of its own.

    A job that has been done already, from the same start on the same samples, is not done again.

    Args:
        how: further keywords of `fit_item_action`.

    Returns:
        The table of `fit_item_action`, with the seconds that it took in the column `seconds`.
    """
    samples = [pd.util.hash_pandas_object(table[["sample_id", "target"]]).sum().item() for table in (train, valid)]
    # the item table is encoded by the weights, so its digest stands for them
    job = {"start": sha256(Path(start) / "rec_head.safetensors"), "samples": samples, "steps": steps, **how}
    job["chains"] = chains and hashlib.sha256(repr(chains).encode()).hexdigest()
    done, table = Path(folder) / "job.json", Path(folder) / "log.parquet"
    if done.is_file() and read_json(done) == job:
        return read_table(table)
    begin, model = time.perf_counter(), R2ec.load(start)
    log = fit_item_action(model, train, valid, steps, chains, **how)
    log = log.assign(seconds=time.perf_counter() - begin)
    model.save(folder)
    write_table(log, table)
    write_json(job, done)
    return log
