"""The tiny backbone: its tokenizer, its warm-up, its corpus and its cache."""

import pytest
import torch

from r2ec_lib.model import tiny
from r2ec_lib.model.analyses import generic_documents
from r2ec_lib.model.backbone import add_lora
from r2ec_lib.model.prompts import ANSWER, Document, Prompts, PromptStyle
from r2ec_lib.model.tiny import build_tiny, document_ids, tiny_backbone, warm_up

SIZES = {"vocab_size": 400, "hidden_size": 16, "num_layers": 1, "num_heads": 2}
SCHEDULE = {"steps": 5, "batch_tokens": 512, "learning_rate": 1e-2, "seed": 0}


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, PromptStyle(instruct=False))


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "naïve ½ cup 日本語 🙂 <b>&amp;"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_warm_up_learns_its_documents(prompts, items, capsys):
    documents = [Document("Purchases:\n1d ago: red kettle\nThoughts:", "the shopper likes red")] * 8
    lm = build_tiny(prompts.tokenizer, 32, 1, 2)
    log = warm_up(lm, prompts, documents, steps=60, batch_tokens=512, learning_rate=1e-2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("step    60 of 60")  # of the warm-up, or of the writing steps
    assert log["loss"].iloc[0] > 4 and log["loss"].iloc[-1] < 0.1
    head = torch.tensor([prompts.tokenize([documents[0].prompt])[0]])
    written = lm.generate(head, attention_mask=torch.ones_like(head), max_new_tokens=6, do_sample=False)[
        0, head.shape[1] :
    ]
    assert prompts.tokenizer.decode(written, skip_special_tokens=True).strip() == documents[0].completion


def test_a_warm_up_without_muon_moves_adapters_alone_and_as_adamw_does(prompts):
    """A pretrained model keeps what it knows: Muon's steps would be twenty times as long."""
    documents = [Document("Purchases:\nred kettle\nThoughts:", "the shopper likes red")] * 4
    lm = add_lora(build_tiny(prompts.tokenizer, 32, 1, 2), 2, 4)
    before = {name: weight.detach().clone() for name, weight in lm.named_parameters()}
    warm_up(lm, prompts, documents, 10, 512, learning_rate=1e-3, matrix_rate=0.0)
    moved = {name: (weight - before[name]).abs().max().item() for name, weight in lm.named_parameters()}
    assert {name for name, far in moved.items() if far} == {name for name in moved if "lora_" in name}
    assert max(moved.values()) < 1.1e-2  # ten steps of at most the rate


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


def test_the_tiny_backbone_is_built_once_and_then_read_from_the_cache(items, samples, tmp_path, monkeypatch):
    calls = []

    def documents_of(prompts):
        calls.append(prompts)
        return generic_documents(items, samples, prompts, n=20)

    style = PromptStyle(instruct=False)
    lm, tokenizer, cached = tiny_backbone(documents_of, style, tmp_path, **SIZES, **SCHEDULE)
    again, _, cached_again = tiny_backbone(documents_of, style, tmp_path, **SIZES, **SCHEDULE)
    other = tiny_backbone(documents_of, style, tmp_path, **SIZES, **{**SCHEDULE, "seed": 1})
    assert (cached, cached_again, other[2]) == (False, True, False)
    with monkeypatch.context() as patch:  # digits depend on their number
        patch.setattr(torch, "get_num_threads", lambda: 77)
        assert not tiny_backbone(documents_of, style, tmp_path, **SIZES, **SCHEDULE)[2]
    monkeypatch.setattr(tiny.muon, "__file__", str(tmp_path / "changed.py"))
    (tmp_path / "changed.py").write_text("")
    assert not tiny_backbone(documents_of, style, tmp_path, **SIZES, **SCHEDULE)[2]  # made by other code
    assert all(torch.equal(a, b) for a, b in zip(lm.parameters(), again.parameters(), strict=True))
    assert tokenizer.convert_tokens_to_ids(ANSWER) == 2


def test_the_warm_up_reads_long_titles_as_the_finished_prompts_show_them(tmp_path, monkeypatch):
    """The limit is one of tokens; before there are any, a byte would count as one."""
    title = "red " * 30 + "kettle"
    style = PromptStyle(instruct=False, max_title_words=99, max_title_tokens=64)
    documents_of = lambda prompts: [Document("", prompts.shown_title(title))]  # noqa: E731
    logs = []
    monkeypatch.setattr(tiny, "warm_up", lambda *given, **how: logs.append(warm_up(*given, **how)))
    _, tokenizer, _ = tiny_backbone(documents_of, style, tmp_path, **SIZES, **SCHEDULE)
    (read,), _ = document_ids(Prompts(tokenizer, style), [Document("", title)])
    assert len(read) < 64 < len(title) and logs[0]["tokens"].iloc[0] == len(read)
