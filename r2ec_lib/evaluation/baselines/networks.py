"""The sequence networks among the baselines: GRU4Rec, Caser and SASRec, as modules without any training.

Each reads item indexes padded on the right and gives a state at every position from the items up to there, so one pass
over a sequence answers all its questions. The item embeddings are also the output layer. Training is in `fitting`. The
tests compare each with a second implementation in NumPy; RecBole's GRU4Rec, given the same weights, gives the same
scores.
Letters in shapes: B rows, T positions, N items, d width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SequenceNetwork(nn.Module):
    """Item embeddings that are also the output layer; subclasses turn a sequence of them into states."""

    def __init__(self, num_items: int, width: int, dropout: float):
        super().__init__()
        self.items = nn.Embedding(num_items + 1, width, padding_idx=num_items)  # the last row pads
        nn.init.normal_(self.items.weight, std=width**-0.5 / 2)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Item indexes (B, T), padded on the right, → states (B, T, d); position t reads items 0…t alone."""
        raise NotImplementedError

    def logits(self, states: Tensor) -> Tensor:
        """(…, d) → (…, N)."""
        return states @ self.items.weight[:-1].T


class GRU4Rec(SequenceNetwork):
    """A gated recurrent network (Hidasi et al., 1511.06939), with cross-entropy over all items."""

    def __init__(self, num_items: int, max_history: int, *, width: int = 64, dropout: float = 0.2):
        super().__init__(num_items, width, dropout)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, width)

    def forward(self, ids: Tensor) -> Tensor:
        hidden, _ = self.gru(self.dropout(self.items(ids)))  # (B, T, d)
        return self.norm(self.out(self.dropout(hidden)))


class Caser(SequenceNetwork):
    """Horizontal and vertical convolutions over the latest `window` items (Tang & Wang, 1809.07426), no user ids."""

    def __init__(
        self,
        num_items: int,
        max_history: int,
        *,
        width: int = 64,
        dropout: float = 0.2,
        window: int = 5,
        filters: int = 16,
    ):
        super().__init__(num_items, width, dropout)
        self.window = window
        self.horizontal = nn.ModuleList(nn.Conv1d(width, filters, height) for height in range(1, window + 1))
        self.vertical = nn.Linear(window, 4)
        self.out = nn.Linear(filters * window + 4 * width, width)

    def forward(self, ids: Tensor) -> Tensor:
        vectors = F.pad(self.items(ids).transpose(1, 2), (self.window - 1, 0))  # (B, d, T + window - 1)
        parts = []
        for height, conv in enumerate(self.horizontal, 1):  # windows overlap, so each is convolved once
            slides = F.relu(conv(vectors))  # (B, filters, T + window - height)
            parts.append(F.max_pool1d(slides, self.window - height + 1, stride=1))  # (B, filters, T)
        columns = self.vertical(vectors.unfold(2, self.window, 1))  # (B, d, T, 4)
        parts.append(columns.permute(0, 3, 1, 2).flatten(1, 2))  # (B, 4 d, T)
        states = self.out(self.dropout(torch.cat(parts, dim=1).transpose(1, 2)))  # (B, T, d)
        return self.norm(states)


class SASRec(SequenceNetwork):
    """Causal self-attention (Kang & McAuley, 1808.09781), with cross-entropy over all items (2309.07602).

    What comes in is scaled by √d, as the items (but not the positions) are in the authors' code; unscaled, training
    rested on popularity for a dozen epochs.
    """

    def __init__(
        self,
        num_items: int,
        max_history: int,
        *,
        width: int = 64,
        dropout: float = 0.2,
        layers: int = 2,
        heads: int = 2,
    ):
        super().__init__(num_items, width, dropout)
        self.positions = nn.Parameter(torch.randn(max_history, width) * width**-0.5 / 2)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, norm=self.norm, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        scale = self.positions.shape[1] ** 0.5
        hidden = self.dropout(scale * (self.items(ids) + self.positions[:length]))  # (B, T, d)
        causal = nn.Transformer.generate_square_subsequent_mask(length, device=ids.device)
        return self.blocks(hidden, mask=causal, is_causal=True)


def pad(rows: Sequence[Any], filler: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """(B, longest) of `dtype`, filled on the right."""
    tensors = [torch.tensor(row, dtype=dtype) for row in rows]  # copies, for arrays from Parquet may be read-only
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=filler)
