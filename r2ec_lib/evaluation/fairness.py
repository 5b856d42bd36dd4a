"""Whom recommendations and reasons serve: popularity, concentration, calibration, gaps between groups, silent cues.

Lists of item indexes go in, tables come out; a list can be what is recommended or what a reasoning mentions, so both
are measured alike. Letters in shapes: S samples, N items.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from r2ec_lib.evaluation.uncertainty import bootstrap


def exposure(
    lists: Sequence[Sequence[int]],
    histories: Sequence[Sequence[int]],
    popularity: Sequence[float],
    categories: Sequence[str] | None = None,
    mix: float = 0.01,
) -> pd.DataFrame:
    """How each list stands to its history.

    popularity, history_popularity  mean training purchases of the items (average recommendation popularity)
    lift         popularity / history_popularity − 1; above 0, the list is more popular than the shopper's own choices
    calibration  KL(p ‖ q̃) in nats, p the categories of the history, q̃ = (1 − mix) q + mix p, q those of the list
                 (Steck 2018); 0 for the same proportions

    Args:
        lists: S lists; an empty one gives NaN.
        popularity: (N,) training purchases.
        categories: (N,) category of each item; without it there is no calibration (NaN).

    Returns:
        A row a list.
    """
    popularity = np.asarray(popularity, float)
    codes = None if categories is None else pd.factorize(np.asarray(categories))[0]
    rows = []
    for items, history in zip(lists, histories, strict=True):
        own = popularity[np.asarray(history, int)].mean()
        if not len(items):
            rows.append((np.nan, own, np.nan, np.nan))
            continue
        mean = popularity[np.asarray(items, int)].mean()
        kl = np.nan if codes is None else _kl(codes[np.asarray(history, int)], codes[np.asarray(items, int)], mix)
        rows.append((mean, own, mean / own - 1 if own else np.nan, kl))
    return pd.DataFrame(rows, columns=["popularity", "history_popularity", "lift", "calibration"])


def concentration(lists: Sequence[Sequence[int]], num_items: int) -> dict[str, float]:
    """How the places of all lists are spread over the catalogue.

    gini      0 where every item stands equally often, near 1 where one item has every place; NaN for empty lists
    coverage  share of the catalogue that stands in any list
    """
    counts = np.bincount(np.concatenate([np.asarray(items, int) for items in lists]), minlength=num_items)
    if not counts.sum():
        return {"gini": float("nan"), "coverage": 0.0}
    place = np.arange(1, num_items + 1)
    gini = ((2 * place - num_items - 1) * np.sort(counts)).sum() / (num_items * counts.sum())
    return {"gini": float(gini), "coverage": float((counts > 0).mean())}


def popularity_lift(table: pd.DataFrame, users: Sequence, resamples: int = 2_000, seed: int = 0) -> dict[str, float]:
    """Mean popularity of all lists against that of their histories: `popularity`, `history_popularity`, `lift` =
    their ratio − 1, with `low` and `high` (95 %, over users). Rows without a list are left out; all NaN without any.

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
    bounds = np.percentile(lifts, [2.5, 97.5])
    return dict(zip(names, map(float, (*mean, mean[0] / mean[1] - 1, *bounds)), strict=True))


def worst_group(
    values: Sequence[float],
    labels: pd.DataFrame,
    users: Sequence,
    fewest: int = 20,
    resamples: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """For each way of grouping, how far the worst group falls behind all samples.

    The worst group is the one with the lowest mean here; the interval is that of its own gap and does not account for
    its being picked. Ways with fewer than two groups of `fewest` samples are left out.

    Args:
        values: (S,) such as NDCG@10.
        labels: S rows, a column a way of grouping.

    Returns:
        `slicing`, `group`, `samples`, `mean` of the group, `overall`, `difference` (group − overall), `ci95`, `label`.
    """
    values, rows = np.asarray(values, float), []
    for slicing in labels:
        groups = labels[slicing].astype("str").to_numpy()
        sizes = pd.Series(groups).value_counts()
        kept = sizes.index[sizes >= fewest]
        if len(kept) < 2:
            continue
        name = min(sorted(kept), key=lambda group: values[groups == group].mean())
        inside = (groups == name).astype(float)
        drawn = bootstrap(np.column_stack([values * inside, inside, values]), users, resamples, seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            gaps = drawn[:, 0] / drawn[:, 1] - drawn[:, 2]
        low, high = np.nanpercentile(gaps, [2.5, 97.5])
        mean, overall = values[inside > 0].mean(), values.mean()
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
        A row a sample: `user_id`, `changed` (1 − |A ∩ B| / K of the top items), `first_changed`, `mentioned`, and
        `silent`: the first item changed though neither reasoning mentions the cue.
    """
    words, rows = {word.lower() for word in words}, []
    for row_a, row_b, *texts in zip(a.itertuples(), b.itertuples(), texts_a, texts_b, strict=True):
        top_a, top_b = list(row_a.top_items), list(row_b.top_items)
        changed = 1 - len(set(top_a) & set(top_b)) / len(top_a)
        mentioned = any(words & set(_split(text)) for text in texts)
        first = top_a[0] != top_b[0]
        rows.append((row_a.user_id, changed, float(first), float(mentioned), float(first and not mentioned)))
    return pd.DataFrame(rows, columns=["user_id", "changed", "first_changed", "mentioned", "silent"])


def cue_words(a: str, b: str) -> set[str]:
    """The words in which two cues differ.

    >>> sorted(cue_words("The shopper is a woman.", "The shopper is a man."))
    ['man', 'woman']
    """
    return set(_split(a)) ^ set(_split(b))


def _split(text: str) -> list[str]:
    return "".join(sign if sign.isalnum() else " " for sign in text.lower()).split()


def _kl(history: np.ndarray, listed: np.ndarray, mix: float) -> float:
    names = np.unique(history)
    p = np.array([(history == name).mean() for name in names])
    q = (1 - mix) * np.array([(listed == name).mean() for name in names]) + mix * p
    return float(max(0.0, (p * np.log(p / q)).sum()))
