"""Small segments: who they are, what reasoning brings them, and how large an A/B test has to be.

A segment is a rule over the columns of a table of sample features, such as `history_length >= 3 and cold`. A rule is
foreign text, so it is parsed and evaluated here, node by node: column names, constants, comparisons, `in` and
and/or/not, and nothing else. Ranking is not done here; rankings tables go in, tables of numbers come out.
"""

import ast
import difflib
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.power import normal_sample_size_one_tail
from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

from r2ec_lib.evaluation.ranking import metric_values
from r2ec_lib.evaluation.uncertainty import share_interval, users_of

WITH, WITHOUT = "with reasoning", "without reasoning"
LONGEST_RULE = 1000
"""Characters of a rule; a longer one is a mistake, and might be nested deeper than Python evaluates."""


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
        bought: one row per training purchase, with `user_id` and `item`.
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


# ---- rules ---------------------------------------------------------------------------------------------------------

_COMPARISONS: dict[type[ast.cmpop], Callable] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def members(rule: str, features: pd.DataFrame) -> np.ndarray:
    """(S,) bool: which rows of a table of features a rule selects.

    >>> table = pd.DataFrame({"history_length": [1, 4, 9], "cold": [True, True, False]})
    >>> members("2 <= history_length < 9 and cold", table).tolist()
    [False, True, False]
    >>> members("history_length in [1, 9] and not cold", table).tolist()
    [False, False, True]

    A missing value equals nothing and is neither larger nor smaller than anything. Raises SegmentError for anything
    but columns, numbers, texts, comparisons, `in [...]` and and/or/not; for an unknown column (the nearest one is
    named); and for a comparison of a number with a text.
    """
    if len(rule) > LONGEST_RULE:
        raise SegmentError(f"the segment rule has {len(rule)} characters; expected at most {LONGEST_RULE}")
    try:
        tree = ast.parse(rule.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SegmentError(f"segment rule {rule!r} cannot be read ({error}); expected column >= 3 and …") from error
    try:
        return _condition(tree, features)
    except SegmentError as error:
        raise SegmentError(f"segment rule {rule!r}: {error}") from None


def _condition(node: ast.expr, features: pd.DataFrame) -> np.ndarray:
    """(S,) bool."""
    match node:
        case ast.BoolOp(op=op, values=parts):
            combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return combine.reduce([_condition(part, features) for part in parts])
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return ~_condition(part, features)
        case ast.Compare(left=left, ops=relations, comparators=others):
            pairs = zip([left, *others], relations, others, strict=False)
            return np.logical_and.reduce([_compared(*pair, features) for pair in pairs])
        case ast.Name(id=name):
            column = _value(node, features)
            if column.dtype != bool:
                raise SegmentError(f"{name} is no condition by itself; compare it with a value")
            return column.to_numpy()
    raise _refused(node)


def _compared(left: ast.expr, relation: ast.cmpop, right: ast.expr, features: pd.DataFrame) -> np.ndarray:
    """(S,) bool of one comparison."""
    if isinstance(relation, ast.In | ast.NotIn):
        if not isinstance(right, ast.List | ast.Tuple):
            raise _refused(right)
        equal = [_compared(left, ast.Eq(), value, features) for value in right.elts]
        inside = np.logical_or.reduce([np.zeros(len(features), bool), *equal])
        return inside if isinstance(relation, ast.In) else ~inside
    if type(relation) not in _COMPARISONS:
        raise _refused(relation)
    a, b = _value(left, features), _value(right, features)
    texts = f"{ast.unparse(left)} and {ast.unparse(right)}"
    if not isinstance(a, pd.Series) and not isinstance(b, pd.Series):
        raise SegmentError(f"{texts} are both constants; expected a column on one side")
    if pd.api.types.is_numeric_dtype(pd.Series(a)) != pd.api.types.is_numeric_dtype(pd.Series(b)):
        raise SegmentError(
            f"{texts} cannot be compared, one is a text and the other is not; quote texts and dates, and no numbers"
        )
    return np.asarray(_COMPARISONS[type(relation)](a, b), bool)


def _value(node: ast.expr, features: pd.DataFrame) -> Any:
    """A column of the features, or a constant."""
    match node:
        case ast.Name(id=name) if name in features:
            return features[name]
        case ast.Name(id=name):
            near = difflib.get_close_matches(name, map(str, features.columns), n=1)
            hint = f' (did you mean "{near[0]}"?)' if near else ""
            raise SegmentError(f'unknown column "{name}"{hint}; expected one of {", ".join(features.columns)}')
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if (
            type(value) is not bool
        ):
            return -value
    raise _refused(node)


def _refused(node: ast.AST) -> SegmentError:
    text = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
    return SegmentError(
        f"{text} is not allowed; expected columns, numbers, texts in quotes, comparisons "
        "(== != < <= > >= in [...]), and, or, not"
    )


# ---- figures -------------------------------------------------------------------------------------------------------


def segment_metrics(
    rankings: pd.DataFrame, inside: pd.Series, metrics: Sequence[str], compare: Callable[..., dict]
) -> pd.DataFrame:
    """Metrics with and without reasoning in a segment, and their difference, with 95 % intervals over users.

    Args:
        rankings: one row per model and sample: model (`WITH` or `WITHOUT`), sample_id, user_id, rank.
        inside: bool by sample_id, True in the segment.
        compare: (ranks of a, ranks of b, users, metric) to a mapping with `difference` and `ci95`, such as
            `uncertainty.paired_bootstrap`.

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
    rows = []
    for metric in metrics:
        for name in ranks:
            values = metric_values(ranks[name].to_numpy(), metric)
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            rows.append((metric, name, *share_interval(values, users), spread))
        gain = compare(ranks[WITH].to_numpy(), ranks[WITHOUT].to_numpy(), users.to_numpy(), metric)
        rows.append((metric, "difference", gain["difference"], *gain["ci95"], math.nan))
    table = pd.DataFrame(rows, columns=["metric", "ranked", "value", "from", "to", "deviation"])
    return table.assign(samples=len(ranks), users=users.nunique())


# ---- how large an A/B test has to be -------------------------------------------------------------------------------


def proportion_sample_size(base: float, effect: float, level: float = 0.05, power: float = 0.8) -> int:
    """Users per arm of an A/B test that finds a share such as Hit@K changed from p₁ = `base` to p₂ = p₁ + `effect`.

    n = (z_{1−α/2} √(2 p̄ (1 − p̄)) + z_{power} √(p₁ (1 − p₁) + p₂ (1 − p₂)))² / effect², p̄ = (p₁ + p₂) / 2, two-sided,
    one observation per user, arms of equal size (J. Fleiss, Statistical Methods for Rates and Proportions).

    >>> proportion_sample_size(0.10, 0.02)  # (1.960 √(2 · 0.11 · 0.89) + 0.842 √(0.09 + 0.1056))² / 0.02²
    3841
    """
    if not 0 <= base <= 1 or not 0 <= base + effect <= 1:
        raise ValueError(f"a share of {base} changed by {effect} is {base + effect}; expected shares from 0 to 1")
    _check_plan(effect, level, power)
    return math.ceil(samplesize_proportions_2indep_onetail(effect, base, power, alpha=level) - 1e-9)


def mean_sample_size(deviation: float, effect: float, level: float = 0.05, power: float = 0.8) -> int:
    """Users per arm of an A/B test that finds a change of a mean, such as NDCG@K, by `effect`.

    n = 2 (z_{1−α/2} + z_{power})² σ² / effect², two-sided, with σ = `deviation` of one user's value in either arm.

    >>> mean_sample_size(0.3, 0.02)  # 2 (1.960 + 0.842)² 0.3² / 0.02²
    3532
    """
    if not 0 <= deviation < math.inf:
        raise ValueError(f"the standard deviation is {deviation}; expected a number from 0 up")
    _check_plan(effect, level, power)
    size = normal_sample_size_one_tail(effect, power, level / 2, std_null=math.sqrt(2) * deviation)
    return max(1, math.ceil(size - 1e-9))


def _check_plan(effect: float, level: float, power: float) -> None:
    if not math.isfinite(effect) or effect == 0:
        raise ValueError(f"the effect is {effect}; expected a difference other than 0")
    if not 0 < level < 1 or not level < power < 1:
        raise ValueError(f"level {level} and power {power}; expected 0 < level < power < 1")


def ab_sizes(table: pd.DataFrame, relative: Sequence[float], level: float = 0.05, power: float = 0.8) -> pd.DataFrame:
    """The A/B test that each metric of `segment_metrics` needs for relative effects, such as 0.05 for 5 %: metric,
    relative, effect (absolute) and users_per_arm, for shares (hit@K) by `proportion_sample_size`, for means (ndcg@K)
    by `mean_sample_size`; NaN where the base, without reasoning, is 0, or a share would pass 1."""
    rows = []
    for row in table[table["ranked"] == WITHOUT].to_dict("records"):
        is_share, base = row["metric"].startswith("hit"), row["value"]
        for part in relative:
            effect, size = part * base, math.nan
            if is_share and effect and base + effect <= 1:
                size = proportion_sample_size(base, effect, level, power)
            elif effect and not is_share:
                size = mean_sample_size(row["deviation"], effect, level, power)
            rows.append({"metric": row["metric"], "relative": part, "effect": effect, "users_per_arm": size})
    return pd.DataFrame(rows)
