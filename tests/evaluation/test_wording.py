"""Words of tables: margins and shares read alike, a missing figure is a dash."""

import math

import pandas as pd

from r2ec_lib.evaluation import wording


def test_what_has_no_interval_shows_its_value_alone_and_what_has_no_value_a_dash():
    nan = math.nan
    assert wording.margin(0.5, [nan, nan]) == "+50.0%"
    assert wording.margin(nan, [nan, nan]) == "–"


def test_each_row_of_a_table_becomes_a_cell():
    claims = pd.DataFrame(
        {"relative": [0.5, -0.1], "relative_ci95": [[0.4, 0.6], [-0.2, 0.0]], "share": [False, True]}
    )
    assert wording.margin_cells(claims) == ["+50.0% (+40.0% to +60.0%)", "90.0% (80.0% to 100.0%)"]
    means = pd.DataFrame({"mean": [0.12], "low": [0.09], "high": [0.15]})
    assert wording.mean_cells(means) == ["0.1200 (0.0900 to 0.1500)"]


def test_claims_stand_one_a_row_with_a_column_a_metric_in_their_order():
    rows = [(b, m, share) for b, share in (("sasrec", False), ("oracle", True)) for m in ("hit@5", "ndcg@20")]
    claims = pd.DataFrame(rows, columns=["b", "metric", "share"]).assign(relative=[0.1, 0.2, -0.5, -0.25])
    claims["relative_ci95"] = [[value - 0.01, value + 0.01] for value in claims["relative"]]
    table = wording.claims_table(claims, {"hit@5": 0.6867, "ndcg@20": 0.4521})
    assert table.loc[wording.COPIED].tolist() == ["+68.67%", "+45.21%"]
    table = wording.claims_table(claims)
    assert table.index.tolist() == ["margin over SASRec", "share of oracle"]
    assert table.columns.tolist() == ["Hit@5", "NDCG@20"]
    assert table.iloc[0].tolist() == ["+10.0% (+9.0% to +11.0%)", "+20.0% (+19.0% to +21.0%)"]
    assert table.iloc[1, 1] == "75.0% (74.0% to 76.0%)"


def test_comparisons_stand_in_a_table_a_metric_with_their_opponents_in_order():
    rows = pd.DataFrame({"b": ["sasrec", "caser"] * 2, "metric": ["hit@5"] * 2 + ["ndcg@20"] * 2})
    rows = rows.assign(difference=0.01, relative=0.123, p_holm=[0.01, 0.02, 0.03, 0.04], smallest_detectable=0.005)
    rows["ci95"], rows["relative_ci95"] = [[0.0, 0.02]] * 4, [[0.0, 0.246]] * 4
    tables = wording.comparison_tables(rows)
    assert list(tables) == ["Hit@5", "NDCG@20"]
    assert tables["NDCG@20"].loc["Caser"].tolist() == [
        "+0.0100 (+0.0000 to +0.0200)",
        "+12% (+0% to +25%)",
        0.04,
        0.005,
    ]
