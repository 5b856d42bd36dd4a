"""Copied figures keep their label and shape; impossible cells are found by arithmetic, possible ones left alone."""

import math

import numpy as np
import pytest

from r2ec_lib.evaluation import wording
from r2ec_lib.evaluation.wording import broken_rules


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
    table = wording.copied(wording.TABLE_1, wording.METRICS)
    marks = wording.impossible(table)
    assert table.shape == (9, 3 * 6)
    assert "NDCG@5 is above Hit@5" in marks.loc["Caser", ("Instruments", "ndcg@5")]
    assert "NDCG@20 is above Hit@20" in marks.loc["SASRec", ("CDs", "hit@20")]
    assert (marks.loc[["R²ec (Qwen)", "R²ec (Gemma)", "TIGER"]] == "").all(axis=None)


def test_the_ablation_has_five_rows_for_three_data_sets():
    table = wording.copied(wording.ABLATION, wording.ABLATION_METRICS)
    assert table.shape == (5, 6)
    assert table.loc["full", ("CDs", "hit@5")] == 588
