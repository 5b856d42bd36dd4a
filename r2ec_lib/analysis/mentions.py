"""What reasonings say: mentions, grounding, claims, form and diversity, also over training. Tables in, tables out.

Nothing here knows a model, a tokenizer or a file. Whether the ranking depends on the reasoning is the business of
`causal`; what is true in the generated world that of `bazaar`, which hands its verdicts in.

chains   one row a reasoning: sample_id, chain (text), tokens, closed; further columns are ignored
samples  the samples table of `schema`; items the catalogue, in item-index order
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from r2ec_lib.analysis.texts import _WORD

_QUOTED = re.compile(r"\[([^\[\]]+)\]|(?<!\d)\"([^\"]+)\"|“([^”]+)”")  # a quote after a digit is an inch
_STOP = re.compile(r"[.!?;](?=\s|$)|\n")
_OWNING = re.compile(
    r"\b(ha(?:s|ve|d)|own(?:s|ed)?|bought|buy(?:s|ing)?|purchas\w+|order(?:s|ed)|got|already|latest|last|previous(?:ly)?"
    r"|recent(?:ly)?|history)\b",
    re.IGNORECASE,
)

WORDS = {
    "history_share": "items of the history that are mentioned, of all in it",
    "history_share_by_chance": "the same against another shopper's history (chance)",
    "history_titles": "items of the history that are named by title, of all in it",
    "history_precision": "named items said to be owned that are owned",
    "off_history": "named items that are not in the history (number)",
    "names_target": "reasonings that name the next purchase",
    "quoted": "names in quotation marks or brackets (number)",
    "off_catalogue": "of these names, those that no item bears",
    "tokens": "length (tokens)",
    "words": "length (words)",
    "unclosed": "reasonings cut off before their end",
    "empty": "reasonings without a word",
    "repetition": "word triples that stood before in the same text",
    "claims": "claims that can be checked (number)",
    "true": "of these, those that are true",
    "well_formed": "reasonings that keep to the language of the world",
}
"""Figures of this module in words; those that are no number are shares of 0…1."""


# ---- what it says: mentions ----------------------------------------------------------------------------------------


def mentions(
    chains: pd.DataFrame,
    samples: pd.DataFrame,
    items: pd.DataFrame,
    share: float = 0.75,
    max_gap: int = 2,
    max_words: int = 20,
    rare: float = 0.05,
    word_share: float = 0.2,
) -> pd.DataFrame:
    """Which catalogue items each chain names, by this rule.

    A word w of a title weighs log(1 + N / n_w), with n_w of the N different titles holding it. A title is mentioned by
    a stretch of text that holds words of the title in their order, with at most `max_gap` other words between
    neighbours, when they carry at least `share` of the title's weight and are two or more; a one-word title is
    mentioned by that word written as in the title. Case and punctuation do not matter otherwise. Titles count up to
    their first `max_words` words, as prompts show them. Where stretches of several titles overlap, the heaviest wins,
    then the one that covers more of its title; where these are equal, a title of the history wins, and without one
    the mention stands for no single item (item −1).

    Outside these stretches, an item of the history is also mentioned by distinctive words, wherever they stand, that
    together carry at least `word_share` of its title's weight. Distinctive is a word that at most a share `rare` of
    the catalogue's titles hold, and of the history's titles only its own.

    Args:
        chains: `sample_id`, `chain`; one row a reasoning, any index without repeats.
        samples: `sample_id`, `history`, for at least the samples of `chains`.
        items: `title`, in item-index order.

    Returns:
        One row a mention: `row` (index label in `chains`), `item` (item index or −1), `in_history`, `how` ("title" or
        "word"; one row a word), `start`, `end` (characters), `share` (of the title's weight).
    """
    titles = _Titles(items["title"].tolist(), max_words, rare)
    histories = samples.set_index("sample_id")["history"]
    found = []
    for row, sample_id, chain in zip(chains.index, chains["sample_id"], chains["chain"], strict=True):
        history = {int(item) for item in histories[sample_id]}
        found += [(row, *mention) for mention in titles.find(chain, history, share, max_gap, word_share)]
    columns = ["row", "item", "in_history", "how", "start", "end", "share"]
    return pd.DataFrame(found, columns=columns).astype({"item": int, "in_history": bool, "start": int, "end": int})


class _Titles:
    """The catalogue's different titles as words, with word weights and, for each word, the titles that hold it."""

    def __init__(self, titles: Sequence[str], max_words: int, rare: float):
        groups = defaultdict(list)  # words of a title -> the items that bear it
        self.spellings = defaultdict(set)  # words of a title -> its words as written
        self.key_of = []
        for item, title in enumerate(titles):
            written = tuple(_WORD.findall(" ".join(title.split()[:max_words])))
            key = tuple(word.lower() for word in written)
            self.key_of.append(key)
            if key:
                groups[key].append(item)
                self.spellings[key].add(written)
        self.keys, self.items = list(groups), list(groups.values())
        holders = Counter(word for key in self.keys for word in set(key))
        self.rare = {word for word, count in holders.items() if count <= max(1, rare * len(self.keys))}
        self.weights = {word: math.log(1 + len(self.keys) / count) for word, count in holders.items()}
        self.totals = np.array([sum(self.weights[word] for word in key) for key in self.keys])
        postings = defaultdict(list)
        for number, key in enumerate(self.keys):
            for word in key:
                postings[word].append(number)
        self.postings = {word: np.array(numbers) for word, numbers in postings.items()}

    def find(self, text: str, history: set[int], share: float, max_gap: int, word_share: float) -> list[tuple]:
        """(item, in_history, how, start, end, share) of each mention in `text`, by place."""
        written = list(_WORD.finditer(text))
        places = defaultdict(list)  # word -> positions in the text
        for position, match in enumerate(written):
            places[match.group().lower()].append(position)
        known = [word for word in places if word in self.postings]
        if not known:
            return []
        numbers = np.concatenate([self.postings[word] for word in known])
        weights = np.repeat([self.weights[word] for word in known], [len(self.postings[word]) for word in known])
        covered = np.bincount(numbers, weights, minlength=len(self.keys))  # (titles,)
        spans = []  # (weight, share, first word, last word, title)
        for number in np.flatnonzero(covered >= share * self.totals - 1e-9):
            key, total = self.keys[number], self.totals[number]
            for weight, count, first, last in _stretches(key, places, self.weights, max_gap):
                whole = len(key) == 1 and (written[first].group(),) in self.spellings[key]
                if weight >= share * total - 1e-9 and (count > 1 or whole):
                    spans.append((round(weight, 9), round(weight / total, 9), first, last, number))
        taken, found = np.zeros(len(written), bool), []
        for weight, part, first, last, _ in sorted(spans, key=lambda span: (-span[0], -span[1], span[2])):
            if taken[first : last + 1].any():
                continue
            taken[first : last + 1] = True
            rivals = [n for w, p, f, to, n in spans if (w, p) == (weight, part) and f <= last and to >= first]
            owned = sorted({item for n in rivals for item in self.items[n]} & history)
            single = self.items[rivals[0]][0] if len(rivals) == 1 else -1
            where = ("title", written[first].start(), written[last].end(), part)
            found += [(item, True, *where) for item in owned] or [(single, False, *where)]
        holders = Counter(word for key in {self.key_of[item] for item in history} for word in set(key))
        for item in history:
            key = self.key_of[item]
            own = [word for word in set(key) & self.rare & places.keys() if holders[word] == 1]
            own = {word: spots for word in own if (spots := [p for p in places[word] if not taken[p]])}
            part = sum(self.weights[word] for word in own) / max(sum(self.weights[word] for word in key), 1e-9)
            if own and part >= word_share:
                spots = [written[place] for places in own.values() for place in places]
                found += [(item, True, "word", spot.start(), spot.end(), part) for spot in spots]
        return sorted(found, key=lambda mention: (mention[3], mention[0]))


def _stretches(key: tuple, places: Mapping, weights: Mapping, max_gap: int) -> list[tuple]:
    """The heaviest in-order matches of a title's words that do not overlap: (weight, words, first, last position)."""
    hits = sorted((at, i) for i, word in enumerate(key) for at in places.get(word, ()))
    best = []  # the heaviest match ending at each hit
    for j, (at, i) in enumerate(hits):
        before = (0.0, 0, at)
        for b in range(j - 1, -1, -1):
            if at - hits[b][0] > max_gap + 1:
                break
            if hits[b][0] < at and hits[b][1] < i and best[b][0] > before[0]:
                before = best[b][:3]
        best.append((before[0] + weights[key[i]], before[1] + 1, before[2], at))
    chosen = []
    for match in sorted(best, key=lambda match: -match[0]):
        if all(match[2] > other[3] or match[3] < other[2] for other in chosen):
            chosen.append(match)
    return chosen


def grounding(chains: pd.DataFrame, found: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """How each chain's mentions stand to its history H; M are the items it mentions.

    history_share |M ∩ H| / |H| · history_titles the same by titles alone · history_precision |M_h ∩ H| / |M_h|, M_h
    the titles in sentences that speak of owning or having bought (NaN without one) · off_history |M ∖ H| by titles ·
    names_target whether the target itself is named · quoted the names in square brackets or double quotes ·
    off_catalogue the share of these that no title matches (NaN without one).

    Words occur by chance too: `grounding` against the histories of other users says how often.

    Args:
        found: the table of `mentions` for the same chains.

    Returns:
        One row a chain, with its index.
    """
    samples = samples.set_index("sample_id")
    by_row = dict(list(found.groupby("row")))
    rows = []
    for row, sample_id, chain in zip(chains.index, chains["sample_id"], chains["chain"], strict=True):
        mine = by_row.get(row, found.iloc[:0])
        history = set(samples.at[sample_id, "history"])
        named = mine[mine["how"] == "title"]
        owned, off = _counts(named)
        stops = [0, *(match.end() for match in _STOP.finditer(chain)), len(chain)]
        said = [
            bool(_OWNING.search(_sentence(chain, stops, *span)))
            for span in zip(named["start"], named["end"], strict=True)
        ]
        kept, invented = _counts(named[np.array(said, bool)])
        quoted = [match.span() for match in _QUOTED.finditer(chain)]
        lost = [not ((named["start"] < end) & (named["end"] > start)).any() for start, end in quoted]
        rows.append(
            {
                "history_share": mine.loc[mine["in_history"], "item"].nunique() / len(history),
                "history_titles": owned / len(history),
                "history_precision": kept / (kept + invented) if kept + invented else math.nan,
                "off_history": off,
                "names_target": bool((named["item"] == samples.at[sample_id, "target"]).any()),
                "quoted": len(quoted),
                "off_catalogue": sum(lost) / len(lost) if lost else math.nan,
            }
        )
    return pd.DataFrame(rows, index=chains.index)


def _counts(named: pd.DataFrame) -> tuple[int, int]:
    """Different items of the history, and others; a mention of no single item counts as one of these."""
    others = named.loc[~named["in_history"], "item"]
    return named.loc[named["in_history"], "item"].nunique(), others[others >= 0].nunique() + int((others < 0).sum())


def _sentence(text: str, stops: Sequence[int], start: int, end: int) -> str:
    """The text between the last of `stops` up to `start` and the first from `end` on, without the stretch itself."""
    before, after = max(stop for stop in stops if stop <= start), min(stop for stop in stops if stop >= end)
    return f"{text[before:start]} {text[end:after]}"
