"""Small segments: who they are, what reasoning brings them, and how large an A/B test has to be.

A segment is a rule over the columns of a table of sample features, such as `history_length >= 3 and cold`. A rule is
foreign text, so pandas evaluates it only where it holds column names, constants, comparisons, `in` and and/or/not, and
nothing else. Ranking is not done here; rankings tables go in, tables of numbers come out.
"""

import ast
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from r2ec_lib.evaluation.ranking import metric_values
from r2ec_lib.evaluation.uncertainty import DETECTABLE, difference, resample, share_interval, users_of

WITH, WITHOUT = "with reasoning", "without reasoning"
LONGEST_RULE = 1000
"""Characters of a rule; a longer one is a mistake, and might be nested deeper than Python can parse."""


class SegmentError(ValueError):
    """A segment rule that cannot be used: the rule, what is wrong in it, and what was expected."""


def sample_features(samples: pd.DataFrame, items: pd.DataFrame, bought: pd.DataFrame) -> pd.DataFrame:
    """What a segment rule can ask of each sample: one row per sample, in the order of `samples`.

    sample_id, user_id · history_length (purchases) · days_since_last (days from the last purchase to the target) ·
    mean_rating (of the history, NaN without one) · date (text, 2023-05-31) · target_popularity (the target's training
    purchases) · cold (it has none) · history_popularity (mean training purchases of the history's items) · new_user
    (without a training purchase). `cold` and `target_popularity` read the target: they describe past samples, and no
    live user can be chosen by them.

    Args:
        items: the catalogue, in item-index order.
        bought: the purchases that training samples show, with `user_id` and `item` (`data.purchases.actions`), so that
            *cold* and *new* mean what they mean in the slices of `uncertainty.slice_labels`.
    """
    ratings = [np.asarray(given, float) for given in samples["history_ratings"]]
    count = bought["item"].value_counts().reindex(range(len(items)), fill_value=0).to_numpy()  # (N,)
    features = {
        "sample_id": samples["sample_id"],
        "user_id": samples["user_id"],
        "history_length": samples["history"].map(len),
        "days_since_last": samples["history_hours"].map(lambda hours: float(hours[-1]) / 24),
        "mean_rating": [float(np.nanmean(g)) if (~np.isnan(g)).any() else math.nan for g in ratings],
        "date": samples["timestamp"].dt.strftime("%Y-%m-%d"),
        "target_popularity": count[samples["target"]],
        "cold": count[samples["target"]] == 0,
        "history_popularity": [count[list(history)].mean() for history in samples["history"]],
        "new_user": ~samples["user_id"].isin(bought["user_id"]),
    }
    return pd.DataFrame(features).reset_index(drop=True)


_LOGIC = (ast.BoolOp, ast.And, ast.Or, ast.Not, ast.USub, ast.Name, ast.Load, ast.List, ast.Tuple)
_ALLOWED = (*_LOGIC, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn)


def members(rule: str, features: pd.DataFrame) -> np.ndarray:
    """(S,) bool: which rows of a table of features a rule selects.

    >>> table = pd.DataFrame({"history_length": [1, 4, 9], "cold": [True, True, False]})
    >>> members("2 <= history_length < 9 and cold", table).tolist()
    [False, True, False]
    >>> members("history_length in [1, 9] and not cold", table).tolist()
    [False, False, True]

    A missing value equals nothing and is neither larger nor smaller than anything. Raises SegmentError for anything
    but columns, numbers, texts, comparisons, `in [...]` and and/or/not; for an unknown column; and for a
    comparison of a number with a text.
    """
    try:
        if len(rule) > LONGEST_RULE:
            raise ValueError(f"{len(rule)} characters; expected at most {LONGEST_RULE}")
        for node in ast.walk(ast.parse(rule.strip(), mode="eval").body):
            _check(node, features)
        selected = features.eval(rule.strip(), engine="python")
        if not (isinstance(selected, pd.Series) and selected.dtype == bool):
            raise ValueError("no condition; expected columns that are compared with values")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, NotImplementedError) as error:
        raise SegmentError(f"segment rule {rule[:80]!r}: {error}") from error
    return np.asarray(selected)


def check(rule: str) -> None:
    """Raises SegmentError for a rule that `members` would refuse on any `sample_features`: before there are some."""
    one = {"sample_id": [0], "user_id": ["a"], "timestamp": [pd.Timestamp(0)], "target": [0], "history": [[0]]}
    sample = pd.DataFrame(one | {"history_hours": [[0.0]], "history_ratings": [[0.0]]})
    members(rule, sample_features(sample, sample, pd.DataFrame({"user_id": ["a"], "item": [0]})))


def _check(node: ast.AST, features: pd.DataFrame) -> None:
    """Raises ValueError for a part of a rule that is not allowed."""
    allowed = isinstance(node, _ALLOWED)
    match node:
        case ast.Name(id=name) if name not in features:
            raise ValueError(f'unknown column "{name}"; expected one of {", ".join(features.columns)}')
        case ast.Compare(left=left, comparators=others):
            nested = [getattr(part, "elts", [part]) for part in (left, *others)]
            if len({_is_text(part, features) for parts in nested for part in parts}) > 1:
                raise ValueError(
                    f"in {ast.unparse(node)} one is a text and the other is not; quote texts and dates, and no numbers"
                )
        case ast.Constant(value=bool() | int() | float() | str()) | ast.UnaryOp(op=ast.Not()):
            allowed = True
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            allowed = True
    if not allowed:
        text = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
        raise ValueError(
            f"{text} is not allowed; expected columns, numbers, texts in quotes, comparisons "
            "(== != < <= > >= in [...]), and, or, not"
        )


def _is_text(node: ast.expr, features: pd.DataFrame) -> bool:
    if isinstance(node, ast.Name):
        _check(node, features)  # a name that nobody knows is no matter of types
        return not pd.api.types.is_numeric_dtype(features[node.id])
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def segment_metrics(
    rankings: pd.DataFrame, inside: pd.Series, metrics: Sequence[str], resamples: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """Metrics with and without reasoning in a segment, and their difference, with 95 % intervals over users.

    Args:
        rankings: one row per model and sample: model (`WITH` or `WITHOUT`), sample_id, user_id, rank.
        inside: bool by sample_id, True in the segment.

    Returns:
        Three rows per metric: metric, ranked (`WITH`, `WITHOUT` or "difference"), value, from, to, deviation (standard
            deviation over samples; NaN for the difference), samples, users.

    Raises:
        ValueError: an empty segment, or samples that only one of the two ranked.
    """
    ranked = rankings[rankings["sample_id"].map(inside).fillna(False).astype(bool)]
    ranks = ranked.pivot(index="sample_id", columns="model", values="rank").reindex(columns=[WITH, WITHOUT])
    if ranks.empty or ranks.isna().any(axis=None):
        raise ValueError(f"the segment has {len(ranks)} samples, ranked by both: {len(ranks.dropna())}; expected all")
    users = users_of(ranked).loc[ranks.index]
    drawn = resample(ranked, metrics, resamples, seed)
    rows = []
    for metric in metrics:
        for name in ranks:
            values = metric_values(ranks[name].to_numpy(), metric)
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            rows.append((metric, name, *share_interval(values, users), spread))
        gain = difference(drawn, WITH, WITHOUT, metric)
        rows.append((metric, "difference", gain["difference"], *gain["ci95"], math.nan))
    table = pd.DataFrame(rows, columns=["metric", "ranked", "value", "from", "to", "deviation"])
    return table.assign(samples=len(ranks), users=users.nunique())


def ab_sizes(table: pd.DataFrame, relative: Sequence[float]) -> pd.DataFrame:
    """Users that each arm of an A/B test needs, a row per metric of `segment_metrics`, a column per different effect.

    n = 2 · DETECTABLE² · σ² / effect² for arms of equal size, one observation per user, a two-sided test at 5 % and
    80 % power, with the value and the deviation σ without reasoning; NaN where that value is 0.

    >>> row = {"metric": "ndcg@10", "ranked": WITHOUT, "value": 0.2, "deviation": 0.3}
    >>> ab_sizes(pd.DataFrame([row]), [0.1]).values.tolist()  # 2 (1.960 + 0.842)² 0.3² / 0.02²
    [[3532.0]]
    """
    base, relative = table[table["ranked"] == WITHOUT].set_index("metric"), list(dict.fromkeys(relative))
    effects = np.outer(base["value"].where(base["value"] > 0), relative)  # (metrics, effects)
    sizes = 2 * (DETECTABLE * base["deviation"].to_numpy()[:, None] / effects) ** 2
    return pd.DataFrame(np.ceil(sizes), base.index, [f"{100 * part:+g}%" for part in relative])
