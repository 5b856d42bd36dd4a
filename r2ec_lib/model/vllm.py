"""Reasonings written by vLLM in place of `sampling`: for a GPU and many histories.

vLLM gives token ids and nothing else. `R2ec.read` closes them and reads h_T with the model at hand, in one pass, so
what is recommended after a reasoning does not depend on who wrote it. Greedy reasonings are those of `sampling` but
for ties and rounding. Both models are in memory at once. vLLM is an extra and is imported here alone, when it is asked
for; sampling in training is TRL's business, which seeds vLLM by the number of the process.
"""

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import psutil
import torch
from peft import PeftModel

from r2ec_lib.data.schema import DataError
from r2ec_lib.model.r2ec import R2ec, Writer

MEMORY_SHARE = 0.5
"""Of the memory that is free, for vLLM; the model that reads the states needs some too."""
SURROUNDINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: it ends with it, and scripts need no `__main__`
    "VLLM_NO_USAGE_STATS": "1",  # which it would send to its makers
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""Environment variables that vLLM reads, where they are not set already."""


def require() -> None:
    """Raises DataError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise DataError(
            "sampling with vLLM is asked for, but vLLM is not installed; install the extra `vllm` "
            "(pip install -c constraints.txt -e '.[vllm]'), or leave out use_vllm or --vllm."
        )


def limits(model: R2ec) -> dict[str, Any]:
    """vLLM's keywords for where a reasoning ends, and that the token which is read after `<answer>` is not written."""
    answer = model.prompts.answer
    stops: dict[str, Any] = {"stop_token_ids": answer.stop_ids(model.lm)}
    if answer.text:
        stops |= {"stop": [answer.text], "include_stop_str_in_output": True}
    return stops if model.read_id is None else {**stops, "logit_bias": {model.read_id: -100.0}}


def writer(model: R2ec, folder: str | os.PathLike, **engine: Any) -> Writer:
    """A `Writer` with the weights of a saved R²ec; an adapter stays an adapter, since merging would round it.

    Args:
        model: what `R2ec.load` made of `folder`.
        engine: further arguments of `vllm.LLM`, such as `enforce_eager` or `gpu_memory_utilization`.

    Raises:
        DataError: vLLM is not installed.
    """
    require()
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    from vllm import LLM, SamplingParams
    from vllm.config.lora import MaxLoRARanks
    from vllm.lora.request import LoRARequest

    weights, adapter = str(Path(folder) / "lm"), None
    memory = psutil.virtual_memory()
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (memory.available, memory.total)
    usual = {"gpu_memory_utilization": MEMORY_SHARE * free / total, "max_model_len": -1}  # as long as there is room
    fixed = {"load_format": "safetensors", "generation_config": "vllm"}  # no pickle; no settings but those given here
    fixed["dtype"] = str(model.lm.dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as place:
        if isinstance(model.lm, PeftModel):
            config = model.lm.peft_config["default"]
            model.lm.save_pretrained(place, save_embedding_layers=False)  # vLLM refuses those that got a new token
            weights, adapter = str(config.base_model_name_or_path), LoRARequest("r2ec", 1, place)
            rank = next((rank for rank in get_args(MaxLoRARanks) if rank >= config.r), config.r)
            fixed |= {"enable_lora": True, "max_lora_rank": rank}
        llm = LLM(weights, **{**usual, **fixed, **engine})
        if adapter:
            llm.llm_engine.add_lora(adapter)
    stops = {**limits(model), "ignore_eos": True, "detokenize": model.prompts.answer.text is not None}
    if (model.read_id or 0) >= llm.model_config.get_vocab_size():  # the backbone of an adapter has no such token
        del stops["logit_bias"]

    def write(
        prompt_ids: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, top_k: int
    ) -> list[list[int]]:
        seeds: list[int | None] = [None] * len(prompt_ids)
        if temperature > 0:
            seeds = torch.randint(2**62, (len(prompt_ids),)).tolist()  # so that torch's seed decides here too
        drawn = {"temperature": temperature, "top_k": top_k, "max_tokens": max_new_tokens}
        written = llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompt_ids],
            [SamplingParams(**drawn, **stops, seed=seed) for seed in seeds],
            use_tqdm=False,
            lora_request=adapter,
        )
        return [list(one.outputs[0].token_ids) for one in written]

    return write
