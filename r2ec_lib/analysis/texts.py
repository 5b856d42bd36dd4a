"""The paper's seven reasoning behaviours (its Appendix labels them by hand and by an LLM), found by transparent rules.

A rule is a pattern of words: what it finds can be read, and what it misses can be argued about. It sees that a text
speaks in a certain way, not that the thought is sound.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from r2ec_lib.evaluation.uncertainty import mean_interval, share_interval

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


# ---- what it says: claims whose truth is known --------------------------------------------------------------------


def claim_table(
    chains: pd.DataFrame,
    samples: pd.DataFrame,
    read: Callable[[str], Sequence],
    facts: Callable[[Sequence[int], Sequence[float]], object],
    holds: Callable[[Sequence, object], Sequence[bool]],
) -> pd.DataFrame:
    """One row a claim: `row` (index label in `chains`), `kind`, `value`, `true`.

    Args:
        read: a chain's (kind, value) claims, such as `language.claims`.
        facts: what is true of a history, from its items and hours, such as `truth.history_facts`.
        holds: for each claim whether it agrees with the facts, such as `language.claims_true`.
    """
    samples, rows = samples.set_index("sample_id"), []
    for row, sample_id, chain in zip(chains.index, chains["sample_id"], chains["chain"], strict=True):
        found = read(chain)
        known = facts(samples.at[sample_id, "history"], samples.at[sample_id, "history_hours"]) if found else None
        rows += [(row, *claim, bool(true)) for claim, true in zip(found, holds(found, known), strict=True)]
    return pd.DataFrame(rows, columns=["row", "kind", "value", "true"]).astype({"true": bool})


def claim_figures(chains: pd.DataFrame, claimed: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """For each chain the number of `claims`, the share of them that is `true` (NaN without one), and for each of
    `kinds` whether the chain speaks of it (`says_<kind>`) and the share of its claims that is true (`true_<kind>`)."""
    by_row = claimed.groupby("row")["true"]
    table = pd.DataFrame({"claims": by_row.size(), "true": by_row.mean()}).reindex(chains.index)
    table["claims"] = table["claims"].fillna(0).astype(int)
    for kind in kinds:
        share = claimed[claimed["kind"] == kind].groupby("row")["true"].mean().reindex(chains.index)
        table[f"says_{kind}"], table[f"true_{kind}"] = share.notna().astype(float), share
    return table


# ---- what it says: form and diversity ------------------------------------------------------------------------------


def form(chains: pd.DataFrame) -> pd.DataFrame:
    """Form of each chain: `tokens`, `words`, `unclosed` (cut off before it wrote `<answer>`), `empty` (no word) and
    `repetition`, 1 − different word triples / word triples (0 where there are fewer than two)."""
    words = chains["chain"].map(_words)
    repetition = [
        1 - len(set(triples)) / len(triples) if len(triples) > 1 else 0.0 for triples in map(_triples, words)
    ]
    return pd.DataFrame(
        {
            "tokens": chains["tokens"],
            "words": words.map(len),
            "unclosed": ~chains["closed"].astype(bool),
            "empty": words.map(len) == 0,
            "repetition": repetition,
        },
        index=chains.index,
    )


def diversity(chains: pd.DataFrame, near: float = 0.8, block: int = 512) -> dict[str, float]:
    """How different the chains are from each other.

    unique_rate      different chains / chains
    distinct_n       different n-word sequences / n-word sequences, over all chains, for n = 1, 2, 3
    near_duplicates  share of the chains with another chain whose set of word triples A and their own, B, have
                     |A ∩ B| / |A ∪ B| ≥ `near` (words themselves in chains of fewer than three)
    """
    if chains.empty:
        raise ValueError("no reasonings: diversity needs at least one")
    words = chains["chain"].map(_words).tolist()
    figures = {"unique_rate": chains["chain"].nunique() / len(chains)}
    for n in (1, 2, 3):
        grams = [gram for chain in words for gram in zip(*(chain[i:] for i in range(n)), strict=False)]
        figures[f"distinct_{n}"] = len(set(grams)) / len(grams) if grams else math.nan
    sets = [set(_triples(chain)) or set(chain) or {""} for chain in words]
    column = {gram: number for number, gram in enumerate(dict.fromkeys(gram for grams in sets for gram in grams))}
    sizes = np.array([len(grams) for grams in sets])
    columns = np.array([column[gram] for grams in sets for gram in grams])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    holds = sparse.csr_matrix((np.ones(len(columns), np.float32), columns, starts), (len(sets), len(column)))
    close = 0
    for start in range(0, len(sets), block):
        both = (holds[start : start + block] @ holds.T).toarray()  # (block, chains)
        jaccard = both / (sizes[start : start + block, None] + sizes[None, :] - both)
        close += int(((jaccard >= near).sum(axis=1) > 1).sum())  # each is a duplicate of itself
    return figures | {"near_duplicates": close / len(sets)}


# ---- over training -------------------------------------------------------------------------------------------------


def by_step(table: pd.DataFrame, columns: Sequence[str], bins: int = 20) -> pd.DataFrame:
    """Means over training: the steps in at most `bins` equal stretches, each with its mean `step` and, for each of
    `columns`, mean, `_low` and `_high` (95 %, clustered by `sample_id`; within 0…1 where all values are)."""
    if table.empty:
        raise ValueError("no rollouts: nothing to follow over training")
    first, last = table["step"].min(), table["step"].max()
    stretch = ((table["step"] - first) * min(bins, last - first + 1) // (last - first + 1)).astype(int)
    share = {name: table[name].min() >= 0 and table[name].max() <= 1 for name in columns}
    rows = []
    for _, part in table.groupby(stretch):
        row = {"step": part["step"].mean()}
        for name in columns:
            interval = share_interval if share[name] else mean_interval
            row[name], row[f"{name}_low"], row[f"{name}_high"] = interval(part[name], part["sample_id"])
        rows.append(row)
    return pd.DataFrame(rows)


def length_by_step(rollouts: pd.DataFrame) -> pd.DataFrame:
    """`step`, mean `length` (tokens), and `length_low` to `length_high`, the middle four fifths of a step's chains."""
    tokens = rollouts.groupby("step")["tokens"]
    table = {"length": tokens.mean(), "length_low": tokens.quantile(0.1), "length_high": tokens.quantile(0.9)}
    return pd.DataFrame(table).reset_index()


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _triples(words: Sequence[str]) -> list[tuple[str, str, str]]:
    return list(zip(words, words[1:], words[2:], strict=False))


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
