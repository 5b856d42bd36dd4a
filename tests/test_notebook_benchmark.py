"""The benchmark's notebook at its smallest, on a tiny backbone and on what stands for a pretrained one."""

from pathlib import Path

import pytest
from families import family_lm, text_tokenizer

from r2ec_lib.data.storage import read_json
from r2ec_lib.workflow import recipes, runner

ROOT = Path(__file__).parents[1]
SMALLEST = [
    "repetitions=1 growth_repetitions=1 catalogue_items=64 hidden_size=32 batch_users=2 num_generations=2",
    "max_completion_length=6 history_length=3 prompt_tokens=24 ranked_items=5000 asked_batches=[1,2]",
    "max_item_words=8 plain_batch=8",
    "grown_items=[100,1000] grown_histories=[1,2] grown_generations=[1,2] grown_tokens=[2,4]",
]
"""A benchmark of a few seconds, which shows that everything is measured, not how fast it is."""


@pytest.mark.parametrize("name", ["benchmark", "benchmark_smollm2"])
def test_the_benchmark_needs_no_other_stage_and_measures_every_comparison(tmp_path, name):
    overrides = [choice for line in SMALLEST for choice in line.split()]
    if name != "benchmark":  # a random Llama in the place of the real model, and micro-batches
        tokenizer = text_tokenizer("byte-level")
        family_lm("Llama", vocab_size=len(tokenizer) + 3).save_pretrained(tmp_path / "lm")
        tokenizer.save_pretrained(tmp_path / "lm")
        overrides += [f"backbone={tmp_path / 'lm'}", "gradient_accumulation_steps=2"]
    recipe = recipes.load(ROOT / "params" / f"{name}.yaml", recipes.declared_in(runner.NOTEBOOKS), overrides)
    page = runner.execute(recipe, runs=tmp_path / "runs").parent / "07_benchmark.html"
    assert "Where the time goes" in page.read_text()
    results = read_json(page.parents[1] / "benchmark" / "metrics.json")
    names = [row["what"] for row in results["comparisons"]]
    assert {"RecPO step", "policy pass with gradients", "reward", "item encoding"} <= set(names)
    assert len(names) == len(set(names))
    for row in results["comparisons"]:
        assert 0 < row["low"] <= row["ratio"] <= row["high"] and row["seconds"] > 0
        assert row["met"] is (None if row["target"] is None else row["ratio"] <= row["target"])
        assert row.get("share", 0) >= 0 and row.get("floor", 1) > 0
    assert {phase["side"] for phase in results["phases"]} == {"RecPO", "TRL, constant reward"}
