"""Does the ranking depend on the reasoning? Chains are altered, the catalogue is ranked again, the rankings compared.

Chains are lists of token ids, each closed by `<answer>`, and every altered chain still ends in it. Scores come from a
function that the caller hands in, so nothing here knows a model or a tokenizer. `<answer>` may be text of several
tokens, so the caller also hands in `body` (`Answer.body`), which gives a chain without them. That a change of text
changes the ranking shows that the model reads the text; it does not show that the text tells everything the model
used. What the text says is the business of `mentions` and `texts`.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch

from r2ec_lib.evaluation.ranking import metric_values, rank_batch
from r2ec_lib.evaluation.uncertainty import mean_interval, share_interval

Chains = Sequence[Sequence[int]]  # token ids, each chain closed by `<answer>`
Body = Callable[[Sequence[int]], list[int]]
ScoreFn = Callable[[pd.DataFrame, Chains | None], torch.Tensor]
"""(rows of the samples table, a chain per row or None for no reasoning) to (B, N) scores."""

EFFECTS = {
    "gain": ("full", "none", "the reasoning against no reasoning"),
    "compute": ("filler", "none", "filler of equal length against no reasoning"),
    "content": ("full", "filler", "the reasoning against filler of equal length"),
    "swap": ("full", "swapped", "the reasoning against another shopper's"),
    "training": ("full", "untaught", "the reasoning against a model trained without any"),
}
"""The causal tests as differences a − b of two conditions, with their words; `untaught` is another model's ranking."""

FEWEST = 20
"""Shoppers that a mean over one sentence of their reasonings needs."""

CHANGES = {
    "kept 0.5": "half the reasoning removed",
    "none": "the whole reasoning removed",
    "filler": "filler in its place",
    "swapped": "another shopper's in its place",
    "again": "written again, at random",
    "averaged": "several written so, averaged",
    "facts": "facts exchanged for other ones",
    "neutral": "as many other words exchanged",
}
"""What is done to a reasoning, in words, by condition of `stack`."""


def truncate(chains: Chains, fraction: float, body: Body) -> list[list[int]]:
    """The first `fraction` of each chain's tokens (rounded half up), then its `<answer>`."""
    sizes = [len(body(chain)) for chain in chains]
    return [
        [*chain[: math.floor(fraction * size + 0.5)], *chain[size:]] for chain, size in zip(chains, sizes, strict=True)
    ]


def filler(chains: Chains, filler_ids: Sequence[int], body: Body) -> list[list[int]]:
    """Chains of equal length that repeat `filler_ids` and say nothing."""
    if not filler_ids:
        raise ValueError("filler needs at least one token id")
    sizes = [len(body(chain)) for chain in chains]
    return [
        [*(filler_ids[i % len(filler_ids)] for i in range(size)), *chain[size:]]
        for chain, size in zip(chains, sizes, strict=True)
    ]


def swap_partners(samples: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """(B,) positions: for each sample one of another user, as near as possible in history length, at random among
    equals. Raises ValueError where all samples are one user's."""
    users = samples["user_id"].to_numpy()
    if len(set(users)) < 2:
        raise ValueError("swapping reasonings needs samples of at least two users")
    lengths = samples["history"].map(len).to_numpy()
    noise = np.random.default_rng(seed).random((len(samples), 2))
    order = np.lexsort((noise[:, 0], lengths))
    begins = np.flatnonzero(np.r_[True, users[order][1:] != users[order][:-1]])  # of runs of one user's samples
    sizes = np.diff(np.r_[begins, len(order)])
    sides = np.stack([np.repeat(begins - 1, sizes), np.repeat(begins + sizes, sizes)])  # (2, B): places of other users
    inside = (sides >= 0) & (sides < len(order))
    near = order[sides.clip(0, len(order) - 1)]
    far = np.where(inside, np.abs(lengths[near] - lengths[order]), np.inf)
    after = (far[1] < far[0]) | ((far[1] == far[0]) & (noise[near[1], 1] < noise[near[0], 1]))
    partners = np.empty(len(samples), int)
    partners[order] = np.where(after, near[1], near[0])
    return partners


def conditions(
    samples: pd.DataFrame,
    chains: Chains,
    fractions: Sequence[float],
    filler_ids: Sequence[int],
    body: Body,
    seed: int = 0,
) -> dict[str, Chains]:
    """The chains of every causal test: full, none, filler, swapped, and `kept <fraction>` for each of `fractions`.
    Where all samples are one user's, none is swapped. In "none", `<answer>` is what is left of each chain."""
    altered = {"full": chains, "none": truncate(chains, 0, body), "filler": filler(chains, filler_ids, body)}
    if samples["user_id"].nunique() > 1:
        altered["swapped"] = [chains[partner] for partner in swap_partners(samples, seed)]
    return altered | {f"kept {fraction:g}": truncate(chains, fraction, body) for fraction in fractions}


def rank_chains(
    score_fn: ScoreFn,
    samples: pd.DataFrame,
    chains: Chains | None,
    k: int = 10,
    temperature: float = 1.0,
    watch: Sequence[int] | None = None,
    mask_seen: bool = True,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Ranks the whole catalogue for each sample with the given reasoning.

    Args:
        watch: (B,) item indexes whose log-probability is wanted; default: each row's first item.
        temperature: τ of π(v|x,o) = softmax(s/τ) over the candidates.
        mask_seen: leave the history's items out of the candidates; the target always stays in.

    Returns:
        sample_id, user_id, rank, `ndcg` (at k), top_items and top_scores (at most k), `log_p` = log π(watch|x,o).
    """
    parts = []
    for start in range(0, len(samples), batch_size):
        at = slice(start, start + batch_size)
        scores = score_fn(samples.iloc[at], None if chains is None else chains[at])
        part, scores = rank_batch(scores, samples.iloc[at], mask_seen, k)  # scores (B, N)
        watched = scores.argmax(dim=1) if watch is None else torch.tensor(watch[at])  # (B,)
        log_p = torch.log_softmax(scores / temperature, dim=1).gather(1, watched[:, None])[:, 0]  # (B,)
        parts.append(part.assign(ndcg=metric_values(part["rank"], f"ndcg@{k}"), log_p=log_p.numpy()))
    table = pd.concat(parts, ignore_index=True)
    return table[["sample_id", "user_id", "rank", "ndcg", "top_items", "top_scores", "log_p"]]


def stack(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The `rank_chains` tables of several conditions below each other, with `condition` and `agreement` =
    |A ∩ B| / |A|, the share of the top items A of the condition "full" that are among this one's top items B."""
    full = [set(top.tolist()) for top in tables["full"]["top_items"]]
    parts = []
    for name, table in tables.items():
        same = [len(a & set(b.tolist())) / len(a) for a, b in zip(full, table["top_items"], strict=True)]
        parts.append(table.assign(condition=name, agreement=same))
    return pd.concat(parts, ignore_index=True)


def effects(ranked: pd.DataFrame) -> pd.DataFrame:
    """The tests of EFFECTS as paired differences in NDCG: test, label, difference, ci95 (95 %, clustered by user).

    `ranked` is the table of `stack`; of a condition, sample_id, user_id and ndcg are enough. Tests whose second
    condition is missing are left out.
    """
    present = set(ranked["condition"])
    rows = []
    for test, (a, b, words) in EFFECTS.items():
        if b in present:
            mean, *ends = paired_difference(ranked, a, b, "ndcg")
            rows.append((test, f"{test}: {words}", mean, ends))
    return pd.DataFrame(rows, columns=["test", "label", "difference", "ci95"])


def paired_difference(ranked: pd.DataFrame, a: str, b: str, column: str) -> tuple[float, float, float]:
    """Mean over samples of a column under condition a less that under b, with its paired 95 % interval."""
    first, second = (ranked[ranked["condition"] == name].set_index("sample_id") for name in (a, b))
    return mean_interval(first[column] - second[column].loc[first.index], first["user_id"])


def early_answering(ranked: pd.DataFrame) -> pd.DataFrame:
    """What is left when only the first `fraction` of each reasoning is kept: `fraction`, then `ndcg` and `agreement`
    with `_low` and `_high` (95 %, clustered by user), by rising fraction."""
    rows = []
    for condition, part in ranked.groupby("condition"):
        if condition.startswith("kept "):
            row = {"fraction": float(condition.removeprefix("kept "))}
            for name in ("ndcg", "agreement"):
                row[name], row[f"{name}_low"], row[f"{name}_high"] = share_interval(part[name], part["user_id"])
            rows.append(row)
    return pd.DataFrame(rows).sort_values("fraction", ignore_index=True)


def area_over_curve(ranked: pd.DataFrame) -> tuple[float, float, float]:
    """1 − mean agreement over the kept fraction (conditions `kept <fraction>` of `stack`), by trapezoids, with its 95
    % interval, clustered by user: 0 where the reasoning changes nothing, and the larger, the later in the reasoning
    the recommendation is settled. NaN where there are fewer than two fractions."""
    kept = ranked[ranked["condition"].str.startswith("kept ")]
    fraction = kept["condition"].str.removeprefix("kept ").astype(float)
    table = kept.assign(fraction=fraction).pivot(index="sample_id", columns="fraction", values="agreement")
    if table.shape[1] < 2:
        return math.nan, math.nan, math.nan
    fractions = table.columns.to_numpy(float)
    area = 1 - np.trapezoid(table.to_numpy(float), fractions, axis=1) / (fractions[-1] - fractions[0])  # (S,)
    users = kept.drop_duplicates("sample_id").set_index("sample_id")["user_id"].loc[table.index]
    return share_interval(area.clip(0, 1), users)


def drop_one(
    score_fn: ScoreFn,
    samples: pd.DataFrame,
    chains: Chains,
    ends: Set[int | tuple[int, int]],
    body: Body,
    watch: Sequence[int] | None = None,
    seed: int | None = None,
    **keys: Any,
) -> pd.DataFrame:
    """Leaves out each sentence j in turn: `effect` = log π(v̂|x,o) − log π(v̂|x,o∖j).

    Where v̂ is the first item of the full chain, whatever disturbs the chain makes it less probable, so a positive
    effect alone does not show that the sentence speaks for v̂. The yardstick, `elsewhere`, is the same effect of as
    many tokens in one stretch from a random place: a sentence with more than that carries more than its length.

    Args:
        ends: ids of the tokens that end a sentence, or pairs of tokens between which one ends (`sentence_ends`).
        watch: (B,) the items v̂; default: the first item of each full chain.
        seed: of the random places; None for no yardstick.
        keys: of `rank_chains`.

    Returns:
        position (row of `samples`), sample_id, user_id, `sentence` (from 0), `sentences` of the chain, `start` and
        `stop` (tokens), `effect` and, with a seed, `elsewhere` (nats). Chains of a single sentence are left out:
        without it they are no reasoning.
    """
    spans = [(p, *span) for p, chain in enumerate(chains) for span in _sentences(body(chain), ends)]
    table = pd.DataFrame(spans, columns=["position", "sentence", "sentences", "start", "stop"])
    table = table[table["sentences"] > 1].reset_index(drop=True)
    if table.empty:
        return table.assign(sample_id=[], user_id=[], effect=[])
    full = rank_chains(score_fn, samples, chains, watch=watch, **keys)
    watched = [int(full["top_items"][p][0]) if watch is None else watch[p] for p in table["position"]]
    rows, lengths = samples.iloc[table["position"]], table["stop"] - table["start"]
    table = table.assign(sample_id=rows["sample_id"].to_numpy(), user_id=rows["user_id"].to_numpy())
    places = {"effect": table["start"]}
    if seed is not None:
        rest = table["position"].map(lambda p: len(body(chains[p]))) - lengths  # a stretch may start at 0…rest
        places["elsewhere"] = np.random.default_rng(seed).integers(0, rest, endpoint=True)
    for name, starts in places.items():
        spots = zip(table["position"], starts, lengths, strict=True)
        left = [[*chains[p][:start], *chains[p][start + length :]] for p, start, length in spots]
        without = rank_chains(score_fn, rows, left, watch=watched, **keys)
        table[name] = full["log_p"].to_numpy()[table["position"]] - without["log_p"]
    return table


def sampled_again(full: pd.DataFrame, draws: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """What sampling the reasoning at random does, measured as every other alteration is, against the list of the full
    chain: a row per sample of `stack`'s table, `condition` "again", `agreement` and `ndcg` the means over the draws.

    Args:
        full, draws: tables of `rank_chains` for the same samples in the same order.
    """
    drawn = pd.concat([stack({"full": full, "again": draw}) for draw in draws]).query("condition == 'again'")
    return drawn.groupby(["condition", "sample_id", "user_id"], sort=False, as_index=False)[
        ["agreement", "ndcg"]
    ].mean()


def changes(ranked: pd.DataFrame) -> pd.DataFrame:
    """What each of CHANGES does to the list of recommended items, and to its quality; those not made are left out.

    `ranked` is the table of `stack`, with the condition "full". Columns: `condition`, `facet` (its words); `share`,
    `low`, `high`, the share 1 − `agreement` of the top items that is replaced; `difference`, `ci95`, the change of
    NDCG on the same samples. 95 %, clustered by user.
    """
    rows = []
    for condition, label in CHANGES.items():
        part = ranked[ranked["condition"] == condition]
        if len(part):
            lost = (1 - part["agreement"].astype(float)).clip(0, 1)
            mean, *ends = paired_difference(ranked, condition, "full", "ndcg")
            rows.append((condition, label, *share_interval(lost, part["user_id"]), mean, ends))
    return pd.DataFrame(rows, columns=["condition", "facet", "share", "low", "high", "difference", "ci95"])


def sentence_ends(chains: Chains, decode: Callable[[Sequence[int]], str]) -> set[tuple[int, int]]:
    """Pairs of neighbouring tokens of the chains between which a sentence ends: the first with the sign for it, then
    white space. So "0.9mm" ends none."""
    pairs = {pair for chain in chains for pair in pairwise(chain)}
    texts = {token: decode([token]).rstrip() for token, _ in pairs}
    signs = (".", "!", "?", ";")
    return {p for p in pairs if texts[p[0]].endswith(signs) and decode(p)[len(texts[p[0]]) :][:1].isspace()}


def _sentences(body: Sequence[int], ends: Set[int | tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """(number, sentences of the chain, start, stop) of each sentence of the token ids before `<answer>`."""
    stops = [i for i, pair in enumerate(pairwise(body), start=1) if pair[0] in ends or pair in ends]
    stops += [len(body)] if body else []
    return [(j, len(stops), start, stop) for j, (start, stop) in enumerate(pairwise([0, *stops]))]
