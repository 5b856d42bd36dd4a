"""What speed is measured on: items and shoppers, models of any size, and chains of the lengths that are wanted.

Texts may be real, or those of a Bazaar; purchases are drawn at random, and so are the weights of the smaller model,
since speed depends on neither. What is done with them is in `plain_ways`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from r2ec_lib.bazaar import world
from r2ec_lib.data import amazon
from r2ec_lib.model import R2ec
from r2ec_lib.model.answer import Answer
from r2ec_lib.model.prompts import Prompts, PromptStyle
from r2ec_lib.model.tiny import build_tiny, train_tokenizer


def item_texts(texts_dir: str, category: str, count: int, seed: int = 0) -> pd.DataFrame:
    """At most `count` items with their texts, drawn at random and kept in file order: real ones from a folder with the
    category's two files of Amazon Reviews 2023, or, for "", those of a Bazaar.

    The cards of a Bazaar are all about equally long, unlike texts of real shops. So a generated item also shows the
    cards of a random number of others, geometric with a mean of two.
    """
    rng = np.random.default_rng(seed)
    if texts_dir:
        items, _, _ = amazon.read_amazon(texts_dir, category)
    else:
        items = world.generate(world.BazaarConfig(items=max(count, 6144), users=8, seed=seed)).items
    items = items.iloc[np.sort(rng.permutation(len(items))[:count])].reset_index(drop=True)
    if not texts_dir:
        cards, more = items["description"].to_numpy(), rng.geometric(1 / 3, size=len(items)) - 1
        shown = [[card, *cards[rng.integers(len(cards), size=n)]] for card, n in zip(cards, more, strict=True)]
        items["description"] = [" ".join(row) for row in shown]
    return items


def random_samples(num_items: int, users: int, history: int, seed: int = 0) -> pd.DataFrame:
    """A samples table of `users` shoppers with `history` random purchases each and another one as the target."""
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(num_items, size=history + 1, replace=False).tolist() for _ in range(users)]
    return pd.DataFrame(
        {
            "sample_id": range(users),
            "user_id": [f"u{user}" for user in range(users)],
            "split": "train",
            "target": [row[-1] for row in drawn],
            "history": [row[:-1] for row in drawn],
            "history_hours": [sorted(rng.uniform(1, 9000, history).tolist(), reverse=True) for _ in drawn],
            "history_ratings": [[float("nan")] * history for _ in drawn],
        }
    )


def random_model(
    items: pd.DataFrame,
    style: PromptStyle,
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    seed: int = 0,
) -> R2ec:
    """An untrained R²ec whose tokenizer knows the item texts; its speed is that of a trained one."""
    words = Prompts(train_tokenizer([], vocab_size=0), style)
    texts = [words.item_text(item) for item in items.to_dict("records")]
    for row in random_samples(len(items), 64, min(8, len(items) - 1), seed).to_dict("records"):
        titles = [items["title"].iloc[item] for item in row["history"]]
        texts.append(words.user_text(titles, row["history_hours"], row["history_ratings"]))
    tokenizer = train_tokenizer(texts, vocab_size)
    lm = build_tiny(tokenizer, hidden_size, num_layers, num_heads, max_positions=8192, seed=seed)
    return R2ec(lm.eval(), Prompts(tokenizer, style), items)


@contextmanager
def answers_at_random(lm: PreTrainedModel, answer: Answer, rate: float = 0.0) -> Iterator[None]:
    """While sampling, `<answer>` comes with probability `rate` per token, and nothing else ends a chain: chains have
    the lengths that the benchmark wants, on both sides, all the longest at rate 0.

    Only forwards without a gradient are touched; the policy's pass is computed as it is. ValueError for a rate where
    `<answer>` is text, which no single token can write.
    """
    if rate and answer.text:
        raise ValueError("chains end at random only where <answer> is one token")
    stops = [*answer.stop_ids(lm), *answer.last_ids]
    banned, ending = torch.tensor(stops, device=lm.device), torch.tensor(answer.ids, device=lm.device)

    def change(_: Any, __: Any, logits: Tensor) -> None:  # without waiting for a GPU, which may be recording
        if torch.is_grad_enabled():
            return
        logits.index_fill_(-1, banned, -torch.inf)
        if rate:
            rows = torch.rand(logits.shape[:-1], device=logits.device) < rate
            found = logits.index_select(-1, ending)
            logits.index_copy_(-1, ending, torch.where(rows[..., None], 1e4, found))

    handle = lm.get_output_embeddings().register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()
