"""Small segments: who they are, what reasoning brings them, and how large an A/B test has to be.

A segment is a rule over the columns of a table of sample features, such as `history_length >= 3 and cold`. The rule is
parsed and evaluated here, node by node: column names, constants, comparisons, `in` and and/or/not, and nothing else.
Rankings tables go in, tables of numbers come out; who ranked and how is the business of `ranking`.
"""

import ast
import difflib
import math
import operator
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from r2ec_lib.evaluation.ranking import metric_values
from r2ec_lib.evaluation.uncertainty import share_interval

_COMPARISONS: dict[type, Callable] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


LONGEST_RULE = 1000
"""Characters of a rule; a longer one is a mistake, and might be nested deeper than Python evaluates."""


class SegmentError(ValueError):
    """A segment rule that cannot be used: the rule, what was found in it, and what was expected."""


def sample_features(
    samples: pd.DataFrame, items: pd.DataFrame, bought: pd.DataFrame | None = None, columns: Sequence[str] = ()
) -> pd.DataFrame:
    """What a segment rule can ask of each sample; a row a sample, in the order of `samples`.

    Args:
        samples: sample_id, user_id, timestamp, target, history, history_hours, history_ratings.
        items: the catalogue, in item-index order.
        bought: the training purchases, a row each, with `user_id` and `item`; without it the columns that need it are
            left out.
        columns: columns of `items`, such as "category", of which the last purchase's value is wanted.

    Returns:
        sample_id, user_id · history_length (purchases) · days_since_last (days from the last purchase to the target) ·
        mean_rating (of the history, NaN without one) · date (text, 2023-05-31) · last_<column> ·
        target_popularity (the target's training purchases) · cold (it has none) · history_popularity (mean training
        purchases of the history's items) · new_user (without a training purchase).

        `cold` and `target_popularity` read the target: they describe past samples, and no live user can be chosen by
        them.
    """
    last = samples["history"].map(lambda history: int(history[-1]))
    ratings = [np.asarray(given, float) for given in samples["history_ratings"]]
    features = {
        "sample_id": samples["sample_id"],
        "user_id": samples["user_id"],
        "history_length": samples["history"].map(len),
        "days_since_last": samples["history_hours"].map(lambda hours: float(hours[-1]) / 24),
        "mean_rating": [float(np.nanmean(g)) if (~np.isnan(g)).any() else math.nan for g in ratings],
        "date": samples["timestamp"].dt.strftime("%Y-%m-%d"),
    }
    features |= {f"last_{name}": items[name].to_numpy()[last] for name in columns}
    if bought is not None:
        count = bought["item"].value_counts().reindex(range(len(items)), fill_value=0).to_numpy()  # (N,)
        features["target_popularity"] = count[samples["target"]]
        features["cold"] = count[samples["target"]] == 0
        features["history_popularity"] = [count[list(history)].mean() for history in samples["history"]]
        features["new_user"] = ~samples["user_id"].isin(bought["user_id"])
    return pd.DataFrame(features).reset_index(drop=True)


# ---- rules ---------------------------------------------------------------------------------------------------------


def members(rule: str, features: pd.DataFrame) -> np.ndarray:
    """(S,) bool: which rows of a table of features a rule selects.

    >>> table = pd.DataFrame({"history_length": [1, 4, 9], "cold": [True, True, False]})
    >>> members("2 <= history_length < 9 and cold", table).tolist()
    [False, True, False]
    >>> members("history_length in [1, 9] and not cold", table).tolist()
    [False, False, True]

    A missing value equals nothing and is neither larger nor smaller than anything.

    Raises:
        SegmentError: anything but columns, numbers, texts, comparisons, `in [...]` and and/or/not; an unknown column
            (the nearest one is named); a comparison of a number with a text.
    """
    if len(rule) > LONGEST_RULE:
        raise SegmentError(f"the segment rule has {len(rule)} characters; expected at most {LONGEST_RULE}")
    try:
        tree = ast.parse(rule.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SegmentError(f"segment rule {rule!r} cannot be read ({error}); expected column >= 3 and …") from error
    return _truth(tree, features, rule)


def _truth(node: ast.expr, features: pd.DataFrame, rule: str) -> np.ndarray:
    """(S,) bool of one condition."""
    if isinstance(node, ast.BoolOp):
        parts = [_truth(part, features, rule) for part in node.values]
        return (np.logical_and if isinstance(node.op, ast.And) else np.logical_or).reduce(parts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_truth(node.operand, features, rule)
    if isinstance(node, ast.Name):
        column = _column(node, features, rule)
        if column.dtype != bool:
            raise SegmentError(f"segment rule {rule!r}: {node.id} is no condition by itself; compare it with a value")
        return column.to_numpy()
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        parts = [
            _compared(left, relation, right, features, rule)
            for left, relation, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return np.logical_and.reduce(parts)
    raise _refused(node, rule)


def _compared(left: ast.expr, relation: ast.cmpop, right: ast.expr, features: pd.DataFrame, rule: str) -> np.ndarray:
    if isinstance(relation, (ast.In, ast.NotIn)):
        if not isinstance(right, (ast.List, ast.Tuple)):
            raise _refused(right, rule)
        inside = np.zeros(len(features), bool)
        for value in right.elts:
            inside |= _compared(left, ast.Eq(), value, features, rule)
        return inside if isinstance(relation, ast.In) else ~inside
    if type(relation) not in _COMPARISONS:
        raise _refused(relation, rule)
    a, b = (_value(side, features, rule) for side in (left, right))
    if not isinstance(a, pd.Series) and not isinstance(b, pd.Series):
        raise SegmentError(f"segment rule {rule!r}: {ast.unparse(left)} and {ast.unparse(right)} are both constants")
    if _is_text(a) != _is_text(b):
        raise SegmentError(
            f"segment rule {rule!r}: {ast.unparse(left)} and {ast.unparse(right)} cannot be compared, one is a text "
            "and the other is not; quote texts and dates, and no numbers"
        )
    return np.asarray(_COMPARISONS[type(relation)](a, b), bool)


def _value(node: ast.expr, features: pd.DataFrame, rule: str) -> pd.Series | float | str | bool:
    if isinstance(node, ast.Name):
        return _column(node, features, rule)
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float, str)):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, features, rule)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return -number
    raise _refused(node, rule)


def _column(node: ast.Name, features: pd.DataFrame, rule: str) -> pd.Series:
    if node.id not in features:
        near = difflib.get_close_matches(node.id, map(str, features.columns), n=1)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        raise SegmentError(
            f'segment rule {rule!r}: unknown column "{node.id}"{hint}; expected one of {", ".join(features.columns)}'
        )
    return features[node.id]


def _is_text(value: pd.Series | float | str | bool) -> bool:
    return isinstance(value, str) or (isinstance(value, pd.Series) and not pd.api.types.is_numeric_dtype(value))


def _refused(node: ast.AST, rule: str) -> SegmentError:
    found = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
    return SegmentError(
        f"segment rule {rule!r}: {found} is not allowed; expected columns, numbers, texts in quotes, comparisons "
        "(== != < <= > >= in [...]), and, or, not"
    )


# ---- figures -------------------------------------------------------------------------------------------------------


def segment_metrics(
    rankings: pd.DataFrame,
    inside: pd.Series,
    metrics: Sequence[str],
    compare: Callable[..., dict],
    a: str = "with reasoning",
    b: str = "without reasoning",
) -> pd.DataFrame:
    """Metrics with and without reasoning in a segment, with 95 % intervals that take users as the unit.

    Args:
        rankings: a row a model and sample: model (`a` or `b`), sample_id, user_id, rank.
        inside: bool by sample_id, True in the segment.
        compare: (ranks of a, ranks of b, users, metric) to a mapping with `difference` and `ci95`, such as
            `uncertainty.paired_bootstrap`.

    Returns:
        metric, `a` with its low and high, `b` with its own, difference (a − b), ci95, deviation (standard deviation of
        `b`'s values over samples, what `mean_sample_size` asks), samples, users.

    Raises:
        ValueError: an empty segment, or samples that only one of the two ranked.
    """
    ranked = rankings[rankings["sample_id"].map(inside).fillna(False).astype(bool)]
    ranks = ranked.pivot(index="sample_id", columns="model", values="rank").reindex(columns=[a, b])
    if ranks.empty or ranks.isna().any(axis=None):
        raise ValueError(f"the segment has {len(ranks)} samples, ranked by both: {len(ranks.dropna())}; expected all")
    users = ranked.drop_duplicates("sample_id").set_index("sample_id")["user_id"].loc[ranks.index]
    rows = []
    for metric in metrics:
        row = {"metric": metric}
        for name in (a, b):
            row[name], row[f"{name}, low"], row[f"{name}, high"] = share_interval(
                metric_values(ranks[name].to_numpy(), metric), users
            )
        found = compare(ranks[a].to_numpy(), ranks[b].to_numpy(), users.to_numpy(), metric)
        spread = float(np.std(metric_values(ranks[b].to_numpy(), metric), ddof=1)) if len(ranks) > 1 else math.nan
        row |= {"difference": found["difference"], "ci95": found["ci95"], "deviation": spread}
        rows.append(row | {"samples": len(ranks), "users": users.nunique()})
    return pd.DataFrame(rows)


def tall(table: pd.DataFrame, a: str = "with reasoning", b: str = "without reasoning") -> pd.DataFrame:
    """The table of `segment_metrics` for the page, three rows a metric: `metric`, `ranked` (`a`, `b` or "difference"),
    `value`, `from`, `to`, `deviation` (of `b` alone), `samples`, `users`."""
    rows = []
    for row in table.to_dict("records"):
        counts = {"samples": row["samples"], "users": row["users"]}
        for name in (a, b):
            values = {"value": row[name], "from": row[f"{name}, low"], "to": row[f"{name}, high"]}
            spread = {"deviation": row["deviation"] if name == b else math.nan}
            rows.append({"metric": row["metric"], "ranked": name, **values, **spread, **counts})
        low, high = row["ci95"]
        ends = {"value": row["difference"], "from": low, "to": high, "deviation": math.nan}
        rows.append({"metric": row["metric"], "ranked": "difference", **ends, **counts})
    return pd.DataFrame(rows)


# ---- how large an A/B test has to be -------------------------------------------------------------------------------


def proportion_sample_size(base: float, effect: float, level: float = 0.05, power: float = 0.8) -> int:
    """Users per arm of an A/B test that finds a share such as Hit@K changed from p₁ = `base` to p₂ = p₁ + `effect`.

    n = (z_{1−α/2} √(2 p̄ (1 − p̄)) + z_{power} √(p₁ (1 − p₁) + p₂ (1 − p₂)))² / effect², p̄ = (p₁ + p₂) / 2, two-sided,
    one observation a user, arms of equal size (J. Fleiss, Statistical Methods for Rates and Proportions).

    >>> proportion_sample_size(0.10, 0.02)  # (1.960 √(2 · 0.11 · 0.89) + 0.842 √(0.09 + 0.1056))² / 0.02²
    3841
    """
    changed = base + effect
    if not 0 <= base <= 1 or not 0 <= changed <= 1:
        raise ValueError(f"a share of {base} changed by {effect} is {changed}; expected shares from 0 to 1")
    at, found = _quantiles(effect, level, power)
    middle = (base + changed) / 2
    spread = at * math.sqrt(2 * middle * (1 - middle))
    spread += found * math.sqrt(base * (1 - base) + changed * (1 - changed))
    return math.ceil((spread / effect) ** 2 - 1e-9)


def mean_sample_size(deviation: float, effect: float, level: float = 0.05, power: float = 0.8) -> int:
    """Users per arm of an A/B test that finds a change of a mean, such as NDCG@K, by `effect`.

    n = 2 (z_{1−α/2} + z_{power})² σ² / effect², two-sided, with σ = `deviation` of one user's value in either arm.

    >>> mean_sample_size(0.3, 0.02)  # 2 (1.960 + 0.842)² 0.3² / 0.02²
    3532
    """
    if not 0 <= deviation < math.inf:
        raise ValueError(f"the standard deviation is {deviation}; expected a number from 0 up")
    at, found = _quantiles(effect, level, power)
    return max(1, math.ceil(2 * ((at + found) * deviation / effect) ** 2 - 1e-9))


def _quantiles(effect: float, level: float, power: float) -> tuple[float, float]:
    if not math.isfinite(effect) or effect == 0:
        raise ValueError(f"the effect is {effect}; expected a difference other than 0")
    if not 0 < level < 1 or not level < power < 1:
        raise ValueError(f"level {level} and power {power}; expected 0 < level < power < 1")
    return float(norm.ppf(1 - level / 2)), float(norm.ppf(power))


def ab_sizes(
    table: pd.DataFrame,
    relative: Sequence[float],
    level: float = 0.05,
    power: float = 0.8,
    b: str = "without reasoning",
) -> pd.DataFrame:
    """The A/B test that each metric of `segment_metrics` needs for relative effects on `b`, such as 0.05 for 5 %.

    Returns:
        metric, relative, effect (absolute), users_per_arm: for shares (hit@K) by `proportion_sample_size`, for means
        (ndcg@K) by `mean_sample_size`; NaN where `b` is 0, or a share would pass 1.
    """
    rows = []
    for row in table.to_dict("records"):
        for share in relative:
            effect, size = share * row[b], math.nan
            if effect and (not row["metric"].startswith("hit") or row[b] + effect <= 1):
                if row["metric"].startswith("hit"):
                    size = proportion_sample_size(row[b], effect, level, power)
                else:
                    size = mean_sample_size(row["deviation"], effect, level, power)
            rows.append({"metric": row["metric"], "relative": share, "effect": effect, "users_per_arm": size})
    return pd.DataFrame(rows)
