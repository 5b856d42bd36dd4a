"""Sampling through vLLM. What needs it is skipped where it is not installed; it runs on a CPU too."""

import copy
import importlib.util
import sys

import pandas as pd
import pytest
import torch
from families import text_tokenizer

from r2ec_lib.data.schema import DataError
from r2ec_lib.model import R2ec, vllm
from r2ec_lib.model.answer import ANSWER
from r2ec_lib.model.backbone import add_lora, add_recommend_token, load_pretrained
from r2ec_lib.model.prompts import Document, Prompts, PromptStyle
from r2ec_lib.model.tiny import build_tiny, warm_up

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
LENGTH = 12
"""Longest reasoning; the model was taught some that are longer."""


ENGINE = {"enforce_eager": True, "kv_cache_memory_bytes": 2**26, "max_num_batched_tokens": 2**14}
"""On a CPU, vLLM 0.30 cannot draw by a seed where a prompt is split over two batches."""


@pytest.fixture
def prompts_of(samples):
    """Token ids of 48 prompts of a model, four of them equal."""
    rows = pd.concat([samples, samples.iloc[[0, 0, 0]]])
    return lambda model: model.prompts.user_ids(rows, model.titles)


def saved(folder, tokenizer, items, readout="last", rank=0) -> R2ec:
    """A float32 R²ec that closes some of its reasonings by itself, saved in `folder` and loaded from there.

    Its heads have 32 dimensions, the fewest that vLLM's attention takes on a CPU.
    """
    lm = build_tiny(tokenizer, hidden_size=64, num_layers=2, num_heads=2, seed=1)
    prompts = Prompts(tokenizer, PromptStyle(instruct=False))
    texts = ["red mug", "blue lamp and a desk", "green rug", "black chair, white desk and a kettle " * 3]
    documents = [Document(f"Purchases: {title}", texts[row % 4]) for row, title in enumerate(items["title"])]
    warm_up(lm, prompts, documents, steps=60, batch_tokens=512)
    if rank:  # the backbone on disk has no token for the read-out
        lm.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        lm, tokenizer = load_pretrained(folder / "base")
    if readout == "token":
        add_recommend_token(lm, tokenizer)
    if rank:
        torch.manual_seed(0)
        lm = add_lora(lm, rank, 2 * rank)
        for name, weight in lm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
    model = R2ec(lm, Prompts(tokenizer, prompts.style), items)
    model.head.readout = readout
    model.refresh()
    model.save(folder / "model")
    return R2ec.load(folder / "model")


def test_without_vllm_the_error_names_the_extra(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(DataError, match=r"vLLM is not installed; install the extra `vllm`"):
        vllm.writer(tiny, tmp_path)


def test_vllm_is_told_where_a_reasoning_ends(tiny, tiny_with_token, items):
    assert vllm.limits(tiny) == {"stop_token_ids": [*tiny.prompts.answer.ids, 1]}
    assert vllm.limits(tiny_with_token)["logit_bias"] == {tiny_with_token.read_id: -100.0}
    as_text = text_tokenizer("byte-level")
    model = R2ec(build_tiny(as_text, hidden_size=16, num_heads=2), Prompts(as_text, PromptStyle()), items)
    assert vllm.limits(model) == {"stop_token_ids": [1], "stop": [ANSWER], "include_stop_str_in_output": True}


KINDS = {
    "token": ("token", "last", 0),
    "text": ("text", "mean", 0),
    "read-out": ("token", "token", 0),
    "adapter": ("token", "last", 4),
    "adapter and read-out": ("text", "token", 4),
}
"""What `<answer>` is, how states are read, and the rank of an adapter."""


@needs_vllm
@pytest.mark.parametrize(("symbol", "readout", "rank"), KINDS.values(), ids=KINDS)
def test_vllm_writes_what_the_model_writes(symbol, readout, rank, tokenizer, items, prompts_of, tmp_path):
    tokenizer = text_tokenizer("byte-level") if symbol == "text" else copy.deepcopy(tokenizer)
    model = saved(tmp_path, tokenizer, items, readout, rank)
    prompts = prompts_of(model)
    expected = model.sample(prompts, LENGTH)
    assert len({tuple(chain) for chain in expected.chains}) > 2 and len(set(expected.written)) == 2
    if rank:
        with model.lm.disable_adapter():
            assert model.sample(prompts, LENGTH).chains != expected.chains
    model.writer = vllm.writer(model, tmp_path / "model", **ENGINE)
    found = model.sample(prompts, LENGTH)
    equal = [one == other for one, other in zip(expected.chains, found.chains, strict=True)]
    assert sum(equal) >= 0.95 * len(equal)  # ties aside
    assert torch.allclose(found.states[equal], expected.states[equal], atol=1e-4)
    assert [one for one, same in zip(expected.written, equal, strict=True) if same] == [
        one for one, same in zip(found.written, equal, strict=True) if same
    ]
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.sample(prompts, LENGTH, temperature=1.5, top_k=20))
    assert drawn[0].chains == drawn[1].chains != drawn[2].chains
    assert len({tuple(chain) for chain in drawn[0].chains[-3:]}) > 1  # of equal prompts
    for chain, written in zip(drawn[0].chains, drawn[0].written, strict=True):
        assert model.prompts.answer.closed(chain) and model.read_id not in chain
        assert written or len(chain) == LENGTH + len(model.prompts.answer.ids) or 1 in chain
