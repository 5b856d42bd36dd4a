"""The policy's pass: each chain as it would be computed alone, whatever shares its prompt."""

import pytest
import torch
from families import FAMILIES, family_lm
from training.helpers import CHAINS
from transformers import GPT2Config, GPT2LMHeadModel

from r2ec_lib.training import log_probs as log_probs_module
from r2ec_lib.training.log_probs import token_log_probs


def absolute_positions():
    """A model that learns a vector per position, so that padding must not count as one."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=400, n_positions=64)).eval().double()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, "GPT2"])
def test_log_probabilities_and_entropies_are_those_of_each_chain_alone(family, share):
    lm = absolute_positions() if family == "GPT2" else family_lm(family, tied=False)
    prompts = [[5, 6, 7, 8] * 3, [9], [5, 6, 7, 8] * 3, [10, 11], [8, 7, 6, 5] * 3]  # two alike, one only as long
    chains = [*CHAINS, CHAINS[0]]
    width, length = max(map(len, prompts)), max(map(len, chains))
    pairs = list(zip(prompts, chains, strict=True))
    ids = torch.tensor([[0] * (width - len(p)) + p + c + [0] * (length - len(c)) for p, c in pairs])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * (len(p) + len(c)) + [0] * (length - len(c)) for p, c in pairs])
    found, entropies = token_log_probs(lm, lm, ids, mask, length, 0.7, share, fused=False, entropies=True)
    for row, (prompt, chain) in enumerate(pairs):
        log_probs = (lm(torch.tensor([prompt + chain])).logits[0] / 0.7).log_softmax(dim=-1)[len(prompt) - 1 : -1]
        assert torch.allclose(found[row, : len(chain)], log_probs[range(len(chain)), chain], atol=1e-5)
        assert torch.allclose(entropies[row, : len(chain)], -(log_probs.exp() * log_probs).sum(dim=1), atol=1e-5)
        assert not found[row, len(chain) :].any() and not entropies[row, len(chain) :].any()


def test_prompts_of_one_token_can_be_shared_too():
    lm = family_lm("Qwen3")
    ids, mask = torch.tensor([[5, 40, 2], [5, 41, 2], [6, 40, 2]]), torch.ones(3, 3, dtype=torch.long)
    found = [token_log_probs(lm, lm, ids, mask, 2, 1.0, share, False, False)[0] for share in (True, False)]
    assert torch.allclose(*found, atol=1e-6)


@pytest.mark.parametrize("share", [True, False])
def test_only_chain_tokens_pass_the_lm_head(share):
    lm, passed = family_lm("Llama"), []
    ids, mask = torch.tensor([[5, 6, 7, 40, 2], [0, 8, 9, 41, 0]]), torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]])
    lm.get_output_embeddings().register_forward_pre_hook(lambda _, given: passed.append(given[0].shape[:-1].numel()))
    token_log_probs(lm, lm, ids, mask, 2, 1.0, share, False, False)
    assert sum(passed) == 3


@pytest.mark.parametrize("entropies", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_few_rows_of_logits_at_a_time_give_the_gradient_of_all_at_once(dtype, entropies, monkeypatch):
    """Of the log-probabilities, and of the entropies where the loss has a bonus for them."""
    monkeypatch.setattr(log_probs_module, "HELD_LOGITS", 1000)  # two of the five chain tokens of a row of 400 logits
    lm = family_lm("Llama").to(dtype)
    ids, mask = torch.tensor([[5, 40, 9, 2], [5, 41, 2, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    weights = torch.tensor([[0.3, -1.2, 0.7], [2.0, -0.4, 0.0]])
    bonus = torch.tensor([[0.5, -0.8, 0.0], [1.1, 0.9, 0.0]]) if entropies else torch.zeros(2, 3)
    found, spread = token_log_probs(lm, lm, ids, mask, 3, 0.7, False, False, True)
    (found * weights + spread * bonus).sum().backward()
    gradients = [weight.grad for weight in lm.parameters()]
    lm.zero_grad()
    logits = lm(ids, attention_mask=mask).logits[:, :-1]
    logits = logits.to(torch.promote_types(dtype, torch.float32)) / 0.7
    log_probs = logits.log_softmax(dim=-1)
    expected = log_probs.gather(2, ids[:, 1:, None]).squeeze(2)
    assert torch.allclose(
        found, expected.masked_fill(mask[:, 1:] == 0, 0), atol=1e-12 if dtype == torch.float64 else 0.1
    )
    (expected * weights - (log_probs.exp() * log_probs).sum(dim=2) * bonus).sum().backward()
    for mine, weight in zip(gradients, lm.parameters(), strict=True):
        gap = (mine - weight.grad).norm() / weight.grad.norm()
        assert gap < (1e-12 if dtype == torch.float64 else 0.05)


@pytest.mark.parametrize("share", [True, False])
def test_columns_of_padding_alone_are_not_read(share):
    lm, read = family_lm("Qwen3"), []
    ids, mask = torch.tensor([[0, 0, 0, 5, 6, 40, 2]]), torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    handle = lm.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    found, _ = token_log_probs(lm, lm, ids, mask, 2, 1.0, share, False, False)
    handle.remove()
    assert sum(read) == 4
    assert torch.allclose(found, token_log_probs(lm, lm, ids[:, 3:], mask[:, 3:], 2, 1.0, share, False, False)[0])
