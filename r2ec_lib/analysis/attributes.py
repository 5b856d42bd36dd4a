"""Attribute values that reasonings state, and whether the cards of the history support them.

An attribute is a property that an item may have, such as the style "deco" or the brand "Acme". Where attributes come
from is the caller's choice: facts of a generated world, or the catalogue's own columns and words (`card_attributes`).
Whether the recommended item has what is stated is the business of `agreement`: that item was ranked from the text, so
it shows that the list follows the text and not that the text is true.

attributes  one row per item and value: item (index), attribute, value (lower case)
stated      one row per reasoning and value: row (index label of the chains), attribute, value; `attribute_mentions`
            reads them off any text, and a caller who knows the language can hand in what it says of the next item
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from r2ec_lib.data.texts import MARKS, WORD, words
from r2ec_lib.model.claims import FRAME_WORDS

KEY = ["attribute", "value"]
WORDS = "word"
"""The attribute whose values are single words of a card."""

FRAME = ENGLISH_STOP_WORDS | FRAME_WORDS | {"need"}
"""Words that make sentences and state nothing of an item: function words, and those of the warm-up's analyses."""


def card_attributes(items: pd.DataFrame, max_words: int = 3, fewest: int = 3, most: float = 0.1) -> pd.DataFrame:
    """The attributes table of a catalogue's columns, without repeats.

    A column other than the title whose values have at most `max_words` words in the median, and are not all the same,
    is an attribute of that name, with its whole values. The words of the title and of the other columns are values of
    the attribute `WORDS`, if they are three letters or more and nothing else, are none of `FRAME`, and occur on at
    least `fewest` cards and on at most a share `most` of them. A whole value of digits alone is none: a text may mean
    any number.
    """
    cards = items.drop(columns="item_id").map(words)  # lists of words
    lengths = cards.drop(columns="title").map(len)
    typical = lengths[lengths > 0].median()
    short = [name for name in lengths if typical[name] <= max_words and items[name].nunique() > 1]
    whole = (
        cards[short]
        .map(" ".join)
        .astype("str")
        .melt(var_name="attribute", value_name="said", ignore_index=False)  # a column may be called "value"
        .rename(columns={"said": "value"})
        .reset_index(names="item")
    )
    whole = whole[~whole["value"].astype("str").str.fullmatch(r"[\d ]*")]  # the empty one too
    text = cards.drop(columns=short).itertuples(index=False)
    rows = [
        (item, WORDS, word)
        for item, lists in enumerate(text)
        for word in dict.fromkeys(word for cut in lists for word in cut)
        if len(word) > 2 and all(sign.isalpha() or sign in MARKS for sign in word) and word not in FRAME
    ]
    single = pd.DataFrame(rows, columns=["item", *KEY])
    holders = single["value"].map(single["value"].value_counts())
    table = pd.concat([whole, single[holders.between(fewest, most * len(items))]])[["item", *KEY]]
    return table.drop_duplicates(ignore_index=True).astype({"value": "str"})


def fact_attributes(facts: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Attributes from a table of facts: a row per item in catalogue order, a column per attribute; several values of
    one are joined by "; ", as the Bazaar's kits are."""
    table = facts[list(columns)].reset_index(drop=True).reset_index(names="item")
    table = table.melt("item", var_name="attribute", value_name="value")
    table = table.assign(value=table["value"].astype("str").str.lower().str.split("; ")).explode("value")
    return table[table["value"] != ""].reset_index(drop=True).astype({"value": "str"})


def attribute_mentions(chains: pd.DataFrame, attributes: pd.DataFrame) -> pd.DataFrame:
    """The attribute values that occur in each chain as whole words, as a stated table with `start` and `end`
    (characters) of each place; where values overlap, the longest one counts."""
    values = defaultdict(list)  # words of a value -> (attribute, value)
    for attribute, value in attributes[KEY].drop_duplicates().itertuples(index=False):
        values[tuple(words(value))].append((attribute, value))
    longest = max(map(len, values), default=0)
    rows: list[tuple] = []
    for row, chain in chains["chain"].items():
        matches, at = list(WORD.finditer(chain)), 0
        lower = [match.group().lower() for match in matches]
        while at < len(lower):
            lengths = range(min(longest, len(lower) - at), 0, -1)
            length = next((n for n in lengths if tuple(lower[at : at + n]) in values), 0)
            span = matches[at].start(), matches[at + max(length, 1) - 1].end()
            rows += [(row, *pair, *span) for pair in values.get(tuple(lower[at : at + length]), [])]
            at += max(length, 1)
    return pd.DataFrame(rows, columns=["row", *KEY, "start", "end"])


def value_sets(table: pd.DataFrame, by: str) -> defaultdict[Any, set[tuple[str, str]]]:
    """The different (attribute, value) pairs of each item or reasoning, `by` the column "item" of an attributes table
    or "row" of a stated one; the empty set for one that has none."""
    sets: defaultdict[Any, set[tuple[str, str]]] = defaultdict(set)
    for holder, attribute, value in zip(table[by], table["attribute"], table["value"], strict=True):
        sets[holder].add((attribute, value))
    return sets


def support(
    stated: pd.DataFrame, attributes: pd.DataFrame, samples: pd.DataFrame, partners: Sequence[int]
) -> pd.DataFrame:
    """Are the stated values on the cards of the history?

    Args:
        stated: its `row` is an index label of `samples`.
        samples: `history`, a row per chain.
        partners: (rows,) positions of other shoppers, such as `causal.swap_partners`, for the share by chance.

    Returns:
        A row per chain, with the index of `samples`; over the different values that it states, NaN without one:
        `supported`, the share that an item of the history holds; `supported_by_chance`, the same against another
        shopper's history; `specific`, the mean of 1{an item of the history holds it} · (1 − share of all histories
        that do), high where the text says what is true of this shopper and not of everybody.
    """
    by_item, by_row = value_sets(attributes, "item"), value_sets(stated, "row")
    histories = [set().union(*(by_item[item] for item in history)) for history in samples["history"]]
    holders = Counter(value for held in histories for value in held)
    rows = []
    for row, history, partner in zip(samples.index, histories, partners, strict=True):
        values = by_row[row]
        shared = values & history
        specific = len(shared) - sum(holders[value] for value in shared) / len(histories)
        counts = np.array([len(shared), len(values & histories[partner]), specific])
        rows.append(counts / (len(values) or math.nan))
    return pd.DataFrame(rows, samples.index, columns=["supported", "supported_by_chance", "specific"])


def feature_figures(
    chains: pd.DataFrame, stated: pd.DataFrame, attributes: pd.DataFrame, targets: Sequence[int]
) -> dict[str, float]:
    """The figures of explainable recommendation (NETE, PETER), with the attribute values as features.

    FMR  feature matching ratio: share of reasonings that name a feature of the item bought next (higher is better)
    FCR  feature coverage ratio: different features named / features (higher is better)
    DIV  feature diversity: mean number of features that two reasonings share (lower is better)
    """
    by_item, by_row, n = value_sets(attributes, "item"), value_sets(stated, "row"), len(chains)
    matched = [bool(by_row[row] & by_item[target]) for row, target in zip(chains.index, targets, strict=True)]
    times = Counter(value for values in by_row.values() for value in values)
    features = set().union(*by_item.values())
    return {
        "FMR": float(np.mean(matched)),
        "FCR": len(times) / len(features) if features else math.nan,
        "DIV": sum(count * (count - 1) for count in times.values()) / (n * (n - 1)) if n > 1 else math.nan,
    }
