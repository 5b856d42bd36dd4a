"""The policy's pass: each chain as it would be computed alone, whatever shares its prompt."""

import pytest
import torch
from conftest import FAMILIES, family_lm
from training.helpers import CHAINS
from transformers import GPT2Config, GPT2LMHeadModel

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
