import math

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.data.storage import read_table, write_table
from r2ec_lib.evaluation import ranking
from r2ec_lib.model import scoring


def table(targets, histories, users=None):
    count = len(targets)
    return pd.DataFrame(
        {
            "sample_id": np.arange(100, 100 + count),
            "user_id": users or [f"u{i}" for i in range(count)],
            "split": "test",
            "timestamp": pd.Timestamp("2023-01-01", tz="UTC") + pd.to_timedelta(np.arange(count), unit="D"),
            "target": np.array(targets, dtype=np.int32),
            "history": [np.array(history, dtype=np.int32) for history in histories],
        }
    )


def test_metrics_of_known_ranks():
    ranks = np.array([1, 2.5, 6, 30])
    assert ranking.metric_values(ranks, "hit@5").tolist() == [1, 1, 0, 0]
    assert ranking.metric_values(ranks, "ndcg@10") == pytest.approx([1, 1 / math.log2(3.5), 1 / math.log2(7), 0])
    found = ranking.metrics(pd.DataFrame({"sample_id": range(4), "rank": ranks}))
    assert list(found) == ["hit@5", "hit@10", "hit@20", "ndcg@5", "ndcg@10", "ndcg@20"]
    assert found["hit@10"] == 3 / 4


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="recall@5"):
        ranking.metric_values([1], "recall@5")


def test_one_model_at_a_time_is_averaged():
    twice = pd.DataFrame({"sample_id": [1, 1], "rank": [1.0, 2.0]})
    with pytest.raises(ValueError, match="more than once"):
        ranking.metrics(twice)


def test_a_constant_scorer_stands_in_the_middle_of_the_candidates():
    samples = table([3, 0], [[1, 2], [4]])
    found = ranking.rank_all(lambda batch: torch.zeros(len(batch), 11), samples, 11, model="constant")
    assert found["rank"].tolist() == [(9 + 1) / 2, (10 + 1) / 2]


def test_history_items_are_no_candidates_unless_asked():
    samples = table([0], [[1, 2]])
    scores = torch.tensor([[1.0, 9.0, 8.0, 2.0]])
    assert ranking.rank_all(lambda _: scores, samples, 4, model="m")["rank"].item() == 2
    assert ranking.rank_all(lambda _: scores, samples, 4, model="m", mask_seen=False)["rank"].item() == 4


def test_a_target_that_was_bought_before_is_a_candidate_that_can_be_listed():
    scores = torch.tensor([[1.0, 9.0, 8.0, 2.0]])
    found = ranking.rank_all(lambda _: scores, table([1], [[1, 2]]), 4, model="m", k=2).iloc[0]
    assert (found["rank"], found["top_items"].tolist()) == (1, [1, 3])


def test_where_fewer_items_than_asked_for_are_candidates_only_these_are_listed():
    scores = torch.tensor([[5.0, 9.0, 8.0, 7.0, 2.0], [5.0, 9.0, 8.0, 7.0, 2.0]])
    found = ranking.rank_all(lambda _: scores, table([4, 4], [[0, 1, 2, 3], [0, 1]]), 5, model="m", k=3)
    assert [list(top) for top in found["top_items"]] == [[4], [2, 3, 4]]
    assert [list(top) for top in found["top_scores"]] == [[2], [8, 7, 2]]


def test_nan_scores_are_refused():
    scores = torch.zeros(3, 9)
    scores[1, 4] = torch.nan
    with pytest.raises(ValueError, match="row 1 of the scores holds NaN"):
        ranking.rank_all(lambda _: scores, table([0, 1, 2], [[3]] * 3), 9, model="broken")


def test_scores_of_a_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 8\); expected \(2, 9\)"):
        ranking.rank_all(lambda b: torch.zeros(len(b), 8), table([0, 1], [[3]] * 2), 9, model="m")


def test_ranks_do_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    scores = torch.randint(0, 6, (7, 20)).float()
    samples = table([1, 2, 3, 4, 5, 6, 7], [[0, 19]] * 7)
    pick = lambda batch: scores[batch["sample_id"].to_numpy() - 100]  # noqa: E731
    whole, parts = (ranking.rank_all(pick, samples, 20, model="m", batch_size=n) for n in (100, 2))
    assert whole["rank"].tolist() == parts["rank"].tolist()


def test_a_catalogue_of_a_million_is_asked_for_in_smaller_batches():
    num_items, sizes = 2**20, []

    def constant(batch):
        sizes.append(len(batch))
        return torch.zeros(1).expand(len(batch), num_items)

    found = ranking.rank_all(constant, table([5] * 70, [[0]] * 70), num_items, model="m")
    assert sizes == [scoring.SCORES_HELD // num_items, 6]
    assert found["rank"].unique().tolist() == [1 + (num_items - 2) / 2]  # all but the history and itself are its ties


def test_metrics_are_recomputed_from_the_rankings_file_in_plain_python(tmp_path):
    torch.manual_seed(1)
    scores = torch.randn(40, 30)
    samples = table(list(range(1, 11)) * 4, [[0]] * 40)
    found = ranking.rank_all(lambda b: scores[b["sample_id"].to_numpy() - 100], samples, 30, model="m")
    write_table(found, tmp_path / "rankings.parquet")
    ranks = read_table(tmp_path / "rankings.parquet")["rank"].tolist()
    expected_hit = sum(1 for rank in ranks if rank <= 10) / len(ranks)
    expected_ndcg = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= 20) / len(ranks)
    assert ranking.metrics(found)["hit@10"] == pytest.approx(expected_hit)
    assert ranking.metrics(found)["ndcg@20"] == pytest.approx(expected_ndcg)
    order = sorted((v for v in range(1, 30)), key=lambda v: -scores[0, v].item())  # item 0 is in the history
    assert ranks[0] == 1 + order.index(1)


def test_each_sample_is_ranked_without_its_own_history_in_every_batch():
    scores = torch.zeros(5, 20)
    for row in range(5):
        scores[row, 10 + row], scores[row, row] = 9.0, 5.0
    samples = table(range(5), [[10 + row] for row in range(5)])
    pick = lambda batch: scores[batch["sample_id"].to_numpy() - 100]  # noqa: E731
    assert ranking.rank_all(pick, samples, 20, model="m", batch_size=2)["rank"].tolist() == [1] * 5
