"""Several runs side by side, and one run on growing parts of its data: tables in, tables out.

A run is read from what its evaluation left: `recipe.yaml`, `evaluation/metrics.json` and
`evaluation/rankings.parquet`; no model is loaded. Two sources of variance are kept apart. Another training *seed*
gives another model; its spread is read from runs that differ in their seed alone. Other *shoppers* give another test;
that spread is bootstrapped within each run.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
import yaml

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_json, read_table
from r2ec_lib.evaluation import uncertainty
from r2ec_lib.evaluation.uncertainty import Resampled

NO_VARIANT = frozenset(
    {
        *("name", "stages", "seed", "run_dir", "cache_dir"),
        *("learning_shares", "resamples", "slice_resamples", "latency_queries", "kept_items"),
    }
)
"""Keys of a recipe that do not make a run another variant: apart from the seed, no ranking depends on them."""


def nested_shares(train: pd.DataFrame, shares: Sequence[float], seed: int = 0) -> dict[float, pd.DataFrame]:
    """The samples of growing parts of the shoppers, each part inside the next; a share of 1 is all of `train`.

    All samples of a shopper stay together, and rows keep their order. ValueError for a share outside (0, 1].
    """
    if outside := [share for share in shares if not 0 < share <= 1]:
        raise ValueError(f"a share of the training shoppers is {outside[0]}; expected more than 0 and at most 1")
    users = train["user_id"].unique()
    place = train["user_id"].map(pd.Series(np.random.default_rng(seed).permutation(len(users)), users))
    return {share: train[place < max(1, round(share * len(users)))] for share in sorted(shares)}


def read_runs(folders: Iterable[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rankings, recipes) of finished evaluations: the rankings of all runs below one another, with a column `run` in
    front; the recipes with index run, one column per key. Raises DataError for a run without an evaluation, or runs
    whose test samples are not the same questions."""
    parts, recipes = [], {}
    first: tuple[str, pd.DataFrame] | None = None
    for folder in map(Path, folders):
        path = folder / "evaluation" / "rankings.parquet"
        if not path.is_file():
            raise DataError(
                f"{folder.name}: no evaluation/rankings.parquet; run its evaluation first, or leave it out."
            )
        table = read_table(path)
        questions = table.drop_duplicates("sample_id").set_index("sample_id")[["user_id", "target"]].sort_index()
        if first is not None and not questions.equals(first[1]):
            raise DataError(
                f"{folder.name} and {first[0]} were not asked the same questions; the runs of a study need the same "
                "data and the same window."
            )
        first = first or (folder.name, questions)
        parts.append(table.assign(run=folder.name)[["run", *table.columns]])
        recipes[folder.name] = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    if not parts:
        raise DataError("a study needs at least one run.")
    return pd.concat(parts, ignore_index=True), pd.DataFrame.from_dict(recipes, orient="index").rename_axis("run")


def differing(recipes: pd.DataFrame) -> list[str]:
    """Keys that two of the runs state differently; a run that did not take a stage does not state its keys."""
    return [key for key in recipes.columns if recipes[key].dropna().astype(str).nunique() > 1]


def variants(recipes: pd.DataFrame) -> pd.Series:
    """A name for each run by the keys in which the runs differ, their seed apart: runs of one name are repetitions."""
    keys = [key for key in differing(recipes) if key not in NO_VARIANT]
    if not keys:
        return pd.Series("the same settings", recipes.index, name="variant")
    texts = recipes[keys].apply(lambda row: ", ".join(f"{key} {row[key]}" for key in keys), axis=1)
    return texts.rename("variant")


def resample_runs(
    rankings: pd.DataFrame, metrics: Sequence[str], resamples: int = 2_000, seed: int = 0
) -> dict[str, Resampled]:
    """`uncertainty.resample` of each run; all answer the same questions, so all have the same drawn shoppers."""
    runs = rankings.groupby("run", sort=False)
    return {str(run): uncertainty.resample(table, metrics, resamples, seed) for run, table in runs}


def run_intervals(drawn: Mapping[str, Resampled]) -> pd.DataFrame:
    """`uncertainty.intervals` within each run, `run` in front, and `se`, the standard error over shoppers."""
    parts = []
    for run, one in drawn.items():
        table = uncertainty.intervals(one).assign(se=one.draws.std(ddof=1).to_numpy(), run=run)
        parts.append(table[["run", *table.columns.drop("run")]])
    return pd.concat(parts, ignore_index=True)


def with_best_baseline(drawn: Mapping[str, Resampled], baselines: Sequence[str]) -> dict[str, Resampled]:
    """`uncertainty.with_best` of the baselines in each run, as the model "best_baseline"."""
    return {run: uncertainty.with_best(one, "best_baseline", baselines) for run, one in drawn.items()}


def margins(drawn: Mapping[str, Resampled], a: str, others: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """By how much `a` is better than each of `others`, as the mean over runs of different seeds.

    The difference is a − b and the margin a / b − 1 within each run. Two sources of chance make their means uncertain.
    Other shoppers: the values of the runs are averaged on each resample, in which all runs have the same shoppers; u
    is its standard deviation. Other seeds: the standard deviation s from run to run, for a mean over k runs s / √k.
    Together they make a standard error √(u² + s² / k), with Student's t at the degrees of freedom of Welch and
    Satterthwaite; what seeds do to single shoppers counts in both parts, so the interval is wide rather than narrow.

    Returns:
        One row per opponent that every run has, and metric: a, b, metric, runs, users; difference (mean over runs),
        ci95 (of both sources; of a single run over shoppers alone), seed_sd (NaN for a single run), user_se and by_run
        (a list), all of the difference; relative and relative_ci95, likewise of the margin (NaN over nothing);
        collapsed (`uncertainty.collapsed`).
    """
    rows, runs = [], list(drawn.values())
    present = [b for b in others if all(b in run.means.index.get_level_values(0) for run in runs)]
    for b in present:
        for metric in metrics:
            pair, users = [(a, metric), (b, metric)], runs[0].users
            means = [run.means[pair].to_numpy() for run in runs]  # of (2,)
            resamples = [run.draws[pair].to_numpy().T for run in runs]  # of (2, R)
            row = _over_runs([x - y for x, y in means], [x - y for x, y in resamples], users)
            ratio = _over_runs(
                [float(uncertainty.relative(x, y)) for x, y in means],
                [uncertainty.relative(x, y) for x, y in resamples],
                users,
            )
            row |= {"relative": ratio["difference"], "relative_ci95": ratio["ci95"]}
            row |= {"runs": len(runs), "users": users, "collapsed": uncertainty.collapsed(runs, b, metric)}
            rows.append({"a": a, "b": b, "metric": metric} | row)
    return pd.DataFrame(rows)


def _over_runs(by_run: Sequence[float], resamples: Sequence[np.ndarray], users: int) -> dict:
    """The figures of `margins` from a value and (R,) resamples of each run."""
    resampled, count = np.mean(resamples, axis=0), len(by_run)
    mean, user_se = float(np.mean(by_run)), float(resampled.std(ddof=1))
    seed_sd, interval = np.nan, uncertainty.percentiles(resampled)
    if count > 1:
        seed_sd = float(np.std(by_run, ddof=1))
        half = _half_width(user_se, users - 1, seed_sd / np.sqrt(count), count - 1)
        interval = [mean - half, mean + half]
    by_run = [float(value) for value in by_run]
    return {"difference": mean, "ci95": interval, "seed_sd": seed_sd, "user_se": user_se, "by_run": by_run}


def _half_width(first: float, first_df: int, second: float, second_df: int) -> float:
    """Half a 95 % interval from two independent standard errors, each with its degrees of freedom."""
    total = first**2 + second**2
    if not total > 0:
        return total  # no spread at all, or no number
    df = total**2 / (first**4 / first_df + second**4 / second_df)
    return float(scipy.stats.t.ppf(0.975, df) * np.sqrt(total))


def variance_parts(intervals: pd.DataFrame, groups: pd.Series) -> pd.DataFrame:
    """Spread over seeds apart from the spread over shoppers, for each variant, model and metric.

    Args:
        intervals: of `run_intervals`.
        groups: variant of each run, as `variants` gives it.

    Returns:
        variant, model, metric, runs, mean (over runs), seed_sd (standard deviation over runs, NaN for a single run),
        user_se (standard error over shoppers, root mean square over runs), low, high: the 95 % interval of the mean
        over seeds on this test set, mean ± t · seed_sd / √runs (Student's t, runs − 1 degrees of freedom), NaN for a
        single run. All runs share the test set, so seed_sd holds no part of user_se.
    """
    table = intervals.assign(variant=intervals["run"].map(groups), variance=intervals["se"] ** 2)
    parts = table.groupby(["variant", "model", "metric"], sort=False)
    result = parts.agg(runs=("mean", "size"), mean=("mean", "mean"), seed_sd=("mean", "std"))
    result["user_se"] = np.sqrt(parts["variance"].mean())
    half = scipy.stats.t.ppf(0.975, result["runs"] - 1) * result["seed_sd"] / np.sqrt(result["runs"])
    return result.assign(low=result["mean"] - half, high=result["mean"] + half).reset_index()


def compare_variants(
    drawn: Mapping[str, Resampled], groups: pd.Series, model: str, base: str, metrics: Sequence[str]
) -> pd.DataFrame:
    """One model under each variant against the variant `base`; columns as in `uncertainty.compare`, variants in `a`
    and `b`.

    The runs of a variant are averaged on each resample, in which all have the same shoppers: the interval is over
    shoppers, with the seeds at hand as they are. ValueError without a run of `base`, or of any other variant.
    """
    runs = {variant: [drawn[run] for run in of] for variant, of in groups.groupby(groups, sort=False).groups.items()}
    if base not in runs:
        raise ValueError(f"no run of variant {base!r}; found {', '.join(sorted(runs))}")
    if len(runs) == 1:
        raise ValueError(f"every run is of variant {base!r}: nothing to compare")
    rows = []
    for metric in metrics:
        means = {name: np.mean([run.means[model, metric] for run in of]) for name, of in runs.items()}
        draws = {name: np.mean([run.draws[model, metric] for run in of], axis=0) for name, of in runs.items()}
        draws = {name: values.round(12) for name, values in draws.items()}  # so that ties stay ties
        collapsed = uncertainty.collapsed(runs[base], model, metric)
        for name in runs:
            if name != base:
                pair = np.array([means[name], means[base]]), np.column_stack([draws[name], draws[base]])
                row = uncertainty.difference(*pair) | {"collapsed": collapsed}
                rows.append({"a": name, "b": base, "metric": metric} | row)
    return uncertainty.with_holm(pd.DataFrame(rows))


def common_baselines(folders: Iterable[Path]) -> list[str]:
    """Names of the baselines that every run's evaluation counts among its baselines, in the first run's order."""
    named = [read_json(Path(folder) / "evaluation" / "metrics.json")["baselines"] for folder in folders]
    return [name for name in named[0] if all(name in other for other in named)]
