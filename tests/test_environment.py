"""What is promised to a new user: one list of pins, two ways to the same environment, clean notebooks."""

import ast
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

from r2ec_lib.workflow import recipes

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OTHER = ("accelerate", "guardrails")  # folders of params/ that hold no recipes
RECIPES = sorted(path for path in (ROOT / "params").rglob("*.yaml") if path.parent.name not in OTHER)


def test_conda_takes_its_packages_from_pyproject_alone():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}" and pip == "pip"
    assert section == {"pip": ["-e .[dev]"]} and "dev" in PROJECT["optional-dependencies"]


def test_what_is_installed_is_what_is_pinned():
    pins = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
    wrong = [f"{pin} but {have}" for pin in pins if not pin.specifier.contains(have := metadata.version(pin.name))]
    assert not wrong


def test_every_pin_names_a_version():
    assert all(Requirement(text).specifier for text in PROJECT["dependencies"])


def test_the_report_s_templates_travel_with_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "r2ec_lib.workflow"
    ]
    packed = {path for pattern in patterns for path in (ROOT / "r2ec_lib" / "workflow").glob(pattern)}
    assert packed == {path for path in (ROOT / "r2ec_lib" / "workflow" / "templates").rglob("*") if path.is_file()}


def test_make_without_a_suitable_python_says_so():
    done = subprocess.run(
        ["make", "--silent", "--always-make", "PYTHON=false", "test"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0 and "needs Python 3.11 or newer" in done.stderr


def test_make_seeds_runs_the_recipe_once_a_seed_and_then_the_study_of_them():
    command = ["make", "--dry-run", "seeds", "RECIPE=params/smoke.yaml", "SEEDS=3 5"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert "for seed in 3 5; do" in told and "--name smoke-seed$seed -p seed=$seed" in told
    assert "--name smoke-seeds" in told and '-p "study_runs=[smoke-seed3,smoke-seed5]"' in told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_clean_and_hold_no_logic(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert not any(cell.outputs or cell.execution_count for cell in code)
    for cell in code:
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in nodes)
        tagged = "parameters" in cell.metadata.get("tags", [])
        assert tagged or len(cell.source.splitlines()) <= 15, cell.source


def names(cells, context):
    """Names that code cells bind (ast.Store; arguments of a lambda too) or read (ast.Load)."""
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)} if context is ast.Store else set()
    return bound | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_that_concern_some_runs_alone_say_which_and_are_needed_by_no_other_cell(path):
    always, sometimes = [], []
    for cell in nbformat.read(path, as_version=4).cells:
        conditions = [tag for tag in cell.metadata.get("tags", []) if tag.startswith("only:")]
        assert set(conditions) <= {"only:source=bazaar", "only:backbone=tiny"}
        if cell.cell_type == "code":
            (sometimes if conditions else always).append(cell)
    assert not (names(sometimes, ast.Store) - names(always, ast.Store)) & names(always, ast.Load)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_explained(path):
    parameters = recipes.declared(path)
    assert parameters["run_dir"].type == "str" and parameters["seed"].default == 0
    assert not [name for name, parameter in parameters.items() if not parameter.comment]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_right_and_says_what_it_is_for(path):
    recipes.load(path, recipes.declared_in(ROOT / "notebooks"))
    assert path.read_text().startswith("# ")
    names = re.findall(r"^(\w+):", path.read_text(), re.MULTILINE)
    assert len(names) == len(set(names))
