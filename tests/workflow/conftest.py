import pytest
from workflow.toy import FIRST, FOLDERS, READS, SECOND, notebook

from r2ec_lib.workflow import folder, runner, stages


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A project of two notebooks and a library of two modules; the second stage multiplies what the first wrote."""
    library = tmp_path / "toylib"
    library.mkdir()
    (library / "__init__.py").write_text("")
    (library / "first.py").write_text("VALUE = 1\n")
    (library / "second.py").write_text("from .first import VALUE\n")
    write = "from pathlib import Path\nout = Path(run_dir) / {!r}\nout.mkdir(parents=True, exist_ok=True)"
    notebook(
        tmp_path / "notebooks" / "01_first.ipynb",
        FIRST,
        "# import toylib.first",
        write.format("data"),
        '(out / "rows").write_text(str(rows))\nprint("wrote", rows)',
    )
    notebook(
        tmp_path / "notebooks" / "02_second.ipynb",
        SECOND,
        write.format("model"),
        "## Multiplying\nA text.\n$x$",
        'rows = int((out.parent / "data" / "rows").read_text())',
        'seen = (out / "checkpoint").exists()\n(out / "checkpoint").write_text("half")',
        'if fail:\n    raise RuntimeError("broken on purpose")',
        '(out / "result").write_text(f"{rows * factor} {seen}")',
    )
    for module in (folder, runner):
        monkeypatch.setattr(module, "NOTEBOOKS", tmp_path / "notebooks")
    for module in (runner, stages):
        monkeypatch.setattr(module, "STAGES", FOLDERS)
    monkeypatch.setattr(stages, "READS", READS)
    monkeypatch.setattr(stages, "LIBRARY", library)
    for module in (folder, stages):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "RUNS", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path
