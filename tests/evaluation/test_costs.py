"""Costs: memory counted at the allocator, tables with a row a method; streaming keeps within its bound."""

import time

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.evaluation import costs
from r2ec_lib.model import scoring
from r2ec_lib.model.collaborative import ItemWeights


def test_working_memory_is_the_largest_held_at_one_time():
    def call():
        first = torch.ones(1000, 1000)  # 4 MB
        second = first + 1  # 8 MB together
        del first
        third = second + 1  # 8 MB again
        return third.sum()

    assert costs.working_bytes(call) == pytest.approx(8e6, rel=0.02)


def test_working_memory_counts_numpy_arrays_too():
    assert costs.working_bytes(lambda: np.ones(500_000).sum()) == pytest.approx(4e6, rel=0.05)


def test_beside_a_gpu_both_memories_count(monkeypatch):
    """A baseline on the CPU would cost nothing where another model has the GPU."""
    held = {"is_available": True, "reset_peak_memory_stats": None, "memory_allocated": 7, "max_memory_allocated": 1007}
    for name, value in held.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    found = costs.working_bytes(lambda: (torch.ones(1000, 1000).sum(), np.ones(500_000).sum()))
    assert found == pytest.approx(8e6 + 1000, rel=0.02)


def test_what_was_there_before_does_not_count():
    table = torch.ones(1000, 1000)
    assert costs.working_bytes(lambda: table[:10] + 1) < 200_000


@pytest.mark.parametrize("num_items", [20_000, 40_000])
def test_the_memory_of_topk_does_not_grow_with_the_catalogue(num_items):
    users, table = torch.randn(300, 16), torch.randn(num_items, 16)
    bound = 3 * 4 * 300 * 700 + 300_000  # scores, a copy for the selection; ranks and indexes
    listed = costs.working_bytes(lambda: scoring.topk(users, table, 10, chunk=700))
    dense = 4 * 300 * num_items
    assert listed < bound < dense


def test_stored_bytes_of_a_model_count_shared_weights_once_and_its_collaborative_term(tiny, bought_alone):
    own = sum({weight.data_ptr(): weight.nbytes for weight in tiny.lm.parameters()}.values())
    rows, width = tiny.head.table.shape
    table = rows * width * 4  # float32
    assert costs.model_bytes(tiny.lm, tiny.head.table) == own + table
    term = bought_alone(ItemWeights(torch.zeros(rows, 5, dtype=torch.long), torch.ones(rows, 5)))
    weights = rows * 5 * (8 + 4) + rows * (8 + 4)  # the second part has one weight an item
    assert costs.model_bytes(tiny.lm, tiny.head.table, term) == own + table + weights + (width + 1) * width * 4


def test_the_table_has_a_row_a_method_in_their_order():
    samples = pd.DataFrame({"sample_id": range(3)})
    scorers = {
        "b": lambda batch: time.sleep(0.02) or torch.zeros(len(batch), 1000),
        "a": lambda batch: torch.zeros(len(batch), 10),
    }
    silent = {"b": lambda batch: time.sleep(0.005) or torch.zeros(len(batch), 1000)}
    found = costs.table_of_costs(
        scorers, samples, {"a": 5_000_000, "b": 0}, tokens={"b": 12.5}, silent=silent, queries=8
    )
    assert found["model"].tolist() == ["b", "a"]
    assert found["stored_mb"].tolist() == [0, 5]
    assert found["tokens"].tolist() == [12.5, 0]
    assert 0.5 < found["reasoning_share"].iloc[0] < 0.9  # 1 - 5 / 20, and what a busy machine adds
    assert found["reasoning_share"].iloc[1] == 0
    assert 0.02 <= found["seconds_batch_1"].iloc[0] < 0.2
    assert found["seconds_batch_32"].iloc[0] < found["seconds_batch_1"].iloc[0]  # of one query, not of the batch
    assert found["working_mb"].iloc[0] == pytest.approx(32 * 1000 * 4 / 1e6, rel=0.2)


def test_queries_are_timed_in_batches_after_an_untimed_one():
    sizes = []
    score = lambda batch: sizes.append(len(batch)) or torch.zeros(1)  # noqa: E731
    assert costs.seconds_per_query([score], pd.DataFrame({"sample_id": range(3)}), 4, queries=2)[0] > 0
    assert sizes == [4, 4, 4]


def test_the_seconds_are_those_of_one_query_and_every_sample_takes_its_turn(monkeypatch):
    asked, clock = [], iter([0, 900, 1000, 1004, 2000, 2012, 3000, 3008])  # the first batch takes 900 s
    monkeypatch.setattr(costs.time, "perf_counter", lambda: next(clock))
    score = lambda batch: asked.append(batch["sample_id"].tolist()) or torch.zeros(1)  # noqa: E731
    assert costs.seconds_per_query([score], pd.DataFrame({"sample_id": range(3)}), 4, queries=3) == [2.0]
    assert asked == [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2], [0, 1, 2, 0]]


def test_scorers_take_turns_at_each_batch():
    asked = []
    scorers = [lambda batch, name=name: asked.append(name) or torch.zeros(1) for name in "ab"]
    assert len(costs.seconds_per_query(scorers, pd.DataFrame({"sample_id": [0]}), 1, queries=1)) == 2
    assert asked == ["a", "b", "a", "b"]


def test_a_method_that_is_no_faster_in_silence_spends_nothing_on_reasoning(monkeypatch):
    monkeypatch.setattr(costs, "seconds_per_query", lambda scorers, *_: [score(None) for score in scorers])
    scorers, silent = ({"a": lambda _, s=s: s, "b": lambda _, s=s: 3 - s} for s in (1.0, 2.0))
    table = costs.table_of_costs(
        scorers, pd.DataFrame({"sample_id": [0]}), {"a": 0, "b": 0}, tokens={}, silent=silent, queries=1
    )
    assert table["reasoning_share"].tolist() == [0.0, 0.5]
