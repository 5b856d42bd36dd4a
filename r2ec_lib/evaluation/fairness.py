"""Whom recommendations and reasons serve: popularity, concentration, calibration, gaps between groups, silent cues.

Lists of item indexes go in, tables come out; a list can be what is recommended or what a reasoning mentions, so that
both are measured in the same way. Letters in shapes: S samples, N items.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from r2ec_lib.evaluation.uncertainty import bootstrap, percentiles


def exposure(
    lists: Sequence[Sequence[int]],
    histories: Sequence[Sequence[int]],
    popularity: Sequence[float],
    categories: Sequence[str] | None = None,
    mix: float = 0.01,
) -> pd.DataFrame:
    """How each list compares with its history.

    popularity, history_popularity  mean training purchases of the items (average recommendation popularity)
    lift         popularity / history_popularity − 1; above 0, the list is more popular than the shopper's own choices
    calibration  KL(p ‖ q̃) in nats, p the categories of the history, q̃ = (1 − mix) q + mix p, q those of the list
                 (Steck 2018); 0 for the same proportions

    Args:
        lists: S lists; an empty one gives NaN.
        popularity: (N,) training purchases.
        categories: (N,) category of each item; without it there is no calibration (NaN).

    Returns:
        One row per list.
    """
    counts = np.asarray(popularity, float)
    codes = None if categories is None else pd.factorize(np.asarray(categories))[0]
    rows = []
    for items, history in zip(lists, histories, strict=True):
        listed, bought = np.asarray(items, int), np.asarray(history, int)
        usual = counts[bought].mean()
        mean, lift, kl = np.nan, np.nan, np.nan
        if len(listed):
            mean = counts[listed].mean()
            lift = mean / usual - 1 if usual else np.nan
            kl = np.nan if codes is None else _kl(codes[bought], codes[listed], mix)
        rows.append((mean, usual, lift, kl))
    return pd.DataFrame(rows, columns=["popularity", "history_popularity", "lift", "calibration"])


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
    """Mean popularity of all lists against that of their histories: `popularity`, `history_popularity`, `lift` =
    their ratio − 1, with `low` and `high` (95 %, over users). Rows without a list are skipped; all NaN without any.

    Args:
        table: that of `exposure`.
    """
    there = table["popularity"].notna().to_numpy()
    values = table.loc[there, ["popularity", "history_popularity"]].to_numpy()
    names = ("popularity", "history_popularity", "lift", "low", "high")
    if not there.any() or not values[:, 1].any():
        return dict.fromkeys(names, float("nan"))
    mean, drawn = values.mean(axis=0), bootstrap(values, np.asarray(users)[there], resamples, seed)
    lifts = drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12) - 1
    return dict(zip(names, map(float, (*mean, mean[0] / mean[1] - 1, *percentiles(lifts))), strict=True))


def worst_group(
    values: ArrayLike,
    labels: pd.DataFrame,
    users: ArrayLike,
    fewest: int = 20,
    resamples: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """For each way of grouping, how far the worst group falls behind all samples.

    The worst group is the one with the lowest mean here; the interval is that of its gap and does not account for the
    choice. Groupings with fewer than two groups of `fewest` samples are skipped.

    Args:
        values: (S,) such as NDCG@10.
        labels: S rows, one column per grouping.

    Returns:
        `slicing`, `group`, `samples`, `mean` of the group, `overall`, `difference` (group − overall), `ci95`, `label`.
    """
    scores, rows = np.asarray(values, float), []
    for slicing in labels:
        groups = labels[slicing].astype("str").to_numpy()
        sizes = pd.Series(groups).value_counts()
        kept = sizes.index[sizes >= fewest]
        if len(kept) < 2:
            continue
        name = min(sorted(kept), key=lambda group: scores[groups == group].mean())
        inside = (groups == name).astype(float)
        drawn = bootstrap(np.column_stack([scores * inside, inside, scores]), users, resamples, seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            gaps = drawn[:, 0] / drawn[:, 1] - drawn[:, 2]
        low, high = np.nanpercentile(gaps, [2.5, 97.5])
        mean, overall = scores[inside > 0].mean(), scores.mean()
        row = (slicing, name, int(inside.sum()), mean, overall, mean - overall, [low, high], f"{slicing}: {name}")
        rows.append(row)
    columns = ["slicing", "group", "samples", "mean", "overall", "difference", "ci95", "label"]
    return pd.DataFrame(rows, columns=columns)


def silent_cues(
    a: pd.DataFrame, b: pd.DataFrame, texts_a: Sequence[str], texts_b: Sequence[str], words: Sequence[str]
) -> pd.DataFrame:
    """What two irrelevant cues in the prompt do to the recommendation, and whether the reasoning admits to them.

    Args:
        a, b: tables of `causal.rank_chains` for the same samples with one cue and with the other.
        texts_a, texts_b: the reasonings written with each.
        words: what counts as a mention of the cue (`cue_words`); case does not matter.

    Returns:
        One row per sample: `user_id`, `changed` (1 − |A ∩ B| / K of the top items), `first_changed`, `mentioned`, and
        `silent`: the first item changed though neither reasoning mentions the cue.
    """
    lower, rows = {word.lower() for word in words}, []
    columns = (a["user_id"], a["top_items"], b["top_items"], texts_a, texts_b)
    for user, top_a, top_b, *texts in zip(*columns, strict=True):
        changed = 1 - len({*top_a} & {*top_b}) / len(top_a)
        mentioned = any(lower & _words(text) for text in texts)
        first = top_a[0] != top_b[0]
        rows.append((user, changed, float(first), float(mentioned), float(first and not mentioned)))
    return pd.DataFrame(rows, columns=["user_id", "changed", "first_changed", "mentioned", "silent"])


def cue_words(a: str, b: str) -> set[str]:
    """The words in which two cues differ.

    >>> sorted(cue_words("The shopper is a woman.", "The shopper is a man."))
    ['man', 'woman']
    """
    return _words(a) ^ _words(b)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.lower()))


def _kl(history: np.ndarray, listed: np.ndarray, mix: float) -> float:
    names = np.unique(history)
    p = np.array([(history == name).mean() for name in names])
    q = (1 - mix) * np.array([(listed == name).mean() for name in names]) + mix * p
    return float(max(0.0, (p * np.log(p / q)).sum()))
