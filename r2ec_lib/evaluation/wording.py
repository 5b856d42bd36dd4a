"""Words of the evaluation's tables and figures: names of models and metrics, differences and margins as cells of text.

A difference comes before any percentage, and a percentage only where it means something (`holds`). The paper's tables,
copied in `published.csv`, are read and checked for cells that cannot be right; nothing else is computed here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

NAMES = {
    "r2ec": "R²ec",
    "r2ec_texts": "R²ec without its collaborative term",
    "without_reasoning_texts": "same backbone without reasoning and without the term",
    "untrained_reasoning_texts": "R²ec before RecPO, without the term",
    "term_alone": "R²ec's collaborative term alone",
    "item_term_only": "R²ec, reasoning never rewarded",
    "without_reasoning": "same backbone, trained without reasoning",
    "without_reasoning_long": "same backbone without reasoning, trained longer",
    "untrained_reasoning": "R²ec before RecPO",
    "untrained": "R²ec before RecPO, without reasoning",
    "sasrec": "SASRec",
    "caser": "Caser",
    "gru4rec": "GRU4Rec",
    "ease_and_text": "EASE and text similarity",
    "ease": "EASE",
    "text_similarity": "text similarity",
    "item_neighbours": "item neighbours",
    "recent_popularity": "recently popular",
    "popularity": "most popular",
    "best_baseline": "best baseline",
    "corrected_reasoning": "R²ec, its reasoning corrected",
    "trained_on_true_reasoning": "same backbone, trained on the true facts",
    "oracle": "oracle",
}
"""The name of each model that an evaluation may rank."""


def metric_name(metric: str) -> str:
    """The metric as readers write it.

    >>> metric_name("ndcg@20")
    'NDCG@20'
    """
    return metric.replace("ndcg", "NDCG").replace("hit", "Hit")


def mean_cells(intervals: pd.DataFrame, digits: int = 4) -> list[str]:
    """A cell such as "0.1200 (0.0900 to 0.1500)" from the mean, low and high of each row; a dash where there is no
    interval, since a single shopper tells nothing of others."""
    cells = []
    for row in intervals[["mean", "low", "high"]].to_numpy():
        mean, low, high = (f"{value:.{digits}f}" for value in row)
        cells.append("–" if pd.isna(row).any() else f"{mean} ({low} to {high})")
    return cells


def two_digits(value: float) -> str:
    """Two significant digits, as many as a few timings give.

    >>> two_digits(2229.69), two_digits(0.01241), two_digits(9.96)
    ('2,200', '0.012', '10')
    """
    return f"{float(f'{value:.2g}'):,g}"


def difference_cells(comparisons: pd.DataFrame) -> list[str]:
    """A cell such as "-0.0100 (-0.0200 to +0.0000)" from the difference and ci95 of each row; "(–)" where there is no
    interval, as with a single shopper."""
    pairs = zip(comparisons["difference"], comparisons["ci95"], strict=True)
    return [
        f"{value:+.4f} " + ("(–)" if pd.isna([low, high]).any() else f"({low:+.4f} to {high:+.4f})")
        for value, (low, high) in pairs
    ]


def margin(value: float, interval: list[float], share: bool = False) -> str:
    """A relative margin with its interval, or the share that it leaves of what it is measured against.

    >>> margin(0.5, [0.25, 0.75]), margin(-0.125, [-0.25, 0.0], share=True)
    ('+50% (+25% to +75%)', '88% (75% to 100%)')
    """
    if pd.isna([value, *interval]).any():
        return "–"
    base, sign = (1, "") if share else (0, "+")
    middle, low, high = (f"{base + part:{sign}.0%}" for part in (value, *interval))
    return f"{middle} ({low} to {high})"


def holds(row: Mapping[Any, Any]) -> bool:
    """Whether a relative margin means anything.

    It does not where the opponent collapsed (`uncertainty.collapsed`), where the opponent may be nothing at all (the
    interval is no number), and where the interval holds both signs: then not even who is ahead is known.
    """
    low, high = row["relative_ci95"]
    return not row["collapsed"] and not pd.isna([low, high]).any() and not low < 0 < high


def margin_cells(comparisons: pd.DataFrame) -> list[str]:
    """`margin` from the relative and relative_ci95 of each row, a dash where it does not hold."""
    rows = comparisons.to_dict("records")
    return [margin(row["relative"], row["relative_ci95"]) if holds(row) else "–" for row in rows]


def comparison_tables(comparisons: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of `uncertainty.compare` as one table per metric and one row per opponent, by name: difference and
    relative, with their intervals as text, p_holm and detectable."""
    tables = {}
    for metric, rows in comparisons.groupby("metric", sort=False):
        cells = {"difference": difference_cells(rows), "relative": margin_cells(rows)}
        figures = {"p_holm": rows["p_holm"].to_list(), "detectable": rows["smallest_detectable"].to_list()}
        tables[metric_name(str(metric))] = pd.DataFrame(cells | figures, index=[NAMES.get(b, b) for b in rows["b"]])
    return tables


def summary(models: Mapping[str, Mapping[str, float]], baselines: Sequence[str], student: float | None = None) -> str:
    """How often the next purchase is among the first five items, in one sentence: with R²ec, with the best baseline by
    this, the same backbone without reasoning and, where there is one, the student (its Hit@5); "" without R²ec."""
    hits = {name: values["hit@5"] for name, values in models.items() if "hit@5" in values}
    if "r2ec" not in hits:
        return ""
    rivals = {"R²ec": hits["r2ec"]}
    if best := max((name for name in baselines if name in hits), key=hits.__getitem__, default=None):
        rivals[f"the best baseline ({NAMES.get(best, best)})"] = hits[best]
    for name in [name for name in ("without_reasoning_long", "without_reasoning") if name in hits][:1]:
        rivals[f"the {NAMES[name]}"] = hits[name]
    if student is not None:
        rivals["R²ec's student, which writes nothing"] = student
    listed = "; ".join(f"{value:.0%} with {name}" for name, value in rivals.items())  # some names have commas
    return f"The next purchase is among the first five items for this share of the test questions: {listed}."


def verdict(claims: pd.DataFrame, metric: str = "ndcg@20") -> str:
    """What the intervals of `claims_table` say in one metric, in words: whom the model is ahead of, from whom it
    cannot be told, and whom it is behind. The best baseline has the luck of the test that chose it
    (`uncertainty.with_best`), so nobody is behind it."""
    rows = claims[(claims["metric"] == metric) & ~claims["share"].astype(bool)]
    low, high = (rows["ci95"].map(lambda ends, side=side: ends[side]).astype(float) for side in (0, 1))
    ahead, behind = low > 0, (high < 0) & (rows["b"] != "best_baseline")
    groups = {"is ahead of": ahead, "cannot be told from": ~ahead & ~behind, "is behind": behind}
    names = {verb: [NAMES.get(b, b) for b in rows.loc[inside, "b"]] for verb, inside in groups.items()}
    parts = [f"{verb}: {'; '.join(named)}." for verb, named in names.items() if named]  # some names have commas
    model = NAMES.get(claims["a"].iloc[0], claims["a"].iloc[0])
    return f"In {metric_name(metric)}, {model} {' It '.join(parts)}" if parts else ""


COPIED = "copied: the margin over its best baseline in the paper's abstract (v1), on its own data"


def claims_table(claims: pd.DataFrame) -> pd.DataFrame:
    """Claims as text: one row per opponent, one column per metric. A cell is the difference and, where it holds, on
    a second line the margin, each with its interval; or the share that is reached of an opponent that knows the truth.
    A last row, which says so, holds the margins of `HEADLINE`, which were not measured here.

    Args:
        claims: rows of `uncertainty.compare` or `studies.margins`, with a further column `share` (bool).
    """
    cells, metrics = [], list(dict.fromkeys(claims["metric"]))
    for row, difference, relative in zip(
        claims.to_dict("records"), difference_cells(claims), margin_cells(claims), strict=True
    ):
        text = ("reached of " if row["share"] else "against ") + NAMES.get(row["b"], row["b"])
        cell = difference if relative == "–" else f"{difference}\n{relative}"
        if row["share"]:
            cell = margin(row["relative"], row["relative_ci95"], share=True)
        cells.append({"text": text, "metric": metric_name(row["metric"]), "cell": cell})
    table = pd.DataFrame(cells)
    wide = table.pivot(index="text", columns="metric", values="cell")
    wide = wide.loc[table["text"].unique(), [metric_name(metric) for metric in metrics]]
    for metric, value in HEADLINE.items():
        wide.loc[COPIED, metric_name(metric)] = f"{value:+.2%}"
    return wide.rename_axis(index=None, columns=None)


HEADLINE = {"hit@5": 0.6867, "ndcg@20": 0.4521}
"""Relative margins over the best baseline in the paper's abstract (v1); on its data, with its backbones."""


def copied(title: str) -> pd.DataFrame:
    """A table of the paper (arXiv 2505.16994, v3), "Table 1" (full-catalogue ranking), "Ablation" or "Read-out" (of
    the Gemma backbone): index model, columns (dataset, metric), in ten-thousandths."""
    rows = pd.read_csv(Path(__file__).with_name("published.csv"))
    rows = rows[rows["table"] == title].drop(columns="table").dropna(axis="columns")
    pairs = [(dataset, metric) for dataset in rows["dataset"].unique() for metric in rows.columns[2:]]
    columns = pd.MultiIndex.from_tuples(pairs, names=["dataset", "metric"])
    wide = rows.pivot(index="model", columns="dataset").astype(int).swaplevel(axis="columns")
    return wide.reindex(index=rows["model"].unique(), columns=columns).rename_axis("model")


def beside(model: str) -> str:
    """A row of the paper's ablations as text, beside the row of the unchanged model, which ends its table.

    Raises ValueError where no table has the row.

    >>> beside("mean")
    'Hit@5: CDs 528 (588); NDCG@5: CDs 368 (388)'
    """
    rows = pd.read_csv(Path(__file__).with_name("published.csv"))
    rows = rows[rows["table"].isin(rows.loc[rows["model"] == model, "table"]) & (rows["table"] != "Table 1")]
    if rows.empty:
        raise ValueError(f"{model!r} is no row of the paper's ablations")
    whole = rows[rows["model"] == rows["model"].iloc[-1]].set_index("dataset")
    own, parts = rows[rows["model"] == model].set_index("dataset").dropna(axis="columns"), []
    for metric in own.columns.drop(["table", "model"]):
        cells = [f"{name} {own.loc[name, metric]:.0f} ({whole.loc[name, metric]:.0f})" for name in own.index]
        parts.append(f"{metric_name(metric)}: {', '.join(cells)}")
    return "; ".join(parts)


def impossible(table: pd.DataFrame) -> pd.DataFrame:
    """Which cells of a `copied` table cannot be right: with one target per question, NDCG@K cannot exceed Hit@K."""
    hits = {(data, name): table.get((data, name.replace("ndcg", "hit")), table[data, name]) for data, name in table}
    return table > pd.DataFrame(hits)
