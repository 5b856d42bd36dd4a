"""Figures of the paper (arXiv 2505.16994, v3), copied for comparison, and the rules that show which cannot be right.

Nothing here was measured by this project. A cell is marked by arithmetic alone: with one target a question, Hit@K and
NDCG@K are tied to each other, and a pair that breaks the tie holds at least one mistake, whoever made it.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import pandas as pd

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
