"""The next token of each row: the cache with room for it, and the forward that reads it.

On a GPU a forward over one token is thousands of kernels that take less time than starting them does. There the cache
and all else that a step reads stay in one place, so that the kernels are recorded once, as a CUDA graph, and replayed.
Letters in shapes: R rows, E tokens of a step, L columns of the cache, d hidden size, |T| vocabulary.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from r2ec_lib.model.encoding import caches_exactly

RECORDING = ("cuda",)
"""Devices on which a step is recorded."""
LAST = torch.tensor([-1])
"""For `logits_to_keep`: the last position alone, as a copy; `1` would keep a strided view, a slow operand."""
CHANGING_ROPES = ("dynamic", "longrope")
"""Position embeddings that look at the positions before they choose their frequencies."""


class RoomyLayer(DynamicLayer):
    """Keys and values with room for `room` more tokens, so that a step writes one column and copies nothing.

    `DynamicLayer` copies the whole cache at each token, which costs more than the attention over it. For use without
    gradients: columns are written in place. A sliding window is kept whole; its mask leaves out what is too old.
    """

    columns: list[Tensor]  # keys and values with their free columns

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.column: Tensor | None = None

    @property
    def is_compileable(self) -> bool:  # type: ignore[override]
        """Whether a mask over it has to be made without a look at its values."""
        return self.column is not None

    def fix(self, column: Tensor) -> None:
        """From now on every step reads all columns and writes the one that `column` (1,) holds at that time."""
        for columns in self.columns:
            columns[:, :, self.get_seq_length() :] = 0  # what is masked is multiplied by 0, and may be no NaN
        self.keys, self.values = self.columns
        self.column = column

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.column is not None:
            for columns, new in zip(self.columns, (key_states, value_states), strict=True):
                columns.index_copy_(2, self.column, new)
            return self.columns[0], self.columns[1]
        begin, added = self.get_seq_length(), key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.columns = [
                new.new_empty(*new.shape[:2], added + self.room, new.shape[3]) for new in (key_states, value_states)
            ]
        for columns, new in zip(self.columns, (key_states, value_states), strict=True):
            columns[:, :, begin : begin + added] = new
        self.keys, self.values = (columns[:, :, : begin + added] for columns in self.columns)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens before the next one; once fixed, all columns but the last, and the mask says which of them count."""
        return super().get_seq_length() - (self.column is not None)

    def joined(self, parts: Any) -> "RoomyLayer":
        """This layer, still empty, with the rows of the layers `parts`, longest first; what pads the others is 0."""
        width, sizes = parts[0].get_seq_length(), [len(part.keys) for part in parts]
        self.lazy_initialization(parts[0].keys, parts[0].values)
        self.columns = []
        for rows in ([part.keys for part in parts], [part.values for part in parts]):
            columns = rows[0].new_zeros(sum(sizes), rows[0].shape[1], width + self.room, rows[0].shape[3])
            for place, new in zip(columns.split(sizes), rows, strict=True):
                place[:, :, width - new.shape[2] : width] = new
            self.columns.append(columns)
        self.keys, self.values = (columns[:, :, :width] for columns in self.columns)
        return self

    def reorder_cache(self, beam_idx: Tensor) -> None:
        length = self.get_seq_length()
        self.columns = [columns.index_select(0, beam_idx) for columns in self.columns]
        self.keys, self.values = (columns[:, :, :length] for columns in self.columns)


def roomy_cache(lm: PreTrainedModel, room: int) -> Cache:
    """An empty cache for prompts and `room` more tokens; transformers' own for layers that keep no single tokens."""
    own = DynamicCache(config=lm.config)
    return Cache(layers=[RoomyLayer(room) for _ in own.layers]) if caches_exactly(lm) else own


class Step:
    """Reads the next E tokens of each row, mostly one, into a cache of R rows.

    Args:
        hidden: what `captured_states` collects of `lm`.
    """

    def __init__(self, lm: PreTrainedModel, cache: Cache, hidden: list[Tensor]):
        self.lm, self.cache, self.hidden = lm, cache, hidden

    def __call__(self, tokens: Tensor, mask: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, |T|) after `tokens` (R, E), the first at `position` (R,), and their last hidden states (R, E, d).

        mask: (R, L) of all columns that are filled, these tokens' included.
        """
        self.hidden.clear()
        logits = self.lm(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=position[:, None] + torch.arange(tokens.shape[1], device=tokens.device),
            past_key_values=self.cache,
            use_cache=True,
            **({"logits_to_keep": LAST} if tokens.shape[1] > 1 else {}),
        ).logits  # (R, 1, |T|)
        return logits[:, -1], self.hidden[0]


class FixedStep(Step):
    """A `Step` of one token over columns that are all there from the first on; recorded and replayed on a GPU.

    What it returns is overwritten by the next step. The cache's layers are `RoomyLayer`s, and keep their rows.

    Args:
        mask: (R, P) of the columns that are filled.
        room: columns that are free.
    """

    def __init__(self, lm: PreTrainedModel, cache: Cache, hidden: list[Tensor], mask: Tensor, room: int):
        super().__init__(lm, cache, hidden)
        self.column = torch.tensor([mask.shape[1]], device=mask.device)
        self.mask = torch.cat([mask, mask.new_zeros(len(mask), room)], dim=1)  # (R, L)
        self.tokens, self.position = torch.zeros_like(mask[:, :1]), torch.zeros_like(mask[:, 0])  # (R, 1), (R,)
        for layer in cache.layers:
            assert isinstance(layer, RoomyLayer)  # `keeps_in_place` said so
            layer.fix(self.column)
        self.graph: torch.cuda.CUDAGraph | None = None
        if mask.is_cuda and not is_in_torch_dispatch_mode():  # such as one that counts operations
            self._record()

    def __call__(self, tokens: Tensor, mask: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        self.tokens.copy_(tokens)
        self.position.copy_(position)
        self.mask.index_fill_(1, self.column, 1)
        if self.graph is None:
            self.outputs = super().__call__(self.tokens, self.mask, self.position)
        else:
            self.graph.replay()
        self.column += 1
        return self.outputs

    def _record(self) -> None:
        """Records the forward; where the model does what cannot be recorded, each step starts its kernels anew."""
        device = self.mask.device
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        random = torch.cuda.default_generators[device.index]
        before = random.clone_state()
        side.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(side):
                with _no_waiting():
                    super().__call__(self.tokens, self.mask, self.position)  # libraries set themselves up at first
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    self.outputs = super().__call__(self.tokens, self.mask, self.position)
                finally:
                    graph.capture_end()
            self.graph = graph
        except RuntimeError as error:
            random.graphsafe_set_state(before)  # it would wait for the end of the recording for ever
            warnings.warn(f"sampling goes on without a CUDA graph, and slower: {error}", stacklevel=2)
        torch.cuda.current_stream(device).wait_stream(side)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Raises RuntimeError where anything inside waits for the GPU, which cannot be recorded."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def keeps_in_place(lm: PreTrainedModel, width: int) -> bool:
    """Whether a `FixedStep` over `width` columns equals `Step`s, and pays: on a GPU, with weights that are all there,
    attention by "sdpa", and windows that leave out none of the columns."""
    config = lm.config.get_text_config()
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (ropes, *ropes.values()) if isinstance(part, dict)}
    return (
        lm.device.type in RECORDING
        and caches_exactly(lm)
        and config._attn_implementation == "sdpa"
        and width <= (getattr(config, "sliding_window", None) or width)
        and kinds.isdisjoint(CHANGING_ROPES)
        and not any(isinstance(part, FSDPModule | FullyShardedDataParallel) for part in lm.modules())
        and not any(hasattr(weight, "ds_id") for weight in lm.parameters())  # DeepSpeed's third stage
    )
