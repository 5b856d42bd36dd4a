"""What the model reads: user prompts, item prompts, and the cleaning of foreign text.

Text goes in and token ids come out, once; every later step (sampling, training, evaluation) uses those ids as they
are. Titles and descriptions are data: `clean` keeps them from holding a special token or a line break, so no item text
can end a reasoning, open a chat turn or add a purchase to a history.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pandas as pd
from transformers import PreTrainedTokenizerBase

from r2ec_lib.data.schema import DataError
from r2ec_lib.model.answer import ANSWER, Answer

RECOMMEND = "<recommend>"
"""Put after `<answer>` where the read-out is "token": its state is compared then. The model never writes it."""

DATE = "26 Jul 2024"
"""What a chat template that prints today's date prints: the same on every day, so that prompts are, too."""
CHUNK = 4096
"""Texts tokenised at a time: a tokenizer keeps far more of a text than its ids until a call is over."""
TITLES_KEPT = 2**17
"""Titles whose shown form is kept at most, tens of MB: those of most catalogues. Others may come from elsewhere."""

_INVISIBLE = re.compile(
    r"[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    r"\U000e0000-\U000e007f]+"
)
_MARKER = re.compile(r"\s*[^\w\s▁].*\w.*[^\w\s▁]\s*", re.DOTALL)  # "▁" is a space
"""A word between signs, such as `<think>`: an added token of that form means something to a model, others are text."""
_PURCHASE = re.compile(r"\bago\s*:\s*\[")
"""What begins a line of a history; a title that holds it could add a purchase."""


class Document(NamedTuple):
    """A text for the language-model warm-up: `prompt`, `completion`, `<answer>`, and perhaps what stands inside it."""

    prompt: str
    completion: str
    answer: str = ""


def special_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every string the tokenizer turns into a control token, or into a marker such as `<think>`, longest first."""
    added = tokenizer.added_tokens_decoder.values()
    marked = [str(token) for token in added if token.special or _MARKER.fullmatch(str(token))]
    return sorted({ANSWER, *tokenizer.all_special_tokens, *marked}, key=len, reverse=True)


def any_of(specials: Sequence[str]) -> re.Pattern[str]:
    """Finds any of `specials`, the first in order; without the white space around them, and none of white space."""
    return re.compile("|".join(re.escape(special.strip()) for special in specials if special.strip()) or "(?!)")


def _broken(text: str, specials: re.Pattern[str]) -> str:
    """`text` with a space after the first character of all that `specials` finds; a single character becomes one."""
    while specials.search(text):
        text = specials.sub(lambda found: f"{found[0][0]} {found[0][1:]}" if len(found[0]) > 1 else " ", text)
    return text


def clean(text: str, specials: Sequence[str] | re.Pattern[str] = (ANSWER,), max_words: int | None = None) -> str:
    """One line of plain text in which none of `specials` stands.

    White space and invisible characters become single spaces, a special string is broken by a space after its first
    character, and compatibility forms (such as full-width `＜answer＞`) that would normalise to one are normalised
    first. Many `specials` are found faster by the pattern that `any_of` makes of them once.

    >>> clean("a\\nb  <answer> c", max_words=4)
    'a b < answer>'
    """
    text = " ".join(_INVISIBLE.sub(" ", str(text)).split())
    specials = specials if isinstance(specials, re.Pattern) else any_of(specials)
    compatible = unicodedata.normalize("NFKC", text)
    words = _broken(compatible if specials.search(compatible) else text, specials).split()
    return " ".join(words if max_words is None else words[:max_words])


def age(hours: float, coarse: bool = False) -> str:
    """Time before the target, in the paper's form.

    >>> age(291.5), age(3.5), age(47.96), age(291.5, coarse=True)
    ('12d 3.5h ago', '3.5h ago', '2d 0.0h ago', '12d ago')
    """
    if coarse:
        return f"{float(hours) // 24:.0f}d ago"
    days, rest = divmod(round(float(hours), 1), 24)
    return f"{days:.0f}d {rest:.1f}h ago" if days else f"{rest:.1f}h ago"


@dataclass(frozen=True)
class PromptStyle:
    """Wording and limits of the prompts; saved with a model, since a model knows the prompts it was trained on.

    Attributes:
        category: what is recommended, such as "product" or "film".
        instruct: full instructions for a model that follows them; otherwise a bare form for the tiny one.
        person, events, act: the words of the domain: who acts, what the history is called, and the verb, such as
            "viewer", "films watched" and "watch".
        rating_min, rating_max: the scale of ratings, whose end the prompt states.
        max_history: purchases that a history shows at most, the latest ones.
        show_hours, show_ratings: whether a history line says how long ago and how it was rated.
        mark_last: whether "Last:" stands before the latest purchase. Under causal attention, a title cannot know
            otherwise that none follows it, unless the hours say so.
        examples: short reasonings that show their form; none for a model that has been taught it.
        item_columns: columns of the items table that item prompts show; empty for all of them.
        max_title_words, max_item_words: words of a title and of each item text that are shown.
        max_title_tokens, max_item_tokens: tokens of the same, for text without spaces; see `Prompts.cut`.
    """

    category: str = "product"
    instruct: bool = True
    max_title_words: int = 20
    max_item_words: int = 120
    max_title_tokens: int = 64
    max_item_tokens: int = 512
    person: str = "shopper"
    events: str = "purchases"
    act: str = "buy"
    rating_min: float = 1.0
    rating_max: float = 5.0
    max_history: int = 20
    show_hours: bool = True
    show_ratings: bool = True
    mark_last: bool = False
    examples: tuple[str, ...] = ()
    item_columns: Sequence[str] = ()

    def user_text(self, lines: Sequence[str]) -> str:
        """The user prompt around finished history lines, oldest first (paper, Appendix: user template)."""
        if self.mark_last:  # in an empty history too, which shows the wording alone
            lines = [*lines[:-1], f"Last: {lines[-1] if lines else ''}"]
        history = "\n".join(lines)
        if not self.instruct:
            return f"{self.events.capitalize()}:\n{history}\nThoughts:"
        shown = [*["how long ago"] * self.show_hours, "[title]", *["the rating where known"] * self.show_ratings]
        listed = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])}, and {shown[-1]}"
        form = "".join(f"\n{example} {ANSWER}" for example in self.examples)
        form = f"Answer briefly, in the form of these examples:{form}\n\n" if form else ""
        return (
            f"{form}Below are a {self.person}'s {self.events}, oldest first: {listed}. "
            f"Work out in depth what they tell about the {self.person}'s needs and taste, then recommend the next "
            f"{self.category} to {self.act} inside {ANSWER} and </answer>.\n\n{history}"
        )

    def item_text(self, lines: Sequence[str]) -> str:
        """The item prompt around finished `key: value` lines (paper, Appendix: item template)."""
        card = "\n".join(lines)
        if not self.instruct:
            return f"Item:\n{card}\nSummary:"
        return (
            f"Below is the description of a {self.category}. Summarise its key attributes inside {ANSWER} and "
            f"</answer>.\n\n{card}"
        )


class Prompts:
    """Turns tables into prompt ids for one tokenizer and one style.

    Where the tokenizer has a chat template and the style is instructive, both prompts go through it and end where the
    assistant speaks; otherwise they are plain text.

    Attributes:
        answer: the `<answer>` symbol of this tokenizer.
        specials: finds what the tokenizer turns into control tokens; foreign text is cleaned of it.
        cut: how many titles and item texts were longer than their limit in tokens, so far; a title counts once,
            however many histories show it.

    Raises:
        DataError: the chat template prints a date that nothing can fix, so no two days would have the same prompts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, style: PromptStyle):
        self.tokenizer = tokenizer
        self.style = style
        self.answer = Answer(tokenizer)
        self.recommend_id: int | None = tokenizer.get_vocab().get(RECOMMEND)  # only models with that read-out have it
        self.cut: Counter[str] = Counter()
        self._titles: dict[str, str] = {}  # as a history shows them, by the title as it is given
        self.specials = any_of(special_strings(tokenizer))
        template = str(tokenizer.chat_template or "") if style.instruct else ""
        if "strftime_now" in template and "date_string" not in template:
            raise DataError(
                "the chat template prints today's date, so prompts would differ from day to day. Set instruct to "
                "false, or remove strftime_now from the tokenizer's chat template."
            )

    def user_text(self, titles: Sequence[str], hours: Sequence[float], ratings: Sequence[float]) -> str:
        """The user prompt of one history, before the chat template.

        Args:
            titles, hours, ratings: one value per purchase, oldest first; hours before the target; ratings up to the
                style's `rating_max`, or NaN.
        """
        style, lines = self.style, []
        for title, before, rating in zip(titles, hours, ratings, strict=True):
            shown = self.shown_title(title)
            if style.instruct:  # in the bare style a title has the tokens that it has on its item card
                shown = f"[{_PURCHASE.sub('ago [', shown)}]"
            when = f"{age(before, coarse=not style.instruct)}: " if style.show_hours else ""
            rated = style.show_ratings and rating == rating  # NaN is not equal to itself
            stars = f" ({rating:.1f} out of {style.rating_max:g})" if rated else ""
            lines.append(_broken(f"{when}{shown}{stars}", self.specials))  # "[" and "INST" make a special string
        return style.user_text(lines)

    def user_texts(self, samples: pd.DataFrame, titles: Sequence[str]) -> list[str]:
        """`user_text` of each row of a samples table.

        Args:
            titles: the catalogue's titles, in item-index order.
        """
        columns = (samples["history"], samples["history_hours"], samples["history_ratings"])
        return [
            self.user_text([titles[item] for item in history], hours, ratings)
            for history, hours, ratings in zip(*columns, strict=True)
        ]

    def item_text(self, item: Mapping[str, str]) -> str:
        """The item prompt of one row of the items table, before the chat template; `item_id` is not shown."""
        style = self.style
        lines = []
        for key, value in item.items():
            wanted = key in (style.item_columns or item) and key != "item_id"
            if wanted and isinstance(value, str) and value.strip():
                shown = clean(value, self.specials, style.max_item_words)
                shown = self._short(shown, style.max_item_tokens, "item texts")
                lines.append(_broken(f"{clean(key, self.specials)}: {shown}", self.specials))
        return style.item_text(lines)

    def shown_title(self, title: str) -> str:
        """A title as a history shows it, cleaned and cut. It stands in many, and to find its tokens takes long."""
        if title not in self._titles:
            style = self.style
            shown = clean(title, self.specials, style.max_title_words)
            shown = self._short(shown, style.max_title_tokens, "titles")
            if len(self._titles) >= TITLES_KEPT:
                self._titles.clear()
            self._titles[title] = shown
        return self._titles[title]

    def _short(self, text: str, limit: int, kind: str) -> str:
        shown = self.first_tokens(text, limit)
        if shown != text:
            self.cut[kind] += 1
        return shown

    def first_tokens(self, text: str, limit: int) -> str:
        """`text` with at most `limit` tokens; a text without spaces may be a single word of any length."""
        if len(text.encode()) <= limit:  # a token has at least one byte
            return text
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(spans) <= limit:
            return text
        return text[: spans[limit][0]].rstrip()  # a character of several tokens is shown whole or not at all

    def user_ids(self, samples: pd.DataFrame, titles: Sequence[str]) -> list[list[int]]:
        """Prompt ids of each row of a samples table, as in `user_texts`; the reasoning starts where they end."""
        return self.tokenize(self.user_texts(samples, titles))

    @cached_property
    def empty(self) -> list[int]:
        """Prompt ids of a history without purchases."""
        return self.tokenize([self.style.user_text([])])[0]

    def item_ids(self, items: pd.DataFrame) -> list[list[int]]:
        """Prompt ids of each row of an items table; each ends in `<answer>`."""
        prompts = self.tokenize([self.item_text(item) for item in items.to_dict("records")])
        return [[*ids, *self.answer.ids] for ids in prompts]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of finished prompt texts, through the chat template where the style uses it."""
        chunks = (self._ids(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK))
        return [ids for chunk in chunks for ids in chunk]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self.style.instruct and self.tokenizer.chat_template:
            chats = [[{"role": "user", "content": text}] for text in texts]
            rendered = self.tokenizer.apply_chat_template(
                chats, tokenize=False, add_generation_prompt=True, enable_thinking=False, date_string=DATE
            )
            return self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        encoded = self.tokenizer(list(texts))["input_ids"]
        closed = bool(encoded[0]) and encoded[0][-1] == self.tokenizer.eos_token_id  # some tokenizers append it
        return [ids[:-1] for ids in encoded] if closed else encoded
