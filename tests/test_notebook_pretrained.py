"""The notebooks on a pretrained backbone: a random one stands for it, but in the slow test."""

import shutil
from pathlib import Path

import pytest
from families import family_lm, text_tokenizer

from r2ec_lib.data.storage import read_json, read_table, write_json
from r2ec_lib.workflow import recipes, runner

ROOT = Path(__file__).parents[1]
PRETRAINED = [
    "bazaar_users=200 lora_r=2 lora_alpha=4 lora_layers=1 dtype=bfloat16 similarity=cosine rec_temperature=0.05",
    "warmup_documents=40 warmup_lm_steps=6 warmup_lm_tokens=1500 item_steps=3 item_rate=0.001 max_steps=3",
    "writing_steps=2 untrue_price=0.1",
    "batch_users=4 num_generations=2 max_completion_length=10 eval_steps=3 valid_users=8 refresh_steps=9",
    "control_item_only=false plain_steps=2 plain_long_steps=0 causal_samples=8 drop_samples=2",
    "max_title_words=6 max_item_words=6",
]
"""A pretrained model goes through all stages with adapters on its last layer, its warm-up and the item space first."""


def through_all_stages(folder: Path, backbone: str) -> Path:
    """Folder of a run of params/smoke.yaml with a pretrained backbone."""
    overrides = [choice for line in PRETRAINED for choice in line.split()]
    overrides += [f"backbone={backbone}", f"cache_dir={folder / 'cache'}"]
    recipe = recipes.load(ROOT / "params" / "smoke.yaml", recipes.declared_in(runner.NOTEBOOKS), overrides)
    return runner.execute(recipe, runs=folder / "runs").parents[1]


def test_a_pretrained_model_is_trained_with_and_without_its_chat_template(tmp_path):
    """A random Llama with a byte-level tokenizer and a chat template stands for it; `<answer>` is text to both. The
    second run copies the data of the first."""
    tokenizer = text_tokenizer("byte-level")
    tokenizer.chat_template = (
        "{% for m in messages %}<unk>{{ m['role'] }}\n{{ m['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<unk>assistant\n{% endif %}"
    )
    family_lm("Llama", vocab_size=len(tokenizer) + 3).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    overrides = [choice for line in PRETRAINED for choice in line.split()]
    overrides += [f"backbone={tmp_path / 'lm'}", f"cache_dir={tmp_path / 'cache'}"]
    overrides += ["bazaar_users=500", "batch_users=8", "stages=[01_data_preparation,02_training]"]
    for instruct in (True, False):
        chosen = [*overrides, f"instruct={str(instruct).lower()}"]
        declared = recipes.declared_in(runner.NOTEBOOKS)
        recipe = recipes.load(ROOT / "params" / "smoke.yaml", declared, chosen, f"instruct-{instruct}")
        pretrained = runner.execute(recipe, runs=tmp_path / "runs", shared=True).parents[1]
        data = read_json(pretrained / "provenance.json")["stages"]["01_data_preparation"]
        assert data.get("copied_from") == (None if instruct else "instruct-True")
        log = read_table(pretrained / "training" / "log.parquet")
        assert log["step"].max() == 3 and log["loss"][1:].notna().all() and log["reward_untrue"][1:].le(0).all()
        saved = read_json(pretrained / "model" / "r2ec.json")
        assert saved["base"] == str(tmp_path / "lm") and saved["prompt_style"]["instruct"] is instruct
        assert saved["prompt_style"]["max_title_words"] == 6
    steps, state = pretrained / "training" / "start" / "log.parquet", pretrained / ".stages" / "02_training.json"
    taken, written = read_table(steps)["seconds"], pretrained / "training" / "written" / "job.json"
    when = written.stat().st_mtime_ns
    write_json(read_json(state) | {"finished": False}, state)  # as if it had been killed during RecPO
    shutil.rmtree(pretrained / "model")
    runner.execute(recipe, runs=tmp_path / "runs", shared=True)
    assert (pretrained / "model").is_dir()
    assert read_table(steps)["seconds"].equals(taken) and written.stat().st_mtime_ns == when  # both done once


@pytest.mark.slow
def test_a_real_language_model_goes_through_all_stages(tmp_path):
    """SmolLM2-135M from its Python package, on 200 shoppers: minutes, and a package index once."""
    run = through_all_stages(tmp_path, "smollm2-135m")
    for stage in ("data", "training", "evaluation", "reasoning", "oversight", "student", "try_it"):
        assert read_json(run / stage / "metrics.json")
    assert read_table(run / "evaluation" / "chains.parquet")["chain"].str.strip().ne("").mean() > 0.9
