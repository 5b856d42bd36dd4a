"""Fitting and tuning the baselines: training samples as sequences, one loop for all networks, grids.

Every baseline is fitted on the training samples alone and becomes a scorer, a function from a slice of the samples
table to (B, N) scores; ranking and masking are the evaluator's. All sequence networks share one `fit_network`: each
purchase of the training part but a shopper's first is predicted once, in a causal pass over a block of the shopper's
sequence (`sequences`), with full cross-entropy over the catalogue (no sampled negatives) and early stopping on
validation NDCG@10. None reads user ids, so a new shopper needs nothing special; an item never bought in training keeps
the score that training left it with.
Letters in shapes: B rows, T positions, N items, d width.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from r2ec_lib.data.purchases import actions
from r2ec_lib.evaluation.baselines.networks import SequenceNetwork, pad
from r2ec_lib.evaluation.ranking import Scorer, metrics, rank_all

PLATEAU = 8
"""Epochs before early stopping counts: a network learns popularity first and rests there before it reads histories."""

STRETCH = 16
"""Batches among which sequences are sorted by length: wide enough to leave every batch a random draw."""


def sequences(samples: pd.DataFrame, max_history: int) -> list[np.ndarray]:
    """Item sequences of the shoppers, cut into blocks of at most max_history + 1 items, 2 or more each.

    Blocks of one shopper overlap by a single item (the last of one opens the next), so every purchase but the
    shopper's first is predicted exactly once.
    """
    blocks = []
    for _, bought in actions(samples).groupby("user_id", sort=False)["item"]:
        items = bought.to_numpy()
        blocks += [items[max(0, stop - max_history - 1) : stop] for stop in range(len(items), 1, -max_history)]
    return blocks


@dataclass
class SequenceScorer:
    """A trained network as a scorer, with its log: one row per epoch (epoch, loss, valid_ndcg@10, seconds)."""

    network: SequenceNetwork
    num_items: int
    max_history: int
    log: list[dict]

    @property
    def stored_bytes(self) -> int:
        """Bytes of the weights, item embeddings included."""
        return sum(weight.nbytes for weight in self.network.parameters())

    @torch.no_grad()
    def __call__(self, samples: pd.DataFrame) -> Tensor:
        """(B, N) scores of the item after each history."""
        self.network.eval()
        histories = [np.asarray(history)[-self.max_history :] for history in samples["history"]]
        ids = pad(histories, self.num_items).to(self.network.items.weight.device)  # (B, T)
        last = torch.tensor([len(history) - 1 for history in histories], device=ids.device)
        states = self.network(ids)[torch.arange(len(ids), device=ids.device), last]  # (B, d)
        return self.network.logits(states)


def batches(lengths: np.ndarray, batch_size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Indexes of all sequences in random batches of sequences about equally long, so that little is padding.

    The shuffled sequences are sorted by length within stretches of `STRETCH` batches; then the batches are shuffled.
    """
    order = generator.permutation(len(lengths))
    parts = []
    for start in range(0, len(order), STRETCH * batch_size):
        stretch = order[start : start + STRETCH * batch_size]
        stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
        parts += [stretch[at : at + batch_size] for at in range(0, len(stretch), batch_size)]
    return [parts[i] for i in generator.permutation(len(parts))]


def fit_network(
    build: Callable[..., SequenceNetwork],
    train: pd.DataFrame,
    valid: pd.DataFrame,
    num_items: int,
    *,
    max_history: int = 20,
    mask_seen: bool = True,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    batch_size: int = 64,
    epochs: int = 100,
    patience: int = 5,
    seed: int = 0,
    **sizes: float,
) -> SequenceScorer:
    """Trains a network on every purchase of the training part and keeps the epoch with the best validation NDCG@10.

    Args:
        build: `GRU4Rec`, `Caser` or `SASRec`; `sizes` are its keywords.
        max_history: latest items that a state may read.
        batch_size: sequences per step.
        patience: epochs without a better validation after which training ends; the first `PLATEAU` do not count.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    blocks = sequences(train, max_history)
    lengths = np.array([len(block) for block in blocks])
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(num_items, max_history, **sizes).to(device)
        scorer = SequenceScorer(network, num_items, max_history, [])
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
        best, best_epoch = -1.0, 0
        best_state: dict[str, Tensor] = {}
        for epoch in range(1, epochs + 1):
            began = time.perf_counter()
            losses = []
            network.train()
            for chosen in batches(lengths, batch_size, generator):
                ids = pad([blocks[i] for i in chosen], num_items).to(device)  # (B, T + 1)
                real = ids[:, 1:] != num_items
                states = network(ids[:, :-1])[real]  # (positions, d)
                loss = F.cross_entropy(network.logits(states), ids[:, 1:][real])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            value = _ndcg10(scorer, valid, num_items, build.__name__, mask_seen)
            row = {"epoch": epoch, "loss": float(np.mean(losses)), "valid_ndcg@10": value}
            scorer.log.append(row | {"seconds": time.perf_counter() - began})
            if value > best:
                best, best_epoch = value, epoch
                best_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            elif epoch - max(best_epoch, PLATEAU) >= patience:
                break
        network.load_state_dict(best_state)
    return scorer


def _ndcg10(score: Scorer, samples: pd.DataFrame, num_items: int, model: str, mask_seen: bool) -> float:
    ranked = rank_all(score, samples, num_items, model=model, mask_seen=mask_seen, batch_size=512)
    return metrics(ranked, ks=[10])["ndcg@10"]


GRIDS: dict[str, list[dict]] = {
    "recent_popularity": [{"days": days} for days in (30, 90, 7, 180)],
    "item_neighbours": [{"decay": d, "shrink": s} for s in (3.0, 10.0, 30.0) for d in (0.5, 0.8, 1.0)],
    "ease": [{"penalty": p, "whole": w} for p in (2.0, 5.0, 20.0, 100.0, 500.0) for w in (False, True)],
    "text_similarity": [{"decay": d, "title_weight": w} for d in (0.3, 0.5, 0.8, 1.0) for w in (1, 3)],
    "ease_and_text": [{"share": s} for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)],
    "network": [{"learning_rate": r, "dropout": d} for r, d in ((3e-3, 0.5), (1e-3, 0.5), (1e-3, 0.2), (3e-3, 0.2))],
}
"""Settings to try. Counting and reading texts take about a second per setting. The networks take minutes and share one
grid, whose first settings did best on the validation of a large Bazaar, so that a part of it can be tried."""


def tune(
    name: str,
    fit: Callable[..., Scorer],
    grid: Sequence[Mapping],
    valid: pd.DataFrame,
    num_items: int,
    *,
    mask_seen: bool = True,
) -> tuple[Scorer, pd.DataFrame]:
    """Fits each setting of a grid, calling `fit` with its keywords, and keeps the best by validation NDCG@10; the
    first of equals. Returns the chosen scorer, and one row per setting: model, setting, valid_ndcg@10, epochs (NaN
    where none), seconds, chosen, and `at_end`, such as "penalty 2": what of the chosen one is the lowest or highest of
    the numbers that were tried (of two, either is), so that a wider grid may hold a better one ("" for none, and
    elsewhere)."""
    rows: list[dict] = []
    best, chosen = -1.0, 0
    for setting in grid:
        began = time.perf_counter()
        scorer = fit(**setting)
        value = _ndcg10(scorer, valid, num_items, name, mask_seen)
        row = {
            "model": name,
            "setting": ", ".join(_words(key, value) for key, value in setting.items()),
            "valid_ndcg@10": value,
            "epochs": len(scorer.log) if isinstance(scorer, SequenceScorer) else np.nan,
            "seconds": time.perf_counter() - began,
        }
        if value > best:
            best, chosen, kept = value, len(rows), scorer
        rows.append(row)
    tried = {key: sorted({setting[key] for setting in grid}) for key in grid[chosen]}
    ends = [
        _words(key, value)
        for key, value in grid[chosen].items()
        if len(tried[key]) > 1 and not isinstance(value, bool) and value in (tried[key][0], tried[key][-1])
    ]
    table = pd.DataFrame(rows).assign(chosen=[number == chosen for number in range(len(rows))])
    return kept, table.assign(at_end=table["chosen"].map({True: ", ".join(ends), False: ""}))


def _words(key: str, value: float) -> str:
    return f"{key.replace('_', ' ')} {value:g}"
