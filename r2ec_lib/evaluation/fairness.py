"""Whom recommendations and reasons serve: popularity, concentration, calibration, silent cues.

Lists of item indexes go in, tables come out; a list can be what is recommended or what a reasoning mentions, so that
both are measured in the same way. Popularity can be compared between lists of any length; calibration, Gini and
coverage only between lists of the same, since a short list cannot show a whole mix, nor a few places a catalogue. Gaps
between groups of shoppers are slices (`uncertainty.slices`). Letters in shapes: S samples, N items.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike

from r2ec_lib.data.texts import words
from r2ec_lib.evaluation.uncertainty import bootstrap, percentiles

MIX = 0.01
"""Share of the history's categories that is mixed into those of a list, so that their divergence stays finite."""


def exposure(
    lists: Sequence[Sequence[int]],
    histories: Sequence[Sequence[int]],
    popularity: Sequence[float],
    own: Sequence[Sequence[int]],
    categories: Sequence[str] | None = None,
) -> pd.DataFrame:
    """How each of S lists compares with its history, a row per list; an empty one has NaN.

    popularity, history_popularity  mean training purchases of the items (average recommendation popularity)
    calibration  KL(p ‖ q̃) in nats, p the categories of the history, q̃ = (1 − MIX) q + MIX p, q those of the list
                 (Steck 2018); 0 for the same proportions, NaN where either has no category

    Args:
        popularity: (N,) training purchases.
        own: what the shopper of each list bought in training, an item per purchase. It is left out of the counts, for
            the items of a history would count the purchases that put them there, as those not bought yet cannot.
        categories: (N,) category of each item; items of which it is not known ("") do not count.
    """
    counts = np.asarray(popularity, float)
    named = np.full(len(counts), "") if categories is None else np.asarray(categories)
    kinds = pd.factorize(pd.Series(named).replace("", None))[0]  # (N,), −1 where it is not known
    rows = []
    for items, history, shopper in zip(lists, histories, own, strict=True):
        listed, bought, mine = (np.asarray(part, int) for part in (items, history, shopper))
        by_others = [counts[part] - (part[:, None] == mine).sum(axis=1) for part in (listed, bought)]
        mean, divergence = (by_others[0].mean() if len(listed) else np.nan), np.nan
        theirs = [kinds[part][kinds[part] >= 0] for part in (bought, listed)]
        if all(map(len, theirs)):
            both, split = np.unique(np.concatenate(theirs), return_inverse=True)[1], len(theirs[0])
            p, q = (np.bincount(part, minlength=both.max() + 1) / len(part) for part in (both[:split], both[split:]))
            divergence = scipy.stats.entropy(p, (1 - MIX) * q + MIX * p)
        rows.append((mean, by_others[1].mean(), divergence))
    return pd.DataFrame(rows, columns=["popularity", "history_popularity", "calibration"])


def concentration(lists: Sequence[Sequence[int]], num_items: int) -> dict[str, float]:
    """How the places of all lists are spread over the catalogue.

    gini      0 where every item is listed equally often, near 1 where one item has every place; NaN for empty lists
    coverage  share of the catalogue that is listed at all
    """
    counts = np.bincount(np.concatenate([np.asarray(items, int) for items in lists]), minlength=num_items)
    if not counts.sum():
        return {"gini": float("nan"), "coverage": 0.0}
    place = np.arange(1, num_items + 1)
    gini = ((2 * place - num_items - 1) * np.sort(counts)).sum() / (num_items * counts.sum())
    return {"gini": float(gini), "coverage": float((counts > 0).mean())}


def popularity_lift(table: pd.DataFrame, users: ArrayLike, resamples: int = 2_000, seed: int = 0) -> dict[str, float]:
    """Mean popularity of all lists of `exposure` against that of their histories: `popularity`, `history_popularity`,
    `lift` = their ratio − 1, with `low` and `high` (95 %, over users). Rows without a list are skipped; all NaN
    without any."""
    there = table["popularity"].notna().to_numpy()
    values = table.loc[there, ["popularity", "history_popularity"]].to_numpy()
    names = ("popularity", "history_popularity", "lift", "low", "high")
    if not there.any() or not values[:, 1].any():
        return dict.fromkeys(names, float("nan"))
    asked = np.asarray(users)[there]
    mean, drawn = values.mean(axis=0), bootstrap(values, asked, resamples, seed)
    lifts = drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12) - 1
    return dict(
        zip(names, map(float, (*mean, mean[0] / mean[1] - 1, *percentiles(lifts, len(set(asked))))), strict=True)
    )


def silent_cues(
    a: pd.DataFrame, b: pd.DataFrame, texts_a: Sequence[str], texts_b: Sequence[str], cues: Sequence[str]
) -> pd.DataFrame:
    """What two irrelevant cues in the prompt do to the recommendation, and whether the reasoning admits to them.

    Args:
        a, b: tables of `causal.rank_chains` for the same samples, with the first of `cues` and with the second.
        texts_a, texts_b: the reasonings written with each; a word in which the cues differ counts as a mention.

    Returns:
        One row per sample: `user_id`, `changed` (1 − |A ∩ B| / K of the top items), `first_changed`, `mentioned`, and
            `silent`: the first item changed though neither reasoning mentions the cue.
    """
    telling, pairs = {*words(cues[0])} ^ {*words(cues[1])}, list(zip(a["top_items"], b["top_items"], strict=True))
    first = np.array([one[0] != other[0] for one, other in pairs])
    mentioned = np.array([bool(telling & {*words(" ".join(both))}) for both in zip(texts_a, texts_b, strict=True)])
    changed = [1 - len({*one} & {*other}) / len(one) for one, other in pairs]
    shares = {"changed": changed, "first_changed": first, "mentioned": mentioned, "silent": first & ~mentioned}
    return a[["user_id"]].reset_index(drop=True).join(pd.DataFrame(shares).astype(float))
