"""The pipeline on throwaway notebooks: what is refused, what runs again, what is left, what the report shows."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from r2ec_lib.data import storage
from r2ec_lib.workflow import cli, recipes, report, runner, stages

FIRST = """run_dir: str = "../runs/toy"  # folder of the run
rows: int = 3  # rows to write
source_path: str = ""  # a local file
rate: float = 0.5  # learning rate
ks: list[int] = [5, 10]  # cut-offs
limit: float | None = None  # no limit where null"""
SECOND = """run_dir: str = "../runs/toy"  # folder of the run
factor: float = 2.0  # factor
fail: bool = False  # whether to fail"""
FOLDERS = {"01_first": ("data",), "02_second": ("model",)}


def notebook(path: Path, parameters: str, *cells: str) -> None:
    """Writes a notebook: text cells start with "#", the rest is code."""
    body = [new_markdown_cell(c) if c.startswith("#") else new_code_cell(c) for c in cells]
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A title"), tagged, *body]), path)


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A project of two notebooks and a library of two modules; the second stage multiplies what the first wrote."""
    library = tmp_path / "toylib"
    library.mkdir()
    (library / "__init__.py").write_text("")
    (library / "first.py").write_text("VALUE = 1\n")
    (library / "second.py").write_text("from .first import VALUE\n")
    write = "from pathlib import Path\nout = Path(run_dir) / {!r}\nout.mkdir(parents=True, exist_ok=True)"
    notebook(
        tmp_path / "notebooks" / "01_first.ipynb",
        FIRST,
        "# import toylib.first",
        write.format("data"),
        '(out / "rows").write_text(str(rows))\nprint("wrote", rows)',
    )
    notebook(
        tmp_path / "notebooks" / "02_second.ipynb",
        SECOND,
        write.format("model"),
        "## Multiplying\nA text.\n$x$",
        'rows = int((out.parent / "data" / "rows").read_text())',
        'seen = (out / "checkpoint").exists()\n(out / "checkpoint").write_text("half")',
        'if fail:\n    raise RuntimeError("broken on purpose")',
        '(out / "result").write_text(f"{rows * factor} {seen}")',
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(world: Path, text: str, *overrides: str, name: str | None = None) -> recipes.Recipe:
    (world / "toy.yaml").write_text(text)
    return recipes.load(Path("toy.yaml"), recipes.declared_in(world / "notebooks"), overrides, name)


def run(world: Path, text: str = "", *overrides: str, **more) -> Path:
    return runner.execute(
        load(world, text, *overrides),
        notebooks=world / "notebooks",
        runs=world / "runs",
        folders=FOLDERS,
        library=world / "toylib",
        **more,
    )


def refused(world: Path, text: str, *overrides: str) -> str:
    with pytest.raises(recipes.RecipeError) as caught:
        load(world, text, *overrides)
    return str(caught.value)


# -- recipes ---------------------------------------------------------------------------------------------------------


def test_an_unknown_key_names_the_nearest_one_and_its_notebook(world):
    message = refused(world, "# data\nfactr: 3.0\n")
    assert "toy.yaml line 2" in message and '"factor" (02_second)' in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rate: 1e-4", "1e-4 is text in YAML; write 1.0e-4"),
        ("rows: 3.5", "expected int, found float: 3.5"),
        ("rows: true", "expected int, found a truth value"),
        ("rate: true", "expected float, found a truth value"),
        ("fail: 1", "expected bool, found int: 1"),
        ("ks: 5", "expected list[int], found int: 5"),
        ("ks: [5, x]", "expected list[int], found list"),
        ("rate:", "expected float, found nothing (null)"),
        ("rate: {a: 1}", "recipes are flat"),
        ("run_dir: elsewhere", "set by the pipeline"),
        ("rows: 1\nrows: 2", '"rows" stands twice, first in toy.yaml line 1'),
        ("rows: [1", "no valid YAML"),
        ("- 1", "expected lines"),
        ("name: ../up", "without a folder"),
        ("stages: [03_third]", 'no notebook "03_third"'),
        ("base: toy.yaml", "leads back to itself"),
        ("base: none.yaml", "no such recipe"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_reason(world, text, told):
    assert told in refused(world, text)


def test_all_problems_of_a_recipe_are_told_at_once(world):
    assert len(refused(world, "rows: x\nrate: x\nnothing: 1").splitlines()) == 3


def test_types_that_fit_are_taken(world):
    values = load(world, "rate: 1\nks: [1, 2]\nlimit: null\nfail: yes\nsource_path: 2024-01-01\n").values
    assert values["rate"] == 1 and values["limit"] is None and values["fail"] is True
    assert values["source_path"] == str(world / "2024-01-01")  # a date stays text


def test_what_is_typed_on_the_command_line_is_read_as_its_key_wants(world):
    recipe = load(world, "", "rate=1e-4", "ks=[1, 2]", "source_path=7", "limit=2")
    assert recipe.values == {"rate": 1e-4, "ks": [1, 2], "source_path": str(world / "7"), "limit": 2}
    assert "expected int, found str" in refused(world, "", "rows=many")
    assert "expected key=value" in refused(world, "", "rows")


def test_a_recipe_overrides_its_base_and_does_not_inherit_its_name(world):
    (world / "base").mkdir()
    (world / "base" / "base.yaml").write_text("name: base\nrows: 1\nrate: 0.1\n")
    recipe = load(world, "base: base/base.yaml\nrows: 2\n")
    assert recipe.values == {"rows": 2, "rate": 0.1} and recipe.name == "toy"


def test_notebooks_must_agree_on_a_key_they_share(world):
    notebook(world / "notebooks" / "03_third.ipynb", "rows: int = 4  # rows")
    with pytest.raises(recipes.RecipeError, match=r"rows: 01_first declares int = 3, 03_third declares int = 4"):
        recipes.declared_in(world / "notebooks")


@pytest.mark.parametrize("cell", ["rows = 3", "rows: int = 3.0", "rows: dict = 3", "rows: int = len([])", "print(1)"])
def test_a_parameters_cell_holds_annotated_literals_only(world, cell):
    notebook(world / "notebooks" / "03_third.ipynb", cell)
    with pytest.raises(recipes.RecipeError, match=r"03_third\.ipynb, parameters cell"):
        recipes.declared_in(world / "notebooks")


def test_a_declaration_keeps_its_comment(world):
    assert recipes.declared(world / "notebooks" / "01_first.ipynb")["rate"] == recipes.Parameter(
        "rate", "float", 0.5, "learning rate"
    )


# -- stages ----------------------------------------------------------------------------------------------------------


def test_library_modules_count_as_far_as_they_are_imported(world):
    names = [
        path.stem for path in stages.imported(["%matplotlib inline\nfrom toylib import second"], world / "toylib")
    ]
    assert names == ["__init__", "first", "second"]
    assert [p.stem for p in stages.imported(["import toylib.first as f"], world / "toylib")] == ["__init__", "first"]


def ingredients(world: Path, **values) -> dict:
    return stages.ingredients(world / "notebooks" / "01_first.ipynb", values, "", world / "toylib")


def test_a_key_follows_parameters_and_input_files_but_not_the_run_folder(world):
    (world / "log.csv").write_text("a")
    values = {"rows": 1, "source_path": str(world / "log.csv"), "run_dir": str(world)}
    first = ingredients(world, **values)
    assert stages.key(first) == stages.key(ingredients(world, **{**values, "run_dir": "other"}))
    (world / "log.csv").write_text("ab")
    assert "inputs changed" in stages.difference(first, ingredients(world, **values))
    assert stages.difference(first, {**first, "parameters": {**first["parameters"], "rows": 2}}) == (
        "parameters changed: rows"
    )


def test_a_stage_that_reads_other_runs_follows_what_they_left(world):
    values = {"study_runs": ["seed0", "seed1"], "run_dir": str(world / "runs" / "study")}
    nothing = ingredients(world, **values)
    left = world / "runs" / "seed1" / "evaluation"
    storage.write_json({"models": {}}, left / "metrics.json")
    first = ingredients(world, **values)
    assert "inputs changed" in stages.difference(nothing, first)
    (left / "chains.parquet").write_text("not read by a study")
    assert ingredients(world, **values) == first
    storage.write_json({"models": {"r2ec": {}}}, left / "metrics.json")
    assert "inputs changed" in stages.difference(first, ingredients(world, **values))


def test_comments_in_the_library_do_not_count_and_code_does(world):
    code = ["import toylib.first"]
    notebook(world / "notebooks" / "01_first.ipynb", FIRST, *code)
    first = ingredients(world)
    (world / "toylib" / "first.py").write_text("# a comment\nVALUE  =  1\n")
    assert ingredients(world) == first
    (world / "toylib" / "first.py").write_text("VALUE = 2\n")
    assert stages.difference(first, ingredients(world)) == "library changed: first.py"


@pytest.mark.parametrize(
    "cell", ["from toylib.room import outer", "import toylib.room.outer", "from toylib import room"]
)
def test_a_change_deep_inside_the_library_counts(world, cell):
    """A stage imports a package, which imports a module, which imports one of a package below."""
    room = world / "toylib" / "room"
    (room / "deep").mkdir(parents=True)
    (room / "__init__.py").write_text("from toylib.room import outer\n")
    (room / "outer.py").write_text("from .deep.inner import VALUE\n")
    (room / "deep" / "__init__.py").write_text("")
    (room / "deep" / "inner.py").write_text("from ...first import VALUE\n")
    notebook(world / "notebooks" / "01_first.ipynb", FIRST, cell)
    first = ingredients(world)
    for name in ("first.py", "room/deep/__init__.py", "room/deep/inner.py", "room/outer.py", "room/__init__.py"):
        old = (world / "toylib" / name).read_text()
        (world / "toylib" / name).write_text(f"{old}CHANGED = 1\n")
        assert stages.difference(first, ingredients(world)) == f"library changed: {name}"
        (world / "toylib" / name).write_text(old)
    assert ingredients(world) == first


def test_inputs_that_a_stage_fetched_itself_do_not_make_it_run_again(world):
    place, values = world / "runs" / "x", {"data_dir": str(world / "raw")}
    before = ingredients(world, **values)
    stages.begin(place, "01_first", (), before, FOLDERS)
    (world / "raw").mkdir()
    (world / "raw" / "fetched").write_text("abc")
    stages.executed(place, "01_first").parent.mkdir(parents=True)
    stages.executed(place, "01_first").write_text("")
    stages.finish(place, "01_first", before, values, FOLDERS, {})
    assert stages.is_done(place, "01_first", stages.key(ingredients(world, **values)))


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_is_cached_resumed_and_reported(world, capsys):
    """One story, since every notebook costs a kernel's start."""
    index = run(world, "rows: 4\n")
    place = world / "runs" / "toy"
    assert index == place / "report" / "index.html" and index.is_file()
    assert (place / "model" / "result").read_text() == "8.0 False"
    assert "01_first: starts\n    wrote 4\n01_first: done in" in capsys.readouterr().out
    assert "rows: 4" in (place / "recipe.yaml").read_text() and "factor: 2.0" in (place / "recipe.yaml").read_text()
    facts = json.loads((place / "provenance.json").read_text())
    assert facts["stages"]["02_second"]["peak_memory_gb"] > 0 and facts["versions"]["torch"]
    assert not list(place.rglob("*.tmp"))

    run(world, "rows: 4\n")  # nothing changed
    assert capsys.readouterr().out == "01_first: up to date\n02_second: up to date\n"

    with pytest.raises(runner.RunError) as caught:  # a change downstream runs only that, and fails here
        run(world, "rows: 4\nfail: true\n")
    assert str(caught.value).startswith(
        '02_second.ipynb, under "Multiplying": RuntimeError: broken on purpose\nat: raise'
    )
    assert "Traceback" not in str(caught.value) and "runs/toy/notebooks/02_second.ipynb" in str(caught.value)
    assert (place / "notebooks" / "02_second.ipynb").is_file() and not (place / "model" / "result").exists()
    assert capsys.readouterr().out == "01_first: up to date\n02_second: starts\n"

    with pytest.raises(runner.RunError):  # the same ingredients again: the checkpoint is still there
        run(world, "rows: 4\nfail: true\n")
    assert "02_second: goes on where it was interrupted" in capsys.readouterr().out

    run(world, "rows: 4\n")  # other ingredients: the checkpoint of the failed attempt is gone
    assert (place / "model" / "result").read_text() == "8.0 False"

    (place / "model" / "result").unlink()  # outputs that are gone are made again
    run(world, "rows: 4\n")
    assert (place / "model" / "result").is_file()


def test_a_folder_that_is_no_run_is_never_removed(world):
    (world / "runs" / "toy").mkdir(parents=True)
    (world / "runs" / "toy" / "mine").write_text("precious")
    with pytest.raises(runner.RunError, match="is no run"):
        run(world, fresh=True)
    assert (world / "runs" / "toy" / "mine").is_file()


def test_two_processes_do_not_work_in_one_run(world):
    with runner._lock(world / "runs", "toy"):
        with pytest.raises(runner.RunError, match=rf'"toy" is being worked on by process {os.getpid()}'):
            run(world)
        with runner._lock(world / "runs", "other"):
            pass


def test_a_wrong_recipe_ends_the_command_with_two_and_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text("no_such_key_anywhere: 1\n")
    assert cli.main(["run", "x.yaml"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == 'x.yaml line 1: unknown key "no_such_key_anywhere", no notebook declares it.\n'


def test_an_interrupted_run_ends_with_130_and_says_how_to_go_on(world, monkeypatch):
    """Ctrl-C in the middle of a stage, as a terminal sends it: no kernel stays behind, the stage is left open."""
    notebook(world / "notebooks" / "01_first.ipynb", FIRST, "print('sleeping')", "import time\ntime.sleep(60)")
    Path("toy.yaml").write_text("")
    script = (
        "import signal, sys; from pathlib import Path; from r2ec_lib.workflow import cli, runner as p\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in a background job
        "cli.NOTEBOOKS, p.RUNS = Path('notebooks'), Path('runs')\n"
        "p.execute.__defaults__ = (False, cli.NOTEBOOKS, p.RUNS, {'01_first': ('data',)}, Path('toylib'))\n"
        "sys.exit(cli.main(['run', 'toy.yaml']))"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "01_first: starts\n"
    assert child.stdout.readline() == "    sleeping\n"
    kernels = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=30)
    assert child.returncode == 130 and told.strip() == "Interrupted. The same command goes on from here."
    assert kernels and not psutil.wait_procs(kernels, timeout=10)[1]
    assert stages.state(world / "runs" / "toy", "01_first")["finished"] is False


def test_printed_lines_are_indented_and_carriage_returns_kept():
    out = io.StringIO()
    echo = runner._Indented(out)
    for text in ("one\ntw", "o\n\rstep 1", "\rstep 2"):
        echo.write(text)
    echo.end()
    assert out.getvalue() == "    one\n    two\n\r    step 1\r    step 2\n"


# -- report ----------------------------------------------------------------------------------------------------------

HOSTILE = (
    "<style>#T_a_row0 { color: red; } body { display: none; } #T_b { background: url(http://x.y/z); }</style>"
    '<table id="T_a" onclick="steal()"><tr><td style="color: red; background: url(http://x.y)">Tom &amp; Co</td></tr>'
    '</table><script>alert(1)</script><img src="http://x.y/z.png"><img src="x" onerror="alert(1)">'
    '<a href="javascript:alert(1)">a</a><iframe src="http://x.y"></iframe><svg onload="alert(1)"></svg>'
)


def test_foreign_html_keeps_its_table_and_loses_whatever_acts_or_loads():
    clean = report.sanitise(HOSTILE)
    assert (
        "#T_a_row0 { color: red; }" in clean
        and '<table id="T_a"><tbody><tr><td style="color: red;">Tom &amp; Co' in clean
    )
    for bad in ("script", "alert", "onclick", "onerror", "onload", "http", "url(", "display: none", "iframe", "<svg"):
        assert bad not in clean


def test_columns_of_words_are_set_flush_left_and_numbers_stay_right():
    rows = "<tr><td>lamp</td><td>1,234.5</td></tr><tr><td>7</td><td>–</td></tr>"
    html = report.aligned(f"<table><tr><th>name</th><th>n</th></tr>{rows}</table>")
    assert '<th class="words">name</th><th>n</th>' in html and '<td class="words">7</td><td>–</td>' in html


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
        new_output("display_data", {"text/markdown": "**bold** <script>alert(3)</script>"}),
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
    row = {"a": "r2ec", "b": "<b>x</b>", "metric": "hit@5", "difference": 0.1, "relative": 1.0, "ci95": [0.05, 0.15]}
    results = {"models": scores, "comparisons": [row], "counts": {"items": 1234}}
    storage.write_text(json.dumps(results), run / "evaluation" / "metrics.json")
    index = report.render(run, tmp_path)
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
    assert 'id="twice"' in page[0] and 'id="twice-2"' in page[0] and 'href="#twice-2"' in page[0]
    assert '<img alt="Plot: Twice" src="data:image/png;base64,' in page[0]
    assert "<title>Why *think*? · toy</title>" in page[0] or "<title>Why think? · toy</title>" in page[0]


def test_the_index_holds_the_results_and_escapes_what_is_foreign(page):
    index = page[1]
    assert '<td class="best">0.2000</td>' in index and '<td class="best">0.1500</td>' in index
    assert "+0.0500 to +0.1500" in index and "1,234" in index and "+100.0 %" in index
    assert "<b>x</b>" not in index and "&lt;b&gt;x&lt;/b&gt;" in index
    assert 'href="01_first.html"' in index


def test_the_index_of_a_study_shows_its_margins_and_leads_to_its_runs(tmp_path):
    run, claim = tmp_path / "seeds", {"b": "best_baseline", "metric": "hit@5", "relative": 0.5, "share": False}
    claim |= {"difference": 0.1, "ci95": [0.05, 0.15], "collapsed": False}
    results = {"runs": {"one": "steps 5", "two": "steps 9"}}
    results["claims"] = [claim | {"relative_ci95": [0.25, 0.75], "variant": v} for v in ("steps 5", "steps 9")]
    storage.write_json(results, run / "study" / "metrics.json")
    storage.write_text("", run / "recipe.yaml")
    storage.write_text("", tmp_path / "one" / "report" / "index.html")
    (run / "report").mkdir()
    facts = {"stages": {}, "versions": {}, "gpu": [], "commit": "", "uncommitted_changes": None, "seed": 0}
    facts |= {"started": "2024-01-01", "cpu": "x", "cores": 2, "memory_gb": 1.0, "python": "3.11"}
    shown = {"title": "seeds", "run": "seeds", "file": "index.html", "links": [], "before": None, "after": None}
    html = report.overview(run, shown, facts)
    assert html.count("+0.1000 (+0.0500 to +0.1500), +50.0% (+25.0% to +75.0%)") == 2
    assert "against best of the baselines" in html
    assert "+68.67%" in html and "copied" in html
    assert '<a href="../../one/report/index.html">one</a>' in html and 'report/index.html">two' not in html


def test_a_study_of_other_runs_is_made_only_where_a_recipe_names_it():
    declared = recipes.declared_in(runner.NOTEBOOKS)
    quickstart, study = (
        recipes.load(runner.NOTEBOOKS.parent / "params" / f"{name}.yaml", declared) for name in ("quickstart", "study")
    )
    assert "06_study" not in runner._order(quickstart, declared, stages.STAGES)
    assert runner._order(study, declared, stages.STAGES) == ["06_study"]
