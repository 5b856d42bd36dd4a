"""Readable text of a field: markup out, white space folded, values as they are in the file. And what a word is.

A word is a run of letters and digits with their marks and the apostrophes inside it, so "doesn't" is one word and
"high-end" two. Only what is surely markup goes; `Size <M or L>` and `plan b > plan a` stay. Guarding prompts against
forged special tokens is the business of `model.prompts`, limits of length too.
"""

import html
import html.entities
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

MARKS = "".join(map(chr, (code for code in range(0x300, 0xB000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))))
"""Signs that are written onto a letter, such as the vowels of Hindi, and that Python counts among no letters."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3031-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # kana, Han
)
"""Scripts that put no space between words, as the inside of a character class."""
_RUN = rf"[^\W_]+(?:[{MARKS}]+[^\W_]*)*"
WORD = re.compile(rf"{_RUN}(?:['’]{_RUN})*")
_ENTITY = re.compile(r"&(?:#\d+|#x[\da-f]+|[a-z][a-z\d]*);", re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?(?:-->|$)|<(style|script)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_ALONE = "br|hr|img|wbr|p|li|ul|ol|dl|dt|dd|div|span|tr|td|th|h[1-6]"  # markup also without an end tag
_TAG = re.compile(
    r"<(?P<end>/?)(?P<name>[a-z][a-z\d]*)"
    r"(?P<attributes>(?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s<>\"']+))*)\s*/?>|<!doctype[^>]*>",
    re.IGNORECASE,
)
_TORN = re.compile(r"</[a-z]\w*\s*$|<(?:br|hr|img|li|ul|div|span)\b[^<>]*$", re.IGNORECASE)
_SELECTOR = r"(?:(?:p|ul|ol|li|hr|div|span|table|td|tr|th|h[1-6]|body|img)\b)?(?:[.#][a-zA-Z][\w-]*)*"
_PROPERTY = (
    r"(?:background|border|bottom|clear|color|display|float|font|height|left|line|list|margin|max|min|overflow|padding|"
    r"position|right|text|top|vertical|white|width)[a-z-]*"
)
_CSS = re.compile(  # rules that have lost their style block
    rf"(?<![\w.#])(?=[\w.#]){_SELECTOR}(?:[\s,>]+(?=[\w.#]){_SELECTOR}){{0,20}}\s*"
    rf"\{{(?:\s*{_PROPERTY}\s*:[^{{}}:;]*;?)+\s*\}}"
)


def words(text: str) -> list[str]:
    """The words of a text, in lower case.

    >>> words("High-end (it doesn't fade)"), words("नीली किताब")
    (['high', 'end', 'it', "doesn't", 'fade'], ['नीली', 'किताब'])
    """
    return [word.lower() for word in WORD.findall(text)]


def plain_text(value: Any) -> str:
    """Readable text of a field: lists are joined, mappings become "key: value; …", markup and extra space go.

    Whole numbers have no decimal point, days no time of day; what is missing is "".

    >>> plain_text(["<b>Soft</b> &amp; light", None, "<!-- .x {color:red} -->", 1991.0])
    'Soft & light 1991'
    >>> plain_text("Size <M or L>, plan b > plan a")
    'Size <M or L>, plan b > plan a'
    """
    if isinstance(value, Mapping):
        pairs = ((plain_text(key), plain_text(part)) for key, part in value.items())
        return "; ".join(f"{key}: {part}" for key, part in pairs if part)
    if isinstance(value, (list, tuple, np.ndarray)):
        return " ".join(part for part in map(plain_text, value) if part)
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    text = str(value).removesuffix(" 00:00:00") if isinstance(value, pd.Timestamp) else str(value)
    if "&" in text:
        for _ in range(2):  # some catalogues escape twice
            text = _ENTITY.sub(_unescaped, text)
    if "<" in text:
        text = _TORN.sub(" ", _without_tags(_COMMENT.sub(" ", text)))
    if "{" in text:
        text = _CSS.sub(" ", text)
    return " ".join(text.split())


def _unescaped(entity: re.Match) -> str:
    real = entity[0][1] == "#" or entity[0][1:] in html.entities.html5
    return html.unescape(entity[0]) if real else entity[0]


def _without_tags(text: str) -> str:
    """Without end tags, tags with attributes, and tags that have an end tag or need none; `<M>` alone stays."""
    closed = {match["name"].casefold() for match in _TAG.finditer(text) if match["end"]}

    def blank(tag: re.Match) -> str:
        name = (tag["name"] or "br").casefold()
        sure = tag["end"] or tag["attributes"] or name in closed or re.fullmatch(_ALONE, name)
        return " " if sure else tag[0]

    return _TAG.sub(blank, text)
