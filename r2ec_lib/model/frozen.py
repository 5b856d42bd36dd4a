"""States below the first adapter, computed once: where only the last layers learn, the lower ones say the same of a
text each time it is read. Texts that are read again and again, those of the items, then cost the upper layers alone.
Letters in shapes: B texts, L tokens, d hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import ModuleList
from transformers import PreTrainedModel

from r2ec_lib.model.encoding import NO_LOGITS, captured_states

KEPT_BYTES = 2**30
"""Most memory for the states that are kept; texts beyond it are read as a whole."""
TOLERANCE = 0.05
"""Most relative difference of states that went on from the kept ones: rounding in bfloat16 stays far below."""


class LowerStates:
    """What the frozen layers of a language model say of texts.

    Args:
        lm: the model, or a `PeftModel` around one; its first layers without trainable weights are the frozen ones.
    """

    def __init__(self, lm: PreTrainedModel):
        self.lm = lm
        self._forget()

    def _forget(self) -> None:
        """Begins with the model as it is now."""
        self.layers = frozen_layers(self.lm)
        self._states = torch.empty(0)  # (T, d) of the tokens of all texts, one after the other
        self._begin: dict[tuple[int, ...], int] = {}  # where each text begins
        self._room = KEPT_BYTES
        self._checked = False
        self._made_by = self._maker()

    def _maker(self) -> tuple:
        """What kept states depend on, the same as long as nothing changes: which layers are frozen, their weights,
        and the model's forward, which accelerate wraps in autocast for a training."""
        count = frozen_layers(self.lm)
        parts = [self.lm.get_input_embeddings(), *getattr(self.lm.get_decoder(), "layers", [])[:count]]
        changes = sum(weight._version for part in parts for weight in part.parameters())
        return count, self.lm.device, self.lm.dtype, self.lm.forward, changes

    def upper(self, ids: Sequence[Sequence[int]]) -> Tensor | None:
        """The last hidden states (B, L, d) of right-padded texts, with the graph of the upper layers; None where no
        layer is frozen, where the model does not go on from states, or where there is no room for more texts."""
        if self._made_by != self._maker():
            self._forget()
        rows = [tuple(row) for row in ids]
        new = [row for row in dict.fromkeys(rows) if row not in self._begin]
        if self.layers and new:
            was_training = self.lm.training
            self.lm.eval()  # no dropout in what is kept
            self._learn(new)
            self.lm.train(was_training)
        return self._from_kept(rows) if all(row in self._begin for row in rows) else None

    def _from_kept(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """The upper layers' states (B, L, d), from the kept ones."""
        begin = torch.tensor([self._begin[row] for row in rows])[:, None]  # (B, 1)
        lengths = torch.tensor([len(row) for row in rows])[:, None]  # (B, 1)
        places = torch.arange(int(lengths.max()))[None, :]  # (1, L)
        real = places < lengths  # (B, L)
        kept = torch.where(real, begin + places, 0)  # padding is masked, and may hold any state
        kept, mask = kept.to(self._states.device), real.long().to(self._states.device)
        with part_of(self.lm, slice(self.layers, None)), captured_states(self.lm) as hidden:
            below = self._states[kept]  # (B, L, d)
            if self.lm.is_activation_checkpointing and torch.is_grad_enabled():
                below.requires_grad_()  # or reentrant checkpoints give no gradient at all
            self.lm(inputs_embeds=below, attention_mask=mask, use_cache=False, logits_to_keep=NO_LOGITS)
        return hidden[-1]

    @torch.no_grad()
    def _learn(self, new: Sequence[tuple[int, ...]]) -> None:
        """Keeps the states of texts, where there is room and the model goes on from states."""
        width = self.lm.config.get_text_config().hidden_size
        size = sum(map(len, new)) * width * self.lm.dtype.itemsize
        if size > self._room:
            return
        self._room -= size
        ids = torch.zeros(len(new), max(map(len, new)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(new):
            ids[place, : len(row)], mask[place, : len(row)] = torch.tensor(row), 1
        below: list[Tensor] = []
        last = self.lm.get_decoder().layers[self.layers - 1]
        hook = last.register_forward_hook(lambda _, __, out: below.append(out if isinstance(out, Tensor) else out[0]))
        try:
            with part_of(self.lm, slice(self.layers if self._checked else None)), captured_states(self.lm) as whole:
                inputs = {"input_ids": ids.to(self.lm.device), "attention_mask": mask.to(self.lm.device)}
                self.lm(**inputs, use_cache=False, logits_to_keep=NO_LOGITS)
        finally:
            hook.remove()
        shown = mask.bool().to(self.lm.device)
        size = len(self._states)
        for row in new:
            self._begin[row] = size
            size += len(row)
        self._states = torch.cat([self._states.to(below[-1]), below[-1][shown]])
        if not self._checked:  # some models scale what they are given in place of embeddings
            self._checked = True
            found, expected = (states[shown].float() for states in (self._from_kept(new), whole[-1]))
            if (found - expected).norm() > TOLERANCE * expected.norm():  # this one is read as a whole
                self.layers, self._states, self._begin = 0, torch.empty(0), {}


def frozen_layers(lm: PreTrainedModel) -> int:
    """How many of the decoder's first layers, and the embedding before them, have nothing that learns.

    0 where the whole model is frozen, since it was not made to learn in its last layers alone, where its layers have
    another name (GPT-2, Falcon), and where the layers above attend in another order than the first ones: models look
    up how a layer attends by its place among those that run.
    """
    if any(weight.requires_grad for weight in lm.get_input_embeddings().parameters()):
        return 0
    layers = getattr(lm.get_decoder(), "layers", [])
    learns = [any(weight.requires_grad for weight in layer.parameters()) for layer in layers]
    frozen = learns.index(True) if any(learns) else 0
    kinds = getattr(lm.config.get_text_config(), "layer_types", None) or []
    return frozen if kinds[frozen:] == kinds[: max(0, len(kinds) - frozen)] else 0


@contextmanager
def part_of(lm: PreTrainedModel, layers: slice) -> Iterator[None]:
    """The model with only some of its decoder's layers, inside."""
    decoder = lm.get_decoder()
    whole: ModuleList = decoder.layers
    decoder.layers = whole[layers]
    try:
        yield
    finally:
        decoder.layers = whole
