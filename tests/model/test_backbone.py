"""Pretrained backbones: from a folder as they are, with adapters where they are asked for."""

import pytest
import torch
from conftest import family_lm, text_tokenizer
from transformers import PreTrainedTokenizerFast

from r2ec_lib.model.backbone import add_lora, load_pretrained

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
