"""How sure a figure is: 95 % intervals and comparisons that take the user as the unit of chance.

Samples of one user are not independent, so users are what is drawn. Two tools, one idea: ranking metrics are
bootstrapped over users, all models and metrics on the same draws, which is what makes comparisons paired; figures of
texts, where nothing is compared, get cluster-robust closed forms. Training seeds are another source of variance and
are in `studies`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from r2ec_lib.data.splits import SOON
from r2ec_lib.evaluation.ranking import metric_values

Z = float(norm.ppf(0.975))
"""Half a 95 % interval in standard errors."""

DETECTABLE = Z + float(norm.ppf(0.8))
"""A true effect of so many standard errors is found by a single two-sided 5 % test with 80 % power; Holm's correction
asks for more, up to 5 % over the number of comparisons."""

FLOOR = "popularity"
"""The model that knows nothing of the user: what ranks below it has collapsed."""

COUNTS = ("tokens", "words", "quoted", "off_history", "claims")
"""Figures of a reasoning that count something; all others are shares from 0 to 1."""


class Resampled(NamedTuple):
    """Means of each (model, metric) on the sample, and on each of R resamples of its users."""

    means: pd.Series
    draws: pd.DataFrame
    samples: int
    users: int


def bootstrap(values: np.ndarray, users: ArrayLike, resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """(R, C) means of the columns of `values` (S, C), one row per sample, in R resamples of the `users` (S,) with
    replacement.

    A resample draws as many users as there are and takes all samples of a drawn user, so samples of one user stay
    together: mean* = Σ_u w_u Σ_{s of u} value_s / Σ_u w_u n_u, with w multinomial. All NaN for a single user, who
    tells nothing of others.
    """
    codes, names = pd.factorize(np.asarray(users))
    values = np.asarray(values, dtype=float)
    if resamples < 1 or len(values) != len(codes) or not len(codes):
        raise ValueError(f"{resamples} resamples of {len(values)} values and {len(codes)} users; expected 1 or more")
    count = len(names)
    if count == 1:
        return np.full((resamples, values.shape[1]), np.nan)
    columns = np.column_stack([np.ones(len(values)), values])  # (S, 1 + C)
    sums = np.stack([np.bincount(codes, column, count) for column in columns.T], axis=1)  # (U, 1 + C)
    rng = np.random.default_rng(seed)
    result = np.empty((resamples, values.shape[1]))
    step = max(1, 2_000_000 // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = (
            rng.integers(0, count, (rows, count), dtype=np.int32) + np.arange(rows, dtype=np.int32)[:, None] * count
        )
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        totals = weights.astype(float) @ sums  # (rows, 1 + C)
        result[start : start + rows] = totals[:, 1:] / totals[:, :1]
    return result


def resample(
    rankings: pd.DataFrame, metrics: Sequence[str], resamples: int = 10_000, seed: int = 0, samples: ArrayLike = ()
) -> Resampled:
    """Bootstraps every model and metric of a rankings table together, on the sample ids `samples` (empty: all). Raises
    ValueError where the models were not ranked on the same samples, or none is left."""
    if np.size(samples):
        rankings = rankings[rankings["sample_id"].isin(np.asarray(samples))]
    ranks = rankings.pivot(index="sample_id", columns="model", values="rank")  # (S, models)
    ranks = ranks[rankings["model"].unique()]
    if ranks.empty or ranks.isna().any(axis=None):
        short = ", ".join(f"{model} {ranks[model].notna().sum()}" for model in ranks)
        raise ValueError(f"a paired comparison needs every model on the same samples; found {short or 'no sample'}")
    users = users_of(rankings).loc[ranks.index]
    columns = pd.MultiIndex.from_product([ranks.columns, metrics], names=["model", "metric"])
    values = np.column_stack([metric_values(ranks[model].to_numpy(), metric) for model, metric in columns])
    draws = pd.DataFrame(bootstrap(values, users, resamples, seed), columns=columns)
    return Resampled(pd.Series(values.mean(axis=0), columns), draws, len(ranks), users.nunique())


def users_of(rankings: pd.DataFrame) -> pd.Series:
    """The user of each sample of a rankings table, indexed by sample_id."""
    return rankings.drop_duplicates("sample_id").set_index("sample_id")["user_id"]


def intervals(resampled: Resampled) -> pd.DataFrame:
    """Mean and 95 % interval of every model and metric: model, metric, mean, low, high, samples, users."""
    low, high = percentiles(resampled.draws.to_numpy(), resampled.users)
    table = resampled.means.rename("mean").reset_index()
    return table.assign(low=low, high=high, samples=resampled.samples, users=resampled.users)


def with_best(resampled: Resampled, name: str, members: Sequence[str]) -> Resampled:
    """Adds a model `name`: the best of `members` in each metric, chosen anew on every resample.

    Whoever is best of several on one test set owes a part of it to luck. Here `name` is as lucky on each resample, and
    luckier still where members are nearly equal: the maximum of near-equals is biased upwards. So of a lead over
    `name` only the lower end is to be trusted. A lead whose interval lies above zero does not come from the choice;
    it is not corrected for several comparisons, and another training may undo it. An interval below zero does not show
    that any member is better.
    """
    metrics = resampled.means.index.unique("metric")
    of = {(name, metric): [(member, metric) for member in members] for metric in metrics}
    columns = pd.MultiIndex.from_tuples(of, names=resampled.means.index.names)
    means = pd.Series([resampled.means[pairs].max() for pairs in of.values()], columns)
    draws = np.column_stack([resampled.draws[pairs].max(axis=1) for pairs in of.values()])
    return resampled._replace(
        means=pd.concat([resampled.means, means]),
        draws=pd.concat([resampled.draws, pd.DataFrame(draws, columns=columns)], axis=1),
    )


def compare(resampled: Resampled, a: str, others: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Model `a` against each of `others` on each metric, a row per comparison: a, b, metric, the figures of
    `difference`, collapsed (of `b`, see `collapsed`), and p_holm: p corrected by Holm over all these rows."""
    rows = []
    for metric in metrics:
        for b in others:
            row = difference(resampled, a, b, metric)
            rows.append({"a": a, "b": b, "metric": metric} | row | {"collapsed": collapsed([resampled], b, metric)})
    return with_holm(pd.DataFrame(rows))


def difference(resampled: Resampled, a: str, b: str, metric: str) -> dict:
    """Model `a` against `b` on one metric, by the same draws.

    Returns:
        difference (a − b), ci95 ([low, high] of it), relative (a / b − 1, NaN where b is 0), relative_ci95 (NaN where
        b is 0 on some resample), p (`two_sided_p`), smallest_detectable (the true difference that a test set of this
        size finds with 80 % power, uncorrected, with the t of `percentiles`).
    """
    means, draws = (values[[(a, metric), (b, metric)]].to_numpy() for values in (resampled.means, resampled.draws))
    drawn, users = draws[:, 0] - draws[:, 1], resampled.users  # drawn (R,)
    freedom = max(users - 1, 1)
    errors = (t.ppf(0.975, freedom) + t.ppf(0.8, freedom)) * math.sqrt((freedom + 1) / freedom)
    return {
        "difference": float(means[0] - means[1]),
        "ci95": percentiles(drawn, users).tolist(),
        "relative": float(relative(*means)),
        "relative_ci95": percentiles(relative(draws[:, 0], draws[:, 1]), users).tolist(),
        "p": two_sided_p(drawn, users),
        "smallest_detectable": float(errors * drawn.std()),
    }


def kept_gain(resampled: Resampled, model: str, above: str, base: str, metric: str) -> dict:
    """Which share of the gain of `above` over `base` another model keeps: (model − base) / (above − base).

    Returns:
        kept and ci95 ([low, high] of it); NaN where `above` gains nothing, for the interval on any resample.
    """
    kept, drawn = (
        (values[model, metric] - values[base, metric]) / np.where(gain > 0, gain, np.nan)
        for values in (resampled.means, resampled.draws)
        for gain in [values[above, metric] - values[base, metric]]
    )
    return {"kept": float(kept), "ci95": percentiles(drawn.to_numpy(), resampled.users).tolist()}


def with_holm(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Adds `p_holm`, the column `p` corrected by Holm's step-down method over all rows."""
    return comparisons.assign(p_holm=multipletests(comparisons["p"], method="holm")[1])


def collapsed(runs: Sequence[Resampled], model: str, metric: str) -> bool:
    """Whether `model` ranks below `FLOOR` in one of the runs: a margin over it would only tell of its failure."""
    pair = (FLOOR, metric)
    return any(pair in run.means.index and bool(run.means[model, metric] < run.means[pair]) for run in runs)


def relative(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    """a / b − 1, NaN where b is 0.

    >>> relative([3.0, 1.0], [2.0, 0.0]).tolist()
    [0.5, nan]
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return a / np.where(b == 0, np.nan, b) - 1


def two_sided_p(draws: np.ndarray, users: float) -> float:
    """p of no difference, by the inverted interval of `percentiles`; 1 where the differences (R,) are NaN.

    >>> draws = np.r_[-np.ones(3), np.ones(96)]
    >>> round(two_sided_p(draws, 1_000_000), 3), round(two_sided_p(draws, 5), 3)  # the first is 2 (3 + 1) / (99 + 1)
    (0.08, 0.192)
    """
    tail = (min((~(draws > 0)).sum(), (~(draws < 0)).sum()) + 1) / (len(draws) + 1)
    freedom = max(users - 1, 1)
    return float(min(1.0, 2 * t.sf(norm.isf(min(tail, 0.5)) * math.sqrt(freedom / (freedom + 1)), freedom)))


def percentiles(draws: np.ndarray, users: float) -> np.ndarray:
    """The 95 % percentile interval (2, …) of values (R, …) that were resampled over `users`; NaN where any of them is.

    A few users drawn anew vary less than they differ from other users: by √((U − 1) / U), and without the t of
    `mean_interval`. So the percentiles lie further out (Hesterberg 2015, the expanded percentile interval), the 2.5th
    at the 0.1st with five users and at the 2.49th with a thousand.
    """
    freedom = max(users - 1, 1)
    tail = 100 * float(norm.sf(t.ppf(0.975, freedom) * math.sqrt((freedom + 1) / freedom)))
    return np.percentile(draws, [tail, 100 - tail], axis=0)


def standard_errors(draws: np.ndarray, users: float) -> np.ndarray:
    """Standard deviations of values (R, …) that were resampled over `users`, as of samples of so many: a few users
    drawn anew vary less, by √((U − 1) / U)."""
    return draws.std(axis=0, ddof=1) * math.sqrt(users / max(users - 1, 1))


POPULARITY_THIRDS = ("rare third", "middle third", "popular third")


def slice_labels(samples: pd.DataFrame, bought: pd.DataFrame) -> pd.DataFrame:
    """Which slice each sample belongs to, by what was known before the test began: sample_id and one column per
    question.

    "target in training" (cold, warm), "target popularity" (thirds of the warm samples by the target's training
    purchases, cold apart), "history length" (spans, the last one up to the longest history), "last purchase" (within
    SOON hours before the target, or earlier), "user in training" (new, known) and "time" (first and second half of the
    samples). `bought` has one row per training purchase, with `user_id` and `item`.
    """
    count = samples["target"].map(bought["item"].value_counts()).fillna(0)
    thirds = count.where(count > 0).rank(method="average", pct=True)
    popularity = pd.cut(thirds.fillna(0), [-1, 0, 1 / 3, 2 / 3, 1], labels=["cold", *POPULARITY_THIRDS])
    lengths = samples["history"].map(len)
    ends = [*(end for end in (1, 4, 9) if end < lengths.max()), lengths.max()]
    starts = [1, *(end + 1 for end in ends[:-1])]
    spans = [f"{first}–{last}" if first < last else f"{last}" for first, last in zip(starts, ends, strict=True)]
    hours = samples["history_hours"].map(lambda past: float(past[-1]))
    early = samples["timestamp"] <= samples["timestamp"].median()
    return pd.DataFrame(
        {
            "sample_id": samples["sample_id"],
            "target in training": np.where(count > 0, "warm", "cold"),
            "target popularity": popularity,
            "history length": pd.cut(lengths, [0, *ends], labels=spans),
            "last purchase": pd.cut(hours, [-1, SOON, np.inf], labels=[f"within {SOON:g} h", "earlier"]),
            "user in training": np.where(samples["user_id"].isin(bought["user_id"]), "known", "new"),
            "time": np.where(early, "first half", "second half"),
        }
    )


def slices(
    rankings: pd.DataFrame, labels: pd.DataFrame, metric: str, resamples: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """`intervals` of one metric within every slice of `slice_labels`, with columns `slicing` and `slice` in front.

    Slices are in their natural order (rare before popular, short before long); empty ones are left out, and so are
    slicings that put all samples into one slice, which would repeat the whole.
    """
    columns = ["slicing", "slice", "model", "metric", "mean", "low", "high", "samples", "users"]
    parts = []
    for slicing in labels.columns.drop("sample_id"):
        if labels[slicing].nunique(dropna=False) == 1:
            continue
        for name, group in labels.groupby(slicing, sort=True, observed=True):
            inside = intervals(resample(rankings, [metric], resamples, seed, group["sample_id"].to_numpy()))
            parts.append(inside.assign(slicing=slicing, slice=str(name))[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def mean_interval(values: ArrayLike, users: ArrayLike) -> tuple[float, float, float]:
    """Mean of the values that are numbers, with a 95 % interval that counts each user as one draw.

    se² = U / (U − 1) · Σ_u (Σ_{i of u} (x_i − mean))² / n², interval mean ± t se with Student's t at U − 1 degrees of
    freedom, without which a few users would seem to settle a matter; NaN bounds with a single user.
    """
    mean, error, count = _clustered(values, users)
    half = float(t.ppf(0.975, count - 1)) * error if count > 1 else math.nan
    return mean, mean - half, mean + half


def share_interval(values: ArrayLike, users: ArrayLike) -> tuple[float, float, float]:
    """Mean p of values from 0 to 1 with Wilson's 95 % interval, which stays in that range.

    The number of draws in Wilson's formula is p (1 − p) / se² · (z / t)², with the clustered se and the t of
    `mean_interval` (Korn & Graubard 1998), and the number of users where se is 0. NaN bounds with a single user;
    ValueError for a value outside 0…1.
    """
    mean, error, count = _clustered(values, users)
    if math.isnan(error):
        return mean, math.nan, math.nan
    if not (np.nanmin(np.asarray(values, float)) >= 0 and np.nanmax(np.asarray(values, float)) <= 1):
        raise ValueError("a share lies in 0 to 1, and a value does not; use mean_interval")
    draws = mean * (1 - mean) / error**2 * (Z / t.ppf(0.975, count - 1)) ** 2 if error else count
    low, high = proportion_confint(mean * draws, draws, method="wilson")
    return mean, max(0.0, min(float(low), mean)), min(1.0, max(float(high), mean))


def summarise(figures: pd.DataFrame, users: ArrayLike) -> pd.DataFrame:
    """Mean and interval of each column: `figure`, `mean`, `low`, `high`, `count` (of rows that have a value). All
    columns but COUNTS must lie in 0…1 and get `share_interval`; COUNTS get `mean_interval`, from 0 on."""
    rows = []
    for name in figures:
        interval = mean_interval if name in COUNTS else share_interval
        rows.append((name, *interval(figures[name], users), int(figures[name].count())))
    table = pd.DataFrame(rows, columns=["figure", "mean", "low", "high", "count"])
    return table.assign(low=table["low"].clip(lower=0))


def against_chance(pairs: Mapping[str, tuple[ArrayLike, ArrayLike]], users: ArrayLike) -> pd.DataFrame:
    """Measured shares beside those that chance gives, each with its interval: `facet`, `measured`, `measured_low`,
    `measured_high`, the same of `chance`, and of `lead`, their difference, text by text. `pairs` maps words to
    (measured values, values by chance), each in 0…1; one value or NaN per row."""
    rows = []
    for words, (one, other) in pairs.items():
        lead = mean_interval(np.asarray(one, float) - np.asarray(other, float), users)
        rows.append((words, *share_interval(one, users), *share_interval(other, users), *lead))
    names = [f"{name}{end}" for name in ("measured", "chance", "lead") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["facet", *names])


def _clustered(values: ArrayLike, users: ArrayLike) -> tuple[float, float, int]:
    """Mean, its clustered standard error, and the number of users."""
    table = pd.DataFrame({"x": np.asarray(values, float), "user": np.asarray(users)}).dropna()
    if table.empty:
        return math.nan, math.nan, 0
    mean, n = table["x"].mean(), len(table)
    sums = (table["x"] - mean).groupby(table["user"]).sum()
    count = len(sums)
    error = math.sqrt(count / (count - 1) * (sums**2).sum()) / n if count > 1 else math.nan
    return mean, error if not error < 1e-12 else 0.0, count
