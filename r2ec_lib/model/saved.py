"""The folder of a saved R²ec: what stands in it, written and read.

    lm/ or adapter/              the language model, or its adapter alone; the tokenizer
    rec_head.safetensors         the item table
    catalogue.parquet            the items, in the table's order
    collaborative.safetensors    the collaborative term, where there is one
    r2ec.json                    all else, such as the name of an adapter's backbone

Weights are in safetensors alone, and no code is loaded.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import write_json
from r2ec_lib.model.backbone import add_recommend_token, load_lora, load_pretrained, load_tokenizer, placed
from r2ec_lib.model.collaborative import Collaborative
from r2ec_lib.model.head import RecHead
from r2ec_lib.model.prompts import Prompts, PromptStyle

PARTS = ("lm", "adapter", "rec_head.safetensors", "catalogue.parquet", "collaborative.safetensors", "r2ec.json")
"""All that `write` may write; whatever else stands in such a folder is somebody else's."""


def write(
    folder: Path,
    lm: PreTrainedModel,
    prompts: Prompts,
    catalogue: pd.DataFrame,
    head: RecHead,
    collaborative: Collaborative | None,
    max_new_tokens: int,
    weights: dict[str, Tensor] | None = None,
) -> None:
    """Writes the parts of an `R2ec` into `folder`; `weights` and errors as in `R2ec.save`."""
    adapted = isinstance(lm, PeftModel)
    base = lm.peft_config["default"].base_model_name_or_path if adapted else None
    if adapted and not base:
        raise ValueError(
            "an adapter is saved without its backbone, and this one's has no name to be found by; save the backbone "
            "in a folder, read it with load_pretrained, and put the adapter on that"
        )
    chosen: dict[str, Any] = (
        {"selected_adapters": ["default"]} if adapted else {}
    )  # TRL's copy of the start is another
    lm.save_pretrained(folder / ("adapter" if adapted else "lm"), state_dict=weights, **chosen)
    prompts.tokenizer.save_pretrained(folder / ("adapter" if adapted else "lm"))
    if base and Path(base).is_dir():  # to be found from any working directory
        base = str(Path(base).absolute())
    save_file({"item_table": head.table.float().cpu().contiguous()}, folder / "rec_head.safetensors")
    tensors, numbers = collaborative.packed() if collaborative else ({}, None)
    if tensors:
        save_file(tensors, folder / "collaborative.safetensors")
    catalogue.to_parquet(folder / "catalogue.parquet", index=False)
    config = {
        "base": base,
        "dtype": str(lm.dtype).removeprefix("torch."),  # a base on disk may be wider than it was used
        "prompt_style": asdict(prompts.style),
        "temperature": head.temperature,
        "similarity": head.similarity,
        "readout": head.readout,
        "learned": head.learned,
        "collaborative": numbers,
        "max_new_tokens": max_new_tokens,
    }
    write_json(config, folder / "r2ec.json")


def read(
    folder: Path, dtype: torch.dtype | None = None, device: str | None = None
) -> tuple[PreTrainedModel, Prompts, pd.DataFrame, RecHead, Collaborative | None, int]:
    """The parts that `write` wrote, in evaluation mode; arguments and errors as in `R2ec.load`."""
    if not (folder / "r2ec.json").exists():
        raise FileNotFoundError(f"{folder} holds no saved R²ec (r2ec.json is missing)")
    try:
        config = json.loads((folder / "r2ec.json").read_text(encoding="utf-8"))
        temperature, similarity, readout = (config[name] for name in ("temperature", "similarity", "readout"))
        base = config["base"]
        style = PromptStyle(**config["prompt_style"])
        catalogue = pd.read_parquet(folder / "catalogue.parquet")
        dtype = dtype or getattr(torch, config["dtype"])
        table, term = load_file(folder / "rec_head.safetensors")["item_table"], None
        learned, longest = config["learned"], config["max_new_tokens"]
        head = RecHead(list(catalogue["item_id"]), table, temperature, similarity, readout, learned)
        if numbers := config["collaborative"]:
            term = Collaborative.unpacked(load_file(folder / "collaborative.safetensors"), numbers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{folder}: the saved R²ec cannot be read ({reason}). Copy or save it again.") from error
    if base and Path(base).is_absolute() and not Path(base).is_dir():
        raise FileNotFoundError(
            f"{folder}: the backbone of its adapter is gone from {base}. Put it back there, or write where it is into "
            f"'base' of {folder / 'r2ec.json'}."
        )
    lm, tokenizer = load_pretrained(base or folder / "lm", dtype)
    if readout == "token":
        add_recommend_token(lm, tokenizer)
    if base:
        lm = load_lora(lm, folder / "adapter")  # type: ignore[assignment]  # it hands on what it wraps
        tokenizer = _own_tokenizer(folder / "adapter")
    lm = placed(lm, device)
    head.table = head.table.to(lm.device)  # a training writes into it what the model has encoded
    return lm.eval(), Prompts(tokenizer, style), catalogue, head, term, longest


def _own_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside an adapter, which may differ from its backbone's."""
    try:
        return load_tokenizer(folder)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"cannot load the tokenizer {str(folder)!r}: it is no folder with whole tokenizer files "
            f"({str(error).splitlines()[0]}). Copy or save them again."
        ) from error
