"""The tiny decoder: a teaching-size stand-in for a pretrained model, for machines without a hub or a GPU.

Its tokenizer is trained on the catalogue, and a language-model warm-up on texts about items and *unlabelled* histories
stands in for what an instruction-tuned model already knows. No next-item label reaches it.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import tokenizers
import torch
import transformers
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from r2ec_lib.data.storage import sha256, whole_folder
from r2ec_lib.model import muon
from r2ec_lib.model.answer import ANSWER
from r2ec_lib.model.backbone import load_pretrained
from r2ec_lib.model.prompts import Document, Prompts, PromptStyle


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`: any foreign text can be read, frequent words are one token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<end>", ANSWER],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=[ANSWER],
        padding_side="left",
    )


def build_tiny(
    tokenizer: PreTrainedTokenizerBase,
    hidden_size: int = 96,
    num_layers: int = 2,
    num_heads: int = 4,
    max_positions: int = 2048,
    seed: int = 0,
) -> PreTrainedModel:
    """A Qwen3-shaped decoder with random weights: RMS norms, rotary positions, gated MLP, tied embeddings."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=hidden_size // num_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        initializer_range=0.6 / hidden_size**0.5,  # the usual 0.02 is meant for widths of a thousand and more
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def warm_up(
    lm: PreTrainedModel,
    prompts: Prompts,
    documents: Sequence[Document],
    steps: int,
    batch_tokens: int = 8192,
    learning_rate: float = 3e-3,
    matrix_rate: float = muon.MATRIX_RATE,
    seed: int = 0,
) -> pd.DataFrame:
    """Trains the weights of a language model that require a gradient on documents, with the next-token loss.

    Only completions, `<answer>` and what stands inside it are learned. So a history is read, but the order of
    purchases in it is not learned, since that would be a next-item label. A document without a completion is learned
    whole. The loss is printed ten times.

    Args:
        documents: read in a seeded order, as often as `steps` ask for.
        batch_tokens: padded tokens a step.
        learning_rate, matrix_rate: peaks of AdamW and Muon, reached after a tenth of the steps (`muon.stepper`); a
            pretrained model would forget by Muon, and takes a `matrix_rate` of 0.

    Returns:
        A table with `step`, `loss` (nats a token) and `tokens` (learned ones).
    """
    generator = np.random.default_rng(seed)
    rows, starts = document_ids(prompts, documents)
    step_by_gradients = muon.stepper(lm, steps, steps // 10, learning_rate, matrix_rate)
    device = lm.device
    lm.train()
    log: list[dict] = []
    batches: list[list[int]] = []
    for step in range(1, steps + 1):
        if not batches:
            batches = _document_batches(rows, batch_tokens, generator)
        batch = batches.pop()
        lengths = torch.tensor([len(rows[row]) for row in batch], device=device)
        places = torch.arange(int(lengths.max()), device=device)[None, :]  # (1, L)
        ids = torch.tensor([rows[row] + [0] * (len(places[0]) - len(rows[row])) for row in batch], device=device)
        real = places < lengths[:, None]  # (B, L)
        learned = real & (places >= torch.tensor([starts[row] for row in batch], device=device)[:, None])
        asked = learned[:, 1:]  # only positions that are learned pass the LM head, which is half of the work
        inputs = {"attention_mask": real.long(), "logits_to_keep": torch.nn.functional.pad(asked, (0, 1))}
        logits = lm(input_ids=ids, use_cache=False, **inputs).logits  # (tokens, |T|)
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][asked])
        loss.backward()
        step_by_gradients()
        log.append({"step": step, "loss": loss.item(), "tokens": int(learned.sum())})
        if step % max(1, steps // 10) == 0:
            print(f"step {step:>5} of {steps}  loss {log[-1]['loss']:.3f}")
    lm.eval()
    return pd.DataFrame(log)


def document_ids(prompts: Prompts, documents: Sequence[Document]) -> tuple[list[list[int]], list[int]]:
    """Token ids of whole documents, from the prompt to the answer, and where what is learned of each begins."""
    heads = prompts.tokenize([document.prompt for document in documents])
    words = lambda parts: [f" {part.strip()}" if part else "" for part in parts]  # noqa: E731
    completions, answers = (
        prompts.tokenizer(words(part), add_special_tokens=False)["input_ids"]
        for part in ([one.completion for one in documents], [one.answer for one in documents])
    )
    parts = list(zip(heads, completions, answers, strict=True))
    rows = [[*head, *tail, *prompts.answer.ids, *inside] for head, tail, inside in parts]
    return rows, [len(head) if tail else 0 for head, tail, _ in parts]


def _document_batches(
    rows: Sequence[Sequence[int]], batch_tokens: int, generator: np.random.Generator
) -> list[list[int]]:
    """One pass over the documents in batches of similar length, in random order."""
    jitter = generator.random(len(rows))
    order = sorted(range(len(rows)), key=lambda row: (len(rows[row]) // 8, jitter[row]))
    batches: list[list[int]] = [[]]
    for row in order:
        if batches[-1] and (len(batches[-1]) + 1) * len(rows[row]) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    generator.shuffle(batches)
    return batches


def tiny_backbone(
    documents_of: Callable[[Prompts], Sequence[Document]],
    style: PromptStyle,
    cache_dir: str | os.PathLike,
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    steps: int,
    batch_tokens: int,
    learning_rate: float,
    seed: int,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, bool]:
    """The tiny decoder, warmed up; built on the first call and read from `cache_dir` afterwards.

    Args:
        documents_of: makes the warm-up corpus, given prompts that word it. Where texts are longer than the style's
            limits, it is called again: without limits, and with the new tokenizer, whose tokens they count.

    Returns:
        Model, tokenizer, and whether they came from the cache.
    """
    by_bytes = Prompts(train_tokenizer([], vocab_size=0), style)
    documents = documents_of(by_bytes)
    if by_bytes.cut:
        whole = replace(style, max_title_tokens=sys.maxsize, max_item_tokens=sys.maxsize)
        documents = documents_of(Prompts(by_bytes.tokenizer, whole))
    sizes = [vocab_size, hidden_size, num_layers, num_heads, steps, batch_tokens, learning_rate, seed]
    versions = [torch.__version__, transformers.__version__, tokenizers.__version__, torch.get_num_threads()]
    versions += map(sha256, (Path(__file__), Path(muon.__file__)))
    recipe = json.dumps([documents, asdict(style), sizes, versions])
    target = Path(cache_dir) / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):  # of several processes that need it at once, one builds it and the others wait
        found = target.is_dir()
        if not found:
            made = train_tokenizer((" ".join(document) for document in documents), vocab_size)
            lm = build_tiny(made, hidden_size, num_layers, num_heads, seed=seed)
            prompts = Prompts(made, style)
            read = documents_of(prompts) if by_bytes.cut else documents
            warm_up(lm, prompts, read, steps, batch_tokens, learning_rate, seed=seed)
            with whole_folder(target) as fresh:
                lm.save_pretrained(fresh)
                made.save_pretrained(fresh)
    return *load_pretrained(target, dtype=torch.float32), found
