"""One notebook in its kernel: what it is given, what is shown of it, and that nothing outlives it."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from papermill.exceptions import PapermillExecutionError
from workflow.toy import FIRST, notebook

from r2ec_lib.workflow import kernels


def marked(word: str) -> list[psutil.Process]:
    """Processes with `word` in their command line."""
    return [process for process in psutil.process_iter(["cmdline"]) if word in (process.info["cmdline"] or [])]


def test_printed_lines_are_indented_and_carriage_returns_kept():
    out = io.StringIO()
    echo = kernels._Indented(out)
    for text in ("one\ntw", "o\n\rstep 1", "\rstep 2"):
        echo.write(text)
    echo.end()
    assert out.getvalue() == "    one\n    two\n\r    step 1\r    step 2\n"


def test_a_closed_output_stops_the_notebook():
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(kernels.Stopped) as caught:
        kernels._Indented(os.fdopen(write, "w")).write("a line\n")
    assert caught.value.number == signal.SIGPIPE


TINY = {"backbone": "tiny", "hidden_size": 96, "threads": 0}


@pytest.mark.parametrize(
    ("parameters", "user", "threads"),
    [
        (TINY, {}, 2),
        (TINY | {"hidden_size": 512}, {}, 8),
        (TINY | {"backbone": "some/model"}, {}, 8),
        (TINY | {"threads": 5}, {}, 5),
        (TINY, {"OMP_NUM_THREADS": "3"}, 3),
        (TINY, {"OMP_NUM_THREADS": "3,1"}, 3),  # inner loops have one
        (TINY, {"OMP_NUM_THREADS": ""}, 2),
        (TINY | {"threads": 5}, {"OMP_NUM_THREADS": "3"}, 5),
    ],
)
def test_threads_fit_the_model_unless_someone_has_chosen(monkeypatch, parameters, user, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(kernels, "cores", lambda: 8)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    assert kernels.environment(parameters).items() >= {"OMP_NUM_THREADS": str(threads), **kernels.QUIET}.items()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bind no process to cores")
def test_cores_are_those_that_the_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert kernels.cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_one_core_has_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(kernels, "cores", lambda: 1)
    assert kernels.environment(TINY)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_threads_wait_briefly_unless_the_user_says_how(monkeypatch, name):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert kernels.environment(TINY)["GOMP_SPINCOUNT"] == str(kernels.SPINS)
    monkeypatch.setenv(name, "5")
    assert "GOMP_SPINCOUNT" not in kernels.environment(TINY)


def test_a_kernel_has_its_values_and_its_folder_and_its_children_the_environment_from_their_start(tmp_path):
    """torch reads it when it is loaded, in the kernel and in whatever the kernel starts."""
    folder = tmp_path / "{a} {}"
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['GOMP_SPINCOUNT'])"
    child = "import subprocess, sys\nprint(subprocess.check_output([sys.executable, '-c', code], text=True))"
    last = "import pathlib\nprint(rows, pathlib.Path.cwd().name, end='')"
    notebook(folder / "a.ipynb", FIRST, f"code = {code!r}\nexec(code)", child, last)
    out = io.StringIO()
    variables = {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "7"}
    cost = kernels.run_notebook(folder / "a.ipynb", folder / "deep" / "out.ipynb", {"rows": 8}, out, variables)
    assert out.getvalue().split() == ["3", "7", "3", "7", "8", "{a}", "{}"] and out.getvalue().endswith("\n")
    assert 0.02 < cost["peak_memory_gb"] < 4 and 0 < cost["seconds"] < 600


def test_a_check_runs_the_tagged_cells_alone_with_the_values_where_the_notebook_is(tmp_path):
    tagged = "#: check\nimport pathlib\nassert pathlib.Path('log.csv').exists() and rate == 0.5\n"
    tagged += "assert rows > 5, f'{rows} rows'\nprint('2 rows dropped')"
    notebook(tmp_path / "a.ipynb", FIRST, "raise RuntimeError('not tagged')", "#: check\n# A text", tagged)
    (tmp_path / "log.csv").write_text("")
    assert kernels.check_settings(tmp_path / "a.ipynb", {"rows": 6}) == "    2 rows dropped\n"
    with pytest.raises(kernels.RunError, match=r"^a\.ipynb: AssertionError: 5 rows"):
        kernels.check_settings(tmp_path / "a.ipynb", {"rows": 5})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ipynb", "log.csv"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("DataError", "too few"),
        ("GuardrailError", "too few"),
        ("ValueError", "too few"),
        ("OSError", "OSError: too few\nat: go(x)"),
    ],
)
def test_a_failed_cell_is_named_by_the_last_heading_above_it(tmp_path, name, told):
    """What a person can mend is told without the line of code."""
    trace = ["\x1b[0;32m----> 3\x1b[0m go(x)", f"{name}: too few"]
    cells = ["# First\n## Second", "#: x\ngo(x)", "# Third"]
    notebook(tmp_path / "a.ipynb", FIRST, *cells)
    document = nbformat.read(tmp_path / "a.ipynb", as_version=4)
    document.cells[3].outputs = [nbformat.v4.new_output("error", ename=name, evalue="too few", traceback=trace)]
    nbformat.write(document, tmp_path / "a.ipynb")
    error = PapermillExecutionError(3, 1, "go(x)", name, "too few", trace)
    explained = kernels._explained(error, tmp_path / "a.ipynb", tmp_path / "a.ipynb")
    assert explained == f'a.ipynb, under "Second": {told}'


def test_the_peak_is_the_largest_sum_over_all_children(monkeypatch):
    sizes, seen = iter([[3, 4], [5], [1, 1]]), threading.Event()

    def children(recursive):
        now = next(sizes, None) if recursive else []
        if now is None:
            seen.set()
        return [SimpleNamespace(memory_info=lambda rss=rss: SimpleNamespace(rss=rss)) for rss in now or ()]

    monkeypatch.setattr(kernels.psutil, "Process", lambda: SimpleNamespace(children=children))
    with kernels._PeakMemory() as peak:
        assert seen.wait(60)
    assert peak.bytes == 7


def test_the_kernel_is_this_python_whatever_kernels_the_user_has_and_only_for_the_time_of_it(tmp_path, monkeypatch):
    for before in (None, str(tmp_path)):
        monkeypatch.setenv("JUPYTER_PATH", before) if before else monkeypatch.delenv("JUPYTER_PATH", raising=False)
        with kernels._kernel_spec({"A": "1"}):
            first, *others = os.environ["JUPYTER_PATH"].split(os.pathsep)
            spec = json.loads((Path(first) / "kernels" / "python3" / "kernel.json").read_text())
        assert spec["argv"][0] == sys.executable and spec["env"] == {"A": "1"} and others == [before] * bool(before)
        assert os.environ.get("JUPYTER_PATH") == before


@pytest.mark.parametrize("ending", ["returns", "raise RuntimeError('broken')", "os.kill(os.getpid(), 9)"])
def test_no_process_outlives_its_notebook(tmp_path, ending):
    """A child of the notebook leaves its session and its parent, as elastic workers and orphans do."""
    word = f"sleeper-{tmp_path}"
    sleeper = f"[sys.executable, '-c', 'import time; time.sleep(120)', '{word}']"
    start = f"import os, subprocess, sys\nsubprocess.Popen({sleeper}, start_new_session=True)"
    notebook(tmp_path / "a.ipynb", FIRST, start, "print('started')" if ending == "returns" else ending)
    out = io.StringIO()
    try:
        kernels.run_notebook(tmp_path / "a.ipynb", tmp_path / "out.ipynb", {}, out)
        assert ending == "returns" and out.getvalue() == "    started\n"
    except kernels.RunError as error:
        assert ("broken" in str(error)) or ("its process died" in str(error) and "kill" in ending)
    assert not marked(word)


def test_a_kernel_does_what_waits_for_its_end_and_does_not_take_its_libraries_down(tmp_path):
    waits = f"import tempfile\nfolder = tempfile.TemporaryDirectory(dir={str(tmp_path)!r}, prefix='waits-')"
    library = f"def noted(_, path={str(tmp_path / 'taken down')!r}, open=open):\n    open(path, 'w').close()"
    notebook(
        tmp_path / "a.ipynb", FIRST, waits, library, "import json\njson.held = type('Held', (), {'__del__': noted})()"
    )
    kernels.run_notebook(tmp_path / "a.ipynb", tmp_path / "out.ipynb", {}, io.StringIO())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ipynb", "out.ipynb"]


def test_ending_asks_first_and_then_kills(tmp_path):
    """Of three processes one ends when asked, one does not listen, and one is somebody else's."""
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, {}); print(1, flush=True); time.sleep(120)"
    polite = code.format(f"lambda *_: (open({str(tmp_path / 'asked')!r}, 'w'), sys.exit())")
    this, another = str(tmp_path), "another"
    texts = [(polite, this), (code.format("signal.SIG_IGN"), this), (code.format("signal.SIG_DFL"), another)]
    processes = [
        subprocess.Popen([sys.executable, "-c", text], env={**os.environ, kernels.MARK: mark}, stdout=subprocess.PIPE)
        for text, mark in texts
    ]
    try:
        for process in processes:
            process.stdout.readline()
        kernels.end_all(this, patience=1)
        assert (tmp_path / "asked").exists()
        assert [psutil.pid_exists(process.pid) for process in processes] == [False, False, True]
    finally:
        for process in processes:
            process.kill()
