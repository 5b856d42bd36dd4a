"""A toy project for the tests of the command line: two notebooks, a library, and what runs them."""

import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from r2ec_lib.workflow import recipes, runner

FIRST = """run_dir: str = "runs/toy"  # folder of the run
rows: int = 3  # rows to write
source_path: str = ""  # a local file
rate: float = 0.5  # learning rate
ks: list[int] = [5, 10]  # cut-offs
limit: float | None = None  # no limit where null
estimator: "Literal['grpo', 'rloo']" = "grpo"  # one of two"""
SECOND = """run_dir: str = "runs/toy"  # folder of the run
factor: float = 2.0  # factor
fail: bool = False  # whether to fail"""
FOLDERS = {"01_first": ("data",), "02_second": ("model",)}
READS = {"02_second": ("data",)}


def notebook(path: Path, parameters: str, *cells: str) -> None:
    """Writes a notebook: text cells start with "#", the rest is code; a first line "#: tag" tags a cell."""
    body = []
    for text in cells:
        tags, text = ([text.splitlines()[0][3:]], text.split("\n", 1)[1]) if text.startswith("#: ") else ([], text)
        new_cell = new_markdown_cell if text.startswith("#") else new_code_cell
        body.append(new_cell(text, metadata={"tags": tags}))
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A title"), tagged, *body], metadata=kernel), path)


def load(world: Path, text: str, *overrides: str, name: str | None = None) -> recipes.Recipe:
    (world / "toy.yaml").write_text(text)
    return recipes.load(Path("toy.yaml"), recipes.declared_in(world / "notebooks"), overrides, name)


def run(world: Path, text: str = "", *overrides: str, **more) -> Path:
    return runner.execute(load(world, text, *overrides), runs=world / "runs", **more)


def start(world: Path, *arguments: str, **options):
    """`r2ec` with these arguments in a process of its own, on the toy project, whose stages are `FOLDERS`."""
    script = (
        "import sys; from pathlib import Path; from r2ec_lib.workflow import cli, runner, stages\n"
        "cli.NOTEBOOKS = runner.NOTEBOOKS = Path('notebooks'); stages.LIBRARY = Path('toylib')\n"
        f"runner.STAGES = stages.STAGES = {FOLDERS!r}; stages.READS = {READS!r}\n"
        "runner.execute.__defaults__ = (False, Path('runs'))\n"
        "sys.exit(cli.main())"
    )
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": world, **options}
    return subprocess.Popen([sys.executable, "-c", script, *arguments], **options)
