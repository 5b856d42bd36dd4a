"""Backbones: the tiny one, its corpus and cache, and pretrained ones from a folder."""

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from r2ec_lib.model.backbone import load_pretrained
from r2ec_lib.model.prompts import ANSWER, Document, Prompts, PromptStyle
from r2ec_lib.model.tiny import build_tiny, document_ids, generic_documents, tiny_backbone, train_tokenizer, warm_up

SIZES = {"vocab_size": 400, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
SCHEDULE = {"steps": 5, "batch_tokens": 512, "learning_rate": 1e-2, "seed": 0}


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, PromptStyle(instruct=False))


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "naïve ½ cup 日本語 🙂 <b>&amp;"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_warm_up_learns_its_documents(prompts, items):
    documents = [Document("Purchases:\n1d ago: red kettle\nThoughts:", "the shopper likes red")] * 8
    lm = build_tiny(prompts.tokenizer, 32, 1, 2)
    log = warm_up(lm, prompts, documents, steps=60, batch_tokens=512, learning_rate=1e-2, report=lambda line: None)
    assert log["loss"].iloc[0] > 4 and log["loss"].iloc[-1] < 0.1
    head = torch.tensor([prompts.tokenize([documents[0].prompt])[0]])
    written = lm.generate(head, attention_mask=torch.ones_like(head), max_new_tokens=6, do_sample=False)[
        0, head.shape[1] :
    ]
    assert prompts.tokenizer.decode(written, skip_special_tokens=True).strip() == documents[0].completion


def test_histories_are_read_but_not_learned(prompts):
    """Learning the order of purchases would be learning next items."""
    rows, starts = document_ids(
        prompts, [Document("Purchases: red", "the shopper likes red"), Document("Item: mug", "")]
    )
    assert prompts.tokenizer.decode(rows[0][starts[0] :]) == f" the shopper likes red{ANSWER}"
    assert starts[1] == 0


def test_what_stands_inside_the_answer_is_learned_after_the_answer_token(prompts):
    rows, starts = document_ids(prompts, [Document("Item: red mug\nSummary:", "a mug", "red")])
    assert prompts.tokenizer.decode(rows[0][starts[0] :]) == f" a mug{ANSWER} red"


def test_the_generic_corpus_reads_histories_and_never_targets(prompts, items, samples):
    documents = generic_documents(items, samples, prompts, n=60)
    without = generic_documents(items, samples.assign(target=0), prompts, n=60)
    assert documents == without
    assert len(documents) == len(items) + 60
    analyses = [document.completion for document in documents[len(items) :]]
    assert len(set(analyses)) > 30 and any("trusts Acme" in text for text in analyses)


def test_the_generic_corpus_does_not_depend_on_the_order_of_a_set(prompts):
    """Python orders sets of words anew in every process; equally frequent words are taken by the alphabet."""
    catalogue = pd.DataFrame({"item_id": list("abcde"), "title": ["zinc yarn xylo wood vine", *["plain"] * 4]})
    catalogue = pd.concat([catalogue] * 5, ignore_index=True).iloc[:25].assign(item_id=[f"i{n}" for n in range(25)])
    catalogue.loc[5:, "title"] = "plain"
    one = pd.DataFrame({"history": [[0]], "history_hours": [[5.0]], "history_ratings": [[5.0]]})
    analyses = {document.completion for document in generic_documents(catalogue, one, prompts, n=30)[25:]}
    assert any("about vine and wood" in text for text in analyses)


def test_the_tiny_backbone_is_built_once_and_then_read_from_the_cache(items, samples, tmp_path):
    calls = []

    def documents_of(prompts):
        calls.append(prompts)
        return generic_documents(items, samples, prompts, n=20)

    style = PromptStyle(instruct=False)
    silent = {"report": lambda line: None}
    lm, tokenizer, log, cached = tiny_backbone(documents_of, style, tmp_path, **SIZES, **SCHEDULE, **silent)
    again, _, log_again, cached_again = tiny_backbone(documents_of, style, tmp_path, **SIZES, **SCHEDULE, **silent)
    other = tiny_backbone(documents_of, style, tmp_path, **SIZES, **{**SCHEDULE, "seed": 1}, **silent)
    assert (cached, cached_again, other[3]) == (False, True, False)
    assert all(torch.equal(a, b) for a, b in zip(lm.parameters(), again.parameters(), strict=True))
    assert log.equals(log_again) and tokenizer.convert_tokens_to_ids(ANSWER) == 2


@pytest.mark.parametrize("tied", [True, False])
def test_a_pretrained_backbone_gains_the_answer_token_and_keeps_its_other_weights(tied, tmp_path):
    torch.manual_seed(0)
    core = train_tokenizer(["the answer is plain text"] * 9, 300).backend_tokenizer
    plain = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    plain = PreTrainedTokenizerFast.from_pretrained(_without_answer(plain, tmp_path))
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    lm = LlamaForCausalLM(LlamaConfig(vocab_size=len(plain), tie_word_embeddings=tied, **shape))
    lm.save_pretrained(tmp_path / "lm")
    plain.save_pretrained(tmp_path / "lm")
    loaded, tokenizer = load_pretrained(tmp_path / "lm")
    again, _ = load_pretrained(tmp_path / "lm")
    answer = tokenizer.convert_tokens_to_ids(ANSWER)
    assert ANSWER not in AutoTokenizer.from_pretrained(tmp_path / "lm").get_vocab()
    assert tokenizer(f"x{ANSWER}")["input_ids"][-1] == answer
    assert torch.equal(loaded.get_input_embeddings().weight[: len(plain)], lm.get_input_embeddings().weight)
    assert torch.equal(loaded.get_output_embeddings().weight, again.get_output_embeddings().weight)
    assert loaded.get_input_embeddings().weight[answer].abs().sum() > 0


def test_a_backbone_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot load the backbone '.*nowhere'"):
        load_pretrained(tmp_path / "nowhere")


def _without_answer(tokenizer, folder):
    """The same tokenizer as if it had been made by somebody who never heard of `<answer>`."""
    import json

    tokenizer.save_pretrained(folder / "plain")
    path = folder / "plain" / "tokenizer.json"
    state = json.loads(path.read_text().replace(ANSWER, "<other>"))
    path.write_text(json.dumps(state))
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / "plain" / name
        if file.exists():
            file.write_text(file.read_text().replace(ANSWER, "<other>"))
    return folder / "plain"
