"""The sampler beside `generate` and beside a plain encoding: same tokens, same states, the right frequencies."""

import pytest
import torch
from families import FAMILIES, family_lm, text_tokenizer
from transformers import GenerationConfig

from r2ec_lib.model import decoding, sampling
from r2ec_lib.model.answer import Answer
from r2ec_lib.model.encoding import READOUTS, captured_states, forward_states
from r2ec_lib.model.sampling import draw, next_tokens, sample
from r2ec_lib.model.tiny import train_tokenizer

SYMBOL = Answer(train_tokenizer([], vocab_size=0))
ANSWER = SYMBOL.ids[0]  # 2, one token
PROMPTS = [[5, 6, 7], [8] * 11, [9, 10, 11, 12, 13], [14], [5, 6, 7], [20, 21, 22, 23, 24, 25, 26, 27], [8] * 11]


def settings(max_new_tokens=12, stops=(ANSWER,), **choices):
    return GenerationConfig(max_new_tokens=max_new_tokens, pad_token_id=0, eos_token_id=list(stops), **choices)


def generated(lm, prompt, chosen):
    """The tokens that `generate` adds to one prompt, up to its first stop token."""
    written = lm.generate(torch.tensor([prompt]), generation_config=chosen)[0, len(prompt) :].tolist()
    end = next((at for at, token in enumerate(written) if token in chosen.eos_token_id), len(written) - 1)
    return written[: end + 1]


@pytest.mark.parametrize("suppressed", [None, [28, 29, 30]])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_generate(family, penalty, suppressed):
    lm = family_lm(family, tied=False, vocab_size=40)  # tied random weights repeat one token for ever
    chosen = settings(stops=(ANSWER, *range(28, 40)), repetition_penalty=penalty, suppress_tokens=suppressed)
    found = sample(lm, PROMPTS, chosen, SYMBOL)
    assert len({len(chain) for chain in found.chains}) > 1  # chains end at different lengths, the batch shrinks
    for prompt, chain, own in zip(PROMPTS, found.chains, found.written, strict=True):
        expected = generated(lm, prompt, chosen)
        assert own == (expected[-1] == ANSWER)
        assert chain == (expected if own else [*expected, ANSWER])


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_reading_prompt_and_chain_again(family, readout):
    lm = family_lm(family, tied=False, vocab_size=40)
    torch.manual_seed(1)
    read, tail = (33, [33]) if readout == "token" else (None, [])
    chosen = settings(stops=(ANSWER, 30, 31), do_sample=True, temperature=1.5, suppress_tokens=tail or None)
    found = sample(lm, PROMPTS * 3, chosen, SYMBOL, readout, read_id=read)
    assert len({len(chain) for chain in found.chains}) > 3
    for prompt, chain, state in zip(PROMPTS * 3, found.chains, found.states, strict=True):
        assert chain[-1] == ANSWER and (readout != "token" or 33 not in chain)
        again = forward_states(lm, lm, [[*prompt, *chain, *tail]], [len(prompt)], readout)[0]
        assert torch.allclose(state, again.float(), atol=1e-4)


@pytest.mark.parametrize("readout", ["last", "mean", "max"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_symbol_of_several_tokens_is_read_at_once_where_the_limit_closes_all_chains_that_are_left(family, readout):
    lm, symbol = family_lm(family, tied=False, vocab_size=40), Answer(text_tokenizer("byte-level"))
    symbol.ids = [33, 34, 35]
    torch.manual_seed(3)
    with captured_states(lm) as hidden:
        found = sample(lm, PROMPTS, settings(5, stops=(30,), do_sample=True, temperature=1.5), symbol, readout)
        assert [state.shape[1] for state in hidden[1:]] == [1] * 5 + [3]
    assert max(map(len, found.chains)) == 5 + 3 and not any(found.written)
    for prompt, chain, state in zip(PROMPTS, found.chains, found.states, strict=True):
        assert chain[-3:] == symbol.ids
        again = forward_states(lm, lm, [[*prompt, *chain]], [len(prompt)], readout)[0]
        assert torch.allclose(state, again.float(), atol=1e-4)


@pytest.mark.parametrize("stopped", range(5))
def test_chains_that_end_their_turn_shortly_before_the_limit_are_closed_beside_those_that_reach_it(stopped):
    lm, symbol, limit = family_lm("Qwen3", vocab_size=400), Answer(text_tokenizer("byte-level")), 5
    symbol.ids = [33, 34, 35]
    choices = {"repetition_penalty": 5.0}  # so that no token comes twice in a chain
    free = [chain[:limit] for chain in sample(lm, PROMPTS, settings(limit, stops=(), **choices), symbol).chains]
    stop = free[0][stopped]
    assert any(stop not in chain for chain in free)
    found = sample(lm, PROMPTS, settings(limit, stops=(stop,), **choices), symbol)
    for prompt, whole, chain, state in zip(PROMPTS, free, found.chains, found.states, strict=True):
        assert chain == [*(whole[: whole.index(stop) + 1] if stop in whole else whole), *symbol.ids]
        assert torch.allclose(state, forward_states(lm, lm, [[*prompt, *chain]], [len(prompt)])[0].float(), atol=1e-4)


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_over_columns_that_stay_in_place_give_the_same_chains(family, readout, monkeypatch):
    """What a GPU records once and replays, here without the recording."""
    lm = family_lm(family, tied=False, vocab_size=40)
    windowed = family in ("Gemma2", "Gemma3")
    chosen = settings(stops=(ANSWER, 30, 31), do_sample=True, temperature=1.5)
    found = []
    for fixed in (False, True):
        monkeypatch.setattr(decoding, "RECORDING", ("cpu",) if fixed else ())
        monkeypatch.setattr(sampling, "DROP_SHARE", 2.0)  # so that both draw the same random numbers
        torch.manual_seed(2)
        assert decoding.keeps_in_place(lm, 24) == (fixed and not windowed)
        found.append(sample(lm, PROMPTS * 3, chosen, SYMBOL, readout))
    assert found[0].chains == found[1].chains and len({len(chain) for chain in found[0].chains}) > 3
    assert torch.allclose(found[0].states, found[1].states, atol=1e-4)


def test_a_batch_off_the_cpu_is_as_large_as_its_keys_and_values_allow(monkeypatch):
    lm = family_lm("Qwen3", vocab_size=40)
    assert sampling.cached_tokens(lm) == sampling.BATCH_TOKENS
    cache = lm(input_ids=torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    token = sum(part.numel() * part.itemsize for layer in cache.layers for part in (layer.keys, layer.values)) // 3
    monkeypatch.setattr(sampling, "CACHE_BYTES", 50_000 * token)
    assert sampling.cached_tokens(lm.to("meta")) == 50_000


def test_equal_prompts_are_read_once_and_ended_chains_leave_the_batch():
    lm = family_lm("Qwen3", vocab_size=40)
    torch.manual_seed(0)
    with captured_states(lm) as hidden:
        found = sample(lm, PROMPTS, settings(20, stops=(ANSWER, 30, 31), do_sample=True), SYMBOL)
        rows = []
        lm.get_decoder().register_forward_hook(lambda *call: rows.append(call[2].last_hidden_state.shape[:2]))
        torch.manual_seed(0)
        assert sample(lm, PROMPTS, settings(20, stops=(ANSWER, 30, 31), do_sample=True), SYMBOL).chains == found.chains
    assert len(hidden) == 2 * len(rows)
    assert tuple(rows[0]) == (5, 11)  # five distinct prompts
    sizes = [size for size, _ in rows[1:]]
    assert sizes[0] == 7 and sizes == sorted(sizes, reverse=True) and sizes[-1] < 7
    assert len(sizes) == max(map(len, found.chains))  # no forward after the last `<answer>`


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_read_beside_others_of_similar_length(family, monkeypatch):
    lm = family_lm(family, tied=False, vocab_size=40)
    together = sample(lm, PROMPTS, settings(), SYMBOL, "mean")
    monkeypatch.setattr(sampling, "GROUP_TOKENS", 1)
    read = []
    lm.get_decoder().register_forward_hook(lambda *call: read.append(call[2].last_hidden_state.shape[1]))
    apart = sample(lm, PROMPTS, settings(), SYMBOL, "mean")
    assert read[:6] == [11, 8, 5, 3, 1, 1]  # five distinct prompts without any padding, then the first step
    assert apart.chains == together.chains
    assert torch.allclose(apart.states, together.states, atol=1e-4)


def test_small_batches_give_the_chains_of_large_ones():
    lm = family_lm("Gemma3", vocab_size=40)
    whole, parts = sample(lm, PROMPTS, settings(), SYMBOL), sample(lm, PROMPTS, settings(), SYMBOL, batch_tokens=30)
    assert whole.chains == parts.chains
    assert torch.allclose(whole.states, parts.states, atol=1e-4)


def test_tokens_come_as_often_as_the_softmax_says():
    scores = torch.tensor([0.3, -torch.inf, 1.2, -0.7, 0.0, -torch.inf])
    torch.manual_seed(0)
    draws = draw(scores.expand(40_000, -1), True)
    expected = scores.softmax(0) * 40_000
    counts = torch.bincount(draws, minlength=6)
    assert counts[1] == counts[5] == 0
    possible = expected > 0
    surprise = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert surprise < 16.3  # χ² with 3 degrees of freedom exceeds this once in a thousand


def test_a_drawn_token_is_the_first_at_which_the_cumulative_probability_exceeds_the_random_number():
    scores = 3 * torch.randn(50, 200, generator=torch.Generator().manual_seed(0))  # the last block is not full
    scores[:, 64:128] = -torch.inf  # and a block is empty
    random = torch.rand(50, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cumulative = scores.double().softmax(dim=1).cumsum(dim=1)
    expected = (cumulative <= random).sum(dim=1)
    torch.manual_seed(1)
    assert torch.equal(draw(scores, True), expected)


@pytest.mark.parametrize("choices", [{"do_sample": True, "temperature": 0.7, "top_k": 9}, {}])
def test_rows_drawn_a_few_at_a_time_get_the_tokens_that_they_get_together(choices, monkeypatch):
    torch.manual_seed(0)
    logits, ids, mask = torch.randn(7, 40).bfloat16(), torch.randint(3, 40, (7, 6)), torch.ones(7, 6).long()
    mask[4, :3] = 0
    chosen = settings(repetition_penalty=1.5, suppress_tokens=[28], **choices)
    drawn = []
    for held in (2**19, 2 * 40, 1):
        monkeypatch.setattr(sampling, "DRAWN_SCORES", held)
        torch.manual_seed(3)
        drawn.append(next_tokens(chosen, ids, mask, logits).tolist())
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("place", [0, 63, 64, 150])
def test_a_random_number_at_the_very_end_draws_no_token_of_probability_0(place, monkeypatch):
    scores = torch.full((1, 200), -torch.inf).index_fill(1, torch.tensor([place]), 2.0)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.ones(shape, dtype=torch.float64))
    assert draw(scores, True).tolist() == [place]


def test_first_tokens_of_a_group_follow_the_warped_distribution():
    lm = family_lm("Qwen3", vocab_size=12)
    prompt, chosen = [5, 6, 7], settings(1, do_sample=True, temperature=1.5, top_k=4)
    torch.manual_seed(0)
    chains = sample(lm, [prompt] * 20_000, chosen, SYMBOL).chains
    counts = torch.bincount(torch.tensor([chain[0] for chain in chains]), minlength=12)
    best = (lm(torch.tensor([prompt])).logits[0, -1].detach() / 1.5).topk(4)
    expected = torch.zeros(12, dtype=torch.double).scatter(0, best.indices, best.values.softmax(0)) * 20_000
    assert counts[expected == 0].sum() == 0
    surprise = ((counts - expected)[best.indices] ** 2 / expected[best.indices]).sum()
    assert surprise < 16.3  # χ² with 3 degrees of freedom


def test_a_seed_repeats_its_chains():
    lm, draws = family_lm("Qwen3"), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(sample(lm, PROMPTS, settings(do_sample=True), SYMBOL).chains)
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"num_beams": 4}, "num_beams"),
        ({"min_p": 0.1}, "min_p"),
    ],
)
def test_settings_that_are_not_followed_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        sample(family_lm("Llama"), PROMPTS, settings(**wrong), SYMBOL)


@pytest.mark.parametrize("vocabulary", [40, 64, 100])
def test_scores_that_are_no_numbers_still_give_a_token_of_the_vocabulary(vocabulary):
    """What is wrong is told where the states are read, with the step that made them."""
    tokens = draw(torch.full((3, vocabulary), torch.nan), do_sample=True)
    assert ((tokens >= 0) & (tokens < vocabulary)).all()
