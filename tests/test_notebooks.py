"""All notebooks, one after the other, on the smallest recipe: do they run, and is what they record possible?"""

from pathlib import Path

import pytest

from r2ec_lib import pipeline, recipes
from r2ec_lib.files import read_json

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Folder of a finished run of params/smoke.yaml, with caches of its own."""
    folder = tmp_path_factory.mktemp("smoke")
    overrides = [f"cache_dir={folder / 'cache'}"]
    recipe = recipes.load(ROOT / "params" / "smoke.yaml", recipes.declared_in(pipeline.NOTEBOOKS), overrides)
    return pipeline.execute(recipe, runs=folder / "runs").parents[1]


def test_every_stage_leaves_its_metrics_and_its_page(run):
    for stage in ("data", "training", "evaluation", "reasoning"):
        assert read_json(run / stage / "metrics.json")
    pages = {path.stem for path in (run / "report").glob("*.html")}
    assert pages == {"index", *(path.stem for path in (run / "notebooks").glob("*.ipynb"))}


def test_the_evaluation_records_what_the_report_needs(run):
    results = read_json(run / "evaluation" / "metrics.json")
    assert {"r2ec", "sasrec", "without_reasoning", "popularity"} <= set(results["models"])
    for values in results["models"].values():
        for family in ("hit", "ndcg"):
            scores = [values[f"{family}@{k}"] for k in (5, 10, 20)]
            assert 0 <= scores[0] <= scores[1] <= scores[2] <= 1
        assert all(values[f"ndcg@{k}"] <= values[f"hit@{k}"] for k in (5, 10, 20))
    assert results["comparisons"] and all(
        row["ci95"][0] <= row["difference"] <= row["ci95"][1] for row in results["comparisons"]
    )


def test_costs_and_versions_of_every_stage_are_on_record(run):
    facts = read_json(run / "provenance.json")
    assert set(facts["stages"]) == {path.stem for path in (run / "notebooks").glob("*.ipynb")}
    assert all(cost["seconds"] > 0 and cost["peak_memory_gb"] > 0 for cost in facts["stages"].values())


def test_pages_of_a_real_run_hold_no_script_and_load_nothing(run):
    for path in (run / "report").glob("*.html"):
        html = path.read_text()
        assert "<script" not in html and "<link" not in html and "@import" not in html
        assert html.count('src="') == html.count('src="data:image/')
