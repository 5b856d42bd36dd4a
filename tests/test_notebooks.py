"""All notebooks, one after the other, on the smallest recipe: do they run, and is what they record possible?"""

import io
import math
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from families import family_lm, text_tokenizer

from r2ec_lib.data.storage import read_json, read_table, write_json
from r2ec_lib.serving.student import Student
from r2ec_lib.workflow import kernels, recipes, runner

ROOT = Path(__file__).parents[1]
SMALLEST = [
    "repetitions=1 growth_repetitions=1 catalogue_items=64 hidden_size=32 batch_users=2 num_generations=2",
    "max_completion_length=6 history_length=3 prompt_tokens=24 ranked_items=5000 asked_batches=[1,2]",
    "grown_items=[100,1000] grown_histories=[1,2] grown_generations=[1,2] grown_tokens=[2,4]",
]
"""A benchmark of a few seconds, which shows that everything is measured, not how fast it is."""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Folder of a finished run of params/smoke.yaml, with caches of its own."""
    folder = tmp_path_factory.mktemp("smoke")
    overrides = [f"cache_dir={folder / 'cache'}"]
    recipe = recipes.load(ROOT / "params" / "smoke.yaml", recipes.declared_in(runner.NOTEBOOKS), overrides)
    return runner.execute(recipe, runs=folder / "runs").parents[1]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["source=logs"], "The path of a file is empty"),
        (["source=logs", "interactions_path=log.csv", "items_path=items.csv"], "items.csv: no column 'title'"),
        (["source=log"], "source is 'log'; expected"),
    ],
)
def test_a_check_of_a_recipe_refuses_what_the_data_stage_would_refuse(tmp_path, monkeypatch, chosen, message):
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text("user_id,item_id,timestamp\na,p,2020-01-01\n")
    Path("items.csv").write_text("item_id,name\np,Pen\n")
    chosen = [*chosen, "stages=[01_data_preparation]"]
    recipe = recipes.load(ROOT / "params" / "smoke.yaml", recipes.declared_in(runner.NOTEBOOKS), chosen)
    with pytest.raises(recipes.RecipeError, match=rf"^01_data_preparation\.ipynb: .*{message}"):
        runner.check(recipe, tmp_path / "runs")


def test_every_stage_leaves_its_metrics_and_its_page(run):
    for stage in ("data", "training", "evaluation", "reasoning", "oversight", "student", "try_it"):
        assert read_json(run / stage / "metrics.json")
    pages = {path.stem for path in (run / "report").glob("*.html")}
    assert pages == {"index", *(path.stem for path in (run / "notebooks").glob("*.ipynb"))}


def test_the_evaluation_records_what_the_report_needs(run):
    results = read_json(run / "evaluation" / "metrics.json")
    assert {"r2ec", "sasrec", "without_reasoning", "popularity"} <= set(results["models"])
    assert results["counts"]["test_samples"] == 60  # of more, as the recipe says
    assert read_json(run / "data" / "metrics.json")["counts"]["test"] > 60
    for values in results["models"].values():
        for family in ("hit", "ndcg"):
            scores = [values[f"{family}@{k}"] for k in (5, 10, 20)]
            assert 0 <= scores[0] <= scores[1] <= scores[2] <= 1
        assert all(values[f"ndcg@{k}"] <= values[f"hit@{k}"] for k in (5, 10, 20))
    assert results["comparisons"] and all(
        row["ci95"][0] <= row["difference"] <= row["ci95"][1] for row in results["comparisons"]
    )


def test_every_figure_of_the_evaluation_is_recomputed_from_its_rankings_in_plain_python(run):
    results = read_json(run / "evaluation" / "metrics.json")
    rows = read_table(run / "evaluation" / "rankings.parquet").to_dict("records")
    ranks = defaultdict(dict)
    for row in rows:
        assert row["sample_id"] not in ranks[row["model"]]
        assert 1 <= row["rank"] <= row["candidates"]
        ranks[row["model"]][row["sample_id"]] = row["rank"]
    user_of = {row["sample_id"]: row["user_id"] for row in rows}
    assert set(ranks) == set(results["models"])
    assert len(user_of) == results["counts"]["test_samples"]
    assert len(set(user_of.values())) == results["counts"]["test_users"]

    def value(rank, metric):
        name, k = metric.split("@")
        return (1 if name == "hit" else 1 / math.log2(rank + 1)) if rank <= int(k) else 0

    for model, figures in results["models"].items():
        for metric, figure in figures.items():
            total = sum(value(rank, metric) for rank in ranks[model].values())
            assert figure == pytest.approx(total / len(user_of), abs=1e-12), (model, metric)

    for row in results["comparisons"]:
        gaps = {
            sample: value(ranks[row["a"]][sample], row["metric"]) - value(ranks[row["b"]][sample], row["metric"])
            for sample in user_of
        }
        mean = sum(gaps.values()) / len(gaps)
        base = sum(value(rank, row["metric"]) for rank in ranks[row["b"]].values()) / len(gaps)
        assert row["difference"] == pytest.approx(mean, abs=1e-12)
        assert row["relative"] is None if base == 0 else row["relative"] == pytest.approx(mean / base)
        by_user = defaultdict(float)  # the samples of one shopper are one draw
        for sample, gap in gaps.items():
            by_user[user_of[sample]] += gap - mean
        error = math.sqrt(sum(total**2 for total in by_user.values())) / len(gaps)
        assert row["smallest_detectable"] == pytest.approx((1.959964 + 0.841621) * error, rel=0.2, abs=1e-9)
        low, high = row["ci95"]
        assert high - low == pytest.approx(2 * 1.959964 * error, rel=0.35, abs=1e-9)
    assert {(row["a"], row["b"], row["metric"]) for row in results["comparisons"]} == {
        ("r2ec", b, metric)
        for b in set(ranks) - {"r2ec", "corrected_reasoning", "trained_on_true_reasoning", "oracle"}
        for metric in ("hit@5", "ndcg@20")
    }
    pending = sorted(results["comparisons"], key=lambda row: row["p"])
    corrected = 0.0
    for place, row in enumerate(pending):
        corrected = min(1.0, max(corrected, row["p"] * (len(pending) - place)))
        assert row["p_holm"] == pytest.approx(corrected)

    counting = {"popularity", "recent_popularity", "item_neighbours", "text_similarity"}
    for row in results["claims"]:
        opponents = counting | {"gru4rec", "caser", "sasrec"} if row["b"] == "best_baseline" else {row["b"]}
        reached = [
            sum(value(rank, row["metric"]) for rank in ranks[model].values()) / len(user_of)
            for model in (row["a"], *opponents)
        ]
        best = max(reached[1:])
        assert row["relative"] is None if best == 0 else row["relative"] == pytest.approx(reached[0] / best - 1)
        low, high = row["relative_ci95"]
        assert low is None or low <= row["relative"] <= high or row["b"] == "best_baseline"
    claimed = {row["b"] for row in results["claims"]}
    assert claimed == {"best_baseline", "corrected_reasoning", "trained_on_true_reasoning", "oracle"} | (
        {"without_reasoning", "without_reasoning_long", "item_term_only"} & set(ranks)
    )


def test_students_are_measured_beside_their_teacher_and_one_is_kept(run):
    results = read_json(run / "student" / "metrics.json")
    assert {"r2ec", "r2ec_0", "r2ec_4", "student_1", "student_1_labels", "student_backbone"} == set(results["models"])
    assert results["models"]["r2ec"] == read_json(run / "evaluation" / "metrics.json")["models"]["r2ec"]
    assert results["chosen"] == "student_1" and Student.load(run / "model" / "student").sizes["layers"] == 1
    assert {(row["a"], row["b"]) for row in results["comparisons"]} >= {
        ("student_1", "r2ec"),
        ("student_backbone", "r2ec"),
    }
    assert all(row["seconds_batch_1"] > 0 and row["stored_mb"] > 0 for row in results["costs"])
    samples = read_table(run / "data" / "samples.parquet")
    assert results["histories"] > (samples["split"] == "train").sum()  # unlabelled ones count, too


def test_a_run_without_students_measures_the_teacher_alone(run, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    shutil.rmtree(alone / "student")
    chosen = yaml.safe_load((alone / "recipe.yaml").read_text())
    chosen |= {"student_epochs": 0, "teacher_lengths": [0, 4, chosen["max_completion_length"]]}
    (alone / "recipe.yaml").write_text(yaml.safe_dump(chosen))
    stage = "09_student.ipynb"
    declared = recipes.declared(runner.NOTEBOOKS / stage)
    values = {key: value for key, value in chosen.items() if key in declared} | {"run_dir": str(alone)}
    kernels.run_notebook(runner.NOTEBOOKS / stage, tmp_path / stage, values, io.StringIO())
    assert set(read_json(alone / "student" / "metrics.json")["models"]) == {"r2ec", "r2ec_0", "r2ec_4"}
    assert "the teacher's gain" not in str([cell.get("outputs") for cell in read_json(tmp_path / stage)["cells"]])


def test_what_is_tried_changes_lists_and_leaves_the_model_as_it_was(run):
    results = read_json(run / "try_it" / "metrics.json")
    assert results["overlap"]["as it was"] == 1 and {"student", "under the rule"} <= set(results["overlap"])
    assert results["overlap"]["under the rule"] < 1 and results["changed"] != results["reasoning"]
    assert len(read_table(run / "model" / "catalogue.parquet")) == len(read_table(run / "data" / "items.parquet"))


def test_a_person_changes_parameters_of_what_is_tried_on_a_finished_run(run, tmp_path):
    recipe = (run / "recipe.yaml").read_text()
    tried = {"run_dir": str(run), "list_length": 3, "taken_away": 0}
    kernels.run_notebook(runner.NOTEBOOKS / "08_try_it.ipynb", tmp_path / "08.ipynb", tried, io.StringIO())
    overlap = read_json(run / "try_it" / "metrics.json")["overlap"]
    assert overlap["as it was"] == 1 and "one purchase less" not in overlap
    assert (run / "recipe.yaml").read_text() == recipe


def test_what_depends_on_the_length_of_lists_is_given_for_the_recommended_alone(run):
    rows = {row["facet"]: row for row in read_json(run / "oversight" / "metrics.json")["exposure"]}
    assert list(rows) == ["recommended", "mentioned", "bought next"] and rows["bought next"]["lift"] is not None
    for figure in ("gini", "coverage", "calibration"):
        assert [name for name, row in rows.items() if row[figure] is not None] == ["recommended"]


def test_rows_of_a_study_are_ranked_as_in_the_evaluation_and_compared_on_their_page(run, tmp_path):
    """Data and training of the row are those of the run above, and copied from there."""
    smoke = ROOT / "params" / "smoke.yaml"
    rows = "rows: [{name: full}, {name: other, grows: max_steps, set: {max_steps: 3}}]"
    (tmp_path / "study.yaml").write_text(f"name: rows\nbase: {smoke}\nseeds: [0]\n{rows}\n")
    stages = "stages=[01_data_preparation,02_training,10_variant]"
    recipe = recipes.load(smoke, recipes.declared_in(runner.NOTEBOOKS), [stages], "rows-full-seed0")
    runner.execute(recipe, runs=run.parent, shared=True)
    copied = read_json(run.parent / "rows-full-seed0" / "provenance.json")["stages"]
    assert [stage for stage, cost in copied.items() if "copied_from" not in cost] == ["10_variant"]
    shutil.copytree(run.parent / "rows-full-seed0", run.parent / "rows-other-seed0")
    values = {"study_path": str(tmp_path / "study.yaml"), "study_runs": ["rows-full-seed0", "rows-other-seed0"]}
    page = runner.execute(recipes.Recipe("rows", values, ["11_ablations"]), runs=run.parent)
    rows = read_json(page.parents[1] / "ablations" / "metrics.json")["rows"]
    whole = read_json(run / "evaluation" / "metrics.json")["models"]["r2ec"]
    assert [row["mean"] for row in rows if row["measure"] == "hit@5"] == pytest.approx([whole["hit@5"]] * 2)
    others = {row["measure"]: row["difference"] for row in rows if row["row"] == "other"}
    assert others.pop("learning", None) is None  # it needs two seeds
    assert list(others.values()) == [0, 0, 0]
    results = read_json(page.parents[1] / "ablations" / "metrics.json")
    assert results["costs"][0]["seeds"] == 1
    assert [(one["key"], [row["row"] for row in one["rows"]]) for one in results["growth"]] == [
        ("max_steps", ["full", "other"])
    ]


def test_costs_and_versions_of_every_stage_are_on_record(run):
    facts = read_json(run / "provenance.json")
    assert set(facts["stages"]) == {path.stem for path in (run / "notebooks").glob("*.ipynb")}
    assert all(cost["seconds"] > 0 and cost["peak_memory_gb"] > 0 for cost in facts["stages"].values())


def test_pages_of_a_real_run_hold_no_script_and_load_nothing(run):
    for path in (run / "report").glob("*.html"):
        html = path.read_text()
        assert "<script" not in html and "<link" not in html and "@import" not in html
        assert html.count('src="') == html.count('src="data:image/')


def test_a_segment_of_an_unknown_feature_is_refused_before_any_long_work():
    with pytest.raises(kernels.RunError, match=r"unknown column.*expected one of .*history_length"):
        kernels.check_settings(runner.NOTEBOOKS / "05_oversight.ipynb", {"segment_rule": 'Warengruppe == "Baby"'})


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


def test_a_pretrained_model_is_trained_with_and_without_its_chat_template(run, tmp_path):
    """A random Llama with a byte-level tokenizer and a chat template stands for it; `<answer>` is text to both. The
    data are those of the run above, and copied from there."""
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
        recipe = recipes.load(ROOT / "params" / "smoke.yaml", declared, chosen, "pretrained")
        pretrained = runner.execute(recipe, runs=run.parent, shared=True).parents[1]
        assert "copied_from" in read_json(pretrained / "provenance.json")["stages"]["01_data_preparation"]
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
    runner.execute(recipe, runs=run.parent, shared=True)
    assert (pretrained / "model").is_dir()
    assert read_table(steps)["seconds"].equals(taken) and written.stat().st_mtime_ns == when  # both done once


@pytest.mark.slow
def test_a_real_language_model_goes_through_all_stages(tmp_path):
    """SmolLM2-135M from its Python package, on 200 shoppers: minutes, and a package index once."""
    run = through_all_stages(tmp_path, "smollm2-135m")
    for stage in ("data", "training", "evaluation", "reasoning", "oversight", "student", "try_it"):
        assert read_json(run / stage / "metrics.json")
    assert read_table(run / "evaluation" / "chains.parquet")["chain"].str.strip().ne("").mean() > 0.9
