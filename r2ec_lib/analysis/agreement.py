"""Whether the recommended items have what the reasoning asks for."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import sparse

from r2ec_lib.analysis.attributes import KEY, Holdings

# ---- reason and recommendation -------------------------------------------------------------------------------------


def popularity_bins(popularity: Sequence[float], bins: int = 10) -> np.ndarray:
    """(N,) bin of each item by its place among the popularities; equal popularities share a bin."""
    place = pd.Series(np.asarray(popularity, float)).rank(method="average", pct=True).to_numpy()
    return np.minimum((place * bins).astype(int), bins - 1)


def consistency(
    chains: pd.DataFrame, stated: pd.DataFrame, attributes: pd.DataFrame, popularity: Sequence[float], bins: int = 10
) -> pd.DataFrame:
    """P(stated values hold for the recommended item v̂) against P(they hold for an item as popular as v̂).

    Args:
        chains: `top_items`, whose first is v̂.
        popularity: (N,) training purchases of each item.
        bins: of popularity; the comparison is the exact mean over the items of v̂'s bin.

    Returns:
        A row a chain, with its index: `stated` (number of different values), `holds` and `holds_by_chance` (shares of
        them, NaN without one), `contradicted` (attributes, see `contradictions`).
    """
    holdings, group = Holdings(attributes, len(popularity)), popularity_bins(popularity, bins)
    member = sparse.csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))), (bins, len(group)))
    size = np.maximum(np.bincount(group, minlength=bins), 1)  # (bins,)
    rates = sparse.csr_matrix((member @ holdings.holds).multiply(1 / size[:, None]))  # (bins, V)
    first = chains["top_items"].map(lambda items: int(items[0]))
    said = stated[["row", *KEY]].drop_duplicates()
    best, columns = first.loc[said["row"]].to_numpy(int), holdings.columns(said)
    said = said.assign(
        holds=holdings.look_up(holdings.holds, best, columns),
        holds_by_chance=holdings.look_up(rates, group[best], columns),
    )
    by_row = said.groupby("row")
    table = by_row[["holds", "holds_by_chance"]].mean().reindex(chains.index)
    table.insert(0, "stated", by_row.size().reindex(chains.index).fillna(0).astype(int))
    against = contradictions(chains, stated, attributes).groupby("row").size()
    return table.assign(contradicted=against.reindex(chains.index).fillna(0).astype(int))


def contradictions(chains: pd.DataFrame, stated: pd.DataFrame, attributes: pd.DataFrame) -> pd.DataFrame:
    """Where the reason says one thing and the recommended item v̂ is another, worst first.

    Only attributes of which every item has at most one value can be contradicted. One is, where v̂ has a value of it
    and that is none of those stated. Worst first: by the contradicted attributes of the same chain, then by the share
    of the whole list of top items that has another value too.

    Returns:
        `row`, `attribute`, `said`, `has` (v̂'s value), `item` (v̂), `contradicted` (attributes of the chain),
        `list_share`.
    """
    each = attributes.groupby(["attribute", "item"]).size().groupby("attribute").max()
    single = attributes[attributes["attribute"].isin(each[each == 1].index)]
    value_of = {name: part.set_index("item")["value"].to_dict() for name, part in single.groupby("attribute")}
    rows = []
    for (row, name), part in stated.groupby(["row", "attribute"], sort=False):
        if name not in value_of:
            continue
        said, values = set(part["value"]), value_of[name]
        top = [int(item) for item in chains.at[row, "top_items"]]
        if values.get(top[0]) is not None and values[top[0]] not in said:
            others = [item in values and values[item] not in said for item in top]
            rows.append((row, name, ", ".join(sorted(said)), values[top[0]], top[0], sum(others) / len(others)))
    table = pd.DataFrame(rows, columns=["row", "attribute", "said", "has", "item", "list_share"])
    table.insert(5, "contradicted", table["row"].map(table["row"].value_counts()))
    return table.sort_values(["contradicted", "list_share"], ascending=False, kind="stable", ignore_index=True)


def by_reason(found: pd.DataFrame) -> pd.DataFrame:
    """The table of `contradictions` with a row a reasoning, worst first: `row`, `said` and `has` ("style rustic, tier
    luxury"), `item`, `list_share` (the largest of its attributes)."""
    rows = []
    for row, part in found.groupby("row", sort=False):
        said = ", ".join(f"{name} {value}" for name, value in zip(part["attribute"], part["said"], strict=True))
        has = ", ".join(f"{name} {value}" for name, value in zip(part["attribute"], part["has"], strict=True))
        rows.append((row, said, has, part["item"].iloc[0], part["list_share"].max()))
    return pd.DataFrame(rows, columns=["row", "said", "has", "item", "list_share"])


def target_mentions(
    chains: pd.DataFrame, found: pd.DataFrame, samples: pd.DataFrame, popularity: Sequence[float], bins: int = 10
) -> pd.DataFrame:
    """Is the item bought next named by its title more often than items that are as popular? If so, it leaked.

    Args:
        found: the table of `mentions.mentions` for these chains.
        samples: `history`, `target`; a row a chain.

    Returns:
        A row a chain, with its index: `names_target` and `names_popular`, the share of the other items of the target's
        popularity bin, outside the history, that are named by title.
    """
    group = popularity_bins(popularity, bins)
    titles = found[(found["how"] == "title") & (found["item"] >= 0)]
    named = {row: set(items) for row, items in titles.groupby("row")["item"]}
    rows = []
    for row, history, target in zip(chains.index, samples["history"], samples["target"], strict=True):
        out = {int(item) for item in history} | {int(target)}
        mine = named.get(row, set())
        rivals = (group == group[target]).sum() - sum(group[item] == group[target] for item in out)
        hits = sum(group[item] == group[target] for item in mine - out)
        rows.append((float(target in mine), hits / rivals if rivals else math.nan))
    return pd.DataFrame(rows, columns=["names_target", "names_popular"], index=chains.index)
