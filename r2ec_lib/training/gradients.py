"""The gradient of each term of the loss over one optimiser step, measured apart; nothing here changes a gradient."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor


class GradientNorms:
    """L2 norms of the gradients of the token terms and of the item term over one optimiser step, before clipping.

    One more backward walk gives the token terms' gradient; the item term's is what the step's whole gradient has
    beyond it. So a measured step costs a second backward and a copy of the trainable weights' gradients; other steps
    cost nothing.
    """

    def __init__(self, weights: Sequence[torch.nn.Parameter]):
        self.weights = weights
        self.tokens: list[Tensor] | None = None

    def add(self, token_loss: Tensor) -> None:
        """Adds the gradient of one micro-batch's token terms; leaves `.grad` and the graph as they are."""
        given = torch.autograd.grad(token_loss, self.weights, retain_graph=True, materialize_grads=True)
        earlier = self.tokens or [torch.zeros_like(gradient) for gradient in given]
        self.tokens = [total + gradient.detach() for total, gradient in zip(earlier, given, strict=True)]

    def norms(self, accelerator: Accelerator) -> tuple[float, float]:
        """(token terms, item term), averaged over processes as the update is; starts anew afterwards."""
        tokens = [accelerator.reduce(gradient, reduction="mean") for gradient in self.tokens or []]
        pairs = zip(self.weights, tokens, strict=True)
        items = [-gradient if weight.grad is None else weight.grad - gradient for weight, gradient in pairs]
        self.tokens = None
        return torch.nn.utils.get_total_norm(tokens).item(), torch.nn.utils.get_total_norm(items).item()
