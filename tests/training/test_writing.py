"""The writing steps: adapters learn given reasonings, once."""

import pytest
import torch

from r2ec_lib.data.schema import DataError
from r2ec_lib.model import R2ec
from r2ec_lib.model.backbone import add_lora, load_pretrained
from r2ec_lib.training import writing
from r2ec_lib.training.writing import write_and_save

HOW = {"batch_tokens": 512, "learning_rate": 0.01, "seed": 0}


@pytest.fixture
def start(tiny, tmp_path):
    """A saved R²ec with adapters."""
    tiny.lm.float().save_pretrained(tmp_path / "lm")
    tiny.tokenizer.save_pretrained(tmp_path / "lm")
    lm, _ = load_pretrained(tmp_path / "lm", dtype=torch.float32)
    R2ec(add_lora(lm, 4, 8), tiny.prompts, tiny.catalogue).save(tmp_path / "start")
    return tmp_path / "start"


def test_given_reasonings_are_written_where_no_other_weight_moves(start, samples, tmp_path):
    train = samples.head(8)
    write_and_save(start, tmp_path / "written", train, ["the shopper likes red"] * 8, 80, **HOW)
    before, after = R2ec.load(start), R2ec.load(tmp_path / "written")
    old, new = dict(before.lm.named_parameters()), dict(after.lm.named_parameters())
    moved = {name for name, weight in new.items() if not torch.equal(weight, old[name])}
    assert moved and all("lora_" in name for name in moved)
    for model, written in ((before, False), (after, True)):
        chains = model.sample(model.prompts.user_ids(train, model.titles), 8).chains
        assert {model.decode(chain).startswith("the shopper likes red") for chain in chains} == {written}


def test_what_has_been_learned_is_not_learned_again(start, samples, tmp_path, monkeypatch):
    made, train = [], samples.head(4)
    monkeypatch.setattr(writing, "warm_up", lambda *_, **__: made.append(1))
    for told, steps in ((["red"] * 4, 2), (["red"] * 4, 2), (["blue"] * 4, 2), (["blue"] * 4, 3)):
        write_and_save(start, tmp_path / "written", train, told, steps, **HOW)
    assert len(made) == 3


def test_texts_that_are_longer_than_the_model_are_refused_before_anything_is_learned(start, samples, tmp_path):
    told = ["the shopper likes red"] * 7 + ["red " * 4000]
    with pytest.raises(DataError, match=r"exceeds the .* positions of the model"):
        write_and_save(start, tmp_path / "written", samples.head(8), told, 2, **HOW)
    assert not (tmp_path / "written").exists()
