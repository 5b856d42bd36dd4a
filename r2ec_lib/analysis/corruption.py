"""Corrupted reasonings for a causal test: facts exchanged for false ones, or as many other words for other words.

Texts in, texts out. Exchanging words makes any text stranger, so what the exchange of facts does is only told by the
difference to the exchange of neutral words (`causal.paired_change`).
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def fact_spans(found: pd.DataFrame, named: pd.DataFrame) -> pd.DataFrame:
    """The places that hold facts: mentioned titles, attribute values, and distinctive words of history items; of
    overlapping places the first in this order, then the longest.

    Args:
        found: the table of `mentions.mentions`.
        named: that of `attributes.attribute_mentions`.

    Returns:
        `row`, `start`, `end`, `kind` ("item", "word", or the attribute's name).
    """
    items = found.assign(kind=found["how"].map({"title": "item", "word": "word"}))
    items["order"] = items["kind"].map({"item": 0, "word": 2})
    values = named.assign(kind=named["attribute"], order=1)
    columns = ["row", "start", "end", "kind", "order"]
    table = pd.concat([items[columns], values[columns]], ignore_index=True)
    table["length"] = table["start"] - table["end"]
    kept = []
    for row, part in table.sort_values(["order", "length"], kind="stable").groupby("row", sort=False):
        taken: list[tuple[int, int]] = []
        for place in part.itertuples():
            if all(place.end <= start or place.start >= end for start, end in taken):
                taken.append((place.start, place.end))
                kept.append((row, place.start, place.end, place.kind))
    table = pd.DataFrame(kept, columns=["row", "start", "end", "kind"])
    return table.sort_values(["row", "start"], ignore_index=True)


def corrupt(
    texts: pd.Series, spans: pd.DataFrame, titles: Sequence[str], share: float = 0.5, seed: int = 0
) -> dict[str, pd.Series]:
    """The texts with a share of their facts exchanged, and with as many neutral words exchanged.

    A title becomes another title of the catalogue; a value or word one of the same kind that stands in some text. A
    neutral word, one outside all of `spans`, becomes a neutral word of some text. What has no other to become stays.

    Args:
        texts: any index without repeats, to which `spans`' `row` refers.
        spans: the table of `fact_spans`.
        share: of each text's facts, rounded up; more than 0, at most 1.

    Returns:
        "facts" and "neutral": texts with the index of `texts`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of facts to exchange is {share}; expected more than 0 and at most 1")
    rng = np.random.default_rng(seed)
    by_row = {row: list(part.itertuples(index=False)) for row, part in spans.groupby("row")}
    pools: dict[str, list[str]] = {"item": list(dict.fromkeys(titles))}
    neutral = {}
    for row, text in texts.items():
        places = by_row.get(row, [])
        for place in places:
            if place.kind != "item":
                pools.setdefault(place.kind, []).append(text[place.start : place.end])
        words = [match.span() for match in _WORD.finditer(text)]
        neutral[row] = [(a, b) for a, b in words if all(b <= p.start or a >= p.end for p in places)]
    pools = {kind: sorted(set(pool)) for kind, pool in pools.items()}
    filling = [texts[row][a:b] for row, spots in neutral.items() for a, b in spots]
    facts, others = {}, {}
    for row, text in texts.items():
        places = by_row.get(row, [])
        chosen = [places[i] for i in rng.permutation(len(places))[: int(np.ceil(share * len(places)))]]
        size = sum(len(_WORD.findall(text[place.start : place.end])) for place in chosen)
        facts[row] = _exchange(text, [(p.start, p.end, pools[p.kind]) for p in chosen], rng)
        spots = [neutral[row][i] for i in rng.permutation(len(neutral[row]))[:size]]
        others[row] = _exchange(text, [(a, b, filling) for a, b in spots], rng)
    return {
        name: pd.Series(table, texts.index, dtype=object) for name, table in (("facts", facts), ("neutral", others))
    }


def _exchange(text: str, places: Sequence[tuple[int, int, Sequence[str]]], rng: np.random.Generator) -> str:
    """`text` with each place replaced by a random other entry of its pool."""
    for start, end, pool in sorted(places, key=lambda place: -place[0]):
        old = text[start:end].lower()
        drawn = pool[rng.integers(len(pool))]
        if drawn.lower() == old:
            options = [word for word in pool if word.lower() != old]
            drawn = options[rng.integers(len(options))] if options else text[start:end]
        text = text[:start] + drawn + text[end:]
    return text
