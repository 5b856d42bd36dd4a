"""Distillation: the scores that an R²ec gives after reasoning become the targets of models that answer in one pass.

No next purchase is needed, so every history counts that was known while training, labelled or not. The same loop can
train on next purchases instead, for comparison. Architectures are in `student`; a second student is the teacher's own
backbone, which reads its prompts and answers at once.
Letters in shapes: B rows, N items, d width of the item vectors.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from r2ec_lib.evaluation.baselines.fitting import batches
from r2ec_lib.model import R2ec
from r2ec_lib.model.encoding import forward_states
from r2ec_lib.model.muon import MATRIX_RATE, stepper
from r2ec_lib.model.r2ec import ranks_of
from r2ec_lib.model.scoring import seen_mask
from r2ec_lib.serving.student import Student
from r2ec_lib.training.objective import ndcg

Loss = Callable[[Tensor, np.ndarray], Tensor]
"""(states (B, d), their rows) to a scalar."""

HIDDEN = -1e9
"""A logit that leaves no probability and, other than −∞, can be multiplied by 0."""
WARM_UP = 0.1
"""Share of the steps in which the rate rises."""


# ---- what is learned from ------------------------------------------------------------------------------------------


def histories(purchases: pd.DataFrame, max_history: int, at_most: int = 0, seed: int = 0) -> pd.DataFrame:
    """Every history that purchases show, as it was when its shopper came back, or at the end for the last one.

    Args:
        purchases: user_id, item, timestamp, rating, as `splits.training_purchases` gives them: whatever they show was
            known while training.
        at_most: histories to draw where there are more; 0 keeps all.

    Returns:
        user_id, history, history_hours, history_ratings, as in a samples table.
    """
    purchases = purchases.sort_values(["user_id", "timestamp"], kind="stable")
    users, moments = pd.factorize(purchases["user_id"])[0], purchases["timestamp"].to_numpy("datetime64[ms]")
    last = np.append(users[1:] != users[:-1], True)  # of its shopper
    asked = np.where(last, moments.max(), np.append(moments[1:], moments[-1:]))  # when the question comes up
    stops = np.flatnonzero(last | (asked > moments))
    if at_most and len(stops) > at_most:
        stops = np.sort(np.random.default_rng(seed).choice(stops, at_most, replace=False))
    starts = np.maximum(stops + 1 - max_history, np.searchsorted(users, users[stops]))
    spans = [slice(start, stop + 1) for start, stop in zip(starts, stops, strict=True)]
    item, rating = purchases["item"].to_numpy(np.int32), purchases["rating"].to_numpy(np.float32)
    hours = [
        ((asked[stop] - moments[span]) / np.timedelta64(1, "h")).astype(np.float32)
        for stop, span in zip(stops, spans, strict=True)
    ]
    columns = {"history": [item[span] for span in spans], "history_hours": hours}
    columns |= {"history_ratings": [rating[span] for span in spans]}
    return pd.DataFrame({"user_id": purchases["user_id"].to_numpy(object)[stops], **columns})


def teach(folder: str | os.PathLike, rows: pd.DataFrame, max_new_tokens: int) -> np.ndarray:
    """States (B, d) of the R²ec in `folder` after its reasoning about each row: a job for a process of its own."""
    model = R2ec.load(folder)
    return model.sample(model.prompts.user_ids(rows, model.titles), max_new_tokens).states.cpu().numpy()


# ---- losses --------------------------------------------------------------------------------------------------------


def soft_targets(model: R2ec, rows: pd.DataFrame, targets: Tensor, mask_seen: bool = True) -> Loss:
    """Cross-entropy between the softmax of the teacher's scores and a student's, over all candidates.

    The teacher's states stand for its scores, so d numbers per row are kept instead of N.

    Args:
        targets: (rows, d) user states of the teacher.
        mask_seen: items of the history are no candidates.
    """
    histories = rows["history"].to_list()

    def loss(states: Tensor, at: np.ndarray) -> Tensor:
        shown = [histories[row] for row in at]
        with torch.no_grad():
            probabilities = _logits(model, targets[torch.from_numpy(at)], shown, mask_seen).softmax(dim=1)  # (B, N)
        return F.cross_entropy(_logits(model, states, shown, mask_seen), probabilities)

    return loss


def next_purchase(model: R2ec, rows: pd.DataFrame, mask_seen: bool = True) -> Loss:
    """Cross-entropy of the target among all candidates, as in `soft_targets`: learning from labels alone."""
    targets, histories = torch.tensor(rows["target"].to_numpy(np.int64)), rows["history"].to_list()

    def loss(states: Tensor, at: np.ndarray) -> Tensor:
        chosen = targets[torch.from_numpy(at)].to(states.device)
        return F.cross_entropy(_logits(model, states, [histories[row] for row in at], mask_seen), chosen)

    return loss


def _logits(model: R2ec, states: Tensor, histories: Sequence[Sequence[int]], mask_seen: bool) -> Tensor:
    """(B, N) scores over the temperature; so low for items that are no candidates that their probability is 0."""
    scores = model.scores(states, histories) / model.head.temperature
    return scores.masked_fill(seen_mask(histories, scores.shape[1]).to(scores.device) & mask_seen, HIDDEN)


# ---- students ------------------------------------------------------------------------------------------------------


def fit_student(
    folder: str | os.PathLike,
    target_folder: str | os.PathLike,
    rows: pd.DataFrame,
    targets: np.ndarray | None,
    valid: pd.DataFrame,
    *,
    width: int = 0,
    layers: int = 2,
    mask_seen: bool = True,
    seed: int = 0,
    **how: Any,
) -> pd.DataFrame:
    """Trains a student of the R²ec in `folder` and saves it in `target_folder`: a job for a process of its own.

    Args:
        rows: histories; with `target` where there are no `targets`.
        targets: (rows, d) states of the teacher; None learns from the next purchases instead.
        width: of the student; 0 for the teacher's.
        mask_seen: items of the history are no candidates.
        how: further keywords of `descend`.

    Returns:
        The log of `descend`.
    """
    teacher = R2ec.load(folder)
    style, device = teacher.prompts.style, teacher.lm.device
    dims = teacher.head.table.shape[1]
    table = teacher.head.table.to(device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = Student(dims, style.max_history, width=width or dims, layers=layers, rating_max=style.rating_max)
    wanted = table if targets is None else torch.from_numpy(targets).to(device)  # items, where no state is given
    student.to(device).fit_scales(table, wanted)
    ids, facts = (part.to(device) for part in student.inputs(rows))
    lengths = rows["history"].map(len).to_numpy()

    def states(at: np.ndarray) -> Tensor:
        longest = lengths[at].max()
        return student(table, ids[at, :longest], facts[at, :longest])

    log = descend(
        student,
        states,
        (
            next_purchase(teacher, rows, mask_seen)
            if targets is None
            else soft_targets(teacher, rows, wanted, mask_seen)
        ),
        lengths,
        lambda: ranks_of(teacher, valid, student.states(teacher, valid), mask_seen),
        seed=seed,
        **how,
    )
    student.save(target_folder)
    return log


def fit_backbone(
    folder: str | os.PathLike,
    target_folder: str | os.PathLike,
    rows: pd.DataFrame,
    targets: np.ndarray,
    valid: pd.DataFrame,
    *,
    mask_seen: bool = True,
    seed: int = 0,
    **how: Any,
) -> pd.DataFrame:
    """The R²ec in `folder`, trained to answer without a reasoning as it did with one, saved in `target_folder`.

    It keeps the item table, and answers at once where no length of a reasoning is asked for.

    Returns:
        The log of `descend`.
    """
    model = R2ec.load(folder)
    prompts = model.prompts.user_ids(rows, model.titles)
    ids = model.closed([[*prompt, *model.prompts.answer.ids] for prompt in prompts])
    states = lambda at: forward_states(  # noqa: E731
        model.lm, model.lm, [ids[row] for row in at], [len(prompts[row]) for row in at], model.head.readout
    ).float()
    log = descend(
        model.lm,
        states,
        soft_targets(model, rows, torch.from_numpy(targets).to(model.lm.device), mask_seen),
        np.array([len(row) for row in ids]),
        lambda: ranks_of(model, valid, model.user_states(valid), mask_seen),
        seed=seed,
        **how,
    )
    model.max_new_tokens = 0
    model.save(target_folder)
    return log


def descend(
    module: torch.nn.Module,
    states: Callable[[np.ndarray], Tensor],
    loss: Loss,
    lengths: np.ndarray,
    ranks: Callable[[], Tensor],
    *,
    epochs: int,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    matrix_rate: float = MATRIX_RATE,
    seed: int = 0,
) -> pd.DataFrame:
    """Trains the weights of `module` that require a gradient and leaves it at its best validation NDCG@10.

    Args:
        states: user states (B, d) of some rows, with their graph.
        lengths: of the rows, which are read in batches of similar length.
        ranks: of the validation targets, for the weights as they are.
        learning_rate, matrix_rate: of `muon.stepper`, reached after the first `WARM_UP` of the steps.

    Returns:
        One row per epoch: epoch, loss (mean), valid_ndcg@10, seconds (since the beginning).
    """
    began, generator = time.perf_counter(), np.random.default_rng(seed)
    steps = epochs * -(-len(lengths) // batch_size)
    step = stepper(module, steps, round(WARM_UP * steps), learning_rate, matrix_rate)
    log: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for epoch in range(1, epochs + 1):
        losses = []
        module.train()
        for rows in batches(lengths, batch_size, generator):
            value = loss(states(rows), rows)
            value.backward()
            step()
            losses.append(value.item())
        module.eval()
        row = {"epoch": epoch, "loss": float(np.mean(losses)), "valid_ndcg@10": ndcg(ranks(), 10).mean().item()}
        log.append(row | {"seconds": time.perf_counter() - began})
        if row["valid_ndcg@10"] >= max(past["valid_ndcg@10"] for past in log):
            best = {name: weight.clone() for name, weight in module.state_dict().items()}
    module.load_state_dict(best)
    return pd.DataFrame(log)
