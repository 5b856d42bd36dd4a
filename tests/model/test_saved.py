"""A saved R²ec: it comes back as it was, from whole files alone."""

import json
import locale
from dataclasses import replace

import pytest
import torch
from families import FAMILIES, family_lm

from r2ec_lib.data.schema import DataError
from r2ec_lib.model import R2ec, backbone, saved
from r2ec_lib.model.backbone import add_lora, add_recommend_token, load_pretrained
from r2ec_lib.model.collaborative import ItemWeights
from r2ec_lib.model.prompts import Prompts, PromptStyle


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_decoder_family_reasons_encodes_and_comes_back_from_disk(
    family, tied, tokenizer, items, samples, tmp_path
):
    lm = family_lm(family, tied).float()
    model = R2ec(lm, Prompts(tokenizer, PromptStyle()), items)
    model.refresh()
    chains = model.sample(model.prompts.user_ids(samples.head(3), model.titles), max_new_tokens=5).chains
    states = model.user_states(samples.head(3), chains)
    model.save(tmp_path / "model")
    again = R2ec.load(tmp_path / "model")
    assert torch.allclose(again.user_states(samples.head(3), chains), states, atol=1e-5)
    assert torch.equal(again.head.table, model.head.table)
    assert again.sample(again.prompts.user_ids(samples.head(3), again.titles), max_new_tokens=5).chains == chains
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


def test_every_file_of_a_saved_model_may_be_read_by_whoever_may_read_its_configuration(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert {"rec_head.safetensors", "model.safetensors", "tokenizer.json"} < {*modes}
    assert {*modes.values()} == {modes["r2ec.json"]}


def test_every_part_of_a_saved_model_is_known_as_one(tiny, bought_alone, tmp_path):
    rows = len(tiny.head.table)
    tiny.collaborative = bought_alone(ItemWeights(torch.zeros(rows, 1, dtype=torch.long), torch.ones(rows, 1)))
    tiny.save(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {*saved.PARTS} - {"adapter"}


@pytest.fixture
def ascii_locale():
    """Files are read and written as ASCII where no encoding is named."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


@pytest.mark.usefixtures("ascii_locale")
def test_words_of_the_prompts_come_back_in_any_locale(tiny, tmp_path):
    style = replace(tiny.prompts.style, person="Käufer")
    R2ec(tiny.lm, Prompts(tiny.tokenizer, style), tiny.catalogue, tiny.head).save(tmp_path / "model")
    assert '"Käufer"' in (tmp_path / "model" / "r2ec.json").read_text(encoding="utf-8")
    assert R2ec.load(tmp_path / "model").prompts.style.person == "Käufer"


def test_an_adapter_is_saved_beside_its_backbone_and_read_again(tiny, samples, tmp_path):
    tiny.lm.save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    tiny.lm.name_or_path = str(tmp_path / "base")
    lm = add_lora(tiny.lm, rank=2, alpha=4)
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if "lora_B" in name:
                weight += 0.1
    model = R2ec(lm.eval(), tiny.prompts, tiny.catalogue)
    model.refresh()
    model.save(tmp_path / "model")
    assert not (tmp_path / "model" / "lm").exists()
    again = R2ec.load(tmp_path / "model")
    assert torch.allclose(again.user_states(samples.head(4)), model.user_states(samples.head(4)), atol=1e-5)
    assert sum(p.requires_grad for p in again.lm.parameters()) == sum("lora" in n for n, _ in lm.named_parameters())


@pytest.fixture
def adapted(tiny, tmp_path) -> R2ec:
    """`tiny` with an adapter, instructed through a chat template that the folder of its backbone does not have."""
    tiny.lm.float().save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    tiny.lm.name_or_path = str(tmp_path / "base")
    tiny.tokenizer.chat_template = "{% for m in messages %}ask: {{ m['content'] }}{% endfor %} think:"
    return R2ec(add_lora(tiny.lm, rank=2, alpha=4).eval(), Prompts(tiny.tokenizer, PromptStyle()), tiny.catalogue)


def test_an_adapter_is_read_with_the_tokenizer_that_was_saved_beside_it(adapted, samples, tmp_path):
    prompts = adapted.prompts.user_ids(samples.head(3), adapted.titles)
    adapted.save(tmp_path / "model")
    again = R2ec.load(tmp_path / "model")
    assert again.prompts.user_ids(samples.head(3), again.titles) == prompts
    assert again.tokenizer.padding_side == "left"


@pytest.mark.parametrize("content", [None, b"{"])
def test_a_tokenizer_beside_an_adapter_that_was_not_copied_whole_is_named(adapted, tmp_path, content):
    adapted.save(tmp_path / "model")
    for file in (tmp_path / "model" / "adapter").glob("*token*"):
        file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(FileNotFoundError, match=r"cannot load the tokenizer .*adapter': it is no folder"):
        R2ec.load(tmp_path / "model")


def test_the_token_that_an_adapter_is_read_at_comes_back_with_its_embedding(tiny, samples, tmp_path):
    tiny.lm.float().save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    lm, tokenizer = load_pretrained(tmp_path / "base")
    add_recommend_token(lm, tokenizer)
    model = R2ec(add_lora(lm, rank=2, alpha=4).eval(), Prompts(tokenizer, tiny.prompts.style), tiny.catalogue)
    model.head.readout = "token"
    model.save(tmp_path / "model")
    again = R2ec.load(tmp_path / "model")
    assert again.read_id == model.read_id
    assert torch.equal(again.user_states(samples.head(4)), model.user_states(samples.head(4)))


def test_a_backbone_named_by_a_relative_path_is_found_from_another_folder(tiny, tmp_path, monkeypatch):
    tiny.lm.save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    lm, tokenizer = load_pretrained("base")
    model = R2ec(add_lora(lm, rank=2, alpha=4).eval(), Prompts(tokenizer, tiny.prompts.style), tiny.catalogue)
    model.save("model")
    monkeypatch.chdir(tmp_path / "base")
    assert R2ec.load(tmp_path / "model").titles == tiny.titles
    config = json.loads((tmp_path / "model" / "r2ec.json").read_text())
    assert config["base"] == str(tmp_path / "base")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"model: the backbone of its adapter is gone from .*base\. .*r2ec\.json"
    ):
        R2ec.load(tmp_path / "model")
    (tmp_path / "model" / "r2ec.json").write_text(json.dumps(config | {"base": str(tmp_path / "moved")}))
    moved = R2ec.load(tmp_path / "model").lm.peft_config["default"]
    assert moved.base_model_name_or_path == str(tmp_path / "moved")  # where vLLM would look for it
    lm.peft_config["default"].base_model_name_or_path = "someone/on-the-hub"
    model.save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "r2ec.json").read_text())["base"] == "someone/on-the-hub"


def test_an_adapter_on_a_backbone_without_a_name_is_not_saved(tiny, tmp_path):
    """`load` would look for a whole model in its place."""
    model = R2ec(add_lora(tiny.lm, rank=2, alpha=4), tiny.prompts, tiny.catalogue)
    with pytest.raises(ValueError, match="has no name to be found by"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_backbone_that_was_used_in_bfloat16_comes_back_in_it_though_its_files_are_wider(
    tiny, samples, tmp_path, monkeypatch
):
    monkeypatch.setattr(backbone, "multiplies", lambda dtype: True)
    tiny.lm.save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    lm, _ = load_pretrained(tmp_path / "base", torch.bfloat16)
    model = R2ec(add_lora(lm, rank=2, alpha=4).eval(), tiny.prompts, tiny.catalogue)
    model.save(tmp_path / "model")
    again = R2ec.load(tmp_path / "model")
    assert again.lm.dtype == torch.bfloat16
    assert {p.dtype for p in again.lm.parameters() if p.requires_grad} == {torch.float32}
    assert torch.equal(again.user_states(samples.head(4)), model.user_states(samples.head(4)))
    assert R2ec.load(tmp_path / "model", torch.float32).lm.dtype == torch.float32

    monkeypatch.setattr(backbone, "multiplies", lambda dtype: dtype == torch.float32)
    wide = R2ec.load(tmp_path / "model")  # on a CPU without it
    assert {weight.dtype for weight in wide.lm.parameters()} == {torch.float32}
    pairs = zip(wide.lm.parameters(), again.lm.parameters(), strict=True)
    assert all(torch.equal(weight, one.float()) for weight, one in pairs)


def test_the_item_table_is_loaded_to_where_the_language_model_is(tiny, tmp_path):
    """A training on a GPU writes into the table what the model has encoded there; "meta" stands for any device."""
    tiny.save(tmp_path / "model")
    model = R2ec.load(tmp_path / "model", device="meta")
    assert model.lm.device.type == "meta" and model.head.table.device == model.lm.device


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no saved R²ec"):
        R2ec.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rec_head.safetensors", None),
        ("rec_head.safetensors", b"cut"),
        ("catalogue.parquet", None),
        ("catalogue.parquet", b"PAR1"),
        ("r2ec.json", b"{"),
        ("r2ec.json", b"{}"),
        ("r2ec.json", {"dtype": "float99"}),
        ("r2ec.json", "base"),
        ("r2ec.json", "max_new_tokens"),
        ("catalogue.parquet", 20),
        ("lm/model.safetensors", b"cut"),
        ("lm/tokenizer.json", None),
    ],
)
def test_a_folder_that_was_copied_in_part_is_named(tiny, tmp_path, name, content):
    tiny.save(tmp_path / "model")
    file = tmp_path / "model" / name
    if content is None:
        file.unlink()
    elif isinstance(content, dict):
        file.write_text(json.dumps(json.loads(file.read_text()) | content))
    elif isinstance(content, str):  # a key that is missing
        file.write_text(
            json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != content})
        )
    elif isinstance(content, int):
        tiny.catalogue.head(content).to_parquet(file)
    else:
        file.write_bytes(content)
    with pytest.raises(
        (DataError, FileNotFoundError), match=r"model: the saved R²ec cannot be read|model/lm': it is no folder"
    ):
        R2ec.load(tmp_path / "model")
