"""Plain analyses of histories for any catalogue: the texts from which a backbone learns what a reasoning looks like.

They say what can be read off a history and its items' cards, and perhaps what may come next, by what other shoppers
bought together. Which of it is worth saying is left to RecPO. The Bazaar has an analyst of its own, `bazaar.warmup`.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from r2ec_lib.data.purchases import actions
from r2ec_lib.data.texts import words
from r2ec_lib.model.claims import FORMS, FRAME_WORDS, card_brands, need_words, short_title
from r2ec_lib.model.collaborative import ItemWeights, item_weights
from r2ec_lib.model.prompts import Document, Prompts, clean

RECENT = 5
"""Latest purchases that an analysis is about, or fewer where a prompt shows fewer."""
FOLDS, LIKELY, PENALTY = 5, 10, 50.0
"""Of `likely_next`: groups of shoppers, items kept a history, and λ of the item weights."""


class Analyst:
    """Writes analyses of histories of one catalogue.

    Args:
        items: the items table.
        prompts: of the model that learns to write so; titles and brands are cleaned as its prompts are.
        most_facts: facts about the history that an analysis states at most.
        named: likely next items that it names at the end, where it is given any.
    """

    def __init__(self, items: pd.DataFrame, prompts: Prompts, most_facts: int = 4, named: int = 2):
        self.most_facts, self.named = most_facts, named
        titles = [prompts.shown_title(title) for title in items["title"]]  # no more, or it could not be read there
        self.short = [short_title(title, prompts) for title in titles]
        self.recent = min(RECENT, prompts.style.max_history)
        self.words = list(map(need_words, titles))
        spread = Counter(word for row in self.words for word in set(row))
        self.telling = {word for word, count in spread.items() if count <= len(items) / 20} - FRAME_WORDS
        brands = [clean(brand, prompts.specials) for brand in card_brands(items)]
        brands = [short_title(brand, prompts) for brand in brands]  # some list all artists
        self.brands = [brand if words(brand) else "" for brand in brands]  # "-" is none

    def write(
        self,
        history: Sequence[int],
        generator: np.random.Generator,
        likely: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> str:
        """One analysis of a history (item indexes, oldest first): randomly chosen facts in random order.

        Args:
            likely: items that may be bought next and how likely each is; a few are drawn and named last.
        """
        recent = [int(item) for item in history][-self.recent :]
        facts = [FORMS["last"].format(self.short[recent[-1]])]
        if len(recent) > 1:
            facts.append(FORMS["earlier"].format(self.short[recent[generator.integers(0, len(recent) - 1)]]))
        found = Counter(word for item in recent for word in sorted(set(self.words[item])) if word in self.telling)
        if found:
            facts.append(FORMS["needs"].format(" and ".join(word for word, _ in found.most_common(2))))
        brands = Counter(self.brands[item] for item in recent if self.brands[item])
        if brands:
            facts.append(FORMS["brand"].format(brands.most_common(1)[0][0]))
        chosen = generator.permutation(len(facts))[: generator.integers(1, min(len(facts), self.most_facts) + 1)]
        told = [facts[fact] for fact in chosen]
        if likely is not None and (count := min(self.named, int((likely[1] > 0).sum()))):
            drawn = generator.choice(likely[0], count, replace=False, p=likely[1] ** 2 / (likely[1] ** 2).sum())
            told.append(FORMS["next"].format(" or ".join(self.short[item] for item in drawn)))
        return " ".join(told)


def generic_documents(
    items: pd.DataFrame, samples: pd.DataFrame, prompts: Prompts, n: int, most_facts: int = 4, seed: int = 0
) -> list[Document]:
    """Warm-up documents for any catalogue: every item card, and `n` plain analyses of unlabelled histories.

    Inside the answer of an item card stands a telling word of its title.

    Args:
        samples: training rows; only the histories are read, `target` never. Drawn in random rounds.
        most_facts: facts that an analysis names at most.
    """
    generator, analyst = np.random.default_rng(seed), Analyst(items, prompts, most_facts)
    titles = items["title"].tolist()
    documents = []
    for item, found in zip(items.to_dict("records"), analyst.words, strict=True):
        key = [word for word in found if word in analyst.telling] or found or [""]
        documents.append(Document(prompts.item_text(item), "", key[generator.integers(len(key))]))
    columns = [samples[name].tolist() for name in ("history", "history_hours", "history_ratings")]
    for row in rounds(generator, len(samples), n):
        history, hours, ratings = (column[row] for column in columns)
        prompt = prompts.user_text([titles[int(item)] for item in history], hours, ratings)
        documents.append(Document(prompt, analyst.write(history, generator)))
    return documents


def rounds(generator: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """`n` of `rows` row numbers: each round over all of them is in a new random order."""
    orders = [generator.permutation(rows) for _ in range(-(-n // rows))]
    return np.concatenate([np.empty(0, np.int64), *orders])[:n]


def analyses(
    items: pd.DataFrame, samples: pd.DataFrame, prompts: Prompts, most_facts: int, named: int, seed: int = 0
) -> list[str]:
    """An analysis of the history of each row of a samples table; it names `named` items that may come next."""
    generator, analyst = np.random.default_rng(seed), Analyst(items, prompts, most_facts, named)
    likely = zip(*likely_next(samples, len(items), seed), strict=True) if named else [None] * len(samples)
    return [analyst.write(*row) for row in zip(samples["history"], [generator] * len(samples), likely, strict=True)]


def likely_next(samples: pd.DataFrame, num_items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What may be bought after each history, by what is bought together: `LIKELY` items and their weights (B, K) each.

    The purchases of a shopper say nothing about the shopper's own histories, which would be the answer: shoppers are
    dealt into `FOLDS` groups, and each is read with item weights (`collaborative.item_weights`) from the others. Of a
    single shopper there are no others, and all weights are 0.
    """
    shoppers, names = pd.factorize(samples["user_id"])
    fold = np.random.default_rng(seed).permutation(len(names))[shoppers] % FOLDS  # (B,)
    items, weights = np.zeros((len(samples), LIKELY), np.int64), np.zeros((len(samples), LIKELY))
    for one in range(min(FOLDS, len(names)) if len(names) > 1 else 0):
        rows = np.flatnonzero(fold == one)
        term = ItemWeights(*item_weights(actions(samples[fold != one]), num_items, PENALTY))
        for part in np.array_split(rows, -(-len(rows) // 1024)):
            histories = samples["history"].iloc[part].to_list()
            scores = term.scores(histories)
            for row, history in zip(scores, histories, strict=True):
                row[torch.as_tensor(np.asarray(history, dtype=np.int64))] = 0.0
            best = scores.topk(min(LIKELY, num_items), dim=1)
            items[part, : best.indices.shape[1]], weights[part, : best.indices.shape[1]] = best.indices, best.values
    return items, weights
