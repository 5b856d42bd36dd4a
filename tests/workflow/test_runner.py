"""Runs of a toy project: what runs, what is left, what is reported."""

import errno
import json
import os
import re
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from workflow.toy import FIRST, FOLDERS, SECOND, load, notebook, run

from r2ec_lib.data.storage import read_json, write_json
from r2ec_lib.workflow import folder, kernels, recipes, runner, stages
from r2ec_lib.workflow.folder import NOTEBOOKS, RunFolder


def test_a_run_is_cached_resumed_and_reported(world, capsys):
    """One story, since every notebook costs a kernel's start."""
    index = run(world, "rows: 4\n")
    place = RunFolder(world / "runs" / "toy")
    assert index == place.index and index.is_file()
    assert (place.path / "model" / "result").read_text() == "8.0 False"
    assert "01_first: starts\n    wrote 4\n01_first: done in" in capsys.readouterr().out
    assert "rows: 4" in place.recipe.read_text() and "factor: 2.0" in place.recipe.read_text()
    facts = json.loads(place.provenance.read_text())
    assert facts["stages"]["02_second"]["peak_memory_gb"] > 0 and facts["versions"]["torch"]
    assert not list(place.path.rglob("*.tmp"))

    run(world, "rows: 4\n")  # nothing changed
    assert capsys.readouterr().out == "01_first: up to date\n02_second: up to date\n"

    with pytest.raises(kernels.RunError) as caught:  # a change downstream runs only that, and fails here
        run(world, "rows: 4\nfail: true\n")
    assert str(caught.value).startswith(
        '02_second.ipynb, under "Multiplying": RuntimeError: broken on purpose\nat: raise'
    )
    assert "Traceback" not in str(caught.value) and "runs/toy/notebooks/02_second.ipynb" in str(caught.value)
    assert place.notebook("02_second").is_file() and not (place.path / "model" / "result").exists()
    assert capsys.readouterr().out == "01_first: up to date\n02_second: starts\n"
    assert "runs/toy/report/index.html" in str(caught.value)  # which shows what there is
    assert "broken on purpose" in (place.report / "02_second.html").read_text()
    assert "wrote 4" in (place.report / "01_first.html").read_text()
    failed = re.findall(r'<li><a href="(\w+).html">A title</a> <span class="note">failed', index.read_text())
    assert failed == ["02_second"]

    with pytest.raises(kernels.RunError):  # the same ingredients again: the checkpoint is still there
        run(world, "rows: 4\nfail: true\n")
    assert "02_second: goes on where it was interrupted" in capsys.readouterr().out

    run(world, "rows: 4\n")  # other ingredients: the checkpoint of the failed attempt is gone
    assert (place.path / "model" / "result").read_text() == "8.0 False"

    (place.path / "model" / "result").unlink()  # outputs that are gone are made again
    run(world, "rows: 4\n")
    assert (place.path / "model" / "result").is_file()


def test_a_shared_run_copies_what_another_has_done_and_runs_the_rest(world, capsys, monkeypatch):
    run(world, "rows: 4\nname: one\nstages: [01_first]\n")
    capsys.readouterr()
    with monkeypatch.context() as patch:  # what runs at once sees its settings itself
        patch.setattr(kernels, "check_settings", lambda *_: pytest.fail("settings were checked apart"))
        run(world, "rows: 4\nname: two\n", shared=True)
    out = capsys.readouterr().out
    assert out.startswith("01_first: copied from runs/one\n02_second: starts\n")
    place = RunFolder(world / "runs" / "two")
    assert (place.path / "model" / "result").read_text() == "8.0 False" and place.notebook("01_first").is_file()
    facts = json.loads(place.provenance.read_text())["stages"]
    assert facts["01_first"]["copied_from"] == "one" and "copied_from" not in facts["02_second"]
    run(world, "rows: 4\nname: two\n")
    assert capsys.readouterr().out == "01_first: up to date\n02_second: up to date\n"


def test_a_run_that_only_copies_is_recorded_as_what_it_has_become(world, quick, monkeypatch):
    commits = iter("abc")
    monkeypatch.setattr(runner.provenance, "_output", lambda *call: next(commits) if "rev-parse" in call else "")
    run(world, "name: one\nthreads: 1")
    run(world, "name: two\nthreads: 2\nrows: 9")
    run(world, "name: one\nthreads: 2\nrows: 9", shared=True)
    facts = read_json(RunFolder(world / "runs" / "one").provenance)
    assert (facts["recipe"]["rows"], facts["threads"], facts["commit"], len(quick)) == (9, 2, "c", 4)
    for stage in facts["stages"].values():
        assert (stage["copied_from"], stage["commit"], stage["threads"]) == ("two", "b", 2)


def test_a_folder_that_is_no_run_is_never_removed(world):
    (world / "runs" / "toy").mkdir(parents=True)
    (world / "runs" / "toy" / "mine").write_text("precious")
    with pytest.raises(kernels.RunError, match="is no run"):
        run(world, fresh=True)
    assert (world / "runs" / "toy" / "mine").is_file()


def test_two_processes_do_not_work_in_one_run(world, quick):
    with FileLock(world / "runs" / ".locks" / "toy"):
        with pytest.raises(kernels.RunError, match='"toy" is being worked on by another process'):
            run(world)
        run(world, "name: other")
    run(world)  # free again


def test_a_later_notebook_s_settings_are_refused_before_the_first_runs(world, capsys):
    """Of the second notebook only what is tagged runs; the first, which would check itself, has not begun."""
    cells = ["#: check\nassert factor > 0, 'factor is not positive'", "import no_such_module"]
    notebook(world / "notebooks" / "02_second.ipynb", SECOND, *cells)
    with pytest.raises(recipes.RecipeError, match=r"02_second\.ipynb: AssertionError: factor is not positive"):
        run(world, "factor: -1.0")
    assert not (world / "runs" / "toy").exists() and capsys.readouterr().out == ""


def test_a_fresh_run_whose_settings_are_refused_removes_nothing(world):
    cells = ["#: check\nassert factor > 0, 'factor is not positive'"]
    notebook(world / "notebooks" / "02_second.ipynb", SECOND, *cells)
    (world / "runs" / "toy" / ".stages").mkdir(parents=True)
    for text in ("factor: -1.0", "factor: -1.0\nstages: [02_second]"):
        with pytest.raises(recipes.RecipeError, match="factor is not positive"):
            run(world, text, fresh=True)
    assert (world / "runs" / "toy" / ".stages").exists()


def test_a_refused_setting_of_the_first_waiting_stage_removes_nothing(world):
    cells = ["#: check\nassert factor > 0, 'factor is not positive'"]
    notebook(world / "notebooks" / "02_second.ipynb", SECOND, *cells)
    run(world, "factor: 2.0")
    kept = world / "runs" / "toy" / "model" / "kept"
    kept.parent.mkdir()
    kept.write_text("x")
    with pytest.raises(recipes.RecipeError, match="factor is not positive"):
        run(world, "factor: -1.0")
    assert kept.exists()


def test_a_file_that_a_later_stage_would_read_is_missed_before_the_first_runs(world, capsys):
    notebook(world / "notebooks" / "02_second.ipynb", SECOND + '\nrules_path: str = ""  # rules')
    with pytest.raises(recipes.RecipeError, match=r"rules_path: .*/rules\.yaml does not exist\.\nRelative paths are"):
        run(world, "rules_path: rules.yaml")
    assert not (world / "runs" / "toy").exists() and capsys.readouterr().out == ""
    (world / "rules.yaml").write_text("")
    runner.check(load(world, "rules_path: rules.yaml"), world / "runs")


@pytest.mark.parametrize("more", ["", "stages: [02_second]\n"])
@pytest.mark.parametrize("fresh", [False, True])
def test_what_lies_in_the_run_s_own_folder_is_refused_as_an_input_and_stays(world, quick, fresh, more):
    """Review sheets had been filled where the page left them, and the stage that was to read them began anew."""
    run(world)
    sheet = world / "runs" / "toy" / "data" / "left"
    (world / "link").symlink_to(sheet.parent)
    with pytest.raises(recipes.RecipeError, match=rf"^source_path: {sheet} lies in this run's own .*\n.*copy it else"):
        run(world, f"{more}source_path: link/left", fresh=fresh)
    assert sheet.is_file() and quick == ["01_first", "02_second"]
    other = load(world, "name: other\nsource_path: runs/toy/data/left")  # another run may read it
    assert not runner.is_current(other, recipes.declared_in(world / "notebooks"), world / "runs")


def test_a_check_says_what_would_run_and_changes_nothing(world, capsys):
    recipe = load(world, "rows: 4")
    runner.check(recipe, world / "runs")
    assert capsys.readouterr().out == (
        "The recipe is right. Run folder: runs/toy\n01_first: would run\n02_second: would run\n"
    )
    assert not (world / "runs").exists()
    run(world, "rows: 4\nstages: [01_first]")
    capsys.readouterr()
    runner.check(load(world, "name: other\nrows: 4"), world / "runs", shared=True)
    assert "01_first: up to date, or copied\n02_second: would run\n" in capsys.readouterr().out
    runner.check(load(world, "rows: 5"), world / "runs")
    assert "01_first: would run (parameters changed: rows)\n02_second: would run\n" in capsys.readouterr().out


def test_a_run_in_a_folder_with_braces_in_its_name(world, monkeypatch):
    notebooks, runs = world / "{a} {}" / "notebooks", world / "{runs}"
    monkeypatch.setattr(runner, "NOTEBOOKS", notebooks)
    notebook(notebooks / "01_first.ipynb", FIRST, "print(run_dir)")
    recipe = load(world, "stages: [01_first]")
    index = runner.execute(recipe, runs=runs)
    assert str(runs / "toy") in index.with_name("01_first.html").read_text()


def test_a_study_of_other_runs_is_made_only_where_a_recipe_names_it():
    declared = recipes.declared_in(NOTEBOOKS)
    quickstart, study = (
        recipes.load(NOTEBOOKS.parent / "params" / f"{name}.yaml", declared) for name in ("quickstart", "study")
    )
    assert "06_study" not in runner.stage_order(quickstart, declared)
    assert runner.stage_order(study, declared) == ["06_study"]


def test_a_run_that_does_not_exist_is_named_with_those_that_do(world, monkeypatch):
    (world / "runs" / "quickstart" / ".stages").mkdir(parents=True)
    (world / "runs" / "stray").mkdir()
    with pytest.raises(kernels.RunError, match=r'There are: quickstart\. Did you mean "quickstart"\?'):
        runner.existing_run("quickstar")
    for name in ("quickstart", "runs/quickstart"):
        assert runner.existing_run(name).path.resolve() == (world / "runs" / "quickstart").resolve()
    monkeypatch.chdir(world / "runs" / "quickstart")
    assert runner.existing_run(".").path.name == "quickstart"  # which its pages are headed by


@pytest.fixture
def quick(monkeypatch):
    """Runs without kernels: each stage leaves a file in its folder; the names of the stages that ran."""
    ran = []

    def leave(source, target, given, output, variables):
        ran.append(source.stem)
        assert given == {"run_dir": given["run_dir"]} | ({"rows": 9} if "rows" in given else {})
        assert "OMP_NUM_THREADS" in variables
        folder = Path(given["run_dir"]) / FOLDERS[source.stem][0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "left").write_text("x")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        return {"seconds": 1.0, "peak_memory_gb": 0.5}

    monkeypatch.setattr(kernels, "run_notebook", leave)
    return ran


def test_a_fresh_run_begins_from_nothing(world, quick):
    place = RunFolder(world / "runs" / "toy")
    place.path.mkdir(parents=True)
    run(world)
    (place.path / "stray").write_text("old")
    run(world)
    assert quick == ["01_first", "02_second"] and (place.path / "stray").exists()
    run(world, fresh=True)
    assert quick == ["01_first", "02_second"] * 2 and not (place.path / "stray").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_disk_that_takes_no_more_is_told_with_the_run_the_stage_and_the_way_on(world, quick, monkeypatch, number):
    leave = kernels.run_notebook

    def full(source, *more):
        if source.stem == "02_second":
            raise OSError(number, os.strerror(number))
        return leave(source, *more)

    with monkeypatch.context() as patch, pytest.raises(kernels.RunError) as caught:
        patch.setattr(kernels, "run_notebook", full)
        run(world)
    assert os.strerror(number) in str(caught.value) and "run runs/toy stopped in stage 02_second" in str(caught.value)
    assert str(caught.value).endswith("Make room or lift the limit; then the same command goes on.")
    run(world)
    assert quick == ["01_first", "02_second"]


def test_another_error_of_the_system_stays_what_it_is(world, quick, monkeypatch):
    monkeypatch.setattr(runner.provenance, "record", lambda *_: (world / "none").read_text())
    with pytest.raises(FileNotFoundError):
        run(world)


def test_a_stage_by_itself_is_up_to_date_where_those_that_it_reads_are(world, quick, capsys):
    run(world)
    capsys.readouterr()
    run(world, "stages: [02_second]")
    assert quick == ["01_first", "02_second"] and capsys.readouterr().out == "02_second: up to date\n"
    run(world, "rows: 9\nstages: [01_first]")
    run(world, "stages: [02_second]")
    assert quick[2:] == ["01_first", "02_second"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_stage_by_itself_whose_keys_differ_from_those_of_a_finished_one_is_refused(world, quick, shared):
    """The second notebook has the key `rows`, too; in another run it has finished with the other value."""
    notebook(world / "notebooks" / "02_second.ipynb", f"{SECOND}\nrows: int = 3  # rows to write")
    run(world, "name: other\nrows: 9")
    run(world)
    recipe = (world / "runs" / "toy" / "recipe.yaml").read_text()
    for work in (runner.execute, runner.check):
        with pytest.raises(recipes.RecipeError, match="rows is 3 in 01_first, which has finished, and 9 here"):
            work(load(world, "rows: 9\nstages: [02_second]"), runs=world / "runs", shared=shared)
    assert len(quick) == 4 and (world / "runs" / "toy" / "recipe.yaml").read_text() == recipe
    run(world, "rows: 9\nstages: [01_first]", shared=shared)  # which takes away what the second made of it
    run(world, "rows: 9\nstages: [02_second]", shared=shared)
    assert "rows: 9" in (world / "runs" / "toy" / "recipe.yaml").read_text()


def test_the_recipe_of_a_run_keeps_the_keys_of_stages_that_are_not_asked_for_while_they_stay(world, quick):
    place = RunFolder(world / "runs" / "toy")
    run(world, "rows: 9")
    recipe, facts = yaml.safe_load(place.recipe.read_text()), read_json(place.provenance)
    run(world, "rate: 0.1\nstages: [02_second]")  # the first, whose key this is, does not run
    assert yaml.safe_load(place.recipe.read_text()) == recipe and read_json(place.provenance) == facts
    (place.path / "model" / "left").unlink()
    run(world, "stages: [02_second]")
    assert yaml.safe_load(place.recipe.read_text()) == recipe and read_json(place.provenance)["recipe"]["rows"] == 9
    run(world, "stages: [01_first]")  # which takes away what the second made of it
    recipe = yaml.safe_load(place.recipe.read_text())
    assert recipe["rows"] == 3 and recipe["stages"] == ["01_first"] and "factor" not in recipe


def test_stages_that_are_not_asked_for_lose_what_they_made_of_an_older_one(world, quick):
    place = RunFolder(world / "runs" / "toy")
    run(world)
    run(world, "rows: 9\nstages: [01_first]")
    assert quick[2:] == ["01_first"] and stages.state(place, "02_second") is None
    assert not (place.path / "model").exists()
    assert list(read_json(place.provenance)["stages"]) == ["01_first"]  # nor do their costs count


def test_a_check_tells_of_outputs_that_are_gone_and_of_a_stage_that_was_interrupted(world, quick, capsys):
    place, recipe = RunFolder(world / "runs" / "toy"), load(world, "")
    run(world)
    (place.path / "model" / "left").unlink()
    state = stages.state(place, "01_first")
    write_json(state | {"finished": False}, place.state("01_first"))
    capsys.readouterr()
    runner.check(recipe, world / "runs")
    told = capsys.readouterr().out.splitlines()[1:]
    assert told == ["01_first: would go on", "02_second: would run (its outputs are gone)"]


def test_another_run_s_stage_is_copied_only_where_that_is_asked_for(world, quick):
    for name in ("one", "two"):
        run(world, f"name: {name}\nstages: [01_first]")
    assert quick == ["01_first"] * 2


def test_other_threads_run_the_stages_again_and_a_run_of_nothing_keeps_its_record(world, quick, monkeypatch):
    place = RunFolder(world / "runs" / "toy")
    commits = iter("abc")
    monkeypatch.setattr(runner.provenance, "_output", lambda *call: next(commits) if "rev-parse" in call else "")
    run(world, "threads: 2")
    recorded = read_json(place.provenance)
    run(world, "threads: 2")
    assert read_json(place.provenance) == recorded and len(quick) == 2
    run(world, "threads: 1")
    again = read_json(place.provenance)
    assert (again["threads"], again["commit"], len(quick)) == (1, "b", 4)
    assert {(stage["threads"], stage["commit"]) for stage in again["stages"].values()} == {(1, "b")}


def test_threads_count_by_the_number_that_the_kernels_have_whoever_chose_it(world, quick, monkeypatch):
    for threads, text, ran in (("2", "", 2), ("", "threads: 2", 2), ("1", "", 4), ("2", "threads: 1", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        run(world, text)
        assert len(quick) == ran
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    run(world, "name: other", shared=True)  # there is none of two threads to be copied
    assert len(quick) == 6


def test_a_finished_stage_that_declares_threads_leaves_those_of_other_stages_free(world, quick, monkeypatch):
    notebook(world / "notebooks" / "02_second.ipynb", f"{SECOND}\nthreads: int = 0  # CPU threads")
    monkeypatch.setattr(stages, "READS", {})  # as the benchmark reads nothing
    place = RunFolder(world / "runs" / "toy")
    for threads, text in (("2", ""), ("1", "stages: [01_first]")):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        run(world, text)
    facts = read_json(place.provenance)
    assert {name: stage["threads"] for name, stage in facts["stages"].items()} == {"01_first": 1, "02_second": 2}
    assert yaml.safe_load(place.recipe.read_text())["threads"] == 0 and "threads" not in facts["recipe"]


def test_settings_are_checked_of_the_stages_that_will_begin_but_the_first_of_a_run(world, quick, monkeypatch):
    checked = []
    monkeypatch.setattr(kernels, "check_settings", lambda source, *_: checked.append(source.stem) or "")
    run(world)
    run(world)
    assert checked == ["02_second"]
    runner.check(load(world, ""), world / "runs")
    assert checked[1:] == ["01_first", "02_second"]
    place = RunFolder(world / "runs" / "toy")
    for stage in ("01_first", "02_second"):
        write_json(stages.state(place, stage) | {"finished": False}, place.state(stage))
    run(world)  # goes on with what was checked before it began
    assert len(checked) == 3 and len(quick) == 4


def test_a_run_is_current_until_its_recipe_says_something_else(world, quick):
    run(world)
    declared = recipes.declared_in(world / "notebooks")
    current = [runner.is_current(load(world, text), declared, world / "runs") for text in ("", "rows: 9")]
    assert current == [True, False]


def test_a_run_stays_current_where_the_project_is_moved_and_the_files_of_its_defaults_with_it(
    world, quick, monkeypatch
):
    notebook(world / "notebooks" / "02_second.ipynb", f'{SECOND}\nrules_path: str = "rules.yaml"  # rules')
    (world / "rules.yaml").write_text("rules: []")
    run(world)
    run(world, "stages: [01_first]")  # whose recipe keeps what the second stage had
    assert "rules_path" not in (world / "runs" / "toy" / "recipe.yaml").read_text()
    (world / "elsewhere").mkdir()
    for name in ("rules.yaml", "runs"):
        (world / name).rename(world / "elsewhere" / name)
    for module in (folder, stages):
        monkeypatch.setattr(module, "ROOT", world / "elsewhere")
    now = load(world, ""), recipes.declared_in(world / "notebooks"), world / "elsewhere" / "runs"
    assert runner.is_current(*now)
    (world / "elsewhere" / "rules.yaml").write_text("rules: [x]")
    assert not runner.is_current(*now)


def test_a_notebook_that_is_no_stage_is_refused(world, quick):
    notebook(world / "notebooks" / "03_third.ipynb", FIRST)
    with pytest.raises(kernels.RunError, match='there is no notebook "03_third"'):
        run(world, "stages: [01_first, 03_third]")


def test_the_threads_of_a_run_fit_the_model_of_its_recipe(world, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(kernels, "cores", lambda: 8)
    notebook(world / "notebooks" / "03_third.ipynb", 'backbone: str = "tiny"  # model\nhidden_size: int = 96  # width')
    for text, threads in (("", "2"), ("backbone: some/model", "8"), ("threads: 5", "5")):
        declared = recipes.declared_in(world / "notebooks")
        assert runner._variables(load(world, text), declared)["OMP_NUM_THREADS"] == threads
