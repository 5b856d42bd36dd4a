"""Rules of guardrails: what a YAML file may say, as frozen pydantic dataclasses, and every fault of a file named.

Five kinds. `forbid`: words or patterns that no reason may hold. `never_recommend`: items that are masked, always or
under a condition on the history or the reason. `ground`: how many items of the history, or facts (items and words of
their cards), a reason has to name. `truth`: that whatever a reason states of the history has to hold. `limit`: the
most words of a reason. Judging and enforcing them is the business of `guardrails`.
"""

import os
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from r2ec_lib.analysis.words import phrase, plain
from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import YamlLoader
from r2ec_lib.data.texts import words


class GuardrailError(DataError):
    """A rules file that cannot be used: the file, the rule, the faulty key and what was expected."""


def _printable(text: str) -> str:
    if any(unicodedata.category(sign) == "Cc" and not sign.isspace() for sign in text):
        raise ValueError("holds a control character, as \\b in double quotes becomes one; expected single quotes")
    return text


def _visible(text: str) -> str:
    if not plain(text).strip():
        raise ValueError("holds invisible characters alone; expected a word")
    return text


def _worded(item_set: dict[str, list[str]]) -> dict[str, list[str]]:
    for column, values in item_set.items():
        if column != "item_id" and any(value.startswith(("<", ">")) for value in values):
            raise ValueError(f"{column}: rules compare words, not numbers; expected words, or item_id")
    return item_set


def _compiled(pattern: Any) -> re.Pattern[str]:
    if not isinstance(pattern, str):
        raise ValueError("expected a regular expression in quotes")
    _printable(pattern)
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"broken regular expression, {error}") from error
    if compiled.search(""):
        raise ValueError("matches the empty text, so every reason; expected a narrower one")
    return compiled


_FILLED = StringConstraints(strip_whitespace=True, min_length=1)
Text = Annotated[str, _FILLED, AfterValidator(_printable), AfterValidator(_visible)]
Pattern = Annotated[re.Pattern[str], BeforeValidator(_compiled)]
Count = Annotated[int, Field(strict=True, ge=1)]
Column = Annotated[list[Text], Field(min_length=1)]
ItemSet = Annotated[dict[str, Column], Field(min_length=1), AfterValidator(_worded)]
"""Items by their columns: in each column named, one of its values. `item_id` has to be equal to a value; any other
column has to hold it as whole words; case and invisible characters are ignored."""

_STRICT = ConfigDict(extra="forbid")


def _either(first: str, second: str) -> Any:
    """A validator for a class with two keys of which one has to be given."""

    def check(self: Any) -> Any:
        if not getattr(self, first) and not getattr(self, second):
            raise ValueError(f"expected {first}, {second} or both")
        return self

    return model_validator(mode="after")(check)


@dataclass(frozen=True, config=_STRICT)
class Forbid:
    """No reason holds one of these words or phrases, nor a match of one of these patterns; case is ignored, and so are
    invisible characters and what stands between the words of a phrase."""

    name: Text
    kind: Literal["forbid"]
    words: list[Text] = Field(default_factory=list)
    patterns: list[Pattern] = Field(default_factory=list)

    _checked = _either("words", "patterns")

    def evidence(self, text: str) -> str | None:
        """What in `text` is forbidden, by the first word or pattern that matches; None if nothing is."""
        found = [re.search(phrase(plain(words)), plain(text), re.IGNORECASE) for words in self.words]
        found += [pattern.search(text) or pattern.search(plain(text)) for pattern in self.patterns]
        return next((match.group() for match in found if match), None)


@dataclass(frozen=True, config=_STRICT)
class When:
    """A rule applies to histories that hold such an item, and to reasons that match; with both, where both do."""

    history: ItemSet | None = None
    reason: Pattern | None = None

    _checked = _either("history", "reason")


@dataclass(frozen=True, config=_STRICT)
class NeverRecommend:
    """These items are not recommended, or not under a condition."""

    name: Text
    kind: Literal["never_recommend"]
    items: ItemSet
    when: When | None = None


@dataclass(frozen=True, config=_STRICT)
class Ground:
    """A reason names at least so many different items of the history, and so many facts."""

    name: Text
    kind: Literal["ground"]
    mentions: Count = 0
    facts: Count = 0

    _checked = _either("mentions", "facts")


@dataclass(frozen=True, config=_STRICT)
class Truth:
    """What a reason states about the history, in the sentences that analyses teach, holds (`model.claims`)."""

    name: Text
    kind: Literal["truth"]


@dataclass(frozen=True, config=_STRICT)
class Limit:
    """A reason has at most so many words."""

    name: Text
    kind: Literal["limit"]
    words: Count

    def evidence(self, text: str) -> str | None:
        """The length of a text that is too long, such as "81 words"; None of any other."""
        count = len(words(text))
        return f"{count} words" if count > self.words else None


Rule = Forbid | NeverRecommend | Ground | Truth | Limit
KIND_WORDS = {
    "forbid": "forbidden words in the reason",
    "never_recommend": "items never to be recommended",
    "ground": "what the reason has to name",
    "truth": "statements that have to hold",
    "limit": "longest reason",
}
"""What a rule of each kind is about, in words."""


@dataclass(frozen=True, config=_STRICT)
class Guardrails:
    """The rules, and what happens to a reason that breaks one: `retries` new ones at `temperature`, then none."""

    rules: list[Annotated[Rule, Field(discriminator="kind")]]
    retries: Annotated[int, Field(strict=True, ge=0)] = 3
    temperature: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _has_a_name_for_each(self) -> "Guardrails":
        names = [rule.name for rule in self.rules]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise ValueError(f'rule {number + 1} "{name}": rule {names.index(name) + 1} has the same name')
        return self

    def about_items(self) -> "Guardrails":
        """The rules about what is recommended, without those about reasons."""
        return replace(self, rules=[rule for rule in self.rules if isinstance(rule, NeverRecommend)])


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

    Raises:
        GuardrailError: every fault of the text, with its rule.
    """
    try:
        root = yaml.load(text, YamlLoader)
        if not isinstance(root, dict):
            raise GuardrailError(f"{where}: expected keys and values, with the rules under `rules:`.")
        guardrails = TypeAdapter(Guardrails).validate_python(root)
    except yaml.YAMLError as error:
        raise GuardrailError(f"{where}: no valid YAML: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        raise GuardrailError("; ".join(f"{where}{_fault(one, root)}" for one in error.errors()) + ".") from error
    if not guardrails.rules:
        raise GuardrailError(f"{where}: rules is empty; expected one or more entries `- name: …`.")
    return guardrails


def _fault(fault: ErrorDetails, root: Any) -> str:
    """One of pydantic's errors with the rule by number and name, the key, and what was found."""
    path, place = fault["loc"], ""
    if len(path) > 1 and isinstance(number := path[1], int):
        entry = root["rules"][number]
        name = f' "{entry["name"]}"' if isinstance(entry, dict) and "name" in entry else ""
        place, path = f", rule {number + 1}{name}", path[3:]
    keys = "".join(f": {part}" for part in path if isinstance(part, str))
    wanted = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "string_type":  # YAML reads 17 as a number and `no` as a truth value
        wanted = "expected text, in quotes where it may be read as something else"
    return f"{place}{keys}: {wanted}; found {fault['input']!r}"
