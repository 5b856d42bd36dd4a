"""Pretrained backbones: from a folder as they are, with adapters where they are asked for."""

import copy

import pytest
import torch
from families import family_lm, text_tokenizer
from peft.tuners import lora
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from r2ec_lib.data.schema import DataError
from r2ec_lib.model import backbone
from r2ec_lib.model.backbone import AdaptedLinear, add_lora, load_lora, load_pretrained

SIZES = {"vocab_size": 400, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
SCHEDULE = {"steps": 5, "batch_tokens": 512, "learning_rate": 1e-2, "seed": 0}


@pytest.mark.parametrize("tied", [True, False])
def test_a_pretrained_backbone_is_loaded_as_it_was_saved(tied, tmp_path):
    plain = text_tokenizer("byte-level")
    lm = family_lm("Llama", tied, vocab_size=len(plain) + 5)  # rows that no token has, as in many checkpoints
    lm.save_pretrained(tmp_path / "lm")
    plain.save_pretrained(tmp_path / "lm")
    loaded, tokenizer = load_pretrained(tmp_path / "lm")
    assert tokenizer.get_vocab() == plain.get_vocab() and tokenizer.padding_side == "left"
    assert loaded.state_dict().keys() == lm.state_dict().keys()
    assert all(torch.equal(weight, lm.state_dict()[name]) for name, weight in loaded.state_dict().items())


@pytest.mark.parametrize("end", ["<end>", None])
def test_a_tokenizer_without_padding_gets_some_token_for_it(end, tmp_path):
    plain = PreTrainedTokenizerFast(tokenizer_object=text_tokenizer("byte-level").backend_tokenizer, eos_token=end)
    family_lm("Llama", vocab_size=len(plain)).save_pretrained(tmp_path / "lm")
    plain.save_pretrained(tmp_path / "lm")
    _, tokenizer = load_pretrained(tmp_path / "lm")
    assert tokenizer.pad_token_id == (1 if end else 0)


def test_a_backbone_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot load the backbone '.*nowhere'"):
        load_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_adapters_stand_in_the_last_layers_and_nothing_below_has_a_gradient(layers):
    lm = add_lora(family_lm("Llama").float(), rank=2, alpha=4, layers=layers)
    adapted = {name.split(".layers.")[1][0] for name, weight in lm.named_parameters() if weight.requires_grad}
    assert adapted == ({"0", "1"} if layers != 1 else {"1"})
    below = []
    lm.get_decoder().layers[0].register_forward_hook(lambda _, __, output: below.append(output))
    lm(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert below[0].requires_grad == (layers != 1)
    named = [name for name, weight in lm.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not named


def test_last_layers_of_a_decoder_that_names_them_otherwise_are_refused_and_all_of_them_are_not():
    lm = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40))
    with pytest.raises(DataError, match=r"lora_layers is 1, but GPT2LMHeadModel .* Set lora_layers to 0"):
        add_lora(lm, rank=2, alpha=4, layers=1)
    assert any(weight.requires_grad for weight in add_lora(lm, rank=2, alpha=4).parameters())


def adapted_twins(dtype):
    """A model with adapters that do something, and the same one with PEFT's own layers."""
    ours = add_lora(family_lm("Llama").to(dtype), rank=2, alpha=4)
    torch.manual_seed(1)
    for name, weight in ours.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.3)
    plain = copy.deepcopy(ours)
    for part in plain.modules():
        if type(part) is AdaptedLinear:
            part.__class__ = lora.Linear
    return ours, plain


def test_adapters_compute_what_those_of_peft_do_and_send_back_the_same_gradient():
    results = []
    for lm in adapted_twins(torch.float64):
        logits = lm(input_ids=torch.tensor([[5, 6, 7], [8, 9, 10]])).logits
        logits.square().sum().backward()
        results.append([logits, *(weight.grad for weight in lm.parameters() if weight.requires_grad)])
    assert len(results[0]) == 1 + 2 * 2 * 7
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


def test_adapters_beside_bfloat16_compute_in_it_and_keep_float32_weights(monkeypatch):
    ours, plain = adapted_twins(torch.bfloat16)
    exact = copy.deepcopy(ours).float()
    multiplied, product = set(), torch.nn.functional.linear

    def linear(x, weight, bias=None):
        multiplied.add((x.dtype, weight.dtype))
        return product(x, weight, bias)

    states = [lm(input_ids=torch.arange(5, 45)[None]).logits.float() for lm in (plain, exact)]
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    states.insert(0, ours(input_ids=torch.arange(5, 45)[None]).logits.float())
    monkeypatch.undo()
    assert multiplied == {(torch.bfloat16, torch.bfloat16)}
    assert {weight.dtype for weight in ours.parameters() if weight.requires_grad} == {torch.float32}
    errors = [(found - states[2]).norm() / states[2].norm() for found in states[:2]]
    assert errors[0] < 0.02 and errors[0] < 1.5 * errors[1]
    states[0].sum().backward()
    assert {weight.grad.dtype for weight in ours.parameters() if weight.requires_grad} == {torch.float32}


def test_without_its_adapters_a_model_is_the_backbone_and_saved_ones_come_back(tmp_path):
    ours, _ = adapted_twins(torch.float64)
    ids = torch.tensor([[5, 6, 7]])
    with ours.disable_adapter():
        assert torch.equal(ours(input_ids=ids).logits, family_lm("Llama")(input_ids=ids).logits)
    ours.save_pretrained(tmp_path)
    again = load_lora(family_lm("Llama"), tmp_path)
    assert sum(type(part) is AdaptedLinear for part in again.modules()) == 14
    torch.testing.assert_close(again(input_ids=ids).logits, ours(input_ids=ids).logits)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("left", [0, 20])
def test_adapters_that_were_copied_in_part_are_named(name, left, tmp_path):
    adapted_twins(torch.float32)[0].save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / name
    file.write_bytes(file.read_bytes()[:left]) if left else file.unlink()
    with pytest.raises(FileNotFoundError, match=r"cannot load the adapters .*adapter': it is no folder"):
        load_lora(family_lm("Llama").float(), tmp_path / "adapter")


def test_adapters_that_would_be_unpickled_are_refused_unread(tmp_path, monkeypatch):
    adapted_twins(torch.float32)[0].save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    with pytest.raises(
        FileNotFoundError, match=r"cannot load the adapters .*\(adapter_model.safetensors is missing\)"
    ):
        load_lora(family_lm("Llama").float(), tmp_path / "adapter")


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, True), (3.0, True), (40.0, False)])
def test_a_precision_that_takes_many_times_as_long_is_none_that_the_cpu_multiplies(seconds, expected, monkeypatch):
    """The first product of each kind takes long, as where its kernel is made; a stretch of float32 takes 1 s."""
    took = iter([9.0, 1.0, 1.0, 1.0, 1.0, 99.0, *[seconds] * 4])
    clock = iter([time for one in took for time in (0.0, one)])
    monkeypatch.setattr(backbone.time, "thread_time", lambda: next(clock))
    assert backbone.multiplies.__wrapped__(torch.bfloat16) is expected
