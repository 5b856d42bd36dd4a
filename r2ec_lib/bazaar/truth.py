"""What is true of a history in the Bazaar, by plain counting and under the exact posterior."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.language import Claim
from r2ec_lib.bazaar.oracle import belief
from r2ec_lib.bazaar.world import World


def history_facts(world: World, history: Sequence[int], hours: Sequence[float]) -> dict[str, set[str]]:
    """For each facet the values that are true of a history, by plain counting.

    tier: the most frequent among its purchases that are no sundries (all of them in a tie); style: likewise, in the
    first order alone. kit: the kits with most of their pieces in the history. accent: that of each such kit in each
    such style. next: the first missing piece of each such kit. pace: the last purchase was less than 7 days before
    ("days ago"), less than 30, or more. The others can be read off the titles.

    Args:
        history, hours: item indexes, oldest first, and hours before the target.
    """
    process, items = world.process, np.asarray(history)
    pieces = [process.pieces[index] for index in process.piece[items]]
    serious = items[~process.sundry[items]]
    first = items[np.asarray(hours) == hours[0]]
    styles = _most_frequent([process.styles[index] for index in process.style[first[~process.sundry[first]]]])
    owned = set(pieces)
    overlap = [len(owned & set(listing)) for listing in world.kits["pieces"]]
    kits = [kit for kit, count in enumerate(overlap) if count == max(overlap) > 0]
    missing = [first_missing(world, kit, owned) for kit in kits]
    days = hours[-1] / 24
    return {
        "next": {piece for piece in missing if piece},
        "kit": {process.kits[kit] for kit in kits},
        "style": styles,
        "accent": {accent(world, kit, style) for kit in kits for style in styles},
        "tier": _most_frequent([process.tiers[index] for index in process.tier[serious]]),
        "owns": owned,
        "latest": {pieces[-1]},
        "brand": set(process.brand[items]),
        "side": owned & set(text.SUNDRIES),
        "pace": {text.PACES[0 if days < 7 else 1 if days < 30 else 2]},
    }


def first_missing(world: World, kit: int, owned: set[str]) -> str | None:
    """The first piece of a kit, in its order, that is not owned; None where it is complete."""
    return next((piece for piece in world.kits["pieces"][kit] if piece not in owned), None)


def accent(world: World, kit: int, style: str) -> str:
    """The style of the accents that a kit gets in a style."""
    return world.kits["accents"][kit][world.process.styles.index(style)]


def true_facts(world: World, samples: pd.DataFrame, chunk: int = 512) -> list[dict[str, str]]:
    """For each history the most probable project, style, accent, tier and missing piece under the exact posterior of
    `oracle`: facet -> value, in the order in which they follow from each other."""
    process, out = world.process, []
    for start in range(0, len(samples), chunk):
        known = belief(world, samples.iloc[start : start + chunk])
        best = {
            "kit": (process.kits, known.posterior.sum(axis=(2, 3))),
            "style": (process.styles, known.posterior.sum(axis=(1, 3))),
            "accent": (process.styles, known.accent(process)),
            "tier": (process.tiers, known.posterior.sum(axis=(1, 2))),
            "next": (process.pieces, known.next_piece()),
        }
        values = [[names[one] for one in chances.argmax(axis=1)] for names, chances in best.values()]
        out += [dict(zip(best, row, strict=True)) for row in zip(*values, strict=True)]
    return out


def true_reasoning(world: World, samples: pd.DataFrame) -> list[str]:
    """For each history what a perfect analyst of the history alone would write: all of its `true_facts`."""
    return [" ".join(text.sentence(Claim(*fact)) for fact in facts.items()) for facts in true_facts(world, samples)]


def corrected(chains: Sequence[str], facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Reasonings in their own order and length, but with the values of `true_facts` where these know the facet.

    What is no sentence of the Bazaar is left out.

    >>> corrected(["Prices are luxury. They have the pen. Hm. Prices are budget."], [{"tier": "everyday"}])
    ['Prices are everyday. They have the pen. Prices are everyday.']
    """
    out = []
    for chain, known in zip(chains, facts, strict=True):
        said = [claim._replace(value=known.get(claim.kind, claim.value)) for claim in text.claims(chain)]
        out.append(" ".join(map(text.sentence, said)))
    return out


def _most_frequent(values: Sequence[str]) -> set[str]:
    counts = Counter(values)
    return {value for value, count in counts.items() if count == max(counts.values())}


def share_true(chains: Sequence[str], facts: Sequence[Mapping[str, set[str]]]) -> float:
    """Share of all claims in the chains that are true of their histories; NaN where nothing is claimed."""
    verdicts = [
        verdict
        for chain, known in zip(chains, facts, strict=True)
        for verdict in text.claims_true(text.claims(chain), known)
    ]
    return float(np.mean(verdicts)) if verdicts else float("nan")
