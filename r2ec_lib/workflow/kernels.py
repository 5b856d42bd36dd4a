"""Executes one notebook in a kernel of this very Python: its threads, its messages, its memory, and its end.

Papermill executes; what is left to this module is what a kernel is given (environment), what of it is shown, and that
nothing it started outlives it. It knows neither recipes nor stages.
"""

import io
import os
import re
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import joblib
import nbformat
import papermill
import psutil
from ipykernel.kernelspec import write_kernel_spec
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from r2ec_lib.workflow.folder import RunError, Stopped

QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "KINETO_LOG_LEVEL": "99",  # PyTorch's profiler, which measures memory in 03, tells of its start and stop
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL would tell its makers of each trainer
}
SPINS = 1000
"""Turns of a loop for which a thread of libgomp waits at a barrier before it sleeps; libgomp's default is 300,000.
Where another process holds a core, a thread on the next core spins for milliseconds at each of a step's thousand
barriers. A thousand turns suffice for the waits of an idle machine and are short beside those of the scheduler."""
SMALL, SMALL_THREADS = 128, 2
"""Up to this width, a step of the tiny backbone does not gain from more threads than these."""
LAUNCH = """import atexit, os, runpy
atexit.register(os._exit, 0)
runpy.run_module("ipykernel_launcher", run_name="__main__")"""
"""What a kernel's Python executes. The function registered first is called last: once everything else that waits for
the end is done, the process is over. Taking down torch and all that it has loaded would add seconds to each stage."""
CHECK = "check"
"""Tag of the cells that look at a notebook's settings alone."""
TOLD = ("DataError", "GuardrailError", "SegmentError", "RecipeError", "ValueError")
"""Errors whose messages say what to do, so that the line of code adds nothing."""
MARK = "R2EC_NOTEBOOK"
"""Environment variable by which the processes of one notebook are found, whatever session or parent they have."""


def environment(parameters: Mapping[str, Any]) -> dict[str, str]:
    """What a kernel and all its children find in their environment, before they load torch.

    parameters: of the recipe, defaults included. Its `threads` are taken where they are not 0; otherwise the number
    fits the model: two for a tiny backbone, whose results then do not depend on how many cores a machine has, all
    cores for others. What the user has set stays.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a number per level of nesting; the outermost
    threads = parameters.get("threads") or (int(first) if first.isdecimal() else 0)
    if not threads:
        small = parameters.get("backbone") == "tiny" and parameters.get("hidden_size", 0) <= SMALL
        threads = min(cores(), SMALL_THREADS) if small else cores()
    waits = "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    return {**QUIET, "OMP_NUM_THREADS": str(threads), **({} if waits else {"GOMP_SPINCOUNT": str(SPINS)})}


def cores() -> int:
    """Cores that this process may use: those of the machine, or as many as its container or batch job has."""
    return min(joblib.cpu_count(), psutil.cpu_count(logical=False) or joblib.cpu_count())


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Resident memory of the processes together; none of one that has ended."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def run_notebook(
    source: Path,
    target: Path,
    values: Mapping[str, Any],
    output: TextIO,
    variables: Mapping[str, str] = QUIET,
    folder: Path | None = None,
) -> dict[str, float]:
    """Executes `source` with `values` by Papermill into `target`; returns {"seconds", "peak_memory_gb"}.

    The kernel works in `folder` (the notebook's where it is None), its environment has the `variables`. What the
    notebook prints goes on to `output`, indented; progress bars do not. However this ends, all processes that the
    notebook started end with it.

    Raises:
        RunError: with the failing cell and its error.
        Stopped: `output` was closed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    begin, echo, mark = time.monotonic(), _Indented(output), uuid.uuid4().hex
    try:
        with _kernel_spec({**variables, MARK: mark}), _PeakMemory() as peak:
            papermill.execute_notebook(
                _escaped(source),
                _escaped(target),
                dict(values),
                kernel_name="python3",
                language="python",
                progress_bar=False,
                stdout_file=echo,
                cwd=folder or source.parent,
            )
        echo.end()
    except PapermillExecutionError as error:
        echo.end()
        raise RunError(_explained(error, source, target)) from None
    except DeadKernelError:
        raise RunError(
            f"{source.name}: its process died, most often because memory ran out. "
            "Take a smaller model, batch or catalogue."
        ) from None
    finally:
        end_all(mark)
    return {"seconds": round(time.monotonic() - begin, 1), "peak_memory_gb": round(peak.bytes / 2**30, 2)}


def check_settings(source: Path, values: Mapping[str, Any], variables: Mapping[str, str] = QUIET) -> str:
    """Executes only those cells of `source` that have the tag "check": they refuse settings before any long work.

    Returns what they print, indented; nothing where no cell has the tag. Raises RunError with the reason.
    """
    notebook = nbformat.read(source, as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    if not any(CHECK in one for one in tags):
        return ""
    pairs = zip(notebook.cells, tags, strict=True)
    notebook.cells = [cell for cell, one in pairs if cell.cell_type == "code" and {"parameters", CHECK} & set(one)]
    with tempfile.TemporaryDirectory() as place:
        nbformat.write(notebook, Path(place) / source.name)
        target = Path(place) / "executed.ipynb"
        told = io.StringIO()
        run_notebook(Path(place) / source.name, target, values, told, variables, source.parent)
    return told.getvalue()


def end_all(mark: str, patience: float = 3.0) -> None:
    """Ends every process that has `mark` in its environment: asked first, killed after `patience` seconds."""
    for end in (psutil.Process.terminate, psutil.Process.kill):
        marked = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # another user's, or over by now
                if process.environ().get(MARK) == mark:
                    end(process)
                    marked.append(process)
        psutil.wait_procs(marked, timeout=patience)


def _escaped(path: Path) -> str:
    """`path` for Papermill, which takes braces in it for names of parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextmanager
def _kernel_spec(variables: Mapping[str, str]) -> Iterator[None]:
    """For the time of the context, "python3" is a kernel of this very Python with `variables` in its environment."""
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "kernels" / "python3"
        command = [sys.executable, "-c", LAUNCH, "-f", "{connection_file}", "--log-level=50"]
        write_kernel_spec(spec, overrides={"argv": command, "env": dict(variables)})
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, before]))
        try:
            yield
        finally:
            os.environ.pop("JUPYTER_PATH")
            os.environ.update({} if before is None else {"JUPYTER_PATH": before})


class _Indented:
    """A text file that hands lines on indented; an overwriting carriage return stays one."""

    def __init__(self, file: TextIO):
        self.file, self.fresh = file, True

    def write(self, text: str) -> None:
        try:
            for piece in re.findall(r"[^\r\n]+|[\r\n]", text):
                self.file.write(f"    {piece}" if self.fresh and piece not in "\r\n" else piece)
                self.fresh = piece in "\r\n"
            self.file.flush()
        except BrokenPipeError:  # nbclient would keep it to itself until the cell is over
            raise Stopped(signal.SIGPIPE) from None

    def flush(self) -> None:
        """Every `write` has done that."""

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
            self.bytes = max(self.bytes, memory_bytes(this.children(recursive=True)))


def _explained(error: PapermillExecutionError, source: Path, target: Path) -> str:
    """One message: which notebook, under which heading, what went wrong, where the whole of it can be read."""
    heading = ""
    for cell in nbformat.read(target, as_version=4).cells:
        if cell.cell_type == "code" and any(output.output_type == "error" for output in cell.outputs):
            break
        titles = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        heading = titles[-1] if titles else heading
    where = f'{source.name}, under "{heading}"' if heading else source.name
    text = f"{error.ename}: {error.evalue}"
    if error.ename in TOLD:
        text = error.evalue
    elif line := re.search(r"-+> \d+ (.*)", re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))):
        text = f"{text}\nat: {line[1].strip()}"
    return f"{where}: {text}"
