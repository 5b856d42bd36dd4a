"""Sentences and phrases, cut the same way in every module of this room.

What a word is says `data.texts`. Nothing here knows what a reasoning is about.
"""

import re
import unicodedata
from collections.abc import Iterable

from r2ec_lib.data.texts import MARKS, UNSPACED

_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n")
_UNSEEN = re.compile(r"[\u034f\u180b-\u180d\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Joiners and variation selectors, which Unicode counts among the marks."""
_JOINT = re.compile(r"\s+|(?<=\w)[-\u2010-\u2015](?=\w)")
"""What stands between two words of a phrase: white space, or a hyphen or dash."""
_LETTER = rf"(?:[^\W_{UNSPACED}]|[{re.sub(f'[{UNSPACED}]', '', MARKS)}])"
"""A letter, its mark or a digit, beside which another one belongs to the same word."""


def context(text: str, start: int, end: int) -> str:
    """The rest of the sentence that holds `text[start:end]`, or of the sentences where the stretch spans several.

    >>> context("It fits. They own the mug, it seems. Next?", 18, 25)
    ' They own  , it seems.'
    """
    stops = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    before, after = max(stop for stop in stops if stop <= start), min(stop for stop in stops if stop >= end)
    return f"{text[before:start]} {text[end:after]}"


def blanked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with blanks in place of the characters `text[start:end]` of each span; all else keeps its place.

    >>> blanked("They own the mug.", [(13, 16)])
    'They own the    .'
    """
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def phrase(text: str) -> str:
    """A pattern for the whole words of `text` in their order, whatever stands between them but letters and digits.

    A sign at either end may stand beside anything: "%" is found in "20%". So may a letter of a script that puts no
    space between words, since where a word ends cannot be seen there.

    >>> bool(re.search(phrase("best price"), "the best-price!")), bool(re.search(phrase("cure"), "secure"))
    (True, False)
    >>> bool(re.search(phrase("酒"), "日本酒セット"))
    True
    """
    text = text.strip()
    joined = r"[\W_]+".join(map(re.escape, _JOINT.split(text)))
    before, after = (
        look if re.fullmatch(_LETTER, end) else ""
        for look, end in ((rf"(?<!{_LETTER})", text[:1]), (rf"(?!{_LETTER})", text[-1:]))
    )
    return f"{before}{joined}{after}"


def plain(text: str) -> str:
    """A text in compatible characters (Unicode's NFKC), with straight apostrophes and without invisible characters;
    white space stays.

    >>> plain("ｂｅｓｔ pri\u00adce, don’t wait")
    "best price, don't wait"
    """
    if text.isascii() and text.isprintable():  # most are, and a catalogue is long
        return text
    signs = _UNSEEN.sub("", unicodedata.normalize("NFKC", text)).replace("’", "'").replace("\u02bc", "'")
    return "".join(sign for sign in signs if sign.isspace() or unicodedata.category(sign) not in ("Cc", "Cf"))
