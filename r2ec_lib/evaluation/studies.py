"""Several runs side by side, and the rows of a study: tables in, tables out.

A run is read from what it left: `recipe.yaml`, the tables of its evaluation, `training/log.parquet`; no model is
loaded. Two sources of variance are kept apart. Another training *seed* gives another model; its spread is read from
runs that differ in their seed alone. Other *shoppers* give another test; that spread is bootstrapped within each run.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
import yaml

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import read_json, read_table
from r2ec_lib.evaluation import uncertainty
from r2ec_lib.evaluation.ranking import metric_values
from r2ec_lib.evaluation.uncertainty import Resampled

RANKED_BY = ("01", "02", "03", "10")
"""Notebooks that rankings come from; a key that only others declare makes no other variant of a run."""
NO_VARIANT = frozenset(
    {
        *("seed", "workers", "rollout_steps", "rollout_users"),
        *("resamples", "slice_resamples", "latency_queries", "kept_items"),
        *("run_dir", "cache_dir", "data_dir", "interactions_path", "items_path"),  # all runs answer the same questions
    }
)
"""Keys of these notebooks that make none either: apart from the seed, no ranking depends on them, or on where files
lie."""

OVER_RUNS = ("difference", "ci95", "user_se", "seed_sd", "by_run", "p")
"""Of a difference over runs: its mean, the 95 % interval, the standard error over shoppers, the standard deviation
over seeds, the value of each run, and the two-sided p that belongs to the interval. The deviation and p are NaN for a
single run, whose shoppers alone do not test its variant."""


def read_runs(folders: Iterable[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(rankings, recipes) of finished evaluations: the rankings of all runs below one another, with a column `run` in
    front; the recipes with index run, one column per key of the notebooks `RANKED_BY`. Raises DataError for a run
    without an evaluation, or runs whose test samples are not the same questions."""
    parts, recipes = [], {}
    first: tuple[str, pd.DataFrame] | None = None
    for folder in map(Path, folders):
        table = _evaluated(folder, "rankings.parquet")
        questions = table.drop_duplicates("sample_id").set_index("sample_id")[["user_id", "target"]].sort_index()
        if first is not None and not questions.equals(first[1]):
            raise DataError(
                f"{folder.name} and {first[0]} were not asked the same questions; the runs of a study need the same "
                "data, the same window and the same test_samples."
            )
        first = first or (folder.name, questions)
        parts.append(table.assign(run=folder.name)[["run", *table.columns]])
        text = (folder / "recipe.yaml").read_text(encoding="utf-8")
        _, *sections = re.split(r"^# (?=\d\d_)", text, flags=re.MULTILINE)  # a recipe has its keys by notebook
        keys = ["# " + section for section in sections if section.startswith(RANKED_BY)]
        recipes[folder.name] = yaml.safe_load("".join(keys))
    if not parts:
        raise DataError("a study needs at least one run.")
    return pd.concat(parts, ignore_index=True), pd.DataFrame.from_dict(recipes, orient="index").rename_axis("run")


def _evaluated(folder: Path, name: str) -> pd.DataFrame:
    """A table that a run's evaluation has left; DataError where it is not there."""
    path = folder / "evaluation" / name
    if not path.is_file():
        raise DataError(f"{folder.name}: no evaluation/{name}; run its evaluation first, or leave it out.")
    return read_table(path)


def differing(recipes: pd.DataFrame) -> list[str]:
    """Keys that two of the runs state differently; a run that did not take a stage does not state its keys."""
    return [key for key in recipes.columns if recipes[key].dropna().astype(str).nunique() > 1]


def variants(recipes: pd.DataFrame) -> pd.Series:
    """A name for each run by the keys in which the runs differ, their seed apart: runs of one name are repetitions.

    Raises DataError for two runs of one variant that have the same seed: they are no two trainings.
    """
    keys = [key for key in differing(recipes) if key not in NO_VARIANT]
    texts = pd.Series("the same settings", recipes.index, name="variant")
    if keys:
        texts[:] = recipes[keys].apply(lambda row: ", ".join(f"{key} {row[key]}" for key in keys), axis=1)
    for (variant, seed), runs in recipes.groupby([texts, "seed"]).groups.items():
        if len(runs) > 1:
            raise DataError(
                f"{runs[0]} and {runs[1]} are one variant ({variant}) and both have seed {seed}. Name one."
            )
    return texts


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
        errors = uncertainty.standard_errors(one.draws.to_numpy(), one.users)
        table = uncertainty.intervals(one).assign(se=errors, run=run)
        parts.append(table[["run", *table.columns.drop("run")]])
    return pd.concat(parts, ignore_index=True)


def with_best_baseline(drawn: Mapping[str, Resampled], baselines: Sequence[str]) -> dict[str, Resampled]:
    """`uncertainty.with_best` of the baselines in each run, as the model "best_baseline"; none of no baselines."""
    if not baselines:
        return dict(drawn)
    return {run: uncertainty.with_best(one, "best_baseline", baselines) for run, one in drawn.items()}


def margins(drawn: Mapping[str, Resampled], a: str, others: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """By how much `a` is better than each of `others`, as the mean over runs of different seeds.

    The difference is a − b and the margin a / b − 1 within each run. Two sources of chance make their means uncertain.
    Other shoppers: the values of the runs are averaged on each resample, in which all runs have the same shoppers; u
    is its standard deviation. Other seeds: the standard deviation s from run to run, for a mean over k runs s / √k.
    Together they make a standard error √(u² + s² / k), with Student's t at the degrees of freedom of Welch and
    Satterthwaite. What seeds do to single shoppers counts in both parts, which makes the interval wide. Few runs may
    agree by luck, which makes it narrow: where seeds vary more than shoppers, it covers the truth in about 92 % with
    three runs, in 87 % with two, and in 72 to 84 % where two are kept because they agree and others get a third.

    Returns:
        One row per opponent that every run has, and metric: a, b, metric, runs, users; `OVER_RUNS` of the difference,
        whose interval covers both sources (of a single run shoppers alone); relative and relative_ci95, likewise of
        the margin (NaN over nothing); collapsed (`uncertainty.collapsed`).
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
    return pd.DataFrame(
        rows, columns=["a", "b", "metric", *OVER_RUNS, "relative", "relative_ci95", "runs", "users", "collapsed"]
    )


def _over_runs(by_run: Sequence[float], resamples: Sequence[np.ndarray], users: int) -> dict:
    """`OVER_RUNS` from a value and (R,) resamples of each run."""
    resampled, count = np.mean(resamples, axis=0), len(by_run)
    mean, user_se = float(np.mean(by_run)), float(uncertainty.standard_errors(resampled, users))
    seed_sd, p = np.nan, np.nan
    interval = uncertainty.percentiles(resampled, users).tolist()
    if count > 1:
        seed_sd = float(np.std(by_run, ddof=1))
        parts, dfs = np.array([user_se**2, seed_sd**2 / count]), np.array([users - 1, count - 1])
        error = float(np.sqrt(parts.sum()))
        df = error**4 / (parts**2 / dfs).sum() if error > 0 else dfs.sum()  # Welch and Satterthwaite
        half = float(scipy.stats.t.ppf(0.975, df) * error)
        interval = [mean - half, mean + half]
        p = float(2 * scipy.stats.t.sf(abs(mean) / error, df)) if error else float(mean == 0)
    values = (mean, interval, user_se, seed_sd, list(map(float, by_run)), p)
    return dict(zip(OVER_RUNS, values, strict=True))


def common_baselines(folders: Iterable[Path]) -> list[str]:
    """Names of the baselines that every run's evaluation counts among its baselines, in the first run's order."""
    named = [read_json(Path(folder) / "evaluation" / "metrics.json")["baselines"] for folder in folders]
    return [name for name in named[0] if all(name in other for other in named)]


MEASURES = ("ndcg@20", "hit@5", "tokens")
"""What is measured of each test question, and compared row by row; `tokens` are those of the reasoning."""
LEARNING = "learning"
"""Mean validation NDCG@10 over a training, higher for what learns sooner: one figure per run, of no question. Two runs
are compared over the steps at which both were validated, for one that stopped early has only the low beginning."""


def read_answers(folders: Iterable[Path]) -> dict[str, pd.DataFrame]:
    """What R²ec did with each test question, by run: index sample_id; user_id, target, and `MEASURES`.

    Raises DataError for a run without an evaluation.
    """
    answers = {}
    for folder in map(Path, folders):
        table = _evaluated(folder, "chains.parquet").set_index("sample_id").sort_index()
        ranked = {name: metric_values(table["rank"], name) for name in MEASURES if "@" in name}
        answers[folder.name] = table[["user_id", "target", "tokens"]].assign(**ranked)
    return answers


def read_logs(folders: Iterable[Path]) -> dict[str, pd.DataFrame]:
    """The training log of each run; runs without a training are left out."""
    paths = {Path(folder).name: Path(folder) / "training" / "log.parquet" for folder in folders}
    return {name: read_table(path) for name, path in paths.items() if path.is_file()}


def compare_rows(
    answers: Mapping[str, pd.DataFrame],
    logs: Mapping[str, pd.DataFrame],
    runs: Mapping[str, Mapping[int, str]],
    against: Mapping[str, str],
    resamples: int = 2_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every row of a study against the row that it belongs to, on the same questions and, seed by seed, as pairs.

    The difference is the mean over the seeds that both rows have. Its interval covers other seeds and other shoppers,
    as in `margins`: shoppers are bootstrapped for the mean over seeds, and the spread of the seeds' differences is
    added. With one seed in common it covers shoppers alone and has no p, so it is not among those that Holm's method
    corrects; of `LEARNING`, which has no shoppers, there is none then.

    Args:
        answers, logs: of `read_answers` and `read_logs`.
        runs: row -> seed -> run.
        against: row -> the row it is compared with; rows that name themselves are compared with none.

    Returns:
        One row per row and measure: row, against, measure, seeds, mean, by_seed (its values, a list), pairs (seeds
        that both rows have), `OVER_RUNS` of the difference and, over the rows of each measure that have a p, p_holm;
        NaN where nothing is compared.

    Raises:
        DataError: rows that are compared were not asked the same questions.
    """
    rows = []
    for base in dict.fromkeys(against.get(row, row) for row in runs):
        members = [row for row in runs if against.get(row, row) == base or row == base]
        drawn = _resample_answers(
            {run: answers[run] for row in members for run in runs[row].values()}, resamples, seed
        )
        for row in members:
            if row == base and against.get(row, row) != base:
                continue  # it has its own line where it is compared
            learned = {run: float(logs[run]["valid_ndcg@10"].mean()) for run in runs[row].values() if run in logs}
            for measure in (*MEASURES, LEARNING):
                values = (
                    learned if measure == LEARNING else {run: drawn.means[run, measure] for run in runs[row].values()}
                )
                if values:
                    by_seed = list(map(float, values.values()))
                    line = {"row": row, "against": base, "measure": measure, "seeds": len(values)}
                    line |= {"mean": float(np.mean(by_seed)), "by_seed": by_seed}
                    opponents = runs.get(base, {}) if row != base else {}
                    compared = _paired(drawn, logs, runs[row], opponents, measure)
                    rows.append(line | dict.fromkeys(OVER_RUNS, np.nan) | compared)
    table = pd.DataFrame(rows).assign(p_holm=np.nan)
    for _, part in table[table["p"].notna()].groupby("measure"):
        table.loc[part.index, "p_holm"] = uncertainty.with_holm(part)["p_holm"]
    return table


def _resample_answers(answers: Mapping[str, pd.DataFrame], resamples: int, seed: int) -> Resampled:
    """All measures of all runs on the same resamples of shoppers; columns (run, measure)."""
    (first, table), *others = answers.items()
    questions = table[["user_id", "target"]]
    for name, other in others:
        if not other[["user_id", "target"]].equals(questions):
            raise DataError(
                f"{name} and {first} were not asked the same questions; a row is compared with one of the same data."
            )
    values = pd.concat({name: one[list(MEASURES)] for name, one in answers.items()}, axis=1)
    draws = pd.DataFrame(
        uncertainty.bootstrap(values.to_numpy(float), questions["user_id"], resamples, seed), columns=values.columns
    )
    return Resampled(values.mean(), draws, len(values), questions["user_id"].nunique())


def _paired(
    drawn: Resampled, logs: Mapping[str, pd.DataFrame], row: Mapping[int, str], base: Mapping[int, str], measure: str
) -> dict:
    """The difference of one row from its base in one measure, over the seeds that both have; their number alone
    without one."""
    pairs = [(row[seed], base[seed]) for seed in row if seed in base]
    if measure == LEARNING:
        pairs = [(a, b) for a, b in pairs if a in logs and b in logs]
        valid = {run: logs[run].set_index("step")["valid_ndcg@10"] for pair in pairs for run in pair}
        by_run = [float((valid[a] - valid[b]).mean()) for a, b in pairs]  # NaN where either has no value
        resampled = [np.zeros(2)] * len(pairs)  # no shopper is asked
    else:
        by_run = [drawn.means[a, measure] - drawn.means[b, measure] for a, b in pairs]
        resampled = [(drawn.draws[a, measure] - drawn.draws[b, measure]).to_numpy() for a, b in pairs]
    if not pairs or (measure == LEARNING and len(pairs) == 1):
        return {"pairs": len(pairs)}
    return {"pairs": len(pairs)} | _over_runs(by_run, resampled, drawn.users)


def verdict(expected: str, interval: Sequence[float] | float, seeds: int, p_holm: float = np.nan) -> str:
    """Whether a claim "lower" or "higher" holds, by the 95 % interval of the difference; of one seed, it says so.

    p_holm: p of the difference after Holm's correction, NaN of a single seed. At 0.05 or more the verdict is
        "uncorrected": the interval excludes zero, which among as many intervals may be chance.

    >>> verdict("lower", [-0.3, -0.1], 2, 0.01), verdict("lower", [-0.3, -0.1], 2, 0.2)
    ('holds', 'holds, uncorrected')
    >>> verdict("lower", [-0.3, 0.1], 2), verdict("lower", [0.1, 0.3], 1)
    ('open', 'the opposite, in one training')
    """
    low, high = (np.nan, np.nan) if np.ndim(interval) == 0 else interval  # type: ignore[misc]
    signs = {"lower": high < 0, "higher": low > 0}
    if not any(signs.values()):
        return "open"
    caution = ", in one training" if seeds == 1 else ", uncorrected" if p_holm >= 0.05 else ""
    return ("holds" if signs[expected] else "the opposite") + caution


def bands(
    logs: Mapping[str, pd.DataFrame], runs: Mapping[str, Mapping[int, str]], figure: str, window: int = 1
) -> pd.DataFrame:
    """A figure of the training log over steps, as `plots.over_steps` draws it: one column per row of the study, with
    the mean over its seeds, and `<row>_low` and `<row>_high`, the lowest and the highest seed. A row has only the
    steps that all of its seeds have: the mean would jump where one stops early.

    window: steps over which each run's values are averaged first, centred.
    """
    parts = []
    for row, of in runs.items():
        known = [logs[run].set_index("step")[figure].dropna() for run in of.values() if run in logs]
        if known and all(map(len, known)):
            smooth = [one.rolling(window, center=True, min_periods=1).mean() for one in known]
            wide = pd.concat(smooth, axis=1, join="inner")
            ends = {row: wide.mean(axis=1), f"{row}_low": wide.min(axis=1), f"{row}_high": wide.max(axis=1)}
            parts.append(pd.DataFrame(ends))
    return pd.concat(parts, axis=1).sort_index().rename_axis("step").reset_index() if parts else pd.DataFrame()
