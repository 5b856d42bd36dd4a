"""Words of tables: a difference first, a margin where it means something; copied cells that cannot be right."""

import math

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.evaluation import wording
from r2ec_lib.evaluation.wording import broken_rules

NAN = math.nan


@pytest.mark.parametrize("value", [0.5, NAN, None])
def test_a_margin_without_an_interval_is_a_dash(value):
    assert wording.margin(value, [NAN, NAN]) == wording.margin(value, [None, None]) == "–"
    assert wording.margin(value, [0.1, NAN], share=True) == "–"


@pytest.mark.parametrize(
    ("interval", "collapsed", "told"),
    [
        ([0.1, 0.9], False, True),
        ([-0.9, -0.1], False, True),
        ([0.0, 0.9], False, True),
        ([-0.1, 0.9], False, False),  # both signs
        ([NAN, NAN], False, False),  # the opponent may be nothing at all
        ([0.1, 0.9], True, False),
    ],
)
def test_no_margin_is_told_over_what_collapsed_or_of_unknown_sign(interval, collapsed, told):
    row = {"relative": 0.5, "relative_ci95": interval, "collapsed": collapsed}
    assert wording.holds(row) == told
    assert (wording.margin_cells(pd.DataFrame([row])) != ["–"]) == told


def test_each_row_of_a_table_becomes_a_cell():
    claims = pd.DataFrame({"relative": [0.5, -0.1], "relative_ci95": [[0.4, 0.6], [-0.2, 0.0]], "collapsed": False})
    assert wording.margin_cells(claims) == ["+50.0% (+40.0% to +60.0%)", "-10.0% (-20.0% to +0.0%)"]
    changes = pd.DataFrame({"difference": [0.01, -0.5], "ci95": [[0.0, 0.02], [-1.0, 0.0]]})
    assert wording.difference_cells(changes) == ["+0.0100 (+0.0000 to +0.0200)", "-0.5000 (-1.0000 to +0.0000)"]
    means = pd.DataFrame({"mean": [0.12], "low": [0.09], "high": [0.15]})
    assert wording.mean_cells(means) == ["0.1200 (0.0900 to 0.1500)"]


def test_claims_show_the_difference_before_the_margin_and_stand_in_their_order():
    rows = [(b, m, share) for b, share in (("sasrec", False), ("oracle", True)) for m in ("hit@5", "ndcg@20")]
    claims = pd.DataFrame(rows, columns=["b", "metric", "share"]).assign(relative=[0.1, 0.2, -0.5, -0.25])
    claims["relative_ci95"] = [[value - 0.01, value + 0.01] for value in claims["relative"]]
    claims = claims.assign(difference=0.05, ci95=[[0.04, 0.06]] * 4, collapsed=[False, True, False, False])
    table = wording.claims_table(claims, {"hit@5": 0.6867, "ndcg@20": 0.4521})
    assert table.loc[wording.COPIED].tolist() == ["+68.67%", "+45.21%"]
    table = wording.claims_table(claims)
    assert table.index.tolist() == ["against SASRec", "share of oracle"]
    assert table.columns.tolist() == ["Hit@5", "NDCG@20"]
    difference = "+0.0500 (+0.0400 to +0.0600)"
    assert table.iloc[0].tolist() == [f"{difference}, +10.0% (+9.0% to +11.0%)", difference]  # it collapsed on NDCG@20
    assert table.iloc[1, 1] == "75.0% (74.0% to 76.0%)"


def test_comparisons_are_one_table_per_metric_with_their_opponents_in_order():
    rows = pd.DataFrame({"b": ["sasrec", "caser"] * 2, "metric": ["ndcg@20"] * 2 + ["hit@5"] * 2})
    rows = rows.assign(difference=0.01, relative=0.123, p_holm=[0.03, 0.04, 0.01, 0.02], smallest_detectable=0.005)
    rows["ci95"], rows["relative_ci95"], rows["collapsed"] = [[0.0, 0.02]] * 4, [[0.0, 0.246]] * 4, False
    tables = wording.comparison_tables(rows)
    assert list(tables) == ["NDCG@20", "Hit@5"]
    assert tables["NDCG@20"].loc["Caser"].tolist() == [
        "+0.0100 (+0.0000 to +0.0200)",
        "+12% (+0% to +25%)",
        0.04,
        0.005,
    ]


# ---- what the paper reports -----------------------------------------------------------------------------------------


def of_ranks(ranks: list[float]) -> dict[str, float]:
    """The six metrics in units, rounded as a paper would, in plain Python."""
    found = {}
    for k in (5, 10, 20):
        found[f"hit@{k}"] = round(1e4 * sum(rank <= k for rank in ranks) / len(ranks))
        found[f"ndcg@{k}"] = round(1e4 * sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / len(ranks))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_figures_of_real_ranks_break_no_rule(seed):
    generator = np.random.default_rng(seed)
    ranks = generator.integers(1, generator.integers(2, 60), 700).tolist()
    assert broken_rules(of_ranks(ranks)) == {}


@pytest.mark.parametrize("rank", [1, 5, 6, 10, 11, 20, 21])
def test_all_targets_at_one_rank_break_no_rule(rank):
    assert broken_rules(of_ranks([rank])) == {}


def test_each_rule_names_its_cells():
    assert ("hit@5", "ndcg@5") in broken_rules({"hit@5": 109, "ndcg@5": 141})
    assert ("hit@5", "hit@10") in broken_rules({"hit@5": 30, "hit@10": 20})
    assert broken_rules({"hit@5": 100, "ndcg@5": 30}) == {  # at rank 5 each hit still adds 1 / log2(6) = 0.387
        ("hit@5", "ndcg@5"): "NDCG@5 is below Hit@5 / log2(6)"
    }
    late = {
        "hit@5": 100,
        "ndcg@5": 60,
        "hit@10": 110,
        "ndcg@10": 70,
    }  # ten hits from rank 6 on add at most 10 / log2(7)
    assert list(broken_rules(late).values()) == ["NDCG gains more between ranks 6 and 10 than its hits can give"]
    early = {"hit@5": 100, "ndcg@5": 60, "hit@10": 200, "ndcg@10": 70}  # a hundred add at least 100 / log2(11) = 28.9
    assert list(broken_rules(early).values()) == ["NDCG gains less between ranks 6 and 10 than its hits must give"]
    assert ("hit@5",) in broken_rules({"hit@5": 10_001})


def test_rounding_alone_marks_nothing():
    assert broken_rules({"hit@5": 1, "ndcg@5": 1}) == {}
    assert broken_rules({"hit@5": 0, "ndcg@5": 0, "hit@10": 1, "ndcg@10": 1}) == {}


def test_the_table_marks_known_cells_and_no_row_of_the_method():
    table = wording.copied("Table 1")
    marks = wording.impossible(table)
    assert table.shape == (9, 3 * 6)
    assert table.index[[0, -1]].tolist() == ["GRU4Rec", "R²ec (Gemma)"] and table.index.name == "model"
    assert list(table["CDs"].columns) == ["hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20"]
    assert table.loc["R²ec (Qwen)", "Games"].tolist() == [288, 185, 532, 264, 827, 337]
    assert "NDCG@5 is above Hit@5" in marks.loc["Caser", ("Instruments", "ndcg@5")]
    assert "NDCG@20 is above Hit@20" in marks.loc["SASRec", ("CDs", "hit@20")]
    assert (marks.loc[["R²ec (Qwen)", "R²ec (Gemma)", "TIGER"]] == "").all(axis=None)


def test_the_ablation_has_five_rows_for_three_data_sets():
    table = wording.copied("Ablation")
    assert table.shape == (5, 6)
    assert table.loc["full"].tolist() == [264, 257, 588, 525, 326, 363]
    assert list(table.columns)[:2] == [("Instruments", "hit@5"), ("Instruments", "ndcg@20")]


@pytest.mark.parametrize(
    ("values", "name"), [({"hit@5": 5, "hit@20": 4, "hit@10": 3}, "hit@10"), ({"ndcg@5": 9, "ndcg@10": 8}, "ndcg@10")]
)
def test_no_metric_falls_as_k_grows(values, name):
    broken = broken_rules(values)
    assert len(broken) == 1 and all(name in names for names in broken)


def test_a_rule_is_broken_from_one_unit_beyond_rounding():
    assert broken_rules({"hit@5": 100, "ndcg@5": 101}) == {}  # 100.5 and 100.5 round to these
    assert broken_rules({"hit@5": 100, "ndcg@5": 102}) != {}
    assert broken_rules({"hit@5": 1000, "ndcg@5": 387}) == {}  # at rank 5 all would add 1000 / log2(6) = 386.9
    assert broken_rules({"hit@5": 1000, "ndcg@5": 386}) != {}
    first = {"hit@5": 100, "ndcg@5": 60, "hit@10": 110}  # ten hits more add at most (10 + 1) / log2(7) = 3.9, less 1
    assert broken_rules(first | {"ndcg@10": 64}) == {} and broken_rules(first | {"ndcg@10": 65}) != {}
    assert broken_rules({"hit@5": -1}) == {("hit@5",): "Hit@5 is no share"} and broken_rules({"hit@5": 10_000}) == {}


def test_every_rule_of_a_cell_is_named():
    marks = wording.impossible(wording.copied("Table 1"))
    assert marks.loc["SASRec", ("CDs", "ndcg@10")].count(";") >= 1


def test_names_of_metrics_are_those_that_readers_write():
    assert [wording.metric_name(name) for name in ("hit@5", "ndcg@20", "reward")] == ["Hit@5", "NDCG@20", "reward"]
