"""Decoder families and kinds of tokenizer as pretrained models have them, tiny and with random weights."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = {
    "Qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "Llama": (LlamaConfig, LlamaForCausalLM, {}),
    "Gemma2": (Gemma2Config, Gemma2ForCausalLM, {"sliding_window": 6, "query_pre_attn_scalar": 8}),
    "Gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"sliding_window": 6, "query_pre_attn_scalar": 8}),
}
"""Decoder families by name; the windows are shorter than the prompts, and every other layer of both Gemmas slides."""


def family_lm(family: str, tied: bool = True, vocab_size: int = 400) -> PreTrainedModel:
    """A two-layer model of a family with fixed random weights, in float64.

    Gemma2 stays in float32: its softmax is float32, in which the mask value of float64 is −∞, and a padding position
    that attends to nothing would be NaN.
    """
    config, lm_class, own = FAMILIES[family]
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 1, "head_dim": 8, "vocab_size": vocab_size, "initializer_range": 0.3}
    shape |= {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": tied}
    layers = {"layer_types": ["sliding_attention", "full_attention"]} if own else {}
    return lm_class(config(**shape, **own, **layers)).eval().to(torch.float32 if family == "Gemma2" else torch.float64)


TEXT_TOKENIZERS = ("byte-level", "sentencepiece", "byte-fallback")
"""Kinds of tokenizer that pretrained models have: byte-level BPE as in SmolLM2, Qwen and Llama 3, where the symbol may
merge with its neighbours; SentencePiece as in Gemma; SentencePiece with single bytes for rare characters."""


def text_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of that kind, in which `<answer>` is several tokens; `<pad>` is 0 and `<end>` 1."""
    texts = ["a red mug <answer> and more", "a blue lamp.<answer>\n", "the answer >\n<\n .< a", "> and", "more"] * 5
    special = ["<pad>", "<end>", "<unk>"]
    if kind == "byte-level":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    else:
        fallback = kind == "byte-fallback"
        core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=fallback))
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        special = [*special, *(f"<0x{byte:02X}>" for byte in range(256))] if fallback else special
        texts = [text.replace("<answer>", "") for text in texts]
        texts = [text.replace("<", "").replace(">", "").replace("\n", "") for text in texts] if fallback else texts
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    trainer.show_progress = False
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
