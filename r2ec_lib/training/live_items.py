"""The item table of an R²ec in training: target items encoded live, all others now and then (Algorithm 1)."""

from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor

from r2ec_lib.model import R2ec
from r2ec_lib.model.encoding import batched_states, encoded_tokens


@dataclass
class LiveItems:
    """Target items encoded with a graph, for all micro-batches of one optimiser step.

    The graph can be walked once. So all micro-batches but the last use detached copies and add up what they would send
    back in `carried`; the last one sends the sum through the graph.
    """

    version: tuple[int, int]  # optimiser step and count of changes to the weights
    targets: list[int]
    states: Tensor  # (M, d)
    carried: Tensor  # (M, d) float32 or better


class ItemTable:
    """Keeps `r2ec.head.table` current.

    Args:
        r2ec: the model whose table it is.
        refresh_steps: T_refresh, optimiser steps between two encodings of the whole catalogue.
    """

    def __init__(self, r2ec: R2ec, refresh_steps: int):
        self.r2ec = r2ec
        self.refresh_steps = refresh_steps
        self.texts = r2ec.prompts.item_ids(r2ec.catalogue)
        self.refreshed_at: int | None = None
        self._refreshed_by: int | None = None  # count of changes to the weights then; None for a table from elsewhere
        self._live: LiveItems | None = None

    def live(self, lm: torch.nn.Module, targets: Tensor, step: int) -> LiveItems:
        """Items `targets` (M,), encoded with a graph; again only where step, weights or targets have changed.

        lm: what to call: the language model itself, or the wrapper that accelerate put around it.
        """
        version = (step, self._changes())
        wanted, live = targets.tolist(), self._live
        if live is None or (live.version, live.targets) != (version, wanted):
            states = self._states(lm, wanted)
            precision = torch.promote_types(states.dtype, torch.float32)
            live = self._live = LiveItems(version, wanted, states, torch.zeros_like(states, dtype=precision))
        return live

    def _changes(self) -> int:
        return sum(weight._version for weight in self.r2ec.lm.parameters())

    def _states(self, lm: torch.nn.Module, items: list[int]) -> Tensor:
        """Vectors (M, d) of `items` by the current weights, with a graph."""
        texts, readout = self.r2ec.closed([self.texts[item] for item in items]), self.r2ec.head.readout
        upper = self.r2ec.lower.upper if lm is self.r2ec.lm else None  # a wrapper has to see the whole forward
        return batched_states(lm, self.r2ec.lm, texts, None, readout, encoded_tokens(self.r2ec.lm), upper)

    def forget(self) -> None:
        """The graph of the live items has been walked."""
        self._live = None

    def update(self, lm: torch.nn.Module, targets: Tensor, step: int) -> None:
        """Writes the batch's targets into the table, and every T_refresh steps all other items too."""
        if self.refreshed_at is None or step - self.refreshed_at >= self.refresh_steps:
            self.refresh(step, leave_out=set(targets.tolist()))
        table = self.r2ec.head.table
        table[targets] = self.live(lm, targets, step).states.detach().to(table)

    def refresh(self, step: int, leave_out: Set[int] = frozenset()) -> None:
        """Encodes the catalogue but for `leave_out`, which the caller writes; nothing if this step has done it, by the
        weights at hand: those of the best validation may have taken their place."""
        if self.refreshed_at == step and self._refreshed_by in (None, self._changes()):
            return
        rows = [item for item in range(len(self.texts)) if item not in leave_out]
        found = self.r2ec.encode([self.texts[item] for item in rows], again=True)
        table = torch.empty(len(self.texts), found.shape[1], device=found.device)
        table[rows] = found
        self.r2ec.head.table, self.refreshed_at, self._refreshed_by = table, step, self._changes()

    def stored(self) -> Tensor:
        """The table (N, d) as a checkpoint keeps it."""
        return self.r2ec.head.table

    def restore(self, table: Tensor) -> None:
        """Takes the table of a checkpoint."""
        self.r2ec.head.table, self._refreshed_by = table.to(self.r2ec.lm.device), None

    def finish(self, best: Tensor | None) -> None:
        """Writes the whole table by the weights that training has ended with.

        best: the table of the best checkpoint, for vectors that no encoding can give again.
        """
        self.r2ec.refresh()

    def release(self) -> None:
        """Leaves nothing of the training on the language model, which is to be saved."""


class LearnedItems(ItemTable):
    """Item vectors that are weights of their own in place of encoded texts: the paper's classification head.

    They begin at random, as wide as the encoded ones spread, and hang on the language model while it trains, so that
    its optimiser and its clipping take them along. Checkpoints hold them as their table, since those of an adapter
    have no other weights. Like an adapter's, they are float32 at least: small steps would be lost in bfloat16.
    """

    def __init__(self, r2ec: R2ec, seed: int):
        super().__init__(r2ec, refresh_steps=0)
        r2ec.refresh()
        table, generator = r2ec.head.table, torch.Generator().manual_seed(seed)
        mean = table.mean(dim=0)  # (d,); dimensions may lie far from zero, each elsewhere
        vectors = mean + (table - mean).std() * torch.randn(table.shape, generator=generator).to(table)
        self.vectors = torch.nn.Parameter(vectors.to(torch.promote_types(r2ec.lm.dtype, torch.float32)))
        r2ec.lm.register_parameter("item_vectors", self.vectors)
        r2ec.head.learned = True
        self.refresh(0)

    def _states(self, lm: torch.nn.Module, items: list[int]) -> Tensor:
        return self.vectors[items]

    def refresh(self, step: int, leave_out: Set[int] = frozenset()) -> None:
        """The table is a copy of the weights; made at every use, since nothing has to be encoded."""
        self.r2ec.head.table = self.vectors.detach().float().clone()

    def stored(self) -> Tensor:
        return self.vectors.detach().float()

    @torch.no_grad()
    def restore(self, table: Tensor) -> None:
        self.vectors.copy_(table)
        self.refresh(0)

    def finish(self, best: Tensor | None) -> None:
        self.restore(self.vectors if best is None else best)

    def release(self) -> None:
        del self.r2ec.lm.item_vectors
