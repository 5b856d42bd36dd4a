"""Reasonings sampled in batches, with the state at `<answer>` read on the way.

What `generate` does, less the work that a recommender does not need: equal prompts are read once, however many chains
grow from them, and others beside those of similar length; a chain that has ended leaves the batch, or a GPU replays a
step that it has recorded; and h_T, the state at `<answer>`, comes from the forward that reads that token, so nobody
has to read the prompt again for it. Tokens are drawn as `generate` draws them (same processors, same order), though
from other random numbers.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from r2ec_lib.data.schema import DataError
from r2ec_lib.model.answer import Answer
from r2ec_lib.model.decoding import LAST, FixedStep, RoomyLayer, Step, keeps_in_place, roomy_cache
from r2ec_lib.model.encoding import BATCH_TOKENS, SIMILAR, caches_exactly, captured_states, length_batches

SUPPORTED = {
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "suppress_tokens",
}
SUPPORTED |= {"pad_token_id", "bos_token_id", "eos_token_id", "disable_compile", "transformers_version"}
"""The settings of a `GenerationConfig` that `sample` follows; any other is refused."""
DRAWN_TOKENS = 64
"""Tokens of a block in `draw`."""
DRAWN_SCORES = 2**19
"""Scores from which tokens are drawn at a time on a CPU: 2 MiB, which stay in its cache."""
GROUP_TOKENS = 512
"""Prompts are read in groups of similar length, each of this many tokens or more: enough to keep kernels busy."""
CACHE_BYTES = 2**33
"""Of keys and values of a batch on a GPU, where a step over many rows takes hardly longer than one over few."""
DROP_SHARE = 0.25
"""Share of ended chains at which the others move together; moving copies the cache, which costs about one step."""


@dataclass(frozen=True)
class Sampled:
    """Chains and what was read at their ends; one row per prompt, in the order given.

    Attributes:
        chains: token ids as sampled, each ending in `<answer>`.
        written: whether the model wrote `<answer>` itself; elsewhere it was appended.
        states: (B, d) float32 user states, on the model's device.
    """

    chains: list[list[int]]
    written: list[bool]
    states: Tensor


@torch.no_grad()
def sample(
    lm: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    settings: GenerationConfig,
    answer: Answer,
    readout: str = "last",
    batch_tokens: int | None = None,
    read_id: int | None = None,
) -> Sampled:
    """Writes one reasoning a row; rows with equal prompts (the G of a group) share one pass over it.

    A chain ends where the model completes `<answer>`. Where it ends its turn otherwise, or reaches `max_new_tokens`,
    the tokens of `<answer>` are appended.

    Args:
        lm: a causal language model, in evaluation mode.
        settings: `max_new_tokens`, `eos_token_id` and how to draw: greedy unless `do_sample`; temperature, top_k,
            top_p, repetition_penalty and suppress_tokens as in `generate`.
        readout: "last" reads h_T; "mean" and "max" pool the states of the chain, `<answer>` included; "token" reads
            `read_id` after `<answer>` and takes its state. That token is no part of the chain. "alone" gives h_T, too;
            what ranks then is read elsewhere.
        batch_tokens: prompt and chain tokens held in the cache at once; `cached_tokens` if left out.
        read_id: the special token of the read-out "token"; None for any other.

    Raises:
        ValueError: `settings` asks for what this sampler does not do.
    """
    unknown = sorted(set(settings.to_diff_dict()) - SUPPORTED)
    if unknown:
        raise ValueError(f"sampling follows {sorted(SUPPORTED)}; the settings also hold {unknown[0]!r}")
    room = settings.max_new_tokens + len(answer.ids)
    order = sorted(range(len(prompt_ids)), key=lambda row: (-len(prompt_ids[row]), prompt_ids[row]))
    device = lm.device
    chains: list[list[int]] = [[]] * len(prompt_ids)
    written = [False] * len(prompt_ids)
    states = torch.empty(len(prompt_ids), lm.config.get_text_config().hidden_size, device=device)
    batch_tokens = batch_tokens or cached_tokens(lm)
    for batch in length_batches([len(prompt_ids[row]) + room for row in order], batch_tokens):
        rows = [order[place] for place in batch]  # equal prompts stand beside each other
        tokens, lengths, closed, states[rows] = _sample_batch(
            lm, [prompt_ids[row] for row in rows], settings, answer, readout, read_id
        )
        for row, chain, length, by_policy in zip(
            rows, tokens.tolist(), lengths.tolist(), closed.tolist(), strict=True
        ):
            chains[row], written[row] = chain[:length], by_policy
    return Sampled(chains, written, states)


def _sample_batch(
    lm: PreTrainedModel,
    prompts: list[Sequence[int]],
    settings: GenerationConfig,
    answer: Answer,
    readout: str,
    read_id: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Chains (B, room) of one batch, their lengths (B,) with `<answer>`, whether the model closed each, states (B, d).

    Equal prompts are neighbours. Below, R counts the rows still in the batch and `row` (R,) names them. Every chain
    ends in the `ending`: the tokens of `<answer>`, and the one that the read-out "token" reads. While `place` (R,) is
    −1 the model chooses the next token; from 0 on it is the place in the ending that comes next. A step reads E tokens
    of each row: one, or the whole ending where the token limit makes all that are left begin it.
    """
    device = lm.device
    ending = torch.tensor([*answer.ids, *([] if read_id is None else [read_id])], device=device)
    last = len(answer.ids) - 1  # the place at which a chain is complete
    limit, room = settings.max_new_tokens, settings.max_new_tokens + len(ending)
    stops = torch.tensor(settings.eos_token_id, device=device)
    tokens = torch.zeros(len(prompts), room, dtype=torch.long, device=device)
    lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
    closed = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    states = torch.zeros(len(prompts), lm.config.get_text_config().hidden_size, device=device)

    with captured_states(lm) as hidden:
        scores, ids, mask, cache = _read_groups(lm, prompts, settings.pad_token_id, room)  # (R, |T|), (R, P), (R, P)
        fixed = keeps_in_place(lm, mask.shape[1] + room)
        forward = FixedStep(lm, cache, hidden, mask, room) if fixed else Step(lm, cache, hidden)
        row = torch.arange(len(prompts), device=device)  # (R,)
        position = mask.sum(dim=1)  # (R,)
        place = torch.full_like(row, -1)  # (R,)
        done = torch.zeros_like(row, dtype=torch.bool)  # (R,) the state has been read
        pooled = torch.full_like(states, -torch.inf if readout == "max" else 0.0)  # (R, d)
        step = 0
        while step < room:
            place = place if step < limit else place.clamp(min=0)
            chosen = place < 0  # (R,) by the model
            if not fixed and step >= limit and (place[~done] == 0).all():
                read = ending.expand(len(row), -1)  # (R, E)
            else:
                token = next_tokens(settings, ids, mask, scores)  # (R,)
                read = torch.where(chosen, token, ending[place.clamp(0, len(ending) - 1)])[:, None]  # (R, 1)
            size = read.shape[1]
            tokens[row, step : step + size] = read
            wrote = chosen & answer.is_complete(tokens[row, : step + 1])  # (R,) `<answer>`, by itself
            place = place.masked_fill(wrote, last)
            closed[row] |= wrote
            completes = (place >= 0) & (place <= last) & (place + size > last) & ~done
            lengths[row] = torch.where(completes, step + 1 + last - place, lengths[row])
            speaks = (place + size == len(ending)) & ~done  # (R,) the state of the last token read is the row's
            ids = torch.cat([ids, read], dim=1)
            mask = torch.cat([mask, torch.ones_like(read)], dim=1)
            scores, found = forward(read, mask, position)  # (R, |T|), (R, E, d)
            pooled, state = _pool(readout, pooled, found.float(), step)
            states[row] = torch.where(speaks[:, None], state, states[row])
            turned = torch.isin(read[:, -1], stops) & (place < 0)  # (R,) the model ended its turn without `<answer>`
            place = torch.where(place < 0, turned.long() - 1, place + size)
            position, done, step = position + size, done | speaks, step + size
            gone = int(done.sum())
            if gone == len(row):
                break
            if gone >= DROP_SHARE * len(row) and not fixed:
                kept = (~done).nonzero().squeeze(1)
                cache.reorder_cache(kept)  # type: ignore[arg-type]  # any integer tensor
                scores, ids, mask, row, position = scores[kept], ids[kept], mask[kept], row[kept], position[kept]
                place, done, pooled = place[kept], done[kept], pooled[kept]
    return tokens, lengths, closed, states


def _read_groups(
    lm: PreTrainedModel, prompts: list[Sequence[int]], pad_id: int, room: int
) -> tuple[Tensor, Tensor, Tensor, Cache]:
    """Scores (B, |T|) after each prompt, ids and mask (B, P), and the cache; equal neighbours are read once."""
    first = [at for at in range(len(prompts)) if not at or list(prompts[at]) != list(prompts[at - 1])]
    ids, mask = left_padded([prompts[at] for at in first], pad_id, lm.device)  # (U, P)
    logits, cache = read_prompts(lm, ids, mask, room)  # (U, 1, |T|)
    if len(first) < len(prompts):
        owner = torch.zeros(len(prompts), dtype=torch.long, device=lm.device)
        owner[first] = 1
        owner = owner.cumsum(dim=0) - 1  # (B,) the distinct prompt of each row
        cache.reorder_cache(owner)  # type: ignore[arg-type]  # any integer tensor
        logits, ids, mask = logits[owner], ids[owner], mask[owner]
    return logits[:, -1], ids, mask, cache


def _pool(readout: str, pooled: Tensor, found: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """What is pooled so far, and the state (R, d) if a row ends here, after `step` states and `found` (R, E, d)."""
    if readout == "mean":
        pooled = pooled + found.sum(dim=1)
        return pooled, pooled / (step + found.shape[1])
    if readout == "max":
        pooled = torch.maximum(pooled, found.amax(dim=1))
        return pooled, pooled
    return pooled, found[:, -1]


def cached_tokens(lm: PreTrainedModel) -> int:
    """Prompt and chain tokens of one batch: what fits `CACHE_BYTES` on a GPU, `BATCH_TOKENS` on a CPU."""
    if lm.device.type == "cpu":
        return BATCH_TOKENS
    config = lm.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return max(BATCH_TOKENS, CACHE_BYTES // (2 * config.num_hidden_layers * heads * width * lm.dtype.itemsize))


def read_prompts(lm: PreTrainedModel, ids: Tensor, mask: Tensor, room: int) -> tuple[Tensor, Cache]:
    """Logits (U, 1, |T|) after left-padded prompts (U, P), and a cache of them with room for `room` more tokens.

    The longest prompts stand first. Those of similar length share a forward, without the padding common to them.
    """
    lengths = mask.sum(dim=1).tolist()
    starts = similar_lengths(lengths) if caches_exactly(lm) else [0]
    logits, caches = [], []
    for start, stop in zip(starts, [*starts[1:], len(lengths)], strict=True):
        inside = mask[start:stop, -lengths[start] :]
        caches.append(roomy_cache(lm, room if len(starts) == 1 else 0))
        output = lm(
            input_ids=ids[start:stop, -lengths[start] :],
            attention_mask=inside,
            position_ids=(inside.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=caches[-1],
            use_cache=True,
            logits_to_keep=LAST,
        )
        logits.append(output.logits)
    if len(caches) == 1:
        return logits[0], caches[0]
    layers: list[Any] = [
        RoomyLayer(room).joined(parts) for parts in zip(*(cache.layers for cache in caches), strict=True)
    ]
    return torch.cat(logits), Cache(layers=layers)


def similar_lengths(lengths: Sequence[int]) -> list[int]:
    """Where groups of similar length begin in falling lengths: none below `SIMILAR` of its longest but in small ones.

    >>> similar_lengths([800, 799, 701, 699, 650])
    [0, 3]
    """
    starts = [0]
    for at, length in enumerate(lengths):
        longest = lengths[starts[-1]]
        if length < SIMILAR * longest and (at - starts[-1]) * longest >= GROUP_TOKENS:
            starts.append(at)
    return starts


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask (U, P) of prompts that all end in the last column."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return ids, (torch.arange(width, device=device)[None, :] >= width - lengths[:, None]).long()


def logits_processors(settings: GenerationConfig, mask: Tensor) -> LogitsProcessorList:
    """The processors that `generate` would apply, in its order; padding (mask (R, L) of 0) is no repetition."""
    chosen = LogitsProcessorList()
    if settings.repetition_penalty not in (None, 1.0):
        padding = (mask != 0).int().argmax(dim=1)
        chosen.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty, prompt_ignore_length=padding))
    if settings.suppress_tokens:
        chosen.append(SuppressTokensLogitsProcessor(settings.suppress_tokens, device=str(mask.device)))
    if not settings.do_sample:
        return chosen
    if settings.temperature not in (None, 1.0):
        chosen.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        chosen.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p is not None and settings.top_p < 1:
        chosen.append(TopPLogitsWarper(settings.top_p))
    return chosen


def next_tokens(settings: GenerationConfig, ids: Tensor, mask: Tensor, logits: Tensor) -> Tensor:
    """A token for each row (R,) after `ids` (R, L) with their `mask`, from logits (R, |T|) in any precision."""
    size = max(1, DRAWN_SCORES // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    parts = []
    for before, real, found in zip(ids.split(size), mask.split(size), logits.split(size), strict=True):
        scores = logits_processors(settings, real)(before, found.float())
        parts.append(draw(scores, settings.do_sample))
    return torch.cat(parts)


def draw(scores: Tensor, do_sample: bool) -> Tensor:
    """One token a row (R,) from the softmax of scores (R, |T|), or the best one.

    The inverse of the cumulative distribution: one random number a row, where `torch.multinomial` takes one a token.
    A token of probability 0 is never drawn. First a block of `DRAWN_TOKENS` is drawn, then a token of it, so that only
    the sums of the blocks are added up in float64, and not |T| numbers a row.
    """
    if not do_sample:
        return scores.argmax(dim=-1)
    weights = (scores - scores.amax(dim=-1, keepdim=True)).exp_()  # (R, |T|)
    if spare := -weights.shape[1] % DRAWN_TOKENS:
        weights = F.pad(weights, (0, spare))
    blocks = weights.unflatten(1, (-1, DRAWN_TOKENS))  # (R, K, D)
    sums = blocks.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)  # (R, K)
    total = sums[:, -1:]
    point = torch.rand(total.shape, dtype=torch.float64, device=scores.device) * total
    block = _first_above(sums, point)  # (R, 1)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, DRAWN_TOKENS)).squeeze(1)  # (R, D)
    point = point - F.pad(sums, (1, 0)).gather(1, block)  # what is left of it within the block
    token = block * DRAWN_TOKENS + _first_above(inside.cumsum(dim=-1, dtype=torch.float64), point)  # (R, 1)
    return token.squeeze(1).clamp(max=scores.shape[1] - 1)


def _first_above(cumulative: Tensor, point: Tensor) -> Tensor:
    """(R, 1) the first place of rising rows (R, K) above `point` (R, 1); rounding may not push it beyond the last."""
    below_last = cumulative[:, -1:].nextafter(torch.zeros_like(point))
    place = torch.searchsorted(cumulative, torch.minimum(point, below_last), right=True)
    return place.clamp(max=cumulative.shape[1] - 1)  # where all is NaN, which the caller finds in the states


def require_cache(lm: torch.nn.Module) -> None:
    """Raises DataError where a model, such as Mamba, takes no keys and values of what it has read: a reasoning would
    be sampled without its prompt."""
    inner: Any = lm
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # of a PeftModel
    taken = inspect.signature(inner.forward).parameters.values()
    names = [one.name for one in taken if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if names and "past_key_values" not in names:  # a wrapper that hands on all it gets names none
        raise DataError(
            f"{type(inner).__name__} takes no past_key_values, so its reasonings would be written without their "
            "prompts. Choose a backbone with attention, such as Qwen3 or Llama."
        )
