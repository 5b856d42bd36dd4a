"""Muon for matrices, AdamW for all else: how the tiny backbone and the students are trained.

Small networks that begin at random take fewer steps so than with AdamW alone. A pretrained model would forget.
"""

from collections.abc import Callable

import torch
from transformers import get_cosine_schedule_with_warmup

MATRIX_RATE = 0.02
"""Muon's usual peak rate: its steps have the same size whatever the gradient's."""


def stepper(
    module: torch.nn.Module, steps: int, warmup_steps: int, learning_rate: float, matrix_rate: float = MATRIX_RATE
) -> Callable[[], None]:
    """A function that makes one step by the gradients at hand, clipped to norm 1, and clears them.

    It moves the weights of `module` that require a gradient. Embeddings are tables, no matrices.

    Args:
        steps: all in all; the rates rise in the first `warmup_steps` and fall along a half cosine.
        learning_rate: AdamW's peak.
        matrix_rate: Muon's peak; 0 leaves all weights to AdamW.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    tables = {part.weight for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    matrices = [weight for weight in trained if matrix_rate and weight.ndim == 2 and weight not in tables]
    others = [weight for weight in trained if not any(weight is matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98)))
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=0.01))
    schedules = [get_cosine_schedule_with_warmup(one, warmup_steps, steps) for one in optimizers]

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        module.zero_grad()

    return step
