"""The policy's pass over prompts and chains: log-probabilities of the tokens that were sampled, with their graph.

TRL repeats every prompt for each of its G chains. Here each distinct prompt of a micro-batch is computed once; its
keys and values are copied to its chains with their graph, so that the gradient of a prompt is the sum over its chains,
as it is in the repeated pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from r2ec_lib.model.encoding import NO_LOGITS

HELD_LOGITS = 2**19
"""Logits made float32 at a time on a CPU: 2 MiB, few enough for its cache, enough to keep it busy."""
HELD_ON_GPU = 2**27
"""The same on a GPU, which wants few large blocks: 512 MiB."""


def token_log_probs(
    model: torch.nn.Module,
    plain_lm: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    chain_width: int,
    temperature: float,
    share_prompts: bool,
    fused: bool,
    entropies: bool,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each chain token (B, C), and the entropy of the distribution it was drawn from (B, C).

    The last forward that this makes reads the chains: its last C hidden states are those of the chain tokens, whether
    prompts were shared or not. Padding has 0 in both results. Only chain tokens pass the LM head.

    Args:
        model: what to call: the model itself, or the wrapper that accelerate put around it.
        plain_lm: the model inside.
        ids, mask: (B, P + C) prompts padded on the left, chains on the right.
        chain_width: C.
        share_prompts: compute equal prompts once; `encoding.caches_exactly` says where this is exact. It makes two
            calls of `model`, whatever the rows are, so that all processes make the same number.
        fused: let TRL's fused LM head (GPU) compute the results in tiles instead of holding all logits.
        entropies: whether they are asked for.
    """
    spare = int(mask.any(dim=0).int().argmax())  # columns of padding alone, where all these prompts are short
    ids, mask = ids[:, spare:], mask[:, spare:]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)  # (B, P + C)
    inputs = {"attention_mask": mask, "use_cache": False}
    if share_prompts:
        if ids.shape[1] - chain_width == 1:  # a prompt of one token: a column of padding stands for its beginning
            ids, mask, positions = F.pad(ids, (1, 0)), F.pad(mask, (1, 0)), F.pad(positions, (1, 0))
        begin = ids.shape[1] - chain_width - 1  # the last prompt token is read with the chain that it predicts
        cache = prompt_cache(model, plain_lm, ids[:, :begin], mask[:, :begin], positions[:, :begin])
        inputs = {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
        ids, positions = ids[:, begin:], positions[:, begin:]
    inputs |= {"input_ids": ids, "position_ids": positions}
    real = mask[:, -chain_width:].bool()  # (B, C)
    if fused:
        labels = F.pad(ids[:, -chain_width:].masked_fill(~real, -100), (ids.shape[1] - chain_width, 0), value=-100)
        output = model(**inputs, labels=labels, fused_lm_head=True)
        found = output.log_probs[:, -chain_width:]
        return found, output.entropy[:, -chain_width:] if entropies else None
    before = F.pad(real, (ids.shape[1] - chain_width - 1, 1))  # (B, L) the positions that predict a chain token
    logits = model(**inputs, logits_to_keep=before).logits  # (T, |T|), T chain tokens of all rows
    chosen, spread = ChosenTokens.apply(logits, ids[:, -chain_width:][real], temperature, entropies)  # (T,) each
    found = chosen.new_zeros(real.shape).masked_scatter(real, chosen)
    return found, spread.new_zeros(real.shape).masked_scatter(real, spread) if entropies else None


class ChosenTokens(torch.autograd.Function):
    """Log-probabilities (T,) of tokens (T,) under logits (T, |T|), and the entropies (T,), 0 unless asked for.

    All arithmetic is in float32 or better, but on a few rows at a time: of the size of the logits, nothing is kept but
    the logits, and a backward makes nothing but their gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, entropies: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, tokens)
        ctx.temperature = temperature
        precision = torch.promote_types(logits.dtype, torch.float32)
        chosen, spread = (torch.zeros(len(logits), dtype=precision, device=logits.device) for _ in range(2))
        for rows in _row_chunks(logits):
            log_probs = _log_probs(logits[rows], temperature)
            chosen[rows] = log_probs.gather(1, tokens[rows, None]).squeeze(1)
            if entropies:
                spread[rows] = -(log_probs.exp() * log_probs).sum(dim=1)
        if not entropies:
            ctx.mark_non_differentiable(spread)
        return chosen, spread

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_spread: Tensor) -> tuple[Tensor, None, None, None]:
        logits, tokens = ctx.saved_tensors
        back, bonus = torch.empty_like(logits), bool(of_spread.any())  # whether the entropies are in the loss
        for rows in _row_chunks(logits):
            log_probs = _log_probs(logits[rows], ctx.temperature)
            sent = torch.zeros_like(log_probs).scatter_(1, tokens[rows, None], gradient[rows, None])
            if bonus:  # d(−Σ p log p) / d(log p) = −p (log p + 1)
                sent -= of_spread[rows, None] * log_probs.exp() * (log_probs + 1)
            part = torch._log_softmax_backward_data(sent, log_probs, 1, log_probs.dtype)
            back[rows] = part.div_(ctx.temperature)
        return back, None, None, None


def _row_chunks(logits: Tensor) -> list[slice]:
    held = HELD_LOGITS if logits.device.type == "cpu" else HELD_ON_GPU
    size = max(1, held // logits.shape[1])
    return [slice(begin, begin + size) for begin in range(0, len(logits), size)]


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    return (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(dim=-1)


def prompt_cache(
    model: torch.nn.Module, plain_lm: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor
) -> DynamicCache:
    """Keys and values of left-padded prompts (B, P), one row per prompt; each distinct prompt is computed once.

    A backward through it adds up what the rows of a prompt send back.
    """
    _, owner = ids.masked_fill(mask == 0, -1).unique(dim=0, return_inverse=True)  # (B,) number of the row's prompt
    count = int(owner.max()) + 1
    first = torch.full((count,), len(owner), device=ids.device)
    first = first.scatter_reduce(0, owner, torch.arange(len(owner), device=ids.device), "amin")  # (U,) a row of each
    cache = DynamicCache(config=plain_lm.config)
    model(
        input_ids=ids[first],
        attention_mask=mask[first],
        position_ids=positions[first],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=NO_LOGITS,
    )
    cache.reorder_cache(owner)
    return cache
