"""The `<answer>` symbol: where a reasoning ends and the recommendation begins (paper, section 3).

A tokenizer of our own has it as one token. A pretrained model has never seen such a token and would not write it, so
for all others it is text: the model writes it with tokens that it knows, sampling stops when the text is complete, and
item prompts end in the same text. Either way a chain is kept as the ids that were sampled.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

ANSWER = "<answer>"


class Answer:
    """`<answer>` for one tokenizer.

    Attributes:
        ids: the tokens that close a chain which the model did not close itself, and every item prompt.
        text: the string at which a sampler has to stop; None where the symbol is one token.
        last_ids: the tokens that can complete it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self.text = None if ANSWER in vocabulary else ANSWER
        self.ids: list[int] = tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
        # only a token with the last character can complete the symbol; byte tokens are written "<0x3E>"
        ends = self.ids if self.text is None else [index for piece, index in vocabulary.items() if ">" in piece]
        self.last_ids: list[int] = sorted(ends)
        self._last_set = frozenset(ends)
        self._last = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.bool)  # (|T|,)
        self._last[self.last_ids] = True

    def is_complete(self, tokens: Tensor) -> Tensor:
        """Whether each of the rows (B, L) completes the symbol with its last token: (B,) bool."""
        token = tokens[:, -1]
        self._last = self._last.to(tokens.device)
        # a model may have more rows in its embedding than the tokenizer has tokens
        complete = self._last[token.clamp(max=len(self._last) - 1)] & (token < len(self._last))  # (B,)
        if self.text is None or not complete.any():
            return complete
        rows = complete.nonzero().squeeze(1)
        tails = tokens[rows, -len(ANSWER) :].tolist()  # a token that counts has at least one character of the symbol
        complete[rows] = torch.tensor([ANSWER in self._decoded(tail) for tail in tails], device=tokens.device)
        return complete

    def closed(self, chain: Sequence[int]) -> bool:
        """Whether a chain of token ids ends in the symbol."""
        return bool(chain) and bool(self.is_complete(torch.tensor([chain]))[0])

    def close(self, chains: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[bool]]:
        """Chains that end in the symbol, and whether each one had it.

        What follows the symbol is cut off; where it is missing it is appended.
        """
        closed, written = [], []
        for chain in chains:
            ends = [place for place, token in enumerate(chain, 1) if token in self._last_set]
            end = next((place for place in ends if self.closed(chain[:place])), None)
            closed.append([*chain, *self.ids] if end is None else list(chain[:end]))
            written.append(end is not None)
        return closed, written

    def body(self, chain: Sequence[int]) -> list[int]:
        """A closed chain without the tokens of the symbol.

        Raises:
            ValueError: the chain is not closed.
        """
        if not self.closed(chain):
            raise ValueError(f"the chain does not end in {ANSWER}: {self._decoded(chain[-8:])!r}")
        if self.text is None:
            return list(chain[:-1])
        sizes = range(1, len(chain) + 1)
        return list(chain[: -next(size for size in sizes if ANSWER in self._decoded(chain[-size:]))])

    def stop_ids(self, lm: PreTrainedModel) -> list[int]:
        """Token ids that end a reasoning: the symbol where it is one token, and the ends of a turn that the model or
        the tokenizer names, as TRL counts them."""
        ends = lm.generation_config.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        own = self.tokenizer.eos_token_id
        ends += [] if own is None or own in ends else [own]
        return ends if self.text else [*self.ids, *(token for token in ends if token not in self.ids)]

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
