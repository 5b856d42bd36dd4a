"""How little a phase can cost: the operations that it needs, and products of the same shapes that time them.

Needed are two operations per weight for each token that is read, and as many again for each gradient that training
asks of that weight's product. Padding, what is computed twice, and attention do not count. The machine's rate depends
on the shapes of the products, so it is measured with the model's own weights.
"""

from collections.abc import Sequence

import torch
from torch.nn import Linear
from transformers import PreTrainedModel

from r2ec_lib.evaluation.speed.timing import Product
from r2ec_lib.model.encoding import SHARED_TOKENS, shared_beginning


def products(lm: PreTrainedModel, tokens: int, written: int = 0) -> Product:
    """One forward's matrix products and nothing else: `tokens` through the decoder, `written` through the LM head."""
    shapes = [(part, tokens) for part in _linears(lm)] + [(lm.get_output_embeddings(), written)]
    inputs = {
        (part.in_features, rows): torch.randn(rows, part.in_features, device=lm.device).to(part.weight)
        for part, rows in shapes
    }

    @torch.no_grad()
    def call() -> None:
        for part, rows in shapes:
            torch.nn.functional.linear(inputs[part.in_features, rows].to(part.weight), part.weight)

    return call, operations(lm, tokens, written)


def operations(lm: PreTrainedModel, tokens: int, written: int = 0, gradients: bool = False) -> int:
    """Operations that `tokens` need in the decoder and `written` of them in the LM head, with the gradients that
    training asks for: of a weight that is trained, and of what a product reads where a trained weight lies before."""
    passes, trained = 0, lm.get_input_embeddings().weight.requires_grad
    parts = [*((part, tokens) for part in _linears(lm)), (lm.get_output_embeddings(), written)]
    for part, rows in parts:
        own = part.weight.requires_grad
        passes += rows * part.weight.numel() * (1 + gradients * (own + trained))
        trained |= own
    return 2 * passes


def distinct_tokens(ids: Sequence[Sequence[int]]) -> int:
    """Tokens of texts, a beginning that all of them share counted once where `encoding` computes it once."""
    shared = shared_beginning(ids)
    return sum(map(len, ids)) - (len(ids) - 1) * (shared if shared >= SHARED_TOKENS else 0)


def _linears(lm: PreTrainedModel) -> list[Linear]:
    """The decoder's linear layers in order, those of adapters among them."""
    return [part for part in lm.get_decoder().modules() if isinstance(part, Linear)]
