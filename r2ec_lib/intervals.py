"""Means over reasonings with 95 % intervals that treat a shopper as one draw.

Closed formulas for tables of many figures; paired comparisons and bootstraps of rankings are in `statistics`. A share
has its own interval (Wilson's), which never leaves 0…1.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

Z = 1.96
COUNTS = ("tokens", "words", "quoted", "off_history", "claims")
"""Figures of `reasoning` that count something; all its others are shares of 0…1."""


def mean_interval(values: Sequence[float], clusters: Sequence) -> tuple[float, float, float]:
    """Mean of the values that are numbers, with a 95 % interval that treats each cluster (user) as one draw.

    se² = C / (C − 1) · Σ_c (Σ_{i in c} (x_i − mean))² / n², interval mean ± 1.96 se; NaN bounds with one cluster.
    """
    mean, error, _ = _clustered(values, clusters)
    return mean, mean - Z * error, mean + Z * error


def share_interval(values: Sequence[float], clusters: Sequence) -> tuple[float, float, float]:
    """Mean p of values in 0…1 with Wilson's 95 % interval, which stays in 0…1.

    The number of draws in Wilson's formula is p (1 − p) / se² with the clustered se of `mean_interval`, and the number
    of clusters where all values are equal. NaN bounds with one cluster.

    Raises:
        ValueError: a value outside 0…1.
    """
    mean, error, count = _clustered(values, clusters)
    if math.isnan(error):
        return mean, math.nan, math.nan
    if not (np.nanmin(np.asarray(values, float)) >= 0 and np.nanmax(np.asarray(values, float)) <= 1):
        raise ValueError("a share lies in 0 to 1, and a value does not; use mean_interval")
    draws = mean * (1 - mean) / error**2 if error else count
    centre = (mean + Z**2 / (2 * draws)) / (1 + Z**2 / draws)
    half = Z / (1 + Z**2 / draws) * math.sqrt(mean * (1 - mean) / draws + Z**2 / (4 * draws**2))
    return mean, max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def summarise(figures: pd.DataFrame, clusters: Sequence, counts: Sequence[str] = COUNTS) -> pd.DataFrame:
    """Mean and interval of each column: `figure`, `mean`, `low`, `high`, `count` (the rows that have a value).

    Args:
        counts: columns that are no shares; all others must lie in 0…1 and get `share_interval`.
    """
    rows = []
    for name in figures:
        interval = mean_interval if name in counts else share_interval
        rows.append((name, *interval(figures[name], clusters), int(figures[name].count())))
    return pd.DataFrame(rows, columns=["figure", "mean", "low", "high", "count"])


def against_chance(pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]], clusters: Sequence) -> pd.DataFrame:
    """Shares found and shares that chance gives, each with its interval.

    Args:
        pairs: words to (values found, values by chance), each in 0…1, a value or NaN a row.

    Returns:
        `facet` (the words), `found`, `found_low`, `found_high`, and the same of `chance`.
    """
    rows = [
        (words, *share_interval(found, clusters), *share_interval(chance, clusters))
        for words, (found, chance) in pairs.items()
    ]
    names = [f"{name}{end}" for name in ("found", "chance") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["facet", *names])


def _clustered(values: Sequence[float], clusters: Sequence) -> tuple[float, float, int]:
    """Mean, its clustered standard error, and the number of clusters."""
    table = pd.DataFrame({"x": np.asarray(values, float), "c": np.asarray(clusters)}).dropna()
    if table.empty:
        return math.nan, math.nan, 0
    mean, n = table["x"].mean(), len(table)
    sums = (table["x"] - mean).groupby(table["c"]).sum()
    count = len(sums)
    error = math.sqrt(count / (count - 1) * (sums**2).sum()) / n if count > 1 else math.nan
    return mean, error if not error < 1e-12 else 0.0, count
