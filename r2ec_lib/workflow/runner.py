"""Runs the notebooks of a recipe in order, each in a kernel of its own, and has their report rendered.

Papermill executes; `recipes` says what may be chosen, `stages` what has to run again, `report` how it is shown. What
is left to this module: one run at a time in a folder, one clear message where something fails, and a record of what
ran where. None of the science is imported here; it lives in the notebooks.
"""

import fcntl
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
import psutil
import yaml
from ipykernel.kernelspec import write_kernel_spec
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from r2ec_lib.data.storage import write_json, write_text
from r2ec_lib.workflow import provenance, recipes, report, stages
from r2ec_lib.workflow.folder import LIBRARY, NOTEBOOKS, RUNS, is_run, shown
from r2ec_lib.workflow.recipes import Recipe

QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
QUIET |= {"KINETO_LOG_LEVEL": "99"}  # PyTorch's profiler, which measures memory in 03, tells of its start and stop


class RunError(RuntimeError):
    """A run that cannot go on; the message says where it stopped, why, and what to do."""


def execute(
    recipe: Recipe,
    fresh: bool = False,
    notebooks: Path = NOTEBOOKS,
    runs: Path = RUNS,
    folders: Mapping[str, Sequence[str]] = stages.STAGES,
    library: Path = LIBRARY,
) -> Path:
    """Runs the stages of `recipe` that are not up to date in `runs/<name>`, renders the report, returns its index.

    folders: what each stage owns in a run; its order is the usual order of the stages.
    Raises RunError where a notebook fails, or where another process works in the same folder.
    """
    run = runs / recipe.name
    with _lock(runs, recipe.name):
        if run.exists() and any(run.iterdir()) and not is_run(run):
            raise RunError(
                f"{shown(run)} is no run (it holds neither recipe.yaml nor .stages). Choose another --name."
            )
        if fresh and run.exists():
            shutil.rmtree(run)
        declared = recipes.declared_in(notebooks)
        order = _order(recipe, declared, folders)
        write_text(_as_yaml(recipe, declared, order), run / "recipe.yaml")
        facts, previous = provenance.record(recipe, run), ""
        for number, stage in enumerate(order):
            values = _values(recipe, declared[stage], run, notebooks)
            parts = stages.ingredients(notebooks / f"{stage}.ipynb", values, previous, library)
            if stages.is_done(run, stage, stages.key(parts)):
                print(f"{stage}: up to date", flush=True)
                previous = stages.key(parts)
                continue
            later = [other for other in list(folders)[list(folders).index(stage) + 1 :] if other not in order[:number]]
            continues = stages.begin(run, stage, later, parts, folders)
            print(f"{stage}: {'goes on where it was interrupted' if continues else 'starts'}", flush=True)
            given = {key: values[key] for key in declared[stage] if key in recipe.values or key == "run_dir"}
            cost = run_notebook(notebooks / f"{stage}.ipynb", stages.executed(run, stage), given)
            previous = stages.finish(run, stage, parts, values, folders, cost)
            print(f"{stage}: done in {cost['seconds']:.0f} s", flush=True)
            facts["stages"][stage] = {**cost, "finished": provenance.now()}
            write_json(facts, run / "provenance.json")
        return report.render(run)


def check(recipe: Recipe, notebooks: Path = NOTEBOOKS, runs: Path = RUNS, library: Path = LIBRARY) -> None:
    """Prints which stages of `recipe` would run, and why; changes nothing."""
    run, declared, previous = runs / recipe.name, recipes.declared_in(notebooks), ""
    print(f"The recipe is right. Run folder: {shown(run)}")
    for stage in _order(recipe, declared, stages.STAGES):
        values = _values(recipe, declared[stage], run, notebooks)
        parts = stages.ingredients(notebooks / f"{stage}.ipynb", values, previous, library)
        previous, known = stages.key(parts), stages.state(run, stage)
        if stages.is_done(run, stage, previous):
            print(f"{stage}: up to date")
        elif known is None:
            print(f"{stage}: would run")
        elif known["key"] != previous:
            print(f"{stage}: would run ({stages.difference(known['ingredients'], parts)})")
        else:
            print(f"{stage}: would {'run (its outputs are gone)' if known['finished'] else 'go on'}")


def run_notebook(source: Path, target: Path, values: Mapping[str, Any], output: TextIO | None = None) -> dict:
    """Executes `source` with `values` by Papermill into `target`; returns {"seconds", "peak_memory_gb"}.

    The kernel is this very Python, its folder the notebook's. What the notebook prints goes on to `output` (standard
    output where None), indented; progress bars do not. Raises RunError with the failing cell and its error.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    begin, echo = time.monotonic(), _Indented(output or sys.stdout)
    try:
        with _own_kernel(), _PeakMemory() as peak:
            papermill.execute_notebook(
                source,
                target,
                dict(values),
                kernel_name="python3",
                language="python",
                progress_bar=False,
                stdout_file=echo,
                cwd=source.parent,
            )
    except PapermillExecutionError as error:
        raise RunError(_explained(error, source, target)) from None
    except DeadKernelError:
        raise RunError(
            f"{source.name}: its process died, most often because memory ran out. "
            "Take a smaller model, batch or catalogue; the same command then goes on."
        ) from None
    finally:
        echo.end()
    return {"seconds": round(time.monotonic() - begin, 1), "peak_memory_gb": round(peak.bytes / 2**30, 2)}


def _order(recipe: Recipe, declared: Mapping, folders: Mapping) -> list[str]:
    """The stages of `recipe` in their usual order."""
    usual = [stage for stage in folders if stage not in stages.ON_REQUEST]
    order = [stage for stage in folders if stage in (recipe.stages or usual)]
    if missing := [stage for stage in (*order, *(recipe.stages or ())) if stage not in declared or stage not in order]:
        raise RunError(
            f"{missing[0]}: no such stage. There are: {', '.join(name for name in folders if name in declared)}."
        )
    return order


def _values(recipe: Recipe, keys: Mapping[str, recipes.Parameter], run: Path, notebooks: Path) -> dict[str, Any]:
    """All parameters of one notebook: its defaults, then the recipe's values, then the run's folder."""
    defaults = {key: recipes.absolute(key, parameter.default, notebooks) for key, parameter in keys.items()}
    chosen = {key: value for key, value in recipe.values.items() if key in keys}
    return {**defaults, **chosen, **({"run_dir": str(run.resolve())} if "run_dir" in keys else {})}


def _as_yaml(recipe: Recipe, declared: Mapping[str, Mapping[str, recipes.Parameter]], order: Sequence[str]) -> str:
    """The resolved recipe, grouped by the notebook that declares a key first; without paths left at their defaults."""
    lines, shown = [yaml.safe_dump({"name": recipe.name, "stages": list(order)}, sort_keys=False).strip()], {"run_dir"}
    for stage in order:
        lines.append(f"\n# {stage}")
        for key, parameter in declared[stage].items():
            if key not in shown and (key in recipe.values or not recipes.is_path(key)):
                value = recipe.values.get(key, parameter.default)
                lines.append(yaml.safe_dump({key: value}, allow_unicode=True, width=1000).strip())
                shown.add(key)
    return "\n".join(lines) + "\n"


def run_folder(name: str) -> Path:
    for folder in (Path(name), RUNS / name):
        if is_run(folder):
            return folder
    known = sorted(path.name for path in RUNS.glob("*") if is_run(path))
    raise RunError(f"{name}: no such run. There are: {', '.join(known) or 'none yet'}.")


@contextmanager
def _lock(runs: Path, name: str) -> Iterator[None]:
    """One process a run: the lock is the operating system's, so it ends with its process, however that ends."""
    path = runs / ".locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunError(
                f'The run "{name}" is being worked on by process {file.read().strip()}. '
                "Wait until it is done, or choose another --name."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _own_kernel() -> Iterator[None]:
    """For the time of the context, "python3" is a kernel of this very Python, and progress bars keep quiet."""
    with tempfile.TemporaryDirectory() as folder:
        write_kernel_spec(Path(folder) / "kernels" / "python3", extra_arguments=["--log-level=50"])
        before = dict(os.environ)
        os.environ.update(QUIET, JUPYTER_PATH=os.pathsep.join(filter(None, [folder, before.get("JUPYTER_PATH")])))
        try:
            yield
        finally:
            for name in (*QUIET, "JUPYTER_PATH"):
                os.environ.pop(name)
            os.environ.update(before)


class _Indented:
    """A text file that hands lines on indented; an overwriting carriage return stays one."""

    def __init__(self, file: TextIO):
        self.file, self.fresh = file, True

    def write(self, text: str) -> None:
        for piece in re.findall(r"[^\r\n]+|[\r\n]", text):
            self.file.write(f"    {piece}" if self.fresh and piece not in "\r\n" else piece)
            self.fresh = piece in "\r\n"

    def flush(self) -> None:
        self.file.flush()

    def end(self) -> None:
        if not self.fresh:
            self.write("\n")


class _PeakMemory:
    """Largest resident memory of all child processes together, read ten times a second."""

    def __enter__(self) -> "_PeakMemory":
        self.bytes, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._over.wait(0.1):
            total = 0
            for child in this.children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it ended between the two lines
                    total += child.memory_info().rss
            self.bytes = max(self.bytes, total)


def _explained(error: PapermillExecutionError, source: Path, target: Path) -> str:
    """One message: which notebook, under which heading, what went wrong, where the whole of it can be read."""
    heading = ""
    for cell in nbformat.read(target, as_version=4).cells:
        if cell.cell_type == "code" and any(output.output_type == "error" for output in cell.outputs):
            break
        titles = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        heading = titles[-1] if titles else heading
    where = f'{source.name}, under "{heading}"' if heading else source.name
    told = f"{error.ename}: {error.evalue}"
    if error.ename in ("DataError", "ValueError"):
        told = error.evalue
    elif line := re.search(r"-+> \d+ (.*)", re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))):
        told = f"{told}\nat: {line[1].strip()}"
    return f"{where}: {told}\nThe whole error is in {shown(target)}. The same command goes on from this stage."
