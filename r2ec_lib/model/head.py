"""The recommendation head: the item table, and its scores and probabilities for user states (Eq. 1 to 3 and 7)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from r2ec_lib.model.encoding import READOUTS
from r2ec_lib.model.scoring import SIMILARITIES, item_log_probs, similarity_scores


@dataclass
class RecHead:
    """The item table and how it is compared with a user state.

    Attributes:
        item_ids: N catalogue ids, in table order.
        table: (N, d) float32 item vectors h_v.
        temperature: τ of Eq. 5 and 7.
        similarity: "inner" or "cosine".
        readout: one of `encoding.READOUTS`.
        learned: whether the vectors are weights of their own, not encodings of item texts.
    """

    item_ids: list[str]
    table: Tensor
    temperature: float = 1.0
    similarity: str = "inner"
    readout: str = "last"
    learned: bool = False
    index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, allowed in (("similarity", SIMILARITIES), ("readout", READOUTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {allowed}")
        if len(self.item_ids) != len(self.table):
            raise ValueError(f"the table has {len(self.table)} rows for {len(self.item_ids)} item ids")
        self.index = {item: row for row, item in enumerate(self.item_ids)}
        if len(self.index) != len(self.item_ids):
            raise ValueError("item ids must be unique; the same id stands twice in the table")

    def scores(self, states: Tensor) -> Tensor:
        """s(v) of every item: states (B, d) → (B, N), float32 or better."""
        return similarity_scores(states, self.table.to(states.device), self.similarity)

    def log_probs(
        self,
        states: Tensor,
        items: Tensor,
        candidates: Tensor,
        targets: Tensor,
        seen: Tensor | None,
        whole_catalogue: bool = False,
    ) -> Tensor:
        """log π(v⁺ | x, o) of Eq. 7 (B,): states (B, d) against live items (M, d), which are the catalogue's rows
        `candidates` (M,), sorted.

        Args:
            targets: (B,) item indexes, each among the candidates.
            seen: (B, N) bool, True where an item must not count.
            whole_catalogue: whether the other rows of the item table count too, as constants.
        """
        scores = similarity_scores(states, items, self.similarity)  # (B, M)
        if whole_catalogue:
            scores = self.scores(states).index_copy(1, candidates, scores)  # (B, N)
            return item_log_probs(scores, targets, self.temperature, seen)
        seen = None if seen is None else seen[:, candidates]
        return item_log_probs(scores, torch.searchsorted(candidates, targets), self.temperature, seen)
