"""Corrupted reasonings for a causal test: facts exchanged for other ones, or as many other words for other words.

Texts in, texts out. Exchanging words makes any text stranger, so what the exchange of facts does shows only in the
difference from the exchange of neutral words (`causal.paired_difference`). So both exchange equally many words of a
text: no more facts, and no more of a long title, than it has neutral words.
"""

import re
from collections import defaultdict
from collections.abc import Sequence, Set
from functools import cache

import numpy as np
import pandas as pd

from r2ec_lib.analysis.attributes import FRAME
from r2ec_lib.data.texts import WORD, words


def fact_spans(mentioned: pd.DataFrame, stated: pd.DataFrame) -> pd.DataFrame:
    """The places that hold facts, as `row`, `start`, `end` and `kind` ("item", "word", or the attribute's name):
    titles of `mentions.mentions`, values of `attributes.attribute_mentions`, and distinctive words of history items;
    of overlapping places the first in this order, then the longest."""
    items = mentioned.assign(kind=mentioned["how"].replace("title", "item"))
    items["order"] = items["kind"].map({"item": 0, "word": 2})
    columns = ["row", "start", "end", "kind", "order"]
    table = pd.concat([items[columns], stated.assign(kind=stated["attribute"], order=1)[columns]])
    table["length"] = table["end"] - table["start"]
    table = table.sort_values(["order", "length"], ascending=[True, False], kind="stable")
    taken: defaultdict[object, list[tuple[int, int]]] = defaultdict(list)
    kept: list[bool] = []
    for row, start, end in zip(table["row"], table["start"], table["end"], strict=True):
        kept.append(all(end <= other or start >= stop for other, stop in taken[row]))
        if kept[-1]:
            taken[row].append((start, end))
    table = table.loc[np.array(kept, bool), ["row", "start", "end", "kind"]]
    return table.sort_values(["row", "start"], ignore_index=True)


def corrupt(
    texts: pd.Series, spans: pd.DataFrame, titles: Sequence[str], share: float = 0.5, seed: int = 0
) -> dict[str, pd.Series]:
    """The texts with a share of their facts exchanged ("facts"), and with as many neutral words exchanged ("neutral").

    A fact becomes as many words of another one: a title of another title of the catalogue, a value or word of another
    of its kind from any of the texts; a whole other one where none has as many. Words outside all of `spans` are
    neutral, except numbers and words of titles that are none of `FRAME`; one becomes a neutral word of any text. What
    has no alternative stays. Of a fact with more words than the text has neutral ones left, only the first are
    exchanged.

    Args:
        texts: any index without repeats, to which the `row` of `spans` (the table of `fact_spans`) refers.
        share: of each text's facts, rounded up; more than 0, at most 1, else ValueError.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of facts to exchange is {share}; expected more than 0 and at most 1")
    facts, pools = defaultdict(list), defaultdict(set, item=set(titles))  # pools: kind -> what a fact of it can become
    for row, start, end, kind in spans[["row", "start", "end", "kind"]].itertuples(index=False, name=None):
        facts[row].append((start, end, kind))
        if kind != "item":
            pools[kind].add(texts[row][start:end])
    named = {word for title in titles for word in words(title)} - FRAME
    neutral = {row: _neutral(text, facts[row], named) for row, text in texts.items()}
    filling = [texts[row][start:end] for row, spots in neutral.items() for start, end in spots]
    cut = {kind: [(entry, _ends(entry)) for entry in sorted(pool)] for kind, pool in pools.items()}

    @cache
    def firsts(kind: str, size: int) -> list[str]:
        return sorted({entry[: ends[size - 1]] for entry, ends in cut[kind] if len(ends) >= size})

    rng = np.random.default_rng(seed)
    exchanged: dict[str, list[str]] = {"facts": [], "neutral": []}
    for row, text in texts.items():
        places, rest = [], len(neutral[row])
        for i in rng.permutation(len(facts[row]))[: int(np.ceil(share * len(facts[row])))]:
            start, end, kind = facts[row][i]
            ends = [start + stop for stop in _ends(text[start:end])][:rest]
            if not ends:
                continue
            pool, old = firsts(kind, len(ends)), text[start : ends[-1]].lower()
            if all(entry.lower() == old for entry in pool):
                pool = _others([entry for entry, _ in cut[kind]], text[start:end])
            if pool:
                places.append((start, ends[-1], pool))
                rest -= len(ends)
        exchanged["facts"].append(_exchange(text, places, rng))
        spots = rng.permutation(neutral[row])[rest:]
        exchanged["neutral"].append(_exchange(text, [(start, end, filling) for start, end in spots], rng))
    return {name: pd.Series(table, texts.index, dtype=object) for name, table in exchanged.items()}


def _ends(text: str) -> list[int]:
    """Where the words of a text end."""
    return [match.end() for match in WORD.finditer(text)]


def _others(pool: Sequence[str], old: str) -> list[str]:
    return [entry for entry in pool if entry.lower() != old.lower()]


def _neutral(text: str, places: Sequence[tuple[int, int, str]], named: Set[str]) -> list[tuple[int, int]]:
    """The words of a text that state nothing: outside of `places`, none of `named`, and without a digit."""
    spans = [
        m.span() for m in WORD.finditer(text) if m.group().lower() not in named and not re.search(r"\d", m.group())
    ]
    return [(start, end) for start, end in spans if all(end <= a or start >= b for a, b, _ in places)]


def _exchange(text: str, places: Sequence[tuple[int, int, Sequence[str]]], rng: np.random.Generator) -> str:
    """`text` with each place replaced by a random other entry of its pool."""
    for start, end, pool in sorted(places, key=lambda place: -place[0]):
        old = text[start:end]
        new = pool[int(rng.integers(len(pool)))]
        if new.lower() == old.lower():
            options = [word for word in pool if word.lower() != old.lower()]
            new = options[int(rng.integers(len(options)))] if options else old
        text = text[:start] + new + text[end:]
    return text
