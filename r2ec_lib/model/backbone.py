"""Pretrained language models: loading, adapters, and which weights are trained.

A model stays what it was: no token is added for `<answer>`, which it reads and writes as text. Only safetensors are
read and no remote code is run. GGUF files become such a folder in `gguf.py`; the tiny decoder is made in `tiny.py`.
"""

import os
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners import lora
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Linear
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from r2ec_lib.data.schema import DataError
from r2ec_lib.model import attention
from r2ec_lib.model.prompts import RECOMMEND


def quiet() -> None:
    """Keeps progress bars and deprecation notes of the libraries out of notebooks and logs."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


def load_pretrained(
    name_or_path: str | os.PathLike, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Any causal LM by folder or hub name, on the GPU where there is one.

    Args:
        name_or_path: a folder with config.json, tokenizer files and *.safetensors, or a hub name.
        dtype: of the weights; as stored if left out. On a CPU that does not multiply it, `placed` widens them.

    Raises:
        FileNotFoundError: neither such a folder nor a hub name that can be reached.
    """
    try:
        tokenizer = load_tokenizer(name_or_path)
        lm = AutoModelForCausalLM.from_pretrained(
            name_or_path, dtype=dtype or "auto", use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise FileNotFoundError(
            f"cannot load the backbone {str(name_or_path)!r}: it is no folder here with config.json, tokenizer files "
            f"and whole *.safetensors, and no hub could be reached that has it ({str(error).splitlines()[0]})"
        ) from error
    attention.use()
    return placed(lm), tokenizer


def placed(lm: PreTrainedModel, device: str | None = None) -> PreTrainedModel:
    """`lm` on `device`, or on the GPU if there is one where none is named; its weights as they are, but in float32 on
    a CPU that would take many times as long in their own precision."""
    torch.nn.Module.to(lm, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return lm if lm.device.type != "cpu" or multiplies(lm.dtype) else lm.float()


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices in `dtype` nearly as fast as in float32. Where it has no instructions for
    bfloat16, it takes about 40 times as long."""
    seconds = []
    for kind in (torch.float32, dtype):
        left, right = torch.ones(128, 512, dtype=kind), torch.ones(512, 512, dtype=kind)
        times = []
        for _ in range(5):  # the first ones prepare
            begin = time.thread_time()  # not on the clock, where other work would count
            left @ right
            times.append(time.thread_time() - begin)
        seconds.append(min(times))
    return seconds[1] < 4 * seconds[0]


def load_tokenizer(name_or_path: str | os.PathLike) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name, with some token for padding. Raises OSError or ValueError for neither."""
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, padding_side="left", trust_remote_code=False)
    if tokenizer.pad_token is None:  # padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


@torch.no_grad()
def add_recommend_token(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Adds `<recommend>`, which the read-out "token" asks for, unless it is there; before `add_lora`.

    The embedding grows where it has no spare row. The token's own starts as the mean of those of the word "recommend".
    """
    if RECOMMEND in tokenizer.get_vocab():
        return
    pieces = tokenizer("recommend", add_special_tokens=False)["input_ids"]
    tokenizer.add_special_tokens({"additional_special_tokens": [RECOMMEND]}, replace_extra_special_tokens=False)
    weight: Any = lm.get_input_embeddings().weight
    if len(tokenizer) > len(weight):
        lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new = tokenizer.convert_tokens_to_ids(RECOMMEND)
    for table in {lm.get_input_embeddings(), lm.get_output_embeddings()}:
        table.weight[new] = table.weight[pieces].mean(dim=0)


class AdaptedLinear(lora.Linear):
    """PEFT's LoRA layer, computed in the precision of what it is given; the adapter's weights stay float32.

    PEFT computes adapters in the precision of their weights: beside a backbone in bfloat16 that takes as long again as
    the backbone itself. Here the scale meets the narrow product and only one addition is as wide as the output.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        down: Any = self.lora_A[name]
        up: Any = self.lora_B[name]
        narrow, wide = down.weight.to(x.dtype), up.weight.to(x.dtype)
        low = F.linear(self.lora_dropout[name](x), narrow) * self.scaling[name]  # (..., rank)
        return self.base_layer(x) + F.linear(low, wide)


def add_lora(lm: PreTrainedModel, rank: int, alpha: int, layers: int = 0) -> PeftModel:
    """Wraps the model with LoRA on the linear layers of the decoder; the backbone's own weights are frozen.

    Args:
        layers: how many of the decoder's last layers get adapters; 0 for all. What lies below the first adapter has no
            gradient, so a training step neither keeps its activations nor goes back through it.

    Raises:
        DataError: `layers` of a decoder that does not name them as others do.
    """
    chosen: str | list[str] = "all-linear"
    if layers:
        decoder: Any = lm.get_decoder()
        if not hasattr(decoder, "layers"):
            raise DataError(
                f"lora_layers is {layers}, but {type(lm).__name__} does not name its layers as Llama and Qwen3 do, so "
                "its last ones cannot be chosen. Set lora_layers to 0: all layers get adapters."
            )
        trained = {id(part) for layer in list(decoder.layers)[-layers:] for part in layer.modules()}
        chosen = [name for name, part in lm.named_modules() if isinstance(part, Linear) and id(part) in trained]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen, task_type="CAUSAL_LM")
    config._register_custom_module({Linear: AdaptedLinear})  # PEFT's door for a layer of one's own
    return get_peft_model(lm, config)


def checkpoint_from_trained(lm: PreTrainedModel | PeftModel) -> None:
    """Keeps transformers from asking for gradients at the embeddings of a model whose activations are recomputed.

    It does so at each enabling, by a hook that stays. Only reentrant checkpoints need it; with others, a step would go
    back through frozen lower layers, and the hooks would add up.
    """
    inner: Any = lm.get_base_model() if isinstance(lm, PeftModel) else lm
    inner.enable_input_require_grads = lambda: None


def load_lora(lm: PreTrainedModel, folder: str | os.PathLike) -> PeftModel:
    """The adapters of `add_lora` that were saved in `folder`, on their backbone; they can be trained on.

    Raises:
        FileNotFoundError: no adapters are there, or not all of them, or not in safetensors.
    """
    try:
        if not (Path(folder) / "adapter_model.safetensors").is_file():  # PEFT would unpickle a .bin in its place
            raise FileNotFoundError("adapter_model.safetensors is missing")
        config = PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = lm.name_or_path or config.base_model_name_or_path  # it may have moved
        config._register_custom_module({Linear: AdaptedLinear})
        return PeftModel.from_pretrained(lm, folder, is_trainable=True, config=config)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise FileNotFoundError(
            f"cannot load the adapters {str(folder)!r}: it is no folder with adapter_config.json and a whole "
            f"adapter_model.safetensors ({str(error).splitlines()[0]}). Copy or save them again."
        ) from error
