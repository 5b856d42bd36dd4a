"""The sentences of an analysis as claims about a history, and whether they hold.

`model.analyses` writes these sentences, and a backbone that has learned from it does. Here they are read back from a
text and checked by the history and its items' cards alone; the next purchase is never read.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence

import pandas as pd

from r2ec_lib.data.texts import words
from r2ec_lib.model.prompts import Prompts, clean

TITLE_WORDS = 6
"""Words of a title that an analysis names."""
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
_BEGINS = re.compile(rf"\b({'|'.join(_KINDS)})\b")
_NEED = re.compile(r"[^\W\d_]{3,}")


def need_words(title: str) -> list[str]:
    """The words of a title that a need may be about: three letters or more, in lower case."""
    return _NEED.findall(title.lower())


def card_brands(items: pd.DataFrame) -> list[str]:
    """The brand, or else the store, of each item; "" where there is none."""
    name = next((column for column in ("brand", "store") if column in items), None)
    return items[name].tolist() if name else [""] * len(items)


def claims(text: str, closed: bool) -> list[tuple[str, str]]:
    """The sentences of `FORMS` in a text: the kind of each and what it names. The last one of a text that is not
    `closed` may have been cut off, and claims nothing.

    >>> claims("The last purchase was Dr. Who. An earlier purchase was a mug. The needs are ab", closed=False)
    [('last', 'Dr. Who'), ('earlier', 'a mug')]
    """
    _, *parts = _BEGINS.split(text)
    told = [
        (_KINDS[begin], rest.strip().removesuffix(".")) for begin, rest in zip(parts[::2], parts[1::2], strict=True)
    ]
    return told if closed else told[:-1]


class Checker:
    """Checks the claims of texts against histories of one catalogue.

    A purchase may be named by its whole title, as prompts and analyses show it, or by its first words; case and
    punctuation do not matter. Needs are words of the history's titles, and a brand stands on a card of the history.
    What may come next cannot be checked.

    Args:
        items: the items table.
        prompts: of the model that wrote the texts.
    """

    def __init__(self, items: pd.DataFrame, prompts: Prompts):
        longest = max(TITLE_WORDS, prompts.style.max_title_words)
        shown = [clean(title, prompts.specials, longest) for title in items["title"]]
        self.titles = [_key(title) for title in shown]
        self.needs = [frozenset(need_words(title)) for title in shown]
        self.brands = [_key(clean(brand, prompts.specials)) for brand in card_brands(items)]
        self._ordered = sorted(self.titles)

    def check(self, text: str, closed: bool, history: Sequence[int]) -> list[tuple[str, str, bool]]:
        """The claims of a text that can be checked: kind, what is named, and whether it holds.

        Args:
            closed: whether the text has its end; where it was cut off, the last sentence claims nothing.
            history: item indexes, oldest first, as the text's author was shown them.
        """
        known = [int(item) for item in history]
        purchases = {"last": known[-1:], "earlier": known[:-1]}
        checked = []
        for kind, told in claims(text, closed):
            name = _key(told)
            if kind in PURCHASES:
                holds = self.names(told) and any(self.titles[item].startswith(name) for item in purchases[kind])
            elif kind == "needs":
                asked = [word for part in told.split(" and ") for word in need_words(part)]
                holds = bool(asked) and all(any(word in self.needs[item] for item in known) for word in asked)
            elif kind == "brand":
                holds = bool(name.strip()) and any(self.brands[item] == name for item in known)
            else:
                continue
            checked.append((kind, told, holds))
        return checked

    def failing(self, text: str, closed: bool, history: Sequence[int]) -> float:
        """The share of the checkable claims of a text that do not hold, 0…1; 0 where there is none."""
        checked = self.check(text, closed, history)
        return sum(not holds for *_, holds in checked) / max(1, len(checked))

    def names(self, told: str) -> bool:
        """Whether some item of the catalogue has a title that begins so."""
        name = _key(told)
        place = bisect_left(self._ordered, name)
        return bool(name.strip()) and place < len(self._ordered) and self._ordered[place].startswith(name)


def _key(text: str) -> str:
    """The words of a text, each with a blank behind it: a key begins with another where its words do."""
    return "".join(f"{word} " for word in words(text))
