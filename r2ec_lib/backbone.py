"""Where the language model comes from: a pretrained decoder, or a tiny one built and warmed up here.

Both ways end in the same thing: a stock causal LM and a tokenizer that knows `<answer>` as one token. The tiny decoder
is a teaching-size stand-in for machines without a hub or a GPU: its tokenizer is trained on the catalogue, and a
language-model warm-up on texts about items and *unlabelled* histories stands in for what an instruction-tuned LLM
already knows. Nothing here sees a next-item label.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from r2ec_lib.prompts import ANSWER, Document, Prompts, clean


def load_pretrained(
    name_or_path: str | os.PathLike, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Any causal LM by folder or hub name, with `<answer>` as one token of its vocabulary.

    Where the token is new, its embedding starts as the mean of the embeddings of the word "answer", so that loading
    the same backbone twice gives the same model. Only safetensors are read and no remote code is run.

    Args:
        name_or_path: a folder with config.json, tokenizer files and *.safetensors, or a hub name.
        dtype: of the weights; as stored if left out.

    Raises:
        FileNotFoundError: neither such a folder nor a hub name that can be reached.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, padding_side="left", trust_remote_code=False)
        lm = AutoModelForCausalLM.from_pretrained(
            name_or_path, dtype=dtype or "auto", use_safetensors=True, trust_remote_code=False
        )
    except OSError as error:
        raise FileNotFoundError(
            f"cannot load the backbone {str(name_or_path)!r}: it is no folder here with config.json, tokenizer files "
            f"and *.safetensors, and no hub could be reached that has it"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if ANSWER not in tokenizer.get_vocab():
        add_answer_token(lm, tokenizer)
    return lm, tokenizer


@torch.no_grad()
def add_answer_token(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes `<answer>` one special token of tokenizer and model, growing the embedding where it has no spare row."""
    pieces = tokenizer("answer", add_special_tokens=False)["input_ids"]
    tokenizer.add_special_tokens({"additional_special_tokens": [ANSWER]}, replace_extra_special_tokens=False)
    if len(tokenizer) > lm.get_input_embeddings().num_embeddings:
        lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    answer_id = tokenizer.convert_tokens_to_ids(ANSWER)
    for table in {lm.get_input_embeddings(), lm.get_output_embeddings()}:
        table.weight[answer_id] = table.weight[pieces].mean(dim=0)


def add_lora(lm: PreTrainedModel, rank: int, alpha: int, dropout: float = 0.0) -> PeftModel:
    """Wraps the model with LoRA on every linear layer of the decoder; the backbone's own weights are frozen."""
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(lm, config)


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
    seed: int = 0,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> pd.DataFrame:
    """Trains the language model on documents: next-token loss over prompt, completion and `<answer>`.

    Args:
        documents: read in a seeded order, as often as `steps` ask for.
        batch_tokens: padded tokens a step.
        report: called with (step, loss) at every step.

    Returns:
        A table with `step`, `loss` (nats a token) and `tokens`.
    """
    generator = np.random.default_rng(seed)
    rows = document_ids(prompts, documents)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    device = lm.get_input_embeddings().weight.device
    lm.train()
    log, batches = [], []
    for step in range(1, steps + 1):
        if not batches:
            batches = _document_batches(rows, batch_tokens, generator)
        batch = [rows[row] for row in batches.pop()]
        width = max(len(row) for row in batch)
        ids = torch.tensor([row + [0] * (width - len(row)) for row in batch], device=device)  # (B, L)
        real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=device)
        loss = lm(input_ids=ids, attention_mask=real, labels=ids.masked_fill(real == 0, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        log.append({"step": step, "loss": loss.item(), "tokens": int(real.sum())})
        report(step, log[-1]["loss"])
    lm.eval()
    return pd.DataFrame(log)


def document_ids(prompts: Prompts, documents: Sequence[Document]) -> list[list[int]]:
    """Token ids of whole documents: prompt (through the chat template where there is one), completion, `<answer>`."""
    heads = prompts.tokenize([document.prompt for document in documents])
    completions = [f" {document.completion.strip()}" if document.completion else "" for document in documents]
    tails = prompts.tokenizer(completions, add_special_tokens=False)["input_ids"]
    return [[*head, *tail, prompts.answer_id] for head, tail in zip(heads, tails, strict=True)]


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


def generic_documents(
    items: pd.DataFrame, histories: Sequence[Sequence[int]], user_texts: Sequence[str], prompts: Prompts, seed: int = 0
) -> list[Document]:
    """Warm-up documents for any catalogue: every item card, and a plain analysis of each unlabelled history.

    An analysis names facts that can be read off the history and the cards (the latest title, the most frequent brand,
    words that recur), randomly chosen and in random order: something for RecPO to select from, nothing it is told.

    Args:
        histories: item indexes of each history, oldest first; no target is given.
        user_texts: the finished user prompt of each history.
    """
    generator = np.random.default_rng(seed)
    titles = [clean(title, max_words=12) for title in items["title"]]
    words = [[word for word in re.findall(r"[^\W\d_]{3,}", title.lower())] for title in titles]
    common = {word for word, count in Counter(w for row in words for w in set(row)).items() if count > len(items) / 20}
    brands = items["brand"].tolist() if "brand" in items else items["store"].tolist() if "store" in items else None
    documents = [Document(prompts.item_text(item), "") for item in items.to_dict("records")]
    for history, text in zip(histories, user_texts, strict=True):
        recent = [int(item) for item in history][-5:]
        facts = [f"The last purchase was {' '.join(titles[recent[-1]].split()[:5])}."]
        recurring = Counter(word for item in recent for word in set(words[item]) - common).most_common(3)
        if recurring:
            facts.append(f"Words that recur: {', '.join(word for word, _ in recurring)}.")
        named = [clean(brands[item]) for item in recent if brands[item].strip()] if brands else []
        if named:
            facts.append(f"The shopper buys {Counter(named).most_common(1)[0][0]}.")
        if len(recent) > 1:
            facts.append(f"Before that came {' '.join(titles[recent[-2]].split()[:5])}.")
        count = generator.integers(1, len(facts) + 1)
        chosen = generator.permutation(len(facts))[:count]
        documents.append(Document(text, " ".join(facts[fact] for fact in chosen)))
    return documents


def cached_backbone(
    folder: str | os.PathLike,
    recipe: dict,
    build: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase, pd.DataFrame]],
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, pd.DataFrame, bool]:
    """The warmed-up backbone for `recipe`, built on the first call and read from `folder` afterwards.

    Args:
        recipe: everything that decides the result (sizes, steps, seed, a digest of the documents); JSON values.
        build: makes (model, tokenizer, log table).

    Returns:
        Model, tokenizer, warm-up log, and whether it came from the cache.
    """
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    key = hashlib.sha256(json.dumps([recipe, versions], sort_keys=True).encode()).hexdigest()[:16]
    target = Path(folder) / key
    found = (target / "warmup.parquet").exists()
    if not found:
        lm, tokenizer, log = build()
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{key}-"))
        lm.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        log.to_parquet(fresh / "warmup.parquet", index=False)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)
    lm, tokenizer = load_pretrained(target, dtype=torch.float32)
    return lm, tokenizer, pd.read_parquet(target / "warmup.parquet"), found


def documents_digest(documents: Sequence[Document]) -> str:
    """A short hash of a warm-up corpus, for `cached_backbone`."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(repr(tuple(document)).encode())
    return digest.hexdigest()[:16]
