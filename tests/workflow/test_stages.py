"""When a stage runs again."""

import os
import runpy
from pathlib import Path

import pytest
from workflow.toy import FIRST, notebook

from r2ec_lib.data import storage
from r2ec_lib.data.schema import DataError
from r2ec_lib.workflow import stages
from r2ec_lib.workflow.folder import RunFolder


def test_library_modules_count_as_far_as_they_are_imported(world):
    names = [path.stem for path in stages.imported(["%matplotlib inline\nfrom toylib import second"])]
    assert names == ["__init__", "first", "second"]
    assert [p.stem for p in stages.imported(["import toylib.first as f"])] == ["__init__", "first"]


def ingredients(world: Path, **values) -> dict:
    return stages.ingredients(world / "notebooks" / "01_first.ipynb", values, {})


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


def test_of_a_folder_of_many_categories_the_files_of_another_do_not_count(world):
    for name in ("Pens.csv.gz", "meta_Pens.jsonl.gz"):
        storage.write_text(name, world / "amazon" / name)
    values = {"data_dir": str(world / "amazon"), "category": "Pens"}
    first = ingredients(world, **values)
    assert len(first["inputs"]) == 2
    storage.write_text("fetched later", world / "amazon" / "Books.csv.gz")
    assert ingredients(world, **values) == first
    storage.write_text("fetched again", world / "amazon" / "meta_Pens.jsonl.gz")
    assert "inputs changed" in stages.difference(first, ingredients(world, **values))
    other = {"source_path": str(world / "amazon" / "Books.csv.gz")}
    assert len(ingredients(world, **values, **other)["inputs"]) == 3


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


def test_what_finds_places_and_refuses_settings_does_not_count(world):
    (world / "toylib" / "workflow").mkdir()
    for name in ("__init__.py", "folder.py", "study.py", "a.csv"):
        (world / "toylib" / "workflow" / name).write_text("")
    notebook(world / "notebooks" / "01_first.ipynb", FIRST, "from toylib.workflow import folder, study")
    assert set(ingredients(world)["library"]) == {"__init__.py", "workflow/study.py"}


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
    """A stage imports a package, which imports a module, which imports one of a package below, which reads files."""
    room = world / "toylib" / "room"
    (room / "deep" / "templates").mkdir(parents=True)
    (room / "__init__.py").write_text("from toylib.room import outer\n")
    (room / "outer.py").write_text("from .deep.inner import VALUE\n")
    (room / "deep" / "__init__.py").write_text("")
    (room / "deep" / "inner.py").write_text("from ...first import VALUE\n")
    files = ("room/deep/figures.csv", "room/deep/templates/sheet.html.j2")
    for name in files:
        (world / "toylib" / name).write_text("# text\n")
    notebook(world / "notebooks" / "01_first.ipynb", FIRST, cell)
    first = ingredients(world)
    modules = ("first.py", "room/deep/__init__.py", "room/deep/inner.py", "room/outer.py", "room/__init__.py")
    for name in modules + files:
        old = (world / "toylib" / name).read_text()
        (world / "toylib" / name).write_text(f"{old}CHANGED = 1\n")
        assert stages.difference(first, ingredients(world)) == f"library changed: {name}"
        (world / "toylib" / name).write_text(old)
    assert ingredients(world) == first


def test_inputs_that_a_stage_fetched_itself_do_not_make_it_run_again(world):
    run, values = RunFolder(world / "runs" / "x"), {"data_dir": str(world / "raw")}
    before = ingredients(world, **values)
    stages.begin(run, "01_first", before)
    (world / "raw").mkdir()
    (world / "raw" / "fetched").write_text("abc")
    storage.write_text("", run.notebook("01_first"))
    stages.finish(run, "01_first", before, values, {})
    assert stages.is_done(run, "01_first", stages.key(ingredients(world, **values)))


def done(world: Path, run: RunFolder, stage: str, folder: str, parts: dict) -> None:
    """Leaves `stage` finished, with a file in its folder."""
    stages.begin(run, stage, parts)
    for path in (run.path / folder / "file", run.notebook(stage)):
        storage.write_text("x", path)
    stages.finish(run, stage, parts, {}, {})


def test_an_input_that_changed_while_a_stage_ran_makes_it_run_again(world):
    run, values = RunFolder(world / "runs" / "x"), {"source_path": str(world / "log.csv")}
    (world / "log.csv").write_text("a")
    before = ingredients(world, **values)
    stages.begin(run, "01_first", before)
    (world / "log.csv").write_text("ab")
    storage.write_text("", run.notebook("01_first"))
    stages.finish(run, "01_first", before, values, {})
    assert not stages.is_done(run, "01_first", stages.key(ingredients(world, **values)))


def test_a_stage_that_begins_anew_takes_away_what_later_ones_made_of_it(world):
    run, parts = RunFolder(world / "runs" / "x"), ingredients(world, rows=1)
    done(world, run, "01_first", "data", parts)
    done(world, run, "02_second", "model", parts)
    assert not stages.begin(run, "01_first", ingredients(world, rows=2))
    assert not (run.path / "data" / "file").exists() and not (run.path / "model" / "file").exists()
    assert stages.state(run, "02_second") is None and not run.notebook("02_second").exists()


@pytest.mark.parametrize(
    ("begun", "kept"),
    [
        ("01_first", []),
        ("02_second", ["01_first", "03_third", "04_fourth"]),
        ("03_third", ["01_first", "02_second"]),
        ("04_fourth", ["01_first", "02_second", "03_third"]),
        ("05_fifth", ["01_first", "03_third", "04_fourth"]),
    ],
)
def test_a_stage_that_begins_anew_leaves_those_that_do_not_read_it(world, monkeypatch, begun, kept):
    """The third reads the first, the fourth the third; the fifth, which has not run, has the folder of the second."""
    folders = {"03_third": ("reasoning",), "04_fourth": ("oversight",), "05_fifth": ("model",)}
    reads = {"02_second": ("data",), "03_third": ("data",), "04_fourth": ("reasoning",)}
    monkeypatch.setattr(stages, "STAGES", stages.STAGES | folders)
    monkeypatch.setattr(stages, "READS", reads)
    run = RunFolder(world / "runs" / "x")
    for stage in list(stages.STAGES)[:4]:
        done(world, run, stage, stages.STAGES[stage][0], ingredients(world, rows=1))
    stages.begin(run, begun, ingredients(world, rows=2))
    assert [stage for stage in stages.STAGES if stages.finished(run, stage)] == kept
    assert [path.stem for path in sorted(run.notebooks.iterdir())] == kept


def test_a_stage_is_done_when_it_finished_and_its_outputs_are_whole(world):
    run, parts = RunFolder(world / "runs" / "x"), ingredients(world, rows=1)
    assert not stages.begin(run, "01_first", parts)
    assert not stages.is_done(run, "01_first", stages.key(parts))
    assert stages.begin(run, "01_first", parts)  # goes on
    assert not stages.begin(run, "01_first", ingredients(world, rows=2))  # not with other settings
    done(world, run, "01_first", "data", parts)
    assert stages.is_done(run, "01_first", stages.key(parts)) and not stages.is_done(run, "01_first", "other")
    (run.path / "data" / "file").write_text("xx")
    assert not stages.is_done(run, "01_first", stages.key(parts))
    assert not stages.begin(run, "01_first", parts)  # finished, so it starts from nothing


def test_a_notebook_s_text_and_tags_count(world):
    """A tag decides what is a parameter, what is checked first and what a page shows."""
    path, keys = world / "notebooks" / "01_first.ipynb", []
    for cell in ("1", "2", "#: check\n2"):
        notebook(path, FIRST, cell)
        keys.append(stages.key(ingredients(world)))
    assert len(set(keys)) == 3


def test_the_stages_that_a_stage_reads_count_and_others_do_not(world):
    run = RunFolder(world / "runs" / "x")
    assert stages.read_by("02_second", run, {"01_first": "a", "02_second": "b"}) == {"01_first": "a"}
    assert stages.read_by("01_first", run, {"02_second": "b"}) == stages.read_by("02_second", run, {}) == {}
    done(world, run, "01_first", "data", ingredients(world))  # by an earlier command
    assert stages.read_by("02_second", run, {}) == {"01_first": stages.key(ingredients(world))}
    assert stages.read_by("02_second", run, {"01_first": "a"}) == {"01_first": "a"}
    path = world / "notebooks" / "02_second.ipynb"
    first, other = (stages.ingredients(path, {}, {"01_first": key}) for key in "ab")
    assert stages.difference(first, other) == "an earlier stage changed"
    assert stages.key(first) != stages.key(other)


def test_inputs_count_by_their_content_and_a_backbone_s_files_are_among_them(world):
    """The same data copied again must not cost a training; other data of the same size must."""
    (world / "lm").mkdir()
    weights = world / "lm" / "weights"
    weights.write_text("a")
    first = ingredients(world, backbone=str(world / "lm"))
    os.utime(weights, (1, 1))
    assert ingredients(world, backbone=str(world / "lm")) == first
    weights.write_text("b")
    os.utime(weights, (2, 2))
    assert stages.difference(first, ingredients(world, backbone=str(world / "lm"))) == f"inputs changed: {weights}"


def test_an_input_is_read_once_while_it_stays_as_it_is(world, monkeypatch):
    """It may be large, and each stage is asked about several times."""
    (world / "log.csv").write_text("a")
    read = []
    monkeypatch.setattr(stages, "sha256", lambda path: read.append(path) or "digest")
    for _ in range(3):
        ingredients(world, source_path=str(world / "log.csv"))
    assert read == [world / "log.csv"]


def test_a_copy_that_was_broken_off_is_no_finished_stage(world, monkeypatch):
    whole, broken = RunFolder(world / "runs" / "whole"), RunFolder(world / "runs" / "broken")
    storage.write_json({"rows": 1}, whole.path / "data" / "rows")
    outputs = {"data/rows": (whole.path / "data" / "rows").stat().st_size, "data/gone": 1}
    state = {"key": "k", "finished": True, "seconds": 1.0, "peak_memory_gb": 1.0, "outputs": outputs}
    storage.write_json(state, whole.state("01_first"))
    assert stages.finished_elsewhere(broken, "01_first", "k") is None  # a file of it is gone
    with pytest.raises(FileNotFoundError):
        stages.copy_from(whole, broken, "01_first")
    assert (broken.path / "data" / "rows").is_file() and not stages.is_done(broken, "01_first", "k")
    storage.write_json({**state, "outputs": {"data/rows": outputs["data/rows"]}}, whole.state("01_first"))
    assert stages.finished_elsewhere(broken, "01_first", "k").path == whole.path
    assert stages.finished_elsewhere(whole, "01_first", "k") is None  # it is not elsewhere
    assert stages.copy_from(whole, broken, "01_first") == {"seconds": 1.0, "peak_memory_gb": 1.0}
    assert stages.is_done(broken, "01_first", "k")
    broken.state("01_first").unlink()
    monkeypatch.setattr(stages, "is_done", lambda *_: False)  # the other run began it anew meanwhile
    with pytest.raises(DataError, match="was changed while 01_first was copied from it"):
        stages.copy_from(whole, broken, "01_first")
    assert not broken.state("01_first").exists()


def test_a_package_or_python_of_another_version_counts_and_the_order_of_keys_does_not(world, monkeypatch):
    first = ingredients(world, rows=1)
    with monkeypatch.context() as patch:
        patch.setattr(stages.metadata, "version", lambda name: "0" if name == "torch" else first["packages"][name])
        assert stages.difference(first, ingredients(world, rows=1)) == "packages changed: torch"
    monkeypatch.setattr(stages.platform, "python_version", lambda: "3.0")
    assert stages.difference(first, ingredients(world, rows=1)) == "packages changed: python"
    assert stages.key({"a": 1, "b": 2}) == stages.key({"b": 2, "a": 1}) != stages.key({"a": 2, "b": 1})


def test_a_package_that_is_optional_counts_where_it_is_installed(tmp_path, monkeypatch):
    storage.write_text("Name: vllm\nVersion: 0.1\n", tmp_path / "vllm-0.1.dist-info" / "METADATA")
    monkeypatch.syspath_prepend(tmp_path)
    assert "vllm" in runpy.run_path(stages.__file__)["PACKAGES"]


def test_an_output_that_is_empty_is_not_what_the_stage_wrote(world):
    run, parts = RunFolder(world / "runs" / "x"), ingredients(world, rows=1)
    done(world, run, "01_first", "data", parts)
    assert stages.is_done(run, "01_first", stages.key(parts))
    (run.path / "data" / "file").write_text("")
    assert not stages.is_done(run, "01_first", stages.key(parts))


def test_commands_of_jupyter_are_passed_over_wherever_they_stand(world):
    cell = "with open(path):\n    pass\n    !ls\n%time\nimport toylib.first"
    assert [path.stem for path in stages.imported([cell])] == ["__init__", "first"]
