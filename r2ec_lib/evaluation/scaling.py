"""How a result grows with a size: rows of a study that differ in one key of the recipe, and a line through them.

The line is in the logarithm of the size, so every doubling adds the same. Whether the rows follow one is tested, since
a study of three sizes can always be given a slope.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
import yaml

from r2ec_lib.data.schema import DataError
from r2ec_lib.evaluation.uncertainty import bootstrap, standard_errors

KNOWN = 1e6
"""Degrees of freedom from which on a variance is as good as known."""


def read_sizes(folders: Iterable[Path], key: str) -> dict[str, float]:
    """The value of a recipe's `key` in each finished run, by the name of its folder. Raises DataError where it is no
    number above 0, of which there is no logarithm."""
    recipes = {folder.name: (folder / "recipe.yaml").read_text(encoding="utf-8") for folder in folders}
    sizes = {name: yaml.safe_load(text)[key] for name, text in recipes.items()}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int | float) or not size > 0:
            raise DataError(f"{name}: {key} is {size!r}; a row that `grows` needs a number above 0, in the base, too.")
    return {name: float(size) for name, size in sizes.items()}


def curve(
    answers: Mapping[str, pd.DataFrame],
    runs: Mapping[str, Mapping[int, str]],
    sizes: Mapping[str, float],
    resamples: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean NDCG@20 of each row, by size.

    Args:
        answers: of `studies.read_answers`.
        runs: row -> seed -> run.
        sizes: run -> size; the runs of one row have the same.

    Returns:
        One line per row, the smallest first: row, size, seeds, mean (over seeds), se, its standard error, and what of
        it is due to seeds (seed_se); the rest is over shoppers, bootstrapped for the mean over seeds. All rows share
        one variance between seeds, pooled over those with two seeds or more; free is its degrees of freedom, 0 where
        no row has two: then nothing is known of it. half is half of the 95 % interval of the mean, by t as in `fit`.
    """
    lines, squares, free = [], 0.0, 0
    for row, of in runs.items():
        values = np.column_stack([answers[run]["ndcg@20"] for run in of.values()])  # (questions, seeds)
        users = answers[next(iter(of.values()))]["user_id"]
        draws = bootstrap(values.mean(axis=1)[:, None], users, resamples, seed)
        shoppers = float(standard_errors(draws, users.nunique())[0]) ** 2
        squares, free = squares + values.mean(axis=0).var() * len(of), free + len(of) - 1
        line = {"row": row, "size": sizes[next(iter(of.values()))], "seeds": len(of), "mean": values.mean()}
        lines.append(line | {"variance": shoppers})
    table = pd.DataFrame(lines).sort_values("size", ignore_index=True)
    between = squares / free / table["seeds"] if free else 0.0
    variance = table["variance"] + between
    freedom = np.minimum(free * (variance / between) ** 2, KNOWN) if squares else KNOWN
    errors = {"se": np.sqrt(variance), "seed_se": np.sqrt(between), "free": free}
    half = scipy.stats.t.ppf(0.975, freedom) * errors["se"]
    return table.drop(columns="variance").assign(**errors, half=half)


def fit(table: pd.DataFrame) -> dict[str, float | list[float]]:
    """The line mean = a + b · log₂ size through the rows of `curve`, each weighted by 1 / se².

    Errors are independent; rows that answer the same questions share their shoppers, which makes the interval of b
    wide rather than narrow. The variance between seeds is an estimate with `free` degrees of freedom, that over
    shoppers is taken as known; together they have ν by Welch and Satterthwaite.

    Returns:
        intercept (a), per_doubling (b), ci95 ([low, high] of b, by t with ν), and p_line: how often rows that do
        follow a line lie at least as far from it (F with rows − 2 and ν); NaN for two rows, through which any line
        goes, and like the interval where no row has two seeds. All is NaN for a single size, or where a row has no
        spread: a model that answers nothing is on no line.
    """
    if table["size"].nunique() < 2 or not (table["se"] > 0).all():
        return {"intercept": np.nan, "per_doubling": np.nan, "ci95": [np.nan, np.nan], "p_line": np.nan}
    x, y, weights = np.log2(table["size"]), table["mean"], 1 / table["se"]
    (slope, intercept), covariance = np.polyfit(x, y, 1, w=weights, cov="unscaled")
    pulls = (covariance[0, 0] * x + covariance[0, 1]) * weights**2  # b is the sum of these times the means
    seeds = float((pulls**2 * table["seed_se"] ** 2).sum())
    freedom = min(table["free"].iloc[0] * (covariance[0, 0] / seeds) ** 2, KNOWN) if seeds else np.nan
    half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(covariance[0, 0])
    free = len(table) - 2
    distance = (((y - intercept - slope * x) * weights) ** 2).sum()
    p_line = float(scipy.stats.f.sf(distance / free, free, freedom)) if free else np.nan
    ci95 = [float(slope - half), float(slope + half)]
    return {"intercept": float(intercept), "per_doubling": float(slope), "ci95": ci95, "p_line": p_line}
