"""What the report shows, and what it never holds."""

import json
import re

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from r2ec_lib.data import storage
from r2ec_lib.data.schema import DataError
from r2ec_lib.workflow import report
from r2ec_lib.workflow.folder import RunFolder

FACTS = {"stages": {}, "versions": {}, "gpu": [], "commit": "", "uncommitted_changes": None, "seed": 0}
FACTS |= {"started": "2024-01-01", "cpu": "x", "cores": 2, "memory_gb": 1.0, "python": "3.11"}


@pytest.fixture
def page(tmp_path):
    """HTML of one report page with everything that a notebook can hold."""
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    hostile = '<script>alert(1)</script><img src="x" onerror="alert(1)"><iframe src="http://x.y"></iframe>'
    outputs = [
        new_output("stream", name="stdout", text="step 1\rstep 2\rstep 3\nplain <b>text</b>\n"),
        new_output("stream", name="stderr", text="  0%|          | 0/10 progress noise"),
        new_output("stream", name="stdout", text="and on\n"),
        new_output("display_data", {"text/html": hostile, "text/plain": "no"}),
        new_output("display_data", {"image/png": picture, "text/plain": "<Figure>"}),
        new_output("display_data", {"application/javascript": "alert(2)"}),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "widget noise"}),
    ]
    text = (
        "# Why *think*?\nInline $r_{i,t} < 1$ and\n\n$$\\frac{1}{G}\\sum_i A_i$$\n\n## Twice\n\n## Twice\n\n"
        "<script>alert(4)</script>\n\n![elsewhere](http://x.y/z.png) [bad](javascript:alert(5)) [paper](https://arxiv.org/)"
    )
    cells = [new_markdown_cell(text), new_code_cell("x = 'a<b'", outputs=outputs, metadata={"tags": ["overview"]})]
    cells += [new_markdown_cell("*How to read it.* Higher is $y$."), new_markdown_cell("And of the table above:")]
    run = tmp_path / "runs" / "toy"
    storage.write_text(nbformat.writes(new_notebook(cells=cells)), run / "notebooks" / "01_first.ipynb")
    storage.write_text("name: toy\n", run / "recipe.yaml")
    facts = {"stages": {"01_first": {"seconds": 3.0, "peak_memory_gb": 0.1}}, "commit": None, "seed": 0, "gpu": []}
    facts |= {"versions": {"torch": "2"}, "python": "3", "cpu": "c", "cores": 2, "memory_gb": 8.0, "started": "now"}
    storage.write_text(json.dumps({**facts, "uncommitted_changes": None}), run / "provenance.json")
    scores = {"r2ec": {"hit@5": 0.2, "ndcg@20": 0.1}, "<b>x</b>": {"hit@5": 0.1, "ndcg@20": 0.15}}
    scores["oracle"] = {"hit@5": 0.9, "ndcg@20": 0.9}  # knows the truth, so it is none of the best
    results = {"models": scores, "counts": {"items": 1234}}
    storage.write_text(json.dumps(results), run / "evaluation" / "metrics.json")
    index = report.render(RunFolder(run))
    return index.with_name("01_first.html").read_text(), index.read_text()


def test_pages_hold_no_script_and_load_nothing(page):
    for html in page:
        assert not re.search(r"<script|<link|<iframe|@import|url\((?!#)|\son\w+=|javascript:", html, re.IGNORECASE)
        assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))
        assert "default-src 'none'" in html and '<html lang="en">' in html and 'name="viewport"' in html


def test_pages_stand_in_the_order_in_which_their_stages_run(tmp_path):
    run = RunFolder(tmp_path / "toy")
    for stage in ("08_try_it", "09_student", "03_evaluation"):
        storage.write_text(nbformat.writes(new_notebook(cells=[new_markdown_cell(f"# {stage}")])), run.notebook(stage))
    storage.write_text(json.dumps(FACTS), run.provenance)
    storage.write_text("name: toy\n", run.recipe)
    pages = re.findall(r'<li><a href="(\w+)\.html">', report.render(run).read_text())
    assert pages == 2 * ["03_evaluation", "09_student", "08_try_it"]  # the student is what is tried


def test_mathematics_becomes_mathml(page):
    assert '<math display="inline">' in page[0] and '<math display="block">' in page[0] and "<mfrac>" in page[0]
    assert "$" not in re.sub(r"<style>.*?</style>", "", page[0], flags=re.DOTALL)


def test_progress_is_shown_in_its_last_state_and_noise_not_at_all(page):
    assert "step 3\nplain &lt;b&gt;text&lt;/b&gt;\nand on" in page[0] and "step 2" not in page[0]
    assert "noise" not in page[0]


def test_links_to_papers_stay_and_pictures_from_elsewhere_become_their_text(page):
    assert '<a href="https://arxiv.org/">paper</a>' in page[0] and "<em>elsewhere</em>" in page[0]
    assert "&lt;script&gt;alert(4)" in page[0]


def test_code_is_folded_and_present_headings_are_anchors_and_plots_have_a_text(page):
    assert '<details class="code">' in page[0] and "a&lt;b" in page[0]
    assert '<li><a href="#twice-2">Twice</a></li>' in page[0] and '<li><a href="#why' not in page[0]
    assert 'id="twice"' in page[0] and 'id="twice-2"' in page[0] and 'href="#twice-2"' in page[0]
    assert '<img alt="Plot: Twice" src="data:image/png;base64,' in page[0]
    assert "<title>Why *think*? · toy</title>" in page[0] or "<title>Why think? · toy</title>" in page[0]


def test_the_index_holds_the_results_and_escapes_what_is_foreign(page):
    index = page[1]
    assert '<td class="best">0.2000</td>' in index and '<td class="best">0.1500</td>' in index
    assert "1,234" in index and "NDCG@20" in index
    assert "<b>x</b>" not in index and "&lt;b&gt;x&lt;/b&gt;" in index
    assert '<a rel="next" href="01_first.html">' in index
    assert '<a href="index.html" rel="prev">' in page[0]


def test_the_index_shows_the_figures_of_tagged_cells_and_says_where_they_are_from(page):
    assert page[1].count('<img alt="Plot: Twice" src="data:image/png;base64,') == 1
    assert "<em>How to read it.</em> Higher is <math" in page[1] and "of the table above" not in page[1]
    assert 'From the page <a href="01_first.html">Why *think*?</a>' in page[1]


def test_the_index_of_a_study_shows_its_margins_and_leads_to_its_runs(tmp_path):
    run, claim = tmp_path / "seeds", {"a": "r2ec", "b": "best_baseline", "metric": "hit@5", "share": False}
    claim |= {"difference": 0.1, "ci95": [0.05, 0.15], "relative": 0.5, "collapsed": False}
    results = {"runs": {"one": "steps 5", "two": "steps 9"}}
    results["claims"] = [claim | {"relative_ci95": [0.25, 0.75], "variant": v} for v in ("steps 5", "steps 9")]
    storage.write_json(results, run / "study" / "metrics.json")
    storage.write_text("", run / "recipe.yaml")
    storage.write_text("", tmp_path / "one" / "report" / "index.html")
    (run / "report").mkdir()
    shown = {"title": "seeds", "run": "seeds", "file": "index.html", "links": [], "before": None, "after": None}
    html = report.overview(RunFolder(run), shown, FACTS)
    assert html.count("+50% (+25% to +75%)") == 2 and "against best baseline" in html
    assert "cannot be told from" not in html  # no word of a metric that is not there
    assert "+68.67%" in html and "copied" in html
    assert "no other baseline" in html and "for variants of several runs, over seeds" in html
    assert '<a href="../../one/report/index.html">one</a>' in html and 'report/index.html">two' not in html


def test_the_headline_names_its_model_and_speaks_of_the_best_baseline_only_where_it_is_an_opponent(tmp_path):
    run, claim = RunFolder(tmp_path), {"a": "sasrec", "b": "popularity", "metric": "hit@5", "share": False}
    claim |= {
        "difference": 0.1,
        "ci95": [0.05, 0.15],
        "relative": 0.5,
        "relative_ci95": [0.2, 0.7],
        "collapsed": False,
    }
    storage.write_json({"claims": [claim]}, run.metrics("study"))
    storage.write_text("", run.recipe)
    shown = {"title": "", "run": "", "file": "index.html", "links": [], "before": None, "after": None}
    html = report.overview(run, shown, FACTS)
    assert '<th scope="col">SASRec</th>' in html and "no other baseline" not in html


@pytest.mark.parametrize("stage", ["03_evaluation", "10_variant"])
def test_the_index_leads_to_the_intervals_where_a_page_has_them(stage, tmp_path):
    run = RunFolder(tmp_path)
    storage.write_text("", run.recipe)
    storage.write_json(FACTS, run.provenance)
    storage.write_json({"models": {"r2ec": {"hit@5": 0.2}}}, run.metrics("evaluation"))
    storage.write_text(nbformat.writes(new_notebook(cells=[new_markdown_cell("# A")])), run.notebook(stage))
    assert ("has the intervals" in report.render(run).read_text()) == (stage == "03_evaluation")


def test_a_page_leaves_out_what_concerns_other_runs(tmp_path):
    run = RunFolder(tmp_path / "shop")
    tags = {"tags": ["only:source=bazaar"]}
    marker = new_markdown_cell("Papermill's own words", metadata={"tags": ["papermill-error-cell-tag"]})
    cells = [new_markdown_cell("# Data"), new_markdown_cell("## A made-up market", metadata=tags), marker]
    storage.write_text(nbformat.writes(new_notebook(cells=cells)), run.notebook("01_first"))
    storage.write_text("source: logs\n", run.recipe)
    storage.write_json(FACTS, run.provenance)
    page = report.render(run).with_name("01_first.html").read_text()
    assert "Data" in page and "made-up" not in page and "own words" not in page
    storage.write_text("source: bazaar\n", run.recipe)
    assert "made-up" in report.render(run).with_name("01_first.html").read_text()


def test_facts_sum_up_the_stages_and_say_what_was_not_committed():
    cost = {name: {"seconds": seconds, "peak_memory_gb": gb} for name, seconds, gb in (("a", 90, 2), ("b", 8, 3))}
    facts = FACTS | {"stages": cost, "commit": "0123456789abcdef", "uncommitted_changes": True, "seed": 5}
    told = dict(report._facts(facts, {"train_samples": 12345, "kind": "toy", "list": []}, {}))
    assert told["duration"] == "98 s" and told["peak memory"] == "3.0 GB" and told["seed"] == "5"
    assert told["code"] == "0123456789ab with uncommitted changes" and told["train samples"] == "12,345"
    assert told["kind"] == "toy" and "list" not in told
    assert dict(report._facts(facts | {"uncommitted_changes": False}, {}, {}))["code"] == "0123456789ab"
    cost["a"]["seconds"] = 592
    assert dict(report._facts(facts, {}, {}))["duration"] == "10 min"


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"source": "bazaar", "category": "product", "backbone": "tiny"}, ["the Bazaar, a generated market", "tiny"]),
        ({"source": "amazon", "category": "CDs_and_Vinyl"}, ["Amazon Reviews 2023, CDs and Vinyl"]),
        ({"source": "logs", "category": "movie", "backbone": "a/b"}, ["own logs, movie", "a/b"]),
        ({"backbone": "/home/me/models/small.gguf"}, ["small.gguf"]),
        ({"study_runs": ["one"]}, []),
    ],
)
def test_facts_begin_with_the_data_and_the_backbone_of_the_recipe(recipe, told):
    assert [value for name, value in report._facts(FACTS, {}, recipe) if name in ("data", "backbone")] == told


def test_the_facts_escape_what_is_foreign(tmp_path):
    run = RunFolder(tmp_path)
    storage.write_text('{source: logs, category: "<b>books</b>"}', run.recipe)
    shown = {"title": "", "run": "", "file": "index.html", "links": [], "before": None, "after": None}
    html = report.overview(run, shown, FACTS)
    assert "own logs, &lt;b&gt;books" in html and "<b>" not in html


def noted(path, recipe, source="logs", training=None):
    """The notes of a run in `path` of this recipe, which has finished its data and, if there are any, its training."""
    run = RunFolder(path)
    storage.write_text(json.dumps(recipe), run.recipe)
    storage.write_json({"source": source}, run.metrics("data"))
    if training:
        storage.write_json(training, run.metrics("training"))
    return report._shared_notes(run)


def test_the_index_says_in_words_what_the_intervals_say_and_what_the_data_lack(tmp_path):
    claim = {"a": "r2ec", "metric": "ndcg@20", "difference": 0.0, "relative": 0.0, "relative_ci95": [0.0, 0.0]}
    claim |= {"collapsed": False, "share": False}
    claims = [claim | {"b": b, "ci95": [low, low + 0.2]} for b, low in [("sasrec", 0.1), ("ease", -0.1)]]
    storage.write_json({"claims": claims}, RunFolder(tmp_path).metrics("evaluation"))
    storage.write_json({"notes": ["Every rating is <5>."]}, RunFolder(tmp_path).metrics("data"))
    storage.write_text("", RunFolder(tmp_path).recipe)
    shown = {"title": "", "run": "", "file": "index.html", "links": [], "before": None, "after": None}
    html = report.overview(RunFolder(tmp_path), shown, FACTS)
    assert "<p>In NDCG@20, R²ec is ahead of: SASRec. It cannot be told from: EASE. This is one" in html
    assert "The next purchase is among" not in html  # nobody's figures are there
    assert '<p class="note">Every rating is &lt;5&gt;.</p>' in html


def test_a_reader_is_told_what_is_generated_and_how_small_the_model_is(tmp_path):
    market, size = noted(tmp_path, {}, "bazaar", {"backbone": "tiny", "parameters": 2_340_000})
    assert "generated" in market and "2.3 million parameters" in size
    assert "general rules" in size
    assert "general rules" not in noted(tmp_path, {}, training={"backbone": "tiny", "parameters": 1})[0]
    assert noted(tmp_path, {}, training={"backbone": "some/model"}) == []


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"collaborative": True}, ["collaborative term"]),
        ({"untrue_price": 0.1}, ["cost a reasoning part of its reward"]),
        ({"lora_r": 4, "writing_steps": 9, "untrue_price": 0.1}, ["taught to write", "cost a reasoning"]),
        ({"lora_r": 4, "item_steps": 9}, ["taught to write"]),
        ({"lora_r": 0, "item_steps": 9}, []),
        ({"backbone": "tiny", "warmup_lm_steps": 9, "warmup_documents": 9}, ["taught to write"]),
        ({"backbone": "tiny", "warmup_lm_steps": 9, "warmup_documents": 0}, []),
        ({"backbone": "some/model", "lora_r": 4, "warmup_lm_steps": 9, "warmup_documents": 9}, []),
        ({"collaborative": False, "untrue_price": 0.0, "writing_steps": 0, "item_steps": 0}, []),
    ],
)
def test_a_reader_is_told_what_else_ranks_teaches_and_rewards(recipe, told, tmp_path):
    notes = noted(tmp_path, recipe)
    assert len(notes) == len(told) and all(text in note for text, note in zip(told, notes, strict=True))


@pytest.mark.parametrize(
    ("valid", "better"), [([0.3, None, 0.2], False), ([0.3, 0.2, 0.3], True), ([None, 0.2, 0.1], True)]
)
def test_a_reader_is_told_where_no_validation_was_as_good_as_that_of_the_start(valid, better, tmp_path):
    storage.write_table(pd.DataFrame({"step": [0, 1, 2], "valid_ndcg@10": valid}), tmp_path / "training/log.parquet")
    notes = noted(tmp_path, {}, training={"backbone": "some/model"})
    assert notes == [] if better else "as good as that of its start" in notes[0]


def test_a_study_has_the_notes_that_all_its_runs_share(tmp_path):
    noted(tmp_path / "one", {"source": "bazaar", "collaborative": True}, "bazaar")
    noted(tmp_path / "two", {"source": "bazaar"}, "bazaar")
    storage.write_text("study_runs: [one, two]", tmp_path / "study" / "recipe.yaml")
    (note,) = report._shared_notes(RunFolder(tmp_path / "study"))
    assert "generated" in note
    storage.write_text("study_runs: [one, gone]", tmp_path / "study" / "recipe.yaml")
    assert report._shared_notes(RunFolder(tmp_path / "study")) == []
    assert len(noted(tmp_path / "one", {"source": "bazaar", "study_runs": ["one"]}, "bazaar")) == 1


@pytest.mark.parametrize("model", ["r2ec_texts", "sasrec"])
def test_rows_of_the_term_are_explained_where_there_are_any(model, tmp_path):
    run = RunFolder(tmp_path)
    storage.write_text("", run.recipe)
    storage.write_json({"models": {"r2ec": {"hit@5": 0.2}, model: {"hit@5": 0.1}}}, run.metrics("evaluation"))
    shown = {"title": "toy", "run": "toy", "file": "index.html", "links": [], "before": None, "after": None}
    assert ("no reasoning is read" in report.overview(run, shown, FACTS)) == (model == "r2ec_texts")


def test_a_model_without_a_metric_has_a_dash_and_is_never_the_best():
    models = {
        "r2ec": {"hit@5": 0.2},
        "sasrec": {"hit@5": None, "ndcg@5": 0.1},
        "oracle": {"hit@5": 0.9, "ndcg@5": 0.1},
    }
    cells = {
        row["name"]: [(cell["text"], cell["best"]) for cell in row["cells"]]
        for row in report._rows(models, ["hit@5", "ndcg@5"])
    }
    assert cells["R²ec"] == [("0.2000", True), ("–", False)] and cells["SASRec"] == [("–", False), ("0.1000", True)]
    assert cells["oracle"] == [("0.9000", False), ("0.1000", False)]


def test_a_study_speaks_for_itself_and_old_pages_go(tmp_path):
    run = RunFolder(tmp_path / "runs" / "toy")
    claim = {"a": "r2ec", "b": "sasrec", "metric": "hit@5", "share": False, "difference": 0.1, "ci95": [0.05, 0.15]}
    claim |= {"relative": 0.5, "relative_ci95": [0.25, 0.75], "collapsed": False}
    storage.write_json({"claims": [claim | {"b": "caser"}]}, run.metrics("evaluation"))
    storage.write_json({"claims": [claim | {"variant": "v"}]}, run.metrics("study"))
    storage.write_text("", run.recipe)
    storage.write_json(FACTS, run.provenance)
    for name in ("01_first", "02_second"):
        storage.write_text(nbformat.writes(new_notebook(cells=[new_markdown_cell(f"# {name}")])), run.notebook(name))
    index = report.render(run).read_text()
    assert "against SASRec" in index and "against Caser" not in index and "02_second.html" in index
    run.notebook("02_second").unlink()
    assert "02_second.html" not in report.render(run).read_text()
    assert sorted(path.name for path in run.report.iterdir()) == ["01_first.html", "index.html"]


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "runs" / "toy")
    storage.write_text("", run.recipe)
    with pytest.raises(DataError, match="toy: made by hand, so it has no executed notebooks"):
        report.render(run)
    storage.write_json(FACTS, run.provenance)
    before = report.render(run).read_text()
    monkeypatch.setattr(report, "overview", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.render(run)
    assert run.index.read_text() == before and not list(run.path.glob(".report*"))
    storage.write_text('{"cells": [', run.notebook("02_second"))
    with pytest.raises(DataError, match=r"02_second\.ipynb is no whole notebook"):
        report.render(run)
    assert run.index.read_text() == before
