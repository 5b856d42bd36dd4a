"""Does the recommendation agree with the reasoning, and does the reasoning name the next purchase?

What a text states comes in as the tables of `attributes`; of a text itself, only the places of its statements about
the history are read.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from r2ec_lib.analysis.attributes import WORDS, value_sets
from r2ec_lib.model.claims import statements

BINS = 10
"""Bins of popularity, in which items count as equally popular."""


def beyond_history(stated: pd.DataFrame, chains: pd.DataFrame) -> pd.DataFrame:
    """The rows of `attribute_mentions` that lie in no statement about the history (`model.claims`): what such a
    statement names is not said of the next item."""
    told = {
        row: [(start, end) for kind, start, end in statements(chain) if kind != "next"]
        for row, chain in chains["chain"].items()
    }
    places = zip(stated["row"], stated["start"], stated["end"], strict=True)
    return stated[[all(end <= a or start >= b for a, b in told[row]) for row, start, end in places]]


def popularity_bins(popularity: Sequence[float]) -> np.ndarray:
    """(N,) bin of each item by the quantile of its popularity; items of equal popularity share a bin."""
    quantile = pd.Series(np.asarray(popularity, float)).rank(method="average", pct=True).to_numpy()
    return np.minimum((quantile * BINS).astype(int), BINS - 1)


def consistency(
    chains: pd.DataFrame, stated: pd.DataFrame, attributes: pd.DataFrame, popularity: Sequence[float]
) -> pd.DataFrame:
    """P(stated values hold for the recommended item v̂) against P(they hold for an item as popular as v̂).

    Args:
        chains: `top_items`, whose first is v̂.
        popularity: (N,) training purchases of each item.

    Returns:
        A row per chain, with its index: `stated` (number of different values), `holds` and `holds_by_chance` (shares
            of them, NaN without one; by chance is the exact mean over the items of v̂'s popularity bin),
            `contradicted` (attributes, see `contradictions`; NaN where nothing stated can be contradicted).
    """
    by_item, by_row = value_sets(attributes, "item"), value_sets(stated, "row")
    bin_of = popularity_bins(popularity)
    holders = Counter((bin_of[item], value) for item, values in by_item.items() for value in values)
    sizes = np.bincount(bin_of)
    rows = []
    for row, top in chains["top_items"].items():
        values, held, popular = by_row[row], by_item[top[0]], bin_of[top[0]]
        peers = sum(holders[popular, value] for value in values) / sizes[popular]
        count = len(values) or math.nan
        rows.append((len(values), len(values & held) / count, peers / count))
    table = pd.DataFrame(rows, chains.index, columns=["stated", "holds", "holds_by_chance"])
    contradicted = contradictions(chains, stated, attributes)["row"].value_counts()
    exposed = stated.loc[stated["attribute"].isin(_single_valued(attributes)), "row"]
    return table.assign(contradicted=contradicted.reindex(exposed.unique(), fill_value=0))


def contradictions(chains: pd.DataFrame, stated: pd.DataFrame, attributes: pd.DataFrame) -> pd.DataFrame:
    """Where the reason states one value and the recommended item v̂ has another, worst first.

    Only attributes of which every item has at most one value can be contradicted, and words never. One is if v̂ has a
    value of it that is none of those stated. Worst first: by the number of contradicted attributes of the chain, then
    by the share of the whole list of top items that has another value too.

    Returns:
        `row`, `attribute`, `stated` (values), `actual` (v̂'s value), `item` (v̂), `contradicted` (attributes of the
        chain), `list_share`.
    """
    single = attributes[attributes["attribute"].isin(_single_valued(attributes))]
    value_of = {
        name: dict(zip(part["item"], part["value"], strict=True)) for name, part in single.groupby("attribute")
    }
    rows = []
    for (row, name), values in stated.groupby(["row", "attribute"], sort=False)["value"]:
        values, top = set(values), chains.at[row, "top_items"]
        actual = [value_of.get(name, {}).get(item) for item in top]
        against = [value is not None and value not in values for value in actual]
        if against[0]:
            rows.append((row, name, ", ".join(sorted(values)), actual[0], int(top[0]), np.mean(against)))
    table = pd.DataFrame(rows, columns=["row", "attribute", "stated", "actual", "item", "list_share"])
    table.insert(5, "contradicted", table["row"].map(table["row"].value_counts()))
    return table.sort_values(["contradicted", "list_share"], ascending=False, kind="stable", ignore_index=True)


def _single_valued(attributes: pd.DataFrame) -> pd.Index:
    """The attributes of which every item has at most one value, but for words: of those a card has many."""
    most = attributes.groupby(["attribute", "item"]).size().groupby("attribute").max()
    return most.index[(most == 1) & (most.index != WORDS)]


def by_reason(contradicted: pd.DataFrame) -> pd.DataFrame:
    """The table of `contradictions` with a row per reasoning, worst first: `row`, `stated` and `actual` ("style
    rustic, tier luxury"), `item`, `list_share` (the largest of its attributes)."""
    named = contradicted.assign(
        **{name: contradicted["attribute"] + " " + contradicted[name] for name in ("stated", "actual")}
    )
    first = {"stated": ", ".join, "actual": ", ".join, "item": "first", "list_share": "max"}
    return named.groupby("row", sort=False, as_index=False).agg(first)


def target_mentions(
    chains: pd.DataFrame, mentioned: pd.DataFrame, samples: pd.DataFrame, popularity: Sequence[float]
) -> pd.DataFrame:
    """Is the item bought next named by its title more often than items that are as popular? If so, it was foreseen
    from the history, or it leaked. A title that several items bear names none of them, target or not.

    A row per chain, with its index: `names_target` and `names_popular`, the share of the other items of the target's
    popularity bin, outside the history, that are named by title; from the tables of `mentions.mentions` and of the
    samples, a row per chain.
    """
    bin_of = popularity_bins(popularity)
    sizes = np.bincount(bin_of)
    titles = mentioned[(mentioned["how"] == "title") & (mentioned["item"] >= 0)]
    named = titles.groupby("row")["item"].agg(set)
    rows = []
    for row, history, target in zip(chains.index, samples["history"], samples["target"], strict=True):
        as_popular, excluded, items = bin_of[target], {*history, target}, named.get(row, set())
        rivals = sizes[as_popular] - sum(bin_of[item] == as_popular for item in excluded)
        rivals_named = sum(bin_of[item] == as_popular for item in items - excluded)
        rows.append((float(target in items), rivals_named / rivals if rivals else math.nan))
    return pd.DataFrame(rows, columns=["names_target", "names_popular"], index=chains.index)
