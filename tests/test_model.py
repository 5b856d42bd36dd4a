"""R²ec: reading out states, closing chains, recommending, changing the catalogue, saving and loading."""

import pandas as pd
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from r2ec_lib.backbone import add_lora
from r2ec_lib.model import R2ec, RecHead, close, forward_states, length_batches, ranks_of, read_out
from r2ec_lib.prompts import Prompts, PromptStyle

SHAPE = {
    "vocab_size": 400,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
FAMILIES = [
    (Qwen3Config, Qwen3ForCausalLM),
    (LlamaConfig, LlamaForCausalLM),
    (Gemma2Config, Gemma2ForCausalLM),
    (Gemma3TextConfig, Gemma3ForCausalLM),
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES, ids=[config.__name__ for config, _ in FAMILIES])
def test_any_decoder_family_reasons_encodes_and_comes_back_from_disk(
    family, tied, tokenizer, items, samples, tmp_path
):
    config, lm_class = family
    torch.manual_seed(0)
    lm = lm_class(config(**SHAPE, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=1, pad_token_id=0)).eval()
    model = R2ec(lm, Prompts(tokenizer, PromptStyle()), items)
    model.refresh()
    chains = model.reason(model.prompts.user_ids(samples.head(3), model.titles), max_new_tokens=5)
    states = model.user_states(samples.head(3), chains)
    model.save(tmp_path / "model")
    again = R2ec.load(tmp_path / "model")
    assert torch.allclose(again.user_states(samples.head(3), chains), states, atol=1e-5)
    assert torch.equal(again.head.table, model.head.table)
    assert again.reason(again.prompts.user_ids(samples.head(3), again.titles), max_new_tokens=5) == chains
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


def test_padding_and_batching_leave_states_unchanged(tiny, samples):
    prompts = [[*ids, tiny.prompts.answer_id] for ids in tiny.prompts.user_ids(samples, tiny.titles)]
    alone = torch.cat([forward_states(tiny.lm, tiny.lm, [ids]) for ids in prompts])
    assert torch.allclose(tiny.encode(prompts).double(), alone, atol=1e-5)


def test_read_outs_pool_the_span_and_nothing_else():
    hidden = torch.arange(12, dtype=torch.float32).view(1, 6, 2)
    start, end = torch.tensor([2]), torch.tensor([4])
    assert read_out(hidden, start, end, "last").tolist() == [[8, 9]]
    assert read_out(hidden, start, end, "mean").tolist() == [[6, 7]]
    assert read_out(hidden, start, end, "max").tolist() == [[8, 9]]
    with pytest.raises(ValueError, match="readout is 'first'"):
        read_out(hidden, start, end, "first")


def test_length_batches_hold_every_row_once_within_the_budget():
    lengths = [3, 50, 7, 7, 20, 1, 100]
    batches = list(length_batches(lengths, batch_tokens=100))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 100 for batch in batches)


def test_a_chain_ends_at_its_first_stop_token_and_always_in_answer():
    assert close([5, 9, 7, 9], stops=[9], answer_id=9) == [5, 9]
    assert close([5, 1, 0], stops=[9, 1], answer_id=9) == [5, 1, 9]  # the model ended its turn instead
    assert close([], stops=[9], answer_id=9) == [9]


def test_sampling_follows_the_seed_and_greedy_needs_none(tiny, samples):
    prompts = tiny.prompts.user_ids(samples.head(6), tiny.titles)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(tiny.reason(prompts, 8, temperature=1.0))
    assert draws[0] == draws[1] != draws[2]
    assert tiny.reason(prompts, 8) == tiny.reason(prompts, 8)


def test_recommendations_are_the_best_unseen_items(tiny, samples):
    history = [tiny.head.item_ids[item] for item in samples["history"].iloc[1]]
    found = tiny.recommend(history, k=5, max_new_tokens=4)
    assert not set(found.item_ids) & set(history)
    assert found.scores == sorted(found.scores, reverse=True)
    everything = tiny.recommend(history, k=1000, max_new_tokens=4)
    assert len(everything.item_ids) == len(tiny.head.item_ids) - len(history)
    assert everything.item_ids[:5] == found.item_ids


@pytest.mark.parametrize(("history", "message"), [([], "history is empty"), (["nope"], "'nope'.*add_items")])
def test_a_history_that_cannot_be_read_is_refused(tiny, history, message):
    with pytest.raises(ValueError, match=message):
        tiny.recommend(history)


def test_items_come_and_go_without_training(tiny, items):
    before = tiny.head.table.clone()
    tiny.add_items(pd.DataFrame({"item_id": ["new", "i3"], "title": ["gold harp", "gold flute"]}))
    assert tiny.head.item_ids[-2:] == ["new", "i3"] and len(tiny.head.item_ids) == len(items) + 1
    assert torch.equal(tiny.head.table[:3], before[:3])
    assert not torch.equal(tiny.head.table[tiny.head.index["i3"]], before[3])
    tiny.remove_items(["new", "i0"])
    assert "i0" not in tiny.head.index and len(tiny.catalogue) == len(items) - 1
    with pytest.raises(KeyError, match="i0"):
        tiny.remove_items(["i0"])


def test_the_table_and_the_catalogue_must_agree(tiny, items):
    with pytest.raises(ValueError, match="same item ids"):
        R2ec(tiny.lm, tiny.prompts, items.iloc[::-1], tiny.head)
    with pytest.raises(ValueError, match="unique"):
        RecHead(["a", "a"], torch.zeros(2, 3))


def test_ranks_mask_the_history(tiny, samples):
    scores = tiny.head.scores(tiny.user_states(samples))
    ranks = ranks_of(tiny, samples, None)
    for row, (history, target) in enumerate(zip(samples["history"], samples["target"], strict=True)):
        others = [s for v, s in enumerate(scores[row].tolist()) if v not in set(history) and v != target]
        assert ranks[row] == 1 + sum(s > scores[row, target] for s in others)


def test_an_adapter_is_saved_beside_its_backbone_and_read_again(tiny, samples, tmp_path):
    tiny.lm.save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    tiny.lm.name_or_path = str(tmp_path / "base")
    lm = add_lora(tiny.lm, rank=2, alpha=4)
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if "lora_B" in name:
                weight += 0.1
    model = R2ec(lm.eval(), tiny.prompts, tiny.catalogue)
    model.refresh()
    model.save(tmp_path / "model")
    assert not (tmp_path / "model" / "lm").exists()
    again = R2ec.load(tmp_path / "model")
    assert torch.allclose(again.user_states(samples.head(4)), model.user_states(samples.head(4)), atol=1e-5)
    assert sum(p.requires_grad for p in again.lm.parameters()) == sum("lora" in n for n, _ in lm.named_parameters())


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no saved R²ec"):
        R2ec.load(tmp_path)
