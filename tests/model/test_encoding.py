"""Hidden states: padding, batching and a shared beginning change nothing, in values and in gradients."""

from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES, family_lm
from transformers import LlamaConfig

from r2ec_lib.model.encoding import (
    caches_exactly,
    captured_states,
    encoded_tokens,
    forward_states,
    length_batches,
    read_out,
    shared_beginning,
)

INSTRUCTION = list(range(20, 32))
CARDS = [[*INSTRUCTION, *rest, 2] for rest in ([40, 41, 42], [43], [44, 45, 46, 47, 48], [49, 50])]


def test_read_outs_pool_the_span_and_nothing_else():
    hidden = torch.arange(12, dtype=torch.float32).view(1, 6, 2)
    start, end = torch.tensor([2]), torch.tensor([4])
    assert read_out(hidden, start, end, "last").tolist() == [[8, 9]]
    assert read_out(hidden, start, end, "mean").tolist() == [[6, 7]]
    assert read_out(hidden, start, end, "max").tolist() == [[8, 9]]


@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0])
def test_length_batches_hold_every_row_once_within_the_budget(fill):
    lengths = [3, 50, 7, 7, 20, 1, 100]
    batches = list(length_batches(lengths, 100, fill))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 100 for batch in batches)


def test_a_batch_that_is_half_full_takes_no_rows_that_would_be_mostly_padding():
    lengths = [20] * 3 + [18] * 2 + [17] * 2 + [4] * 3
    batches = list(length_batches(lengths, 100, fill=0.5))
    assert [[lengths[row] for row in batch] for batch in batches] == [[20, 20, 20, 18, 18], [17, 17, 4], [4, 4]]
    assert len(next(length_batches(lengths, 200, fill=0.5))) == 5 and len(next(length_batches(lengths, 200))) == 10


def test_a_shared_beginning_leaves_each_row_a_token_of_its_own():
    assert shared_beginning(CARDS) == len(INSTRUCTION)
    assert shared_beginning([[5, 6, 2], [5, 6, 2]]) == 2
    assert shared_beginning([[5], [5, 6]]) == 0
    assert shared_beginning([[1, 2], [3, 2]]) == 0


@pytest.mark.parametrize("readout", ["last", "mean", "max"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_beginning_is_computed_once_and_changes_no_state_and_no_gradient(family, readout):
    lm = family_lm(family)
    results = []
    for rows in (CARDS, [[card] for card in CARDS]):
        lm.zero_grad()
        batches = [rows] if rows is CARDS else rows
        states = torch.cat([forward_states(lm, lm, batch, readout=readout) for batch in batches])  # (4, d)
        (states * torch.arange(4)[:, None]).sin().sum().backward()
        results.append([states, *(weight.grad for weight in lm.parameters() if weight.grad is not None)])
    assert all(torch.allclose(one, other, atol=1e-5, rtol=1e-4) for one, other in zip(*results, strict=True))
    with captured_states(lm) as hidden:
        forward_states(lm, lm, CARDS)
    assert [tuple(states.shape[:2]) for states in hidden] == [(1, 12), (4, 6)]


def test_a_pooled_span_may_begin_inside_the_shared_beginning():
    lm = family_lm("Qwen3")
    whole = torch.cat([forward_states(lm, lm, [card], [10], "mean") for card in CARDS])
    assert torch.allclose(forward_states(lm, lm, CARDS, [10] * 4, "mean"), whole, atol=1e-5)


def test_gradient_checkpointing_keeps_no_cache():
    lm = family_lm("Llama").train()
    assert caches_exactly(lm)
    lm.gradient_checkpointing_enable()
    assert not caches_exactly(lm)
    with captured_states(lm) as hidden:
        forward_states(lm, lm, CARDS)
    assert len(hidden) == 1
    assert caches_exactly(lm.eval())


def test_a_wider_model_reads_fewer_tokens_at_a_time():
    small, wide = (SimpleNamespace(device=torch.device("cpu"), config=LlamaConfig(hidden_size=d)) for d in (96, 512))
    assert encoded_tokens(small) == 4096 and encoded_tokens(wide) == 1024
