"""What the model reads: user prompts, item prompts, the `<answer>` symbol, and the cleaning of foreign text.

Text goes in and token ids come out, once; every later step (sampling, training, evaluation) uses those ids as they
are. Titles and descriptions are data: `clean` keeps them from holding a special token or a line break, so no item text
can end a reasoning, open a chat turn or add a purchase to a history.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import pandas as pd
from transformers import PreTrainedTokenizerBase

ANSWER = "<answer>"
"""Ends the reasoning: the state at this token is compared with the item table (paper, section 3)."""
RECOMMEND = "<recommend>"
"""Put after `<answer>` where the read-out is "token": its state is compared then. The model never writes it."""

_INVISIBLE = re.compile(r"[\u0000-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]+")


class Document(NamedTuple):
    """A text for the language-model warm-up: `prompt`, `completion`, `<answer>`, and perhaps what stands inside it."""

    prompt: str
    completion: str
    answer: str = ""


def special_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Every string the tokenizer turns into a control token, longest first."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({ANSWER, *tokenizer.all_special_tokens, *added}, key=len, reverse=True)


def clean(text: str, specials: Sequence[str] = (ANSWER,), max_words: int | None = None) -> str:
    """One line of plain text in which none of `specials` stands.

    White space and invisible characters become single spaces, a special string is broken by a space after its first
    character, and compatibility forms (such as full-width `＜answer＞`) that would normalise to one are normalised
    first.

    >>> clean("a\\nb  <answer> c", max_words=4)
    'a b < answer>'
    """
    text = " ".join(_INVISIBLE.sub(" ", str(text)).split())
    compatible = unicodedata.normalize("NFKC", text)
    if any(special in compatible for special in specials):
        text = compatible
    while found := next((special for special in specials if special in text), None):
        text = text.replace(found, f"{found[0]} {found[1:]}" if len(found) > 1 else " ")
    words = text.split()
    return " ".join(words if max_words is None else words[:max_words])


def age(hours: float, coarse: bool = False) -> str:
    """Time before the target, in the paper's form.

    >>> age(291.5), age(3.5), age(291.5, coarse=True)
    ('12d 3.5h ago', '3.5h ago', '12d ago')
    """
    days, rest = divmod(float(hours), 24)
    if coarse:
        return f"{days:.0f}d ago"
    return f"{days:.0f}d {rest:.1f}h ago" if days else f"{rest:.1f}h ago"


@dataclass(frozen=True)
class PromptStyle:
    """Wording and limits of the prompts; saved with a model, since a model knows the prompts it was trained on."""

    category: str = "product"
    instruct: bool = True
    max_title_words: int = 20
    max_item_words: int = 120

    def user_text(self, lines: Sequence[str]) -> str:
        """The user prompt around finished history lines, oldest first (paper, Appendix: user template)."""
        history = "\n".join(lines)
        if not self.instruct:
            return f"Purchases:\n{history}\nThoughts:"
        return (
            f"Below are a shopper's purchases, oldest first: how long ago, [title], and the rating where known. "
            f"Work out in depth what they tell about the shopper's needs and taste, then recommend the next "
            f"{self.category} to buy inside {ANSWER} and </answer>.\n\n{history}"
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
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, style: PromptStyle):
        if ANSWER not in tokenizer.get_vocab():
            raise ValueError(f"the tokenizer has no {ANSWER} token; load it through r2ec_lib.backbone, which adds it")
        self.tokenizer = tokenizer
        self.style = style
        self.answer_id = tokenizer.convert_tokens_to_ids(ANSWER)
        self.recommend_id: int | None = tokenizer.get_vocab().get(RECOMMEND)  # only models with that read-out have it
        self._specials = special_strings(tokenizer)

    def user_text(self, titles: Sequence[str], hours: Sequence[float], ratings: Sequence[float]) -> str:
        """The user prompt of one history, before the chat template.

        Args:
            titles, hours, ratings: one value a purchase, oldest first; hours before the target; rating 1 to 5 or NaN.
        """
        lines = []
        for title, before, rating in zip(titles, hours, ratings, strict=True):
            stars = "" if rating != rating else f" ({rating:.1f} out of 5)"  # NaN is not equal to itself
            shown = clean(title, self._specials, self.style.max_title_words)
            if self.style.instruct:  # in the bare style a title has the tokens that it has on its item card
                shown = f"[{shown}]"
            lines.append(f"{age(before, coarse=not self.style.instruct)}: {shown}{stars}")
        return self.style.user_text(lines)

    def item_text(self, item: Mapping[str, str]) -> str:
        """The item prompt of one row of the items table, before the chat template; `item_id` is not shown."""
        lines = [
            f"{clean(key, self._specials)}: {clean(value, self._specials, self.style.max_item_words)}"
            for key, value in item.items()
            if key != "item_id" and isinstance(value, str) and value.strip()
        ]
        return self.style.item_text(lines)

    def user_ids(self, samples: pd.DataFrame, titles: Sequence[str]) -> list[list[int]]:
        """Prompt ids of each row of a samples table; the reasoning starts where they end.

        Args:
            titles: the catalogue's titles, in item-index order.
        """
        columns = (samples["history"], samples["history_hours"], samples["history_ratings"])
        return self.tokenize(
            [
                self.user_text([titles[item] for item in history], hours, ratings)
                for history, hours, ratings in zip(*columns, strict=True)
            ]
        )

    def item_ids(self, items: pd.DataFrame) -> list[list[int]]:
        """Prompt ids of each row of an items table; each ends in the `<answer>` token."""
        prompts = self.tokenize([self.item_text(item) for item in items.to_dict("records")])
        return [[*ids, self.answer_id] for ids in prompts]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of finished prompt texts, through the chat template where the style uses it."""
        if not texts:
            return []
        if self.style.instruct and self.tokenizer.chat_template:
            chats = [[{"role": "user", "content": text}] for text in texts]
            rendered = self.tokenizer.apply_chat_template(
                chats, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            return self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        encoded = self.tokenizer(list(texts))["input_ids"]
        closed = bool(encoded[0]) and encoded[0][-1] == self.tokenizer.eos_token_id  # some tokenizers append it
        return [ids[:-1] for ids in encoded] if closed else encoded

    def config(self) -> dict:
        """What `PromptStyle(**config)` needs to read the same prompts again."""
        return asdict(self.style)
