"""Rows of a samples table: what is made of them, and when."""

import pytest
import torch

from r2ec_lib.data.schema import DataError
from r2ec_lib.training.rows import Rows


def test_prompts_of_rows_are_made_when_they_are_asked_for(tiny, samples, monkeypatch):
    """Of a large log a training reads a few rows, some of them again and again."""
    made = []
    original = tiny.prompts.user_texts
    monkeypatch.setattr(
        tiny.prompts, "user_texts", lambda rows, titles: made.append(len(rows)) or original(rows, titles)
    )
    rows = Rows(tiny, samples, mask_seen=True)
    every = tiny.prompts.user_ids(samples, tiny.titles)
    made.clear()
    assert rows.prompts([7, 3, 7]) == [every[7], every[3], every[7]] and rows.prompts([3, 4]) == every[3:5]
    assert made == [2, 1] and len(rows.prompt_ids) == 3
    assert rows.longest() == max(map(len, every)) and Rows(tiny, samples[:0], mask_seen=True).longest() == 0


def test_targets_and_histories_are_those_of_the_rows_by_place(tiny, samples):
    table, places = samples.tail(20), torch.tensor([5, 0, 5])
    rows = Rows(tiny, table, mask_seen=True)
    assert rows.targets(places).tolist() == [int(table["target"].iloc[place]) for place in (5, 0, 5)]
    for place, seen in zip((5, 0, 5), rows.seen(places), strict=True):
        assert set(seen.nonzero().flatten().tolist()) == set(table["history"].iloc[place])


def test_nothing_is_seen_where_nothing_is_masked(tiny, samples):
    assert Rows(tiny, samples, mask_seen=False).seen(torch.tensor([0, 1])) is None


def test_the_longest_prompt_has_to_leave_room_for_a_reasoning_and_what_closes_it(tiny, samples):
    rows = Rows(tiny, samples, mask_seen=True)
    tiny.lm.config.max_position_embeddings = rows.longest() + 4 + 1
    rows.require_room(4)
    with pytest.raises(DataError, match="reasoning included, exceeds"):
        rows.require_room(5)
