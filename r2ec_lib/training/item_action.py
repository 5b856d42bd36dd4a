"""The recommendation action alone (Eq. 7): trains an R²ec without reasoning, or with reasonings that it is given.

It orders the item space before RecPO. As a baseline, `<answer>` follows the prompt directly: the paper's ablation and
the fairest opponent of R²ec, with the same prompts, item encoder, softmax over target items and samples. With the true
facts as reasonings it is an upper bound: what reasoning could bring.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import get_scheduler
from trl.trainer.utils import disable_dropout_in_model

from r2ec_lib.data.schema import whole_number
from r2ec_lib.data.storage import read_json, read_table, sha256, write_json, write_table
from r2ec_lib.model import R2ec
from r2ec_lib.model.backbone import checkpoint_from_trained
from r2ec_lib.model.encoding import Upper, batched_states, captured_states, encoded_tokens, length_batches, read_out
from r2ec_lib.model.r2ec import ranks_of
from r2ec_lib.training import objective
from r2ec_lib.training.log_probs import ChosenTokens
from r2ec_lib.training.rows import Rows


def fit_item_action(
    model: R2ec,
    train: pd.DataFrame,
    valid: pd.DataFrame,
    steps: int,
    chains: tuple[Sequence[Sequence[int] | None], Sequence[Sequence[int]] | None] | None = None,
    batch_users: int = 64,
    learning_rate: float = 5e-4,
    warmup_steps: int = 10,
    lr_scheduler_type: str = "constant_with_warmup",
    refresh_steps: int = 50,
    catalogue_negatives: bool = False,
    live_negatives: int = 0,
    chain_weight: float = 0.0,
    mask_seen: bool = True,
    gradient_checkpointing: bool = False,
    eval_steps: int = 50,
    patience: int = 3,
    seed: int = 0,
    report: Callable[[int, float, float | None], None] = lambda step, loss, score: None,
) -> pd.DataFrame:
    """Trains `model` in place and leaves it at its best validation NDCG@10, with a freshly encoded item table.

    Args:
        model: a warmed-up R²ec; all weights that require a gradient are trained.
        train, valid: samples tables.
        steps: most optimiser steps; training ends earlier after `patience` evaluations without a better score.
        chains: token ids of a reasoning for each row of `train` and of `valid`, each closed by `<answer>`; None
            trains, or validates, without reasoning, and so does None for a row of `train`.
        warmup_steps, lr_scheduler_type: how the rate rises, and how it falls until `steps`; names of transformers.
        refresh_steps: steps between two encodings of the stored item table; only `catalogue_negatives` reads it.
        catalogue_negatives: adds the stored item table as constant candidates to the live targets of the batch.
        live_negatives: adds so many items of the catalogue, drawn anew at each step and encoded live.
        chain_weight: weight of the language-model loss (nats a token) of the reasonings in `chains`, so that a model
            goes on writing while its item space is ordered; rows without a reasoning have none.
        gradient_checkpointing: recomputes activations on the way back, which takes less memory and more time.
        report: called with (step, mean loss, validation NDCG@10) at each evaluation, and with None for the last at
            every tenth of the steps between.

    Returns:
        One row per evaluation: `step`, `loss` (mean since the last evaluation) and `valid_ndcg@10`.

    Raises:
        DataError: `steps` is no whole number above 0, or a text exceeds the positions of the model.
        FloatingPointError: the loss or the item table is NaN or infinite, with the step and the rate.
    """
    whole_number(steps, "steps", 1)
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    parameters = {name: weight for name, weight in model.lm.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, weight_decay=0.0)
    rate_share: Any = get_scheduler(lr_scheduler_type, optimizer, warmup_steps, steps + 1).lr_lambdas[0]
    train_chains, valid_chains = chains or ([None] * len(train), None)
    samples = Rows(model, train, mask_seen)
    item_ids = model.closed(model.prompts.item_ids(model.catalogue))
    model.require_positions(max(map(len, item_ids)))
    live = min(live_negatives, len(item_ids))
    log: list[dict] = []
    losses: list[float] = []
    weights: dict[str, Tensor] = {}
    disable_dropout_in_model(model.lm)  # as in RecPO (`RecPOConfig.disable_dropout`)
    model.lm.train()
    if gradient_checkpointing:
        checkpoint_from_trained(model.lm)
        model.lm.activation_checkpointing_enable({"use_reentrant": False})
    for step, rows in enumerate(islice(_rounds(len(train), batch_users, generator), steps), start=1):
        if catalogue_negatives and (step - 1) % refresh_steps == 0:
            model.refresh()
        numbers = torch.tensor(rows, device=model.lm.device)  # (B,)
        positives, seen = samples.targets(numbers), samples.seen(numbers)  # (B,), (B, N) or None
        further = generator.choice(len(item_ids), live, replace=False) if live else np.empty(0, int)
        candidates = torch.cat([positives, torch.tensor(further).to(positives)]).unique()  # (M,) sorted
        states, spoken = _users(model, samples.prompts(rows), [train_chains[row] for row in rows], chain_weight != 0)
        items = _states(model, [item_ids[item] for item in candidates.tolist()], upper=model.lower.upper)  # (M, d)
        loss = -model.head.log_probs(states, items, candidates, positives, seen, catalogue_negatives).mean()
        (loss + chain_weight * spoken).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate * rate_share(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        objective.require_numbers(loss, "the loss of the recommendation action", step - 1, learning_rate)
        if step % eval_steps and step < steps:
            if step % max(1, steps // 10) == 0:
                report(step, float(np.mean(losses)), None)
        else:
            model.refresh()
            objective.require_numbers(model.head.table, "the item table", step, learning_rate)
            ranks = ranks_of(model, valid, model.user_states(valid, valid_chains), mask_seen)
            score = objective.ndcg(ranks, 10).mean().item()
            log.append({"step": step, "loss": float(np.mean(losses)), "valid_ndcg@10": score})
            report(step, log[-1]["loss"], score)
            losses = []
            best = int(np.argmax([row["valid_ndcg@10"] for row in log]))  # of equals the first
            if best == len(log) - 1:
                weights = {name: weight.detach().clone() for name, weight in parameters.items()}
            elif len(log) - 1 - best >= patience:
                break
    if gradient_checkpointing:
        model.lm.activation_checkpointing_disable()
    if best < len(log) - 1:  # otherwise weights and item table are those of the last evaluation
        model.lm.load_state_dict(weights, strict=False)
        model.refresh()
    model.lm.eval()
    return pd.DataFrame(log)


def progress_line(step: int, loss: float, score: float | None) -> str:
    """What `fit_item_action` reports, as a line of text."""
    validated = "" if score is None else f"  validation NDCG@10 {score:.4f}"
    return f"    step {step:>5}  loss {loss:.3f}{validated}"


def _rounds(samples: int, batch_users: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Batches of row numbers without end, each round in a new random order; what is left of a round is dropped."""
    while True:
        order = generator.permutation(samples).tolist()
        for start in range(0, max(1, samples - batch_users + 1), batch_users):
            yield order[start : start + batch_users]


def _states(
    model: R2ec, ids: Sequence[Sequence[int]], starts: Sequence[int] | None = None, upper: Upper | None = None
) -> Tensor:
    """Vectors (B, d) of closed token sequences, with their graph."""
    return batched_states(model.lm, model.lm, ids, starts, model.head.readout, encoded_tokens(model.lm), upper)


def _users(
    model: R2ec, prompts: Sequence[Sequence[int]], chains: Sequence[Sequence[int] | None], speaks: bool
) -> tuple[Tensor, Tensor | float]:
    """User states (B, d) with their graph and, where the model `speaks`, the loss of `read_and_spoken`, else 0.

    A chain is read after `R2ec.before` its prompt; without one, `<answer>` follows the prompt itself.
    """
    texts = [model.prompts.answer.ids if chain is None else chain for chain in chains]
    told = [row for row, chain in enumerate(chains) if chain is not None]
    written = model.closed([[*prompt, *text] for prompt, text in zip(prompts, texts, strict=True)])
    starts = list(map(len, prompts))
    model.require_positions(max(map(len, written)))
    if speaks and model.head.readout != "alone":
        return read_and_spoken(model, written, starts)
    spoken: Tensor | float = 0.0
    if speaks and told:
        spoken = read_and_spoken(model, [written[row] for row in told], [starts[row] for row in told])[1]
    stand = list(prompts)
    for row, ids in zip(told, model.before([prompts[row] for row in told]), strict=True):
        stand[row] = ids
    read = model.closed([[*ids, *text] for ids, text in zip(stand, texts, strict=True)])
    return _states(model, read, list(map(len, stand))), spoken


def read_and_spoken(model: R2ec, users: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """User states (B, d) and the language-model loss of the reasonings (nats a token, a scalar), in one pass over
    batches of similar length.

    Args:
        users: token ids of prompt and reasoning, closed; starts: where each reasoning begins.
    """
    order, states, log_probs = [], [], []
    for rows in length_batches([len(row) for row in users], encoded_tokens(model.lm), fill=0.5):
        read, spoken = _read_padded(model, [users[row] for row in rows], [starts[row] for row in rows])
        order += rows
        states.append(read)
        log_probs.append(spoken)
    back, said = torch.tensor(order, device=states[0].device).argsort(), torch.cat(log_probs)
    return torch.cat(states)[back], -said.sum() / max(1, len(said))


def _read_padded(model: R2ec, users: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """States (B, d), and log-probabilities of all tokens that are learned from."""
    device, tail = model.lm.device, len(model.closed([[]])[0])
    lengths, begin = (
        torch.tensor(counts, device=device)[:, None] for counts in ([*map(len, users)], starts)
    )  # (B, 1)
    ids = pad_sequence([torch.tensor(row) for row in users], batch_first=True).to(device)  # (B, L)
    places = torch.arange(ids.shape[1], device=device)[None, :]
    written = lengths - tail - begin  # (B, 1)
    learned = (places >= begin) & (places < begin + written)  # (B, L)
    learned &= written > len(model.prompts.answer.ids)  # not where `<answer>` follows at once
    inputs = {"attention_mask": (places < lengths).long(), "logits_to_keep": F.pad(learned[:, 1:], (0, 1))}
    with captured_states(model.lm) as hidden:
        logits = model.lm(input_ids=ids, use_cache=False, **inputs).logits  # (T, |T|), T learned tokens of all rows
    states = read_out(hidden[-1], begin[:, 0], lengths[:, 0] - 1, model.head.readout)
    return states, ChosenTokens.apply(logits, ids[learned], 1.0, False)[0]


def digest(samples: pd.DataFrame) -> str:
    """A name for what is read of a samples table, whatever its order of columns."""
    hashed = hashlib.sha256()
    for name in ("target", "history", "history_hours", "history_ratings"):
        for values in samples[name] if name != "target" else [samples[name]]:
            hashed.update(np.asarray(values, float).tobytes() + b";")
    return hashed.hexdigest()


def adapters_of(start: str | os.PathLike) -> dict[str, Any]:
    """Rank, scale and layers of the adapters of the saved R²ec in `start`; {} where it has none."""
    path = Path(start) / "adapter" / "adapter_config.json"
    if not path.is_file():
        return {}
    config = read_json(path)
    # no hash of the file: PEFT lists the layers in another order in every process
    return {"r": config["r"], "lora_alpha": config["lora_alpha"], "layers": sorted(config["target_modules"])}


def parts_of(start: str | os.PathLike) -> list[str]:
    """What a training from the saved R²ec in `start` depends on: hashes, and its adapters."""
    parts = [*sorted(Path(start).rglob("*.safetensors")), Path(start) / "catalogue.parquet", Path(start) / "r2ec.json"]
    adapters = adapters_of(start)
    return [*map(sha256, parts), *([json.dumps(adapters)] if adapters else [])]


def fit_and_save(
    start: str | os.PathLike,
    folder: str | os.PathLike,
    train: pd.DataFrame,
    valid: pd.DataFrame,
    steps: int,
    chains: tuple[Sequence[Sequence[int] | None], Sequence[Sequence[int]] | None] | None = None,
    report: Callable[[int, float, float | None], None] = lambda step, loss, score: None,
    **how: Any,
) -> pd.DataFrame:
    """`fit_item_action` of the R²ec in `start`, which is then saved in `folder`: a job for a process of its own.

    What learned without reasonings answers without one where none is asked for. A job that has been done already, from
    the same start on the same samples, is not done again.

    Args:
        report, how: further keywords of `fit_item_action`.

    Returns:
        The table of `fit_item_action`, with the seconds that it took in the column `seconds`.
    """
    samples = [digest(table) for table in (train, valid)]
    job = {"start": parts_of(start), "samples": samples, "steps": steps, **how}
    job["chains"] = chains and hashlib.sha256(repr(chains).encode()).hexdigest()
    done, table = Path(folder) / "job.json", Path(folder) / "log.parquet"
    if done.is_file() and read_json(done) == job:
        return read_table(table)
    begin, model = time.perf_counter(), R2ec.load(start)
    log = fit_item_action(model, train, valid, steps, chains, report=report, **how)
    log = log.assign(seconds=time.perf_counter() - begin)
    model.max_new_tokens = 0 if chains is None else model.max_new_tokens
    model.save(folder)
    write_table(log, table)
    write_json(job, done)
    return log
