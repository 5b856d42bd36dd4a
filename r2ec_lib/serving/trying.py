"""What a person tries on a model, in a line each: read another reasoning, find who would see an item, compare lists.

For notebook 08. Nothing here trains, measures or keeps anything; why an item ranks where it does is shown by
`student.explain`.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain, count

import pandas as pd
from pandas.io.formats.style import Styler

from r2ec_lib.analysis.words import phrase
from r2ec_lib.data.schema import DataError
from r2ec_lib.evaluation.answers import chains_of
from r2ec_lib.model import R2ec
from r2ec_lib.model.prompts import age
from r2ec_lib.model.r2ec import Recommendation, ranks_of


def with_reasoning(model: R2ec, rows: pd.DataFrame, reasoning: str, k: int = 10) -> Recommendation:
    """The list of one history (a samples table of one row) after a reasoning that somebody else wrote."""
    states = model.user_states(rows, chains_of(model, [reasoning]))
    [best] = model.best_items(states, rows["history"].to_list(), k)
    return Recommendation(*best, reasoning)


def one_word_changed(reasoning: str, other: str, old: str = "", new: str = "") -> str:
    """A reasoning with one word or phrase exchanged: `old` for `new`, or, without them, the last word in which it
    differs from another reasoning, both read from their ends. Where these do not differ, its first word is left out.

    Raises:
        DataError: the reasoning does not hold `old` as whole words.

    >>> one_word_changed("A red lamp. In wood.", "A blue lamp. In wood.")
    'A blue lamp. In wood.'
    """
    if old:
        found = re.search(phrase(old), reasoning)
        if not found:
            raise DataError(f'the reasoning does not hold the word "{old}": {reasoning}')
        return reasoning[: found.start()] + new + reasoning[found.end() :]
    words, others = reasoning.split(), other.split()
    for back, (word, replacement) in enumerate(zip(reversed(words), reversed(others), strict=False), 1):
        if word != replacement:
            return " ".join([*words[:-back], replacement, *words[len(words) - back + 1 :]])
    return " ".join(words[1:])


def one_less(purchases: Mapping[str, Sequence], back: int) -> dict[str, list]:
    """Purchases, a list per fact and the oldest first, without the one that is `back`-th from the latest.

    Empty where there is no such purchase, as for 0, or where none would be left.

    >>> one_less({"history": ["mug", "lamp", "rug"], "hours": [48.0, 24.0, 1.0]}, 2)
    {'history': ['mug', 'rug'], 'hours': [48.0, 1.0]}
    """
    size = len(purchases["history"])
    if size < 2 or not 1 <= back <= size:
        return {}
    return {name: [*values[: size - back], *values[size - back + 1 :]] for name, values in purchases.items()}


def new_item(model: R2ec, like: str, title: str = "", text: str = "") -> pd.DataFrame:
    """An items table of one row: the item `like` of the catalogue under another title, and an id that no item has.

    A text takes the place of the description or, where the model does not read one, of the last text that it reads.

    Raises:
        DataError: there is a text, but the model reads titles alone.
    """
    card = model.catalogue.iloc[model.head.index[like]].to_dict()
    free = next(name for name in chain(["new"], map("new-{}".format, count(2))) if name not in model.head.index)
    new = card | {"item_id": free, "title": title or f"{card['title'].split(',')[0]}, brand-new"}
    if text:
        texts = [name for name in model.prompts.style.item_columns or card if name not in ("item_id", "title")]
        if not texts:
            raise DataError("this model reads titles alone, so it would not read the new text; leave it empty.")
        new["description" if "description" in texts else texts[-1]] = text
    return pd.DataFrame([new])


def audience(model: R2ec, rows: pd.DataFrame, item_id: str, max_new_tokens: int) -> pd.DataFrame:
    """Where an item ranks for each history of a samples table, best places first.

    Returns:
        user_id, rank (1 is best; among all items outside the history), reasoning.
    """
    sampled = model.sample(model.prompts.user_ids(rows, model.titles), max_new_tokens)
    ranks = ranks_of(model, rows.assign(target=model.head.index[item_id]), sampled.states)
    texts = [model.decode(chain) for chain in sampled.chains]
    table = pd.DataFrame({"user_id": rows["user_id"].to_numpy(), "rank": ranks.cpu().numpy(), "reasoning": texts})
    return table.sort_values("rank", kind="stable", ignore_index=True)


def beside(lists: Mapping[str, Recommendation]) -> Styler:
    """Lists as the columns of a table, one row per place; items that the first list does not hold are bold."""
    columns = {name: pd.Series(one.titles, range(1, len(one.titles) + 1)) for name, one in lists.items()}
    first = set(next(iter(lists.values())).titles)
    table = pd.DataFrame(columns).fillna("–").rename_axis(columns="place")
    bold = table.map(lambda title: "" if title in first else "font-weight: bold")
    return table.style.apply(lambda column: bold[column.name]).format(escape="html")


def history_table(
    model: R2ec, history: Sequence[str], hours: Sequence[float], ratings: Sequence[float]
) -> pd.DataFrame:
    """The purchases of one history, as a person reads them: title, when (as the prompts say it) and any rating."""
    titles = [model.titles[model.head.index[item]] for item in history]
    when = [age(before, coarse=not model.prompts.style.instruct) for before in hours]
    table = pd.DataFrame({"title": titles, "when": when, "rating": ratings})
    return table.dropna(axis="columns", how="all")
