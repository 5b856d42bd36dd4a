"""The plan of the house: imports between rooms run one way, and no two modules import each other."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "r2ec_lib"
MAY_IMPORT = {
    "data": set(),
    "model": {"data"},
    "bazaar": {"data", "model"},
    "training": {"data", "model"},
    "evaluation": {"data", "model", "bazaar", "training"},
    "analysis": {"data", "model", "bazaar", "training", "evaluation"},
    "serving": {"data", "model", "training", "evaluation", "analysis"},
    "plots": {"evaluation"},
    "workflow": {"data", "evaluation", "plots", "serving"},
}
"""`plots` takes names from `evaluation.wording`; `workflow` reads and writes files, and shows tables in the report.
Its command line hands over to `serving` where a trained model is asked: two commands that no notebook or run needs, so
that it is imported for them alone, and `r2ec run` stays free of the science."""


def imports() -> dict[str, set[str]]:
    """What each module of the library imports from the library, as dotted names below it."""
    modules = {".".join(path.relative_to(LIBRARY).with_suffix("").parts): path for path in LIBRARY.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    found = {}
    for module, path in modules.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        bases = [
            node.module.removeprefix("r2ec_lib").strip(".") for node in nodes if "r2ec_lib" in (node.module or "")
        ]
        nodes = [node for node in nodes if "r2ec_lib" in (node.module or "")]
        pairs = [(base, name.name) for base, node in zip(bases, nodes, strict=True) for name in node.names]
        names = {f"{base}.{name}".strip(".") for base, name in pairs} | {base for base, _ in pairs}
        found[module] = (names & set(modules)) - {module}
    return found


def test_every_room_is_on_the_plan():
    assert {path.parent.name for path in LIBRARY.glob("*/__init__.py")} == set(MAY_IMPORT)


def test_imports_between_rooms_run_one_way():
    pairs = [(module, name) for module, names in imports().items() for name in names]
    rooms = [(module, name, module.split(".")[0], name.split(".")[0]) for module, name in pairs]
    assert len(pairs) > 50
    assert not [f"{module} imports {name}" for module, name, a, b in rooms if a != b and b not in MAY_IMPORT[a]]


def test_only_the_command_line_opens_the_room_of_serving_and_only_when_asked_to():
    doors = {module for module, names in imports().items() if any(name.startswith("serving") for name in names)}
    assert {module for module in doors if not module.startswith("serving")} == {"workflow.cli"}
    tops = ast.parse((LIBRARY / "workflow" / "cli.py").read_text()).body
    assert not [node for node in tops if isinstance(node, ast.ImportFrom) and "serving" in (node.module or "")]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("workflow.cli", {"torch", "nbformat", "papermill"}),
        ("workflow.study", {"torch"}),
        ("evaluation.baselines.fitting", {"transformers"}),
    ],
)
def test_what_a_process_does_not_need_is_not_loaded(module, heavy):
    """It would take longer than all the rest, each time that a command is typed, a run of a study begins, or baselines
    are trained in processes of their own."""
    script = f"import sys, r2ec_lib.{module}; sys.exit(bool({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], cwd=LIBRARY.parent).returncode == 0


def test_no_two_modules_import_each_other():
    order = {module: names for module, names in imports().items() if module.count(".")}
    TopologicalSorter(order).prepare()  # raises CycleError
