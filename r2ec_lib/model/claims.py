"""The sentences of an analysis as claims about a history, and whether they hold.

`model.analyses` writes these sentences, and a backbone that has learned from it does. Here they are read back from a
text and checked by the history and its items' cards alone; the next purchase is never read.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import pandas as pd

from r2ec_lib.data.texts import MARKS, words
from r2ec_lib.model.prompts import Prompts, clean

TITLE_WORDS, TITLE_TOKENS = 6, 22
"""Words of a title that an analysis names, and tokens: a few words may be long, and text without spaces is one."""
FORMS = {
    "last": "The last purchase was {}.",
    "earlier": "An earlier purchase was {}.",
    "needs": "The needs are about {}.",
    "brand": "The shopper trusts {}.",
    "next": "Next may come {}.",
}
"""The sentences of an analysis by their kind. Each stands for itself, whatever comes before it."""
PURCHASES = ("last", "earlier")
"""Kinds that name a purchase."""
FRAME_WORDS = frozenset(re.findall("[a-z]+", " ".join(FORMS.values()).lower())) | {"and", "or"}
"""Words of these sentences, whatever they are about."""
_KINDS = {form.partition(" {}")[0]: kind for kind, form in FORMS.items()}
_BEGINS = re.compile(rf"\b(?:{'|'.join(_KINDS)})\b")
_SENTENCE_END = re.compile(r"\.\s")
_NEED = re.compile(rf"[^\W\d_](?:[^\W\d_]|[{MARKS}]){{2,}}")


def need_words(title: str) -> list[str]:
    """The words of a title that a need may be about: three letters or more, their marks counted, in lower case.

    >>> need_words("A5 mug, 12 किताब")
    ['mug', 'किताब']
    """
    return _NEED.findall(title.lower())


def short_title(title: str, prompts: Prompts) -> str:
    """What an analysis calls an item, of its title as prompts show it: its first words, whole ones where there are
    several."""
    first = " ".join(title.split()[:TITLE_WORDS])
    fitting = prompts.first_tokens(first, TITLE_TOKENS)
    if fitting != first[: len(fitting) + 1].rstrip():  # a word is cut
        fitting = fitting.rpartition(" ")[0] or fitting
    return fitting.rstrip(" ,.;:-&") or fitting


def card_brands(items: pd.DataFrame) -> list[str]:
    """The brand, or else the store, of each item; "" where there is none."""
    columns = [items[name] for name in ("brand", "store") if name in items]
    return [next(filter(None, names), "") for names in zip(*columns, strict=True)] if columns else [""] * len(items)


def statements(text: str) -> list[tuple[str, int, int]]:
    """The sentences of `FORMS` in a text: the kind of each, and from which character to which it stands: up to
    the next one."""
    begins = list(_BEGINS.finditer(text))
    places = pairwise([*(begin.start() for begin in begins), len(text)])
    return [(_KINDS[begin[0]], *place) for begin, place in zip(begins, places, strict=True)]


def claims(text: str, closed: bool) -> list[tuple[str, str]]:
    """The sentences of `FORMS` in a text: the kind of each and what it names. The last one of a text that is not
    `closed` may have been cut off, and claims nothing.

    >>> claims("The last purchase was Dr. Who. An earlier purchase was a mug. The needs are ab", closed=False)
    [('last', 'Dr. Who')]
    """
    told = [
        (kind, _BEGINS.sub("", text[start:end], count=1).strip().removesuffix("."))
        for kind, start, end in statements(text)
    ]
    return told if closed else told[:-1]


class Card(NamedTuple):
    """What of an item a claim is checked by."""

    title: str  # as prompts show it, as a key
    short: str  # as an analysis names it, as a key
    words: frozenset[str]  # of the title
    brand: str  # as a key


class Checker:
    """Checks the claims of texts against histories of one catalogue.

    A purchase may be named by its title, as prompts show it, or by the title's first words: at least half of those
    that an analysis names. Needs are words of the history's titles, and a brand stands on a card of the history. Case
    and punctuation do not matter. What may come next cannot be checked.

    Args:
        items: the items table.
        prompts: of the model that wrote the texts.
    """

    def __init__(self, items: pd.DataFrame, prompts: Prompts):
        self.prompts = prompts
        self._titles, self._brands = items["title"].tolist(), card_brands(items)
        self._cards: dict[int, Card] = {}  # of items that were asked for

    def check(self, text: str, closed: bool, history: Sequence[int]) -> list[tuple[str, str, bool]]:
        """The claims of a text that can be checked: kind, what is named, and whether it holds. Of claims of a kind of
        which one names the first words of another, the longer one stands for both.

        Args:
            closed: whether the text has its end, by `<answer>` or another; where it was cut off, the last sentence
                claims nothing.
            history: item indexes, oldest first, as the text's author was shown them.
        """
        cards = [self._card(int(item)) for item in history]
        told = {(kind, _key(name)): name for kind, name in claims(text, closed) if kind != "next"}
        return [
            (kind, name, self._holds(kind, name, cards))
            for (kind, key), name in told.items()
            if not any(also == kind and key != longer and longer.startswith(key) for also, longer in told)
        ]

    def failing(self, text: str, closed: bool, history: Sequence[int], expected: int = 1) -> float:
        """The share of the checkable claims of a text that do not hold, 0…1.

        Claims that are missing to `expected` (1 or more) count among those that fail: priced by this share, neither
        silence nor one safe sentence is a way out.
        """
        checked = self.check(text, closed, history)
        return 1 - sum(holds for *_, holds in checked) / max(len(checked), expected)

    def names(self, told: str) -> bool:
        """Whether some item of the catalogue has a title that begins so."""
        name, place = _key(told), bisect_left(self._ordered, _key(told))
        return bool(name) and place < len(self._ordered) and self._ordered[place].startswith(name)

    def _holds(self, kind: str, told: str, cards: Sequence[Card]) -> bool:
        whole = _key(told)
        parts = {_key(told[: end.start()]) for end in _SENTENCE_END.finditer(told)} - {""}  # before other sentences
        if kind == "brand":
            return any(card.brand and card.brand in {whole, *parts} for card in cards)
        if kind == "needs":
            asked = set(min({whole, *parts}, key=len).split()) - {"and"}
            return bool(asked) and asked <= frozenset().union(*(card.words for card in cards))
        return any(
            (card.title.startswith(whole) and 2 * whole.count(" ") >= card.short.count(" ") > 0)
            or not {whole, *parts}.isdisjoint({card.title, card.short})
            for card in (cards[-1:] if kind == "last" else cards[:-1])
        )

    def _card(self, item: int) -> Card:
        if item not in self._cards:
            title = self.prompts.shown_title(self._titles[item])
            brand = _key(short_title(clean(self._brands[item], self.prompts.specials), self.prompts))
            known = frozenset([*words(title), *need_words(title)])
            self._cards[item] = Card(_key(title), _key(short_title(title, self.prompts)), known, brand)
        return self._cards[item]

    @cached_property
    def _ordered(self) -> list[str]:
        return sorted(_key(self.prompts.shown_title(title)) for title in self._titles)


def _key(text: str) -> str:
    """The words of a text, or its signs where it has none, each with a blank behind it: a key begins with another
    where its words do."""
    return "".join(f"{word} " for word in words(text.replace("’", "'")) or text.split())
