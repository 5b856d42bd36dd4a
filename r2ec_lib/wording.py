"""Words of the evaluation's tables and figures: names of models and metrics, means and margins as cells of text.

Numbers in, text out; nothing is computed here. Figures are in `plots_evaluation`.
"""

from collections.abc import Mapping

import pandas as pd

NAMES = {
    "r2ec": "R²ec",
    "item_term_only": "R²ec, reasoning as the warm-up left it",
    "without_reasoning": "same backbone, trained without reasoning",
    "without_reasoning_long": "same backbone without reasoning, trained longer",
    "untrained_reasoning": "before training, with its reasoning",
    "untrained": "before training, without",
    "sasrec": "SASRec",
    "caser": "Caser",
    "gru4rec": "GRU4Rec",
    "text_similarity": "text similarity",
    "item_neighbours": "item neighbours",
    "recent_popularity": "recently popular",
    "popularity": "most popular",
    "best_baseline": "best of the baselines",
    "corrected_reasoning": "R²ec, its reasoning corrected",
    "trained_on_true_reasoning": "same backbone, trained on the true facts",
    "oracle": "oracle",
}
"""Of each model that an evaluation may rank."""


def metric_name(metric: str) -> str:
    """The metric as readers write it.

    >>> metric_name("ndcg@20")
    'NDCG@20'
    """
    return metric.replace("ndcg", "NDCG").replace("hit", "Hit")


def mean_cells(intervals: pd.DataFrame) -> list[str]:
    """A cell such as "0.1200 (0.0900 to 0.1500)" of each row's mean, low and high."""
    return [f"{row.mean:.4f} ({row.low:.4f} to {row.high:.4f})" for row in intervals.itertuples()]


def margin(value: float, interval: list[float], share: bool = False, decimals: int = 1) -> str:
    """A relative margin with its interval, or as the share that it leaves of what it is measured against.

    >>> margin(0.5, [0.25, 0.75]), margin(-0.125, [-0.25, 0.0], share=True)
    ('+50.0% (+25.0% to +75.0%)', '87.5% (75.0% to 100.0%)')
    """
    if pd.isna(value):
        return "–"
    one = (lambda part: f"{1 + part:.{decimals}%}") if share else (lambda part: f"{part:+.{decimals}%}")
    return one(value) if pd.isna(interval).any() else f"{one(value)} ({one(interval[0])} to {one(interval[1])})"


def margin_cells(claims: pd.DataFrame, decimals: int = 1) -> list[str]:
    """`margin` of each row's relative, relative_ci95 and share."""
    return [margin(row.relative, row.relative_ci95, row.share, decimals) for row in claims.itertuples()]


def difference_cells(comparisons: pd.DataFrame) -> list[str]:
    """A cell such as "-0.0100 (-0.0200 to +0.0000)" of each row's difference and ci95."""
    return [f"{row.difference:+.4f} ({row.ci95[0]:+.4f} to {row.ci95[1]:+.4f})" for row in comparisons.itertuples()]


def comparison_tables(comparisons: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A table a metric of what `statistics.compare` found: a row an opponent, figures with their intervals as text.

    Columns: difference, relative, p_holm and detectable; index: the opponents' names.
    """
    tables = {}
    for metric, rows in comparisons.assign(share=False).groupby("metric", sort=False):
        cells = {"difference": difference_cells(rows), "relative": margin_cells(rows, decimals=0)}
        figures = {"p_holm": rows["p_holm"].to_list(), "detectable": rows["smallest_detectable"].to_list()}
        tables[metric_name(metric)] = pd.DataFrame(cells | figures, index=[NAMES.get(b, b) for b in rows["b"]])
    return tables


COPIED = "copied: the paper's margin over its best baseline, on its own data"


def claims_table(claims: pd.DataFrame, copied: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Rows of b, metric, relative, relative_ci95 and share as text: a row a claim, a column a metric.

    copied: margins by metric that were not measured here; they stand in a last row that says so.
    """
    texts = [("share of " if row.share else "margin over ") + NAMES.get(row.b, row.b) for row in claims.itertuples()]
    metrics = claims["metric"].map(metric_name)
    cells = claims.assign(cell=margin_cells(claims), text=texts, on=metrics)
    wide = cells.pivot(index="text", columns="on", values="cell").loc[list(dict.fromkeys(texts)), metrics.unique()]
    for metric, value in (copied or {}).items():
        wide.loc[COPIED, metric_name(metric)] = f"{value:+.2%}"
    return wide.rename_axis(index=None, columns=None)
