"""Which catalogue items a reasoning names, and whether they are those of the history. Tables in, tables out.

Nothing here knows a model or a file. What a text says apart from items is the business of `texts` and `attributes`;
whether the ranking depends on it that of `causal`.

chains   one row per reasoning: sample_id, chain (text); further columns are ignored
samples  the samples table of `schema`; items the catalogue, in item-index order
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import pandas as pd

from r2ec_lib.analysis.attributes import FRAME
from r2ec_lib.analysis.words import blanked, context
from r2ec_lib.data.texts import WORD
from r2ec_lib.model.claims import PURCHASES, TITLE_WORDS, Checker
from r2ec_lib.model.prompts import Prompts

MAX_GAP, RARE, WORD_SHARE = 2, 0.05, 0.2  # of the rule in `mentions`
_QUOTED = re.compile(r"\[([^\[\]]+)\]|(?<!\d)\"([^\"]+)\"|“([^”]+)”")  # a quote after a digit is an inch
_OWNING = re.compile(
    r"\b(ha(?:s|ve|d)|own(?:s|ed)?|bought|buy(?:s|ing)?|purchas\w+|order(?:s|ed)|got|already|latest|last|previous(?:ly)?"
    r"|recent(?:ly)?|history)\b",
    re.IGNORECASE,
)
_NOT_YET = re.compile(
    r"\b(will|shall|would|should|could|may|might|must|going to|next|soon|likely|probably|perhaps|maybe|wants?|needs?"
    r"|lacks?|not|never|neither|nor|without|no longer)\b|(?:n['’]t|['’]ll)\b",
    re.IGNORECASE,
)
"""Of the future, possible or denied: a sentence with one of these claims no possession."""

WORDS = {
    "history_share": "history items mentioned, of all in the history",
    "history_share_by_chance": "the same against another shopper's history (chance)",
    "history_titles": "history items named by title, of all in the history",
    "history_precision": "items named as owned that are owned",
    "claims_hold": "statements about the history that hold",
    "claims_hold_by_chance": "the same statements against another shopper's history (chance)",
    "purchases_hold": "statements naming a purchase that hold",
    "purchases_hold_by_chance": "purchases named, against another shopper's history (chance)",
    "purchases_untitled": "statements naming a purchase that no product's title begins with",
    "off_history": "named items outside the history (number)",
    "quoted": "names in quotation marks or brackets (number)",
    "off_catalogue": "of these names, those that match no item",
    "tokens": "length (tokens)",
    "words": "length (words)",
    "unclosed": "reasonings cut off before their end",
    "empty": "reasonings without a word",
    "repetition": "repeated word triples, of all in a text",
}
"""What the figures of `grounding` and `texts.form` are called; all but numbers and lengths are shares of 0…1."""


class Mention(NamedTuple):
    """An item (−1 for no single one), whether it is in the history, by "title" or by "word", from which character to
    which, and the share of its title's weight."""

    item: int
    in_history: bool
    how: str
    start: int
    end: int
    share: float


def mentions(
    chains: pd.DataFrame, samples: pd.DataFrame, items: pd.DataFrame, share: float = 0.75, max_words: int = 20
) -> pd.DataFrame:
    """Which catalogue items each chain names, by this rule.

    A word w of a title weighs log(1 + N / n_w), with n_w of the N different titles holding it. A title is mentioned by
    a stretch of text that holds words of the title in their order, with at most `MAX_GAP` other words between
    neighbours, when they carry at least `share` of the title's weight and are two or more; a one-word title is
    mentioned by that word written as in the title. Otherwise case and punctuation do not matter. Titles count up to
    their first `max_words` words, as prompts show them. A title of the history is also mentioned by its beginning,
    word for word, if that has two words or more, one of them none of `attributes.FRAME`, and half of those that an
    analysis would name (`claims.TITLE_WORDS`). Where stretches of several titles overlap, the heaviest wins; of
    equally heavy ones a title of the history, since "The Division" may be any edition, then the one that covers more
    of its title. Where these are equal too and not of the history, the mention stands for no single item (item −1). A
    title that several items bear stands for those of the history, else for no single item: the target is not read, so
    that it is not found more often than other items are.

    Outside these stretches, an item of the history is also mentioned by distinctive words, wherever they occur, that
    together carry at least `WORD_SHARE` of its title's weight. A word is distinctive if at most a share `RARE` of the
    catalogue's titles hold it, no other title of the history does, and it is none of `attributes.FRAME`.

    Returns:
        One row per mention, and per word where it is by words: `row` (index label in `chains`) and what a `Mention`
            holds.
    """
    titles = _index(tuple(items["title"]), max_words)
    histories = samples.set_index("sample_id")["history"]
    rows: list[tuple] = []
    for row, sample_id, chain in zip(chains.index, chains["sample_id"], chains["chain"], strict=True):
        history = {int(item) for item in histories[sample_id]}
        rows += [(row, *mention) for mention in titles.find(chain, history, share)]
    return pd.DataFrame(rows, columns=["row", *Mention._fields]).astype(
        {"item": int, "in_history": bool, "start": int, "end": int}
    )


@lru_cache(maxsize=2)  # a service asks about one catalogue again and again
def _index(titles: tuple[str, ...], max_words: int) -> "_Titles":
    return _Titles(titles, max_words)


class _Titles:
    """The catalogue's different titles as words, with word weights and, for each word, the titles that hold it."""

    def __init__(self, titles: Sequence[str], max_words: int):
        bearers = defaultdict(list)  # words of a title -> the items that bear it
        self.named: list[int] = []  # of each item's words, how many an analysis names
        self.spellings = defaultdict(set)  # words of a title -> its words as written
        self.key_of: list[tuple[str, ...]] = []
        for item, title in enumerate(titles):
            written = tuple(WORD.findall(" ".join(title.split()[:max_words])))
            key = tuple(word.lower() for word in written)
            self.key_of.append(key)
            self.named.append(len(WORD.findall(" ".join(title.split()[: min(TITLE_WORDS, max_words)]))))
            if key:
                bearers[key].append(item)
                self.spellings[key].add(written)
        self.keys, self.items = list(bearers), list(bearers.values())
        self.numbers = {key: number for number, key in enumerate(self.keys)}
        holders = Counter(word for key in self.keys for word in set(key))
        self.rare = {word for word, count in holders.items() if count <= max(1, RARE * len(self.keys))}
        self.weights = {word: math.log(1 + len(self.keys) / count) for word, count in holders.items()}
        self.totals = np.array([sum(self.weights[word] for word in key) for key in self.keys])
        postings = defaultdict(list)
        for number, key in enumerate(self.keys):
            for word in key:
                postings[word].append(number)
        self.postings = {word: np.array(numbers) for word, numbers in postings.items()}

    def find(self, text: str, history: set[int], share: float) -> list[Mention]:
        """The mentions in `text`, by place."""
        written = list(WORD.finditer(text))
        places = defaultdict(list)  # word -> positions in the text
        for position, match in enumerate(written):
            places[match.group().lower()].append(position)
        taken = np.zeros(len(written), bool)
        result: list[Mention] = []
        spans = self._spans(written, places, share, history)
        for weight, part, first, last, _ in spans:
            if taken[first : last + 1].any():
                continue
            taken[first : last + 1] = True
            rivals = [n for w, p, f, to, n in spans if (w, p) == (weight, part) and f <= last and to >= first]
            in_history = sorted({item for n in rivals for item in self.items[n]} & history)
            bearers = self.items[rivals[0]] if len(rivals) == 1 else []
            single = bearers[0] if len(bearers) == 1 else -1
            where = "title", written[first].start(), written[last].end(), part
            result += [Mention(item, True, *where) for item in in_history] or [Mention(single, False, *where)]
        holders = Counter(word for key in {self.key_of[item] for item in history} for word in set(key))
        for item in history:
            key = self.key_of[item]
            distinctive = [word for word in set(key) & self.rare & places.keys() - FRAME if holders[word] == 1]
            free = {word: spots for word in distinctive if (spots := [p for p in places[word] if not taken[p]])}
            part = sum(self.weights[word] for word in free) / max(sum(self.weights[word] for word in key), 1e-9)
            if free and part >= WORD_SHARE:
                matches = [written[place] for spots in free.values() for place in spots]
                result += [Mention(item, True, "word", match.start(), match.end(), part) for match in matches]
        return sorted(result, key=lambda mention: (mention.start, mention.item))

    def _spans(self, written: Sequence[re.Match], places: Mapping, share: float, history: set[int]) -> list[tuple]:
        """(weight, share, first word, last word, title) of each stretch that would mention a title, the heaviest
        first, and of equally heavy ones those of the history."""
        shared = [word for word in places if word in self.postings]
        if not shared:
            return []
        numbers = np.concatenate([self.postings[word] for word in shared])
        weights = np.repeat([self.weights[word] for word in shared], [len(self.postings[word]) for word in shared])
        covered = np.bincount(numbers, weights, minlength=len(self.keys))  # (titles,)
        spans = self._beginnings(written, places, history)
        for number in np.flatnonzero(covered >= share * self.totals - 1e-9):
            key, total = self.keys[number], self.totals[number]
            for weight, count, first, last in _stretches(key, places, self.weights):
                whole = len(key) == 1 and (written[first].group(),) in self.spellings[key]
                if weight >= share * total - 1e-9 and (count > 1 or whole):
                    spans.append((round(weight, 9), round(weight / total, 9), first, last, number))
        return sorted(spans, key=lambda s: (-s[0], history.isdisjoint(self.items[s[4]]), -s[1], s[2]))

    def _beginnings(self, written: Sequence[re.Match], places: Mapping, history: set[int]) -> list[tuple]:
        """The `_spans` of stretches that are word for word the beginning of a title of the history."""
        lower, spans = [match.group().lower() for match in written], []
        for item in history:
            key = self.key_of[item]
            for first in places.get(key[0], ()) if key else ():
                pairs = zip(key, lower[first:], strict=False)
                count = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
                if count > 1 and 2 * count >= self.named[item] and not FRAME.issuperset(key[:count]):
                    weight, number = sum(self.weights[word] for word in key[:count]), self.numbers[key]
                    part = round(weight / self.totals[number], 9)
                    spans.append((round(weight, 9), part, first, first + count - 1, number))
        return spans


def _stretches(key: tuple, places: Mapping, weights: Mapping) -> list[tuple]:
    """The heaviest in-order matches of a title's words that do not overlap: (weight, words, first, last position)."""
    hits = sorted((at, i) for i, word in enumerate(key) for at in places.get(word, ()))
    best: list[tuple] = []  # the heaviest match ending at each hit
    for j, (at, i) in enumerate(hits):
        before = (0.0, 0, at)
        for b in range(j - 1, -1, -1):
            if at - hits[b][0] > MAX_GAP + 1:
                break
            if hits[b][0] < at and hits[b][1] < i and best[b][0] > before[0]:
                before = best[b][:3]
        best.append((before[0] + weights[key[i]], before[1] + 1, before[2], at))
    chosen: list[tuple] = []
    for match in sorted(best, key=lambda match: -match[0]):
        if all(match[2] > other[3] or match[3] < other[2] for other in chosen):
            chosen.append(match)
    return chosen


def grounding(chains: pd.DataFrame, mentioned: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """How the items M that a chain mentions relate to its history H; one row per chain, with its index.

    history_share |M ∩ H| / |H| · history_titles the same by titles alone · history_precision |M_h ∩ H| / |M_h|, M_h
    the titles in sentences whose other words speak of owning or having bought, not of the future, of what may be or of
    what is not (NaN without one) · off_history |M ∖ H| by titles · quoted the names in square brackets or double
    quotes · off_catalogue the share of these that no title matches (NaN without one). Words also occur by chance:
    `grounding` against the histories of other users says how often.
    """
    samples = samples.set_index("sample_id")
    by_row = defaultdict(list)
    for row, *mention in mentioned[["row", *Mention._fields]].itertuples(index=False, name=None):
        by_row[row].append(Mention(*mention))
    rows = []
    for row, sample_id, chain in zip(chains.index, chains["sample_id"], chains["chain"], strict=True):
        history = samples.at[sample_id, "history"]
        titles = [mention for mention in by_row[row] if mention.how == "title"]
        inside, outside = _counts(titles)
        # the words of titles ("No. 2", "Order Book") say nothing of the shopper
        around = blanked(chain, [(m.start, m.end) for m in titles])
        sentences = [context(around, m.start, m.end) for m in titles]
        claims = [_OWNING.search(sentence) and not _NOT_YET.search(sentence) for sentence in sentences]
        owned, invented = _counts([m for m, claim in zip(titles, claims, strict=True) if claim])
        quoted = [match.span() for match in _QUOTED.finditer(chain)]
        unmatched = [all(m.end <= start or m.start >= end for m in titles) for start, end in quoted]
        rows.append(
            {
                "history_share": len({m.item for m in by_row[row] if m.in_history}) / len(set(history)),
                "history_titles": inside / len(set(history)),
                "history_precision": owned / (owned + invented) if owned + invented else math.nan,
                "off_history": outside,
                "quoted": len(quoted),
                "off_catalogue": sum(unmatched) / len(unmatched) if unmatched else math.nan,
            }
        )
    return pd.DataFrame(rows, index=chains.index)


def history_claims(chains: pd.DataFrame, samples: pd.DataFrame, items: pd.DataFrame, prompts: Prompts) -> pd.DataFrame:
    """Do the sentences hold in which a reasoning says what the history is, in the forms of the warm-up
    (`model.claims`)? One row per chain, with its index; NaN where a chain has nothing of the kind.

    claims_hold the share of a chain's checkable sentences that hold · purchases_hold the same of those that name a
    purchase · purchases_untitled the share of these whose name begins no title of the catalogue.

    Args:
        chains: with `closed`: a sentence that was cut off is no claim.
        prompts: of the model that wrote the chains.
    """
    checker, histories, rows = Checker(items, prompts), samples.set_index("sample_id")["history"], []
    for row, sample_id, chain, closed in chains[["sample_id", "chain", "closed"]].itertuples(name=None):
        for kind, told, holds in checker.check(chain, closed, histories[sample_id]):
            named = kind in PURCHASES
            rows.append((row, holds, holds if named else math.nan, not checker.names(told) if named else math.nan))
    table = pd.DataFrame(rows, columns=["row", "claims_hold", "purchases_hold", "purchases_untitled"])
    return table.astype(dict.fromkeys(table.columns[1:], float)).groupby("row").mean().reindex(chains.index)


def _counts(titles: Sequence[Mention]) -> tuple[int, int]:
    """Different items of the history, and others; each mention of no single item (−1) counts as another one."""
    others = [mention.item for mention in titles if not mention.in_history]
    return len({m.item for m in titles if m.in_history}), len(set(others) - {-1}) + others.count(-1)
