"""Floors count what a model's products need and nothing that the computation adds."""

import pytest
import torch

from r2ec_lib.evaluation.speed import floors, timing
from r2ec_lib.model.backbone import add_lora


def plain_attention(lm):
    """Operations of attention are no part of a floor: both of its products, in each layer, for L tokens."""
    config = lm.config
    return lambda length: 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * length**2


def test_a_forward_needs_its_products(tiny):
    ids = torch.arange(9)[None]
    counted = timing.operations(lambda: tiny.lm(ids, use_cache=False)) - plain_attention(tiny.lm)(9)
    call, made = floors.products(tiny.lm, 9, 9)
    assert counted == made == floors.operations(tiny.lm, 9, 9) == timing.operations(call)
    assert floors.operations(tiny.lm, 9) < made


@pytest.mark.parametrize("layers", [None, 0, 1])
def test_gradients_are_needed_from_the_first_trained_weight_on(tiny, layers):
    """All weights, adapters on all layers, adapters on the last layer."""
    lm = tiny.lm if layers is None else add_lora(tiny.lm, 2, 4, layers)
    ids = torch.arange(9)[None]

    def step():
        lm(input_ids=ids, use_cache=False).logits.sum().backward()

    counted = timing.operations(step) - plain_attention(lm)(9) * (1 if layers == 1 else 3)
    needed = floors.operations(lm, 9, 9, gradients=True)
    assert needed == pytest.approx(counted, rel=0.15 if layers == 1 else 0.05)  # attention of the last layer alone


def test_a_shared_beginning_is_needed_once():
    begin = list(range(8))
    assert floors.distinct_tokens([[*begin, 20, 21], [*begin, 30], [*begin, 40]]) == 8 + 2 + 1 + 1
    assert floors.distinct_tokens([[1, 20, 21], [1, 30]]) == 5  # too short to be read on its own
