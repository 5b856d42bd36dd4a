"""Guardrails: do reasons and recommendations keep the rules of a business, and how they are made to.

The rules are those of `rules.py`. Judging is a pure function of tables; `recommend` and `enforce` wrap a model, which
knows nothing of rules. A reason that is not given breaks no rule about reasons.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from r2ec_lib.analysis import causal
from r2ec_lib.analysis.mentions import mentions as named
from r2ec_lib.analysis.rules import KIND_OF, Forbid, Ground, Guardrails, Limit, NeverRecommend
from r2ec_lib.model import R2ec

Chains = Sequence[Sequence[int]]  # token ids, each chain closed by the `<answer>` id
USUAL = 0.25
"""A word that a larger share of all item cards hold says nothing about a shopper, and is no fact."""


# ---- judging -------------------------------------------------------------------------------------------------------


def judge(guardrails: Guardrails, chains: pd.DataFrame, samples: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Which rules each reason, and each list of recommended items, breaks.

    A fact is an item of the history that the reason mentions (`mentions.mentions`), or a word of three letters or
    more that stands on the card of one, in a column other than id and title, and on at most a share `USUAL` of all
    cards: a brand, a style, a use.

    Args:
        chains: `sample_id`, `chain` (text) and, to judge recommendations too, `top_items` (item indexes).
        samples: `sample_id`, `history`, for at least the samples of `chains`.
        items: the catalogue, in item-index order.

    Returns:
        One row a violation: `row` (index label in `chains`), `rule`, `kind`, `found` (the words, the item's id, or
        what was counted). Empty reasons break no rule about reasons.
    """
    given = chains[chains["chain"].str.strip() != ""]
    found = []
    for rule in guardrails.rules:
        if isinstance(rule, Forbid):
            for row, text in given["chain"].items():
                match = next((hit for pattern in rule.patterns if (hit := pattern.search(text))), None)
                found += [(row, rule, match.group())] if match else []
        elif isinstance(rule, Limit):
            words = given["chain"].map(lambda text: len(text.split()))
            found += [(row, rule, f"{count} words") for row, count in words[words > rule.words].items()]
    grounds = [rule for rule in guardrails.rules if isinstance(rule, Ground)]
    if grounds and len(given):
        counts = _grounding(given, samples, items)
        for rule in grounds:
            for row, mentions, facts in counts.itertuples():
                short = [] if mentions >= rule.mentions else [f"{mentions} of {rule.mentions} mentions"]
                short += [] if facts >= rule.facts else [f"{facts} of {rule.facts} facts"]
                found += [(row, rule, ", ".join(short))] if short else []
    if "top_items" in chains and len(chains):
        histories = samples.set_index("sample_id")["history"].loc[chains["sample_id"]]
        ids = items["item_id"].to_numpy()
        for rule, applies, mask in _item_rules(guardrails, histories, chains["chain"], items):
            for row, top in chains["top_items"][applies].items():
                found += [(row, rule, str(ids[item])) for item in top if mask[item]]
    rows = [(row, rule.name, KIND_OF[type(rule)], what) for row, rule, what in found]
    return pd.DataFrame(rows, columns=["row", "rule", "kind", "found"])


def blocked(
    guardrails: Guardrails, histories: Sequence[Sequence[int]], texts: Sequence[str], items: pd.DataFrame
) -> np.ndarray:
    """(B, N) bool, True where an item must not be recommended for a history with this reason ("" for none)."""
    barred = np.zeros((len(histories), len(items)), bool)
    for _, applies, mask in _item_rules(guardrails, histories, texts, items):
        barred |= applies[:, None] & mask[None, :]
    return barred


def _item_rules(guardrails: Guardrails, histories: Sequence, texts: Sequence[str], items: pd.DataFrame):
    """Each never_recommend rule with the rows it applies to (B,) and the items it bars (N,)."""
    for rule in guardrails.rules:
        if isinstance(rule, NeverRecommend):
            applies = np.ones(len(histories), bool)
            if rule.history:
                owned = rule.history.mask(items, rule.name)
                applies &= np.array([owned[list(history)].any() for history in histories], bool)
            if rule.reason:
                applies &= np.array([bool(rule.reason.search(text)) for text in texts], bool)
            yield rule, applies, rule.items.mask(items, rule.name)


def _grounding(chains: pd.DataFrame, samples: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """`mentions` and `facts` of each chain, with its index."""
    found = named(chains, samples, items)
    mentions = found[found["in_history"]].groupby("row")["item"].nunique().reindex(chains.index, fill_value=0)
    columns = items.columns.drop(["item_id", "title"], errors="ignore")
    cards = [_words(" ".join(map(str, row))) for row in items[columns].itertuples(index=False)]
    holders = Counter(word for card in cards for word in card)
    histories = samples.set_index("sample_id")["history"].loc[chains["sample_id"]]
    stated = []
    for history, text in zip(histories, chains["chain"], strict=True):
        said = _words(text) & set().union(*(cards[item] for item in history))
        stated.append(sum(holders[word] <= USUAL * len(items) for word in said))
    return pd.DataFrame({"mentions": mentions, "facts": mentions + stated}, index=chains.index)


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 2}


# ---- enforcing -----------------------------------------------------------------------------------------------------


class Action(NamedTuple):
    """What a rule did: "reason re-sampled", "reason dropped" or "item masked", and the words or the item id found."""

    rule: str
    action: str
    found: str


@dataclass(frozen=True)
class Guarded:
    """Top items of one history, best first, the reasoning that led to them ("" where none was kept), and the rules
    that acted; no action means that nothing was changed."""

    item_ids: list[str]
    titles: list[str]
    scores: list[float]
    reasoning: str
    actions: tuple[Action, ...]


class Enforced(NamedTuple):
    """Rankings before and after the rules, a row a sample with sample_id, user_id, chain, rank and top_items, and the
    actions on reasons: row, rule, action, found, tries."""

    before: pd.DataFrame
    after: pd.DataFrame
    actions: pd.DataFrame


def recommend(
    model: R2ec,
    history: Sequence[str],
    guardrails: Guardrails,
    k: int = 10,
    hours: Sequence[float] | None = None,
    ratings: Sequence[float] | None = None,
    max_new_tokens: int = 128,
    seed: int = 0,
) -> Guarded:
    """`R2ec.recommend` within the rules; the answer also tells which of them acted.

    Args:
        history, k, hours, ratings, max_new_tokens: as in `R2ec.recommend`, with its errors.
        seed: of the reasons tried anew.
    """
    sample = model.purchases(history, hours, ratings).assign(sample_id=0)
    chains = model.reason(model.prompts.user_ids(sample, model.titles), max_new_tokens)
    chains, acted = keep_reasons(model, sample, chains, guardrails, max_new_tokens, seed)
    text, owned = model.decode(chains[0]), sample["history"].iloc[0]
    scores = model.head.scores(model.user_states(sample, chains))[0].float().cpu()  # (N,)
    scores[owned] = -torch.inf
    wanted = scores.topk(min(k, len(scores) - len(set(owned)))).indices.tolist()
    listed = pd.DataFrame({"sample_id": [0], "chain": [text], "top_items": [wanted]})
    broken = judge(guardrails, listed, sample, model.catalogue)
    broken = broken[broken["kind"] == KIND_OF[NeverRecommend]].assign(action="item masked")
    barred = blocked(guardrails, sample["history"], [text], model.catalogue)[0]  # (N,)
    scores[torch.from_numpy(barred)] = -torch.inf
    best = scores.topk(min(k, int(scores.isfinite().sum())))
    rows = best.indices.tolist()
    columns = ["rule", "action", "found"]
    actions = [Action(*row) for table in (acted, broken) for row in table[columns].itertuples(index=False)]
    return Guarded(
        [model.head.item_ids[row] for row in rows],
        [model.titles[row] for row in rows],
        best.values.tolist(),
        text,
        tuple(actions),
    )


def keep_reasons(
    model: R2ec, samples: pd.DataFrame, chains: Chains, guardrails: Guardrails, max_new_tokens: int, seed: int = 0
) -> tuple[list[list[int]], pd.DataFrame]:
    """Reasons that keep the rules: as they are, else the first good one of `retries` new ones, else none.

    Returns:
        The chains (`<answer>` alone where no reason is given), and a row for each rule that a first reason broke: row
        (position in `samples`), rule, action, found, tries (new reasons looked at).
    """
    chains, catalogue = [list(chain) for chain in chains], model.catalogue
    written = pd.DataFrame({"sample_id": samples["sample_id"].to_numpy(), "chain": [model.decode(c) for c in chains]})
    broken = judge(guardrails, written, samples, catalogue)
    rows = sorted(set(broken["row"]))
    repeated = [row for row in rows for _ in range(guardrails.retries)]
    tries, good = [], set()
    if repeated:
        prompts = model.prompts.user_ids(samples.iloc[repeated], model.titles)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tries = model.reason(prompts, max_new_tokens, temperature=guardrails.temperature)
        anew = written.iloc[repeated].reset_index(drop=True).assign(chain=[model.decode(chain) for chain in tries])
        said = anew["chain"].str.strip() != ""  # an empty try is no reason
        good = set(anew.index[said]) - set(judge(guardrails, anew, samples, catalogue)["row"])
    outcome = {}
    for place, row in enumerate(rows):
        mine = range(place * guardrails.retries, (place + 1) * guardrails.retries)
        chosen = next((at for at in mine if at in good), None)
        chains[row] = model.prompts.answer.ids if chosen is None else tries[chosen]
        looked = len(mine) if chosen is None else chosen - mine.start + 1
        outcome[row] = ("reason dropped" if chosen is None else "reason re-sampled", looked)
    actions = broken[["row", "rule"]].assign(
        action=[outcome[row][0] for row in broken["row"]],
        found=broken["found"],
        tries=[outcome[row][1] for row in broken["row"]],
    )
    return chains, actions.reset_index(drop=True)


def enforce(
    model: R2ec,
    samples: pd.DataFrame,
    chains: Chains,
    guardrails: Guardrails,
    *,
    max_new_tokens: int,
    k: int = 10,
    mask_seen: bool = True,
    seed: int = 0,
) -> Enforced:
    """Ranks a samples table without and with the rules. A barred target stands behind every item that is allowed.

    Args:
        chains: the reasonings before the rules. `k` is the length of the lists that are judged.
    """
    samples = samples.reset_index(drop=True)
    kept, actions = keep_reasons(model, samples, chains, guardrails, max_new_tokens, seed)

    def free(rows: pd.DataFrame, given: Chains) -> torch.Tensor:
        return model.head.scores(model.user_states(rows, given)).float().cpu()  # (B, N)

    def ruled(rows: pd.DataFrame, given: Chains) -> torch.Tensor:
        barred = blocked(guardrails, rows["history"], [model.decode(chain) for chain in given], model.catalogue)
        return free(rows, given).masked_fill(torch.from_numpy(barred), -torch.inf)

    tables = []
    for score, said in ((free, chains), (ruled, kept)):
        table = causal.rank_chains(score, samples, said, k=k, mask_seen=mask_seen)
        tables.append(table.assign(chain=[model.decode(chain) for chain in said]))
    return Enforced(*(table[["sample_id", "user_id", "chain", "rank", "top_items"]] for table in tables), actions)


def summarise(guardrails: Guardrails, violations: Mapping[str, pd.DataFrame], samples: int) -> pd.DataFrame:
    """Share of the samples that break each rule, a column for each table of `judge`, such as before and after."""
    table = pd.DataFrame({"rule": [rule.name for rule in guardrails.rules]})
    table["kind"] = [KIND_OF[type(rule)] for rule in guardrails.rules]
    for name, broken in violations.items():
        table[name] = table["rule"].map(broken.groupby("rule")["row"].nunique()).fillna(0) / samples
    return table
