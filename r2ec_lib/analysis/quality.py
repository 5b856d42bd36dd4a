"""One documented figure for the quality of a reasoning, its parts, and whether it goes with better rankings.

The index is the weighted mean of four parts, each of 0…1:

truth        share of the checkable claims that hold (the world's truth, or support by the item cards)
relevance    what holds for this shopper's history and not for everybody's (`attributes.support`, `specific`)
consistency  share of the stated values that the recommended item holds (`agreement.consistency`, `holds`)
form         (1 − repetition), and 0 where the text is empty or was cut off before `<answer>`

A reasoning that states nothing checkable earns 0 for the part: silence is no quality. The next purchase is not
read, so the index can be had at serving time; its correlation with ranking quality is a finding, not a construction.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from r2ec_lib.evaluation.uncertainty import bootstrap

PARTS = ("truth", "relevance", "consistency", "form")


def quality_index(
    form: pd.DataFrame,
    truth: Sequence[float],
    relevance: Sequence[float],
    consistency: Sequence[float],
    weights: Sequence[float] = (1, 1, 1, 1),
) -> pd.DataFrame:
    """Parts and index of each reasoning.

    Args:
        form: the table of `texts.form`.
        truth, relevance, consistency: one value of 0…1 or NaN a row of `form`.
        weights: of the parts, in the order of `PARTS`; not all zero.

    Returns:
        `truth`, `relevance`, `consistency`, `form`, `quality`, with the index of `form`.

    Raises:
        ValueError: weights that are not four, negative or all zero, or a part outside 0…1.
    """
    weights = np.asarray(weights, float)
    if weights.shape != (4,) or (weights < 0).any() or not weights.sum():
        raise ValueError(f"quality weights {weights.tolist()}; expected four, none negative, not all zero")
    good = (1 - form["repetition"]) * ~form["unclosed"] * ~form["empty"]
    columns = zip(PARTS, (truth, relevance, consistency, good), strict=True)
    table = pd.DataFrame({name: np.nan_to_num(np.asarray(values, float)) for name, values in columns}, form.index)
    if ((table < 0) | (table > 1)).any(axis=None):
        raise ValueError("a part of the quality index lies outside 0 to 1")
    return table.assign(quality=table.to_numpy() @ weights / weights.sum())


def rank_correlations(
    parts: pd.DataFrame, outcome: Sequence[float], users: Sequence, resamples: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """Spearman's correlation of each column with an outcome, such as NDCG, with a 95 % interval over users.

    Ranks are taken once, on all rows; resamples of the users redraw the rows.

    Returns:
        `facet`, `share` (the correlation; NaN where either side is constant), `low`, `high`.
    """
    y = pd.Series(np.asarray(outcome, float)).rank().to_numpy()
    y = (y - y.mean()) / max(y.std(), 1e-12)
    rows = []
    for name in parts:
        x = parts[name].rank().to_numpy()
        x = (x - x.mean()) / max(x.std(), 1e-12)
        if not x.any() or not y.any():
            rows.append((name, np.nan, np.nan, np.nan))
            continue
        moments = np.column_stack([x, y, x * x, y * y, x * y])
        drawn = _correlation(bootstrap(moments, users, resamples, seed))
        rows.append((name, float((x * y).mean()), *np.nanpercentile(drawn, [2.5, 97.5])))
    return pd.DataFrame(rows, columns=["facet", "share", "low", "high"])


def within_correlation(
    table: pd.DataFrame, a: str, b: str, group: Sequence[str], users: str, resamples: int = 2_000, seed: int = 0
) -> Mapping[str, float]:
    """Pearson's correlation of two columns among the rows of one group, such as the reasonings for one history.

    Returns:
        `correlation`, `low`, `high` (95 %, over users); NaN where a column is constant within every group.
    """
    pair = table[[a, b]].astype(float)
    within = (pair - table.assign(**pair).groupby(list(group))[[a, b]].transform("mean")).to_numpy()
    if (np.abs(within).max(axis=0, initial=0) < 1e-12).any():
        return {"correlation": np.nan, "low": np.nan, "high": np.nan}
    x, y = within.T
    moments = np.column_stack([x, y, x * x, y * y, x * y])
    drawn = _correlation(bootstrap(moments, table[users], resamples, seed))
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return {"correlation": float(_correlation(moments.mean(axis=0)[None])[0]), "low": float(low), "high": float(high)}


def worth(
    table: pd.DataFrame,
    columns: Mapping[str, str],
    outcome: str,
    group: Sequence[str],
    users: str,
    resamples: int = 2_000,
    seed: int = 0,
    fewest: int = 5,
) -> pd.DataFrame:
    """What a property of a text goes with: the difference in outcome between the rows of one group that have it and
    those that have not, such as the rewards of the reasonings for one history that state a facet or do not.

    Σ x̃ ỹ / Σ x̃² over the rows, with x̃ and ỹ the property (0 or 1) and the outcome less their group's means, so that
    groups where both kinds are equally many count most, and those of one kind do not count.

    Args:
        columns: of `table` to words; rows where a column is NaN do not count for it.
        fewest: users whose groups have both kinds that a difference needs.

    Returns:
        `facet` (the words), `share` (the difference), `low`, `high` (95 %, over users); NaN where too few groups have
        both kinds.
    """
    rows = []
    for name, words in columns.items():
        part = table.dropna(subset=[name])
        pair = part[[name, outcome]].astype(float)
        x, y = (pair - part.assign(**pair).groupby(list(group))[[name, outcome]].transform("mean")).to_numpy().T
        if part[users][np.abs(x) > 1e-12].nunique() < fewest:
            rows.append((words, np.nan, np.nan, np.nan))
            continue
        drawn = bootstrap(np.column_stack([x * y, x * x]), part[users], resamples, seed)
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = np.nanpercentile(np.where(drawn[:, 1] > 1e-12, drawn[:, 0] / drawn[:, 1], np.nan), [2.5, 97.5])
        rows.append((words, float((x * y).sum() / (x * x).sum()), float(low), float(high)))
    return pd.DataFrame(rows, columns=["facet", "share", "low", "high"])


def _correlation(moments: np.ndarray) -> np.ndarray:
    """(R,) Pearson's r from means (R, 5) of x, y, x², y², xy; NaN where one of them is constant."""
    x, y, xx, yy, xy = moments.T
    spread = np.sqrt(np.clip(xx - x * x, 0, None) * np.clip(yy - y * y, 0, None))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-12, (xy - x * y) / spread, np.nan)
