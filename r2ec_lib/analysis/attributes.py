"""Do the reasons agree with the recommendation, and with what the item cards say? Contradictions, support, leaks.

An attribute is a property that an item has or has not, such as the style "deco" or the brand "Acme". Where they come
from is the caller's choice: facts of a generated world, or the catalogue's own columns and words (`card_attributes`).

attributes  one row an item and value: item (index), attribute, value (lower case)
stated      one row a reasoning and value: row (index label of the chains), attribute, value;
            `attribute_mentions` reads them off any text, and a caller who knows the language can hand in what the text
            says of the next item
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
KEY = ["attribute", "value"]


# ---- attributes ----------------------------------------------------------------------------------------------------


def card_attributes(items: pd.DataFrame, max_words: int = 3, fewest: int = 3, most: float = 0.1) -> pd.DataFrame:
    """Attributes from a catalogue's columns.

    A column other than the title whose values have at most `max_words` words in the median, and are not all the same,
    is an attribute of that name, with its whole values. The words of the title and of the other columns are values of
    the attribute "word", if they have three letters or more and stand on at least `fewest` cards and on at most a
    share `most` of them.

    Args:
        items: the items table.

    Returns:
        The attributes table, without repeats.
    """
    text = [name for name in items.columns if name != "item_id"]
    lengths = {name: items.loc[items[name] != "", name].map(lambda value: len(_words(value))) for name in text[1:]}
    short = [name for name, count in lengths.items() if len(count) and count.median() <= max_words]
    short = [name for name in short if items[name].nunique() > 1]
    parts = [items[[name]].rename(columns={name: "value"}).assign(attribute=name) for name in short]
    whole = pd.concat([part.reset_index(names="item") for part in parts]) if parts else pd.DataFrame()
    if len(whole):
        whole["value"] = whole["value"].map(lambda value: " ".join(_words(value)))
    cards = items[[name for name in text if name not in short]].agg(" ".join, axis=1)
    words = [
        (item, "word", word)
        for item, card in enumerate(cards)
        for word in dict.fromkeys(_words(card))
        if len(word) > 2 and word.isalpha()
    ]
    words = pd.DataFrame(words, columns=["item", *KEY])
    holders = words["value"].map(words["value"].value_counts())
    words = words[(holders >= fewest) & (holders <= most * len(items))]
    table = pd.concat([whole, words], ignore_index=True)[["item", *KEY]]
    return table[table["value"] != ""].drop_duplicates(ignore_index=True)


def fact_attributes(facts: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Attributes from a table of facts, one row an item in catalogue order, one column an attribute."""
    table = facts[list(columns)].reset_index(drop=True).reset_index(names="item")
    table = table.melt("item", var_name="attribute", value_name="value")
    return table.assign(value=table["value"].astype("str").str.lower())


def attribute_mentions(chains: pd.DataFrame, attributes: pd.DataFrame) -> pd.DataFrame:
    """The attribute values that stand in each chain as whole words; where values overlap, the longest one counts.

    Returns:
        A stated table with `start` and `end` (characters) of each place.
    """
    known = defaultdict(list)  # words of a value -> (attribute, value)
    for attribute, value in attributes[KEY].drop_duplicates().itertuples(index=False):
        known[tuple(_words(value))].append((attribute, value))
    longest, rows = max(map(len, known), default=0), []
    for row, chain in zip(chains.index, chains["chain"], strict=True):
        places, at = list(_WORD.finditer(chain)), 0
        words = [match.group().lower() for match in places]
        while at < len(words):
            for length in range(min(longest, len(words) - at), 0, -1):
                if found := known.get(tuple(words[at : at + length])):
                    span = places[at].start(), places[at + length - 1].end()
                    rows += [(row, *pair, *span) for pair in found]
                    at += length - 1
                    break
            at += 1
    return pd.DataFrame(rows, columns=["row", *KEY, "start", "end"])


class Holdings:
    """Which item holds which value: `holds` (N, V) of 0 and 1, and `number`, (attribute, value) -> column."""

    def __init__(self, attributes: pd.DataFrame, num_items: int):
        pairs = list(attributes[KEY].itertuples(index=False, name=None))
        self.number = {pair: column for column, pair in enumerate(dict.fromkeys(pairs))}
        columns = [self.number[pair] for pair in pairs]
        shape = (num_items, len(self.number))
        self.holds = sparse.csr_matrix((np.ones(len(pairs)), (attributes["item"], columns)), shape)
        self.holds.data[:] = 1

    def columns(self, stated: pd.DataFrame) -> np.ndarray:
        """Column of each stated value; −1 where no item holds it."""
        return np.array([self.number.get(pair, -1) for pair in stated[KEY].itertuples(index=False, name=None)], int)

    def look_up(self, matrix: sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """`matrix[row, column]` of each pair; 0 where the column is −1."""
        found = np.zeros(len(rows))
        known = columns >= 0
        if known.any():
            found[known] = np.asarray(matrix[rows[known], columns[known]]).ravel()
        return found


# ---- reason and item cards -----------------------------------------------------------------------------------------


def support(
    chains: pd.DataFrame,
    named: pd.DataFrame,
    attributes: pd.DataFrame,
    samples: pd.DataFrame,
    partners: Sequence[int],
    num_items: int,
) -> pd.DataFrame:
    """Are the named values on the cards of the items that the reasoning is about?

    Args:
        chains: `top_items`, in the order of `samples`.
        named: a stated table, such as that of `attribute_mentions`.
        samples: `history`; a row a chain.
        partners: (rows,) positions of other shoppers, such as `causal.swap_partners`, for the share by chance.

    Returns:
        A row a chain, with its index. Over the different values that it names (NaN without one):
        `supported`  the share that an item of the history or the first recommended item holds;
        `supported_by_chance`  the same against another shopper's history and recommendation;
        `specific`  the mean of 1{an item of the history holds it} · (1 − share of all histories that do): high where
        the text says what is true of this shopper and not of everybody.
    """
    holdings = Holdings(attributes, num_items)
    own = _membership(samples["history"], num_items) @ holdings.holds
    own.data[:] = 1  # (S, V): some item of the history holds it
    first = holdings.holds[chains["top_items"].map(lambda items: int(items[0])).to_numpy()]
    about = own + first
    about.data[:] = 1
    usual = np.asarray(own.mean(axis=0)).ravel() if own.shape[1] else np.zeros(0)  # (V,)
    said = named[["row", *KEY]].drop_duplicates()
    place, columns = chains.index.get_indexer(said["row"]), holdings.columns(said)
    in_history = holdings.look_up(own, place, columns)
    rarity = np.array([1 - usual[column] if column >= 0 else 1.0 for column in columns])
    said = said.assign(
        supported=holdings.look_up(about, place, columns),
        supported_by_chance=holdings.look_up(about, np.asarray(partners)[place], columns),
        specific=in_history * rarity,
    )
    return said.groupby("row")[["supported", "supported_by_chance", "specific"]].mean().reindex(chains.index)


def feature_figures(
    chains: pd.DataFrame, named: pd.DataFrame, attributes: pd.DataFrame, targets: Sequence[int]
) -> dict[str, float]:
    """The figures of explainable recommendation (NETE, PETER), with the attributes as features.

    FMR  feature matching ratio: share of reasonings that name a feature of the item bought next (higher is better)
    FCR  feature coverage ratio: different features named / features (higher is better)
    DIV  feature diversity: mean number of features that two reasonings share (lower is better)
    USR  unique sentence ratio: different reasonings / reasonings (higher is better)
    """
    features = {item: set(part[KEY].itertuples(index=False, name=None)) for item, part in attributes.groupby("item")}
    said = named[["row", *KEY]].drop_duplicates()
    by_row = {row: set(part[KEY].itertuples(index=False, name=None)) for row, part in said.groupby("row")}
    matched = [
        bool(by_row.get(row, set()) & features.get(int(target), set()))
        for row, target in zip(chains.index, targets, strict=True)
    ]
    times, n = said.groupby(KEY).size(), len(chains)
    return {
        "FMR": float(np.mean(matched)),
        "FCR": len(times) / len(attributes[KEY].drop_duplicates()) if len(attributes) else math.nan,
        "DIV": float((times * (times - 1)).sum() / (n * (n - 1))) if n > 1 else math.nan,
        "USR": chains["chain"].nunique() / n,
    }


def _membership(lists: Sequence[Sequence[int]], num_items: int) -> sparse.csr_matrix:
    """(rows, N) counts of the items in each list."""
    sizes = [len(items) for items in lists]
    columns = np.concatenate([np.asarray(items, int) for items in lists])
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), (len(sizes), num_items))


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]
