"""States below the first adapter are computed once, and what goes on from them is what a whole forward gives."""

import pytest
import torch
from families import FAMILIES, family_lm
from transformers import FalconConfig, FalconForCausalLM

from r2ec_lib.model import R2ec, frozen
from r2ec_lib.model.backbone import add_lora
from r2ec_lib.model.encoding import batched_states
from r2ec_lib.model.frozen import LowerStates, frozen_layers
from r2ec_lib.model.prompts import Prompts, PromptStyle

TEXTS = [[5, 6, 7, 8, 9], [5, 6, 9], [11, 12, 13, 14, 15, 16, 17, 18], [20], [5, 6, 9]]


def adapted(family: str) -> torch.nn.Module:
    """A model whose last layer alone has an adapter, which already does something."""
    lm = add_lora(family_lm(family), rank=2, alpha=8, layers=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    return lm


@pytest.fixture
def forwards(monkeypatch):
    """Counts, for each of a model's decoder layers, the tokens that pass through it."""

    def watch(lm) -> list[int]:
        layers = lm.get_decoder().layers
        counts = [0] * len(layers)

        def note(at):
            def hook(_, args, kwargs):
                states = args[0] if args else kwargs["hidden_states"]
                counts[at] += states.shape[0] * states.shape[1]

            return hook

        for at, layer in enumerate(layers):
            layer.register_forward_pre_hook(note(at), with_kwargs=True)
        return counts

    return watch


@pytest.mark.parametrize("readout", ["last", "mean", "max"])
@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_gradients_are_those_of_a_whole_forward(family, readout):
    lm = adapted(family)
    kept = LowerStates(lm)
    assert kept.layers == (0 if family.startswith("Gemma") else 1)  # whose second layer attends unlike the first
    weights = [weight for weight in lm.parameters() if weight.requires_grad]
    results = []
    for upper in (None, kept.upper, kept.upper):
        states = batched_states(lm, lm, TEXTS, [1, 0, 2, 0, 0], readout, upper=upper)
        results.append([states.detach(), *torch.autograd.grad(states.square().sum(), weights)])
    for again in results[1:]:
        for found, expected in zip(again, results[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_lower_layers_read_a_text_once(forwards):
    lm = adapted("Llama")
    kept, counts = LowerStates(lm), forwards(lm)
    assert kept.layers == 1
    kept.upper(TEXTS)
    first = list(counts)
    kept.upper(TEXTS)
    assert counts[0] == first[0] and counts[1] > first[1]
    kept.upper([*TEXTS, [30, 31]])
    assert counts[0] == first[0] + 2  # the new text alone


def test_a_model_that_learns_everywhere_or_nowhere_is_read_as_a_whole():
    plain = family_lm("Llama")
    assert frozen_layers(plain) == 0 and LowerStates(plain).upper(TEXTS) is None
    assert frozen_layers(add_lora(family_lm("Llama"), 2, 8)) == 0
    assert frozen_layers(plain.requires_grad_(False)) == 0
    embedded = adapted("Llama")
    embedded.get_input_embeddings().weight.requires_grad_(True)
    assert frozen_layers(embedded) == 0


def test_a_model_whose_layers_have_another_name_is_read_as_a_whole(tokenizer, items):
    """As GPT-2's and Falcon's: "h"."""
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    lm = add_lora(FalconForCausalLM(FalconConfig(**shape, bos_token_id=1, eos_token_id=1)), rank=2, alpha=4)
    model = R2ec(lm, Prompts(tokenizer, PromptStyle()), items)
    assert model.lower.layers == 0 and model.encode_items(items).shape == (30, 16)


def test_a_model_that_changes_what_it_is_given_is_read_as_a_whole(monkeypatch):
    """As those that scale embeddings on their way into the first layer."""
    lm = adapted("Llama")
    layer = lm.get_decoder().layers[-1]
    kept = LowerStates(lm)
    plain = layer.forward
    decoder = lm.get_decoder()

    def scaled(hidden_states, *args, **kwargs):
        begin = len(decoder.layers) == 1
        return plain(hidden_states * (4.0 if begin else 1.0), *args, **kwargs)

    monkeypatch.setattr(layer, "forward", scaled)
    assert kept.upper(TEXTS) is None and kept.layers == 0
    assert kept.upper(TEXTS) is None


def test_a_model_whose_layers_attend_in_turns_is_cut_between_two_rounds():
    lm = adapted("Qwen3")
    config = lm.config.get_text_config()
    for kinds, count in ((["full_attention"] * 2, 1), (["sliding_attention", "full_attention"], 0)):
        config.layer_types = kinds
        assert frozen_layers(lm) == count


def test_layers_that_are_set_free_are_read_anew():
    lm = adapted("Llama")
    kept = LowerStates(lm)
    assert kept.upper(TEXTS) is not None
    lm.get_decoder().layers[0].requires_grad_(True)
    assert kept.upper(TEXTS) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda lm: lm.get_decoder().layers[0].mlp.down_proj.weight.mul_(1.5),
        lambda lm: lm.get_input_embeddings().weight.mul_(1.5),
        lambda lm: lm.bfloat16(),
    ],
)
@torch.no_grad()
def test_texts_are_read_anew_by_frozen_weights_that_have_changed(change):
    lm = adapted("Llama").float()
    kept = LowerStates(lm)
    before = batched_states(lm, lm, TEXTS, upper=kept.upper)
    change(lm)
    after = batched_states(lm, lm, TEXTS, upper=kept.upper)
    assert kept.layers == 1 and not torch.equal(after, before.to(after))
    torch.testing.assert_close(after, batched_states(lm, lm, TEXTS), rtol=0.05, atol=0.05)


@torch.no_grad()
def test_texts_are_read_anew_once_the_model_computes_in_autocast_and_once_it_no_longer_does():
    lm = adapted("Llama").float()
    kept = LowerStates(lm)
    expected = batched_states(lm, lm, TEXTS, upper=kept.upper)
    lm.forward = torch.autocast("cpu", torch.bfloat16)(lm.forward)  # as accelerate does
    rounded = batched_states(lm, lm, TEXTS, upper=kept.upper)
    torch.testing.assert_close(rounded, batched_states(lm, lm, TEXTS))
    del lm.forward
    torch.testing.assert_close(batched_states(lm, lm, TEXTS, upper=kept.upper), expected)
    assert kept.layers == 1 and not torch.allclose(rounded, expected)


def test_what_is_kept_has_no_dropout():
    lm = adapted("Llama")
    for layer in lm.get_decoder().layers:
        layer.self_attn.attention_dropout = 0.5
    expected = batched_states(lm.eval(), lm, TEXTS)
    kept = LowerStates(lm.train())
    kept.upper(TEXTS)
    assert lm.training and kept.layers == 1
    torch.testing.assert_close(batched_states(lm.eval(), lm, TEXTS, upper=kept.upper), expected, rtol=1e-4, atol=1e-5)


def test_texts_beyond_the_memory_are_read_as_a_whole(monkeypatch):
    lm = adapted("Llama")
    monkeypatch.setattr(frozen, "KEPT_BYTES", 8 * 16 * 4)  # 8 tokens of 16 numbers
    kept = LowerStates(lm)
    expected = batched_states(lm, lm, TEXTS)
    torch.testing.assert_close(batched_states(lm, lm, TEXTS, batch_tokens=4, upper=kept.upper), expected)
    assert kept.upper([TEXTS[2]]) is None


def test_an_r2ec_keeps_its_item_texts_and_follows_a_changed_adapter(tokenizer, items, samples, forwards):
    lm = add_lora(family_lm("Llama", vocab_size=len(tokenizer)).float(), rank=2, alpha=8, layers=1)
    model = R2ec(lm, Prompts(tokenizer, PromptStyle()), items)
    counts = forwards(lm)
    model.refresh()
    before, first = model.head.table, list(counts)
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if "lora_B" in name:
                weight.add_(0.3)
    model.refresh()
    assert counts[0] == first[0] and not torch.allclose(model.head.table, before, atol=1e-3)
    torch.testing.assert_close(
        model.head.table, model.encode(model.prompts.item_ids(model.catalogue)), atol=1e-5, rtol=1e-4
    )
    model.lm = family_lm("Llama", vocab_size=len(tokenizer)).float()  # whose states nobody has kept
    other = model.encode_items(model.catalogue)
    torch.testing.assert_close(other, model.encode(model.prompts.item_ids(model.catalogue)))
    assert not torch.allclose(other, model.head.table, atol=1e-3)
    model.lm = lm
    read = counts[0]
    model.user_states(samples)
    model.user_states(samples)
    assert counts[0] > read  # prompts are read once and not kept
