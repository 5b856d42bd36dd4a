"""Words of the evaluation's tables and figures: names of models and metrics, means and margins as cells of text.

Numbers in, text out; nothing is computed here. Figures are in `plots`.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

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
    """A table a metric of what `uncertainty.compare` found: a row an opponent, figures with their intervals as text.

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


UNIT = 1e-4
"""Of the copied figures: 237 stands for 0.0237. They are rounded to whole units."""

DATASETS = ("Instruments", "CDs", "Games")
METRICS = ("hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20")

TABLE_1 = {
    "GRU4Rec": ("171/135/193/142/201/144", "67/37/104/41/156/51", "109/70/181/93/301/123"),
    "Caser": ("109/141/115/149/127/155", "45/29/67/37/89/42", "124/83/191/103/279/126"),
    "SASRec": ("175/144/201/162/223/210", "76/104/81/119/86/141", "129/80/206/105/326/135"),
    "TIGER": ("171/128/184/132/193/134", "67/45/97/55/156/69", "123/85/222/116/323/142"),
    "D³ (Gemma)": ("72/38/202/80/339/114", "216/129/327/164/446/194", "117/68/210/141/478/224"),
    "LLaRA* (Gemma)": ("78/55/137/74/159/80", "97/39/127/49/202/152", "275/173/428/223/677/299"),
    "LangPTune (Gemma)": ("130/79/221/107/403/152", "350/235/469/274/677/325", "68/53/120/59/195/94"),
    "R²ec (Qwen)": ("237/154/374/198/615/259", "513/372/647/414/818/457", "288/185/532/264/827/337"),
    "R²ec (Gemma)": ("264/161/397/203/615/257", "573/398/804/472/1042/527", "326/205/531/271/835/347"),
}
"""Full-catalogue ranking, a cell for each of `METRICS`, a column for each of `DATASETS`."""

ABLATION_METRICS = ("hit@5", "ndcg@20")
ABLATION = {
    "with a classification head": ("44/67", "30/44", "12/32"),
    "without reasoning": ("176/200", "469/456", "277/303"),
    "without the NDCG reward": ("198/224", "521/486", "302/332"),
    "without the similarity reward": ("244/258", "543/515", "316/355"),
    "full": ("264/257", "588/525", "326/363"),
}
"""Gemma; a column for each of `DATASETS`."""

HEADLINE = {"hit@5": 0.6867, "ndcg@20": 0.4521}
"""Relative margins over the best baseline that the paper's abstract (v1) gives; on its data, with its backbones."""


def copied(rows: Mapping[str, tuple[str, ...]], metrics: tuple[str, ...]) -> pd.DataFrame:
    """`TABLE_1` or `ABLATION` as a table: index model, columns (dataset, metric), in `UNIT`s."""
    cells = {
        model: [int(cell) for dataset in datasets for cell in dataset.split("/")] for model, datasets in rows.items()
    }
    columns = pd.MultiIndex.from_product([DATASETS, metrics], names=["dataset", "metric"])
    return pd.DataFrame.from_dict(cells, orient="index", columns=columns).rename_axis("model")


def broken_rules(values: Mapping[str, float], unit: float = UNIT) -> dict[tuple[str, ...], str]:
    """The rules that one model's figures on one data set break: the metrics that cannot all be right, and why.

    With the target of each question at one rank and all metrics averaged over the same questions,

    - a metric does not fall as K grows;
    - targets found at ranks above k and up to K add 1 / log2(rank + 1) each, hence for the growth of both metrics
      ΔHit / log2(K + 1) ≤ ΔNDCG ≤ ΔHit / log2(k + 2). From nothing (k = 0), that is NDCG@K ≤ Hit@K and
      NDCG@K ≥ Hit@K / log2(K + 1).

    Args:
        values: metric names such as "hit@5" and their values, in units of `unit`, rounded to whole ones.
        unit: what a value of 1 stands for; only used to say that no share exceeds 1.

    >>> broken_rules({"hit@5": 109, "ndcg@5": 141})
    {('hit@5', 'ndcg@5'): 'NDCG@5 is above Hit@5'}
    """
    found: dict[tuple[str, ...], str] = {}
    for name, value in values.items():
        if not 0 <= value * unit <= 1:
            found[(name,)] = f"{_shown(name)} is no share"
    for family in ("hit", "ndcg"):
        ks = _cutoffs(values, family)
        for k, larger in pairwise(ks):
            if values[f"{family}@{k}"] > values[f"{family}@{larger}"]:
                names = (f"{family}@{k}", f"{family}@{larger}")
                found[names] = f"{_shown(names[0])} is above {_shown(names[1])}"
    both = [k for k in _cutoffs(values, "hit") if f"ndcg@{k}" in values]
    for k in both:
        found |= _growth(values, 0, k)
    for k, larger in pairwise(both):
        found |= _growth(values, k, larger)
    return found


def impossible(table: pd.DataFrame, unit: float = UNIT) -> pd.DataFrame:
    """For each cell of a `copied` table the rules it is part of breaking, as text; "" where none."""
    marks = pd.DataFrame("", index=table.index, columns=table.columns)
    for model in table.index:
        for dataset in table.columns.unique(0):
            for names, rule in broken_rules(table.loc[model, dataset].to_dict(), unit).items():
                for name in names:
                    before = marks.loc[model, (dataset, name)]
                    marks.loc[model, (dataset, name)] = f"{before}; {rule}" if before else rule
    return marks


def _growth(values: Mapping[str, float], k: int, larger: int) -> dict[tuple[str, ...], str]:
    """The rule about targets at ranks above `k` and up to `larger`; half a unit of rounding a figure is free."""
    names = tuple(f"{family}@{at}" for at in (k, larger) if at for family in ("hit", "ndcg"))
    hits, gains = (values[f"{f}@{larger}"] - (values[f"{f}@{k}"] if k else 0) for f in ("hit", "ndcg"))
    rounding = 0.5 if k == 0 else 1.0  # of a difference: each of its figures may be half a unit off
    most, least = 1 / math.log2(k + 2), 1 / math.log2(larger + 1)
    span = f"between ranks {k + 1} and {larger}"
    if gains - rounding > (hits + rounding) * most:
        rule = f"NDCG@{larger} is above Hit@{larger}" if k == 0 else f"NDCG gains more {span} than its hits can give"
        return {names: rule}
    if gains + rounding < (hits - rounding) * least:
        rule = f"NDCG@{larger} is below Hit@{larger} / log2({larger + 1})"
        return {names: rule if k == 0 else f"NDCG gains less {span} than its hits must give"}
    return {}


def _cutoffs(values: Mapping[str, float], family: str) -> list[int]:
    return sorted(int(name.partition("@")[2]) for name in values if name.startswith(f"{family}@"))


def _shown(metric: str) -> str:
    return metric.replace("ndcg", "NDCG").replace("hit", "Hit")
