"""Weights that FSDP spreads over processes (`params/accelerate/fsdp2.yaml`), made whole for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.fsdp import FSDPModule


@contextmanager
def whole_weights(lm: torch.nn.Module) -> Iterator[None]:
    """Every process holds all weights of `lm` for the time of the context; nothing where they are not spread.

    A forward over spread weights gathers them from all processes, so all have to make the same number of forwards. In
    training they do. Sampling does not: its number depends on how long the reasonings of a process become.
    """
    spread = [module for module in lm.modules() if isinstance(module, FSDPModule)]
    for module in spread:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in spread:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()
