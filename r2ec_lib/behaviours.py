"""The paper's seven reasoning behaviours (its Appendix labels them by hand and by an LLM), found by transparent rules.

A rule is a pattern of words: what it finds can be read, and what it misses can be argued about. It sees that a text
speaks in a certain way, not that the thought is sound.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from r2ec_lib.intervals import share_interval


class Behaviour(NamedTuple):
    """One behaviour: what it is, and the pattern that stands for it (case does not matter)."""

    meaning: str
    pattern: str


BEHAVIOURS = {
    "attribute abstraction": Behaviour(
        "names a general property instead of an item",
        r"\b(styles?|prices?|pric(?:ed|y)|quality|brands?|colou?rs?|materials?|genres?|themes?|features?|formats?"
        r"|(?:high|low)[- ]end|premium|budget|durable|affordable)\b",
    ),
    "pattern clustering": Behaviour(
        "groups purchases and sees what they have in common",
        r"\b(patterns?|themes?|common|similar(?:ly)?|together|consistent(?:ly)?|several|mostly|mainly|repeated(?:ly)?"
        r"|series|collections?|(?:range|variety|set) of|all (?:of )?(?:them|these|those)|tends? to)\b",
    ),
    "scenario or role": Behaviour(
        "imagines who the shopper is or what the purchase is for",
        r"\b(this is for (?:the|a|an)|as an? \w+|for (?:use|work|school|home|office|travel|business)\b|hobby|hobbyist"
        r"|students?|teachers?|artists?|parents?|musicians?|gamers?|professionals?|projects?|occasions?|setting up)\b",
    ),
    "temporal": Behaviour(
        "uses the order or the time of the purchases",
        r"\b(latest|last|recent(?:ly)?|earlier|previous(?:ly)?|first|then|next|ago|lately|over time|now|days?|weeks?"
        r"|months?|years?|since|before|after)\b",
    ),
    "self-explanation": Behaviour(
        "says why it concludes something",
        r"\b(because|since|therefore|thus|hence|so that|suggest(?:s|ing)?|indicat(?:es?|ing)|impl(?:y|ies|ying)"
        r"|which means|this means|shows? (?:that|an?)|likely|probably|seems?|would (?:fit|suit|match|complement))\b",
    ),
    "negative exclusion": Behaviour(
        "rules something out",
        r"\b(never mind|not|no longer|already (?:has|have|own|owns|bought)|without|rather than|instead of"
        r"|exclud(?:e|es|ing)|avoid(?:s|ing)?|unlike|except|unlikely)\b",
    ),
    "multi-objective": Behaviour(
        "weighs two aims, such as style and price",
        r"\b(both .{1,40} and|balanc(?:e|es|ing)|trade-?offs?|as well as|while (?:also|still|staying|keeping)"
        r"|not only|combin(?:e|es|ing|ation)|style is \w+\.\s+(?:[^.]*\.\s+)*prices are"
        r"|prices are \w+\.\s+(?:[^.]*\.\s+)*(?:the )?style is)\b",
    ),
}
"""Behaviour -> meaning and rule. The last one also reads a style and a price in one text as two aims."""

_RULES = {name: re.compile(behaviour.pattern, re.IGNORECASE) for name, behaviour in BEHAVIOURS.items()}


def find(chains: pd.DataFrame) -> pd.DataFrame:
    """Every place where a rule applies.

    Args:
        chains: `chain`; one row a reasoning, any index without repeats.

    Returns:
        `row` (index label in `chains`), `behaviour`, `start`, `end` (characters), `words` found there.
    """
    found = [
        (row, name, match.start(), match.end(), match.group())
        for row, chain in zip(chains.index, chains["chain"], strict=True)
        for name, rule in _RULES.items()
        for match in rule.finditer(chain)
    ]
    return pd.DataFrame(found, columns=["row", "behaviour", "start", "end", "words"])


def shares(chains: pd.DataFrame, found: pd.DataFrame, clusters: Sequence, around: int = 60) -> pd.DataFrame:
    """How many reasonings show each behaviour, with an example.

    Args:
        found: the table of `find` for the same chains.
        clusters: (rows,) the unit of the interval, such as the user.
        around: characters that the example shows on either side of the words found.

    Returns:
        A row a behaviour, in the order of `BEHAVIOURS`: `facet` (its name), `meaning`, `share`, `low`, `high` (95 %),
        `words` (the most frequent words found, "" for none) and `example` (the first place that has them).
    """
    rows = []
    for name, behaviour in BEHAVIOURS.items():
        mine = found[found["behaviour"] == name]
        interval = share_interval(chains.index.isin(mine["row"]).astype(float), clusters)
        words, example = "", ""
        if len(mine):
            words = mine["words"].str.lower().mode()[0]
            place = mine[mine["words"].str.lower() == words].iloc[0]
            start, end = max(0, int(place["start"]) - around), int(place["end"]) + around
            text = chains.at[place["row"], "chain"]
            example = "…" * (start > 0) + text[start:end] + "…" * (end < len(text))
        rows.append((name, behaviour.meaning, *interval, words, example))
    return pd.DataFrame(rows, columns=["facet", "meaning", "share", "low", "high", "words", "example"])
