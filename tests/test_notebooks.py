"""A run of the smallest recipe: do its notebooks run one after the other, and is what they record possible?"""

import io
import math
import shutil
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
import yaml

from r2ec_lib.data.storage import read_json, read_table, write_json, write_table
from r2ec_lib.model import R2ec
from r2ec_lib.serving.student import Student
from r2ec_lib.workflow import kernels, recipes, runner

ROOT = Path(__file__).parents[1]


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
        (["source=amazon"], "data_dir is empty"),
        (["source=amazon", "data_dir=gone", "category=Pens"], "gone/Pens.csv.gz: no such file"),
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


def test_r2ec_with_its_own_reasonings_ranks_in_the_exchange_as_without_its_term(run):
    rows = read_json(run / "evaluation" / "metrics.json")["exchanged"]
    assert [row["reader"] for row in rows] == ["r2ec", "r2ec", "item_term_only", "item_term_only"]
    assert all(row["difference"] == pytest.approx(row["r2ec"] - row["item_term_only"]) for row in rows)
    ranks = read_table(run / "evaluation" / "exchanged.parquet").groupby("model")["rank"].agg(list)
    race = read_table(run / "evaluation" / "rankings.parquet").groupby("model")["rank"].agg(list)
    assert ranks["r2ec reads r2ec"] == race["r2ec_texts"]
    assert ranks["r2ec reads item_term_only"] != race["r2ec_texts"]


def test_what_the_texts_speak_of_is_held_against_those_of_the_control(run):
    rows = {row["facet"]: row for row in read_json(run / "reasoning" / "metrics.json")["rewarded"]}
    chains = {"r2ec": read_table(run / "evaluation" / "chains.parquet")}
    chains["item_term_only"] = read_table(run / "evaluation" / "control_chains.parquet")
    assert chains["r2ec"]["sample_id"].tolist() == chains["item_term_only"]["sample_id"].tolist()
    for name, table in chains.items():
        assert rows["tokens"][name] == pytest.approx(table["tokens"].mean())


def test_every_figure_of_the_evaluation_is_recomputed_from_its_rankings_in_plain_python(run):
    results = read_json(run / "evaluation" / "metrics.json")
    rows = read_table(run / "evaluation" / "rankings.parquet").to_dict("records")
    ranks = defaultdict(dict)
    for row in rows:
        assert row["sample_id"] not in ranks[row["model"]]
        assert 1 <= row["rank"] <= results["counts"]["items"]
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
        {"term_alone", "without_reasoning", "without_reasoning_long", "item_term_only", "untrained_reasoning"}
        & set(ranks)
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
    assert "with the new item" in results["overlap"] and 0 <= results["new_item_on_lists"] <= 1
    assert results["overlap"]["under the rule"] < 1 and results["changed"] != results["reasoning"]
    assert len(read_table(run / "model" / "catalogue.parquet")) == len(read_table(run / "data" / "items.parquet"))


def test_a_person_changes_parameters_of_what_is_tried_on_a_finished_run_whose_results_stay(run, tmp_path):
    """Otherwise `r2ec run` would find an output of another size, and run the stage again."""
    kept = [run / "recipe.yaml", run / "try_it" / "metrics.json"]
    before, page = [path.read_bytes() for path in kept], tmp_path / "08.ipynb"
    tried = {"run_dir": str(run), "list_length": 3, "taken_away": 0, "barred_word": "😀"}
    kernels.run_notebook(runner.NOTEBOOKS / "08_try_it.ipynb", page, tried, io.StringIO())
    assert "taken_away is 0: none of the" in page.read_text() and [path.read_bytes() for path in kept] == before


def test_a_model_whose_item_vectors_were_learned_is_tried_without_a_new_item(run, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    shutil.rmtree(alone / "try_it")
    r2ec = R2ec.load(run / "model")
    r2ec.head.learned = True
    r2ec.save(alone / "model")
    page, tried = tmp_path / "08.ipynb", {"run_dir": str(alone)}
    kernels.run_notebook(runner.NOTEBOOKS / "08_try_it.ipynb", page, tried, io.StringIO())
    results = read_json(alone / "try_it" / "metrics.json")
    assert results["new_item_on_lists"] is None and "with the new item" not in results["overlap"]
    assert "so no text gives a new item one" in page.read_text()


def test_what_depends_on_the_length_of_lists_is_given_for_the_recommended_alone(run):
    rows = {row["facet"]: row for row in read_json(run / "oversight" / "metrics.json")["exposure"]}
    assert list(rows) == ["recommended", "mentioned", "bought next"] and rows["bought next"]["lift"] is not None
    for figure in ("gini", "coverage", "calibration"):
        assert [name for name, row in rows.items() if row[figure] is not None] == ["recommended"]


def test_a_segment_is_examined_on_all_test_questions_where_a_backbone_was_trained_without_reasoning(run):
    rankings = read_table(run / "evaluation" / "rankings.parquet")
    histories = read_table(run / "data" / "samples.parquet").set_index("sample_id")["history"].map(len)
    inside = rankings[rankings["sample_id"].map(histories) < 4]
    rows = read_json(run / "oversight" / "metrics.json")["segment"]
    assert {row["samples"] for row in rows} == {inside["sample_id"].nunique()}
    hits = inside.assign(hit=inside["rank"] <= 10).groupby("model")["hit"].mean()
    values = {row["ranked"]: row["value"] for row in rows if row["metric"] == "hit@10"}
    assert values["with reasoning"] == pytest.approx(hits["r2ec"])
    assert values["without reasoning"] == pytest.approx(hits["without_reasoning_long"])


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
    cells = read_json(page.parents[1] / "notebooks" / "11_ablations.ipynb")["cells"]
    shown = [cell.get("outputs", cell["source"]) for cell in cells]
    assert "bazaar_needs" not in str(shown)  # nor is anything else explained that no row has
    results = read_json(page.parents[1] / "ablations" / "metrics.json")
    assert results["costs"][0]["seeds"] == 1
    assert [(one["key"], [row["row"] for row in one["rows"]]) for one in results["growth"]] == [
        ("max_steps", ["full", "other"])
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("study_base", "study_base is 'oen'; expected one of one, two"),
        ("study_model", "study_model is 'oen'; expected one of r2ec"),
    ],
)
def test_a_study_names_what_there_is_where_its_base_or_its_model_is_mistyped(tmp_path, key, message):
    for seed, (name, models) in enumerate({"one": ["r2ec", "sasrec"], "two": ["r2ec"]}.items()):
        rows = pd.DataFrame({"model": models, "sample_id": 0, "user_id": "u", "target": 0, "rank": 1})
        write_table(rows, tmp_path / name / "evaluation" / "rankings.parquet")
        (tmp_path / name / "recipe.yaml").write_text(f"# 01_data_preparation\nseed: {seed}")
    values = {"run_dir": str(tmp_path / "study"), "study_runs": ["one", "two"], key: "oen"}
    with pytest.raises(kernels.RunError, match=f"{message}\\."):
        kernels.run_notebook(runner.NOTEBOOKS / "06_study.ipynb", tmp_path / "06.ipynb", values, io.StringIO())


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


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"start": "2024-13-45"}, "start is '2024-13-45'"),
        ({"bazaar_noise": 3.0}, "noise"),
        ({"source": "log"}, "source is 'log'; expected"),
    ],
)
def test_a_window_a_market_or_a_source_that_cannot_be_is_refused_before_any_long_work(values, told):
    with pytest.raises(kernels.RunError, match=told):
        kernels.check_settings(runner.NOTEBOOKS / "01_data_preparation.ipynb", values)


@pytest.mark.parametrize(
    ("stage", "values", "named"),
    [
        ("02_training", {"backbone": "none.gguf"}, "none.gguf: no such file"),
        ("07_benchmark", {"backbone": "none.gguf"}, "none.gguf: no such file"),
        ("07_benchmark", {"texts_dir": "none"}, "none/product.csv.gz: no such file"),
    ],
)
def test_a_notebook_by_itself_takes_relative_paths_from_the_project_s_folder(tmp_path, stage, values, named):
    rows = pd.DataFrame({"item_id": ["a"], "title": ["A"], "split": ["train"], "history": [[0]]})
    for name in ("items", "samples"):
        write_table(rows, tmp_path / "data" / f"{name}.parquet")
    write_json({}, tmp_path / "data" / "metrics.json")
    values, page = values | {"run_dir": str(tmp_path)}, tmp_path / "page.ipynb"
    with pytest.raises(kernels.RunError, match=f"{ROOT}/{named}"):
        kernels.run_notebook(runner.NOTEBOOKS / f"{stage}.ipynb", page, values, io.StringIO())
