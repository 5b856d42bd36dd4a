"""Attention in half precision on a CPU: torch's fast way forward is its slow way back.

There and back, its fused kernel takes twice to three times as long as the plain way over texts of 40 to 180 tokens in
bfloat16, and its gradients are no better (`tests/model/test_attention.py`). So the fused kernel reads, and the plain
way learns.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward


def attend(module: torch.nn.Module, query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """What transformers does under "sdpa", in the plain way where a half-precision gradient is asked for on a CPU."""
    learns = query.requires_grad and query.device.type == "cpu"
    plain = learns and query.dtype in (torch.bfloat16, torch.float16)
    with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        return sdpa_attention_forward(module, query, *args, **kwargs)


def use() -> None:
    """Makes `attend` what every model of this process does under "sdpa"."""
    AttentionInterface.register("sdpa", attend)
