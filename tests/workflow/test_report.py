"""What the report shows, and what it never holds."""

import json
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from r2ec_lib.data import storage
from r2ec_lib.data.schema import DataError
from r2ec_lib.workflow import report
from r2ec_lib.workflow.folder import RunFolder

FACTS = {"stages": {}, "versions": {}, "gpu": [], "commit": "", "uncommitted_changes": None, "seed": 0}
FACTS |= {"started": "2024-01-01", "cpu": "x", "cores": 2, "memory_gb": 1.0, "python": "3.11"}

HOSTILE = (
    "<style>#T_a_row0 { color: red; } body { display: none; } #T_b { background: url(http://x.y/z); } "
    "#T_c, p { top: 9px; }</style>"
    '<table id="T_a" onclick="steal()"><tr><td style="color: red; background: url(http://x.y)">Tom &amp; Co</td></tr>'
    '</table><script>alert(1)</script><img src="http://x.y/z.png"><img src="x" onerror="alert(1)">'
    '<a href="javascript:alert(1)">a</a><a href="data:text/html,x">b</a>'
    '<iframe src="http://x.y"></iframe><svg onload="alert(1)"></svg>'
)


def test_foreign_html_keeps_its_table_and_loses_whatever_acts_or_loads():
    clean = report.sanitise(HOSTILE)
    assert (
        "#T_a_row0 { color: red; }" in clean
        and '<table id="T_a"><tbody><tr><td style="color: red;">Tom &amp; Co' in clean
    )
    for bad in (
        'src="x"',
        "top: 9px",
        "data:text",
        "script",
        "alert",
        "onclick",
        "onerror",
        "onload",
        "http",
        "url(",
        "display: none",
        "iframe",
        "<svg",
    ):
        assert bad not in clean


def test_columns_of_words_are_set_flush_left_and_numbers_stay_right():
    rows = "<tr><td>lamp</td><td>1,234.5</td></tr><tr><td>7</td><td>–</td></tr>"
    html = report.aligned(f"<table><tr><th>name</th><th>n</th></tr>{rows}</table>")
    ragged = f"<table><tr><td>lamp</td></tr>{rows}</table>"
    assert "words" not in report.aligned(ragged)
    assert '<th class="words">name</th><th>n</th>' in html and '<td class="words">7</td><td>–</td>' in html
    cells = ("0.5 (0.4 to 0.6)", "0.5<br>(0.4 to 0.6)", "† 12", "+0.1 (-0.1 to +0.3)\n+5% (-5% to +15%)", "1,234.5")
    rows = "".join(f"<tr><th>{row}</th><td>{cell}</td></tr>" for row, cell in enumerate(cells))
    assert "words" not in report.aligned(f"<table>{rows}</table>")
    named = report.aligned("<table><tr><th></th><th>n</th></tr><tr><th>lamp</th><td>7</td></tr></table>")
    assert '<th class="words">lamp</th><td>7</td>' in named and "<th>n</th>" in named


@pytest.fixture
def page(tmp_path):
    """HTML of one report page with everything that a notebook can hold."""
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    outputs = [
        new_output("stream", name="stdout", text="step 1\rstep 2\rstep 3\nplain <b>text</b>\n"),
        new_output("stream", name="stderr", text="  0%|          | 0/10 progress noise"),
        new_output("stream", name="stdout", text="and on\n"),
        new_output("display_data", {"text/html": HOSTILE, "text/plain": "no"}),
        new_output("display_data", {"image/png": picture, "text/plain": "<Figure>"}),
        new_output("display_data", {"application/javascript": "alert(2)"}),
        new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "widget noise"}),
    ]
    text = (
        "# Why *think*?\nInline $r_{i,t} < 1$ and\n\n$$\\frac{1}{G}\\sum_i A_i$$\n\n## Twice\n\n## Twice\n\n"
        "<script>alert(4)</script>\n\n![elsewhere](http://x.y/z.png) [bad](javascript:alert(5)) [paper](https://arxiv.org/)"
    )
    cells = [new_markdown_cell(text), new_code_cell("x = 'a<b'", outputs=outputs)]
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
    assert "+68.67%" in html and "copied" in html
    assert '<a href="../../one/report/index.html">one</a>' in html and 'report/index.html">two' not in html


def test_code_that_shows_nothing_is_unfolded_with_the_code_after_it():
    shown = [new_output("stream", name="stdout", text="out")]
    cells = [new_code_cell("seed = 0", metadata={"tags": ["parameters"]}), new_code_cell("import a")]
    cells += [new_code_cell("a.b()", outputs=shown), new_code_cell("c"), new_markdown_cell("d")]
    notebook = new_notebook(cells=cells)
    report.prepare(notebook)
    assert [cell.source for cell in notebook.cells] == ["seed = 0", "import a\n\na.b()", "c", "d"]


@pytest.mark.parametrize(
    ("tags", "kept"),
    [
        ([], True),
        (["only:source=bazaar"], False),
        (["only:source=amazon"], True),
        (["only:source=bazaar|amazon"], True),
        (["only:source=amazon", "only:backbone=tiny"], False),
        (["only:source=amazon", "only:seed=0"], True),
        (["only:no_such_key=1"], True),
        (["only:source!=bazaar"], True),
        (["only:source!=bazaar|amazon"], False),
        (["only:no_such_key!=1"], True),
    ],
)
def test_cells_that_concern_other_runs_are_left_out(tags, kept):
    cells = [
        new_markdown_cell("text", metadata={"tags": tags}),
        new_code_cell("1", metadata={"tags": tags}, outputs=[new_output("stream", name="stdout", text="out")]),
    ]
    recipe = {"source": "amazon", "backbone": "some/model", "seed": 0}
    assert len(report.concerning(new_notebook(cells=cells), recipe).cells) == (2 if kept else 0)


def test_an_error_is_shown_whatever_the_cell_concerns():
    error = new_output("error", ename="ValueError", evalue="broken", traceback=["broken"])
    cells = [new_code_cell("1", metadata={"tags": ["only:source=bazaar"]}, outputs=[error]), new_code_cell("2")]
    notebook = report.concerning(new_notebook(cells=cells), {"source": "logs"})
    assert len(notebook.cells) == 2 and report.has_failed(notebook)
    assert not report.has_failed(new_notebook(cells=cells[1:]))


def test_a_failed_page_ends_with_the_error():
    error = new_output("error", ename="ValueError", evalue="broken", traceback=["broken"])
    cells = [new_markdown_cell("## Ran"), new_code_cell("1", outputs=[error]), new_markdown_cell("## Never ran")]
    notebook = new_notebook(cells=cells)
    assert [entry["text"] for entry in report.prepare(notebook)] == ["Ran"]
    assert len(notebook.cells) == 2 and report.has_failed(notebook)


def test_a_plot_is_told_by_its_titles_and_without_one_by_its_section():
    shown = [new_output("display_data", {"image/png": "aaaa"})]
    sources = ('ax.set_title("Left")\nfig.suptitle("Right")', 'ax.set_title(f"{name}")')
    notebook = new_notebook(cells=[new_markdown_cell("## Here"), *(new_code_cell(s, outputs=shown) for s in sources)])
    report.prepare(notebook)
    assert [cell.metadata["alt"] for cell in notebook.cells[1:]] == ["Plot: Left; Right", "Plot: Here"]


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


def test_a_picture_is_a_picture():
    assert report.sanitise('<img src="data:text/html,x"><img src="data:image/png;base64,x">').count("<img") == 1


def test_facts_sum_up_the_stages_and_say_what_was_not_committed():
    cost = {name: {"seconds": seconds, "peak_memory_gb": gb} for name, seconds, gb in (("a", 90, 2), ("b", 8, 3))}
    facts = FACTS | {"stages": cost, "commit": "0123456789abcdef", "uncommitted_changes": True, "seed": 5}
    told = dict(report._facts(facts, {"train_samples": 12345, "kind": "toy", "list": []}))
    assert told["duration"] == "98 s" and told["peak memory"] == "3.0 GB" and told["seed"] == "5"
    assert told["code"] == "0123456789ab with uncommitted changes" and told["train samples"] == "12,345"
    assert told["kind"] == "toy" and "list" not in told
    assert dict(report._facts(facts | {"uncommitted_changes": False}, {}))["code"] == "0123456789ab"
    cost["a"]["seconds"] = 592
    assert dict(report._facts(facts, {}))["duration"] == "10 min"


def test_a_reader_is_told_what_is_generated_and_how_small_the_model_is():
    market, size = report._notes({"source": "bazaar"}, {"backbone": "tiny", "parameters": 2_340_000})
    assert "generated" in market and "2.3 million parameters" in size
    assert "general rules" in size
    assert "general rules" not in report._notes({"source": "logs"}, {"backbone": "tiny", "parameters": 1})[0]
    assert report._notes({"source": "logs"}, {"backbone": "some/model"}) == []


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
