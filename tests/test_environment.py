"""What is promised to a new user: one list of pins, two ways to the same environment, clean notebooks."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from r2ec_lib.workflow import recipes

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {
    canonicalize_name(pin.name): pin.specifier
    for pin in (Requirement(line) for line in CONSTRAINTS if not line.startswith("#"))
}
ROOMS = sorted(path.parent.name for path in (ROOT / "r2ec_lib").glob("*/__init__.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DECLARED = recipes.declared_in(ROOT / "notebooks")
OTHER = ("accelerate", "guardrails", "ablations")  # folders of params/ that hold no recipes
RECIPES = sorted(path for path in (ROOT / "params").rglob("*.yaml") if path.parent.name not in OTHER)


def test_conda_and_make_install_the_same_extras_under_the_same_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}" and pip == "pip"
    assert section == {"pip": ["-c constraints.txt", "-e .[notebooks,dev]"]}
    command = ["make", "--dry-run", "--always-make", ".venv/ready", "PYTHON=true"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert "--constraint constraints.txt --editable '.[notebooks,dev]'" in told


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_make_installs_again_when_the_dependencies_change(file, tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").mkdir()
    for name in ("pyproject.toml", "constraints.txt", ".venv/ready"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (100, 100))
    question = ["make", "--question", ".venv/ready"]
    assert subprocess.run(question, cwd=tmp_path).returncode == 0
    (tmp_path / file).touch()
    assert subprocess.run(question, cwd=tmp_path).returncode == 1


def test_continuous_integration_checks_style_and_types_before_the_tests():
    assert re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE) == ["lint", "test"]


def test_what_is_installed_is_what_is_pinned():
    installed = {canonicalize_name(found.metadata["Name"]): found.version for found in metadata.distributions()}
    needed = map(Requirement, chain(PROJECT["dependencies"], EXTRAS["notebooks"], EXTRAS["dev"]))
    assert not {canonicalize_name(requirement.name) for requirement in needed} - set(installed)
    pins = {name: pin for name, pin in PINS.items() if name in installed}
    wrong = [f"{pin} but {installed[name]}" for name, pin in pins.items() if not pin.contains(installed[name])]
    assert not wrong


def test_every_direct_dependency_has_a_range_and_in_it_an_exact_pin():
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *EXTRAS.values())):
        (pin,) = PINS[canonicalize_name(requirement.name)]
        assert pin.operator == "==" and not pin.version.endswith("*")
        assert {bound.operator for bound in requirement.specifier} == {">=", "<"}
        assert requirement.specifier.contains(pin.version)


def test_constraints_pin_each_package_once_for_every_platform_and_name_no_place():
    lines = [line for line in CONSTRAINTS if not line.startswith("#")]
    assert len(lines) == len(PINS) > 100
    for requirement in map(Requirement, lines):
        assert not requirement.url and not requirement.extras and not requirement.marker
        (pin,) = requirement.specifier
        assert "+" not in pin.version  # 2.13.0 also admits 2.13.0+cpu, not the other way round


@pytest.fixture(scope="module")
def providers():
    """The packages that have each module."""
    return metadata.packages_distributions()


@pytest.mark.parametrize("room", ROOMS)
def test_the_library_installs_without_the_notebooks_packages(room, providers):
    """What a room imports on being imported is a core dependency; `workflow` alone may need the extra `notebooks`."""
    allowed = PROJECT["dependencies"] + (EXTRAS["notebooks"] if room == "workflow" else [])
    declared = {canonicalize_name(Requirement(text).name) for text in allowed}
    for path in (ROOT / "r2ec_lib" / room).rglob("*.py"):
        for module in sorted(imported(path) - sys.stdlib_module_names - {"r2ec_lib"}):
            assert declared & {canonicalize_name(name) for name in providers[module]}, f"{path.name} imports {module}"


def imported(path: Path) -> set[str]:
    """The packages that a module imports as soon as it is imported itself."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_templates_and_tables_travel_with_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folders = {package: ROOT / package.replace(".", "/") for package in patterns}
    packed = {path for package in patterns for pattern in patterns[package] for path in folders[package].glob(pattern)}
    files = {path for path in (ROOT / "r2ec_lib").rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert files == packed


def test_make_without_a_suitable_python_says_so():
    done = subprocess.run(
        ["make", "--silent", "--always-make", "PYTHON=false", "test"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0 and "needs Python 3.11 or newer" in done.stderr


@pytest.mark.parametrize(("goal", "recipe"), [("report", "quickstart"), ("seeds", "bazaar")])
def test_make_has_a_recipe_for_a_first_report_and_one_for_results_over_seeds(goal, recipe):
    told = subprocess.run(["make", "--dry-run", goal], cwd=ROOT, capture_output=True, text=True).stdout
    assert f"r2ec run params/{recipe}.yaml" in told


def test_make_seeds_runs_the_recipe_once_a_seed_and_then_the_study_of_them():
    command = ["make", "--dry-run", "seeds", "RECIPE=params/smoke.yaml", "SEEDS=3 5"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert "for seed in 3 5; do" in told and "--name smoke-seed$seed -p seed=$seed" in told
    assert "--name smoke-seeds" in told and '-p "study_runs=[smoke-seed3,smoke-seed5]"' in told


@pytest.mark.parametrize(("choice", "seeds"), [([], ""), (["SEEDS=3 5"], "--seeds 3 5")])
def test_make_ablations_runs_the_study_with_its_own_seeds_or_those_asked_for(choice, seeds):
    told = subprocess.run(["make", "--dry-run", "ablations", *choice], cwd=ROOT, capture_output=True, text=True).stdout
    assert told.splitlines()[-1].strip() == f".venv/bin/r2ec study params/ablations/study.yaml {seeds}".strip()


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
    declared = {key for parameters in DECLARED.values() for key in parameters}
    for cell in nbformat.read(path, as_version=4).cells:
        conditions = [tag for tag in cell.metadata.get("tags", []) if tag.startswith("only:")]
        keys = [re.split("!?=", tag.removeprefix("only:"))[0] for tag in conditions]
        assert set(keys) <= declared
        if cell.cell_type == "code":
            (sometimes if conditions else always).append(cell)
    assert not (names(sometimes, ast.Store) - names(always, ast.Store)) & names(always, ast.Load)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_explained(path):
    parameters = DECLARED[path.stem]
    assert parameters["run_dir"].type == "str" and parameters["seed"].default == 0
    assert not [name for name, parameter in parameters.items() if not parameter.comment]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_right_and_says_what_it_is_for(path):
    recipes.load(path, DECLARED)
    assert path.read_text().startswith("# ")
    names = re.findall(r"^(\w+):", path.read_text(), re.MULTILINE)
    assert len(names) == len(set(names))
