"""Rules of guardrails: what a YAML file may say, as frozen dataclasses, and every fault of a file named.

Four kinds. `forbid`: words or patterns that no reason may hold. `never_recommend`: items that are masked, always or
under a condition on the history or the reason. `ground`: how many items of the history, or facts (items and words of
their cards), a reason has to name. `limit`: the most words of a reason. Judging and enforcing them is the business of
`guardrails`.
"""

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml


class GuardrailError(ValueError):
    """A rules file that cannot be used: the file, the rule, what was found and what was expected."""


# ---- rules ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ItemSet:
    """Items by their columns: in each column named, one of its values.

    `item_id` has to be equal to a value; any other column has to hold it as whole words, case ignored.
    """

    columns: tuple[tuple[str, tuple[str, ...]], ...]

    def mask(self, items: pd.DataFrame, rule: str) -> np.ndarray:
        """(N,) bool over an items table. Raises GuardrailError, naming `rule`, where it lacks a column."""
        inside = np.ones(len(items), bool)
        for column, values in self.columns:
            if column not in items:
                raise GuardrailError(f'rule "{rule}": the items have no column "{column}"; found {", ".join(items)}')
            if column == "item_id":
                inside &= items[column].isin(values).to_numpy()
            else:
                held = re.compile("|".join(map(phrase, values)), re.IGNORECASE)
                inside &= items[column].map(lambda text, held=held: bool(held.search(str(text)))).to_numpy(bool)
        return inside


@dataclass(frozen=True)
class Forbid:
    name: str
    patterns: tuple[re.Pattern, ...]


@dataclass(frozen=True)
class NeverRecommend:
    name: str
    items: ItemSet
    history: ItemSet | None = None  # the rule holds for histories with such an item
    reason: re.Pattern | None = None  # the rule holds for reasons that match


@dataclass(frozen=True)
class Ground:
    name: str
    mentions: int = 0
    facts: int = 0


@dataclass(frozen=True)
class Limit:
    name: str
    words: int


Rule = Forbid | NeverRecommend | Ground | Limit
KIND_OF = {Forbid: "forbid", NeverRecommend: "never_recommend", Ground: "ground", Limit: "limit"}
KIND_WORDS = {
    "forbid": "forbidden words in the reason",
    "never_recommend": "items never to be recommended",
    "ground": "what the reason has to name",
    "limit": "longest reason",
}
"""What a rule of each kind is about, in words."""


@dataclass(frozen=True)
class Guardrails:
    """The rules, and what happens to a reason that breaks one: `retries` new ones at `temperature`, then none."""

    rules: tuple[Rule, ...]
    retries: int = 3
    temperature: float = 1.0


def load(path: str | os.PathLike) -> Guardrails:
    """Reads a rules file. Raises GuardrailError with the file and the rule."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GuardrailError(f"{path}: cannot be read ({error}).") from error
    return parse(text, str(path))


def parse(text: str, where: str = "guardrails") -> Guardrails:
    """The rules in a YAML text, checked whole: unknown, missing and repeated keys, types, regular expressions.

    Args:
        where: the name of the text in errors.
    """
    try:
        root = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise GuardrailError(f"{where}: no valid YAML: {' '.join(str(error).split())}.") from error
    root = _keys(root, where, needed=["rules"], allowed=["retries", "temperature"])
    retries = _count(root.get("retries", 3), f"{where}: retries", least=0)
    temperature = root.get("temperature", 1.0)
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < np.inf:
        raise GuardrailError(f"{where}: temperature is {temperature!r}; expected a number above 0.")
    if not isinstance(root["rules"], list) or not root["rules"]:
        raise GuardrailError(f"{where}: rules holds no list of rules; expected one or more lines `- name: …`.")
    rules = []
    for number, entry in enumerate(root["rules"], start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise GuardrailError(f"{where}, rule {number}: no name; expected `name: <a few words>`.")
        place = f'{where}, rule {number} "{name}"'
        if name in {rule.name for rule in rules}:
            raise GuardrailError(f"{place}: the name stands twice; expected another one.")
        rules.append(_rule(entry, place))
    return Guardrails(tuple(rules), retries, float(temperature))


def _rule(entry: dict, place: str) -> Rule:
    kinds, kind, name = list(KIND_OF.values()), entry.get("kind"), entry["name"]
    if kind not in kinds:
        raise GuardrailError(f"{place}: kind is {kind!r}; expected one of {', '.join(kinds)}{_near(kind, kinds)}.")
    common = ["name", "kind"]
    if kind == "forbid":
        entry = _keys(entry, place, needed=common, allowed=["words", "patterns"])
        words = [phrase(word) for word in _texts(entry.get("words", []), f"{place}: words")]
        patterns = [*words, *_texts(entry.get("patterns", []), f"{place}: patterns")]
        if not patterns:
            raise GuardrailError(f"{place}: nothing is forbidden; expected words or patterns.")
        return Forbid(name, tuple(_compiled(pattern, place) for pattern in patterns))
    if kind == "never_recommend":
        entry = _keys(entry, place, needed=[*common, "items"], allowed=["when"])
        when = _keys(entry.get("when", {}), f"{place}: when", needed=[], allowed=["history", "reason"])
        if "when" in entry and not when:
            raise GuardrailError(f"{place}: when is empty; expected history, reason or both.")
        history = _item_set(when["history"], f"{place}: when: history") if "history" in when else None
        reason = _compiled(when["reason"], place) if "reason" in when else None
        return NeverRecommend(name, _item_set(entry["items"], f"{place}: items"), history, reason)
    if kind == "ground":
        entry = _keys(entry, place, needed=common, allowed=["mentions", "facts"])
        least = {key: _count(entry[key], f"{place}: {key}", least=1) for key in ("mentions", "facts") if key in entry}
        if not least:
            raise GuardrailError(f"{place}: nothing is required; expected mentions, facts or both.")
        return Ground(name, **least)
    entry = _keys(entry, place, needed=[*common, "words"], allowed=[])
    return Limit(name, _count(entry["words"], f"{place}: words", least=1))


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML that refuses a key which stands twice: the first of two rules would be lost in silence."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f'line {key.start_mark.line + 1}: "{key.value}" stands twice')
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _keys(entry: Any, place: str, needed: Sequence[str], allowed: Sequence[str]) -> dict:
    if not isinstance(entry, dict):
        raise GuardrailError(f"{place}: found {entry!r}; expected keys: {', '.join([*needed, *allowed])}.")
    known = [*needed, *allowed]
    for key in entry:
        if key not in known:
            raise GuardrailError(f'{place}: unknown key "{key}"; expected {", ".join(known)}{_near(key, known)}.')
    for key in needed:
        if key not in entry:
            raise GuardrailError(f"{place}: no {key}; expected it beside {', '.join(map(str, entry)) or 'nothing'}.")
    return entry


def _near(word: Any, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f' (did you mean "{near[0]}"?)' if near else ""


def _texts(value: Any, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise GuardrailError(f"{place} is {value!r}; expected a list of texts; quote numbers, yes and no.")
    return value


def _count(value: Any, place: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise GuardrailError(f"{place} is {value!r}; expected a whole number from {least} up.")
    return value


def _item_set(value: Any, place: str) -> ItemSet:
    if not isinstance(value, dict) or not value:
        raise GuardrailError(f"{place} is {value!r}; expected columns with lists of values, {{title: [candle]}}.")
    return ItemSet(tuple((str(column), tuple(_texts(held, f"{place}: {column}"))) for column, held in value.items()))


def _compiled(pattern: Any, place: str) -> re.Pattern:
    if not isinstance(pattern, str):
        raise GuardrailError(f"{place}: the pattern {pattern!r} is no text; expected a regular expression in quotes.")
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise GuardrailError(f"{place}: broken regular expression {pattern!r}: {error}.") from error
    if compiled.search(""):
        raise GuardrailError(f"{place}: {pattern!r} matches the empty text, so every reason; expected a narrower one.")
    return compiled


def phrase(words: str) -> str:
    """A pattern for whole words in their order, whatever space stands between them."""
    spaced = r"\s+".join(map(re.escape, words.split()))
    return rf"(?<!\w){spaced}(?!\w)"
