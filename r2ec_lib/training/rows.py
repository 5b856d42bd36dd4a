"""Rows of a samples table as a training reads them: prompts, target items, and what was bought before.

Prompts are made when a row is first asked for: of a large log a training reads few. What is done with rows is in
`trainer.py` and `item_action.py`.
"""

import heapq
import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from r2ec_lib.model import R2ec
from r2ec_lib.model.prompts import CHUNK
from r2ec_lib.model.scoring import seen_mask


class Rows:
    """The rows of a samples table, by place.

    Args:
        model: the R²ec that reads them.
        samples: samples table.
        mask_seen: whether items of a row's history are no candidates.

    Attributes:
        prompt_ids: of the rows that have been asked for.
    """

    def __init__(self, model: R2ec, samples: pd.DataFrame, mask_seen: bool):
        self.model = model
        self.samples = samples
        self.mask_seen = mask_seen
        self.titles = model.titles
        self.prompt_ids: dict[int, list[int]] = {}

    def prompts(self, rows: Sequence[int]) -> list[list[int]]:
        """Prompt ids of rows."""
        new = [row for row in dict.fromkeys(rows) if row not in self.prompt_ids]
        if new:
            made = self.model.prompts.user_ids(self.samples.iloc[new], self.titles)
            self.prompt_ids.update(zip(new, made, strict=True))
        return [self.prompt_ids[row] for row in rows]

    def targets(self, rows: Tensor) -> Tensor:
        """Target items (B,) of rows (B,)."""
        targets = self.samples["target"].to_numpy()[rows.cpu().numpy()]
        return torch.tensor(targets, dtype=torch.long, device=rows.device)

    def seen(self, rows: Tensor) -> Tensor | None:
        """(B, N) bool, True where an item is in the row's history; None where nothing is masked."""
        if not self.mask_seen:
            return None
        histories = self.samples["history"].iloc[rows.tolist()]
        return seen_mask(histories.to_list(), len(self.titles)).to(rows.device)

    def longest(self) -> int:
        """Tokens of the longest prompt, looked for among the `CHUNK` rows with the most characters."""
        prompts, count = self.model.prompts, len(self.samples)
        parts = (self.samples.iloc[start : start + CHUNK] for start in range(0, count, CHUNK))  # not all at once
        texts = (text for part in parts for text in prompts.user_texts(part, self.titles))
        return max(map(len, prompts.tokenize(heapq.nlargest(CHUNK, texts, key=len))), default=0)

    def require_room(self, tokens: int) -> None:
        """Raises DataError where a prompt leaves no room for a reasoning of so many tokens."""
        if self.model.positions < math.inf:
            self.model.require_positions(self.model.with_ending(self.longest() + tokens))
