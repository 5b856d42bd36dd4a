"""Guardrails: do reasons and recommendations keep the rules of a business, and how they are made to.

The rules are those of `rules`. Judging is a pure function of tables; `recommend` and `enforce` wrap a model, which
knows nothing of rules. A reason that is not given breaks no rule about reasons.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, overload

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from r2ec_lib.analysis.attributes import FRAME
from r2ec_lib.analysis.causal import Chains
from r2ec_lib.analysis.mentions import mentions
from r2ec_lib.analysis.rules import (
    Forbid,
    Ground,
    GuardrailError,
    Guardrails,
    ItemSet,
    Limit,
    NeverRecommend,
    Truth,
)
from r2ec_lib.analysis.words import phrase, plain
from r2ec_lib.data.purchases import is_one
from r2ec_lib.data.schema import whole_number
from r2ec_lib.data.texts import words
from r2ec_lib.evaluation.ranking import rank_all
from r2ec_lib.model import R2ec
from r2ec_lib.model.claims import FORMS, Checker
from r2ec_lib.model.prompts import PromptStyle
from r2ec_lib.model.r2ec import Recommendation

USUAL = 0.25
"""A word on a larger share of all item cards says nothing about a shopper, and is no fact."""


def judge(
    guardrails: Guardrails,
    chains: pd.DataFrame,
    samples: pd.DataFrame,
    items: pd.DataFrame,
    checker: Checker | None = None,
) -> pd.DataFrame:
    """Which rules each reason, and each list of recommended items, breaks.

    A fact is an item of the history that the reason mentions (`mentions.mentions`), or a word of three letters or more
    that is on the card of one, in a column other than id and title, and on at most a share `USUAL` of all cards: a
    brand, a style, a use. The words of `attributes.FRAME` are none.

    Args:
        chains: `sample_id`, `chain` (text) and, to judge recommendations too, `top_items` (item indexes).
        checker: of the items and the prompts of the model that wrote the chains. Rules of the kind "truth" need it,
            and for rules of the kind "ground" it says how many words of a title are shown.

    Returns:
        One row per violation, in the order of the rules: `row` (index label in `chains`), `rule`, `kind`, `evidence`
            (the words, the item's id, or what was counted). Empty reasons break no rule about reasons.

    Raises:
        GuardrailError: a rule names a column that the items lack, or needs a `checker`.
    """
    given = chains[chains["chain"].str.strip() != ""]
    histories = samples.set_index("sample_id")["history"].loc[chains["sample_id"]].set_axis(chains.index)
    grounded = any(isinstance(rule, Ground) for rule in guardrails.rules)
    shown = checker.prompts.style.max_title_words if checker else PromptStyle.max_title_words
    counts = _grounding(given, samples, items, shown) if grounded else pd.DataFrame()
    ids, rows = items["item_id"].to_numpy(), []
    for rule in guardrails.rules:
        if isinstance(rule, (Forbid, Limit)):
            evidence = given["chain"].map(rule.evidence).dropna()
        elif isinstance(rule, Ground):
            least = pd.Series({"mentions": rule.mentions, "facts": rule.facts})
            lacking = counts[counts.lt(least).any(axis=1)]
            evidence = lacking.apply(lambda row, least=least: _shortfall(row, least), axis=1)
        elif isinstance(rule, Truth):
            if checker is None:
                raise GuardrailError(f'rule "{rule.name}": what prompts show decides what holds; give a checker')
            told = zip(given["chain"], histories[given.index], strict=True)
            evidence = pd.Series([_false(checker, *one) for one in told], given.index, object).dropna()
        elif "top_items" in chains:
            applies, barred = _bars(rule, histories, chains["chain"], items)
            hits = chains["top_items"][applies].map(lambda top, barred=barred: [ids[i] for i in top if barred[i]])
            evidence = hits.explode().dropna()
        else:
            continue
        rows += [(row, rule.name, rule.kind, str(what)) for row, what in evidence.items()]
    return pd.DataFrame(rows, columns=["row", "rule", "kind", "evidence"])


def blocked(
    guardrails: Guardrails, histories: Sequence[Sequence[int]], texts: Sequence[str], items: pd.DataFrame
) -> np.ndarray:
    """(B, N) bool, True where an item must not be recommended for a history with this reason ("" for none)."""
    result = np.zeros((len(histories), len(items)), bool)
    for rule in guardrails.rules:
        if isinstance(rule, NeverRecommend):
            applies, barred = _bars(rule, histories, texts, items)
            result |= applies[:, None] & barred[None, :]
    return result


def idle(guardrails: Guardrails, items: pd.DataFrame) -> list[str]:
    """A sentence about each rule that never bars an item of a catalogue, since what it bars, or what its condition
    asks of a history, is none of its items, perhaps for a mistyped word or id."""
    rules = [rule for rule in guardrails.rules if isinstance(rule, NeverRecommend)]
    sets = [(rule.name, named) for rule in rules for named in (rule.items, rule.when and rule.when.history) if named]
    names = dict.fromkeys(name for name, named in sets if not _inside(named, items, name).any())
    return [f'The rule "{name}" never acts: it or its condition names no item of the catalogue.' for name in names]


def _bars(
    rule: NeverRecommend, histories: Sequence[Sequence[int]], texts: Sequence[str], items: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """The histories that a rule applies to (B,) and the items that it bars (N,)."""
    applies = np.ones(len(histories), bool)
    if rule.when and rule.when.history:
        telling = _inside(rule.when.history, items, rule.name)
        applies &= np.array([telling[list(history)].any() for history in histories], bool)
    if rule.when and rule.when.reason:
        found = [rule.when.reason.search(text) or rule.when.reason.search(plain(text)) for text in texts]
        applies &= np.array([match is not None for match in found], bool)
    return applies, _inside(rule.items, items, rule.name)


def _inside(item_set: ItemSet, items: pd.DataFrame, rule: str) -> np.ndarray:
    """(N,) bool, the items of a set. Raises GuardrailError, naming `rule`, where the items lack a column."""
    inside = np.ones(len(items), bool)
    for column, values in item_set.items():
        if column not in items:
            raise GuardrailError(f'rule "{rule}": the items have no column "{column}"; found {", ".join(items)}')
        if column == "item_id":
            inside &= items[column].isin(values).to_numpy()
        else:
            inside &= _holding(_Table(items), column, tuple(values))
    return inside


class _Table:
    """An items table as the key of a cache, which keeps it: a service asks about the rules of one catalogue again and
    again, and to compare its texts would take longer than an answer."""

    def __init__(self, items: pd.DataFrame):
        self.items = items

    def __hash__(self) -> int:
        return id(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Table) and self.items is other.items


@lru_cache(maxsize=64)
def _holding(table: _Table, column: str, values: tuple[str, ...]) -> np.ndarray:
    """(N,) bool, the items in whose `column` one of the values stands."""
    pattern = "|".join(phrase(plain(value)) for value in values)
    texts = pd.Series(map(plain, table.items[column].astype(str)), dtype="str")
    return texts.str.contains(pattern, flags=re.IGNORECASE).to_numpy(bool)


@lru_cache(maxsize=2)
def _cards(table: _Table) -> tuple[list[str], Counter[str]]:
    """The text of each item but its id and title, and how many of these hold each telling word."""
    columns = table.items.columns.drop(["item_id", "title"], errors="ignore")
    cards = [""] * len(table.items)
    for column in columns:
        cards = [f"{card} {text}" for card, text in zip(cards, table.items[column].astype(str), strict=True)]
    return cards, Counter(word for card in cards for word in _telling_words(card))


def _grounding(chains: pd.DataFrame, samples: pd.DataFrame, items: pd.DataFrame, max_words: int) -> pd.DataFrame:
    """`mentions` and `facts` of each chain, with its index."""
    mentioned = mentions(chains, samples, items, max_words=max_words)
    counts = mentioned[mentioned["in_history"]].groupby("row")["item"].nunique().reindex(chains.index, fill_value=0)
    cards, holders = _cards(_Table(items))
    histories = samples.set_index("sample_id")["history"].loc[chains["sample_id"]]
    telling = []
    for history, text in zip(histories, chains["chain"], strict=True):
        shared = _telling_words(text) & set().union(*(_telling_words(cards[item]) for item in history))
        telling.append(sum(holders[word] <= USUAL * len(items) for word in shared))
    return pd.DataFrame({"mentions": counts, "facts": counts + telling}, index=chains.index)


def _false(checker: Checker, text: str, history: Sequence[int]) -> str | None:
    """The statements of a text that do not hold; None where all do."""
    told = [FORMS[kind].format(name) for kind, name, holds in checker.check(text, True, history) if not holds]
    return " ".join(told) or None


def _telling_words(text: str) -> set[str]:
    return {word for word in words(text) if len(word) > 2} - FRAME


def _shortfall(counts: pd.Series, least: pd.Series) -> str:
    return ", ".join(f"{counts[name]} of {least[name]} {name}" for name in least.index if counts[name] < least[name])


class Action(NamedTuple):
    """What a rule did: "reason re-sampled", "reason dropped" or "item masked", and the words or item id it found."""

    rule: str
    action: str
    evidence: str


@dataclass(frozen=True)
class Guarded(Recommendation):
    """A recommendation within the rules, its reasoning "" where none was kept, and the rules that acted; no action
    means that nothing was changed."""

    actions: tuple[Action, ...]


class Kept(NamedTuple):
    """Reasons that keep the rules: chains (`<answer>` alone where none is given), their user states (B, d), and a row
    for each rule that a first reason broke: row (position), rule, action, evidence, tries (new reasons looked at)."""

    chains: list[list[int]]
    states: Tensor
    actions: pd.DataFrame


class Enforced(NamedTuple):
    """Rankings before and after the rules, a row per sample with sample_id, user_id, chain, rank and top_items, and
    the actions on reasons: row, rule, action, evidence, tries."""

    before: pd.DataFrame
    after: pd.DataFrame
    actions: pd.DataFrame


@overload
def recommend(model: R2ec, history: Sequence[str] | Sequence[float], *args: Any, **kwargs: Any) -> Guarded: ...


@overload
def recommend(model: R2ec, history: Sequence[Any] | pd.DataFrame, *args: Any, **kwargs: Any) -> list[Guarded]: ...


def recommend(
    model: R2ec,
    history: Sequence[Any] | pd.DataFrame,
    guardrails: Guardrails,
    k: int = 10,
    hours: Sequence[Any] | None = None,
    ratings: Sequence[Any] | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    latest: Sequence[int] | None = None,
) -> Guarded | list[Guarded]:
    """`R2ec.recommend` within the rules; each answer also tells which of them acted.

    A rule's condition on the history looks at all purchases given, a reason is judged by those that are read. Behind a
    list stands the one reason that was judged, never several.

    Args:
        history, k, hours, ratings, max_new_tokens, latest: as in `R2ec.recommend`, with its errors.
        seed: of the reasons tried anew, which also depend on the histories that are asked together.
    """
    whole_number(k, "k", 1)  # before a reasoning takes its time
    longest = model.longest(max_new_tokens)
    samples = model.purchases(history, hours, ratings, latest)
    samples = samples.assign(sample_id=range(len(samples)))
    shown, owned = samples["history"].to_list(), samples["owned"].to_list()
    first = model.sample(model.prompts.user_ids(samples, model.titles), longest)
    kept = keep_reasons(model, samples, first.chains, first.states, guardrails, longest, seed)
    texts, masking = list(map(model.decode, kept.chains)), guardrails.about_items()
    free = model.best_items(kept.states, shown, k, owned=owned)
    unruled = [[model.head.index[item] for item in ids] for ids, _, _ in free]
    listed = pd.DataFrame({"sample_id": samples["sample_id"], "chain": texts, "top_items": unruled})
    masked = judge(masking, listed, samples.assign(history=owned), model.catalogue).assign(action="item masked")
    acted: list[list[Action]] = [[] for _ in texts]
    for row, *action in pd.concat([kept.actions, masked])[["row", *Action._fields]].itertuples(index=False):
        acted[row].append(Action(*action))
    lists = free
    if masking.rules:
        barred = torch.from_numpy(blocked(masking, owned, texts, model.catalogue))  # (B, N)
        lists = model.best_items(kept.states, shown, k, barred, owned)
    answers = [Guarded(*best, text, tuple(did)) for best, text, did in zip(lists, texts, acted, strict=True)]
    return answers[0] if is_one(history) else answers


def keep_reasons(
    model: R2ec,
    samples: pd.DataFrame,
    chains: Chains,
    states: Tensor,
    guardrails: Guardrails,
    max_new_tokens: int,
    seed: int = 0,
) -> Kept:
    """Reasons that keep the rules: as they are, else the first good one of `retries` new ones, else none. Of `states`,
    the (B, d) user states of `chains`, only rows whose reason is exchanged are read anew."""
    kept, states, catalogue = [list(chain) for chain in chains], states.clone(), model.catalogue
    checker = Checker(catalogue, model.prompts)
    first = pd.DataFrame({"sample_id": samples["sample_id"].to_numpy(), "chain": list(map(model.decode, kept))})
    broken = judge(guardrails, first, samples, catalogue, checker)
    rows = sorted(set(broken["row"]))
    repeated = [row for row in rows for _ in range(guardrails.retries)]
    good: set[int] = set()
    if repeated:
        prompts = model.prompts.user_ids(samples.iloc[repeated], model.titles)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tries = model.sample(prompts, max_new_tokens, temperature=guardrails.temperature)
        anew = first.iloc[repeated].reset_index(drop=True).assign(chain=list(map(model.decode, tries.chains)))
        not_empty = anew.index[anew["chain"].str.strip() != ""]  # an empty try is no reason
        good = set(not_empty) - set(judge(guardrails, anew, samples, catalogue, checker)["row"])
    outcomes: dict[int, tuple[str, int]] = {}
    dropped = []
    for place, row in enumerate(rows):
        places = range(place * guardrails.retries, (place + 1) * guardrails.retries)
        chosen = next((at for at in places if at in good), None)
        if chosen is None:
            dropped.append(row)
            kept[row] = list(model.prompts.answer.ids)
            outcomes[row] = "reason dropped", len(places)
        else:
            kept[row], states[row] = tries.chains[chosen], tries.states[chosen]
            outcomes[row] = "reason re-sampled", chosen - places.start + 1
    states[dropped] = model.user_states(samples.iloc[dropped]).to(states)
    acted = pd.DataFrame([outcomes[row] for row in broken["row"]], columns=["action", "tries"])
    actions = pd.concat([broken, acted], axis=1)[["row", "rule", "action", "evidence", "tries"]]
    return Kept(kept, states, actions)


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
    """Ranks a samples table without and with the rules, from its reasonings before the rules and with `k` top items. A
    barred target ranks behind every item that is allowed."""
    samples, states = samples.reset_index(drop=True), model.user_states(samples, chains)
    kept = keep_reasons(model, samples, chains, states, guardrails, max_new_tokens, seed)

    def ranked(chains: Chains, states: Tensor, rules: Guardrails) -> pd.DataFrame:
        texts = np.array(list(map(model.decode, chains)), object)

        def scores(rows: pd.DataFrame) -> Tensor:
            at = rows.index.tolist()
            values = model.scores(states[at], rows["history"].to_list()).float().cpu()  # (B, N)
            barred = blocked(rules, rows["history"], texts[at], model.catalogue)
            return values.masked_fill(torch.from_numpy(barred), -torch.inf)

        table = rank_all(scores, samples, len(model.catalogue), model="r2ec", mask_seen=mask_seen, k=k)
        return table.assign(chain=texts)[["sample_id", "user_id", "chain", "rank", "top_items"]]

    before = ranked(chains, states, replace(guardrails, rules=[]))
    return Enforced(before, ranked(kept.chains, kept.states, guardrails), kept.actions)


def summarise(guardrails: Guardrails, violations: Mapping[str, pd.DataFrame], samples: int) -> pd.DataFrame:
    """Share of the samples that break each rule, a column for each table of `judge`, such as before and after."""
    table = pd.DataFrame([(rule.name, rule.kind) for rule in guardrails.rules], columns=["rule", "kind"])
    for name, broken in violations.items():
        table[name] = table["rule"].map(broken.groupby("rule")["row"].nunique()).fillna(0) / samples
    return table
