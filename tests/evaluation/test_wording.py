"""Words of tables: a difference first, a margin where it means something; copied cells that cannot be right."""

import math

import pandas as pd
import pytest

from r2ec_lib.evaluation import wording

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
    assert wording.margin_cells(claims) == ["+50% (+40% to +60%)", "-10% (-20% to +0%)"]
    changes = pd.DataFrame({"difference": [0.01, -0.5], "ci95": [[0.0, 0.02], [-1.0, 0.0]]})
    assert wording.difference_cells(changes) == ["+0.0100 (+0.0000 to +0.0200)", "-0.5000 (-1.0000 to +0.0000)"]
    alone = pd.DataFrame({"difference": [0.01], "ci95": [[None, None]]})  # a single shopper has no interval
    assert wording.difference_cells(alone) == ["+0.0100 (–)"]
    means = pd.DataFrame({"mean": [0.12], "low": [0.09], "high": [0.15]})
    assert wording.mean_cells(means) == ["0.1200 (0.0900 to 0.1500)"]
    assert wording.mean_cells(means, digits=2) == ["0.12 (0.09 to 0.15)"]


def test_a_mean_of_a_single_shopper_is_a_dash():
    means = pd.DataFrame({"mean": [1.0, 0.5], "low": [NAN, 0.4], "high": [NAN, 0.6]})
    assert wording.mean_cells(means, digits=1) == ["–", "0.5 (0.4 to 0.6)"]


def test_claims_show_the_difference_before_the_margin_and_stand_in_their_order():
    rows = [(b, m, share) for b, share in (("sasrec", False), ("oracle", True)) for m in ("hit@5", "ndcg@20")]
    claims = pd.DataFrame(rows, columns=["b", "metric", "share"]).assign(relative=[0.1, 0.2, -0.5, -0.25])
    claims["relative_ci95"] = [[value - 0.01, value + 0.01] for value in claims["relative"]]
    claims = claims.assign(difference=0.05, ci95=[[0.04, 0.06]] * 4, collapsed=[False, True, False, False])
    table = wording.claims_table(claims)
    assert table.loc[wording.COPIED].tolist() == ["+68.67%", "+45.21%"]
    assert table.index.tolist() == ["against SASRec", "reached of oracle", wording.COPIED]
    assert table.columns.tolist() == ["Hit@5", "NDCG@20"]
    difference = "+0.0500 (+0.0400 to +0.0600)"
    assert table.iloc[0].tolist() == [f"{difference}\n+10% (+9% to +11%)", difference]  # it collapsed on NDCG@20
    assert table.iloc[1, 1] == "75% (74% to 76%)"


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


def test_the_table_marks_known_cells_and_no_row_of_the_method():
    table = wording.copied("Table 1")
    marks = wording.impossible(table)
    assert table.shape == (9, 3 * 6)
    assert table.index[[0, -1]].tolist() == ["GRU4Rec", "R²ec (Gemma)"] and table.index.name == "model"
    assert list(table["CDs"].columns) == ["hit@5", "ndcg@5", "hit@10", "ndcg@10", "hit@20", "ndcg@20"]
    assert table.loc["R²ec (Qwen)", "Games"].tolist() == [288, 185, 532, 264, 827, 337]
    assert set(marks.stack(future_stack=True).any(axis=1).loc[lambda marked: marked].index) == {
        ("Caser", metric) for metric in ("ndcg@5", "ndcg@10", "ndcg@20")
    } | {("SASRec", metric) for metric in ("ndcg@5", "ndcg@10", "ndcg@20")}
    assert marks.loc["Caser", ("Instruments", "ndcg@5")] and not marks.loc["Caser", ("CDs", "ndcg@5")]


def test_the_ablation_has_five_rows_for_three_data_sets():
    table = wording.copied("Ablation")
    assert table.shape == (5, 6)
    assert table.loc["full"].tolist() == [264, 257, 588, 525, 326, 363]
    assert not wording.impossible(table).any(axis=None)  # it has no NDCG and Hit at one K
    assert list(table.columns)[:2] == [("Instruments", "hit@5"), ("Instruments", "ndcg@20")]


def test_names_of_metrics_are_those_that_readers_write():
    assert [wording.metric_name(name) for name in ("hit@5", "ndcg@20", "reward")] == ["Hit@5", "NDCG@20", "reward"]


def test_the_summary_says_how_often_the_next_purchase_is_among_the_first_five():
    models = {"r2ec": {"hit@5": 0.654}, "ease": {"hit@5": 0.19}, "sasrec": {"hit@5": 0.2, "ndcg@20": 0.1}}
    told = "The next purchase is among the first five items for this share of the test questions: "
    both = told + "65% with R²ec; 20% with the best baseline (SASRec)"
    assert wording.summary(models, ["ease", "sasrec", "caser"]) == both + "."
    models |= {"without_reasoning": {"hit@5": 0.1}, "without_reasoning_long": {"hit@5": 0.289}}
    plain, taught = "; 29% with the same backbone without reasoning, trained longer", "; 51% with R²ec's student"
    assert wording.summary(models, ["sasrec"], 0.51) == both + plain + taught + ", which writes nothing."
    assert wording.summary({"sasrec": {"hit@5": 0.2}}, ["sasrec"]) == ""


def test_a_verdict_is_what_the_intervals_say():
    intervals = {"sasrec": [0.1, 0.3], "ease": [-0.1, 0.1], "caser": [0.01, 0.2], "popularity": [-0.2, -0.1]}
    rows = [{"a": "r2ec", "b": b, "metric": "ndcg@20", "ci95": ci95, "share": False} for b, ci95 in intervals.items()]
    rows += [{**rows[0], "b": "gru4rec", "ci95": [None, None]}]  # of a single shopper, as a file has it
    told = wording.verdict(pd.DataFrame([*rows, {**rows[0], "b": "oracle", "share": True}]))
    assert told == (
        "In NDCG@20, R²ec is ahead of: SASRec; Caser. It cannot be told from: EASE; GRU4Rec. "
        "It is behind: most popular."
    )
    assert wording.verdict(pd.DataFrame(rows[:1]), "hit@5") == ""


def test_nobody_is_behind_the_best_baseline_which_the_test_has_chosen():
    row = {"a": "r2ec", "b": "best_baseline", "metric": "ndcg@20", "ci95": [-0.2, -0.1], "share": False}
    assert wording.verdict(pd.DataFrame([row])) == "In NDCG@20, R²ec cannot be told from: best baseline."
    assert "ahead of: best baseline" in wording.verdict(pd.DataFrame([{**row, "ci95": [0.1, 0.2]}]))


def test_claims_stand_in_the_order_of_their_rows_and_not_of_the_alphabet():
    rows = [(b, metric) for b in ("sasrec", "caser") for metric in ("ndcg@20", "hit@5")]
    claims = pd.DataFrame(rows, columns=["b", "metric"]).assign(difference=0.1, relative=0.1, collapsed=True)
    claims["ci95"], claims["relative_ci95"], claims["share"] = [[0.0, 0.2]] * 4, [[0.0, 0.2]] * 4, False
    table = wording.claims_table(claims)
    assert table.index.tolist()[:2] == ["against SASRec", "against Caser"] and list(table) == ["NDCG@20", "Hit@5"]
