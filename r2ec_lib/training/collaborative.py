"""Adds the collaborative term to a trained R²ec: learned from training purchases, weighed on validation.

The language model stays as it is, so models that are compared get their term in the same way, each at its own best
weights. A weight of 0 is among those tried: a part is left out where it does not help. Letters in shapes: B samples,
N items, K kept items, d hidden size.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, islice, product

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from torch import Tensor

from r2ec_lib.data.purchases import actions
from r2ec_lib.data.texts import MARKS, UNSPACED
from r2ec_lib.model import R2ec
from r2ec_lib.model.collaborative import KEPT, Collaborative, ItemMap, ItemWeights, item_weights
from r2ec_lib.model.scoring import BLOCK, item_log_probs, seen_mask, target_ranks
from r2ec_lib.training.objective import ndcg

WEIGHED = 600
"""Validation samples to decide the weights with; with 200, chance moves them."""
PENALTIES = (20.0, 50.0, 200.0)
"""λ of the item weights to try."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Weights of a part to try: the spread of its scores within a row, as a multiple of that of the model's own scores."""
ROUNDS = 2
"""How often each part is weighed, given the others."""
TITLE_WEIGHT, WORD_DECAY = 3.0, 0.5
"""How often a word of a title counts among those of an item, and the decay of what shares words."""
MAP_RATE, MAP_BATCH, MAP_EPOCHS, MAP_STEPS = 3e-3, 256, 4, (200, 1000)
"""AdamW's rate at the start of the map's training, from where it falls to 0; samples a step, passes over the samples,
and the fewest and the most steps, so that a large log takes minutes, too."""
MAP_TEMPERATURE, MAP_PENALTY = 0.1, 1e-3
"""τ of the softmax over all items, and the weight of the map's squared distance from the identity."""

# A run of one kind of script. Unlike in `data.texts`, an apostrophe divides.
_WORD = re.compile(rf"[{UNSPACED}]+|(?:[^\W{UNSPACED}]|[{MARKS}])+")


Counted = tuple[list[ItemWeights], ItemWeights]
"""What is bought together, by each of `PENALTIES`, and what shares words: the same for every model of a catalogue."""


def counted_parts(items: pd.DataFrame, train: pd.DataFrame) -> Counted:
    """The parts of the term that no model's vectors are in, of a catalogue and the training samples."""
    bought = actions(train)
    together = [ItemWeights(*item_weights(bought, len(items), penalty)) for penalty in PENALTIES]
    return together, ItemWeights(*word_weights(items), WORD_DECAY)


def add_collaborative(
    model: R2ec,
    train: pd.DataFrame,
    valid: pd.DataFrame,
    states: Tensor,
    counted: Counted,
    mask_seen: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Sets `model.collaborative` to the term with the best validation NDCG@20; to None where none is better.

    Args:
        train, valid: samples tables; no other purchases are read.
        states: (B, d) user states of `valid`, with or without a reasoning, as the model will be asked.
        counted: the `counted_parts` of the model's catalogue and `train`.
        seed: of the order in which the map sees the training samples.

    Returns:
        One row per setting tried: penalty, bought, worded, follows, valid_ndcg@20; the first is the model on its own.
    """
    histories, table = valid["history"].to_list(), model.head.table
    own = model.head.scores(states).float().cpu()  # (B, N)
    targets = torch.tensor(valid["target"].to_numpy(), dtype=torch.long)
    seen = seen_mask(histories, own.shape[1]) if mask_seen else None
    bought, worded = counted
    follows = fit_map(table, train, mask_seen, seed)
    scores = {"bought": [part.scores(histories) for part in bought], "worded": [worded.scores(histories)]}
    scores["follows"] = [follows.scores(histories, table).float().cpu()]
    units = {name: [_spread(own) / _spread(part) for part in parts] for name, parts in scores.items()}
    chosen, tried = _weigh(own, scores, units, lambda sums: float(ndcg(target_ranks(sums, targets, seen), 20).mean()))
    scale = {name: share * units[name][which] for name, (which, share) in chosen.items()}
    term = Collaborative(
        replace(bought[chosen["bought"][0]], scale=scale["bought"]),
        replace(worded, scale=scale["worded"]),
        replace(follows, scale=scale["follows"]),
    )
    model.collaborative = term if any(scale.values()) else None
    return pd.DataFrame(tried)


def _weigh(
    own: Tensor,
    scores: dict[str, list[Tensor]],
    units: dict[str, list[float]],
    quality: Callable[[Tensor], float],
) -> tuple[dict[str, tuple[int, float]], list[dict[str, float]]]:
    """Which of its scores (B, N) each part takes, and its share: one part after the other, given the rest."""
    chosen = {name: (0, 0.0) for name in scores}
    tried: list[dict[str, float]] = []
    best = -1.0
    for name in [*scores] * ROUNDS:
        others = own.clone()
        for other, (which, share) in chosen.items():
            if other != name:
                others += share * units[other][which] * scores[other][which]
        for which, share in product(range(len(scores[name])), SHARES):
            setting = {**chosen, name: (which, share)}
            value = quality(others + share * units[name][which] * scores[name][which])
            shares = {part: each for part, (_, each) in setting.items()}
            tried.append({"penalty": PENALTIES[setting["bought"][0]], **shares, "valid_ndcg@20": value})
            if value > best:
                best, chosen = value, setting
    return chosen, tried


def word_vectors(items: pd.DataFrame, title_weight: float = 1.0) -> sp.csr_matrix:
    """(N, words) TF-IDF vectors of length 1 of the texts of an items table.

    A word of `_pieces` that occurs n times in the texts of an item (all columns but `item_id`; in the title it counts
    `title_weight` times) weighs ln(1 + n) · (ln(N / items with the word) + 1).
    """
    texts = {column: items[column].astype(str) for column in items.columns.drop("item_id")}
    counter = CountVectorizer(analyzer=_pieces).fit(pd.concat(texts.values()))
    counts = sum(counter.transform(text) * (title_weight if name == "title" else 1) for name, text in texts.items())
    return TfidfTransformer(smooth_idf=False).fit_transform(counts.log1p())


def _pieces(text: str) -> list[str]:
    """The words of a text; of a script that puts no space between them, all pairs of neighbouring signs."""
    found = []
    for word in _WORD.findall(text.lower()):
        unspaced = len(word) > 2 and re.match(f"[{UNSPACED}]", word)
        found += [word[at : at + 2] for at in range(len(word) - 1)] if unspaced else [word]
    return found


def word_weights(items: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """`items` and `weights` of `ItemWeights`, (N, K) each: the cosines of `word_vectors` with the nearest others."""
    vectors, kept = word_vectors(items, TITLE_WEIGHT), min(KEPT, len(items))
    best, columns = [], vectors.T.tocsr()  # (words, N)
    for rows in np.array_split(np.arange(len(items)), -(-(len(items) ** 2) // BLOCK)):
        cosines = torch.from_numpy((vectors[rows] @ columns).toarray().astype(np.float32))
        cosines[torch.arange(len(rows)), torch.from_numpy(rows)] = 0.0
        best.append(cosines.topk(kept, dim=1))
    return torch.cat([part.indices for part in best]), torch.cat([part.values for part in best])


def fit_map(table: Tensor, train: pd.DataFrame, mask_seen: bool = True, seed: int = 0) -> ItemMap:
    """The map under which the item vectors of a history are closest to that of the target, by the softmax over all
    items (N, d) as in Eq. 7."""
    width, batches = table.shape[1], -(-len(train) // MAP_BATCH)
    epochs = max(MAP_EPOCHS, -(-MAP_STEPS[0] // batches))
    steps = min(epochs * batches, MAP_STEPS[1])
    matrix = torch.eye(width, device=table.device, requires_grad=True)
    fitted = ItemMap(matrix, table.float().mean(dim=0))
    directions, identity = fitted.directions(table), torch.eye(width, device=table.device)
    histories, targets = train["history"].to_list(), torch.tensor(train["target"].to_numpy(), dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([matrix], lr=MAP_RATE, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    orders = (torch.randperm(len(train), generator=generator).split(MAP_BATCH) for _ in range(epochs))
    for rows in islice(chain.from_iterable(orders), steps):
        shown = [histories[row] for row in rows.tolist()]
        seen = seen_mask(shown, len(table)).to(table.device) if mask_seen else None
        scores = fitted.read(shown, directions) @ matrix @ directions.T  # (rows, N)
        chosen = item_log_probs(scores, targets[rows].to(table.device), MAP_TEMPERATURE, seen)
        (MAP_PENALTY * (matrix - identity).square().sum() - chosen.mean()).backward()
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
    return ItemMap(matrix.detach().cpu(), fitted.centre.cpu())


def _spread(scores: Tensor) -> float:
    """Mean standard deviation within the rows of (B, N) scores."""
    return float(scores.std(dim=1).mean().clamp_min(1e-12))
