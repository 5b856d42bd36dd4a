"""What reasonings are like as texts: their claims, form, diversity and ways of reasoning, also over training.

Tables in, tables out; `row` refers to the index of the chains, which has no repeats. Which items a text names is the
business of `mentions`; what is true in the generated world that of `bazaar.truth.claim_table`. The paper
labels the seven behaviours by hand and by an LLM (appendix); here they are patterns of words: what a pattern finds
can be read, and what it misses can be argued about. It sees that a text speaks in a certain way, not that the thought
is sound.

chains   one row per reasoning: sample_id, chain (text), tokens, closed; further columns are ignored
"""

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from r2ec_lib.analysis.words import blanked
from r2ec_lib.data.texts import words
from r2ec_lib.evaluation.uncertainty import mean_interval, share_interval
from r2ec_lib.model.claims import FORMS, claims


def claim_figures(chains: pd.DataFrame, claimed: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """For each chain the number of claims (`claimed`, of `claim_table`), the share of them that is `true` (NaN without
    one), and for each of `kinds` whether the chain speaks of it (`says_<kind>`) and which share is true
    (`true_<kind>`)."""
    by_row = claimed.groupby("row")["true"]
    table = pd.DataFrame({"claims": by_row.size(), "true": by_row.mean()}).reindex(chains.index)
    table["claims"] = table["claims"].fillna(0).astype(int)
    for kind in kinds:
        share = claimed[claimed["kind"] == kind].groupby("row")["true"].mean().reindex(chains.index)
        table[f"says_{kind}"], table[f"true_{kind}"] = share.notna().astype(float), share
    return table


def statement_kinds(chains: pd.DataFrame) -> pd.DataFrame:
    """For each chain and each kind of statement that analyses teach (`FORMS`), whether it has one; bool."""
    told = [{kind for kind, _ in claims(text, closed)} for text, closed in chains[["chain", "closed"]].to_numpy()]
    return pd.DataFrame({kind: [kind in kinds for kinds in told] for kind in FORMS}, chains.index)


def form(chains: pd.DataFrame) -> pd.DataFrame:
    """Form of each chain: `tokens`, `words`, `unclosed` (cut off before it wrote `<answer>`), `empty` (no word) and
    `repetition`, 1 − different word triples / word triples (0 where there are fewer than two)."""
    cut = chains["chain"].map(words)
    triples = cut.map(lambda chain: _ngrams(chain, 3))
    return pd.DataFrame(
        {
            "tokens": chains["tokens"],
            "words": cut.map(len),
            "unclosed": ~chains["closed"].astype(bool),
            "empty": cut.map(len) == 0,
            "repetition": triples.map(lambda grams: 1 - len(set(grams)) / len(grams) if grams else 0.0),
        }
    )


NEAR = 0.8


def diversity(chains: pd.DataFrame, block: int = 512) -> dict[str, float]:
    """How different the chains are from each other.

    unique_rate      different chains / chains
    distinct_2       different word pairs / word pairs, over all chains
    near_duplicates  share of the chains with another chain such that their sets of word triples A and B have
                     |A ∩ B| / |A ∪ B| ≥ `NEAR` (words themselves in chains of fewer than three)

    Raises:
        ValueError: no chains.
    """
    if chains.empty:
        raise ValueError("no reasonings: diversity needs at least one")
    cut = chains["chain"].map(words).tolist()
    pairs = [pair for chain in cut for pair in _ngrams(chain, 2)]
    vectorizer = CountVectorizer(
        analyzer=lambda chain: _ngrams(chain, 3) or _ngrams(chain, 1) or [()], binary=True, dtype=np.float32
    )
    times = pd.Series(map(tuple, cut)).value_counts(sort=False)  # equal chains are compared once, as D different ones
    holds = vectorizer.fit_transform(times.index)  # (D, triples), sparse
    sizes, counts = np.asarray(holds.sum(axis=1)).ravel(), times.to_numpy()  # (D,)
    close = 0
    for start in range(0, len(counts), block):
        at = slice(start, start + block)
        both = (holds[at] @ holds.T).toarray()  # (block, D)
        jaccard = both / (sizes[at, None] + sizes[None, :] - both)
        close += int(counts[at][(jaccard >= NEAR) @ counts > 1].sum())  # each is a duplicate of itself
    return {
        "unique_rate": chains["chain"].nunique() / len(chains),
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else math.nan,
        "near_duplicates": close / len(cut),
    }


def _ngrams(chain: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(chain[start:] for start in range(n)), strict=False))


def by_step(rollouts: pd.DataFrame, columns: Sequence[str], bins: int = 20) -> pd.DataFrame:
    """Means over training: the steps in at most `bins` equal stretches, each with its mean `step` and, for each of
    `columns`, mean, `_low` and `_high` (95 %, clustered by `user_id`; within 0…1 where all values are). Raises
    ValueError without rollouts."""
    if rollouts.empty:
        raise ValueError("no rollouts: nothing to follow over training")
    first, last = rollouts["step"].min(), rollouts["step"].max()
    stretch = ((rollouts["step"] - first) * min(bins, last - first + 1) // (last - first + 1)).astype(int)
    interval = {
        name: share_interval if rollouts[name].dropna().between(0, 1).all() else mean_interval for name in columns
    }
    rows = []
    for _, part in rollouts.groupby(stretch):
        row = {"step": part["step"].mean()}
        for name in columns:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = interval[name](part[name], part["user_id"])
        rows.append(row)
    return pd.DataFrame(rows)


BEHAVIOURS = {
    "attribute abstraction": (
        "names a general property instead of an item",
        r"\b(styles?|prices?|pric(?:ed|y)|quality|brands?|colou?rs?|materials?|genres?|themes?|features?|formats?"
        r"|(?:high|low)[- ]end|premium|budget|durable|affordable)\b",
    ),
    "pattern clustering": (
        "groups purchases and sees what they have in common",
        r"\b(patterns?|themes?|common|similar(?:ly)?|together|consistent(?:ly)?|several|mostly|mainly|repeated(?:ly)?"
        r"|series|collections?|(?:range|variety|set) of|all (?:of )?(?:them|these|those)|tends? to)\b",
    ),
    "scenario or role": (
        "imagines who the shopper is or what the purchase is for",
        r"\b(this is for (?:the|a|an)|as an? \w+|for (?:use|work|school|home|office|travel|business)\b|hobby|hobbyist"
        r"|students?|teachers?|artists?|parents?|musicians?|gamers?|professionals?|projects?|occasions?|setting up)\b",
    ),
    "temporal": (
        "uses the order or the time of the purchases",
        r"\b(latest|last|recent(?:ly)?|earlier|previous(?:ly)?|first|then|next|ago|lately|over time|now|days?|weeks?"
        r"|months?|years?|since|before|after)\b",
    ),
    "self-explanation": (
        "says why it concludes something",
        r"\b(because|since|therefore|thus|hence|so that|suggest(?:s|ing)?|indicat(?:es?|ing)|impl(?:y|ies|ying)"
        r"|which means|this means|shows? (?:that|an?)|likely|probably|seems?|would (?:fit|suit|match|complement))\b",
    ),
    "negative exclusion": (
        "rules something out",
        r"\b(never mind|not|no longer|already (?:has|have|own|owns|bought)|without|rather than|instead of"
        r"|exclud(?:e|es|ing)|avoid(?:s|ing)?|unlike|except|unlikely)\b",
    ),
    "multi-objective": (
        "weighs two aims, such as style and price",
        r"\b(both .{1,40} and|balanc(?:e|es|ing)|trade-?offs?|as well as|while (?:also|still|staying|keeping)"
        r"|not only|combin(?:e|es|ing|ation)|style is \w+\.\s+(?:[^.]*\.\s+)*prices are"
        r"|prices are \w+\.\s+(?:[^.]*\.\s+)*(?:the )?style is)\b",
    ),
}
"""Behaviour -> what it is, and the pattern that stands for it (case does not matter). The last one also reads a style
and a price in one text as two aims."""

_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, (_, pattern) in BEHAVIOURS.items()}
_TOLD = re.compile(
    "|".join(rf"(?<={form.partition('{}')[0]}).*?(?=\.\s|\.?$)" for form in FORMS.values()), re.DOTALL
)  # what a statement names, up to the end of its sentence


def behaviour_mentions(chains: pd.DataFrame, mentioned: pd.DataFrame) -> pd.DataFrame:
    """Every place where a behaviour's pattern matches: `row`, `behaviour`, `start`, `end` (characters), `words`.

    Names are no way of reasoning ("Wii Fit with Balance Board" weighs no aims). So what a statement of `model.claims`
    names is left out, and so are the titles in `mentioned`, the table of `mentions.mentions` for the same chains.
    """
    names = {row: [match.span() for match in _TOLD.finditer(chain)] for row, chain in chains["chain"].items()}
    titles = mentioned.loc[mentioned["how"] == "title", ["row", "start", "end"]]
    for row, start, end in titles.itertuples(index=False):
        names[row].append((start, end))
    rows = []
    for row, chain in chains["chain"].items():
        text = blanked(chain, names[row])
        for name, pattern in _PATTERNS.items():
            for start, end in (match.span() for match in pattern.finditer(text)):
                rows.append((row, name, start, end, chain[start:end]))
    return pd.DataFrame(rows, columns=["row", "behaviour", "start", "end", "words"])


def behaviour_shares(
    chains: pd.DataFrame, mentioned: pd.DataFrame, clusters: Sequence, around: int = 60
) -> pd.DataFrame:
    """How many reasonings show each behaviour, with an example.

    Args:
        mentioned: the table of `behaviour_mentions` for the same chains.
        clusters: (rows,) the unit of the interval, such as the user.
        around: characters that the example shows on either side of the matched words.

    Returns:
        In the order of `BEHAVIOURS`: `facet` (its name), `meaning`, `share`, `low`, `high` (95 %), `words` (the most
        frequent match, "" for none) and `example` (the first place that has it).
    """
    rows = []
    for name, (meaning, _) in BEHAVIOURS.items():
        places = mentioned[mentioned["behaviour"] == name]
        interval = share_interval(chains.index.isin(places["row"]).astype(float), clusters)
        frequent, example = "", ""
        if len(places):
            frequent = places["words"].str.lower().mode()[0]
            place = places[places["words"].str.lower() == frequent].iloc[0]
            start, end = max(0, int(place["start"]) - around), int(place["end"]) + around
            text = chains.at[place["row"], "chain"]
            example = "…" * (start > 0) + text[start:end] + "…" * (end < len(text))
        rows.append((name, meaning, *interval, frequent, example))
    return pd.DataFrame(rows, columns=["facet", "meaning", "share", "low", "high", "words", "example"])
