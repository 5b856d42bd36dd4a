"""`<answer>` as text, with the kinds of tokenizer that pretrained models have: where a chain ends, what it says."""

import pytest
import torch
from families import TEXT_TOKENIZERS, family_lm, text_tokenizer
from transformers import GenerationConfig

from r2ec_lib.model import sampling
from r2ec_lib.model.answer import ANSWER, Answer
from r2ec_lib.model.encoding import forward_states
from r2ec_lib.model.sampling import sample
from r2ec_lib.model.tiny import train_tokenizer

ENDINGS = [" <answer>", "\n<answer>", "<answer>", ".<answer>", "a<answer", " <answer>\n", ' <answer>"', "\n\n<answer>"]
"""Behind a word; the fifth one is left open."""


@pytest.mark.parametrize("kind", TEXT_TOKENIZERS)
def test_a_tokenizer_without_the_token_writes_the_symbol_as_text(kind):
    tokenizer = text_tokenizer(kind)
    answer = Answer(tokenizer)
    assert answer.text == ANSWER and len(answer.ids) > 1
    assert answer.closed(answer.ids) and not tokenizer.decode(answer.body(answer.ids)).strip()
    assert not any(answer.closed(answer.ids[:length]) for length in range(len(answer.ids)))


def test_a_tokenizer_of_our_own_has_it_as_one_token():
    answer = Answer(train_tokenizer(["a mug"], vocab_size=300))
    assert answer.text is None and answer.ids == [2]
    assert answer.closed([7, 2]) and not answer.closed([2, 7]) and not answer.closed([])
    assert answer.body([7, 8, 2]) == [7, 8]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", TEXT_TOKENIZERS)
def test_a_chain_ends_at_the_token_that_completes_the_symbol(kind, ending, monkeypatch):
    tokenizer = text_tokenizer(kind)
    answer = Answer(tokenizer)
    written = tokenizer(f"a red mug{ending} and more", add_special_tokens=False)["input_ids"]
    script = iter([*written, *[9] * 99])  # drawn for closing tokens as well, and not used
    monkeypatch.setattr(sampling, "draw", lambda scores, *_: torch.tensor([next(script)]))
    lm = family_lm("Llama", tied=False, vocab_size=len(tokenizer) + 3)  # more rows than tokens, as Qwen has
    settings = GenerationConfig(max_new_tokens=len(written), pad_token_id=0, eos_token_id=[1])
    sampled = sample(lm, [[5, 6, 7]], settings, answer)
    chain = sampled.chains[0]
    complete = [end for end in range(1, len(written) + 1) if ANSWER in tokenizer.decode(written[:end])]
    if ending == "a<answer":
        assert not complete and not sampled.written[0] and chain == [*written, *answer.ids]
    else:
        assert sampled.written[0] and chain == written[: complete[0]]
        assert "red mug" in tokenizer.decode(answer.body(chain)) and "<" not in tokenizer.decode(answer.body(chain))
    again = forward_states(lm, lm, [[5, 6, 7, *chain]])[0]
    assert torch.allclose(sampled.states[0], again.float(), atol=1e-4)


@pytest.mark.parametrize("kind", TEXT_TOKENIZERS)
def test_a_symbol_split_by_the_end_of_the_budget_is_written_anew(kind, monkeypatch):
    tokenizer = text_tokenizer(kind)
    answer = Answer(tokenizer)
    written = tokenizer("a mug <answer>", add_special_tokens=False)["input_ids"][:-1]
    script = iter([*written, *[9] * 99])
    monkeypatch.setattr(sampling, "draw", lambda scores, *_: torch.tensor([next(script)]))
    settings = GenerationConfig(max_new_tokens=len(written), pad_token_id=0, eos_token_id=[1])
    sampled = sample(family_lm("Llama", vocab_size=len(tokenizer)), [[5]], settings, answer)
    assert sampled.chains == [[*written, *answer.ids]] and sampled.written == [False]


def test_a_turn_that_ends_without_the_symbol_gets_it_appended(monkeypatch):
    tokenizer = text_tokenizer("byte-level")
    answer, end = Answer(tokenizer), tokenizer.eos_token_id
    script = iter([20, 21, end, *[9] * 99])
    monkeypatch.setattr(sampling, "draw", lambda scores, *_: torch.tensor([next(script)]))
    settings = GenerationConfig(max_new_tokens=30, pad_token_id=0, eos_token_id=[end])
    sampled = sample(family_lm("Llama", vocab_size=len(tokenizer)), [[5]], settings, answer)
    assert sampled.chains == [[20, 21, end, *answer.ids]] and sampled.written == [False]


def test_an_open_chain_has_no_body():
    answer = Answer(text_tokenizer("byte-level"))
    with pytest.raises(ValueError, match="does not end in <answer>"):
        answer.body([20, 21, 22])


@pytest.mark.parametrize("ends, expected", [(None, [1]), (1, [1]), ([1, 3], [1, 3]), ([3], [3, 1])])
def test_sampling_stops_at_the_ends_of_model_and_tokenizer_and_at_a_symbol_that_is_a_token(ends, expected):
    lm = family_lm("Llama")
    lm.generation_config.eos_token_id = ends
    assert Answer(text_tokenizer("byte-level")).stop_ids(lm) == expected
    assert Answer(train_tokenizer([], 0)).stop_ids(lm) == [2, *expected]


@pytest.mark.parametrize("kind", TEXT_TOKENIZERS)
def test_chains_from_elsewhere_are_cut_behind_the_symbol_or_get_it_appended(kind):
    tokenizer = text_tokenizer(kind)
    answer = Answer(tokenizer)
    closed, going_on, opened = tokenizer(
        ["a red mug <answer>", "a red mug <answer> and > more", "a red > mug"], add_special_tokens=False
    )["input_ids"]
    chains, written = answer.close([closed, going_on, opened])
    assert chains == [closed, closed, [*opened, *answer.ids]] and written == [True, True, False]


def test_chains_of_a_single_symbol_are_closed_too():
    answer = Answer(train_tokenizer([], vocab_size=0))
    assert answer.close([[5, 2], [5, 6], [2, 7]]) == ([[5, 2], [5, 6, 2], [2]], [True, False, True])
