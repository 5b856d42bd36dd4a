"""How a notebook opens its run: under `r2ec run`, under Papermill, and by hand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workflow.toy import notebook

from r2ec_lib.data import storage
from r2ec_lib.workflow import cli, folder, recipes
from r2ec_lib.workflow.folder import RunFolder, open_run

ROOT = Path(__file__).parents[2]
VALUES = {"run_dir": "runs/toy", "rows": 3, "source_path": "", "rate": 0.5, "ks": [5, 10], "limit": None}
VALUES |= {"estimator": "grpo", "other_variable": object()}


def opened(world: Path, stage: str = "01_first", **changes) -> RunFolder:
    return open_run(stage, VALUES | changes)


def test_paths_of_a_run_are_inside_it():
    run = RunFolder(Path("runs/x"))
    paths = [getattr(run, name) for name, value in vars(RunFolder).items() if isinstance(value, folder._Inside)]
    assert len(paths) == len(set(paths)) > 5 and all(path.is_relative_to(run.path) for path in paths)
    assert run.metrics("data") == run.path / "data" / "metrics.json" and run.index.parent == run.report


def test_every_folder_of_a_stage_belongs_to_it_alone():
    """But for that of the evaluation, which a row of a study has in place of the usual one."""
    owned = [name for stage, folders in folder.STAGES.items() for name in folders if stage != "10_variant"]
    assert folder.STAGES["10_variant"] == folder.STAGES["03_evaluation"]
    assert len(owned) == len(set(owned))


def test_a_stage_reads_what_stages_before_it_leave():
    stages = list(folder.STAGES)
    for stage, read in folder.READS.items():
        owners = {name: [other for other in stages if folder.STAGES[other][0] == name] for name in read}
        assert all(found and stages.index(found[-1]) < stages.index(stage) for found in owners.values()), (
            stage,
            owners,
        )


@pytest.mark.parametrize("stage", folder.STAGES)
def test_a_notebook_names_no_folder_of_a_run_that_it_does_not_read(stage):
    """Otherwise it would not run again where that has changed."""
    cells = storage.read_json(folder.NOTEBOOKS / f"{stage}.ipynb")["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    named = set(re.findall(r'\b(?:run|run\.path) / "(\w+)"', code))
    read = folder.READS.get(stage, ())
    owners = [stage, *(name for name, owned in folder.STAGES.items() if owned[0] in read)]
    assert named <= {name for owner in owners for name in folder.STAGES[owner]}
    assert named or stage in ("01_data_preparation", "06_study", "07_benchmark", "11_ablations")


def test_a_run_lies_in_the_project_wherever_the_kernel_starts(world, monkeypatch):
    monkeypatch.chdir(world / "notebooks")
    assert opened(world).path == world / "runs" / "toy"
    monkeypatch.setenv("HOME", str(world))
    for elsewhere in (str(world / "elsewhere"), "~/elsewhere"):
        assert opened(world, run_dir=elsewhere).path == world / "elsewhere"
    assert folder.project_path("params/x.yaml") == world / "params" / "x.yaml"


def test_a_notebook_opened_too_early_names_the_one_before(world, monkeypatch):
    monkeypatch.setattr(folder, "READS", {"01_first": ("data", "training", "student")})  # a student is optional
    storage.write_json({}, RunFolder(world / "runs" / "toy").metrics("data"))
    (world / "runs" / "toy" / "training").mkdir()  # begun, not finished
    with pytest.raises(recipes.RecipeError, match=r"runs/toy holds no finished training\. Run 02_training\.ipynb"):
        opened(world)
    with pytest.raises(recipes.RecipeError, match=r"no finished data\. Run 01_data_preparation\.ipynb .* r2ec run"):
        opened(world, run_dir="runs/other")
    storage.write_json({}, RunFolder(world / "runs" / "toy").metrics("training"))
    assert opened(world).path == world / "runs" / "toy"


def test_a_run_made_by_hand_has_a_recipe(world):
    run = opened(world)
    assert yaml.safe_load(run.recipe.read_text()) == {
        key: value for key, value in VALUES.items() if key not in ("run_dir", "other_variable")
    }
    written = run.recipe.read_text()
    assert opened(world) == run and run.recipe.read_text() == written
    notebook(world / "notebooks" / "03_third.ipynb", 'run_dir: str = "runs/toy"  # run\nmore: int = 1  # more')
    open_run("03_third", {"run_dir": "runs/toy", "more": 1})
    assert run.recipe.read_text().startswith(written) and yaml.safe_load(run.recipe.read_text())["more"] == 1


@pytest.mark.parametrize(
    ("key", "value"), [("rows", 4), ("limit", 0.0), ("ks", [5]), ("source_path", "log.csv"), ("rate", 1.0)]
)
def test_the_run_of_another_recipe_is_not_overwritten(world, key, value):
    before = opened(world).recipe.read_text()
    with pytest.raises(recipes.RecipeError, match=rf"runs/toy is the run of another recipe: {key} is"):
        opened(world, **{key: value})
    assert (world / "runs" / "toy" / "recipe.yaml").read_text() == before


def test_what_a_person_tries_on_a_finished_run_need_not_be_its_recipe_and_does_not_come_into_it(world):
    written = opened(world).recipe.read_text()
    run = open_run("01_first", VALUES | {"rows": 4}, tries=True)
    assert run == opened(world) and run.recipe.read_text() == written
    with pytest.raises(recipes.RecipeError, match="rows: expected int"):
        open_run("01_first", VALUES | {"rows": "x"}, tries=True)


def test_parameters_that_are_wrong_are_told_before_anything_is_written(world):
    """As in a recipe, for Papermill by itself and for a person in JupyterLab."""
    notebook(
        world / "notebooks" / "03_third.ipynb",
        'run_dir: str = ""  # run\nworkers: int = 2  # w\nrate: float = 1.0  # r',
    )
    values = {"run_dir": "runs/toy", "workers": 0, "rate": "1e-4"}
    with pytest.raises(recipes.RecipeError, match=r"workers is 0; expected 1 .*\nrate: 1e-4 is text in YAML"):
        open_run("03_third", values)
    assert not (world / "runs").exists()


def test_the_same_file_named_from_elsewhere_is_the_same_recipe(world):
    opened(world, source_path="log.csv")
    assert opened(world, source_path=str(world / "log.csv"))


def test_a_default_file_is_the_same_recipe_where_the_project_is_moved(world, monkeypatch):
    notebook(world / "notebooks" / "03_third.ipynb", 'run_dir: str = "r"  # run\nrules_path: str = "x.yaml"  # rules')
    run = str(world / "run")
    open_run("03_third", {"run_dir": run, "rules_path": "x.yaml"})
    open_run("03_third", {"run_dir": run, "rules_path": str(world / "x.yaml")})
    monkeypatch.setattr(folder, "ROOT", world / "elsewhere")
    open_run("03_third", {"run_dir": run, "rules_path": "x.yaml"})
    with pytest.raises(recipes.RecipeError, match=r"rules_path is 'x\.yaml' .* and '.*elsewhere/y\.yaml' here"):
        open_run("03_third", {"run_dir": run, "rules_path": "y.yaml"})


# -- Papermill by itself ----------------------------------------------------------------------------------------------

SCRIPT = """import sys; from pathlib import Path; from r2ec_lib.workflow import cli
if notebooks := {notebooks!r}: cli.NOTEBOOKS, cli.RUNS = Path(notebooks), Path(notebooks).parent / "runs"
sys.exit(cli.main())"""


def papermill(cwd: Path, notebook: Path, recipe: Path, *further: str, notebooks: Path | None = None):
    """The command of the README, typed in `cwd` with `further` words after it; returns the process."""
    r2ec = f'"{sys.executable}" -c "$SCRIPT"'
    command = f'"{sys.executable}" -m papermill "{os.path.relpath(notebook, cwd)}" out.ipynb --no-progress-bar '
    command += f'-y "$({r2ec} recipe "{os.path.relpath(recipe, cwd)}" --stage 01)" {shlex.join(further)}'
    script = SCRIPT.format(notebooks=str(notebooks) if notebooks else "")
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "SCRIPT": script}
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=variables, capture_output=True, text=True)


def test_papermill_by_itself_runs_a_resolved_recipe_from_any_folder(world, monkeypatch, capsys):
    """A base is merged, the run is named after the recipe, and no key is unknown to the notebook."""
    (world / "base.yaml").write_text("rows: 7\nfactor: 3.0\n")
    (world / "toy.yaml").write_text("base: base.yaml\nrate: 0.25\n")
    (world / "other").mkdir()
    monkeypatch.setattr(cli, "NOTEBOOKS", world / "notebooks")
    monkeypatch.setattr(cli, "RUNS", world / "runs")
    for start in (".", "notebooks", "other"):
        monkeypatch.chdir(world / start)
        assert cli.main(["recipe", os.path.relpath(world / "toy.yaml"), "--stage", "01"]) == 0
        resolved = yaml.safe_load(capsys.readouterr().out)
        assert resolved == {"run_dir": str(world / "runs" / "toy"), "rows": 7, "rate": 0.25}
    stage = world / "notebooks" / "01_first.ipynb"
    done = papermill(world / "other", stage, world / "toy.yaml", notebooks=world / "notebooks")
    assert done.returncode == 0 and "unknown parameter" not in done.stderr, done.stderr
    assert (world / "runs" / "toy" / "data" / "rows").read_text() == "7"


def test_papermill_by_itself_prepares_the_data_of_the_smallest_recipe(tmp_path):
    stage = ROOT / "notebooks" / "01_data_preparation.ipynb"
    run = RunFolder(tmp_path / "run")
    done = papermill(tmp_path, stage, ROOT / "params" / "smoke.yaml", "-p", "run_dir", str(run.path))
    assert done.returncode == 0 and "unknown parameter" not in done.stderr, done.stderr
    assert storage.read_json(run.metrics("data"))
    assert len(storage.read_table(run.path / "data" / "items.parquet")) <= 900


def test_a_folder_is_a_run_by_its_own_files(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert not run.exists()
    run.path.mkdir()
    assert not run.exists()
    run.states.mkdir()
    assert run.exists()
    run.states.rmdir()
    run.recipe.write_text("")
    assert run.exists()
