"""Where things are: the project's folders, and the paths inside a run that the command line reads or writes; and how
a run ends early.

Rooms of the science take paths and know no run. A notebook begins with `open_run`, which works the same under
`r2ec run`, Papermill and JupyterLab; what it keeps is in the folders that `STAGES` gives it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from r2ec_lib.data.storage import write_text
from r2ec_lib.workflow import recipes
from r2ec_lib.workflow.recipes import RecipeError

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "runs"
LIBRARY = ROOT / "r2ec_lib"

STAGES = {
    "01_data_preparation": ("data",),
    "02_training": ("training", "model", "model_item_only"),
    "10_variant": ("evaluation",),
    "03_evaluation": ("evaluation",),
    "04_reasoning": ("reasoning",),
    "05_oversight": ("oversight",),
    "09_student": ("student", "model/student"),
    "08_try_it": ("try_it",),
    "06_study": ("study",),
    "07_benchmark": ("benchmark",),
    "11_ablations": ("ablations",),
}
"""The stages in the order in which they run, with the folders of a run that each owns; the first of them gets its
metrics.json. A person tries the model with its student, so the student comes first."""
READS = {
    "02_training": ("data",),
    "10_variant": ("data", "training"),
    "03_evaluation": ("data", "training"),
    "04_reasoning": ("data", "training", "evaluation"),
    "05_oversight": ("data", "training", "evaluation", "reasoning"),
    "09_student": ("data", "training", "evaluation"),
    "08_try_it": ("data", "training", "student"),
}
"""What each stage reads of others in the run, as the first of their folders. A stage runs again only where one of
these has changed."""
OPTIONAL = ("student",)
"""What is read where it is there, and not missed otherwise."""
ON_REQUEST = ("06_study", "07_benchmark", "10_variant", "11_ablations")
"""Stages that run only where a recipe names them. A row of a study has 10 in place of 03: both read the test once."""


class RunError(RuntimeError):
    """A run that cannot go on; the message says where it stopped, why, and what to do."""


class Stopped(KeyboardInterrupt):
    """A signal ended the run; a KeyboardInterrupt, since asyncio passes on no other from anywhere in its loop."""

    def __init__(self, number: int):
        self.number = number


class _Inside:
    """A path inside a run, as an attribute of `RunFolder`."""

    def __init__(self, path: str):
        self.path = path

    def __get__(self, run: "RunFolder", owner: type) -> Path:
        return run.path / self.path


@dataclass(frozen=True)
class RunFolder:
    """The paths inside the run in `path`; none needs to exist.

    >>> RunFolder(Path("runs/quickstart")).index.as_posix()
    'runs/quickstart/report/index.html'
    """

    path: Path

    recipe = _Inside("recipe.yaml")
    provenance = _Inside("provenance.json")
    states = _Inside(".stages")
    notebooks = _Inside("notebooks")  # as executed
    report = _Inside("report")
    index = _Inside("report/index.html")
    rankings = _Inside("evaluation/rankings.parquet")

    def metrics(self, folder: str) -> Path:
        """The figures of a stage, which it writes last, into the first of its folders."""
        return self.path / folder / "metrics.json"

    def notebook(self, stage: str) -> Path:
        """The executed copy of a stage's notebook."""
        return self.notebooks / f"{stage}.ipynb"

    def state(self, stage: str) -> Path:
        """What `stages` notes of a stage."""
        return self.states / f"{stage}.json"

    def exists(self) -> bool:
        """Whether the folder is a run: its own files say so."""
        return self.recipe.is_file() or self.states.is_dir()


def open_run(stage: str, variables: Mapping[str, Any], *, tries: bool = False) -> RunFolder:
    """The run that a notebook works in, once it is clear that the notebook may and that its parameters are right.

    A key has one value throughout a run. What the notebook's parameters say is compared with the run's recipe.yaml;
    keys that are new to it are added, so that runs made by hand have a recipe, too.

    Args:
        stage: name of the notebook; its `parameters` cell says which variables count.
        variables: `globals()` of the notebook, `run_dir` among them; relative paths are taken from the
            project's folder.
        tries: whether a person tries values in the notebook, which then need not be the recipe's nor come into it.

    Raises:
        RecipeError: a parameter of another type or out of its range, an earlier notebook that this one `READS` has not
            finished, or the folder is the run of another recipe.
    """
    declared = recipes.declared(NOTEBOOKS / f"{stage}.ipynb")
    problems = [recipes.unfit(key, variables[key], parameter.type) for key, parameter in declared.items()]
    if any(problems):
        raise RecipeError("\n".join(filter(None, problems)))
    run = RunFolder(project_path(variables["run_dir"]))
    for folder in READS.get(stage, ()):
        if folder not in OPTIONAL and not run.metrics(folder).is_file():
            before = next((name for name, owned in STAGES.items() if folder in owned), folder)
            raise RecipeError(
                f"{shown(run.path)} holds no finished {folder}. Run {before}.ipynb with the same run_dir first, or "
                "all notebooks of a recipe: r2ec run params/quickstart.yaml."
            )
    if tries:
        return run
    text = run.recipe.read_text(encoding="utf-8") if run.recipe.is_file() else ""
    stored = yaml.safe_load(text) or {}
    chosen = {key: variables[key] for key in declared if key not in recipes.PLACES}
    for key, value in chosen.items():
        if value != declared[key].default:  # a default is the same file wherever the project lies
            chosen[key] = value = recipes.absolute(key, value, ROOT)
        if key in stored and recipes.absolute(key, stored[key], ROOT) != recipes.absolute(key, value, ROOT):
            raise RecipeError(
                f"{shown(run.path)} is the run of another recipe: {key} is {stored[key]!r} in its recipe.yaml and "
                f"{value!r} here. Choose another run_dir, such as runs/my_run, or the value that the run has."
            )
    if new := {key: value for key, value in chosen.items() if key not in stored}:
        added = yaml.safe_dump(new, allow_unicode=True, sort_keys=False)
        write_text(f"{text}\n# {stage}, as the notebook had them\n{added}", run.recipe)
    return run


def project_path(path: str) -> Path:
    """`path` as a parameter of a notebook names it: relative ones are taken from the project's folder."""
    return ROOT / Path(path).expanduser()


def shown(path: Path) -> str:
    """`path` as seen from the working directory, for messages."""
    return os.path.relpath(path)
