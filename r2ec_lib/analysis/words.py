"""Text as words and sentences, cut the same way in every module of this room.

A word is a run of letters and digits with the apostrophes inside it, so "doesn't" is one word and "high-end" two.
Nothing here knows what a reasoning is about.
"""

import re

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n")


def words(text: str) -> list[str]:
    """The words of a text, in lower case.

    >>> words("High-end (it doesn't fade)")
    ['high', 'end', 'it', "doesn't", 'fade']
    """
    return [word.lower() for word in WORD.findall(text)]


def context(text: str, start: int, end: int) -> str:
    """The rest of the sentence that holds `text[start:end]`, or of the sentences where the stretch spans several.

    >>> context("It fits. They own the mug, it seems. Next?", 18, 25)
    ' They own  , it seems.'
    """
    stops = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    before, after = max(stop for stop in stops if stop <= start), min(stop for stop in stops if stop >= end)
    return f"{text[before:start]} {text[end:after]}"


def phrase(text: str) -> str:
    """A pattern for the whole words of `text` in their order, whatever white space stands between them.

    >>> bool(re.search(phrase("best price"), "the best  price!")), bool(re.search(phrase("cure"), "secure"))
    (True, False)
    """
    spaced = r"\s+".join(map(re.escape, text.split()))
    return rf"(?<!\w){spaced}(?!\w)"
