"""Attention in half precision on a CPU: the fused kernel reads, the plain way learns, and both say the same."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from r2ec_lib.model import attention, backbone
from r2ec_lib.model.tiny import build_tiny

LAYER = SimpleNamespace(num_key_value_groups=3, is_causal=True)


def inputs(dtype, gradient=True):
    torch.manual_seed(0)
    made = [torch.randn(4, heads, 40, 32).to(torch.bfloat16).to(dtype) for heads in (6, 2, 2)]
    return [part.requires_grad_(gradient) for part in made]


def results(attend, dtype, mask):
    """The output and the three gradients, in float64."""
    parts = inputs(dtype)
    out = attend(LAYER, *parts, mask)[0]
    sent = torch.sin(torch.arange(out.numel())).view_as(out).to(torch.bfloat16).to(dtype)
    return [part.double() for part in (out.detach(), *torch.autograd.grad(out, parts, sent))]


@pytest.mark.parametrize("masked", [True, False])
def test_the_plain_way_back_is_at_least_as_exact_as_the_fused_one(masked):
    mask = torch.ones(4, 1, 40, 40, dtype=torch.bool).tril() if masked else None
    exact = results(sdpa_attention_forward, torch.float64, mask)
    fused, plain = (results(way, torch.bfloat16, mask) for way in (sdpa_attention_forward, attention.attend))
    for true, one, other in zip(exact, fused, plain, strict=True):
        assert (other - true).norm() <= 1.05 * (one - true).norm() < 0.01 * true.norm()


@pytest.fixture
def taken(monkeypatch):
    """For each call of transformers' attention, whether the fused kernel was allowed in it."""
    noted = []

    def noting(*args):
        noted.append(torch.backends.cuda.flash_sdp_enabled())
        return sdpa_attention_forward(*args)

    monkeypatch.setattr(attention, "sdpa_attention_forward", noting)
    return noted


def test_only_gradients_in_half_precision_take_the_plain_way(taken):
    for dtype, gradient in ((torch.bfloat16, True), (torch.bfloat16, False), (torch.float32, True)):
        attention.attend(LAYER, *inputs(dtype, gradient), None)
    assert taken == [False, True, True]


def test_a_caller_may_still_choose_for_itself(taken):
    with sdpa_kernel(SDPBackend.MATH):
        attention.attend(LAYER, *inputs(torch.bfloat16, gradient=False), None)
    assert taken == [False]


def test_a_loaded_model_attends_so(tmp_path, tokenizer, monkeypatch):
    build_tiny(tokenizer, hidden_size=32, num_layers=1, num_heads=2).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", sdpa_attention_forward)
    called = []
    monkeypatch.setattr(
        attention, "attend", lambda *args, **how: called.append(1) or sdpa_attention_forward(*args, **how)
    )
    lm, _ = backbone.load_pretrained(tmp_path)
    lm(torch.tensor([[3, 4, 5]]))
    assert called
