"""The truth about a history in the Bazaar, by plain counting and under the exact posterior.

`claim_table` judges claims, `true_facts` are the answers of a perfect analyst, and `corrected` puts them into a
reasoning; `with_needs` sets reasonings beside how much there was to say. `language.py` reads and writes sentences.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.language import Claim
from r2ec_lib.bazaar.oracle import belief
from r2ec_lib.bazaar.world import World


def history_facts(world: World, history: Sequence[int], hours: Sequence[float]) -> dict[str, set[str]]:
    """Facet -> the values that are true of a history, by plain counting.

    - tier: the most frequent among purchases other than sundries (several in a tie); style: likewise, in the first
      order alone.
    - kit: the kits with the most pieces in the history; accent: that of each such kit in each such style; next: the
      first missing piece of each such kit.
    - pace: the last purchase was less than 7 days before the target ("days ago"), less than 30 ("weeks ago"), or more.
    - owns, latest, brand, side (sundries): as the titles show.

    Args:
        history, hours: item indexes, oldest first, and hours before the target.
    """
    process, items = world.process, np.asarray(history)
    pieces = [process.pieces[index] for index in process.piece[items]]
    regular = items[~process.sundry[items]]
    first = items[np.asarray(hours) == hours[0]]
    styles = _most_frequent([process.styles[index] for index in process.style[first[~process.sundry[first]]]])
    owned = set(pieces)
    overlap = [len(owned.intersection(listing)) for listing in world.kits["pieces"]]
    most = max(overlap)
    kits = [kit for kit, count in enumerate(overlap) if count == most > 0]
    missing = [first_missing(world, kit, owned) for kit in kits]
    days = hours[-1] / 24
    return {
        "next": {piece for piece in missing if piece},
        "kit": {process.kits[kit] for kit in kits},
        "style": styles,
        "accent": {accent(world, kit, style) for kit in kits for style in styles},
        "tier": _most_frequent([process.tiers[index] for index in process.tier[regular]]),
        "owns": owned,
        "latest": {pieces[-1]},
        "brand": set(process.brand[items]),
        "side": owned & set(text.SUNDRIES),
        "pace": {text.PACES[0 if days < 7 else 1 if days < 30 else 2]},
    }


def claim_table(world: World, chains: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """The claims of reasonings and whether each is true of its history.

    Args:
        chains: one row per reasoning: sample_id, chain (text).

    Returns:
        One row per claim: `row` (index label in `chains`), `kind`, `value`, `true`.
    """
    samples, rows = samples.set_index("sample_id"), []
    for row, sample_id, chain in zip(chains.index, chains["sample_id"], chains["chain"], strict=True):
        if claims := text.claims(chain):
            facts = history_facts(world, *samples.loc[sample_id, ["history", "history_hours"]])
            rows += [(row, *claim, claim.value in facts[claim.kind]) for claim in claims]
    return pd.DataFrame(rows, columns=["row", "kind", "value", "true"]).astype({"true": bool})


def first_missing(world: World, kit: int, owned: set[str]) -> str | None:
    """The first piece of a kit, in its order, that is not owned; None for a complete kit."""
    return next((piece for piece in world.kits["pieces"][kit] if piece not in owned), None)


def accent(world: World, kit: int, style: str) -> str:
    """The style of the accents that a kit gets in a style."""
    return world.kits["accents"][kit][world.process.styles.index(style)]


def true_facts(world: World, samples: pd.DataFrame, chunk: int = 512) -> list[dict[str, str]]:
    """For each history the most probable kit, style, accent, tier and next piece under the posterior of `oracle`, as
    facet -> value, premises before conclusions."""
    process = world.process
    facts: list[dict[str, str]] = []
    for start in range(0, len(samples), chunk):
        beliefs = belief(world, samples.iloc[start : start + chunk])
        best = {
            "kit": (process.kits, beliefs.posterior.sum(axis=(2, 3))),
            "style": (process.styles, beliefs.posterior.sum(axis=(1, 3))),
            "accent": (process.styles, beliefs.accent(process)),
            "tier": (process.tiers, beliefs.posterior.sum(axis=(1, 2))),
            "next": (process.pieces, beliefs.next_piece()),
        }
        values = [[names[index] for index in chances.argmax(axis=1)] for names, chances in best.values()]
        facts += [dict(zip(best, row, strict=True)) for row in zip(*values, strict=True)]
    return facts


def true_reasoning(world: World, samples: pd.DataFrame) -> list[str]:
    """For each history the reasoning of a perfect analyst, who sees the history alone: all of its `true_facts`."""
    return [" ".join(text.sentence(Claim(*fact)) for fact in facts.items()) for facts in true_facts(world, samples)]


def corrected(chains: Sequence[str], facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Reasonings with the same facets in the same order, their values replaced by those of `true_facts`.

    Facets that `true_facts` does not cover keep their value; text outside the grammar is dropped.

    >>> corrected(["Prices are luxury. They have the pen. Hm. Prices are budget."], [{"tier": "everyday"}])
    ['Prices are everyday. They have the pen. Prices are everyday.']
    """
    result = []
    for chain, truth in zip(chains, facts, strict=True):
        claims = [claim._replace(value=truth.get(claim.kind, claim.value)) for claim in text.claims(chain)]
        result.append(" ".join(map(text.sentence, claims)))
    return result


def with_needs(reasonings: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """`reasonings` (sample_id, chain) of questions whose need is `known` (sample_id, need), with two further columns:
    `need`, and `facets`, the number of kinds of claims that a reasoning makes."""
    facets = [len({claim.kind for claim in text.claims(chain)}) for chain in reasonings["chain"]]
    return reasonings.assign(facets=facets).merge(known[["sample_id", "need"]], on="sample_id")


def _most_frequent(values: Sequence[str]) -> set[str]:
    counts = Counter(values)
    most = max(counts.values(), default=0)
    return {value for value, count in counts.items() if count == most}
