"""The tools of the benchmark measure what they say."""

import itertools
import time
from functools import partial

import pandas as pd
import pytest
import torch

from r2ec_lib.evaluation.speed import timing


def work(seconds: float) -> None:
    """Keeps the processor busy, so that either clock goes on."""
    until = timing.now() + seconds
    while timing.now() < until:
        pass


@pytest.mark.parametrize("threads, counted", [(1, False), (2, True)])
def test_with_one_thread_only_the_time_of_the_processor_counts(monkeypatch, threads, counted):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert (timing.seconds_of(lambda: time.sleep(0.1)) > 0.05) == counted
    assert timing.seconds_of(lambda: work(0.1)) >= 0.1


@pytest.mark.parametrize("sides", ["ab", "abp"])
def test_sides_take_turns_in_changing_orders_and_none_follows_itself(sides):
    calls = []
    times = timing.in_turn({side: partial(calls.append, side) for side in sides}, 20)
    rounds = ["".join(calls[start : start + len(sides)]) for start in range(0, len(calls), len(sides))]
    assert len(rounds) == 21 and all(sorted(one) == sorted(sides) for one in rounds)  # the first one is not timed
    assert len(times) == 20 * len(sides) and set(times["repetition"]) == set(range(20))
    pairs = set(itertools.pairwise(calls))
    assert pairs == {(one, other) for one in sides for other in sides if one != other}


def test_a_ratio_compares_within_a_round():
    seconds = {"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 3.0]}  # the second round met a busy machine
    times = pd.DataFrame(
        [{"side": s, "repetition": i, "seconds": v} for s, values in seconds.items() for i, v in enumerate(values)]
    )
    found = timing.ratio(times, "a", "b")
    assert found == {"ratio": 0.5, "low": 0.5, "high": 0.75, "seconds": 3.0, "seconds_against": 3.0}


def test_a_comparison_tells_slower_from_faster():
    sides = {
        "short": lambda: work(0.01),
        "long": lambda: (work(0.04), torch.ones(2, 3) @ torch.ones(3, 2)),
    }
    row = timing.comparison("short", "long", sides, 0.7, 3)
    assert row["ratio"] == pytest.approx(0.25, abs=0.2) and row["met"] and row["low"] <= row["ratio"] <= row["high"]
    assert row["operations"] == 0 and row["operations_against"] == 2 * 2 * 3 * 2
    assert timing.comparison("short", "long", sides, None, 1)["met"] is None


def test_calls_of_a_module_are_counted_and_no_hook_stays():
    layer = torch.nn.Linear(2, 2)
    assert timing.calls_of(layer, lambda: layer(layer(torch.ones(1, 2)))) == 2
    assert not layer._forward_pre_hooks


def test_operations_count_products_attention_and_backward():
    one = torch.ones(4, 5, requires_grad=True)
    assert timing.operations(lambda: one @ torch.ones(5, 6)) == 2 * 4 * 5 * 6
    assert timing.operations(lambda: (one @ torch.ones(5, 6)).sum().backward()) == 2 * (2 * 4 * 5 * 6)
    query = torch.ones(1, 1, 3, 4)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert timing.operations(lambda: attention(query, query, query)) == 2 * (2 * 3 * 4 * 3)


def test_growth_finds_the_exponent():
    sizes = [10, 20, 40]
    table = timing.growth("x", sizes, lambda n: {"square": lambda: work(2e-5 * n**2)}, 2)
    assert list(table["size"]) == sizes and (table["low"] <= table["seconds"]).all()
    assert timing.slope(sizes, [n**2 for n in sizes]) == pytest.approx(2)
    assert timing.slope([1, 10, 100, 1000], [5, 1, 10, 100]) == pytest.approx(1)  # the smallest do not count


def test_a_stopwatch_counts_each_second_once_and_leaves_the_object_as_it_was():
    class Work:
        def outer(self):
            work(0.02)
            self.inner()
            return 7

        def inner(self):
            work(0.05)

    worker, watch = Work(), timing.Stopwatch()
    with watch.watching([(worker, "outer", "out"), (worker, "inner", "in")]):
        assert worker.outer() == 7
    assert not vars(worker)
    assert 0.015 < watch.rounds[0]["out"] < watch.rounds[0]["in"]
    assert set(timing.phase_table({"side": watch})["phase"]) == {"out", "in"}


def test_the_floor_is_what_is_needed_at_the_rate_of_a_product_of_the_same_rounds():
    one = torch.ones(256, 256)
    sides = {"one": lambda: one @ one, "two": lambda: (one @ one) @ one}
    product = (lambda: [one @ one for _ in range(4)], 4 * 2 * 256**3)
    row = timing.comparison(
        "one", "two", sides, None, 9, needed=256**3, product=product, tokens=5, memory=True
    )  # half of what one side computes
    assert row["operations_ratio"] == 0.5
    assert row["share"] == pytest.approx(0.5, abs=0.25) and row["share_against"] == pytest.approx(0.25, abs=0.15)
    assert row["floor"] == pytest.approx(row["needed"] / row["matrix_rate"])
    assert row["tokens_per_second"] == pytest.approx(5 / row["seconds"])
    assert row["bytes"] == pytest.approx(4 * 256**2, rel=0.2) and row["memory_ratio"] == pytest.approx(0.5, abs=0.1)
