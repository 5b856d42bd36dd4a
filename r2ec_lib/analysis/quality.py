"""One documented figure for the quality of a reasoning, its parts, and whether it goes with better rankings.

The index is the mean of four parts, each of 0…1:

truth        share of the checkable claims that hold (the world's truth; else `mentions.history_claims`; for a
             reasoning without such a claim, `attributes.support` by the history)
relevance    what holds for this shopper's history and not for everybody's (`attributes.support`, `specific`)
consistency  share of the stated values that the recommended item holds (`agreement.consistency`, `holds`)
form         (1 − repetition), and 0 where the text is empty or was cut off before `<answer>`

A reasoning that states nothing checkable earns 0 for the part: silence is no quality. Where no reasoning states a
thing that the recommended item could have, as where all speak of the history alone, the index is the mean of the other
parts. The next purchase is not read, so the index can be had at serving time; its correlation with ranking quality is
a finding, not a construction.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from r2ec_lib.evaluation.uncertainty import bootstrap, percentiles

PARTS = ("truth", "relevance", "consistency", "form")
FEWEST = 5  # users that a difference within groups needs


def quality_index(
    form: pd.DataFrame,
    truth: Sequence[float],
    relevance: Sequence[float],
    consistency: Sequence[float],
) -> pd.DataFrame:
    """`truth`, `relevance`, `consistency`, `form` and their mean `quality` of each reasoning, with the index of
    `form`.

    Args:
        form: the table of `texts.form`.
        truth, relevance, consistency: one value of 0…1 or NaN per row of `form`. A consistency that is NaN in all rows
            stays so, and the mean is of the other parts.
    """
    good = (1 - form["repetition"]) * ~form["unclosed"] * ~form["empty"]
    columns = zip(PARTS, (truth, relevance, consistency, good), strict=True)
    table = pd.DataFrame({name: np.nan_to_num(np.asarray(values, float)) for name, values in columns}, form.index)
    if not np.isfinite(np.asarray(consistency, float)).any():
        table["consistency"] = np.nan
    return table.assign(quality=table.mean(axis=1))


def rank_correlations(
    parts: pd.DataFrame, outcome: Sequence[float], users: Sequence, resamples: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """Spearman's correlation of each column with an outcome, such as NDCG: `facet`, `share` (the correlation; NaN
    where either side is constant), `low`, `high` (95 %, over users). Ranks are taken once, on all rows."""
    y = pd.Series(np.asarray(outcome, float)).rank().to_numpy()
    rows = [(name, *_correlation(parts[name].rank().to_numpy(), y, users, resamples, seed)) for name in parts]
    return pd.DataFrame(rows, columns=["facet", "share", "low", "high"])


def worth(
    table: pd.DataFrame,
    columns: Mapping[str, str],
    outcome: str,
    group: Sequence[str],
    users: str,
    resamples: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """What a property of a text goes with: the difference in outcome between the rows of one group that have it and
    those that do not, such as the rewards of the reasonings for one history that state a facet or do not.

    Σ x̃ ỹ / Σ x̃² over the rows, with x̃ and ỹ the property (0 or 1) and the outcome less their group's means, so that
    groups with equally many of both kinds count most, and those of one kind do not count.

    Args:
        columns: of `table` to words; rows where a column is NaN do not count for it.

    Returns:
        `facet` (the words), `share` (the difference), `low`, `high` (95 %, over users), `count` (the users who have
            groups with both kinds); NaN where these are fewer than `FEWEST`.
    """
    rows = []
    for name, words in columns.items():
        part = table.dropna(subset=[name])
        values = part[[name, outcome]].astype(float)
        x, y = (values - values.groupby([part[key] for key in group]).transform("mean")).to_numpy().T
        deciding = part[users][np.abs(x) > 1e-12].nunique()
        if deciding < FEWEST:
            rows.append((words, np.nan, np.nan, np.nan, deciding))
            continue
        drawn = bootstrap(np.column_stack([x * y, x * x]), part[users], resamples, seed)  # (R, 2)
        drawn = drawn[drawn[:, 1] > 1e-12]
        low, high = percentiles(drawn[:, 0] / drawn[:, 1], deciding)
        rows.append((words, float((x * y).sum() / (x * x).sum()), float(low), float(high), deciding))
    return pd.DataFrame(rows, columns=["facet", "share", "low", "high", "count"])


def _correlation(
    x: np.ndarray, y: np.ndarray, users: Sequence, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Pearson's r of x and y (S,) with its 95 % interval over users; NaN where one of them is constant."""
    x, y = x - x.mean(), y - y.mean()  # moments of centred values cancel least
    if np.abs(x).max() < 1e-12 or np.abs(y).max() < 1e-12:
        return np.nan, np.nan, np.nan
    moments = np.column_stack([x, y, x * x, y * y, x * y])  # (S, 5)
    mx, my, mxx, myy, mxy = np.vstack([moments.mean(axis=0), bootstrap(moments, users, resamples, seed)]).T
    spread = np.sqrt(np.clip(mxx - mx * mx, 0, None) * np.clip(myy - my * my, 0, None))  # (1 + R,)
    r = np.divide(mxy - mx * my, spread, out=np.full_like(spread, np.nan), where=spread > 1e-12)
    drawn = r[1:][np.isfinite(r[1:])]
    if not len(drawn):  # a single user
        return float(r[0]), np.nan, np.nan
    low, high = percentiles(drawn, pd.Series(users).nunique())
    return float(r[0]), float(low), float(high)
