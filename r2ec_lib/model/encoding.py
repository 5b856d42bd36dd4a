"""Hidden states of token sequences: one padded forward, a shared beginning computed once, one vector a sequence.

Users and items go through the same functions, with a gradient (training) and without (encoding a catalogue). Nothing
here knows of prompts, items or sampling.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

READOUTS = ("last", "mean", "max", "token", "alone")
"""What speaks for a text: the state at `<answer>`, the mean or the maximum over the text, the state at a special token
that follows `<answer>`, or that at `<answer>` where a reasoning is read without the history that it is about."""
BATCH_TOKENS = 16_384
"""Padded tokens a forward without gradients: large enough to fill a CPU or GPU, small enough for 4 GB."""
ENCODED_TOKENS = 4096
"""Padded tokens of one forward over texts on a CPU, at most."""
GPU_TOKENS = 65_536
"""The same on a GPU, which starts a kernel about as fast as it computes one over few tokens."""
CACHED_NUMBERS = 2**19
"""Of one layer's states on a CPU: what its cache holds, and memory that is used again without going back and forth."""
NO_LOGITS = torch.tensor([], dtype=torch.long)
"""For `logits_to_keep`: the LM head gets no position, since states come from the decoder. The call stays one of the
whole model, whose forward accelerate may have wrapped."""
Upper = Callable[[Sequence[Sequence[int]]], Tensor | None]
"""Last hidden states (B, L, d) of right-padded texts, found without a whole forward, or None; see `frozen.py`."""
SHARED_TOKENS = 8
"""Shortest common beginning that is worth a forward of its own."""
SIMILAR = 7 / 8
"""Of the longest row's length: texts shorter than that are read in the next forward, if this one is large enough."""


@contextmanager
def captured_states(lm: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collects the last hidden states (B, L, d) of every forward made inside, wrapped or not, with its graph."""
    states: list[Tensor] = []
    handle = lm.get_decoder().register_forward_hook(lambda _, __, output: states.append(output.last_hidden_state))
    try:
        yield states
    finally:
        handle.remove()


def read_out(hidden: Tensor, starts: Tensor, ends: Tensor, readout: str = "last") -> Tensor:
    """One vector a row from its hidden states.

    Args:
        hidden: (B, L, d).
        starts, ends: (B,) first and last position of the text that speaks for the row: a reasoning with its
            `<answer>`, or an item prompt.
        readout: "last" takes the state at `ends` (h_T, the paper's choice), and so does "token", for texts that end in
            that token, and "alone", for texts without a history; "mean" and "max" pool over the span.

    Returns:
        (B, d).
    """
    if readout in ("last", "token", "alone"):
        return hidden[torch.arange(len(ends), device=hidden.device), ends]
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None, :]  # (1, L)
    inside = (positions >= starts[:, None]) & (positions <= ends[:, None])  # (B, L)
    if readout == "mean":
        return (hidden * inside[..., None]).sum(dim=1) / inside.sum(dim=1, keepdim=True)
    return hidden.masked_fill(~inside[..., None], -torch.inf).amax(dim=1)


def caches_exactly(lm: PreTrainedModel) -> bool:
    """Whether a forward that goes on from a cache equals the whole forward, with and without a gradient.

    True for full and sliding-window attention, computed by "sdpa" or "eager". False while gradient checkpointing is on
    in training, which cannot keep a cache, and for recurrent or compressed layers, whose caches hold no single tokens.
    """
    plain = all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=lm.config).layers
    )
    attention = lm.config.get_text_config()._attn_implementation
    return plain and attention in ("sdpa", "eager") and not (lm.training and lm.is_activation_checkpointing)


def shared_beginning(ids: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all sequences share, leaving each at least one of its own.

    >>> shared_beginning([[5, 6, 7, 8], [5, 6, 9], [5, 6, 7]])
    2
    """
    low, high = min(map(list, ids)), max(map(list, ids))  # what the two extremes share, all between them share
    limit = min(map(len, ids)) - 1
    return next((at for at in range(limit) if low[at] != high[at]), limit)


def forward_states(
    lm: torch.nn.Module,
    plain_lm: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    starts: Sequence[int] | None = None,
    readout: str = "last",
    upper: Upper | None = None,
) -> Tensor:
    """Vectors (B, d) of token sequences, in one padded forward that keeps its graph.

    Where all sequences begin with the same `SHARED_TOKENS` tokens or more (an instruction), these are computed once,
    in a forward of a single row from whose cache all rows go on; its gradient is the sum of theirs.

    Args:
        lm: what to call: the model itself, or the wrapper that accelerate put around it.
        plain_lm: the model inside, whose decoder holds the states.
        ids: B sequences of token ids, each ending in `<answer>`, or in the special token of the read-out "token".
        starts: where each sequence's own text begins (only pooled read-outs ask); 0 if left out.
        upper: `LowerStates.upper`, for texts that are read again and again.
    """
    device = plain_lm.device
    lengths = torch.tensor([len(row) for row in ids])
    begin = torch.zeros_like(lengths) if starts is None else torch.tensor(starts)
    if upper is not None and (states := upper(ids)) is not None:
        return read_out(states, begin.to(device), lengths.to(device) - 1, readout)
    shared = shared_beginning(ids) if len(ids) > 1 and caches_exactly(plain_lm) else 0
    shared = shared if shared >= SHARED_TOKENS else 0
    width = int(lengths.max())
    padded = torch.tensor(
        [[*row[shared:], *[0] * (width - len(row))] for row in ids], device=device
    )  # (B, L − shared)
    mask = (torch.arange(width)[None, :] < lengths[:, None]).long().to(device)  # (B, L), right-padded
    cache = None
    with captured_states(plain_lm) as hidden:
        if shared:
            cache = DynamicCache(config=plain_lm.config)
            first = torch.tensor([list(ids[0][:shared])], device=device)  # (1, shared)
            lm(input_ids=first, past_key_values=cache, use_cache=True, logits_to_keep=NO_LOGITS)
            rows = torch.zeros(len(ids), dtype=torch.long, device=device)
            cache.reorder_cache(rows)  # type: ignore[arg-type]  # any integer tensor
        lm(
            input_ids=padded,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=NO_LOGITS,
        )
    states = hidden[-1]
    if shared and readout in ("mean", "max"):  # a pooled span may reach into the beginning
        states, shared = torch.cat([hidden[0].expand(len(ids), -1, -1), states], dim=1), 0
    return read_out(states, begin.to(device) - shared, lengths.to(device) - 1 - shared, readout)


def batched_states(
    lm: torch.nn.Module,
    plain_lm: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    starts: Sequence[int] | None = None,
    readout: str = "last",
    batch_tokens: int = BATCH_TOKENS,
    upper: Upper | None = None,
) -> Tensor:
    """`forward_states` (B, d) in batches of similar length, so that little padding is computed; keeps the graph."""
    order, parts = [], []
    for rows in length_batches([len(row) for row in ids], batch_tokens, fill=0.5):
        begin = None if starts is None else [starts[row] for row in rows]
        parts.append(forward_states(lm, plain_lm, [ids[row] for row in rows], begin, readout, upper))
        order += rows
    back = torch.tensor(order, device=parts[0].device).argsort()
    return torch.cat(parts)[back]


def encoded_tokens(lm: PreTrainedModel) -> int:
    """Padded tokens of one forward over texts: enough to keep kernels busy, on a CPU few enough for its cache."""
    if lm.device.type != "cpu":
        return GPU_TOKENS
    return min(ENCODED_TOKENS, CACHED_NUMBERS // lm.config.get_text_config().hidden_size)


def length_batches(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS, fill: float = 1.0) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, longest first, each at most `batch_tokens` when padded.

    Args:
        fill: share of `batch_tokens` from which on a batch ends before a row that is not `SIMILAR` in length.

    >>> list(length_batches([10, 9, 5, 10], batch_tokens=40, fill=0.5))
    [[0, 3, 1], [2]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        end = start + max(1, batch_tokens // longest)
        least = start + max(1, math.ceil(fill * batch_tokens / longest))
        short = (at for at in range(least, min(end, len(order))) if lengths[order[at]] < SIMILAR * longest)
        end = next(short, end)
        yield order[start:end]
        start = end
